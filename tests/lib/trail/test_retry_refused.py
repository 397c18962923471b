"""A change is retried if its refusal ends by itself, but it is never made twice."""

from __future__ import annotations

from unittest import mock

import pytest
from sqlalchemy import select, update

from poundcake.config import Config
from poundcake.remediation import safety
from poundcake.remediation.safety import PASSING_REFUSALS, Refusal
from poundcake.stackstorm import StackStormError
from poundcake.trail import (
    audit,
    claims,
    database,
    interventions,
    queries,
    replay,
    retry_refused,
    search,
    text,
)
from poundcake.trail.audit import Actor
from poundcake.trail.changes import NOT_CLAIMED
from poundcake.trail.clock import local_now
from poundcake.trail.limits import ChangeRequest
from poundcake.trail.open_work import open_work
from poundcake.trail.outbox import Ending, EndResult
from poundcake.trail.pause import pause, resume
from poundcake.trail.release import release_claims
from poundcake.trail.schema import alerts, changes, executions, links, meta
from poundcake.trail.sync_round import Deadline, LeaseLostError, start_round
from tests.lib.fake_stackstorm import OUTAGE, refusal
from tests.lib.samples import alert, iso
from tests.lib.sync_trail import SyncTrail, ago
from tests.lib.trails import in_parallel, on_mariadb, view

ANNA = Actor("anna", "e-anna")
ACTION = "linux.service"
WORKFLOW = "poundcake.remediate"
LIVE = Config(
    dry_run=False,
    allowed_hosts=("*",),
    allowed_actions=(ACTION,),
    settle_seconds=0,
    cooldown_seconds=0,
    host_cooldown_seconds=0,
    power_cooldown_seconds=0,
)
# Three incidents exceed this limit.
STORM = {"storm_limit": 2}
TIMEOUT = StackStormError("Read timed out", timed_out=True)
CONNECTION_REFUSED = StackStormError("connection refused", unsent=True)


class RefusedTrail(SyncTrail):
    """A trail with an incident of web-0, whose workflow e0 was refused its change in a storm."""

    def __init__(self, engine):
        super().__init__(engine)
        host_alerts = [
            alert(fingerprint=f"f{n}", labels={"instance": f"web-{n}:9100"}) for n in range(3)
        ]
        self.request_id, rows = self.record(*host_alerts)
        self.episode = rows[0].episode
        self.start("e0")
        assert self.reserve("e0", **STORM).refusal is Refusal.STORM
        self.end("e0")

    def start(self, execution, **options):
        """Start a workflow for the incident. Return True if it gets the claim."""
        self.stackstorm.run(execution, "running", WORKFLOW)
        return claims.link(
            self.engine, self.request_id, self.episode, ACTION, execution, **options
        )["claimed"]

    def reserve(self, execution, **settings):
        config = Config(**{**LIVE.__dict__, **settings})
        request = ChangeRequest(self.request_id, self.episode, ACTION, execution, retry=True)
        return safety.reserve(self.engine, config, request)

    def end(self, execution, status="succeeded"):
        """End a workflow that changed nothing."""
        output = {"dry_run": False, "mutated": False, "stage": "refused"}
        self.stackstorm.run(execution, status, WORKFLOW, result={"output": output})
        self.sync()

    def pass_time(self, minutes=10):
        """Move the times of all decisions into the past."""
        with database.transaction(self.engine) as connection:
            for row in connection.execute(select(changes)).all():
                moments = ("decided_at", "ended_at", "retry_at", "retried_at")
                values = {name: getattr(row, name) for name in moments}
                connection.execute(
                    update(changes)
                    .where(changes.c.id == row.id)
                    .values(
                        {n: v and v - (local_now() - ago(60 * minutes)) for n, v in values.items()}
                    )
                )

    def read_changes(self):
        return self.rows(changes)

    def has_open_retry(self):
        """Return True if the refusal itself counts as open work."""
        with database.reading(self.engine) as connection:
            with_retries = open_work(connection).count
            with mock.patch("poundcake.trail.open_work.is_due_for_retry", lambda now: (False,)):
                return with_retries > open_work(connection).count

    def read_retries(self):
        with database.reading(self.engine) as connection:
            entries = audit.read_entries(connection, [self.episode]).get(self.episode, [])
        return [entry for entry in entries if entry.action == "retry"]


