"""Rounds of sync run one at a time, run every step, and send few requests to StackStorm."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from sqlalchemy import select

from poundcake.stackstorm import StackStormError, client
from poundcake.trail import claims, database, explain, mirror, open_work, sync_round
from poundcake.trail.schema import alerts, executions, links, meta
from poundcake.trail.sync import SyncCounts
from tests.lib.fake_stackstorm import OUTAGE, refusal
from tests.lib.samples import alert
from tests.lib.sync_trail import SyncTrail, ago

WORKFLOW = "pack.workflow"
HOUR = 3600


@pytest.fixture
def trail(engine):
    return SyncTrail(engine)


def read_synced_at(trail):
    with database.reading(trail.engine) as connection:
        return open_work.last_synced(connection)


def test_an_alert_is_tracked_from_start_to_end(trail):
    request_id, (row,) = trail.record(alert())
    trail.stackstorm.enforce(trail.stackstorm.emit(row, request_id), "e1")
    trail.stackstorm.run("e1", "running", links=True)
    claims.link(trail.engine, request_id, row.episode, WORKFLOW, "e1")
    assert trail.sync() == SyncCounts(executions=1, explained=1)
    assert (trail.one().explanation, trail.one().st2_rule_matched) == ("execution", "pack.rule")
    assert trail.one(links).st2_rule_ref == "pack.rule"
    assert trail.one(executions).status == "running" and trail.completed == [False]
    trail.stackstorm.run("e1", result={"output": {"mutated": True, "stage": "done"}})
    assert trail.sync() == SyncCounts(executions=1, completed=1)
    execution = trail.one(executions)
    assert (execution.status, execution.stage, execution.mutated) == ("succeeded", "done", True)
    assert execution.end_timestamp and execution.rule == "pack.rule" and trail.completed == [True]


def test_an_alert_that_no_rule_matched_is_explained(trail):
    request_id, (row,) = trail.record(alert())
    trail.stackstorm.emit(row, request_id)
    assert trail.sync().explained == 1
    alert_row = trail.one()
    assert (alert_row.explanation, alert_row.explanation_reason) == ("no_rule", "no rule matched")
    assert trail.completed == [True]


def test_an_execution_without_a_link_task_is_linked_once(trail):
    request_id, (row,) = trail.record(alert())
    trail.stackstorm.enforce(trail.stackstorm.emit(row, request_id), "e1")
    trail.stackstorm.run("e1", "running", action="pack.plain")
    for _ in range(2):
        trail.sync()
    link = trail.one(links)
    assert (link.st2_execution_id, link.st2_action_ref, link.claim) == ("e1", "pack.plain", None)


@pytest.mark.parametrize("seconds, explanation", [(5, None), (90, "retry")])
def test_an_alert_without_a_trigger_is_retried_after_some_time(trail, seconds, explanation):
    trail.record(alert(), seconds=seconds)
    assert trail.sync() == SyncCounts(unexplained=1)
    assert trail.one().explanation == explanation and trail.completed == [False]


def test_nothing_is_requested_without_open_work(trail):
    assert trail.sync().as_dict() == {
        "executions": 0,
        "explained": 0,
        "unexplained": 0,
        "completed": 0,
        "confirmed": 0,
        "expired": 0,
        "gone": 0,
        "silenced": 0,
        "changes": 0,
        "retried": 0,
        "expired_approvals": 0,
        "problems": [],
    }
    assert trail.stackstorm.calls == []
    assert ago(60) < read_synced_at(trail) < ago(-60)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_round_with_200_alerts_takes_a_dozen_requests(trail):
    """A round once sent 406 requests, two for each alert."""
    for n, (request_id, row) in enumerate(trail.record_storm(200, seconds=1200)):
        trigger = trail.stackstorm.emit(row, request_id, seconds=600 - n / 10)
        trail.stackstorm.enforce(trigger, f"e{n}")
        trail.stackstorm.run(f"e{n}", "running", seconds=20, links=True)
    for _ in range(2):
        trail.stackstorm.calls.clear()
        counts = trail.sync()
        assert counts.unexplained == 200 and not counts.problems
        assert len(trail.stackstorm.calls) <= 12
    reasons = {row.explanation_reason.partition("(")[0] for row in trail.rows(alerts)}
    assert reasons == {"pack.workflow was started "}


class TestSteps:
    """A failing step does not prevent the others."""

    def record_one_of_each(self, trail):
        """Record a request with an open execution, an explained request and an unexplained one."""
        request_id, (row,) = trail.record(alert("Runs"))
        claims.link(trail.engine, request_id, row.episode, WORKFLOW, "e1")
        trail.stackstorm.run("e1", "succeeded")
        trail.record(alert("Done"))
        trail.change(alerts, explanation="execution")
        trail.record(alert("New"))

    @pytest.mark.parametrize("error", [OUTAGE, refusal(), StackStormError("late", timed_out=True)])
    def test_unreadable_triggers_do_not_prevent_the_other_steps(self, trail, error):
        self.record_one_of_each(trail)
        trail.stackstorm.errors["list_triggers"] = error
        with pytest.raises(StackStormError, match=str(error)):
            trail.sync()
        assert trail.rows(executions)[0].status == "succeeded"
        assert trail.completed == [True, True, False] and read_synced_at(trail) is None

    @pytest.mark.parametrize("error", [OUTAGE, AttributeError("odd")])
    def test_executions_that_cannot_be_mirrored_do_not_prevent_the_other_steps(self, trail, error):
        self.record_one_of_each(trail)
        trail.stackstorm.errors["get_executions"] = error
        request_id, (row,) = trail.record(alert("Unmatched"))
        trail.stackstorm.emit(row, request_id)
        with pytest.raises(type(error)):
            trail.sync()
        assert trail.explanations() == ["execution", "execution", None, "no_rule"]
        assert trail.completed == [False, True, False, True]
        # The round does not count as a sync, and another one may begin immediately.
        assert read_synced_at(trail) is None
        trail.stackstorm.errors.clear()
        trail.sync()
        assert trail.completed[0] and read_synced_at(trail)

    def test_alerts_that_cannot_be_explained_do_not_prevent_the_other_steps(
        self, trail, monkeypatch
    ):
        self.record_one_of_each(trail)
        monkeypatch.setattr(explain, "find_triggers", None)
        with pytest.raises(TypeError):
            trail.sync()
        assert trail.completed == [True, True, False]

    @pytest.mark.parametrize(
        "failing_calls", [["now"], ["list_triggers"], ["now", "list_triggers"]]
    )
    def test_nothing_is_decided_during_an_outage(self, trail, failing_calls):
        trail.record(alert(), seconds=90)
        trail.stackstorm.errors.update((call, OUTAGE) for call in failing_calls)
        with pytest.raises(StackStormError, match="nobody answers"):
            trail.sync()
        assert trail.one().explanation is None and read_synced_at(trail) is None


class TestLease:
    def read_lease(self, trail):
        with database.reading(trail.engine) as connection:
            return connection.scalar(select(meta.c.value).where(meta.c.name == "sync_round"))

    def test_one_round_runs_at_a_time(self, trail):
        request_id, (row,) = trail.record(alert())
        trail.stackstorm.emit(row, request_id)
        other_round = sync_round.start_round(trail.engine, "other")
        assert trail.sync() == SyncCounts() and trail.stackstorm.calls == []
        other_round.abandon()
        assert trail.sync().explained == 1

    def test_only_one_of_several_concurrent_rounds_runs(self, trail):
        with ThreadPoolExecutor(8) as pool:
            owners = [f"round-{n}" for n in range(8)]
            rounds = list(
                pool.map(lambda owner: sync_round.start_round(trail.engine, owner), owners)
            )
        assert sum(result is not None for result in rounds) == 1

    def test_a_round_that_lost_its_lease_writes_nothing(self, trail, monkeypatch):
        """Rounds of over 2 min were once considered dead, and deleted each other's marker."""
        request_id, (row,) = trail.record(alert())
        claims.link(trail.engine, request_id, row.episode, WORKFLOW, "e1")
        trail.stackstorm.run("e1")
        trail.stackstorm.emit(row, request_id)
        request_sent, may_continue = threading.Event(), threading.Event()
        get_executions = trail.stackstorm.get_executions

        def wait_and_get(ids):
            request_sent.set()
            assert may_continue.wait(20)
            return get_executions(ids)

        monkeypatch.setattr(trail.stackstorm, "get_executions", wait_and_get)
        with ThreadPoolExecutor(1) as pool:
            late_round = pool.submit(trail.sync)
            assert request_sent.wait(20)
            self.expire_lease(trail)
            other_round = sync_round.start_round(trail.engine, "other")
            may_continue.set()
            with pytest.raises(sync_round.LeaseLostError, match="other is running now"):
                late_round.result()
        assert trail.one(executions).status == "running" and trail.explanations() == [None]
        assert trail.completed == [False] and read_synced_at(trail) is None
        assert self.read_lease(trail).startswith("other ")
        other_round.finish()

    def test_a_round_whose_lease_expired_writes_nothing(self, trail):
        late_round = sync_round.start_round(trail.engine, "late")
        self.expire_lease(trail)
        with pytest.raises(sync_round.LeaseLostError), late_round.writing():
            pass
        late_round.abandon()
        assert sync_round.start_round(trail.engine, "next")

    def expire_lease(self, trail):
        owner = self.read_lease(trail).split()[0]
        trail.change(meta, meta.c.name == "sync_round", value=f"{owner} 2026-01-01T00:00:00Z")

    def test_a_killed_round_blocks_others_until_its_lease_expires(self, trail):
        sync_round.start_round(trail.engine, "killed")
        assert sync_round.start_round(trail.engine, "next") is None
        self.expire_lease(trail)
        assert sync_round.start_round(trail.engine, "next")

    def test_a_lease_that_ends_far_in_the_future_is_ignored(self, trail):
        sync_round.start_round(trail.engine, "before")
        trail.change(meta, meta.c.name == "sync_round", value="before 2999-01-01T00:00:00Z")
        assert sync_round.start_round(trail.engine, "next")

    def test_the_next_round_can_start_after_a_failed_one(self, trail):
        trail.record(alert())
        trail.stackstorm.errors["list_triggers"] = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            trail.sync()
        assert sync_round.start_round(trail.engine, "next")

    def test_the_lease_outlasts_the_action(self):
        """StackStorm kills a round before the next one can take over."""
        with open("actions/sync.yaml") as file:
            timeout = yaml.safe_load(file)["parameters"]["timeout"]
        step_seconds = mirror.MIRROR_SECONDS + explain.TRIGGER_SECONDS + explain.EVIDENCE_SECONDS
        last_call_seconds = 3 * sum(client._ACTION_TIMEOUT)
        assert step_seconds + last_call_seconds < timeout["default"] < sync_round.LEASE.seconds
        assert timeout["immutable"]
