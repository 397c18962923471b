"""Decide which alerts may start a remediation, and give the reason for each decision.

An incident is a period during which a label set fires. It is identified by its episode,
``<fingerprint>-<startsAt in ms>``, which is chosen when its first notification is recorded.
Alertmanager may report another startsAt later, because the servers of a Prometheus HA pair post
different ones. So an alert belongs to the open incident of its fingerprint even if its startsAt is
earlier.

Never compare times from different clocks. Times of receipt come from the database's clock. startsAt
and endsAt come from the sender's clock, and are compared only with each other.

All functions here are pure functions of the recorded state. AdmissionState reads and updates that
state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Container, Mapping, Sequence

from poundcake.alertmanager import FIRING, Alert, episode_name
from poundcake.timestamps import format_timestamp
from poundcake.trail.outcomes import EndedBy, Outcome

REFIRE_GRACE = timedelta(seconds=90)
"""How long after a resolve a firing notification is treated as a possible stale copy.

Each peer of an Alertmanager cluster waits 15 s for every peer that precedes it, and a failed
notification is retried for up to a minute.
"""
CONFIRM_AFTER = timedelta(minutes=6)
"""How long an incident stays unconfirmed. It is confirmed if no resolve arrives in that time.

The peer that sent a stale copy sends its resolve up to group_interval (5 min by default) later.
"""
MAX_CLOCK_ERROR = timedelta(days=1)
"""How far ahead a sender's clock may be. A startsAt further in the future counts as missing."""
# If an incident was opened with one of these outcomes, its end is not emitted either.
_UNEMITTED_OUTCOMES = (Outcome.UNCONFIRMED, Outcome.OBSERVED)
_RECEIVER_NOT_LISTED = "its receiver is not listed in receivers, so it may not start a remediation"


@dataclass(frozen=True)
class OpenIncident:
    """The open incident of a fingerprint, from the row of poundcake_alerts that opened it.

    Attributes:
        starts_at: When it began, or when its first notification was received if that is earlier.
        outcome: The outcome of the alert that opened it.
        last_seen_at: When its last notification was received.
        sender_starts_at: The first startsAt in its notifications, or None if none had one.
        acknowledged_by: Who acknowledged it, or empty if nobody did.
        external_url: The address of the sender of its last notification, or empty.
    """

    request_id: str
    episode: str
    starts_at: datetime
    outcome: str
    last_seen_at: datetime
    sender_starts_at: datetime | None = None
    acknowledged_by: str = ""
    external_url: str = ""


@dataclass(frozen=True)
class Resolve:
    """A recorded resolve: its endsAt, if it has one, and the time it was received."""

    ends_at: datetime | None
    received_at: datetime


@dataclass(frozen=True)
class Limit:
    """A cooldown or rate limit that holds an alert back, and the time it ends."""

    outcome: Outcome
    reason: str
    held_until: datetime


@dataclass(frozen=True)
class Situation:
    """The recorded state of an alert's label set at the time of the decision about the alert.

    Attributes:
        incident: The open incident of the label set.
        skew: How much later an alert may start and still belong to the open incident.
        resolves: The resolves of the label set since REFIRE_GRACE before the alert was received.
        limit: The cooldown or rate limit that applies to the alert now.
        may_start: Whether notifications of the alert's receiver may start a remediation.
        known_episodes: The names of recorded episodes, which a new episode must not use.
    """

    incident: OpenIncident | None = None
    skew: timedelta = timedelta(0)
    resolves: Sequence[Resolve] = ()
    limit: Limit | None = None
    may_start: bool = True
    known_episodes: Container[str] = frozenset()


