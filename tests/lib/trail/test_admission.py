"""Admission decides the outcome of each alert in a sequence, and gives a reason."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poundcake.alertmanager import Alert
from poundcake.trail.admission import (
    MAX_CLOCK_ERROR,
    Decision,
    Limit,
    OpenIncident,
    Original,
    PreviousWork,
    Resolve,
    Situation,
    decide,
    decide_confirmed,
    decide_replay,
)
from poundcake.trail.outcomes import EMITTED, Outcome
from tests.lib.samples import NOON, UTC, later
from tests.lib.trail.in_memory_admission import SKEW, InMemoryAdmission

START_MS = 1768392000000  # NOON


def make_incident(outcome=Outcome.ADMITTED, **overrides):
    fields = {
        "request_id": "the-first",
        "episode": f"fp-{START_MS}",
        "starts_at": NOON,
        "outcome": outcome,
        "last_seen_at": NOON,
        "sender_starts_at": NOON,
    }
    return OpenIncident(**{**fields, **overrides})


OPEN = make_incident()
HELD_BACK = make_incident(Outcome.COOLDOWN)
UNCONFIRMED = make_incident(Outcome.UNCONFIRMED)
OBSERVED = make_incident(Outcome.OBSERVED)
LIMIT = Limit(Outcome.RATE_LIMITED, "limit of 1 per hour", later(3600))


def firing(starts_at=NOON, **fields):
    return Alert(0, status="firing", starts_at=starts_at, fingerprint="fp", **fields)


def resolved(ends_at=None, starts_at=NOON, **fields):
    return Alert(
        0, status="resolved", starts_at=starts_at, ends_at=ends_at, fingerprint="fp", **fields
    )


def decide_alert(alert, incident=None, resolves=(), limit=None, received_at=later(60), **facts):
    return decide(alert, received_at, Situation(incident, SKEW, resolves, limit, **facts))


class TestFiring:
    def test_a_new_alert_is_admitted(self):
        decision = decide_alert(firing())
        assert (decision.outcome, decision.episode, decision.starts_at) == (
            "admitted",
            OPEN.episode,
            NOON,
        )
        assert decision.opens and not decision.closes

    def test_an_alert_without_a_start_begins_when_it_was_received(self):
        decision = decide_alert(firing(starts_at=None), received_at=NOON)
        assert (decision.outcome, decision.episode, decision.starts_at) == (
            "admitted",
            OPEN.episode,
            NOON,
        )

    @pytest.mark.parametrize("start", [later(60.000001), later(10**8), None])
    def test_a_start_in_the_future_is_replaced_by_the_time_of_receipt(self, start):
        decision = decide_alert(firing(start))
        assert (decision.outcome, decision.starts_at) == ("admitted", later(60))
        assert decision.episode == f"fp-{START_MS + 60_000}"

    @pytest.mark.parametrize("start", [NOON, later(-86400), later(1), later(120), None])
    def test_a_repeat_is_a_duplicate_with_the_incidents_episode(self, start):
        """Limits and earlier resolves do not matter."""
        decision = decide_alert(firing(start), OPEN, [Resolve(later(500), later(50))], LIMIT)
        assert (decision.outcome, decision.episode) == ("duplicate", OPEN.episode)
        assert decision.reason == "duplicate of the-first"
        assert not decision.opens and not decision.closes and not decision.held_until

    @pytest.mark.parametrize("start", [later(10**6), None])
    def test_starts_are_compared_only_with_starts_from_the_same_sender(self, start):
        without_start = make_incident(sender_starts_at=None)
        assert decide_alert(firing(later(10**6)), without_start).outcome == "duplicate"
        with_late_start = make_incident(sender_starts_at=later(10**6))
        assert decide_alert(firing(start), with_late_start).outcome == "duplicate"

    def test_an_implausible_start_counts_as_missing(self):
        far_ahead = firing(later(60.000001) + MAX_CLOCK_ERROR)
        assert decide_alert(far_ahead, OPEN).outcome == "duplicate"
        # A copy that arrives shortly after the resolve may be stale.
        resolves = [Resolve(later(50), later(50))]
        assert decide_alert(far_ahead, None, resolves).outcome == "unconfirmed"
        ahead = firing(later(60) + MAX_CLOCK_ERROR)
        assert decide_alert(ahead, OPEN).ended_by == "superseded"

    @pytest.mark.parametrize("ahead", [0, 3600, -3600])
    def test_the_first_start_of_an_incident_never_supersedes_it(self, ahead):
        """A peer sends an earlier start in between. The senders' clocks may be an hour off."""
        state = InMemoryAdmission()
        for seconds, start in ((0, 0), (60, -900), (120, 0), (180, 120)):
            received_at = later(seconds)
            state.decide(firing(later(start + ahead)), received_at, received_at)
        assert len(state.episodes) == 1
        decision = state.decide(firing(later(120.001 + ahead)), later(240), later(240))
        assert decision.ended_by == "superseded"

    def test_an_alert_that_supersedes_an_unconfirmed_incident_may_be_stale(self):
        """One peer sends an old start, the other reports the end of the new occurrence."""
        state = InMemoryAdmission()
        outcomes = [
            state.decide(alert, later(second), later(second)).outcome
            for second, alert in (
                (600, firing(later(600))),
                (630, resolved(later(630))),
                (640, firing(NOON)),
                (660, firing(later(600))),
                (720, firing(later(600))),
            )
        ]
        assert outcomes == ["admitted", "resolved", "unconfirmed", "unconfirmed", "admitted"]
        decision = state.decide(resolved(later(730)), later(730), later(730))
        assert decision.outcome == "resolved"

    def test_an_alert_overtaken_by_its_resolve_supersedes_nothing(self):
        decision = decide_alert(firing(later(500)), OPEN, [Resolve(later(600), later(61))])
        assert (decision.outcome, decision.opens, decision.closes) == ("duplicate", False, False)

    def test_a_late_copy_does_not_make_a_late_resolve_end_the_next_occurrence(self):
        state = InMemoryAdmission()
        for second, alert in enumerate([firing(later(600)), firing(), resolved(later(60))], 700):
            decision = state.decide(alert, later(second), later(second))
        assert decision.reason.startswith("ended before")

    def test_a_start_beyond_the_skew_supersedes_the_incident(self):
        decision = decide_alert(firing(later(120.000001)), OPEN, received_at=later(200))
        assert (decision.outcome, decision.opens, decision.closes) == ("admitted", True, True)
        assert decision.ended_by == "superseded"
        assert "supersedes " + OPEN.episode in decision.reason
        assert decision.episode == f"fp-{START_MS + 120000}"

    @pytest.mark.parametrize(
        "ends_at, received_at, outcome",
        [
            (later(30), later(61), "duplicate"),  # overtaken by the resolve
            (NOON, later(10**6), "duplicate"),
            (None, later(61), "duplicate"),
            (later(30), later(60), "unconfirmed"),
            (later(30), later(-29.999), "unconfirmed"),
            (None, later(0), "unconfirmed"),
            (later(10**6), later(0), "unconfirmed"),
            (later(30), later(-30), "admitted"),
            (later(-1), later(61), "admitted"),  # the resolve ended an earlier occurrence
            (later(-1), later(60), "admitted"),
        ],
    )
    @pytest.mark.parametrize("incident", [None, HELD_BACK, UNCONFIRMED])
    def test_an_earlier_resolve_determines_the_outcome_of_a_firing_alert(
        self, ends_at, received_at, outcome, incident
    ):
        decision = decide_alert(firing(), incident, [Resolve(ends_at, received_at)])
        assert decision.outcome == outcome
        assert decision.reason.startswith("late") is (outcome == "duplicate")
        if incident is None:
            assert decision.opens is (outcome != "duplicate")
        assert decision.closes is decision.opens or incident is None

    def test_a_firing_alert_without_a_start_matches_any_resolve(self):
        resolve = Resolve(later(-(10**6)), later(50))
        assert decide_alert(firing(None), None, [resolve]).outcome == "unconfirmed"

    def test_the_newest_resolve_determines_the_outcome(self):
        resolves = [Resolve(NOON, later(50)), Resolve(NOON, later(70)), Resolve(NOON, later(-300))]
        assert decide_alert(firing(), None, resolves).outcome == "duplicate"
        assert decide_alert(firing(), None, resolves[::2]).outcome == "unconfirmed"
        assert decide_alert(firing(), None, resolves[2:]).outcome == "admitted"

    def test_an_unconfirmed_alert_opens_an_incident_without_a_remediation(self):
        decision = decide_alert(firing(), None, [Resolve(NOON, later(50))], LIMIT)
        assert (decision.outcome, decision.opens, decision.held_until) == (
            "unconfirmed",
            True,
            None,
        )
        assert decision.reason.startswith("fires 10 s after its resolve")

    def test_an_unconfirmed_alert_takes_over_an_observed_incident(self):
        """Otherwise, nothing would confirm the incident after 6 min."""
        decision = decide_alert(firing(), OBSERVED, [Resolve(NOON, later(50))])
        assert (decision.outcome, decision.opens, decision.closes) == ("unconfirmed", True, True)
        assert (decision.episode, decision.ended_by) == (OPEN.episode, None)
        repeat = decide_alert(firing(), UNCONFIRMED, [Resolve(NOON, later(50))])
        assert (repeat.outcome, repeat.opens, repeat.closes) == ("unconfirmed", False, False)

    @pytest.mark.parametrize("open_incident", [HELD_BACK, UNCONFIRMED, OBSERVED])
    def test_a_limit_holds_back_an_incident_that_waited(self, open_incident):
        decision = decide_alert(firing(), open_incident, limit=LIMIT)
        assert (decision.outcome, decision.opens, decision.closes) == ("rate_limited", False, False)

    @pytest.mark.parametrize("open_incident", [None, HELD_BACK, UNCONFIRMED, OBSERVED])
    @pytest.mark.parametrize("limit", [None, LIMIT])
    def test_an_alert_of_an_unlisted_receiver_is_observed(self, open_incident, limit):
        decision = decide_alert(
            firing(), open_incident, [Resolve(NOON, later(50))], limit, may_start=False
        )
        assert (decision.outcome, decision.opens) == ("observed", open_incident is None)
        assert "receivers" in decision.reason and not decision.held_until
        assert decide_alert(firing(), OPEN, may_start=False).outcome == "duplicate"

    def test_an_alert_of_an_unlisted_receiver_supersedes_the_incident(self):
        decision = decide_alert(firing(later(500)), OPEN, may_start=False, received_at=later(500))
        assert (decision.outcome, decision.opens, decision.closes) == ("observed", True, True)

    @pytest.mark.parametrize("outcome", [Outcome.COOLDOWN, Outcome.UNCONFIRMED, Outcome.OBSERVED])
    def test_nothing_is_started_for_an_acknowledged_incident(self, outcome):
        decision = decide_alert(firing(), make_incident(outcome, acknowledged_by="anna"))
        assert (decision.outcome, decision.reason) == (outcome, "acknowledged by anna")
        assert not decision.opens and not decision.closes

    def test_the_name_of_an_ended_episode_is_not_reused(self):
        ended_episodes = {OPEN.episode, f"fp-{START_MS + 60_000}"}
        decision = decide_alert(firing(), known_episodes=ended_episodes)
        assert (decision.outcome, decision.starts_at) == ("admitted", NOON)
        assert decision.episode == f"fp-{START_MS + 60_001}"

    def test_a_held_back_alert_still_opens_an_incident(self):
        decision = decide_alert(firing(), None, limit=LIMIT)
        assert (decision.outcome, decision.reason) == ("rate_limited", LIMIT.reason)
        assert (decision.opens, decision.episode, decision.held_until) == (
            True,
            OPEN.episode,
            later(3600),
        )

    def test_a_repeat_of_a_held_back_alert_is_held_back(self):
        decision = decide_alert(firing(), HELD_BACK, limit=LIMIT)
        assert (decision.outcome, decision.opens, decision.closes) == ("rate_limited", False, False)
        assert (decision.episode, decision.held_until) == (OPEN.episode, later(3600))

    def test_the_first_notification_after_a_limit_is_admitted_with_the_incidents_episode(self):
        decision = decide_alert(firing(later(60)), HELD_BACK)
        assert (decision.outcome, decision.episode, decision.starts_at) == (
            "admitted",
            OPEN.episode,
            NOON,
        )
        assert decision.opens and decision.closes
        assert decision.reason == "first notification after cooldown"

    def test_an_alert_that_is_held_back_supersedes_the_incident(self):
        decision = decide_alert(firing(later(500)), OPEN, limit=LIMIT, received_at=later(500))
        assert (decision.outcome, decision.opens, decision.closes) == ("rate_limited", True, True)
        assert decision.held_until == later(3600)

    @pytest.mark.parametrize("start", [datetime.datetime.max.replace(tzinfo=UTC), NOON])
    @pytest.mark.parametrize("other", [datetime.datetime.min.replace(year=2, tzinfo=UTC), None])
    def test_extreme_times_are_accepted(self, start, other):
        open_incident = make_incident(starts_at=start, sender_starts_at=start)
        for moment in (other, start, datetime.datetime.max.replace(tzinfo=UTC)):
            decide_alert(firing(moment), open_incident, [Resolve(other, later(50))])
            decide_alert(resolved(moment, moment), open_incident)


