"""A minimal in-memory state of one label set for decide()."""

from __future__ import annotations

import datetime
from dataclasses import replace

from poundcake.trail import admission
from poundcake.trail.admission import Limit, OpenIncident, Resolve, Situation
from poundcake.trail.outcomes import Outcome

SKEW = datetime.timedelta(seconds=120)


class OneFingerprint:
    """Decides about the alerts of one label set, as AdmissionState does with its tables."""

    def __init__(self, cooldown=0):
        self.cooldown = datetime.timedelta(seconds=cooldown)
        self.incident = None
        self.opened_at = None  # when the row that opened the incident was recorded
        self.resolves = []
        self.admitted_at = None
        self.episodes = set()

    def decide(self, alert, received_at, now, may_start=True):
        """Decide about an alert that was received at `received_at` and is recorded now."""
        situation = self.situation(now, may_start)
        decision = admission.decide(alert, received_at, situation)
        self.apply(alert, decision, received_at, now)
        if alert.status == "resolved":
            self.resolves.append(Resolve(alert.ends_at, received_at))
        return decision

    def confirm(self, alert, now):
        """Decide about a long unconfirmed incident, as a round of sync does.

        Args:
            alert: The alert that opened the incident.
            now: The time of the round.
        """
        held = self.incident
        if held is None or held.outcome != Outcome.UNCONFIRMED:
            return None
        if now - self.opened_at < admission.CONFIRM_AFTER:
            return None
        decision = admission.decide_confirmed(held, self.situation(now))
        self.apply(alert, decision, held.last_seen_at, now)
        return decision

    def situation(self, now, may_start=True):
        cools = self.admitted_at is not None and now < self.admitted_at + self.cooldown
        limit = Limit(Outcome.COOLDOWN, "until later", now) if cools else None
        return Situation(
            self.incident, SKEW, list(self.resolves), limit, may_start, self.episodes.copy()
        )

    def apply(self, alert, found, heard_at, now):
        before, is_new = self.incident, found.opens and found.episode not in self.episodes
        if found.closes:
            assert before is not None
            self.incident = None
        if found.opens:
            assert self.incident is None, "two incidents are open"
            is_same = before and before.episode == found.episode
            assert is_new or is_same, f"two incidents have the name {found.episode}"
            self.opened_at = now
            self.incident = OpenIncident(
                "r", found.episode, found.starts_at, found.outcome, heard_at, alert.starts_at
            )
        if found.episode:
            self.episodes.add(found.episode)
        continues = before and found.episode == before.episode
        if self.incident and alert.status == "firing" and continues:
            self.incident = replace(
                self.incident,
                last_seen_at=max(before.last_seen_at, heard_at),
                sender_starts_at=before.sender_starts_at or alert.starts_at,
            )
        if found.outcome == Outcome.ADMITTED:
            self.admitted_at = now