@dataclass(frozen=True)
class Decision:
    """The decision about an alert that is being recorded.

    Attributes:
        outcome: The outcome.
        reason: The reason for the outcome, in one line.
        episode: The episode of the alert, or empty if it has none.
        starts_at: When the episode began.
        closes: Whether the alert closes the row of the open incident.
        opens: Whether the alert's row becomes the open incident. If the alert also closes a row of
            the same episode, it takes over the incident.
        ended_by: How the closed incident ended, or None if this alert takes the incident over.
        attempt: The number of the attempt at the episode, from 1.
        held_until: When the cooldown or rate limit that holds the alert back ends.
    """

    outcome: Outcome
    reason: str
    episode: str = ""
    starts_at: datetime | None = None
    closes: bool = False
    opens: bool = False
    ended_by: EndedBy | None = None
    attempt: int = 1
    held_until: datetime | None = None


@dataclass(frozen=True)
class Original:
    """A recorded alert that is being replayed, and the request that contained it."""

    request_id: str
    received_at: datetime
    outcome: str
    episode: str
    starts_at: datetime | None


@dataclass(frozen=True)
class PreviousWork:
    """The work on an episode so far.

    Attributes:
        attempt: The number of the last attempt.
        claimed_by: The last execution that claimed the episode, or empty if none did.
    """

    attempt: int = 1
    claimed_by: str = ""


def decide(alert: Alert, received_at: datetime, situation: Situation) -> Decision:
    """Return the decision about an alert from a webhook.

    Args:
        alert: The alert.
        received_at: When its request was received.
        situation: The recorded state of its label set.
    """
    if alert.problem:
        return Decision(Outcome.MALFORMED, alert.problem)
    alert = replace(alert, starts_at=plausible_start(alert, received_at))
    incident = situation.incident
    if alert.status != FIRING:
        return _decide_resolve(alert, received_at, incident)
    if incident and _belongs_to(alert, incident, situation.skew):
        return _decide_repeat(alert, received_at, incident, situation)
    return _decide_new(alert, received_at, situation)


def decide_replay(
    alert: Alert,
    original: Original,
    situation: Situation,
    work_by_episode: Mapping[str, PreviousWork],
    force: bool,
) -> Decision:
    """Return the decision about an alert of a replayed request.

    Args:
        alert: The alert.
        original: The recorded alert.
        situation: The recorded state of its label set.
        work_by_episode: The previous work on each episode.
        force: Admit the alert even if its episode was claimed before or has ended.
    """
    reason = f"replay of {original.request_id}"
    alert = replace(alert, starts_at=plausible_start(alert, original.received_at))
    incident = situation.incident
    if alert.status != FIRING:
        # If the original resolve ended an incident, another incident is open now.
        has_ended_incident = original.outcome in (Outcome.RESOLVED, *_UNEMITTED_OUTCOMES)
        if incident and (has_ended_incident or original.received_at < incident.last_seen_at):
            return Decision(
                Outcome.DUPLICATE,
                f"{reason}: the open incident has a later notification",
                starts_at=alert.starts_at,
            )
        return _decide_resolve(alert, original.received_at, incident)
    if incident and _belongs_to(alert, incident, situation.skew):
        previous_work = work_by_episode.get(incident.episode, PreviousWork())
        return _decide_open_replay(alert, incident, previous_work, reason, situation, force)
    if not force:
        return Decision(
            Outcome.DUPLICATE,
            f"{reason}: the incident has ended",
            original.episode,
            original.starts_at,
        )
    # Do not open an incident: the alert is not firing, so no resolve would ever close it.
    attempt = work_by_episode.get(original.episode, PreviousWork()).attempt + 1
    return Decision(Outcome.ADMITTED, reason, original.episode, original.starts_at, attempt=attempt)


def decide_confirmed(incident: OpenIncident, situation: Situation) -> Decision:
    """Return the decision about an incident that has been unconfirmed for CONFIRM_AFTER."""
    limit = situation.limit
    outcome, reason = Outcome.ADMITTED, "unconfirmed for 6 min without a resolve"
    if limit:
        outcome, reason = limit.outcome, limit.reason
    if not situation.may_start:
        outcome, reason = Outcome.OBSERVED, _RECEIVER_NOT_LISTED
    return Decision(
        outcome,
        reason,
        incident.episode,
        incident.starts_at,
        closes=True,
        opens=True,
        held_until=limit.held_until if limit and situation.may_start else None,
    )


