"""Add PoundCake to the simulation of alertmanagers.py, and check the invariants of its views.

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
from tests.lib.trail.in_memory_admission import InMemoryAdmission

SKEW = 120
"""An alert that starts this many seconds later supersedes the open incident."""
GRACE = 90
"""Seconds after a resolve during which a firing notification may be stale."""
MAX_UNCONFIRMED = 10 * MINUTE
"""Seconds until an unconfirmed incident must be decided: CONFIRM_AFTER plus some rounds of sync."""
TIE = 0.1
"""Requests that two endpoints receive within this many seconds may be ordered either way."""


class Violation(AssertionError):
    """An invariant is violated. The message contains the timeline."""


class Simulation(World):
    """The simulation of one seed. run_all() raises Violation, or returns the observed cases."""

    def __init__(self, seed, plan=None):
        super().__init__(seed, plan)
        self.state = InMemoryAdmission()
        self.received = []
        self.case_counts = Counter()
        self.unannounced = ([], [])  # for each endpoint, the requests that it has not announced yet
        self.unrecorded = 0
        self.opened_by = None  # the notification and the alert that opened the open incident
        self.last_firing = {}  # {Alertmanager: its last received, recorded firing notification}
        self.resolves = []  # the recorded resolves
        self.admitted = None  # the notification that was admitted last
        # The error of each endpoint when it measures how far its clock is ahead.
        self.errors = [self.rng.choice([0, self.rng.uniform(-0.04, 0.04)]) for _ in range(2)]
        self.schedule(self.rng.uniform(0, MINUTE), self.sync)

    def run_all(self):
        """Run until everything is recorded, and return {case: how often it was observed}."""
        try:
            self.run(self.plan.end)
            while self.unrecorded:
                self.run(self.now + 1)
            self.check_end()
        except AssertionError as error:
            raise Violation(self.report(str(error))) from error
        return self.case_counts

    def report(self, problem):
        plan = "  ".join(
            f"{name}={value}" for name, value in vars(self.plan).items() if name != "noise"
        )
        return f"seed {self.plan.seed}: {problem}\n{plan}\n{self.format_timeline()}\n{problem}"

    # The endpoints

    def accept(self, sent_notification):
        notification = replace(
            sent_notification,
            number=len(self.received) + 1,
            received_at=self.now,
            endpoint=self.rng.randrange(2),
        )
        self.received.append(notification)
        self.unrecorded += 1
        self.log_event(
            "received",
            "{}, startsAt {} endsAt {}",
            notification,
            notification.starts_at,
            notification.ends_at,
        )
        unannounced = self.unannounced[notification.endpoint]
        unannounced.append(notification)
        self.schedule(self.rng.uniform(0.01, 1), self.announce, notification.endpoint)

    def announce(self, endpoint):
        unannounced = self.unannounced[endpoint]
        if not unannounced:
            return
        batch = list(unannounced)
        unannounced.clear()
        if self.now < self.announcements_lost_until and self.rng.random() < 0.6:
            for notification in batch:  # each is announced again separately
                self.schedule(self.rng.uniform(20, 200), self.announce_again, notification)
            return
        self.schedule(self.rng.uniform(0.05, 3), self.record, endpoint, batch)

    def announce_again(self, notification):
        self.unannounced[notification.endpoint].append(notification)
        self.announce(notification.endpoint)

    # Recording

    def record(self, endpoint, batch):
        offset = self.plan.endpoint_offsets[endpoint]
        now = later(self.now)
        requests = [
            Request(str(n), later(notification.received_at + offset), "", "", "POST", "/", {}, "")
            for n, notification in enumerate(batch)
        ]
        measured = later(offset + self.errors[endpoint]) - later(0)
        for request in record._convert_to_database_clock(requests, measured, now):
            notification = batch[int(request.request_id)]
            alert = self.alert(notification)
            previous_incident = self.state.incident
            decision = self.state.decide(alert, request.received_at, now)
            self.log_event(
                "recorded", "#{}: {}, {}", notification.number, decision.outcome, decision.reason
            )
            self.case_counts[decision.outcome.value] += 1
            notification.recorded_at = self.now
            self.unrecorded -= 1
            self.add_recorded(notification)
            if decision.opens:
                self.opened_by = notification, alert
                assert decision.starts_at <= request.received_at, (
                    "the episode begins after its first notification"
                )
            if decision.outcome == Outcome.ADMITTED:
                self.check_admission(notification, decision, previous_incident)
        self.check()

    def alert(self, notification):
        omitted_fields = self.plan.omitted_fields
        starts_at = None if "startsAt" in omitted_fields else later(notification.starts_at)
        ends_at = (
            None
            if notification.ends_at is None or "endsAt" in omitted_fields
            else later(notification.ends_at)
        )
        return Alert(
            0, status=notification.status, starts_at=starts_at, ends_at=ends_at, fingerprint="fp"
        )

    def add_recorded(self, notification):
        """Remember a recorded notification for the checks."""
        if notification.status == "resolved":
            self.resolves.append(notification)
            return
        last = self.last_firing.get(notification.sender)
        if last is None or last.received_at < notification.received_at:
            self.last_firing[notification.sender] = notification

    def sync(self):
        self.schedule(MINUTE, self.sync)
        if self.opened_by:
            notification, alert = self.opened_by
            incident = self.state.incident
            decision = self.state.confirm(alert, later(self.now))
            if decision:
                self.log_event("sync", "{}, {}", decision.outcome, decision.reason)
                self.case_counts["confirmed"] += 1
                self.check_confirmation(notification)
                self.admitted = notification
            elif incident and incident.outcome == Outcome.UNCONFIRMED:
                waited_seconds = (later(self.now) - self.state.opened_at).total_seconds()
                assert waited_seconds < MAX_UNCONFIRMED, "the incident stays unconfirmed"
        self.check()

    # The invariants

    def check_admission(self, notification, decision, previous_incident):
        """Check that it was right to admit the alert of a recorded notification."""
        resolves = [
            r
            for r in self.resolves
            if r.flushed_at >= notification.flushed_at
            and not self.is_tie(r, notification)
            and self.is_same_occurrence(notification, r)
        ]
        overtaking = [r for r in resolves if r.received_at > notification.received_at]
        assert not overtaking, f"#{notification.number} is late and was admitted"
        if resolves and not self.was_active(notification.received_at, self.now):
            last = max(r.received_at for r in resolves)
            is_slow = notification.received_at - last >= GRACE
            self.case_counts["a copy was received after the grace period"] += is_slow
            assert is_slow, f"#{notification.number} is a stale copy and was admitted"
        previous, self.admitted = self.admitted, notification
        if previous is None:
            return
        self.case_counts["superseded"] += decision.ended_by == EndedBy.SUPERSEDED
        if self.was_inactive(previous.flushed_at, notification.flushed_at):
            return
        if (
            decision.ended_by == EndedBy.SUPERSEDED
            and notification.starts_at - previous.starts_at > SKEW
        ):
            return
        resolves_between = [
            r
            for r in self.resolves
            if previous.received_at - TIE < r.received_at < notification.received_at + TIE
        ]
        assert resolves_between, f"#{notification.number} and #{previous.number} are one occurrence"
        last = max(r.received_at for r in resolves_between)
        is_new = notification.starts_at > previous.starts_at and not any(
            self.is_same_occurrence(notification, r) for r in resolves_between
        )
        if not is_new and self.has_close_occurrences(notification):
            # Both occurrences are one incident, which the resolve of the first one may close.
            self.case_counts["admitted again, with occurrences within the skew"] += 1
            return
        assert notification.received_at - last >= GRACE - TIE or is_new, (
            f"#{notification.number} was admitted although it did not stay for {GRACE} s"
        )
        self.case_counts["admitted again, after a resolve from a peer"] += 1

    def has_close_occurrences(self, notification):
        """Return True if another occurrence began at most SKEW before the one in a notification."""
        delays = [notification.starts_at - other.starts_at for other in self.received]
        return any(0 < seconds <= SKEW for seconds in delays)

    def check_confirmation(self, notification):
        """Check that it was right to admit an unconfirmed incident."""
        if self.was_active(notification.received_at, self.now):
            return
        excuse = self.excuse()
        self.case_counts[f"a stale copy was confirmed: {excuse}"] += 1
        assert excuse, f"#{notification.number} was a stale copy and was confirmed"

    def check(self):
        """Check that the alert is shown exactly when it should be."""
        is_shown = self.state.incident is not None
        last_resolve = max((r.received_at for r in self.resolves), default=-1.0)
        for peer in self.alertmanagers:
            firing = self.last_firing.get(peer)
            if peer.is_active and firing and firing.flushed_at >= peer.intervals[-1][0]:
                is_resolved = last_resolve > firing.received_at - TIE
                assert is_shown or is_resolved, (
                    f"not shown, although {peer.name} has sent #{firing.number}"
                )
        if is_shown and self.has_ended():
            last = self.received[-1]
            assert self.ends_earlier_occurrence(last), f"shown after its resolve #{last.number}"
            self.case_counts["shown after a resolve of an earlier occurrence"] += 1

    def has_ended(self):
        """Return True if nothing is active, and the last received notification reports that."""
        if self.unrecorded or not self.received or self.is_active():
            return False
        last = self.received[-1]
        if last.status != "resolved":
            return False
        if any(n.status == "firing" and self.is_tie(n, last) for n in self.received[-5:]):
            return False
        starts = [peer.intervals[-1][0] for peer in self.alertmanagers if peer.intervals]
        return all(start <= last.flushed_at for start in starts)

    def check_end(self):
        """Check the invariants at the end of the calm period."""
        is_shown = self.state.incident is not None
        # Alertmanager reports an end with the next flush of the group.
        since = self.now - self.plan.group_interval - 2 * MINUTE
        if not self.was_active(since, self.now):
            excuse = self.excuse() if is_shown else ""
            self.case_counts[f"stale at the end: {excuse}"] += is_shown
            assert not is_shown or excuse, "shown at the end, although nothing is active"
        if not self.is_active():
            return
        self.case_counts["active at the end"] += 1
        active_peers = [p for p in self.alertmanagers if p.is_active]
        calm_since = self.now - self.plan.calm_period
        if len(active_peers) == len(self.alertmanagers) and all(
            p.intervals[-1][0] < calm_since for p in active_peers
        ):
            excuse = self.excuse() if not is_shown else ""
            self.case_counts[f"hidden at the end: {excuse}"] += not is_shown
            assert is_shown or excuse, (
                "not shown at the end, although the alert is active in all Alertmanagers"
            )
            assert not is_shown or self.state.incident.outcome == Outcome.ADMITTED, "never admitted"

    def excuse(self):
        """Return a fault for which no receiver can compensate, or an empty string."""
        peers = self.alertmanagers
        if any(p.restarts for p in peers):
            return "an Alertmanager restarted"
        if any(p.lost_entries for p in peers):
            return "the clocks of the peers differ"
        if any(p.abandoned_notifications for p in peers):
            return "an Alertmanager gave up"
        if self.unrecorded:
            return "a request is waiting to be recorded"
        if self.received and self.ends_earlier_occurrence(self.received[-1]):
            return "the last resolve names an end before the start"
        return ""

    def ends_earlier_occurrence(self, resolve):
        """Return True if a resolve ends before the last start that Alertmanager sent."""
        if self.plan.omitted_fields or resolve.status != "resolved":
            return False
        firing = [n.starts_at for n in self.received if n.status == "firing"]
        return resolve.ends_at < max(firing)

    def is_same_occurrence(self, firing, resolve):
        return bool(self.plan.omitted_fields) or resolve.ends_at >= firing.starts_at

    @staticmethod
    def is_tie(first, second):
        return abs(first.received_at - second.received_at) < TIE