@pytest.fixture
def trail(engine):
    refused_trail = RefusedTrail(engine)
    # Everything else is finished, so that only the refusal can be open work.
    refused_trail.change(alerts, explanation="execution")
    refused_trail.sync()
    return refused_trail


def refuse_another_change(trail):
    """Let a change of another incident be refused, by e9. Its retry is due first."""
    other_request_id, (row,) = trail.record(alert("Other", fingerprint="f9"))
    trail.request_id, trail.episode = other_request_id, row.episode
    assert trail.start("e9")
    assert trail.reserve("e9", max_changes_per_hour=0, storm_limit=1, storm_quiet_minutes=0)
    trail.change(
        changes,
        changes.c.st2_execution_id == "e9",
        result="refused",
        refusal="storm",
        ended_at=ago(1),
        retry_at=ago(-590),
        claim=None,
    )
    trail.end("e9")
    trail.pass_time()


class TestRetry:
    def test_a_refused_change_is_tried_again_when_it_is_due(self, trail):
        trail.pass_time(9)
        assert (trail.has_open_retry(), trail.sync().retried) == (False, 0)
        trail.pass_time(1)
        assert (trail.has_open_retry(), trail.sync().retried) == (True, 1)
        assert trail.stackstorm.re_runs == ["e0"]
        (change,) = trail.read_changes()
        assert change.retried_at > ago(60)
        assert (trail.has_open_retry(), trail.sync().retried) == (False, 0)

    def test_the_new_execution_gets_the_claim_and_decides_again(self, trail):
        assert not trail.start("e1")  # as before: the refused execution keeps the claim
        trail.pass_time()
        trail.sync()
        assert trail.start("again-1")
        assert trail.reserve("again-1").may_change
        assert not trail.start("e2")

    def test_the_retry_is_audited(self, trail):
        trail.pass_time()
        trail.sync()
        (entry,) = trail.read_retries()
        assert (entry.st2_user, entry.target) == ("poundcake.sync", trail.episode)
        assert entry.details == {
            "execution_id": "e0",
            "refusal": "storm",
            "started_execution_id": "again-1",
        }

    def test_the_wait_doubles_up_to_an_hour_and_ends_after_a_day(self, trail):
        waits, execution = [], "e0"
        for _ in range(40):
            change = trail.read_changes()[-1]
            if change.retry_at is None:
                break
            waits.append(round((change.retry_at - change.decided_at).total_seconds() / 60))
            trail.pass_time(waits[-1])
            assert trail.sync().retried == 1
            execution = f"again-{len(waits)}"
            assert trail.start(execution)
            assert trail.reserve(execution, **STORM).refusal is Refusal.STORM
            trail.end(execution)
        assert waits[:5] == [10, 20, 40, 60, 60]
        assert 23 * 60 <= sum(waits) <= 24 * 60
        trail.pass_time(60)
        assert (trail.has_open_retry(), trail.sync().retried) == (False, 0)

    def test_a_round_starts_a_limited_number_of_workflows(self, trail, monkeypatch):
        monkeypatch.setattr(retry_refused, "_MAX_RETRIES", 1)
        refuse_another_change(trail)
        counts = [trail.sync().retried for _ in range(3)]
        assert (counts, trail.stackstorm.re_runs) == ([1, 1, 0], ["e9", "e0"])

    def test_an_execution_that_cannot_be_read_does_not_hold_up_the_others(self, trail, monkeypatch):
        monkeypatch.setattr(retry_refused, "_MAX_RETRIES", 1)
        refuse_another_change(trail)
        trail.stackstorm.unlisted.add("e9")
        trail.stackstorm.errors["get_execution", "e9"] = refusal(500)
        assert [trail.sync().retried for _ in range(2)] == [0, 1]
        assert trail.stackstorm.re_runs == ["e0"]
        del trail.stackstorm.errors["get_execution", "e9"]
        trail.pass_time()
        assert trail.sync().retried == 1


