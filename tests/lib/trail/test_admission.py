"""Which alert may start a remediation: each outcome with its reason, and all of them in a row."""

import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poundcake.alertmanager import Alert
from poundcake.trail import admission
from poundcake.trail.admission import Decision, Incident, Original, decide, replay
from tests.lib.samples import NOON, UTC, later

SKEW = datetime.timedelta(seconds=120)
START = 1768392000000  # NOON, in ms
OPEN = Incident(
    request_id="the-first",
    episode=f"fp-{START}",
    starts_at=NOON,
    outcome=admission.ADMITTED,
)
HELD = Incident("the-first", OPEN.episode, NOON, admission.COOLDOWN)
LIMIT = Decision(admission.RATE_LIMITED, "limit of 1 an hour")


def firing(starts_at=NOON, **more):
    return Alert(0, status="firing", starts_at=starts_at, fingerprint="fp", **more)


def resolved(ends_at=None, starts_at=NOON, **more):
    return Alert(
        0, status="resolved", starts_at=starts_at, ends_at=ends_at, fingerprint="fp", **more
    )


def never(*_):
    raise AssertionError("asked where its answer does not count")


def choose(alert, incident=None, resolved_since=None, limit=None, received_at=later(60)):
    return decide(
        alert,
        received_at,
        incident,
        SKEW,
        (lambda start: False) if resolved_since is None else resolved_since,
        (lambda: None) if limit is None else limit,
    )


class TestFiring:
    def test_new(self):
        found = choose(firing())
        assert (found.outcome, found.episode, found.starts_at) == ("admitted", OPEN.episode, NOON)
        assert found.opens and not found.closes

    def test_without_a_start_it_starts_when_it_came(self):
        found = choose(firing(starts_at=None), received_at=NOON)
        assert (found.outcome, found.episode, found.starts_at) == ("admitted", OPEN.episode, NOON)

    @pytest.mark.parametrize("start", [NOON, later(-86400), later(1), later(120), None])
    def test_again_is_a_duplicate_that_carries_the_incidents_name(self, start):
        found = choose(firing(start), OPEN, never, never)
        assert (found.outcome, found.episode) == ("duplicate", OPEN.episode)
        assert "the-first" in found.reason
        assert not found.opens and not found.closes

    def test_beyond_the_skew_it_supersedes(self):
        found = choose(firing(later(120.000001)), OPEN)
        assert (found.outcome, found.opens, found.closes) == ("admitted", True, True)
        assert "supersedes " + OPEN.episode in found.reason
        assert found.episode == f"fp-{START + 120000}"

    def test_late(self):
        asked = []
        found = choose(firing(), None, lambda start: asked.append(start) or True, never)
        assert (found.outcome, found.opens) == ("duplicate", False)
        assert found.reason.startswith("late")
        assert asked == [NOON]

    def test_limited_it_opens_an_incident_all_the_same(self):
        found = choose(firing(), None, limit=lambda: LIMIT)
        assert (found.outcome, found.reason) == ("rate_limited", LIMIT.reason)
        assert (found.opens, found.episode) == (True, OPEN.episode)

    def test_still_limited(self):
        found = choose(firing(), HELD, never, lambda: LIMIT)
        assert (found.outcome, found.opens, found.closes) == ("rate_limited", False, False)
        assert found.episode == OPEN.episode

    def test_the_first_after_a_limit_is_admitted_under_the_incidents_name(self):
        found = choose(firing(later(60)), HELD, never)
        assert (found.outcome, found.episode, found.starts_at) == ("admitted", OPEN.episode, NOON)
        assert found.opens and found.closes

    def test_a_limited_successor_supersedes_too(self):
        found = choose(firing(later(500)), OPEN, limit=lambda: LIMIT)
        assert (found.outcome, found.opens, found.closes) == ("rate_limited", True, True)

    @pytest.mark.parametrize("start", [datetime.datetime.max.replace(tzinfo=UTC), NOON])
    @pytest.mark.parametrize("other", [datetime.datetime.min.replace(year=2, tzinfo=UTC), None])
    def test_no_time_is_too_late_or_too_early(self, start, other):
        incident = Incident("the-first", "fp-1", start, admission.ADMITTED)
        for a in (other, start, datetime.datetime.max.replace(tzinfo=UTC)):
            choose(firing(a), incident)
            choose(resolved(a, a), incident)


class TestResolved:
    @pytest.mark.parametrize("ends_at", [None, NOON, later(1), later(10**8)])
    @pytest.mark.parametrize("incident", [OPEN, HELD])
    def test_it_closes_the_incident_under_its_name(self, ends_at, incident):
        found = choose(resolved(ends_at), incident, never, never)
        assert (found.outcome, found.closes, found.opens) == ("resolved", True, False)
        assert found.episode == OPEN.episode
        assert "the-first" in found.reason

    def test_one_that_ended_before_the_incident_began_does_not(self):
        found = choose(resolved(later(-0.000001)), OPEN, never, never)
        assert (found.outcome, found.closes) == ("duplicate", False)
        assert OPEN.episode in found.reason

    def test_nothing_open(self):
        found = choose(resolved(later(60)), None, never, never)
        assert (found.outcome, found.reason) == ("duplicate", "nothing open")
        assert not found.closes and not found.opens


@pytest.mark.parametrize("incident", [None, OPEN, HELD])
@pytest.mark.parametrize("status", ["firing", "resolved", "?"])
def test_malformed_comes_first(incident, status):
    broken = Alert(0, status=status, fingerprint="fp", problem="alerts[0].status: x")
    found = choose(broken, incident, never, never)
    assert found == Decision("malformed", "alerts[0].status: x")


