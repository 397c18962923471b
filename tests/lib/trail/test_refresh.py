"""What StackStorm says now, merged into what is on record."""

from __future__ import annotations

import pytest

from poundcake import stackstorm
from poundcake.stackstorm import StackStormError
from poundcake.trail import claims, database, queries, refresh
from poundcake.trail.search import Filters
from tests.lib.samples import alert
from tests.lib.trails import STATUSES, WORKFLOW, episode, ran, record, view

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
    """StackStorm as a view asks it."""

    def __init__(self, found=None):
        self.found = found
        self.asked = []

    def executions(self, ids):
        self.asked.append(list(ids))
        if self.found is None:
            raise StackStormError("no route")
        return {i: self.found.get(i) for i in ids}


@pytest.fixture
def engine(tmp_path):
    found = database.open_engine("sqlite:///{}".format(tmp_path / "tracking.db"))
    database.prepare(found)
    yield found
    found.dispose()


@pytest.fixture
def open_one(engine):
    """A request whose workflow runs."""
    request_id = record(engine, alert(fingerprint="f"))
    claims.link(engine, request_id, episode("f"), WORKFLOW, "e1")
    return request_id


def answers(engine, request_id):
    """(view, its execution) of each that StackStorm is asked for."""
    trail = view(engine, queries.status, request_id)
    listed = view(engine, queries.st2_executions)
    asked = view(engine, queries.why, Filters(alert_name="HostDown"))
    yield trail, trail["stackstorm_executions"][0]
    yield listed, listed["st2_executions"][0]
    yield asked, asked["episodes"][0]["stackstorm_executions"][0]


def test_what_is_open_is_asked_for(engine, open_one):
    for answer, execution in answers(engine, open_one):
        keys = list(execution)
        assert refresh.refresh_open_executions(StackStorm({"e1": DONE}), answer) is answer
        assert list(execution) == keys
        assert (execution["status"], execution["duration_seconds"]) == ("succeeded", 1.235)
        assert (execution["st2_rule"], execution["url"]) == ("pack.rule", "https://st2/e1")
        if "message" in keys:
            assert (execution["stage"], execution["mutated"]) == ("done", True)
            assert (execution["message"], execution["ended_at"]) == ("up", "2026-01-14T12:00:12Z")


def test_the_state_of_an_active_alert(engine, open_one):
    dry = dict(DONE, result={"output": {"dry_run": True, "mutated": False}})
    for found, state in ((DONE, "succeeded"), (dry, f"succeeded ({DRY_RUN})")):
        answer = refresh.refresh_open_executions(
            StackStorm({"e1": found}), view(engine, queries.alerts_active, 24)
        )
        assert answer["active_alerts"][0]["remediation_status"] == state


@pytest.mark.parametrize("status", STATUSES)
def test_each_status(engine, open_one, status):
    found = {"status": status, "elapsed_seconds": 7, "result": {"stderr": "x\nno such host"}}
    for answer, execution in answers(engine, open_one):
        refresh.refresh_open_executions(StackStorm({"e1": found}), answer)
        ended = status in stackstorm.TERMINAL
        assert (execution["status"], execution["duration_seconds"]) == (
            status,
            7 if ended else None,
        )
        if "message" in execution:
            failed = ended and status != "succeeded"
            assert execution["message"] == ("no such host" if failed else "")
    answer = refresh.refresh_open_executions(
        StackStorm({"e1": found}), view(engine, queries.alerts_active, 24)
    )
    assert answer["active_alerts"][0]["remediation_status"] == status


@pytest.mark.parametrize("status", STATUSES)
def test_only_what_is_open_is_asked_for(engine, open_one, status):
    ran(engine, open_one, episode("f"), "e1", status=status)
    asked = [answer for answer, _ in answers(engine, open_one)]
    asked.append(view(engine, queries.alerts_active, 24))
    for answer in asked:
        stackstorm_now = StackStorm({})
        refresh.refresh_open_executions(stackstorm_now, answer)
        assert stackstorm_now.asked == ([] if status in stackstorm.TERMINAL else [["e1"]])


def test_each_is_asked_for_once_and_not_too_many(engine, open_one):
    stackstorm_now = StackStorm({})
    trail = view(engine, queries.status, open_one)
    trail["stackstorm_executions"] *= 2
    refresh.refresh_open_executions(stackstorm_now, trail)
    assert stackstorm_now.asked == [["e1"]]
    (one,) = view(engine, queries.st2_executions)["st2_executions"]
    many = [dict(one, st2_execution_id=f"e{n}") for n in range(250)]
    stackstorm_now = StackStorm({})
    refresh.refresh_open_executions(stackstorm_now, {"st2_executions": many})
    assert [len(ids) for ids in stackstorm_now.asked] == [100]


def test_a_remediation_that_changed_nothing_says_so(engine, open_one):
    output = {"dry_run": True, "mutated": False, "message": "would run x"}
    trail = view(engine, queries.status, open_one)
    refresh.refresh_open_executions(
        StackStorm({"e1": dict(DONE, result={"output": output})}), trail
    )
    assert trail["stackstorm_executions"][0]["message"] == DRY_RUN + ". would run x"


def test_stackstorm_away_is_said(engine, open_one):
    for answer, execution in answers(engine, open_one):
        refresh.refresh_open_executions(StackStorm(), answer)
        assert answer["stackstorm"] == (
            "cannot be asked now, the state is as of the last sync: no route"
        )
        assert execution["status"] == "running"


def test_nothing_to_ask_for(engine, open_one):
    for answer in (
        view(engine, queries.executions_recent),
        {"active_alerts": [], "count": 0},
        {"episodes": [], "count": 0},
        {"st2_executions": [], "count": 0},
    ):
        assert refresh.refresh_open_executions(StackStorm(), answer) is answer
        assert "stackstorm" not in answer


@pytest.mark.parametrize("found", [{}, {"e1": {}}, {"e1": {"result": "x", "rule": None}}])
def test_odd_answers(engine, open_one, found):
    for answer, execution in answers(engine, open_one):
        refresh.refresh_open_executions(StackStorm(found), answer)
        assert execution["status"] == "running"
    answer = refresh.refresh_open_executions(
        StackStorm(found), view(engine, queries.alerts_active, 24)
    )
    assert answer["active_alerts"][0]["remediation_status"] == "running"