class TestKinds:
    @pytest.mark.parametrize("kind", Refusal)
    def test_only_a_refusal_that_ends_by_itself_is_tried_again(self, trail, kind):
        decision = safety.SafetyDecision(None, True, ACTION, False, refusal=kind, reason="why")
        assert decision.ends_by_itself is (kind in PASSING_REFUSALS)
        request = ChangeRequest(trail.request_id, trail.episode, ACTION, "e0", retry=True)
        safety.limits.reserve(trail.engine, LIVE, request, lambda situation: decision)
        (change,) = trail.read_changes()
        assert (change.refusal, bool(change.retry_at)) == (kind, kind in PASSING_REFUSALS)

    def test_the_refusals_that_end_by_themselves_are_listed(self):
        assert not set(PASSING_REFUSALS) & set(safety.LASTING_REFUSALS)
        others = set(Refusal) - set(PASSING_REFUSALS) - set(safety.LASTING_REFUSALS)
        assert others == {
            Refusal.APPROVAL_MISSING,
            Refusal.BREAKER,
            Refusal.DATABASE_UNAVAILABLE,
            Refusal.EPISODE_TAKEN,
            Refusal.NOT_CLAIMED,
            Refusal.NOT_CONFIRMED,
            Refusal.PAUSED,
            Refusal.ACKNOWLEDGED,
            Refusal.SILENCED,
        }

    def test_a_workflow_that_may_not_be_started_again_is_not_retried(self, trail):
        request = ChangeRequest(trail.request_id, trail.episode, ACTION, "e0")
        config = Config(**{**LIVE.__dict__, **STORM})
        assert safety.reserve(trail.engine, config, request).refusal is Refusal.STORM
        assert trail.read_changes()[0].retry_at is None

    def test_0_minutes_turn_retries_off(self, trail):
        assert trail.reserve("e0", retry_refused_minutes=0, **STORM).refusal is Refusal.STORM
        assert trail.read_changes()[0].retry_at is None

    def test_turning_retries_off_cancels_the_planned_ones(self, trail):
        trail.pass_time()
        assert trail.sync(retry_refused_minutes=0).retried == 0
        assert not trail.has_open_retry()
        assert trail.sync().retried == 0

    def test_a_refusal_before_the_request_for_approval_is_tried_again(self, engine):
        trail = SyncTrail(engine)
        request_id, (row,) = trail.record(alert())
        ending = Ending(
            EndResult.REFUSED, request_id, row.episode, "e0", "nginx", ACTION, "web-1", "storm", "x"
        )
        assert claims.link_ended(engine, ACTION, ending, retry_minutes=10)["claimed"]
        trail.stackstorm.run("e0", "succeeded", WORKFLOW)
        (change,) = trail.rows(changes)
        assert (change.result, change.refusal, change.target) == ("refused", "storm", "web-1")
        trail.change(changes, retry_at=ago(1))
        assert trail.sync().retried == 1


