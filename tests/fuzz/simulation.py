"""PoundCake in the simulation of alertmanagers.py, and the invariants of its views and actions.

Two endpoints accept requests and announce them in batches, sometimes late and out of order. The
real functions of poundcake.trail.admission decide about them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from poundcake.alertmanager import Alert
from poundcake.announcement import Request
from poundcake.trail import record
from poundcake.trail.outcomes import EndedBy, Outcome
from tests.fuzz.alertmanagers import MINUTE, World
from tests.lib.samples import later
from tests.lib.trail.one_fingerprint import OneFingerprint

SKEW = 120
"""Seconds by which a later start supersedes the open incident."""
GRACE = 90
"""Seconds after a resolve in which a firing copy may be stale, as documented."""
UNCONFIRMED_AT_MOST = 10 * MINUTE
"""Seconds until an unconfirmed incident is decided: CONFIRM_AFTER and some rounds of sync."""
TIE = 0.1
"""Requests that two endpoints receive within this time may be ordered either way."""


class Violation(AssertionError):
    """An invariant is violated. The message contains the timeline."""


class Simulation(World):
    """One seed. run_all() raises Violation, or counts the observed cases in `seen`."""

    def __init__(self, seed, plan=None):
        super().__init__(seed, plan)
        self.state = OneFingerprint()
        self.received = []
        self.seen = Counter()
        self.waiting = ([], [])  # by endpoint: the requests that it has not announced yet
        self.unrecorded = 0
        self.opening = None  # the notification and the alert that opened the open incident
        self.last_firing = {}  # by Alertmanager: the last recorded one, in order of receipt
        self.resolves = []  # the recorded ones
        self.admitted = None  # the last notification admitted
        self.last_confirmed = False
        # The error with which the endpoints measure how far their clocks are ahead.
        self.errors = [self.rng.choice([0, self.rng.uniform(-0.04, 0.04)]) for _ in range(2)]
        self.after(self.rng.uniform(0, MINUTE), self.sync)

    def run_all(self):
        try:
            self.run(self.plan.end)
            while self.unrecorded:
                self.run(self.now + 1)
            self.check_the_end()
        except AssertionError as error:
            raise Violation(self.report(str(error))) from error
        return self.seen

    def report(self, problem):
        shown = {name: value for name, value in vars(self.plan).items() if name != "noise"}
        plan = "  ".join(f"{name}={value}" for name, value in shown.items())
        return f"seed {self.plan.seed}: {problem}\n{plan}\n{self.readable()}\n{problem}"

    # The endpoints

    def accept(self, sent):
        note = replace(
            sent,
            number=len(self.received) + 1,
            received_at=self.now,
            endpoint=self.rng.randrange(2),
        )
        self.received.append(note)
        self.unrecorded += 1
        self.say("received", "{}, startsAt {} endsAt {}", note, note.starts_at, note.ends_at)
        waiting = self.waiting[note.endpoint]
        waiting.append(note)
        self.after(self.rng.uniform(0.01, 1), self.announce, note.endpoint)

    def announce(self, endpoint):
        waiting = self.waiting[endpoint]
        if not waiting:
            return
        batch = list(waiting)
        waiting.clear()
        if self.now < self.forgetful_until and self.rng.random() < 0.6:
            for note in batch:  # each is announced again separately
                self.after(self.rng.uniform(20, 200), self.announce_again, note)
            return
        self.after(self.rng.uniform(0.05, 3), self.record, endpoint, batch)

    def announce_again(self, note):
        self.waiting[note.endpoint].append(note)
        self.announce(note.endpoint)

    # Recording

    def record(self, endpoint, batch):
        offset = self.plan.endpoint_offsets[endpoint]
        now = later(self.now)
        requests = [
            Request(str(n), later(note.received_at + offset), "", "", "POST", "/", {}, "")
            for n, note in enumerate(batch)
        ]
        measured = later(offset + self.errors[endpoint]) - later(0)
        for request in record._by_database_clock(requests, measured, now):
            note = batch[int(request.request_id)]
            alert = self.alert(note)
            before = self.state.incident
            decision = self.state.decide(alert, request.received_at, now)
            self.say("recorded", "#{}: {}, {}", note.number, decision.outcome, decision.reason)
            self.seen[decision.outcome.value] += 1
            note.recorded_at = self.now
            self.unrecorded -= 1
            self.note_recorded(note)
            if decision.opens:
                self.opening = note, alert
                assert decision.starts_at <= request.received_at, "it begins after it was received"
            if decision.outcome == Outcome.ADMITTED:
                self.judge_admission(note, decision, before)
        self.check()

    def alert(self, note):
        without = self.plan.without
        starts_at = None if "startsAt" in without else later(note.starts_at)
        ends_at = None if note.ends_at is None or "endsAt" in without else later(note.ends_at)
        return Alert(0, status=note.status, starts_at=starts_at, ends_at=ends_at, fingerprint="fp")

    def note_recorded(self, note):
        if note.status == "resolved":
            self.resolves.append(note)
            return
        last = self.last_firing.get(note.sender)
        if last is None or last.received_at < note.received_at:
            self.last_firing[note.sender] = note

    def sync(self):
        self.after(MINUTE, self.sync)
        if self.opening:
            note, alert = self.opening
            incident = self.state.incident
            decision = self.state.confirm(alert, later(self.now))
            if decision:
                self.say("sync", "{}, {}", decision.outcome, decision.reason)
                self.seen["confirmed"] += 1
                self.judge_confirmation(note)
                self.admitted = note
            elif incident and incident.outcome == Outcome.UNCONFIRMED:
                waited = (later(self.now) - self.state.opened_at).total_seconds()
                assert waited < UNCONFIRMED_AT_MOST, "it stays unconfirmed"
        self.check()

    # The invariants

    def judge_admission(self, note, decision, before):
        """Check that it was right to admit an alert when its notification was recorded."""
        resolves = [
            r
            for r in self.resolves
            if r.flushed_at >= note.flushed_at
            and not self.is_tie(r, note)
            and self.is_same_occurrence(note, r)
        ]
        overtaking = [r for r in resolves if r.received_at > note.received_at]
        assert not overtaking, f"#{note.number} is late and was admitted"
        if resolves and not self.was_active(note.received_at, self.now):
            last = max(r.received_at for r in resolves)
            is_slow = note.received_at - last >= GRACE
            self.seen["a copy came after the grace"] += is_slow
            assert is_slow, f"#{note.number} is a stale copy and was admitted"
        previous, self.admitted = self.admitted, note
        if previous is None:
            return
        self.seen["superseded"] += decision.ended_by == EndedBy.SUPERSEDED
        if self.was_inactive(previous.flushed_at, note.flushed_at):
            return
        if decision.ended_by == EndedBy.SUPERSEDED and note.starts_at - previous.starts_at > SKEW:
            return
        between = [
            r
            for r in self.resolves
            if previous.received_at - TIE < r.received_at < note.received_at + TIE
        ]
        assert between, f"#{note.number} and #{previous.number} are one occurrence"
        last = max(r.received_at for r in between)
        is_new = note.starts_at > previous.starts_at and not any(
            self.is_same_occurrence(note, r) for r in between
        )
        if not is_new and self.has_close_occurrences(note):
            # They count as one incident, which the resolve of the first one may end.
            self.seen["admitted again, with occurrences within the skew"] += 1
            return
        assert note.received_at - last >= GRACE - TIE or is_new, (
            f"#{note.number} was admitted although it did not stay for {GRACE} s"
        )
        self.seen["admitted again, after a resolve of a peer"] += 1

    def has_close_occurrences(self, note):
        """Return True if an occurrence began less than SKEW before that of a notification."""
        began = [note.starts_at - other.starts_at for other in self.received]
        return any(0 < seconds <= SKEW for seconds in began)

    def judge_confirmation(self, note):
        """Check that it was right to admit an unconfirmed incident."""
        if self.was_active(note.received_at, self.now):
            return
        excuse = self.excuse()
        self.seen[f"a stale copy was confirmed: {excuse}"] += 1
        assert excuse, f"#{note.number} was a stale copy and was confirmed"

    def check(self):
        """Check the current view."""
        shown = self.state.incident is not None
        last_resolve = max((r.received_at for r in self.resolves), default=-1.0)
        for peer in self.alertmanagers:
            firing = self.last_firing.get(peer)
            if peer.is_active and firing and firing.flushed_at >= peer.intervals[-1][0]:
                has_ended = last_resolve > firing.received_at - TIE
                assert shown or has_ended, f"{peer.name} has notified (#{firing.number}): not shown"
        if shown and self.has_ended():
            last = self.received[-1]
            assert self.ends_an_earlier_one(last), f"shown after its resolve #{last.number}"
            self.seen["shown after a resolve of an earlier occurrence"] += 1

    def has_ended(self):
        """Return True if nothing is active, and the last received notification reports that."""
        if self.unrecorded or not self.received or self.is_active():
            return False
        last = self.received[-1]
        if last.status != "resolved":
            return False
        if any(n.status == "firing" and self.is_tie(n, last) for n in self.received[-5:]):
            return False
        began = [peer.intervals[-1][0] for peer in self.alertmanagers if peer.intervals]
        return all(start <= last.flushed_at for start in began)

    def check_the_end(self):
        """Check the invariants after a time without faults."""
        shown = self.state.incident is not None
        # Alertmanager reports an end with the next flush of the group.
        since = self.now - self.plan.group_interval - 2 * MINUTE
        if not self.was_active(since, self.now):
            excuse = self.excuse() if shown else ""
            self.seen[f"stale at the end: {excuse}"] += shown
            assert not shown or excuse, "shown at the end, and nothing is active"
        if not self.is_active():
            return
        self.seen["active at the end"] += 1
        held = [p for p in self.alertmanagers if p.is_active]
        long_since = self.now - self.plan.calm
        if len(held) == len(self.alertmanagers) and all(
            p.intervals[-1][0] < long_since for p in held
        ):
            excuse = self.excuse() if not shown else ""
            self.seen[f"hidden at the end: {excuse}"] += not shown
            assert shown or excuse, "not shown at the end, and all hold it active"
            assert not shown or self.state.incident.outcome == Outcome.ADMITTED, "never admitted"

    def excuse(self):
        """Return a fault for which no receiver can compensate, or an empty string."""
        peers = self.alertmanagers
        if any(p.restarts for p in peers):
            return "an Alertmanager restarted"
        if any(p.lost_entries for p in peers):
            return "the clocks of the peers differ"
        if any(p.ghosts for p in peers):
            return "an Alertmanager gave up"
        if self.unrecorded:
            return "a request waits to be recorded"
        if self.received and self.ends_an_earlier_one(self.received[-1]):
            return "the last resolve names an end before the start"
        return ""

    def ends_an_earlier_one(self, resolve):
        """Return True if the end in a resolve is before the last start that Alertmanager sent."""
        if self.plan.without or resolve.status != "resolved":
            return False
        firing = [n.starts_at for n in self.received if n.status == "firing"]
        return resolve.ends_at < max(firing)

    def is_same_occurrence(self, firing, resolve):
        return bool(self.plan.without) or resolve.ends_at >= firing.starts_at

    @staticmethod
    def is_tie(one, other):
        return abs(one.received_at - other.received_at) < TIE
