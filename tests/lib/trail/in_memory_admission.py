"""Keep the admission state of one label set in memory, to test decide() without a database."""

from __future__ import annotations

import datetime
from dataclasses import replace

from poundcake.trail import admission
from poundcake.trail.admission import Limit, OpenIncident, Resolve, Situation
from poundcake.trail.outcomes import Outcome

SKEW = datetime.timedelta(seconds=120)


class InMemoryAdmission:
    """Decide about the alerts of one label set, like AdmissionState but without tables."""

    def __init__(self, cooldown=0):
        self.cooldown = datetime.timedelta(seconds=cooldown)
        self.incident = None
        self.opened_at = None  # when the row that opened the incident was recorded
        self.resolves = []
        self.admitted_at = None
        self.episodes = set()

    def decide(self, alert, received_at, now, may_start=True):
        """Decide about an alert that was received at `received_at` and is recorded at `now`."""
        situation = self.build_situation(now, may_start)
        decision = admission.decide(alert, received_at, situation)
        self.apply(alert, decision, received_at, now)
        if alert.status == "resolved":
            self.resolves.append(Resolve(alert.ends_at, received_at))
        return decision

    def confirm(self, alert, now):
        """Decide about an incident that has been unconfirmed for too long, as sync does.

        Args:
            alert: The alert that opened the incident.
            now: The time of the round of sync.

        Returns:
            The decision, or None if no decision is due.
        """
        incident = self.incident
        if incident is None or incident.outcome != Outcome.UNCONFIRMED:
            return None
        if now - self.opened_at < admission.CONFIRM_AFTER:
            return None
        decision = admission.decide_confirmed(incident, self.build_situation(now))
        self.apply(alert, decision, incident.last_seen_at, now)
        return decision

    def build_situation(self, now, may_start=True):
        in_cooldown = self.admitted_at is not None and now < self.admitted_at + self.cooldown
        limit = Limit(Outcome.COOLDOWN, "until later", now) if in_cooldown else None
        return Situation(
            self.incident, SKEW, list(self.resolves), limit, may_start, self.episodes.copy()
        )

    def apply(self, alert, decision, received_at, now):
        previous = self.incident
        is_new = decision.opens and decision.episode not in self.episodes
        if decision.closes:
            assert previous is not None
            self.incident = None
        if decision.opens:
            assert self.incident is None, "two incidents are open"
            is_same = previous and previous.episode == decision.episode
            assert is_new or is_same, f"two incidents share the name {decision.episode}"
            self.opened_at = now
            self.incident = OpenIncident(
                request_id="r",
                episode=decision.episode,
                starts_at=decision.starts_at,
                outcome=decision.outcome,
                last_seen_at=received_at,
                sender_starts_at=alert.starts_at,
            )
        if decision.episode:
            self.episodes.add(decision.episode)
        continues = previous and decision.episode == previous.episode
        if self.incident and alert.status == "firing" and continues:
            self.incident = replace(
                self.incident,
                last_seen_at=max(previous.last_seen_at, received_at),
                sender_starts_at=previous.sender_starts_at or alert.starts_at,
            )
        if decision.outcome == Outcome.ADMITTED:
            self.admitted_at = now