def plausible_start(alert: Alert, received_at: datetime) -> datetime | None:
    """Return an alert's startsAt, or None if it is missing or too far in the future.

    An implausible start would be later than every endsAt, so no resolve could close the incident.
    """
    if alert.starts_at and alert.starts_at - received_at > MAX_CLOCK_ERROR:
        return None
    return alert.starts_at


def compute_start(alert: Alert, received_at: datetime) -> datetime:
    """Return when an alert began: at its startsAt, or at its receipt if that is earlier."""
    return min(alert.starts_at or received_at, received_at)


def _belongs_to(alert: Alert, incident: OpenIncident, skew: timedelta) -> bool:
    if alert.starts_at is None or incident.sender_starts_at is None:
        return True
    # Do not compare incident.starts_at, which is database time if the sender's clock is ahead.
    return alert.starts_at - incident.sender_starts_at <= skew


def _decide_repeat(
    alert: Alert, received_at: datetime, incident: OpenIncident, situation: Situation
) -> Decision:
    starts_at = compute_start(alert, received_at)
    if incident.outcome == Outcome.ADMITTED:
        return Decision(
            Outcome.DUPLICATE, f"duplicate of {incident.request_id}", incident.episode, starts_at
        )
    # Nothing was started for the open incident yet. This notification may start a remediation.
    if not situation.may_start:
        return Decision(Outcome.OBSERVED, _RECEIVER_NOT_LISTED, incident.episode, starts_at)
    if incident.acknowledged_by:
        reason = f"acknowledged by {incident.acknowledged_by}"
        return Decision(Outcome(incident.outcome), reason, incident.episode, starts_at)
    refire = _judge_refire(alert, received_at, situation.resolves)
    if refire:
        outcome, reason = refire
        # An observed incident would otherwise wait indefinitely for another notification.
        was_observed = incident.outcome == Outcome.OBSERVED
        takes_over = was_observed and outcome == Outcome.UNCONFIRMED
        return Decision(
            outcome,
            reason,
            incident.episode,
            incident.starts_at if takes_over else starts_at,
            closes=takes_over,
            opens=takes_over,
        )
    if situation.limit:
        return _hold_back(situation.limit, incident.episode, starts_at)
    return Decision(
        Outcome.ADMITTED,
        f"first notification after {incident.outcome.replace('_', ' ')}",
        incident.episode,
        incident.starts_at,
        closes=True,
        opens=True,
    )


def _decide_new(alert: Alert, received_at: datetime, situation: Situation) -> Decision:
    starts_at = compute_start(alert, received_at)
    superseded_incident = situation.incident
    refire = _judge_refire(alert, received_at, situation.resolves)
    if refire and refire[0] == Outcome.DUPLICATE:
        return Decision(*refire, episode_name(alert.fingerprint, starts_at), starts_at)
    outcome, reason, limit = Outcome.ADMITTED, "new incident", situation.limit
    if superseded_incident:
        reason = f"new incident, supersedes {superseded_incident.episode}"
    if limit:
        outcome, reason = limit.outcome, limit.reason
    if refire:
        outcome, reason = refire
    if not situation.may_start:
        outcome, reason = Outcome.OBSERVED, _RECEIVER_NOT_LISTED
    return Decision(
        outcome,
        reason,
        _choose_episode_name(alert.fingerprint, starts_at, received_at, situation.known_episodes),
        starts_at,
        closes=bool(superseded_incident),
        opens=True,
        ended_by=EndedBy.SUPERSEDED if superseded_incident else None,
        held_until=limit.held_until if limit and outcome == limit.outcome else None,
    )


def _choose_episode_name(
    fingerprint: str, starts_at: datetime, received_at: datetime, known_episodes: Container[str]
) -> str:
    """Return a name for a new episode that no recorded episode uses."""
    name = episode_name(fingerprint, starts_at)
    while name in known_episodes:
        # The alert fires again with the startsAt of an episode that has ended.
        name = episode_name(fingerprint, received_at)
        received_at += timedelta(milliseconds=1)
    return name


