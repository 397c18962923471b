"""Create and end silences in Alertmanager, for people and during changes.

A silence has an equality matcher for each label of the alert, and always ends automatically. The
actions poundcake.silence and unsilence are for people. An entry of `remediations` with
`silence_minutes` silences the alert during its change.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Callable, Mapping, NamedTuple, Sequence, TypedDict

from sqlalchemy import select, update
from sqlalchemy.engine import Connection, Engine

from poundcake.monitoring import (
    AlertmanagerApi,
    Matcher,
    MonitoringError,
    Silence,
    SilenceState,
)
from poundcake.timestamps import format_timestamp
from poundcake.trail import database, short_ids
from poundcake.trail.audit import Actor, write_entry
from poundcake.trail.errors import TrackingError
from poundcake.trail.open_work import is_open
from poundcake.trail.schema import alerts, cut

NO_ALERTMANAGERS = "alertmanagers: list your Alertmanagers in the pack's configuration"
MAX_MINUTES = 10_080
"""The longest silence: a week."""
COMMENT_MARK = " (poundcake.silence)"
"""The suffix of the comment on a silence that a person created with poundcake.silence."""
_CHANGE_MARK = " (poundcake.remediate)"
# A repeated call requests a slightly later end. A difference of up to this does not extend the
# silence.
_END_TOLERANCE = timedelta(minutes=1)
# A new silence reaches the other members of a cluster by gossip, usually within a second.
_GOSSIP_TRIES, _GOSSIP_WAIT = 6, 0.5
_EXPIRED = SilenceState.EXPIRED


class SilenceChange(TypedDict):
    """The result of the actions poundcake.silence and poundcake.unsilence.

    Attributes:
        silence_ids: The ids of the silences, one for each Alertmanager or cluster.
        state: `created`, `extended`, `unchanged` (the same silence existed) or `ended`.
        until: When the silences end, or ended.
        labels: The labels that an alert must have to be silenced.
        problems: A sentence for each Alertmanager that could not be changed.
    """

    silence_ids: list[str]
    state: str
    until: str
    labels: dict[str, str]
    problems: list[str]


@dataclass(frozen=True)
class Target:
    """What to silence: the alert of an episode, or all alerts with certain labels.

    Attributes:
        episode: The episode or the beginning of its name, or empty.
        labels: The labels, if the episode is empty.
        ignored_labels: Labels of an episode's alert that may change while it fires.
    """

    episode: str = ""
    labels: Mapping[str, str] | None = None
    ignored_labels: Sequence[str] = ()


def silence(
    engine: Engine,
    alertmanagers: Sequence[AlertmanagerApi],
    actor: Actor,
    target: Target,
    minutes: int,
    comment: str,
) -> SilenceChange:
    """Silence an alert in all Alertmanagers for a number of minutes from now.

    If the pack has already created a silence for the same labels, extend it if it would end
    earlier. Otherwise, keep it.

    Args:
        engine: The tracking database.
        alertmanagers: All configured Alertmanagers.
        actor: Who requested the silence.
        target: What to silence.
        minutes: The duration, at most MAX_MINUTES.
        comment: The reason.

    Raises:
        TrackingError: A parameter is invalid, or there is no such episode.
        MonitoringError: No Alertmanager could be changed.
        DatabaseError: The database is unavailable.
    """
    if not 1 <= minutes <= MAX_MINUTES:
        raise TrackingError(f"minutes: must be from 1 to {MAX_MINUTES}")
    if not comment.strip():
        raise TrackingError("comment: say why the alert is silenced")
    database.prepare(engine, create=False)
    _check_target(target)
    target = _with_whole_episode(engine, target)
    labels = _read_labels(engine, target)
    requested_silence = _RequestedSilence(
        labels, minutes, actor.st2_user or "somebody", comment.strip() + COMMENT_MARK
    )
    silences: list[Silence] = []
    states: list[str] = []

    def ensure_silence(alertmanager: AlertmanagerApi) -> None:
        active_silence, state = _ensure_silence(alertmanager, requested_silence, bool(silences))
        silences.append(active_silence)
        states.append(state)

    problems = _call_for_each(alertmanagers, ensure_silence)
    state = next((name for name in ("created", "extended") if name in states), "unchanged")
    change = _summary(silences, state, labels, problems)
    _record_change(engine, actor, "silence", target.episode, comment, change, silences)
    return change


def unsilence(
    engine: Engine,
    alertmanagers: Sequence[AlertmanagerApi],
    actor: Actor,
    target: Target,
    silence_id: str = "",
    force: bool = False,
) -> SilenceChange:
    """End a silence in all Alertmanagers.

    Args:
        engine: The tracking database.
        alertmanagers: All configured Alertmanagers.
        actor: Who requested its end.
        target: The alert that it silences, if silence_id is empty.
        silence_id: The id of the silence, or empty.
        force: End it even if the pack did not create it.

    Raises:
        TrackingError: There is no such silence, or the pack did not create it.
        MonitoringError: No Alertmanager could be queried.
        DatabaseError: The database is unavailable.
    """
    database.prepare(engine, create=False)
    if not (silence_id or target.episode):
        raise TrackingError(
            "specify the silence by silence_id, or its alert by episode, or by alert_name, "
            "instance, …"
        )
    target = _with_whole_episode(engine, target)
    labels = {} if silence_id else _read_labels(engine, target)
    ended_silences: list[Silence] = []
    foreign_silences: list[Silence] = []

    def is_selected(candidate: Silence) -> bool:
        return candidate.id == silence_id if silence_id else _has_labels(candidate, labels)

    def end_silences(alertmanager: AlertmanagerApi) -> None:
        for selected_silence in filter(is_selected, alertmanager.silences()):
            if not (force or selected_silence.comment.endswith(COMMENT_MARK)):
                foreign_silences.append(selected_silence)
                continue
            # A peer of this Alertmanager may have ended the silence already.
            if selected_silence.state != _EXPIRED:
                alertmanager.expire_silence(selected_silence.id)
            ended_silences.append(selected_silence)

    problems = _call_for_each(alertmanagers, end_silences)
    if foreign_silences and not ended_silences:
        foreign = foreign_silences[0]
        raise TrackingError(
            f"the silence {foreign.id} was created by {foreign.created_by}, not by "
            "poundcake.silence: use force=true to end it"
        )
    if not ended_silences:
        raise TrackingError("; ".join(["no such silence", *problems]))
    active_silences = [
        ended_silence for ended_silence in ended_silences if ended_silence.state != _EXPIRED
    ]
    change = _summary(
        active_silences or ended_silences,
        "ended" if active_silences else "unchanged",
        labels or {matcher.name: matcher.value for matcher in ended_silences[0].matchers},
        problems,
    )
    _record_change(engine, actor, "unsilence", target.episode, "", change, [])
    return change


@dataclass(frozen=True)
class ChangeSilence:
    """The silence during a change.

    Attributes:
        execution_id: The execution of the workflow that makes the change.
        remediation: The name of the entry.
        action: The action that makes the change.
        labels: The labels of the alert that do not change while it fires.
        minutes: Its maximum duration.
    """

    execution_id: str
    remediation: str
    action: str
    labels: Mapping[str, str]
    minutes: int

    @property
    def comment(self) -> str:
        """The comment. Its suffix identifies the silence to end after the change."""
        reason = f"remediation {self.remediation} runs {self.action}"
        return f"{reason}{_change_suffix(self.execution_id)}"


def is_for_change(candidate: Silence) -> bool:
    """Return True if a silence was created for a change, not by a person."""
    return candidate.comment.endswith(_CHANGE_MARK)


def silence_during_change(
    alertmanagers: Sequence[AlertmanagerApi], change_silence: ChangeSilence
) -> list[str]:
    """Silence an alert in all Alertmanagers while its target is changed.

    Args:
        alertmanagers: All configured Alertmanagers.
        change_silence: The silence.

    Returns:
        A sentence for each Alertmanager that could not be changed.
    """
    requested_silence = _RequestedSilence(
        change_silence.labels,
        change_silence.minutes,
        "poundcake",
        change_silence.comment,
        change_silence.comment,
    )
    count = 0

    def ensure_silence(alertmanager: AlertmanagerApi) -> None:
        nonlocal count
        _ensure_silence(alertmanager, requested_silence, bool(count))
        count += 1

    return _try_each(alertmanagers, ensure_silence)


def end_silence_during_change(
    alertmanagers: Sequence[AlertmanagerApi], execution_id: str
) -> list[str]:
    """End the silence of a change in all Alertmanagers, unless it has already ended.

    Args:
        alertmanagers: All configured Alertmanagers.
        execution_id: The execution of the workflow that made the change.

    Returns:
        A sentence for each Alertmanager that could not be changed. There, the silence expires
        later by itself.
    """
    suffix = _change_suffix(execution_id)

    def end_silence(alertmanager: AlertmanagerApi) -> None:
        for silence in alertmanager.silences():
            if silence.state != _EXPIRED and silence.comment.endswith(suffix):
                alertmanager.expire_silence(silence.id)

    return _try_each(alertmanagers, end_silence)


def _change_suffix(execution_id: str) -> str:
    """Return the suffix of the comment on the silence that an execution created for its change."""
    return f", execution {execution_id}{_CHANGE_MARK}"


@dataclass(frozen=True)
class _RequestedSilence:
    """The silence that a call requests.

    Attributes:
        mark: The suffix of the comments on silences that the call may extend instead.
    """

    labels: Mapping[str, str]
    minutes: int
    created_by: str
    comment: str
    mark: str = COMMENT_MARK

    def starting_at(self, now: datetime) -> Silence:
        matchers = tuple(Matcher(name, value) for name, value in sorted(self.labels.items()))
        ends_at = now + timedelta(minutes=self.minutes)
        return Silence("", matchers, now, ends_at, self.created_by, self.comment)


def _check_target(target: Target) -> None:
    if bool(target.episode) == bool(target.labels):
        raise TrackingError(
            "specify the alert by episode, by alert_name, instance, …, or by labels, not by both"
        )


def _with_whole_episode(engine: Engine, target: Target) -> Target:
    if not target.episode:
        return target
    with database.reading(engine) as connection:
        return replace(target, episode=short_ids.expand_episode(connection, target.episode))


def _read_labels(engine: Engine, target: Target) -> dict[str, str]:
    """Return the labels that an alert must have to be silenced."""
    if target.labels:
        # Leave out only labels without a value. Without any other label, more alerts are silenced.
        labels_with_values = {
            name: str(value) for name, value in target.labels.items() if value not in (None, "")
        }
        if not labels_with_values:
            raise TrackingError("labels: must contain a label with a value")
        return labels_with_values
    with database.reading(engine) as connection:
        found = read_silence_target(connection, target.episode, target.ignored_labels)
    if found is None:
        raise TrackingError(f"no episode {target.episode} is recorded")
    return found.labels


class SilenceTarget(NamedTuple):
    """What to silence of an episode, and where.

    Attributes:
        labels: The labels that an alert must have to be silenced.
        external_url: The external URL of the Alertmanager that sent the alert, or ''.
    """

    labels: dict[str, str]
    external_url: str


def read_silence_target(
    connection: Connection, episode: str, ignored_labels: Sequence[str]
) -> SilenceTarget | None:
    """Return what to silence of an episode, or None if it is not recorded.

    Args:
        connection: A connection to the tracking database.
        episode: The name of the episode.
        ignored_labels: Labels of its alert that may change while it fires.
    """
    row = connection.execute(
        select(alerts.c.labels, alerts.c.external_url)
        .where(alerts.c.episode == episode)
        .order_by(alerts.c.open_fingerprint.is_(None), alerts.c.id.desc())
        .limit(1)
    ).one_or_none()
    if row is None:
        return None
    return SilenceTarget(stable_labels(json.loads(row.labels), ignored_labels), row.external_url)


def stable_labels(labels: Mapping[str, str], ignored_labels: Sequence[str]) -> dict[str, str]:
    """Return the labels of an alert that do not change while it fires, or all if none is left."""
    remaining = {name: value for name, value in labels.items() if name not in ignored_labels}
    return remaining or dict(labels)


def _call_for_each(
    alertmanagers: Sequence[AlertmanagerApi], work: Callable[[AlertmanagerApi], None]
) -> list[str]:
    """Call work() for each Alertmanager, and return the errors of those for which it failed.

    Raises:
        TrackingError: No Alertmanager is configured.
        MonitoringError: work() failed for all of them.
    """
    if not alertmanagers:
        raise TrackingError(NO_ALERTMANAGERS)
    problems = _try_each(alertmanagers, work)
    if len(problems) == len(alertmanagers):
        raise MonitoringError("; ".join(problems))
    return problems


def _try_each(
    alertmanagers: Sequence[AlertmanagerApi], work: Callable[[AlertmanagerApi], None]
) -> list[str]:
    """Call work() for each Alertmanager, and return the errors of those for which it failed."""
    problems = []
    for alertmanager in alertmanagers:
        try:
            work(alertmanager)
        except MonitoringError as error:
            problems.append(str(error))
    return problems


def _ensure_silence(
    alertmanager: AlertmanagerApi, requested_silence: _RequestedSilence, exists_elsewhere: bool
) -> tuple[Silence, str]:
    """Create or extend a silence in an Alertmanager if needed.

    Args:
        alertmanager: The Alertmanager.
        requested_silence: The silence.
        exists_elsewhere: Whether another Alertmanager, possibly a peer of this one, already has the
            silence.

    Returns:
        The silence, and `created`, `extended` or `unchanged`.
    """
    new_silence = requested_silence.starting_at(alertmanager.status().now)
    existing_silence = None
    for attempt in range(_GOSSIP_TRIES if exists_elsewhere else 1):
        if attempt:
            time.sleep(_GOSSIP_WAIT)
        existing_silence = _find_existing(alertmanager, requested_silence)
        if existing_silence and new_silence.ends_at - existing_silence.ends_at <= _END_TOLERANCE:
            return existing_silence, "unchanged"
    if existing_silence:
        new_silence = replace(
            new_silence, id=existing_silence.id, starts_at=existing_silence.starts_at
        )
    silence_id = alertmanager.create_silence(new_silence)
    return replace(new_silence, id=silence_id), "extended" if existing_silence else "created"


def _find_existing(
    alertmanager: AlertmanagerApi, requested_silence: _RequestedSilence
) -> Silence | None:
    """Return the pack's silence with the same labels that ends last, or None."""
    same_silences = [
        silence
        for silence in alertmanager.silences()
        if silence.state != _EXPIRED
        and silence.comment.endswith(requested_silence.mark)
        and _has_labels(silence, requested_silence.labels)
    ]
    return max(same_silences, key=lambda silence: silence.ends_at) if same_silences else None


