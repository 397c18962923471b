"""Sync mirrors the state of open executions into execution_db."""

from __future__ import annotations

import pytest

from poundcake.execution_status import TERMINAL
from poundcake.stackstorm import Execution, StackStormError
from poundcake.trail import claims, database, mirror, sync_round
from poundcake.trail.mirror import mirror_open_executions, write_execution
from poundcake.trail.schema import executions, links
from poundcake.trail.sync_round import Deadline
from tests.lib.fake_stackstorm import OUTAGE, refusal
from tests.lib.samples import NOON, alert
from tests.lib.sync_trail import SyncTrail
from tests.lib.trails import STATUSES

WORKFLOW = "pack.workflow"


@pytest.fixture
def trail(engine):
    """Return a trail with an execution e1 that claimed the episode of an alert."""
    sync_trail = SyncTrail(engine)
    request_id, (row,) = sync_trail.record(alert())
    claims.link(engine, request_id, row.episode, WORKFLOW, "e1")
    return sync_trail


def add_open_executions(trail, *ids):
    with database.transaction(trail.engine) as connection:
        for execution_id in ids:
            claims.add_execution(connection, execution_id, WORKFLOW, "running", NOON)


def mirror_once(trail, deadline=None):
    """Mirror as a round of sync does. Return the number of mirrored executions and the problems."""
    new_round = sync_round.start_round(trail.engine, "test")
    try:
        count = mirror_open_executions(new_round, trail.stackstorm, deadline or Deadline(60))
        return count, new_round.problems
    finally:
        new_round.abandon()


@pytest.mark.parametrize("status", STATUSES)
def test_each_status_is_mirrored(trail, status):
    trail.stackstorm.run("e1", status)
    assert mirror_once(trail) == (1, [])
    before = trail.one(executions)
    assert before.status == status and before.rule == "pack.rule"
    assert bool(before.end_timestamp) is (status in TERMINAL)
    assert trail.one(links).st2_rule_ref == "pack.rule"
    # An execution that has ended never becomes open again.
    trail.stackstorm.run("e1", "resuming")
    mirror_once(trail)
    with database.transaction(trail.engine) as connection:
        write_execution(connection, trail.stackstorm.executions["e1"], NOON)
    after = trail.one(executions)
    assert (after == before) is (status in TERMINAL)
    assert after.status == (status if status in TERMINAL else "resuming")


def test_the_output_of_a_workflow_is_mirrored(trail):
    output = {"dry_run": True, "mutated": False, "stage": "s", "message": "m"}
    trail.stackstorm.run("e1", result={"output": output}, web_url="https://st2/e1")
    mirror_once(trail)
    execution = trail.one(executions)
    assert (execution.stage, execution.message, execution.web_url) == ("s", "m", "https://st2/e1")
    assert (execution.dry_run, execution.mutated, execution.verified) == (True, False, None)


def test_an_execution_that_stackstorm_has_deleted_is_recorded_as_gone(trail):
    mirror_once(trail)
    execution = trail.one(executions)
    assert (execution.status, execution.error) == (
        "gone",
        "StackStorm no longer has this execution",
    )
    calls = len(trail.stackstorm.calls)
    assert mirror_once(trail)[0] == 0 and len(trail.stackstorm.calls) == calls


def test_an_execution_missing_from_a_list_is_not_recorded_as_gone(trail):
    trail.stackstorm.run("e1", "paused")
    trail.stackstorm.unlisted.add("e1")
    mirror_once(trail)
    assert trail.one(executions).status == "paused"


def test_hostile_results_are_stored_as_valid_text(trail):
    output = {
        "dry_run": "yes",
        "stage": "\ud800" * 200,
        "message": "{{x}}" * 5000,
        "mutated": 1,
        "verified": None,
    }
    errors = [{"message": "\udfff<% x %>"}]
    trail.stackstorm.run("e1", "failed", result={"output": output, "errors": errors})
    mirror_once(trail)
    execution = trail.one(executions)
    assert execution.status == "failed" and execution.error == "?<% x %>"
    assert (execution.dry_run, execution.mutated, execution.verified) == (None, None, None)
    assert execution.message == ("{{x}}" * 5000)[:4000] and execution.stage == "?" * 64


@pytest.mark.parametrize(
    "answer",
    [
        {"id": "e1"},
        {"id": "e1", "status": None, "action": None, "rule": "x", "start_timestamp": "yesterday"},
        {"id": "e1", "status": ["running"], "result": 5, "end_timestamp": 7, "web_url": {}},
    ],
)
def test_malformed_responses_change_nothing(trail, answer):
    trail.stackstorm.executions["e1"] = Execution.parse(answer)
    before = trail.one(executions)
    mirror_once(trail)
    after = trail.one(executions)
    assert after.status == "running" and after.start_timestamp == before.start_timestamp


def test_an_unreadable_execution_does_not_block_the_others(trail, monkeypatch):
    monkeypatch.setattr(mirror, "_PAGE", 2)
    add_open_executions(trail, "e0", "e2", "e3")
    for execution_id in ("e0", "e1", "e2", "e3"):
        trail.stackstorm.run(execution_id)
    trail.stackstorm.errors["get_executions", ("e0", "e1")] = refusal()
    trail.stackstorm.errors["get_execution", "e0"] = StackStormError("late", timed_out=True)
    count, problems = mirror_once(trail)
    assert count == 3 and len(problems) == 2 and "late" in problems[1]
    status = {row.id: row.status for row in trail.rows(executions)}
    assert status == {"e0": "running", "e1": "succeeded", "e2": "succeeded", "e3": "succeeded"}


def test_a_round_continues_where_the_previous_one_ran_out_of_time(trail, monkeypatch):
    monkeypatch.setattr(mirror, "_PAGE", 1)
    add_open_executions(trail, "e2", "e3")
    for execution_id in ("e1", "e2", "e3"):
        trail.stackstorm.run(execution_id, "running")
    trail.stackstorm.errors["get_executions", ("e1",)] = refusal()
    for _ in range(4):
        mirror_once(trail, Deadline(0))
    calls = [ids for name, ids in trail.stackstorm.calls if name == "get_executions"]
    assert calls == [("e1",), ("e2",), ("e3",), ("e1",)]


def test_an_outage_is_raised_and_earlier_results_are_kept(trail, monkeypatch):
    monkeypatch.setattr(mirror, "_PAGE", 1)
    add_open_executions(trail, "e2")
    trail.stackstorm.run("e1")
    trail.stackstorm.errors["get_executions", ("e2",)] = OUTAGE
    with pytest.raises(StackStormError, match="nobody answers"):
        mirror_once(trail)
    assert [row.status for row in trail.rows(executions)] == ["succeeded", "running"]