def _judge_refire(
    alert: Alert, received_at: datetime, resolves: Sequence[Resolve]
) -> tuple[Outcome, str] | None:
    """Check whether a firing notification may be a stale copy from before a recent resolve.

    Returns:
        An outcome and the reason, or None if no recent resolve matches the notification.
    """
    received_times = [
        resolve.received_at for resolve in resolves if _resolves_same_occurrence(alert, resolve)
    ]
    last_received_at = max(received_times, default=None)
    if last_received_at is None or received_at - last_received_at >= REFIRE_GRACE:
        return None
    if last_received_at > received_at:
        return Outcome.DUPLICATE, "late: its resolve is already recorded"
    seconds = int((received_at - last_received_at).total_seconds())
    return Outcome.UNCONFIRMED, (
        f"fires {seconds} s after its resolve, so it may be a stale copy; waits for another "
        "notification, or for 6 min without a resolve"
    )


def _resolves_same_occurrence(alert: Alert, resolve: Resolve) -> bool:
    if alert.starts_at is None or resolve.ends_at is None:
        return True
    return resolve.ends_at >= alert.starts_at


def _decide_resolve(alert: Alert, received_at: datetime, incident: OpenIncident | None) -> Decision:
    if not incident:
        return Decision(Outcome.DUPLICATE, "no open incident", starts_at=alert.starts_at)
    if received_at < incident.last_seen_at:
        return Decision(
            Outcome.DUPLICATE,
            f"{incident.episode} has a later notification",
            starts_at=alert.starts_at,
        )
    began_at = incident.sender_starts_at
    # The same startsAt means the same occurrence, even if the sender's clock was set back since.
    is_same_occurrence = alert.starts_at == began_at
    if alert.ends_at and began_at and alert.ends_at < began_at and not is_same_occurrence:
        return Decision(
            Outcome.DUPLICATE,
            f"ended before {incident.episode} began at {format_timestamp(began_at)}",
            starts_at=alert.starts_at,
        )
    outcome, ended_incident = Outcome.RESOLVED, "the incident"
    if incident.outcome in _UNEMITTED_OUTCOMES:
        outcome, ended_incident = Outcome(incident.outcome), f"the {incident.outcome} incident"
    return Decision(
        outcome,
        f"ends {ended_incident} of {incident.request_id}",
        incident.episode,
        alert.starts_at or incident.starts_at,
        closes=True,
        ended_by=EndedBy.RESOLVE,
    )


def _decide_open_replay(
    alert: Alert,
    incident: OpenIncident,
    previous_work: PreviousWork,
    reason: str,
    situation: Situation,
    force: bool,
) -> Decision:
    """Return the decision about a replayed alert that may take over its open incident."""
    starts_at = alert.starts_at or incident.starts_at
    refusal = "" if force else _replay_refusal_reason(incident, previous_work)
    if refusal:
        return Decision(
            Outcome.DUPLICATE,
            f"{reason}: {refusal}; force=true runs it again",
            incident.episode,
            starts_at,
        )
    if not situation.may_start and not force:
        return Decision(
            Outcome.OBSERVED, f"{reason}: {_RECEIVER_NOT_LISTED}", incident.episode, starts_at
        )
    if situation.limit and not force:
        return _hold_back(situation.limit, incident.episode, starts_at)
    return Decision(
        Outcome.ADMITTED,
        reason,
        incident.episode,
        incident.starts_at,
        closes=True,
        opens=True,
        # If nobody has claimed the last attempt, one of its executions may still do so.
        attempt=previous_work.attempt + 1 if previous_work.claimed_by else previous_work.attempt,
    )


def _replay_refusal_reason(incident: OpenIncident, previous_work: PreviousWork) -> str:
    if incident.acknowledged_by:
        return f"acknowledged by {incident.acknowledged_by}"
    if previous_work.claimed_by:
        return f"{previous_work.claimed_by} has worked on this episode"
    return ""


def _hold_back(limit: Limit, episode: str, starts_at: datetime) -> Decision:
    return Decision(limit.outcome, limit.reason, episode, starts_at, held_until=limit.held_until)