def _has_labels(candidate: Silence, labels: Mapping[str, str]) -> bool:
    """Return True if the matchers of a silence are exactly these labels."""
    matchers = {Matcher(name, value) for name, value in labels.items()}
    return set(candidate.matchers) == matchers


def _summary(
    silences: Sequence[Silence], state: str, labels: Mapping[str, str], problems: Sequence[str]
) -> SilenceChange:
    return SilenceChange(
        silence_ids=sorted({silence.id for silence in silences}),
        state=state,
        until=format_timestamp(max(silence.ends_at for silence in silences)),
        labels=dict(labels),
        problems=list(problems),
    )


def _record_change(
    engine: Engine,
    actor: Actor,
    action: str,
    episode: str,
    comment: str,
    change: SilenceChange,
    silences: Sequence[Silence],
) -> None:
    """Write an audit entry, and update the trail so that the views show the change immediately."""
    details: dict[str, Any] = {
        name: value for name, value in change.items() if name in ("silence_ids", "state", "until")
    }
    with database.transaction(engine) as connection:
        ids = change["silence_ids"]
        target = episode or _silenced_episode(connection, ids) or ",".join(ids)
        write_entry(connection, action, actor, target, comment, details)
        if action == "unsilence":
            _clear_silence(connection, ids)
        elif episode:
            _store_silence(connection, episode, max(silences, key=lambda silence: silence.ends_at))


def _silenced_episode(connection: Connection, silence_ids: Sequence[str]) -> str | None:
    """Return an open episode that, according to the trail, one of these silences mutes, or None."""
    episodes = select(alerts.c.episode).where(is_open(), alerts.c.silence_id.in_(silence_ids))
    return connection.scalar(episodes.limit(1))


def _store_silence(connection: Connection, episode: str, active_silence: Silence) -> None:
    connection.execute(
        update(alerts)
        .where(alerts.c.episode == episode, is_open())
        .values(
            silence_id=cut(active_silence.id, alerts.c.silence_id),
            silenced_by=cut(active_silence.created_by, alerts.c.silenced_by),
            silenced_until=active_silence.ends_at,
            silenced_comment=cut(active_silence.comment, alerts.c.silenced_comment),
        )
    )


def _clear_silence(connection: Connection, silence_ids: Sequence[str]) -> None:
    connection.execute(
        update(alerts)
        .where(is_open(), alerts.c.silence_id.in_(silence_ids))
        .values(silence_id=None, silenced_by=None, silenced_until=None, silenced_comment=None)
    )