class TestConditions:
    """A due change is retried only if nothing has happened that rules it out."""

    @pytest.fixture
    def due_trail(self, trail):
        trail.pass_time()
        return trail

    def check_nothing_is_tried_again(self, trail):
        assert not trail.has_open_retry()
        assert trail.sync().retried == 0
        assert trail.stackstorm.re_runs == []

    def test_the_end_of_the_incident_prevents_a_retry(self, due_trail):
        due_trail.change(
            alerts, alerts.c.episode == due_trail.episode, open_fingerprint=None, closed_at=ago(1)
        )
        self.check_nothing_is_tried_again(due_trail)

    def test_closing_the_incident_prevents_a_retry(self, due_trail):
        interventions.close(due_trail.engine, ANNA, "gone", due_trail.episode)
        self.check_nothing_is_tried_again(due_trail)

    def test_an_acknowledgement_prevents_a_retry_until_it_is_withdrawn(self, due_trail):
        interventions.acknowledge(due_trail.engine, ANNA, due_trail.episode)
        self.check_nothing_is_tried_again(due_trail)
        interventions.acknowledge(due_trail.engine, ANNA, due_trail.episode, undo=True)
        assert due_trail.sync().retried == 1

    @pytest.mark.parametrize("until, retried", [(None, 0), (ago(-3600), 0), (ago(60), 1)])
    def test_a_silence_prevents_a_retry_until_it_ends(self, due_trail, until, retried):
        due_trail.change(alerts, silence_id="s1", silenced_until=until)
        assert due_trail.has_open_retry() is bool(retried)
        # Without Alertmanagers, other steps of a round would remove the silence.
        sync_round = start_round(due_trail.engine, "round")
        count = retry_refused.retry_refused(sync_round, due_trail.stackstorm, LIVE, Deadline(10))
        assert count == retried

    def test_a_pause_prevents_a_retry_until_it_ends(self, due_trail):
        pause(due_trail.engine, ANNA, "maintenance")
        self.check_nothing_is_tried_again(due_trail)
        resume(due_trail.engine, ANNA)
        assert due_trail.sync().retried == 1

    def test_a_forced_replay_prevents_a_retry(self, due_trail):
        replay.replay_request(due_trail.engine, LIVE, due_trail.request_id, force=True)
        self.check_nothing_is_tried_again(due_trail)

    def test_a_later_decision_prevents_a_retry(self, due_trail):
        assert not due_trail.reserve("e1", denied_hosts=("web-0",)).may_change
        self.check_nothing_is_tried_again(due_trail)

    def test_a_second_execution_without_a_claim_does_not_matter(self, due_trail):
        assert not due_trail.start("e1")
        assert due_trail.read_changes()[-1].refusal == NOT_CLAIMED
        assert due_trail.sync().retried == 1

    @pytest.mark.parametrize("hours, retried", [(23, 1), (25, 0)])
    def test_a_change_is_retried_for_at_most_a_day(self, due_trail, hours, retried):
        assert not due_trail.reserve("e1", **STORM).may_change
        due_trail.end("e1")
        due_trail.change(changes, changes.c.st2_execution_id == "e0", decided_at=ago(3600 * hours))
        due_trail.change(changes, changes.c.st2_execution_id == "e1", retry_at=ago(1))
        assert due_trail.has_open_retry() is bool(retried)
        assert due_trail.sync().retried == retried

    def test_a_workflow_is_not_retried_before_it_has_ended(self, due_trail):
        due_trail.stackstorm.run("e0", "running", WORKFLOW)
        assert due_trail.sync().retried == 0
        self.check_nothing_is_tried_again(due_trail)
        due_trail.stackstorm.run("e0", "succeeded", WORKFLOW)
        due_trail.pass_time()
        assert due_trail.sync().retried == 1

    @pytest.mark.parametrize(
        "fields", [{"action": "mypack.flow"}, {"action": WORKFLOW, "parent_id": "outer"}]
    )
    def test_a_workflow_that_is_not_the_packs_own_is_given_up(self, due_trail, fields):
        due_trail.stackstorm.run("e0", "succeeded", **fields)
        due_trail.sync()
        self.check_nothing_is_tried_again(due_trail)
        assert due_trail.read_changes()[0].retry_at is None

    def test_a_deleted_execution_is_given_up(self, due_trail):
        del due_trail.stackstorm.executions["e0"]
        due_trail.sync()
        self.check_nothing_is_tried_again(due_trail)

    def test_the_cooldown_of_the_host_postpones_the_retry(self, due_trail):
        request_id, (row,) = due_trail.record(
            alert("DiskFull", fingerprint="f7", labels={"instance": "web-0:9100"})
        )
        claims.link(due_trail.engine, request_id, row.episode, ACTION, "e7")
        due_trail.change(executions, executions.c.id == "e7", status="succeeded", mutated=True)
        assert due_trail.sync(host_cooldown_seconds=1800).retried == 0
        assert due_trail.read_changes()[0].retry_at > ago(-1700)
        assert not due_trail.has_open_retry()