class TestResolved:
    @pytest.mark.parametrize("ends_at", [None, NOON, later(1), later(10**8)])
    @pytest.mark.parametrize("incident", [OPEN, HELD_BACK])
    def test_a_resolve_has_the_episode_of_the_incident_it_closes(self, ends_at, incident):
        decision = decide_alert(resolved(ends_at), incident)
        assert (decision.outcome, decision.closes, decision.opens) == ("resolved", True, False)
        assert (decision.episode, decision.ended_by) == (OPEN.episode, "resolve")
        assert decision.reason == "ends the incident of the-first"

    @pytest.mark.parametrize("open_incident", [UNCONFIRMED, OBSERVED])
    @pytest.mark.parametrize("may_start", [True, False])
    def test_an_incident_that_was_never_emitted_is_closed_silently(self, open_incident, may_start):
        decision = decide_alert(resolved(), open_incident, may_start=may_start)
        assert (decision.outcome, decision.closes) == (open_incident.outcome, True)
        assert decision.outcome not in EMITTED

    def test_a_resolve_to_any_receiver_closes_the_incident(self):
        assert decide_alert(resolved(), OPEN, may_start=False).outcome == "resolved"

    def test_a_resolve_of_an_earlier_incident_does_not_close_a_later_one(self):
        decision = decide_alert(resolved(later(-0.000001), starts_at=later(-60)), OPEN)
        assert (decision.outcome, decision.closes) == ("duplicate", False)
        assert OPEN.episode in decision.reason

    def test_a_resolve_with_the_start_of_the_incident_closes_it_after_the_clock_was_set_back(self):
        assert decide_alert(resolved(later(-7200), starts_at=NOON), OPEN).closes
        assert not decide_alert(resolved(later(-7200), starts_at=None), OPEN).closes

    @pytest.mark.parametrize("seconds, closes", [(60, True), (60.000001, False)])
    def test_a_resolve_received_before_the_last_notification_closes_nothing(self, seconds, closes):
        decision = decide_alert(resolved(later(10**6)), make_incident(last_seen_at=later(seconds)))
        assert decision.closes is closes

    def test_the_end_is_compared_with_the_start_of_the_same_sender(self):
        """The end is not compared with the time of receipt, which comes from another clock."""
        assert decide_alert(resolved(later(-90)), make_incident(sender_starts_at=None)).closes
        slow_sender = make_incident(starts_at=NOON, sender_starts_at=later(-3600))
        assert decide_alert(resolved(later(-3600), starts_at=None), slow_sender).closes
        assert not decide_alert(resolved(later(-3601), starts_at=None), slow_sender).closes

    def test_a_resolve_without_an_open_incident_is_a_duplicate(self):
        decision = decide_alert(resolved(later(60)))
        assert (decision.outcome, decision.reason) == ("duplicate", "no open incident")
        assert not decision.closes and not decision.opens


