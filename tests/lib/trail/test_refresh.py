"""The open executions of a view, updated from StackStorm."""

from __future__ import annotations

import shutil

import pytest

from poundcake import stackstorm
from poundcake.stackstorm import Execution, StackStormError
from poundcake.trail import claims, database, queries, refresh
from poundcake.trail.search import Filters
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


class StackStorm:
    """A StackStorm API for views, which is unavailable without executions."""

    def __init__(self, found=None, children=()):
        self.found, self.children = found, children
        self.requested = []

    def get_children(self, execution_id):
        return [Execution.parse(child) for child in self.children]

    def get_executions(self, ids):
        self.requested.append(list(ids))
        if self.found is None:
            raise StackStormError("no route")
        answers = {i: self.found.get(i) for i in ids}
        return {i: Execution.parse({"id": i, **found}) for i, found in answers.items() if found}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Return the path of an empty tracking database."""
    path = tmp_path_factory.mktemp("tables") / "tracking.db"
    prepared = database.open_engine(f"sqlite:///{path}")
    database.prepare(prepared)
    prepared.dispose()
    return path


@pytest.fixture
def engine(tables, tmp_path):
    """Return an engine on SQLite; the calls to StackStorm do not depend on the database."""
    shutil.copy(tables, tmp_path / "tracking.db")
    opened = database.open_engine(f"sqlite:///{tmp_path}/tracking.db")
    yield opened
    opened.dispose()


@pytest.fixture
def open_one(engine):
    """Return a request whose workflow runs."""
    request_id = record(engine, alert(fingerprint="f"))
    claims.link(engine, request_id, episode("f"), WORKFLOW, "e1")
    return request_id


def answers(engine, request_id):
    """Yield each view that shows the open execution, and its row there."""
    trail = view(engine, queries.status, request_id)
    listed = view(engine, queries.st2_executions)
    requested = view(engine, queries.why, Filters(alert_name="HostDown"))
    yield trail, trail["stackstorm_executions"][0]
    yield listed, listed["st2_executions"][0]
    yield requested, requested["episodes"][0]["stackstorm_executions"][0]


def test_open_executions_are_updated(engine, open_one):
    for answer, execution in answers(engine, open_one):
        keys = list(execution)
        assert refresh.refresh_open_executions(StackStorm({"e1": DONE}), answer) is answer
        assert list(execution) == keys
        assert (execution["status"], execution["duration_seconds"]) == ("succeeded", 1.235)
        assert (execution["st2_rule"], execution["url"]) == ("pack.rule", "https://st2/e1")
        if "message" in keys:
            assert (execution["stage"], execution["mutated"]) == ("done", True)
            assert (execution["message"], execution["ended_at"]) == ("up", "2026-01-14T12:00:12Z")


def test_the_remediation_of_an_incident_is_updated(engine, open_one):
    dry = dict(DONE, result={"output": {"dry_run": True, "mutated": False}})
    for result, state in ((DONE, "succeeded"), (dry, f"succeeded ({DRY_RUN})")):
        answer = refresh.refresh_open_executions(
            StackStorm({"e1": result}), view(engine, queries.alerts_active, 24)
        )
        (incident,) = answer["active_alerts"]
        assert incident["remediation_status"] == state
        assert incident["st2_execution_status"] == "succeeded"


@pytest.mark.parametrize("status", STATUSES)
def test_each_status(engine, open_one, status):
    document = {"status": status, "elapsed_seconds": 7, "result": {"stderr": "x\nno such host"}}
    for answer, execution in answers(engine, open_one):
        refresh.refresh_open_executions(StackStorm({"e1": document}), answer)
        ended = status in stackstorm.TERMINAL
        assert (execution["status"], execution["duration_seconds"]) == (
            status,
            7 if ended else None,
        )
        if "message" in execution:
            failed = ended and status != "succeeded"
            assert execution["message"] == ("no such host" if failed else "")
    answer = refresh.refresh_open_executions(
        StackStorm({"e1": document}), view(engine, queries.alerts_active, 24)
    )
    assert answer["active_alerts"][0]["remediation_status"] == status


@pytest.mark.parametrize("status", STATUSES)
def test_only_open_executions_are_requested(engine, open_one, status):
    record_execution(engine, open_one, episode("f"), "e1", status=status)
    requested = [answer for answer, _ in answers(engine, open_one)]
    requested.append(view(engine, queries.alerts_active, 24))
    for answer in requested:
        stackstorm_now = StackStorm({})
        refresh.refresh_open_executions(stackstorm_now, answer)
        assert stackstorm_now.requested == ([] if status in stackstorm.TERMINAL else [["e1"]])


def test_each_execution_is_requested_once(engine, open_one):
    stackstorm_now = StackStorm({})
    trail = view(engine, queries.status, open_one)
    trail["stackstorm_executions"] *= 2
    refresh.refresh_open_executions(stackstorm_now, trail)
    assert stackstorm_now.requested == [["e1"]]


@pytest.fixture
def many(engine, open_one):
    """Return a page of 250 open executions. The first one shown has the greatest id."""
    (row,) = view(engine, queries.st2_executions)["st2_executions"]
    return {"st2_executions": [dict(row, st2_execution_id=f"e{n}") for n in range(999, 749, -1)]}


def test_all_shown_executions_are_updated(many):
    stackstorm_now = StackStorm({f"e{n}": {"status": "succeeded"} for n in range(1000)})
    refresh.refresh_open_executions(stackstorm_now, many)
    assert {row["status"] for row in many["st2_executions"]} == {"succeeded"}
    # A page of StackStorm's API has 100 entries.
    assert [len(ids) for ids in stackstorm_now.requested] == [100, 100, 50]
    assert "stackstorm" not in many


def test_shown_incidents_are_updated(engine, open_one):
    (incident,) = view(engine, queries.alerts_active, 24)["active_alerts"]
    answer = {
        "active_alerts": [dict(incident, st2_execution_id=f"e{n}") for n in range(299, 149, -1)]
    }
    stackstorm_now = StackStorm({f"e{n}": {"status": "succeeded"} for n in range(300)})
    refresh.refresh_open_executions(stackstorm_now, answer)
    assert {row["remediation_status"] for row in answer["active_alerts"]} == {"succeeded"}


def test_the_time_spent_on_a_slow_stackstorm_is_bounded(many, monkeypatch):
    monkeypatch.setattr(refresh, "_MAX_SECONDS", -1)
    refresh.refresh_open_executions(
        StackStorm({f"e{n}": {"status": "succeeded"} for n in range(1000)}), many
    )
    updated = [row["status"] for row in many["st2_executions"]]
    assert updated == ["succeeded"] * 100 + ["running"] * 150
    assert many["stackstorm"].startswith(
        "150 of 250 open executions are shown as of the last sync: its API took longer than"
    )


def test_a_failure_after_the_first_page_keeps_the_first_results(many):
    stackstorm_now = StackStorm({f"e{n}": {"status": "succeeded"} for n in range(1000)})
    answer = stackstorm_now.get_executions

    def fail_later(ids):
        if stackstorm_now.requested:
            raise StackStormError("no route")
        return answer(ids)

    stackstorm_now.get_executions = fail_later
    refresh.refresh_open_executions(stackstorm_now, many)
    assert many["st2_executions"][0]["status"] == "succeeded"
    assert many["stackstorm"] == (
        "150 of 250 open executions are shown as of the last sync: no route"
    )


def test_a_dry_run_is_noted(engine, open_one):
    output = {"dry_run": True, "mutated": False, "message": "would run x"}
    trail = view(engine, queries.status, open_one)
    refresh.refresh_open_executions(
        StackStorm({"e1": dict(DONE, result={"output": output})}), trail
    )
    assert trail["stackstorm_executions"][0]["message"] == DRY_RUN + ". would run x"


def test_an_unavailable_stackstorm_is_noted(engine, open_one):
    for answer, execution in answers(engine, open_one):
        refresh.refresh_open_executions(StackStorm(), answer)
        assert answer["stackstorm"] == ("open executions are shown as of the last sync: no route")
        assert execution["status"] == "running"


def test_nothing_to_refresh(engine, open_one):
    for answer in (
        view(engine, queries.executions_recent),
        {"active_alerts": [], "count": 0},
        {"episodes": [], "count": 0},
        {"st2_executions": [], "count": 0},
    ):
        assert refresh.refresh_open_executions(StackStorm(), answer) is answer
        assert "stackstorm" not in answer


@pytest.mark.parametrize("found", [{}, {"e1": {}}, {"e1": {"result": "x", "rule": None}}])
def test_malformed_responses(engine, open_one, found):
    for answer, execution in answers(engine, open_one):
        refresh.refresh_open_executions(StackStorm(found), answer)
        assert execution["status"] == "running"
    answer = refresh.refresh_open_executions(
        StackStorm(found), view(engine, queries.alerts_active, 24)
    )
    assert answer["active_alerts"][0]["remediation_status"] == "running"


def test_an_execution_that_waits_for_an_approval_says_who_may_answer(engine, open_one):
    inquiry = {
        "id": "i1",
        "status": "pending",
        "start_timestamp": "2026-01-14T12:00:00Z",
        "context": {"orquesta": {"task_name": "approve"}},
        "result": {"route": "poundcake.approval", "users": ["anna", "ben", "stanley"]},
    }
    found = StackStorm({"e1": {"status": "paused"}}, [inquiry])
    answer, execution = next(answers(engine, open_one))
    refresh.refresh_open_executions(found, answer, 30)
    assert execution["message"] == (
        "waits for the approval of anna, ben until 2026-01-14T12:30:00Z: st2 inquiry respond i1"
    )