class TestNeverTwice:
    @pytest.fixture
    def due_trail(self, trail):
        trail.pass_time()
        return trail

    @pytest.mark.parametrize("error", [CONNECTION_REFUSED, refusal(403), refusal(404)])
    def test_after_a_definite_failure_the_change_is_retried_later(self, due_trail, error):
        due_trail.stackstorm.errors["re_run"] = error
        try:
            assert due_trail.sync().problems[0].startswith("execution e0 was not started again:")
        except StackStormError as raised:
            assert raised is CONNECTION_REFUSED
        (change,) = due_trail.read_changes()
        assert change.retried_at is None and change.retry_at > ago(-9 * 60)
        (entry,) = due_trail.read_retries()
        assert entry.details["problem"] == str(error)
        del due_trail.stackstorm.errors["re_run"]
        assert due_trail.sync().retried == 0
        due_trail.pass_time()
        assert due_trail.sync().retried == 1

    @pytest.mark.parametrize("error", [TIMEOUT, refusal(500), OUTAGE, refusal(504)])
    def test_after_an_unknown_outcome_the_change_is_not_retried(self, due_trail, error):
        due_trail.stackstorm.errors["re_run"] = error
        try:
            assert due_trail.sync().problems[0].startswith("execution e0 was not started again:")
        except StackStormError as raised:
            assert raised.is_outage
        del due_trail.stackstorm.errors["re_run"]
        due_trail.pass_time(60)
        assert (due_trail.has_open_retry(), due_trail.sync().retried) == (False, 0)

    def test_two_simultaneous_rounds_start_one_execution(self, due_trail):
        results = in_parallel(2, lambda number: due_trail.sync().retried)
        assert sorted(results) in ([0, 1], [0, 0])
        assert len(due_trail.stackstorm.re_runs) <= 1
        due_trail.sync()
        assert due_trail.stackstorm.re_runs == ["e0"]

    def test_a_round_that_has_lost_its_lease_starts_nothing(self, due_trail):
        """It loses its lease after reading the refusal, for example because it was suspended."""
        find_due = retry_refused._find_due

        def find_and_lose_lease(connection):
            found = find_due(connection)
            due_trail.change(meta, meta.c.name == "sync_round", value=f"other {iso(ago(-60))}")
            return found

        with mock.patch.object(retry_refused, "_find_due", find_and_lose_lease):
            with pytest.raises(LeaseLostError):
                due_trail.sync()
        assert due_trail.stackstorm.re_runs == []

    def test_a_refusal_that_another_round_has_marked_is_not_marked_again(self, due_trail):
        def sync_first(connection):
            found = find_due(connection)
            due_trail.change(changes, retried_at=ago(0))
            return found

        find_due = retry_refused._find_due
        with mock.patch.object(retry_refused, "_find_due", sync_first):
            assert due_trail.sync().retried == 0
        assert due_trail.stackstorm.re_runs == []

    @pytest.mark.parametrize("step", ["_mark", "re_run", "_add_details"])
    def test_a_crash_after_a_step_starts_at_most_one_execution(self, due_trail, step):
        class Crash(BaseException):
            pass

        owner = due_trail.stackstorm if step == "re_run" else retry_refused
        original = getattr(owner, step)

        def run_and_crash(*args, **kwargs):
            original(*args, **kwargs)
            raise Crash

        with mock.patch.object(owner, step, run_and_crash):
            with pytest.raises(Crash):
                due_trail.sync()
        for _ in range(2):
            due_trail.sync()
            due_trail.pass_time(60)
        # A crash during the mark rolls its transaction back, so the next round retries the change.
        assert due_trail.stackstorm.re_runs == ["e0"]

    def test_a_crash_between_the_mark_and_the_request_prevents_the_retry(self, due_trail):
        with mock.patch.object(due_trail.stackstorm, "re_run", side_effect=KeyboardInterrupt):
            with pytest.raises(KeyboardInterrupt):
                due_trail.sync()
        due_trail.pass_time(60)
        assert due_trail.sync().retried == 0
        # A person can replay the request without force, because the claim is released.
        replayed = replay.replay_request(due_trail.engine, LIVE, due_trail.request_id)
        assert replayed["outcomes"].get("admitted")

    @pytest.mark.parametrize("force", [False, True])
    def test_a_replay_before_the_claim_of_the_new_execution_allows_one_change(
        self, due_trail, force
    ):
        due_trail.sync()
        replayed = replay.replay_request(
            due_trail.engine, LIVE, due_trail.request_id, force, execution_id="r"
        )
        first_request_id = due_trail.request_id
        due_trail.request_id = replayed["request_id"]
        assert due_trail.start("e-replay")
        due_trail.request_id = first_request_id
        assert not due_trail.start("again-1")

    def test_a_forced_replay_during_the_mark_allows_one_change(self, due_trail):
        """Neither transaction sees the other, so the replay begins another attempt."""
        replayed = replay.replay_request(due_trail.engine, LIVE, due_trail.request_id, True)
        due_trail.change(links, claim=None)
        assert not due_trail.start("again-1")
        due_trail.request_id = replayed["request_id"]
        assert due_trail.start("e-replay")

    @pytest.mark.parametrize("intervene", ["resolve", "acknowledge", "close"])
    def test_an_intervention_before_the_claim_prevents_the_change(self, due_trail, intervene):
        due_trail.sync()
        is_incident = alerts.c.episode == due_trail.episode
        if intervene == "resolve":
            due_trail.change(alerts, is_incident, open_fingerprint=None, closed_at=ago(600))
        elif intervene == "close":
            interventions.close(due_trail.engine, ANNA, "gone", due_trail.episode)
            due_trail.change(alerts, is_incident, closed_at=ago(600))
        else:
            interventions.acknowledge(due_trail.engine, ANNA, due_trail.episode)
        assert not due_trail.start("again-1")
        assert not due_trail.reserve("again-1").may_change

    def test_a_release_before_the_retry_changes_nothing(self, due_trail):
        release_claims(due_trail.engine, due_trail.episode, actor=ANNA)
        assert due_trail.sync().retried == 1
        assert [row.claim for row in due_trail.rows(links)] == [None]

    def test_an_entry_that_was_removed_ends_the_retries(self, due_trail):
        """The new execution then ends without a decision about the change."""
        due_trail.sync()
        due_trail.end("again-1", "failed")
        due_trail.pass_time(60)
        assert (due_trail.has_open_retry(), due_trail.sync().retried) == (False, 0)

    @on_mariadb
    def test_concurrent_rounds_start_one_execution(self, due_trail):
        results = in_parallel(4, lambda number: due_trail.sync())
        assert len(due_trail.stackstorm.re_runs) <= 1, results
        due_trail.sync()
        assert due_trail.stackstorm.re_runs == ["e0"]


