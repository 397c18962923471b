"""Which alert may start a remediation: each outcome with its reason, and all of them in a row."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poundcake.alertmanager import Alert
from poundcake.trail.admission import (
    Decision,
    Limit,
    OpenIncident,
    Original,
    Resolve,
    Situation,
    Work,
    decide,
    decide_replay,
)
from poundcake.trail.outcomes import Outcome
from tests.lib.samples import NOON, UTC, later

SKEW = datetime.timedelta(seconds=120)
START = 1768392000000  # NOON, in ms
OPEN = OpenIncident("the-first", f"fp-{START}", NOON, Outcome.ADMITTED)
HELD = OpenIncident("the-first", OPEN.episode, NOON, Outcome.COOLDOWN)
LIMIT = Limit(Outcome.RATE_LIMITED, "limit of 1 an hour", later(3600))


def firing(starts_at=NOON, **more):
    return Alert(0, status="firing", starts_at=starts_at, fingerprint="fp", **more)


def resolved(ends_at=None, starts_at=NOON, **more):
    return Alert(
        0, status="resolved", starts_at=starts_at, ends_at=ends_at, fingerprint="fp", **more
    )


def choose(alert, incident=None, resolves=(), limit=None, received_at=later(60)):
    return decide(alert, received_at, Situation(incident, SKEW, resolves, limit))


class TestFiring:
    def test_a_new_alert_is_admitted(self):
        found = choose(firing())
        assert (found.outcome, found.episode, found.starts_at) == ("admitted", OPEN.episode, NOON)
        assert found.opens and not found.closes

    def test_an_alert_without_a_start_begins_when_it_was_received(self):
        found = choose(firing(starts_at=None), received_at=NOON)
        assert (found.outcome, found.episode, found.starts_at) == ("admitted", OPEN.episode, NOON)

    @pytest.mark.parametrize("start", [NOON, later(-86400), later(1), later(120), None])
    def test_a_repeat_is_a_duplicate_with_the_incidents_episode(self, start):
        """Whatever limit applies and whatever was resolved before."""
        found = choose(firing(start), OPEN, [Resolve(later(500), later(50))], LIMIT)
        assert (found.outcome, found.episode) == ("duplicate", OPEN.episode)
        assert found.reason == "duplicate of the-first"
        assert not found.opens and not found.closes and not found.held_until

    def test_a_start_beyond_the_skew_supersedes(self):
        found = choose(firing(later(120.000001)), OPEN)
        assert (found.outcome, found.opens, found.closes) == ("admitted", True, True)
        assert "supersedes " + OPEN.episode in found.reason
        assert found.episode == f"fp-{START + 120000}"

    @pytest.mark.parametrize(
        "ends_at, received_at, is_late",
        [
            (later(30), later(50), True),
            (NOON, NOON, True),
            (later(-1), later(50), False),  # of an earlier occurrence
            (later(10**6), later(-1), False),  # received before this one began
        ],
    )
    def test_a_notification_that_its_resolve_overtook_is_late(self, ends_at, received_at, is_late):
        found = choose(firing(), None, [Resolve(ends_at, received_at)], LIMIT)
        assert found.reason.startswith("late") is is_late
        assert (found.outcome == "duplicate", found.opens) == (is_late, not is_late)

    def test_a_resolve_of_long_ago_overtook_nothing(self):
        resolve = Resolve(later(30), later(60))
        for seconds, outcome in ((660, "duplicate"), (661, "admitted")):
            assert choose(firing(), None, [resolve], None, later(seconds)).outcome == outcome

    def test_a_held_back_alert_opens_an_incident_all_the_same(self):
        found = choose(firing(), None, limit=LIMIT)
        assert (found.outcome, found.reason) == ("rate_limited", LIMIT.reason)
        assert (found.opens, found.episode, found.held_until) == (True, OPEN.episode, later(3600))

    def test_a_repeat_of_a_held_back_alert_is_held_back(self):
        found = choose(firing(), HELD, limit=LIMIT)
        assert (found.outcome, found.opens, found.closes) == ("rate_limited", False, False)
        assert (found.episode, found.held_until) == (OPEN.episode, later(3600))

    def test_the_first_notification_after_a_limit_is_admitted_under_the_incidents_name(self):
        found = choose(firing(later(60)), HELD)
        assert (found.outcome, found.episode, found.starts_at) == ("admitted", OPEN.episode, NOON)
        assert found.opens and found.closes
        assert found.reason == "first notification after cooldown"

    def test_a_held_back_successor_supersedes_too(self):
        found = choose(firing(later(500)), OPEN, limit=LIMIT)
        assert (found.outcome, found.opens, found.closes) == ("rate_limited", True, True)
        assert found.held_until == later(3600)

    @pytest.mark.parametrize("start", [datetime.datetime.max.replace(tzinfo=UTC), NOON])
    @pytest.mark.parametrize("other", [datetime.datetime.min.replace(year=2, tzinfo=UTC), None])
    def test_no_time_is_too_late_or_too_early(self, start, other):
        incident = OpenIncident("the-first", "fp-1", start, Outcome.ADMITTED)
        for moment in (other, start, datetime.datetime.max.replace(tzinfo=UTC)):
            choose(firing(moment), incident)
            choose(resolved(moment, moment), incident)


class TestResolved:
    @pytest.mark.parametrize("ends_at", [None, NOON, later(1), later(10**8)])
    @pytest.mark.parametrize("incident", [OPEN, HELD])
    def test_it_closes_the_incident_under_its_name(self, ends_at, incident):
        found = choose(resolved(ends_at), incident)
        assert (found.outcome, found.closes, found.opens) == ("resolved", True, False)
        assert found.episode == OPEN.episode
        assert found.reason == "ends the incident of the-first"

    def test_one_that_ended_before_the_incident_began_does_not(self):
        found = choose(resolved(later(-0.000001)), OPEN)
        assert (found.outcome, found.closes) == ("duplicate", False)
        assert OPEN.episode in found.reason

    def test_nothing_is_open(self):
        found = choose(resolved(later(60)))
        assert (found.outcome, found.reason) == ("duplicate", "nothing open")
        assert not found.closes and not found.opens


@pytest.mark.parametrize("incident", [None, OPEN, HELD])
@pytest.mark.parametrize("status", ["firing", "resolved", "?"])
def test_a_malformed_alert_is_malformed_whatever_is_open(incident, status):
    broken = Alert(0, status=status, fingerprint="fp", problem="alerts[0].status: x")
    found = choose(broken, incident, limit=LIMIT)
    assert found == Decision(Outcome.MALFORMED, "alerts[0].status: x")


class TestReplay:
    SENT = Original("first", later(60), "admitted", OPEN.episode, NOON)

    def choose(self, alert, incident, work=Work(), limit=None, force=False, original=SENT):
        done = dict.fromkeys((OPEN.episode, original.episode), work)
        return decide_replay(alert, original, Situation(incident, SKEW, (), limit), done, force)

    @pytest.mark.parametrize("incident", [OPEN, HELD])
    @pytest.mark.parametrize("start", [NOON, later(-86400), later(120), None])
    def test_it_takes_over_an_incident_that_was_not_worked_on(self, incident, start):
        found = self.choose(firing(start), incident)
        assert (found.outcome, found.reason) == ("admitted", "replay of first")
        assert (found.episode, found.starts_at, found.attempt) == (OPEN.episode, NOON, 1)
        assert found.closes and found.opens

    def test_a_limit_holds_it_back_unless_forced(self):
        found = self.choose(firing(), OPEN, limit=LIMIT)
        assert (found.outcome, found.reason) == ("rate_limited", LIMIT.reason)
        assert (found.episode, found.opens, found.closes) == (OPEN.episode, False, False)
        assert found.held_until == LIMIT.held_until
        assert self.choose(firing(), OPEN, limit=LIMIT, force=True).outcome == "admitted"

    def test_an_episode_that_was_worked_on_is_left_alone(self):
        found = self.choose(firing(), OPEN, Work(1, "pack.workflow (e1)"))
        assert (found.outcome, found.episode) == ("duplicate", OPEN.episode)
        assert "first: pack.workflow (e1) has worked" in found.reason
        assert "force=true" in found.reason
        assert not found.closes and not found.opens

    @pytest.mark.parametrize("claimed_by, attempt", [("pack.workflow (e1)", 4), ("", 3)])
    def test_by_force_it_is_another_attempt(self, claimed_by, attempt):
        found = self.choose(firing(), OPEN, Work(3, claimed_by), force=True)
        assert (found.outcome, found.attempt) == ("admitted", attempt)
        assert found.closes and found.opens

    @pytest.mark.parametrize("incident", [None, OPEN])
    def test_an_incident_that_has_ended_is_worked_on_by_force_only(self, incident):
        start = later(500)
        original = Original("first", later(600), "admitted", "fp-500", start)
        found = self.choose(firing(start), incident, original=original)
        assert (found.outcome, found.episode, found.starts_at) == ("duplicate", "fp-500", start)
        assert found.reason == "replay of first: nothing open, the incident has ended"
        found = self.choose(firing(start), incident, Work(2), LIMIT, True, original)
        assert (found.outcome, found.episode, found.attempt) == ("admitted", "fp-500", 3)
        assert not found.opens and not found.closes

    LATER = OpenIncident("r", "fp-1", later(61), Outcome.ADMITTED)

    @pytest.mark.parametrize(
        "incident, outcome, expected",
        [
            (None, "duplicate", ("duplicate", "nothing open")),
            (OPEN, "duplicate", ("resolved", "ends the incident of the-first")),
            # It ended another, under the same name: Alertmanager lost sight of the alert.
            (OPEN, "resolved", ("duplicate", "replay of first: the open incident is a later one")),
            (
                LATER,
                "duplicate",
                ("duplicate", "replay of first: the open incident is a later one"),
            ),
        ],
    )
    def test_a_resolve_does_not_close_a_later_incident(self, incident, outcome, expected):
        original = Original("first", later(60), outcome, "", NOON)
        for force in (False, True):
            found = self.choose(resolved(later(10**6)), incident, force=force, original=original)
            assert (found.outcome, found.reason) == expected
            assert found.closes == (expected[0] == "resolved")


class Reference:
    """The rules, written down once more and as plainly as possible, for one fingerprint."""

    def __init__(self, cooldown):
        self.cooldown = cooldown
        self.open = None  # (start, admitted)
        self.resolves = []  # (end, received)
        self.last_admitted = None

    def expected(self, status, start, end, now):
        if status == "resolved":
            if self.open is None or (end is not None and end < self.open[0]):
                outcome = "duplicate"
            else:
                outcome = "resolved"
                self.open = None
            self.resolves.append((end, now))
            return outcome
        cooled = self.last_admitted is not None and now < self.last_admitted + self.cooldown
        if self.open is not None:
            if start <= self.open[0] + 120:
                if self.open[1]:
                    return "duplicate"
                if cooled:
                    return "cooldown"
                self.open = (self.open[0], True)
                self.last_admitted = now
                return "admitted"
        elif any(
            end >= start and received >= max(start, now - 600) for end, received in self.resolves
        ):
            return "duplicate"
        self.open = (start, not cooled)
        if cooled:
            return "cooldown"
        self.last_admitted = now
        return "admitted"


class OneFingerprint:
    """The least that keeps what decide() asks for."""

    def __init__(self, cooldown):
        self.cooldown = cooldown
        self.incident = None
        self.resolves = []
        self.admitted_at = None

    def decide(self, alert, now):
        cools = self.admitted_at is not None and now < self.admitted_at + self.cooldown
        limit = Limit(Outcome.COOLDOWN, "until later", later(now)) if cools else None
        found = decide(alert, later(now), Situation(self.incident, SKEW, self.resolves, limit))
        if found.closes:
            self.incident = None
        if found.opens:
            assert self.incident is None
            self.incident = OpenIncident("r", found.episode, found.starts_at, found.outcome)
        if found.outcome == "admitted":
            self.admitted_at = now
        if alert.status == "resolved":
            self.resolves.append(Resolve(alert.ends_at, later(now)))
        return found


times = st.integers(0, 1000)
notifications = st.lists(
    st.tuples(st.sampled_from(["firing", "resolved"]), times, times), min_size=1, max_size=15
)


@settings(max_examples=300)
@given(notifications, st.sampled_from([0, 100, 400]))
def test_any_sequence_goes_by_the_rules(sequence, cooldown):
    reference, recorded = Reference(cooldown), OneFingerprint(cooldown)
    for minute, (status, start, end) in enumerate(sequence):
        now = minute * 60
        alert = Alert(
            0, status=status, starts_at=later(start), ends_at=later(end), fingerprint="fp"
        )
        assert recorded.decide(alert, now).outcome == reference.expected(status, start, end, now)
        assert (recorded.incident is None) == (reference.open is None)
