"""Which alert may start a remediation: one decision for each alert, with its reason.

An episode is one occurrence of one label set, named ``<fingerprint>-<startsAt in ms>`` when it is
first admitted. Alertmanager moves startsAt (of an HA Prometheus pair, one posts an earlier one),
so what counts is the open incident of the fingerprint, not the time that a notification brings.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Callable

from poundcake.alertmanager import FIRING, Alert, episode_name
from poundcake.timestamps import format_timestamp

MALFORMED = "malformed"
RESOLVED = "resolved"
DUPLICATE = "duplicate"
COOLDOWN = "cooldown"
RATE_LIMITED = "rate_limited"
ADMITTED = "admitted"

# What rules get to see, as poundcake.alert.
EMITTED = (ADMITTED, RESOLVED)


# How long a notification may be on its way. One that comes later than its resolve by more is no
# straggler.
LATE = timedelta(minutes=10)


@dataclass(frozen=True)
class Incident:
    """The open incident of a fingerprint: the row of poundcake_alerts that holds it."""

    request_id: str
    episode: str
    starts_at: datetime
    outcome: str


@dataclass(frozen=True)
class Decision:
    """What becomes of an alert.

    closes: the open incident ends with it. opens: the alert's row becomes the open incident.
    attempt: which attempt at its episode it is, from 1.
    """

    outcome: str
    reason: str
    episode: str = ""
    starts_at: datetime | None = None
    closes: bool = False
    opens: bool = False
    attempt: int = 1


@dataclass(frozen=True)
class Original:
    """An alert on record that a replay brings again, and the request that brought it."""

    request_id: str
    received_at: datetime
    outcome: str
    episode: str
    starts_at: datetime | None


def decide(
    alert: Alert,
    received_at: datetime,
    incident: Incident | None,
    skew: timedelta,
    resolved_since: Callable[[datetime], bool],
    limit: Callable[[], Decision | None],
) -> Decision:
    """The outcome of one alert.

    incident: the open incident of its fingerprint, if any. skew: how much later an open incident
    may start and still be the same. resolved_since(start): whether a resolve of the fingerprint
    is on record that ends at or after start. limit(): the cooldown or rate limit that forbids the
    alert, if any. Both are asked only where their answer counts.
    """
    if alert.problem:
        return Decision(MALFORMED, alert.problem)
    if alert.status != FIRING:
        return _resolve(alert, incident)
    if incident:
        starts_at = alert.starts_at or incident.starts_at
        if _is_same(alert, incident, skew):
            if incident.outcome == ADMITTED:
                return Decision(
                    DUPLICATE, f"duplicate of {incident.request_id}", incident.episode, starts_at
                )
            # It is open, but nothing was started for it yet: this may be the first notification
            # after its cooldown.
            refused = limit()
            if refused:
                return Decision(refused.outcome, refused.reason, incident.episode, starts_at)
            return Decision(
                ADMITTED,
                f"first notification after {incident.outcome.replace('_', ' ')}",
                incident.episode,
                incident.starts_at,
                closes=True,
                opens=True,
            )
    else:
        starts_at = alert.starts_at or received_at
        if resolved_since(starts_at):
            return Decision(
                DUPLICATE,
                "late: its resolve is already on record",
                episode_name(alert.fingerprint, starts_at),
                starts_at,
            )
    name = episode_name(alert.fingerprint, starts_at)
    refused = limit()
    began = f"new incident, supersedes {incident.episode}" if incident else "new incident"
    return Decision(
        refused.outcome if refused else ADMITTED,
        refused.reason if refused else began,
        name,
        starts_at,
        closes=bool(incident),
        opens=True,
    )


def replay(
    alert: Alert,
    original: Original,
    incident: Incident | None,
    skew: timedelta,
    work: Callable[[str], tuple[int, str]],
    limit: Callable[[], Decision | None],
    force: bool,
) -> Decision:
    """The outcome of an alert that a replay brings again.

    incident, skew, limit: as for decide(). work(episode): the highest attempt at an episode, and
    who has claimed it last, empty where nobody holds a claim. force: whether to work on it again
    although it was worked on, or has ended.
    """
    why = f"replay of {original.request_id}"
    if alert.status != FIRING:
        # What it ended itself cannot be what is open.
        if incident and (original.outcome == RESOLVED or incident.starts_at > original.received_at):
            return Decision(DUPLICATE, f"{why}: what is open came later", starts_at=alert.starts_at)
        return _resolve(alert, incident)
    if incident and _is_same(alert, incident, skew):
        attempt, claimed_by = work(incident.episode)
        starts_at = alert.starts_at or incident.starts_at
        if claimed_by and not force:
            return Decision(
                DUPLICATE,
                f"{why}: {claimed_by} has worked on this episode; force=true runs it again",
                incident.episode,
                starts_at,
            )
        refused = None if force else limit()
        if refused:
            return Decision(refused.outcome, refused.reason, incident.episode, starts_at)
        return Decision(
            ADMITTED,
            why,
            incident.episode,
            incident.starts_at,
            closes=True,
            opens=True,
            # Where nobody has claimed it, an execution of the last attempt may still be about to.
            attempt=attempt + 1 if claimed_by else attempt,
        )
    if not force:
        return Decision(
            DUPLICATE,
            f"{why}: nothing open, the incident has ended",
            original.episode,
            original.starts_at,
        )
    # Nothing is firing, and nobody would ever resolve it: it opens no incident.
    attempt = work(original.episode)[0] + 1
    return Decision(ADMITTED, why, original.episode, original.starts_at, attempt=attempt)


def _is_same(alert: Alert, incident: Incident, skew: timedelta) -> bool:
    starts_at = alert.starts_at or incident.starts_at
    return starts_at - incident.starts_at <= skew


def _resolve(alert: Alert, incident: Incident | None) -> Decision:
    if not incident:
        return Decision(DUPLICATE, "nothing open", starts_at=alert.starts_at)
    if alert.ends_at and alert.ends_at < incident.starts_at:
        return Decision(
            DUPLICATE,
            f"ended before {incident.episode} began at {format_timestamp(incident.starts_at)}",
            starts_at=alert.starts_at,
        )
    return Decision(
        RESOLVED,
        f"ends what {incident.request_id} brought",
        incident.episode,
        alert.starts_at or incident.starts_at,
        closes=True,
    )
