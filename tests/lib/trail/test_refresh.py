"""A view shows the current state of its open executions, read from StackStorm."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from poundcake.execution_status import TERMINAL
from poundcake.stackstorm import Execution, StackStormError
from poundcake.trail import claims, database, queries, refresh
from poundcake.trail.outbox import Ending, EndResult
from tests.lib.samples import alert
from tests.lib.trails import STATUSES, WORKFLOW, episode, record, record_execution, view

DRY_RUN = "dry run: nothing was changed"
DONE = {
    "status": "succeeded",
    "elapsed_seconds": 1.23456,
    "end_timestamp": "2026-01-14T12:00:12Z",
    "web_url": "https://st2/e1",
    "rule": {"ref": "pack.rule"},
    "result": {"output": {"stage": "done", "mutated": True, "message": "up", "other": "x"}},
}


class StubStackStorm:
    """A StackStorm API with some executions. It is unavailable if `documents` is None."""

    def __init__(self, documents=None, children=()):
        self.documents, self.children = documents, children
        self.requested = []

    def get_children(self, execution_id):
        return [Execution.parse(child) for child in self.children]

    def get_executions(self, ids):
        self.requested.append(list(ids))
        if self.documents is None:
            raise StackStormError("no route")
        return {
            execution_id: Execution.parse({"id": execution_id, **self.documents[execution_id]})
            for execution_id in ids
            if self.documents.get(execution_id)
        }


@pytest.fixture(scope="module")
def template_path(tmp_path_factory):
    """Return the path of an empty tracking database that each test copies."""
    path = tmp_path_factory.mktemp("template") / "tracking.db"
    new_engine = database.open_engine(f"sqlite:///{path}")
    database.prepare(new_engine)
    new_engine.dispose()
    return path


@pytest.fixture
def engine(template_path, tmp_path):
    """Return an engine for SQLite. The calls to StackStorm do not depend on the database."""
    shutil.copy(template_path, tmp_path / "tracking.db")
    new_engine = database.open_engine(f"sqlite:///{tmp_path}/tracking.db")
    yield new_engine
    new_engine.dispose()


@pytest.fixture
def open_request(engine):
    """Return the id of a request whose workflow is running."""
    request_id = record(engine, alert(fingerprint="f"))
    claims.link(engine, request_id, episode("f"), WORKFLOW, "e1")
    return request_id


def iterate_views(engine, request_id):
    """Yield each view that shows the open execution, and the execution in it."""
    status = view(engine, queries.status, request_id)
    execution_list = view(engine, queries.st2_executions)
    yield status, status["stackstorm_executions"][0]
    yield execution_list, execution_list["st2_executions"][0]


def read_incidents(engine):
    with database.reading(engine) as connection:
        return queries.read_incidents(connection)


def test_open_executions_are_updated(engine, open_request):
    for answer, execution in iterate_views(engine, open_request):
        keys = list(execution)
        assert execution["result"] == "running"
        assert refresh.refresh_open_executions(StubStackStorm({"e1": DONE}), answer) is answer
        assert list(execution) == keys
        assert (execution["status"], execution["duration_seconds"]) == ("succeeded", 1.235)
        assert (execution["st2_rule"], execution["url"]) == ("pack.rule", "https://st2/e1")
        assert (execution["result"], execution["message"]) == ("changed", "up")
        if "stage" in keys:
            assert (execution["stage"], execution["mutated"]) == ("done", True)
            assert execution["ended_at"] == "2026-01-14T12:00:12Z"


def test_a_recorded_result_is_kept_while_stackstorm_ends_the_workflow(engine):
    request_id = record(engine, alert(fingerprint="f"))
    ending = Ending(EndResult.EVIDENCE, request_id, episode("f"), "e1", "r")
    report = claims.EndReport("evidence", "it answers", dry_run=False, verified=True)
    claims.link_ended(engine, WORKFLOW, ending, report)
    for status, expected in (("running", "evidence"), ("paused", "waiting"), ("failed", "failed")):
        document = {"status": status}
        for answer, execution in iterate_views(engine, request_id):
            refresh.refresh_open_executions(StubStackStorm({"e1": document}), answer)
            assert (execution["status"], execution["result"]) == (status, expected)


def test_the_remediation_of_an_incident_is_updated(engine, open_request):
    dry_run = dict(DONE, result={"output": {"dry_run": True, "mutated": False}})
    for document, status in ((DONE, "succeeded"), (dry_run, f"succeeded ({DRY_RUN})")):
        answer = refresh.refresh_open_executions(
            StubStackStorm({"e1": document}), read_incidents(engine)
        )
        (incident,) = answer["active_alerts"]
        assert incident["remediation_status"] == status
        assert incident["st2_execution_status"] == "succeeded"


@pytest.mark.parametrize("status", STATUSES)
def test_each_status_is_shown(engine, open_request, status):
    document = {"status": status, "elapsed_seconds": 7, "result": {"stderr": "x\nno such host"}}
    for answer, execution in iterate_views(engine, open_request):
        refresh.refresh_open_executions(StubStackStorm({"e1": document}), answer)
        has_ended = status in TERMINAL
        assert (execution["status"], execution["duration_seconds"]) == (
            status,
            7 if has_ended else None,
        )
        if "message" in execution:
            has_failed = has_ended and status != "succeeded"
            assert execution["message"] == ("no such host" if has_failed else "")
    answer = refresh.refresh_open_executions(
        StubStackStorm({"e1": document}), read_incidents(engine)
    )
    assert answer["active_alerts"][0]["remediation_status"] == status


@pytest.mark.parametrize("status", STATUSES)
def test_only_open_executions_are_requested(engine, open_request, status):
    record_execution(engine, open_request, episode("f"), "e1", status=status)
    view_answers = [answer for answer, _ in iterate_views(engine, open_request)]
    view_answers.append(read_incidents(engine))
    for answer in view_answers:
        stackstorm_api = StubStackStorm({})
        refresh.refresh_open_executions(stackstorm_api, answer)
        assert stackstorm_api.requested == ([] if status in TERMINAL else [["e1"]])


def test_each_execution_is_requested_once(engine, open_request):
    stackstorm_api = StubStackStorm({})
    trail = view(engine, queries.status, open_request)
    trail["stackstorm_executions"] *= 2
    refresh.refresh_open_executions(stackstorm_api, trail)
    assert stackstorm_api.requested == [["e1"]]


@pytest.fixture
def many_executions(engine, open_request):
    """Return a page of 250 open executions. The first one shown has the greatest id."""
    (row,) = view(engine, queries.st2_executions)["st2_executions"]
    return {"st2_executions": [dict(row, st2_execution_id=f"e{n}") for n in range(999, 749, -1)]}


def test_all_executions_of_a_page_are_updated(many_executions):
    stackstorm_api = StubStackStorm({f"e{n}": {"status": "succeeded"} for n in range(1000)})
    refresh.refresh_open_executions(stackstorm_api, many_executions)
    assert {row["status"] for row in many_executions["st2_executions"]} == {"succeeded"}
    # A page of StackStorm's API has 100 entries.
    assert [len(ids) for ids in stackstorm_api.requested] == [100, 100, 50]
    assert "stackstorm" not in many_executions


def test_all_incidents_of_a_page_are_updated(engine, open_request):
    recorded = read_incidents(engine)
    (incident,) = recorded.page.rows
    (execution,) = incident.executions
    rows = [
        replace(incident, executions=[replace(execution, st2_execution_id=f"e{n}")])
        for n in range(299, 149, -1)
    ]
    stackstorm_api = StubStackStorm({f"e{n}": {"status": "succeeded"} for n in range(300)})
    answer = refresh.refresh_open_executions(stackstorm_api, recorded.with_episodes(rows, ""))
    assert {row["remediation_status"] for row in answer["active_alerts"]} == {"succeeded"}
    assert {row["result"] for row in answer["active_alerts"]} == {"other"}


def test_the_time_spent_on_a_slow_stackstorm_is_bounded(many_executions, monkeypatch):
    monkeypatch.setattr(refresh, "_MAX_SECONDS", -1)
    refresh.refresh_open_executions(
        StubStackStorm({f"e{n}": {"status": "succeeded"} for n in range(1000)}), many_executions
    )
    updated = [row["status"] for row in many_executions["st2_executions"]]
    assert updated == ["succeeded"] * 100 + ["running"] * 150
    assert many_executions["stackstorm"].startswith(
        "150 of 250 open executions are shown as of the last sync: its API took longer than"
    )


def test_a_failure_after_the_first_page_keeps_the_first_results(many_executions):
    stackstorm_api = StubStackStorm({f"e{n}": {"status": "succeeded"} for n in range(1000)})
    get_executions = stackstorm_api.get_executions

    def fail_after_first_page(ids):
        if stackstorm_api.requested:
            raise StackStormError("no route")
        return get_executions(ids)

    stackstorm_api.get_executions = fail_after_first_page
    refresh.refresh_open_executions(stackstorm_api, many_executions)
    assert many_executions["st2_executions"][0]["status"] == "succeeded"
    assert many_executions["stackstorm"] == (
        "150 of 250 open executions are shown as of the last sync: no route"
    )


def test_a_dry_run_is_noted(engine, open_request):
    output = {"dry_run": True, "mutated": False, "message": "would run x"}
    trail = view(engine, queries.status, open_request)
    refresh.refresh_open_executions(
        StubStackStorm({"e1": dict(DONE, result={"output": output})}), trail
    )
    assert trail["stackstorm_executions"][0]["message"] == DRY_RUN + ". would run x"


def test_an_unavailable_stackstorm_is_noted(engine, open_request):
    for answer, execution in iterate_views(engine, open_request):
        refresh.refresh_open_executions(StubStackStorm(), answer)
        assert answer["stackstorm"] == ("open executions are shown as of the last sync: no route")
        assert execution["status"] == "running"


def test_a_view_without_open_executions_is_unchanged(engine, open_request):
    for answer in (
        view(engine, queries.executions_recent),
        {"active_alerts": [], "count": 0},
        {"episodes": [], "count": 0},
        {"st2_executions": [], "count": 0},
    ):
        assert refresh.refresh_open_executions(StubStackStorm(), answer) is answer
        assert "stackstorm" not in answer


@pytest.mark.parametrize("documents", [{}, {"e1": {}}, {"e1": {"result": "x", "rule": None}}])
def test_malformed_responses_leave_executions_as_recorded(engine, open_request, documents):
    for answer, execution in iterate_views(engine, open_request):
        refresh.refresh_open_executions(StubStackStorm(documents), answer)
        assert execution["status"] == "running"
    answer = refresh.refresh_open_executions(StubStackStorm(documents), read_incidents(engine))
    assert answer["active_alerts"][0]["remediation_status"] == "running"


def test_an_execution_that_waits_for_an_approval_shows_who_may_answer(engine, open_request):
    inquiry = {
        "id": "i1",
        "status": "pending",
        "start_timestamp": "2026-01-14T12:00:00Z",
        "context": {"orquesta": {"task_name": "approve"}},
        "result": {"route": "poundcake.approval", "users": ["anna", "ben", "stanley"]},
    }
    evidence = ["the alert is firing", "ports 22 and 9100 do not answer"]
    begin = {"id": "b", "action": {"ref": "poundcake.begin"}}
    begin["result"] = {"result": {"evidence": evidence}}
    stackstorm_api = StubStackStorm({"e1": {"status": "paused"}}, [begin, inquiry])
    answer, execution = next(iterate_views(engine, open_request))
    refresh.refresh_open_executions(stackstorm_api, answer, 30)
    assert execution["message"] == (
        "waits for the approval of anna, ben until 2026-01-14T12:30:00Z: st2 inquiry respond i1"
        "; seen: the alert is firing; ports 22 and 9100 do not answer"
    )
