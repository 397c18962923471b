"""Decide which alert may start a remediation, and why another one may not.

An episode is one occurrence of one label set, named ``<fingerprint>-<startsAt in ms>`` when it is
first admitted. Alertmanager moves startsAt (of an HA pair of Prometheus servers, one posts an
earlier one), so an alert belongs to the open incident of its fingerprint, whatever start it names.

Everything here is a pure function of what is on record. AdmissionState reads and updates that.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Mapping, Sequence

from poundcake.alertmanager import FIRING, Alert, episode_name
from poundcake.timestamps import format_timestamp
from poundcake.trail.outcomes import Outcome

# How long a notification may be on its way. One that comes later than its resolve by more was not
# overtaken by it.
LATE = timedelta(minutes=10)


@dataclass(frozen=True)
class OpenIncident:
    """The open incident of a fingerprint: the row of poundcake_alerts that opened it."""

    request_id: str
    episode: str
    starts_at: datetime
    outcome: str


@dataclass(frozen=True)
class Resolve:
    """A resolve on record: when the alert ended, and when the request with it was received."""

    ends_at: datetime
    received_at: datetime


@dataclass(frozen=True)
class Limit:
    """A cooldown or rate limit that holds an alert back, and when that ends."""

    outcome: Outcome
    reason: str
    held_until: datetime


@dataclass(frozen=True)
class Situation:
    """What is on record about an alert's label set at the moment at which the alert is decided.

    Attributes:
        incident: Its open incident.
        skew: How much later an alert may start and still belong to the open incident.
        resolves: Its resolves of the last LATE.
        limit: The cooldown or rate limit that applies to it now.
    """

    incident: OpenIncident | None = None
    skew: timedelta = timedelta(0)
    resolves: Sequence[Resolve] = ()
    limit: Limit | None = None


@dataclass(frozen=True)
class Decision:
    """What recording decides about one alert.

    Attributes:
        outcome: The outcome.
        reason: Why, in one line.
        episode: The episode that the alert belongs to; empty if it belongs to none.
        starts_at: When the episode began.
        closes: The open incident ends with this alert.
        opens: The alert's row becomes the open incident.
        attempt: Which attempt at its episode it is, from 1.
        held_until: When the cooldown or rate limit ends that holds it back.
    """

    outcome: Outcome
    reason: str
    episode: str = ""
    starts_at: datetime | None = None
    closes: bool = False
    opens: bool = False
    attempt: int = 1
    held_until: datetime | None = None


@dataclass(frozen=True)
class Original:
    """An alert on record that is replayed, and the request that contained it."""

    request_id: str
    received_at: datetime
    outcome: str
    episode: str
    starts_at: datetime | None


@dataclass(frozen=True)
class Work:
    """What was done about an episode: the last attempt, and who claimed it last, if anybody."""

    attempt: int = 1
    claimed_by: str = ""


def decide(alert: Alert, received_at: datetime, situation: Situation) -> Decision:
    """Decide about an alert of a webhook.

    Args:
        alert: The alert.
        received_at: When its request was received.
        situation: What is on record about its label set.
    """
    if alert.problem:
        return Decision(Outcome.MALFORMED, alert.problem)
    incident = situation.incident
    if alert.status != FIRING:
        return _decide_resolve(alert, incident)
    if incident and _belongs_to(alert, incident, situation.skew):
        return _decide_repeat(alert, incident, situation.limit)
    return _decide_new(alert, received_at, situation)


def decide_replay(
    alert: Alert, original: Original, situation: Situation, work: Mapping[str, Work], force: bool
) -> Decision:
    """Decide about an alert that a replay brings again.

    Args:
        alert: The alert.
        original: What is on record about it.
        situation: What is on record about its label set.
        work: What was done, by episode.
        force: Work on it again even if it was worked on or has ended.
    """
    why = f"replay of {original.request_id}"
    incident = situation.incident
    if alert.status != FIRING:
        # What it ended itself cannot be the incident that is open now.
        is_newer = incident and incident.starts_at > original.received_at
        if incident and (is_newer or original.outcome == Outcome.RESOLVED):
            return Decision(
                Outcome.DUPLICATE,
                f"{why}: the open incident is a later one",
                starts_at=alert.starts_at,
            )
        return _decide_resolve(alert, incident)
    if incident and _belongs_to(alert, incident, situation.skew):
        done = work.get(incident.episode, Work())
        return _replay_open(alert, incident, done, why, None if force else situation.limit, force)
    if not force:
        return Decision(
            Outcome.DUPLICATE,
            f"{why}: nothing open, the incident has ended",
            original.episode,
            original.starts_at,
        )
    # Nothing is firing, and no resolve would ever come: it opens no incident.
    attempt = work.get(original.episode, Work()).attempt + 1
    return Decision(Outcome.ADMITTED, why, original.episode, original.starts_at, attempt=attempt)


def _belongs_to(alert: Alert, incident: OpenIncident, skew: timedelta) -> bool:
    starts_at = alert.starts_at or incident.starts_at
    return starts_at - incident.starts_at <= skew


def _decide_repeat(alert: Alert, incident: OpenIncident, limit: Limit | None) -> Decision:
    starts_at = alert.starts_at or incident.starts_at
    if incident.outcome == Outcome.ADMITTED:
        return Decision(
            Outcome.DUPLICATE, f"duplicate of {incident.request_id}", incident.episode, starts_at
        )
    # It is open, but nothing was started for it yet: this may be the first notification after its
    # cooldown.
    if limit:
        return _held_back(limit, incident.episode, starts_at)
    return Decision(
        Outcome.ADMITTED,
        f"first notification after {incident.outcome.replace('_', ' ')}",
        incident.episode,
        incident.starts_at,
        closes=True,
        opens=True,
    )


def _decide_new(alert: Alert, received_at: datetime, situation: Situation) -> Decision:
    starts_at = alert.starts_at or received_at
    episode = episode_name(alert.fingerprint, starts_at)
    superseded = situation.incident
    if not superseded and _was_overtaken(starts_at, received_at, situation.resolves):
        return Decision(
            Outcome.DUPLICATE, "late: its resolve is already on record", episode, starts_at
        )
    began = f"new incident, supersedes {superseded.episode}" if superseded else "new incident"
    limit = situation.limit
    return Decision(
        limit.outcome if limit else Outcome.ADMITTED,
        limit.reason if limit else began,
        episode,
        starts_at,
        closes=bool(superseded),
        opens=True,
        held_until=limit.held_until if limit else None,
    )


def _was_overtaken(starts_at: datetime, received_at: datetime, resolves: Sequence[Resolve]) -> bool:
    """Return whether a resolve of the same occurrence was received before this notification."""
    # A resolve that claims to end in the future counts up to the moment at which it was received.
    # One of long ago did not overtake this notification: Alertmanager resolves what it does not
    # hear of, and the same alert, with the same start, fires again once Prometheus is back.
    oldest = max(starts_at, received_at - LATE)
    return any(r.ends_at >= starts_at and r.received_at >= oldest for r in resolves)


def _decide_resolve(alert: Alert, incident: OpenIncident | None) -> Decision:
    if not incident:
        return Decision(Outcome.DUPLICATE, "nothing open", starts_at=alert.starts_at)
    if alert.ends_at and alert.ends_at < incident.starts_at:
        return Decision(
            Outcome.DUPLICATE,
            f"ended before {incident.episode} began at {format_timestamp(incident.starts_at)}",
            starts_at=alert.starts_at,
        )
    return Decision(
        Outcome.RESOLVED,
        f"ends the incident of {incident.request_id}",
        incident.episode,
        alert.starts_at or incident.starts_at,
        closes=True,
    )


def _replay_open(
    alert: Alert, incident: OpenIncident, done: Work, why: str, limit: Limit | None, force: bool
) -> Decision:
    """Decide about a replayed alert whose incident is open: the replay takes it over."""
    starts_at = alert.starts_at or incident.starts_at
    if done.claimed_by and not force:
        return Decision(
            Outcome.DUPLICATE,
            f"{why}: {done.claimed_by} has worked on this episode; force=true runs it again",
            incident.episode,
            starts_at,
        )
    if limit:
        return _held_back(limit, incident.episode, starts_at)
    return Decision(
        Outcome.ADMITTED,
        why,
        incident.episode,
        incident.starts_at,
        closes=True,
        opens=True,
        # If nobody has claimed it, an execution of the last attempt may still be about to.
        attempt=done.attempt + 1 if done.claimed_by else done.attempt,
    )


def _held_back(limit: Limit, episode: str, starts_at: datetime) -> Decision:
    return Decision(limit.outcome, limit.reason, episode, starts_at, held_until=limit.held_until)