class TestReplay:
    BROUGHT = Original("first", later(60), admission.ADMITTED, OPEN.episode, NOON)

    def choose(self, alert, incident, work=(1, ""), limit=None, force=False, original=BROUGHT):
        return replay(alert, original, incident, SKEW, lambda episode: work, lambda: limit, force)

    @pytest.mark.parametrize("incident", [OPEN, HELD])
    @pytest.mark.parametrize("start", [NOON, later(-86400), later(120), None])
    def test_it_takes_over_what_is_open_and_was_not_worked_on(self, incident, start):
        found = self.choose(firing(start), incident)
        assert (found.outcome, found.reason) == ("admitted", "replay of first")
        assert (found.episode, found.starts_at, found.attempt) == (OPEN.episode, NOON, 1)
        assert found.closes and found.opens

    def test_limits_hold_it_back(self):
        found = self.choose(firing(), OPEN, limit=LIMIT)
        assert (found.outcome, found.reason) == ("rate_limited", LIMIT.reason)
        assert (found.episode, found.opens, found.closes) == (OPEN.episode, False, False)
        assert self.choose(firing(), OPEN, limit=LIMIT, force=True).outcome == "admitted"

    def test_what_was_worked_on_is_not_worked_on_again(self):
        found = self.choose(firing(), OPEN, (1, "pack.workflow (e1)"))
        assert (found.outcome, found.episode) == ("duplicate", OPEN.episode)
        assert "first: pack.workflow (e1) has worked" in found.reason
        assert "force=true" in found.reason
        assert not found.closes and not found.opens

    @pytest.mark.parametrize("claimed_by, attempt", [("pack.workflow (e1)", 4), ("", 3)])
    def test_by_force_it_is_another_attempt(self, claimed_by, attempt):
        found = self.choose(firing(), OPEN, (3, claimed_by), force=True)
        assert (found.outcome, found.attempt) == ("admitted", attempt)
        assert found.closes and found.opens

    @pytest.mark.parametrize("incident", [None, OPEN])
    def test_what_has_ended(self, incident):
        start = later(500)
        original = Original("first", later(600), admission.ADMITTED, "fp-500", start)
        found = self.choose(firing(start), incident, original=original)
        assert (found.outcome, found.episode, found.starts_at) == ("duplicate", "fp-500", start)
        assert found.reason == "replay of first: nothing open, the incident has ended"
        found = self.choose(firing(start), incident, (2, ""), LIMIT, True, original)
        assert (found.outcome, found.episode, found.attempt) == ("admitted", "fp-500", 3)
        assert not found.opens and not found.closes

    @pytest.mark.parametrize(
        "incident, outcome, expected",
        [
            (None, "duplicate", ("duplicate", "nothing open")),
            (OPEN, "duplicate", ("resolved", "ends what the-first brought")),
            # It ended another, under the same name: Alertmanager lost sight of the alert.
            (OPEN, "resolved", ("duplicate", "replay of first: what is open came later")),
            (
                Incident("r", "fp-1", later(61), admission.ADMITTED),
                "duplicate",
                ("duplicate", "replay of first: what is open came later"),
            ),
        ],
    )
    def test_a_resolve(self, incident, outcome, expected):
        original = Original("first", later(60), outcome, "", NOON)
        for force in (False, True):
            found = self.choose(resolved(later(10**6)), incident, force=force, original=original)
            assert (found.outcome, found.reason) == expected
            assert found.closes == (expected[0] == "resolved")


class Reference:
    """The rules of the design, said once more and as plainly as possible, for one fingerprint."""

    def __init__(self, cooldown):
        self.cooldown = cooldown
        self.open = None  # (start, admitted)
        self.resolves = []
        self.last_admitted = None

    def expected(self, status, start, end, now):
        if status == "resolved":
            if self.open is None or (end is not None and end < self.open[0]):
                outcome = "duplicate"
            else:
                outcome = "resolved"
                self.open = None
            self.resolves.append(end)
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
        elif any(end >= start for end in self.resolves):
            return "duplicate"
        self.open = (start, not cooled)
        if cooled:
            return "cooldown"
        self.last_admitted = now
        return "admitted"


class Book:
    """The least that keeps what decide() asks for."""

    def __init__(self, cooldown):
        self.cooldown = cooldown
        self.incident = None
        self.resolves = []
        self.admitted_at = None

    def take(self, alert, now):
        def limit():
            if self.admitted_at is not None and now < self.admitted_at + self.cooldown:
                return Decision("cooldown", "until later")
            return None

        found = decide(
            alert,
            later(now),
            self.incident,
            SKEW,
            lambda start: any(end >= start for end in self.resolves),
            limit,
        )
        if found.closes:
            self.incident = None
        if found.opens:
            assert self.incident is None
            self.incident = Incident("r", found.episode, found.starts_at, found.outcome)
        if found.outcome == "admitted":
            self.admitted_at = now
        if alert.status == "resolved":
            self.resolves.append(alert.ends_at)
        return found


times = st.integers(0, 1000)
notifications = st.lists(
    st.tuples(st.sampled_from(["firing", "resolved"]), times, times), min_size=1, max_size=15
)


@settings(max_examples=300)
@given(notifications, st.sampled_from([0, 100, 400]))
def test_any_sequence_goes_as_the_reference_says(sequence, cooldown):
    reference, book = Reference(cooldown), Book(cooldown)
    for now, (status, start, end) in enumerate(sequence):
        now *= 60
        alert = Alert(
            0, status=status, starts_at=later(start), ends_at=later(end), fingerprint="fp"
        )
        assert book.take(alert, now).outcome == reference.expected(status, start, end, now)
        assert (book.incident is None) == (reference.open is None)