@pytest.mark.parametrize("incident", [None, OPEN, HELD_BACK, UNCONFIRMED, OBSERVED])
@pytest.mark.parametrize("status", ["firing", "resolved", "?"])
def test_a_malformed_alert_is_malformed_in_any_state(incident, status):
    malformed_alert = Alert(0, status=status, fingerprint="fp", problem="alerts[0].status: x")
    decision = decide_alert(malformed_alert, incident, limit=LIMIT)
    assert decision == Decision(Outcome.MALFORMED, "alerts[0].status: x")


class TestReplay:
    ORIGINAL = Original("first", later(60), "admitted", OPEN.episode, NOON)

    def replay(
        self,
        alert,
        incident,
        work=PreviousWork(),
        limit=None,
        force=False,
        original=ORIGINAL,
        may_start=True,
    ):
        work_by_episode = dict.fromkeys((OPEN.episode, original.episode), work)
        situation = Situation(incident, SKEW, (), limit, may_start)
        return decide_replay(alert, original, situation, work_by_episode, force)

    @pytest.mark.parametrize("incident", [OPEN, HELD_BACK, UNCONFIRMED, OBSERVED])
    @pytest.mark.parametrize("start", [NOON, later(-86400), later(120), None])
    def test_a_replay_takes_over_an_unclaimed_incident(self, incident, start):
        decision = self.replay(firing(start), incident)
        assert (decision.outcome, decision.reason) == ("admitted", "replay of first")
        assert (decision.episode, decision.starts_at, decision.attempt) == (OPEN.episode, NOON, 1)
        assert decision.closes and decision.opens

    def test_a_limit_holds_a_replay_back_unless_it_is_forced(self):
        decision = self.replay(firing(), OPEN, limit=LIMIT)
        assert (decision.outcome, decision.reason) == ("rate_limited", LIMIT.reason)
        assert (decision.episode, decision.opens, decision.closes) == (OPEN.episode, False, False)
        assert decision.held_until == LIMIT.held_until
        assert self.replay(firing(), OPEN, limit=LIMIT, force=True).outcome == "admitted"

    def test_an_episode_that_a_workflow_has_claimed_is_not_admitted_again(self):
        decision = self.replay(firing(), OPEN, PreviousWork(1, "pack.workflow (e1)"))
        assert (decision.outcome, decision.episode) == ("duplicate", OPEN.episode)
        assert "first: pack.workflow (e1) has worked" in decision.reason
        assert "force=true" in decision.reason
        assert not decision.closes and not decision.opens

    def test_an_acknowledged_incident_is_not_admitted_unless_forced(self):
        acknowledged = make_incident(acknowledged_by="anna")
        decision = self.replay(firing(), acknowledged)
        assert (decision.outcome, decision.closes) == ("duplicate", False)
        assert decision.reason == "replay of first: acknowledged by anna; force=true runs it again"
        assert self.replay(firing(), acknowledged, force=True).outcome == "admitted"

    def test_an_alert_of_an_unlisted_receiver_is_observed_unless_forced(self):
        decision = self.replay(firing(), OPEN, may_start=False)
        assert (decision.outcome, decision.opens) == ("observed", False)
        assert self.replay(firing(), OPEN, may_start=False, force=True).outcome == "admitted"

    @pytest.mark.parametrize("claimed_by, attempt", [("pack.workflow (e1)", 4), ("", 3)])
    def test_a_forced_replay_is_another_attempt(self, claimed_by, attempt):
        decision = self.replay(firing(), OPEN, PreviousWork(3, claimed_by), force=True)
        assert (decision.outcome, decision.attempt) == ("admitted", attempt)
        assert decision.closes and decision.opens

    @pytest.mark.parametrize("incident", [None, OPEN])
    def test_an_ended_incident_is_admitted_only_by_force(self, incident):
        start = later(500)
        original = Original("first", later(600), "admitted", "fp-500", start)
        decision = self.replay(firing(start), incident, original=original)
        assert (decision.outcome, decision.episode, decision.starts_at) == (
            "duplicate",
            "fp-500",
            start,
        )
        assert decision.reason == "replay of first: the incident has ended"
        decision = self.replay(firing(start), incident, PreviousWork(2), LIMIT, True, original)
        assert (decision.outcome, decision.episode, decision.attempt) == ("admitted", "fp-500", 3)
        assert not decision.opens and not decision.closes

    NOTIFIED_LATER = make_incident(last_seen_at=later(60.000001))
    NOT_CLOSED = ("duplicate", "replay of first: the open incident has a later notification")

    @pytest.mark.parametrize(
        "incident, outcome, expected",
        [
            (None, "duplicate", ("duplicate", "no open incident")),
            (OPEN, "duplicate", ("resolved", "ends the incident of the-first")),
            # The original resolve ended an earlier incident of the same alert.
            (OPEN, "resolved", NOT_CLOSED),
            (OPEN, "unconfirmed", NOT_CLOSED),
            (OPEN, "observed", NOT_CLOSED),
            (NOTIFIED_LATER, "duplicate", NOT_CLOSED),
        ],
    )
    def test_a_resolve_does_not_close_a_later_incident(self, incident, outcome, expected):
        original = Original("first", later(60), outcome, "", NOON)
        for force in (False, True):
            decision = self.replay(resolved(later(10**6)), incident, force=force, original=original)
            assert (decision.outcome, decision.reason) == expected
            assert decision.closes == (expected[0] == "resolved")


