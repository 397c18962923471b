"""A change whose workflow cannot report stays in flight until its executions have ended."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from poundcake.config import Config
from poundcake.remediation import safety
from poundcake.stackstorm import StackStormError
from poundcake.trail import claims, database
from poundcake.trail.changes import ChangeResult, finish_changes
from poundcake.trail.limits import ChangeRequest
from poundcake.trail.open_work import open_work
from poundcake.trail.schema import alerts, changes, executions
from poundcake.trail.silences import ChangeSilence, silence_during_change
from tests.lib.fake_alertmanager import FakeAlertmanager
from tests.lib.fake_stackstorm import OUTAGE, refusal
from tests.lib.samples import alert
from tests.lib.sync_trail import SyncTrail, ago
from tests.lib.trails import WORKFLOW

LIVE = Config(
    dry_run=False, allowed_hosts=("*",), allowed_actions=("linux.service",), settle_seconds=0
)


@pytest.fixture
def trail(engine):
    """Return a trail with a change that was granted to the execution e1."""
    sync_trail = SyncTrail(engine)
    request_id, (row,) = sync_trail.record(alert())
    claims.link(engine, request_id, row.episode, WORKFLOW, "e1")
    change_request = ChangeRequest(request_id, row.episode, "linux.service", "e1")
    assert safety.reserve(engine, LIVE, change_request).may_change
    return sync_trail


def read_result(trail):
    return trail.one(changes).result


def read_lease(trail):
    return trail.one(changes).lease_until


def set_columns(trail, **values):
    """Set columns of the only change."""
    with database.transaction(trail.engine) as connection:
        connection.execute(update(changes).values(**values))


def test_a_running_workflow_keeps_its_change_in_flight(trail):
    trail.stackstorm.run("e1", "running", WORKFLOW)
    set_columns(trail, lease_until=ago(10))
    before = read_lease(trail)
    trail.sync()
    assert read_result(trail) == "" and read_lease(trail) > before


def test_a_cancelled_workflow_keeps_its_change_in_flight_until_the_change_has_ended(trail):
    trail.stackstorm.run("e1", "canceled", WORKFLOW)
    trail.stackstorm.run("e2", "canceled", "poundcake.on_host", parent="e1")
    trail.stackstorm.run("e3", "running", "linux.service", parent="e2")
    set_columns(trail, lease_until=ago(10))
    before = read_lease(trail)
    trail.sync()
    assert read_result(trail) == "" and read_lease(trail) > before
    trail.stackstorm.run("e3", "succeeded", "linux.service", parent="e2")
    assert trail.sync().changes == 1
    assert read_result(trail) == "unknown"
    assert trail.one(changes).ended_at > ago(60)


def test_an_execution_whose_tasks_cannot_be_read_does_not_affect_the_others(trail):
    request_id, (row,) = trail.record(alert(labels={"instance": "db-1:9100"}))
    claims.link(trail.engine, request_id, row.episode, WORKFLOW, "e0")
    change_request = ChangeRequest(request_id, row.episode, "linux.service", "e0")
    assert safety.reserve(trail.engine, LIVE, change_request).may_change
    for execution_id in ("e0", "e1"):
        trail.stackstorm.run(execution_id, "failed", WORKFLOW)
    trail.stackstorm.errors["get_children", "e0"] = refusal()
    set_columns(trail, lease_until=ago(10))
    problems = trail.sync().problems
    assert any("the tasks of execution e0 could not be read" in problem for problem in problems)
    by_execution = {change.st2_execution_id: change for change in trail.rows(changes)}
    assert (by_execution["e0"].result, by_execution["e1"].result) == ("", "failed")
    assert by_execution["e0"].lease_until > ago(0)


@pytest.mark.parametrize(
    "status, output, expected",
    [
        ("succeeded", {"verified": True}, "verified"),
        ("succeeded", {}, "succeeded"),
        ("failed", {}, "failed"),
        ("timeout", {}, "failed"),
        ("abandoned", {}, "failed"),
        ("canceled", {}, "unknown"),
    ],
)
def test_the_status_of_a_workflow_that_did_not_report_determines_the_result(
    trail, status, output, expected
):
    trail.stackstorm.run("e1", status, WORKFLOW, result={"output": output})
    trail.sync()
    assert read_result(trail) == expected


INTERRUPTED = {"output": {"mutated": "unknown", "dry_run": False, "stage": "remediate"}}


@pytest.mark.parametrize(
    "status, result, expected, mutated, message",
    [
        (
            "succeeded",
            {},
            "succeeded",
            True,
            "the workflow was cancelled; linux.service succeeded, and nothing verified it",
        ),
        (
            "failed",
            {"stderr": "no such unit"},
            "failed",
            True,
            "the workflow was cancelled; linux.service ended with status failed: no such unit",
        ),
        (
            "canceled",
            {},
            "unknown",
            None,
            "the workflow was cancelled; linux.service was cancelled and may have made changes",
        ),
    ],
)
@pytest.mark.parametrize("is_on_host", [False, True], ids=["remediate", "remediate_host"])
@pytest.mark.parametrize("workflow_id", ["e1", "c1"], ids=["before an upgrade", "change"])
def test_the_action_shows_how_the_change_of_a_cancelled_workflow_ended(
    trail, workflow_id, is_on_host, status, result, expected, mutated, message
):
    trail.stackstorm.run("e1", "canceled", WORKFLOW, result=INTERRUPTED)
    trail.stackstorm.run("c1", "canceled", "poundcake.change", parent="e1", task_name="change")
    parent, task = workflow_id, "remediate"
    if is_on_host:
        trail.stackstorm.run(
            "e2", "canceled", "poundcake.on_host", parent=parent, task_name="remediate_host"
        )
        parent, task = "e2", "run"
    fields = {"parent": parent, "task_name": task}
    trail.stackstorm.run("e3", "running", "linux.service", **fields)
    trail.sync()
    assert read_result(trail) == "" and trail.one(executions).mutated is None
    trail.stackstorm.run("e3", status, "linux.service", result=result, **fields)
    trail.sync()
    row = trail.one(executions)
    assert (read_result(trail), row.mutated, row.message) == (expected, mutated, message)
    assert row.dry_run is False
    change = trail.one(changes)
    assert change.action_execution_id == "e3"
    assert change.reason == ("" if expected == "succeeded" else message)


@pytest.mark.parametrize(
    "status, expected, message",
    [
        ("canceled", "unknown", "the workflow was cancelled; nothing was changed"),
        (
            "failed",
            "failed",
            "the workflow ended with status failed (task remediate: no such parameter); "
            "nothing was changed",
        ),
    ],
)
def test_nothing_was_changed_if_the_task_of_the_change_did_not_start(
    trail, status, expected, message
):
    errors = [{"task_id": "remediate", "message": "no such parameter"}]
    trail.stackstorm.run("e1", status, WORKFLOW, result={"errors": errors, **INTERRUPTED})
    trail.stackstorm.run("e2", "succeeded", "poundcake.begin", parent="e1", task_name="begin")
    trail.sync()
    row = trail.one(executions)
    assert (read_result(trail), row.mutated, row.message) == (expected, False, message)


def test_the_silence_of_a_cancelled_change_ends_when_its_action_has_ended(trail):
    alertmanager = FakeAlertmanager()
    silence_during_change([alertmanager], ChangeSilence("e1", "nginx", "linux.service", {}, 20))

    def read_state():
        trail.sync(alertmanagers=[alertmanager])
        (silence,) = alertmanager.silences_by_id.values()
        return silence.state

    trail.stackstorm.run("e1", "canceled", WORKFLOW, result=INTERRUPTED)
    reserve_result = {"result": {"may_change": True, "silenced": True}}
    trail.stackstorm.run("e2", "succeeded", "poundcake.reserve", parent="e1", result=reserve_result)
    change = {"parent": "e1", "task_name": "remediate"}
    trail.stackstorm.run("e3", "running", "linux.service", **change)
    assert read_state() == "active"
    trail.stackstorm.run("e3", "succeeded", "linux.service", **change)
    assert read_state() == "expired"


def test_the_result_of_a_deleted_workflow_is_unknown(trail):
    trail.sync()
    assert read_result(trail) == "unknown"


@pytest.mark.parametrize("call", ["get_executions", "get_children"])
def test_a_change_stays_in_flight_while_stackstorm_is_unavailable(trail, call):
    trail.stackstorm.run("e1", "canceled", WORKFLOW)
    trail.stackstorm.errors[call] = OUTAGE
    with pytest.raises(StackStormError):
        trail.sync()
    assert read_result(trail) == ""


def test_a_report_is_not_overwritten(trail):
    finish_changes(trail.engine, "e1", ChangeResult.NOT_VERIFIED)
    trail.stackstorm.run("e1", "succeeded", WORKFLOW)
    trail.sync()
    assert read_result(trail) == "not_verified"


@pytest.mark.parametrize("is_open, expected", [(True, "not_cleared"), (False, "cleared")])
def test_a_change_counts_as_cleared_or_not_cleared_after_15_minutes(trail, is_open, expected):
    finish_changes(trail.engine, "e1", ChangeResult.VERIFIED)
    if not is_open:
        trail.change(alerts, open_fingerprint=None, closed_at=ago(1))
    set_columns(trail, ended_at=ago(15 * 60 - 30))
    trail.sync()
    assert read_result(trail) == "verified"
    set_columns(trail, ended_at=ago(15 * 60 + 1))
    trail.sync()
    assert read_result(trail) == expected


def test_a_failure_stays_a_failure(trail):
    finish_changes(trail.engine, "e1", ChangeResult.FAILED)
    set_columns(trail, ended_at=ago(3600))
    trail.sync()
    assert read_result(trail) == "failed"


def test_a_change_is_open_work_while_it_is_in_flight_or_undecided(trail):
    def count_open_work():
        with database.reading(trail.engine) as connection:
            return open_work(connection).count

    trail.stackstorm.run("e1", "canceled", WORKFLOW)
    trail.stackstorm.run("e2", "running", "linux.service", parent="e1")
    trail.change(alerts, explanation="execution")
    trail.sync()
    assert count_open_work() == 1
    trail.stackstorm.run("e2", "succeeded", "linux.service", parent="e1")
    trail.sync()
    assert count_open_work() == 0
    set_columns(trail, result="verified", ended_at=ago(15 * 60 + 1))
    assert count_open_work() == 1
    trail.sync()
    assert count_open_work() == 0
    assert read_result(trail) == "not_cleared"
