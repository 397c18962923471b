"""Episodes are judged by the current state of their open executions, read from StackStorm."""

from __future__ import annotations

import pytest

from poundcake.execution_status import TERMINAL
from poundcake.stackstorm import StackStormError
from poundcake.trail import claims, database, queries, refresh, text
from poundcake.trail.outbox import ApprovalRequest, add_approval_request
from poundcake.trail.schema import executions
from poundcake.trail.search import Filters
from tests.lib.samples import alert
from tests.lib.trail.test_refresh import DONE, StubStackStorm
from tests.lib.trails import (
    STATUSES,
    WORKFLOW,
    episode,
    on_sqlite,
    record,
    record_execution,
    view,
)

pytestmark = on_sqlite
INQUIRY = {
    "id": "i1",
    "status": "pending",
    "start_timestamp": "2026-01-14T12:00:00Z",
    "context": {"orquesta": {"task_name": "approve"}, "parent": {"execution_id": "e1"}},
    "result": {"route": "poundcake.approval", "users": ["anna", "ben", "stanley"]},
}
BEGIN = {
    "id": "b",
    "action": {"ref": "poundcake.begin"},
    "result": {"result": {"change": "ipmi.power_cycle on web-1", "evidence": ["it fires"]}},
}
WAITING = {
    "st2_inquiry_id": "i1",
    "st2_execution_id": "e1",
    "approvers": ["anna", "ben"],
    "until": "2026-01-14T12:30:00Z",
    "change": "ipmi.power_cycle on web-1",
    "evidence": ["it fires"],
}
MESSAGE = (
    "waits for the approval of anna, ben until 2026-01-14T12:30:00Z: st2 inquiry respond i1; "
    "seen: it fires"
)


class UnavailableStackStorm(StubStackStorm):
    """A StackStorm API that answers nothing."""

    def get_children(self, execution_id):
        raise StackStormError("no route")


@pytest.fixture
def open_request(engine):
    """Return the id of a request whose workflow is running."""
    request_id = record(engine, alert(fingerprint="f"))
    claims.link(engine, request_id, episode("f"), WORKFLOW, "e1")
    return request_id


def read_episodes(engine, api, count=1):
    """Return the refreshed view, and its episodes."""
    with database.reading(engine) as connection:
        view = queries.read_episodes(connection, Filters(alert_name="HostDown"))
    document = refresh.refresh_open_executions(api, view, 30)
    assert len(document["episodes"]) == count
    return document, document["episodes"]


def test_an_open_execution_is_updated(engine, open_request):
    _, (entry,) = read_episodes(engine, StubStackStorm({"e1": DONE}))
    (execution,) = entry["stackstorm_executions"]
    assert (execution["status"], execution["duration_seconds"]) == ("succeeded", 1.235)
    assert (execution["st2_rule"], execution["url"]) == ("pack.rule", "https://st2/e1")
    assert (execution["stage"], execution["mutated"]) == ("done", True)
    assert (execution["message"], execution["ended_at"]) == ("up", "2026-01-14T12:00:12Z")


@pytest.mark.parametrize("is_synced", [False, True], ids=["live", "synced"])
@pytest.mark.parametrize("stage", ["dry_run", "evidence", "done"])
def test_what_a_remediation_without_a_change_saw_is_shown(engine, open_request, stage, is_synced):
    evidence = {
        "before": {"detail": "web-1 answers"},
        "disk": "97% full",
        "a": "b",
        "c": "left out",
    }
    output = {
        "dry_run": stage == "dry_run",
        "mutated": stage == "done",
        "verified": False,
        "stage": stage,
        "message": "97% full, so it would run",
        "evidence": evidence,
    }
    done = {"status": "succeeded", "result": {"output": output}}
    if is_synced:
        record_execution(engine, open_request, episode("f"), "e1", result=done["result"])
    api = StubStackStorm({"e1": done})
    status_view = refresh.refresh_open_executions(api, view(engine, queries.status, open_request))
    document, (entry,) = read_episodes(engine, api)
    expected = [] if stage == "done" else ["web-1 answers", "97% full", "b"]
    for shown in (entry, status_view):
        assert shown["stackstorm_executions"][0].get("evidence", []) == expected
    for output_text in (text.why(document), text.status(status_view)):
        seen = [line.strip() for line in output_text.split("\n") if "seen: " in line]
        # The message already says that the disk is full.
        assert seen == [f"seen: {line}" for line in expected if line != "97% full"]


@pytest.mark.parametrize("status", STATUSES)
def test_each_status_is_shown(engine, open_request, status):
    document = {"status": status, "elapsed_seconds": 7, "result": {"stderr": "x\nno such host"}}
    _, (entry,) = read_episodes(engine, StubStackStorm({"e1": document}))
    (execution,) = entry["stackstorm_executions"]
    has_ended = status in TERMINAL
    assert (execution["status"], execution["duration_seconds"]) == (
        status,
        7 if has_ended else None,
    )
    has_failed = has_ended and status != "succeeded"
    assert execution["message"] == ("no such host" if has_failed else "")


@pytest.mark.parametrize("status", STATUSES)
def test_only_open_executions_are_requested(engine, open_request, status):
    record_execution(engine, open_request, episode("f"), "e1", status=status)
    api = StubStackStorm({})
    read_episodes(engine, api)
    assert api.requested == ([] if status in TERMINAL else [["e1"]])


def test_an_unavailable_stackstorm_is_noted(engine, open_request):
    document, (entry,) = read_episodes(engine, StubStackStorm())
    assert document["stackstorm"] == "open executions are shown as of the last sync: no route"
    assert entry["stackstorm_executions"][0]["status"] == "running"
    record_execution(engine, open_request, episode("f"), "e1")
    assert "stackstorm" not in read_episodes(engine, StubStackStorm())[0]


def test_a_request_for_approval_is_read_from_stackstorm(engine, open_request):
    api = StubStackStorm({"e1": {"status": "paused"}}, [BEGIN, INQUIRY])
    _, (entry,) = read_episodes(engine, api)
    assert entry["approvals"] == [WAITING]
    assert entry["stackstorm_executions"][0]["message"] == MESSAGE


def report_approval(engine, request_id):
    """Add the event that sync adds for the request for approval of e1."""
    reported = ApprovalRequest(
        "i1",
        request_id,
        episode("f"),
        "e1",
        "nginx",
        WAITING["change"],
        WAITING["approvers"],
        WAITING["until"],
        WAITING["evidence"],
    )
    with database.transaction(engine) as connection:
        add_approval_request(connection, reported)
        connection.execute(executions.update().values(status="paused"))


def test_a_reported_request_for_approval_is_shown_without_stackstorm(engine, open_request):
    report_approval(engine, open_request)
    document, (entry,) = read_episodes(engine, UnavailableStackStorm())
    assert entry["approvals"] == [WAITING]
    assert entry["stackstorm_executions"][0]["message"] == MESSAGE
    assert document["stackstorm"]


@pytest.mark.parametrize("status", ["running", "succeeded", "paused"])
def test_an_answered_request_for_approval_is_not_shown(engine, open_request, status):
    report_approval(engine, open_request)
    api = StubStackStorm({"e1": {"status": status}}, [BEGIN, {**INQUIRY, "status": "succeeded"}])
    assert "approvals" not in read_episodes(engine, api)[1][0]