class TestConfirmed:
    @pytest.mark.parametrize(
        "limit, may_start, outcome",
        [
            (None, True, "admitted"),
            (LIMIT, True, "rate_limited"),
            (None, False, "observed"),
            (LIMIT, False, "observed"),
        ],
    )
    def test_the_confirmed_alert_takes_over_the_incident(self, limit, may_start, outcome):
        situation = Situation(UNCONFIRMED, SKEW, (), limit, may_start)
        decision = decide_confirmed(UNCONFIRMED, situation)
        assert (decision.outcome, decision.closes, decision.opens, decision.ended_by) == (
            outcome,
            True,
            True,
            None,
        )
        assert (decision.episode, decision.starts_at) == (OPEN.episode, NOON)
        assert bool(decision.held_until) is (outcome == "rate_limited")


class ReferenceRules:
    """A second, simpler implementation of the rules, for one fingerprint."""

    def __init__(self, cooldown):
        self.cooldown = cooldown
        self.open = None  # the open incident: {start, sender, outcome, last_seen}
        self.resolves = []  # tuples of (end, received)
        self.last_admitted = None

    def decide(self, status, start, end, now, may_start):
        if status == "firing":
            return self.decide_firing(start, now, may_start)
        outcome = self.decide_resolve(start, end, now)
        self.resolves.append((end, now))
        return outcome

    def decide_resolve(self, start, end, now):
        incident = self.open
        if incident is None or now < incident["last_seen"]:
            return "duplicate"
        has_times = None not in (end, incident["sender"])
        if has_times and end < incident["sender"] and start != incident["sender"]:
            return "duplicate"
        self.open = None
        return (
            incident["outcome"]
            if incident["outcome"] in ("unconfirmed", "observed")
            else "resolved"
        )

    def decide_firing(self, start, now, may_start):
        incident = self.open
        has_starts = incident and None not in (start, incident["sender"])
        if has_starts and start > incident["sender"] + 120:
            incident = None  # the next occurrence
        if incident is None:
            outcome = self.choose_outcome(start, now, may_start)
            if outcome != "duplicate":
                incident_start = now if start is None else min(start, now)
                self.open = {
                    "start": incident_start,
                    "sender": start,
                    "outcome": outcome,
                    "last_seen": now,
                }
        elif incident["outcome"] == "admitted":
            outcome = "duplicate"
            self.update_open_incident(start, now)
        else:
            outcome = self.choose_outcome(start, now, may_start, is_open=True)
            self.update_open_incident(start, now)
            if outcome == "admitted" or (outcome, incident["outcome"]) == (
                "unconfirmed",
                "observed",
            ):
                incident["outcome"] = outcome
        if outcome == "admitted":
            self.last_admitted = now
        return outcome

    def update_open_incident(self, start, now):
        incident = self.open
        incident["last_seen"] = max(incident["last_seen"], now)
        if incident["sender"] is None:
            incident["sender"] = start

    def choose_outcome(self, start, now, may_start, is_open=False):
        matching_resolves = [
            received
            for end, received in self.resolves
            if start is None or end is None or end >= start
        ]
        if not (is_open and not may_start) and any(
            received > now for received in matching_resolves
        ):
            return "duplicate"
        if not may_start:
            return "observed"
        if any(now - received < 90 for received in matching_resolves):
            return "unconfirmed"
        in_cooldown = self.last_admitted is not None and now < self.last_admitted + self.cooldown
        return "cooldown" if in_cooldown else "admitted"


times = st.none() | st.integers(0, 1000)
notifications = st.lists(
    st.tuples(
        st.sampled_from(["firing", "firing", "resolved"]),
        times,
        times,
        # Some notifications are recorded after others that were received later.
        st.sampled_from([0, 0, 0, -70, -200]),
        st.sampled_from([True, True, False]),
    ),
    min_size=1,
    max_size=15,
)


@settings(max_examples=500)
@given(notifications, st.sampled_from([0, 100, 400]))
def test_any_sequence_follows_the_rules(sequence, cooldown):
    reference_rules, state = ReferenceRules(cooldown), InMemoryAdmission(cooldown)
    for number, (status, start, end, delay, may_start) in enumerate(sequence):
        now = number * 60 + delay
        alert = Alert(
            0,
            status=status,
            starts_at=None if start is None else later(start),
            ends_at=None if end is None else later(end),
            fingerprint="fp",
        )
        decision = state.decide(alert, later(now), later(now), may_start)
        assert decision.outcome == reference_rules.decide(status, start, end, now, may_start)
        assert (state.incident is None) == (reference_rules.open is None)