class TestViews:
    def read_why(self, trail):
        page = view(trail.engine, queries.why, search.parse(fingerprint="f0"))
        return page["episodes"][0]["changes"], " ".join(text.why(page).split())

    def test_the_views_show_the_time_of_the_retry(self, trail):
        (change,), why_text = self.read_why(trail)
        assert change["retry_at"] and "retried_at" not in change
        assert "NOT TOUCHED: STORM" in why_text and "refused, storm" in why_text
        assert "it is tried again after" in why_text
        details = view(trail.engine, queries.recorded_alert, trail.request_id, trail.episode)
        assert details["retry_at"] == change["retry_at"]

    def test_the_views_show_which_execution_was_started_again(self, trail):
        trail.pass_time()
        trail.sync()
        (change,), why_text = self.read_why(trail)
        assert change["retried_at"] and "retry_at" not in change
        assert "it was tried again at" in why_text
        assert "poundcake.sync tried e0 (storm) again: as again-1" in why_text

    def test_the_views_show_no_retry_that_will_not_happen(self, trail):
        interventions.acknowledge(trail.engine, ANNA, trail.episode)
        (change,), why_text = self.read_why(trail)
        assert "retry_at" not in change and "tried again" not in why_text
        details = view(trail.engine, queries.recorded_alert, trail.request_id, trail.episode)
        assert details["retry_at"] is None

    @pytest.mark.parametrize(
        "outcome, expected",
        [(TIMEOUT, "Read timed out"), (None, "its new execution is unknown")],
    )
    def test_the_views_show_a_retry_whose_outcome_is_unknown(self, trail, outcome, expected):
        trail.pass_time()
        with mock.patch.object(
            trail.stackstorm, "re_run", side_effect=outcome or KeyboardInterrupt
        ):
            try:
                trail.sync()
            except KeyboardInterrupt:
                pass
        assert expected in self.read_why(trail)[1]
