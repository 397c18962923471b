"""Compare the open incidents with the alerts that the Alertmanagers hold.

A resolve may never arrive: Alertmanager sends none while a silence mutes the alert, or if it lost
the alert. So each round of sync reads the alerts of every Alertmanager. An incident is closed if

* every Alertmanager answered, and has been running for gone_after_seconds, because a restarted one
  has no alerts until Prometheus sends them again;
* one of them sent the incident's last notification, because any other sender may still hold the
  alert;
* none of them held an alert with the incident's identity in two rounds that are at least
  gone_after_seconds apart, or in any complete round in between; and
* the incident's last notification was received before the first of these rounds.

gone_after_seconds must be longer than group_interval: Alertmanager drops an alert as soon as it has
ended, but sends the resolve with the next notification of its group.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Iterable, NamedTuple, Sequence

from sqlalchemy import or_, select, update
from sqlalchemy.engine import Connection

from poundcake.alertmanager import Identity
from poundcake.config import Config
from poundcake.monitoring import AlertmanagerApi, MonitoringError, Silence
from poundcake.trail import clock, database
from poundcake.trail.open_work import MONITORING_PROBLEM, is_open, read_meta
from poundcake.trail.outcomes import EndedBy
from poundcake.trail.record import config_identity
from poundcake.trail.schema import alerts, cut, meta
from poundcake.trail.silences import is_for_change
from poundcake.trail.sync_round import SyncRound, write_meta

MARGIN = timedelta(seconds=5)
"""The minimum time between the last notification and the query of the Alertmanagers.

The time of receipt is converted from the endpoint's clock, which is not exact.
"""
_MAX_PARALLEL = 8
# The columns in which a round stores its findings about an open incident.
_SILENCE_COLUMNS = ("silence_id", "silenced_by", "silenced_until", "silenced_comment")
_STORED_COLUMNS = ("missing_since", *_SILENCE_COLUMNS)


class ReconcileCounts(NamedTuple):
    """The counts of a comparison.

    Attributes:
        gone: Incidents that were closed.
        silenced: Open incidents whose alert is silenced.
    """

    gone: int = 0
    silenced: int = 0


class _Incident(NamedTuple):
    """An open incident. The attributes are columns of its row."""

    id: int
    open_fingerprint: str
    episode: str
    last_seen_at: datetime
    external_url: str
    missing_since: datetime | None
    silence_id: str | None
    silenced_by: str | None
    silenced_until: datetime | None
    silenced_comment: str | None


@dataclass
class _Answer:
    """The answer of one Alertmanager.

    Attributes:
        silences: The silences that mute each alert that it holds, by the alert's fingerprint. The
            list of an alert that is not muted is empty.
        problem: Why the answer is incomplete, or empty.
    """

    silences: dict[str, list[Silence]] = field(default_factory=dict)
    problem: str = ""


def reconcile_incidents(
    sync_round: SyncRound, config: Config, alertmanagers: Sequence[AlertmanagerApi]
) -> ReconcileCounts:
    """Close incidents whose alert no Alertmanager holds any more, and store current silences.

    Args:
        sync_round: The round. Alertmanagers that do not answer are noted as problems.
        config: The configuration, with the identity of alerts and gone_after_seconds.
        alertmanagers: All configured Alertmanagers.
    """
    if not alertmanagers:
        _clear_stored_values(sync_round)
        return ReconcileCounts()
    with database.reading(sync_round.engine) as connection:
        # Read the time before the answers, which may not reflect later notifications.
        queried_at = clock.database_now(connection)
        incidents = _read_incidents(connection)
    if not incidents:
        return ReconcileCounts()
    answers = _query_all(alertmanagers, config_identity(config))
    problems = [answer.problem for answer in answers if answer.problem]
    problems += _unknown_senders(incidents, alertmanagers, answers)
    comparison = _Comparison(queried_at, alertmanagers, answers)
    gone_after = timedelta(seconds=config.gone_after_seconds)
    changed_rows = [
        changed_row for changed_row in map(comparison.changed_columns, incidents) if changed_row
    ]
    _update_alerts(sync_round, changed_rows)
    gone_ids = [incident.id for incident in incidents if comparison.is_gone(incident, gone_after)]
    gone_count = 0
    if gone_ids:
        have_run_long_enough, uptime_problems = _check_uptimes(alertmanagers, gone_after)
        problems += uptime_problems
        gone_count = _close(sync_round, gone_ids) if have_run_long_enough else 0
    _store_problems(sync_round, problems)
    silenced_count = sum(bool(comparison.silence_of(incident)) for incident in incidents)
    return ReconcileCounts(gone_count, silenced_count)


class _Comparison:
    """Compares open incidents with the answers of all Alertmanagers."""

    def __init__(
        self,
        queried_at: datetime,
        alertmanagers: Sequence[AlertmanagerApi],
        answers: Sequence[_Answer],
    ):
        self._queried_at = queried_at
        self._external_urls = {alertmanager.external_url for alertmanager in alertmanagers}
        self._is_complete = not any(answer.problem for answer in answers)
        self._silences: dict[str, list[Silence]] = {}
        for answer in answers:
            for fingerprint, silences in answer.silences.items():
                self._silences.setdefault(fingerprint, []).extend(silences)

    def silence_of(self, incident: _Incident) -> Silence | None:
        """Return the silence that mutes an incident's alert the longest, or None."""
        silences = self._silences.get(incident.open_fingerprint, [])
        return max(silences, key=lambda silence: silence.ends_at) if silences else None

    def changed_columns(self, incident: _Incident) -> dict[str, Any] | None:
        """Return the new values of an incident's columns and its `id`, or None if none changes."""
        current_values = {
            "missing_since": self._missing_since(incident),
            **self._silence_columns(incident),
        }
        if all(getattr(incident, name) == value for name, value in current_values.items()):
            return None
        return {"id": incident.id, **current_values}

    def is_gone(self, incident: _Incident, gone_after: timedelta) -> bool:
        """Return True if an incident's alert has been missing for at least `gone_after`."""
        since = self._missing_since(incident)
        return self._is_complete and since is not None and self._queried_at - since >= gone_after

    def _missing_since(self, incident: _Incident) -> datetime | None:
        """Return when an incident's alert was first missing, or None if it is not missing."""
        since = incident.missing_since
        if incident.open_fingerprint in self._silences:
            return None
        if incident.external_url not in self._external_urls:
            return None
        if since is not None and since <= incident.last_seen_at:
            since = None  # a notification has arrived since then
        if since is None and self._is_complete:
            has_margin = self._queried_at - incident.last_seen_at >= MARGIN
            return self._queried_at if has_margin else None
        return since

    def _silence_columns(self, incident: _Incident) -> dict[str, Any]:
        silence = self.silence_of(incident)
        if silence:
            return {
                "silence_id": cut(silence.id, alerts.c.silence_id),
                "silenced_by": cut(silence.created_by, alerts.c.silenced_by),
                "silenced_until": silence.ends_at,
                "silenced_comment": cut(silence.comment, alerts.c.silenced_comment),
            }
        if self._is_complete:
            return dict.fromkeys(_SILENCE_COLUMNS)
        # An Alertmanager that did not answer may still have the silence.
        return {name: getattr(incident, name) for name in _SILENCE_COLUMNS}


def _read_incidents(connection: Connection) -> list[_Incident]:
    columns = [alerts.c[name] for name in _Incident._fields]
    return [_Incident(*row) for row in connection.execute(select(*columns).where(is_open()))]


def _query_all(alertmanagers: Sequence[AlertmanagerApi], identity: Identity) -> list[_Answer]:
    """Query all Alertmanagers in parallel, and return their answers in order."""
    with ThreadPoolExecutor(_MAX_PARALLEL) as pool:
        return list(pool.map(lambda alertmanager: _query(alertmanager, identity), alertmanagers))


def _query(alertmanager: AlertmanagerApi, identity: Identity) -> _Answer:
    answer = _Answer()
    try:
        held_alerts = alertmanager.alerts()
        answer.silences = {
            _fingerprint(alert.labels, alertmanager, identity): [] for alert in held_alerts
        }
        muted_alerts = [alert for alert in held_alerts if alert.silenced_by]
        silences_by_id = (
            {silence.id: silence for silence in alertmanager.silences()} if muted_alerts else {}
        )
        for alert in muted_alerts:
            muting_silences = [
                silences_by_id[silence_id]
                for silence_id in alert.silenced_by
                if silence_id in silences_by_id
                # The pack's own silence does not prevent the next change.
                and not is_for_change(silences_by_id[silence_id])
            ]
            answer.silences[_fingerprint(alert.labels, alertmanager, identity)] += muting_silences
    except MonitoringError as error:
        answer.problem = str(error)
    return answer


def _fingerprint(labels: Any, alertmanager: AlertmanagerApi, identity: Identity) -> str:
    non_empty = {name: value for name, value in labels.items() if value}
    return identity.fingerprint(non_empty, alertmanager.external_url)


def _unknown_senders(
    incidents: Iterable[_Incident],
    alertmanagers: Sequence[AlertmanagerApi],
    answers: Sequence[_Answer],
) -> list[str]:
    """Return a sentence for each Alertmanager whose notifications seem to contain another URL."""
    known_urls = {alertmanager.external_url for alertmanager in alertmanagers}
    unknown_incidents = [
        incident
        for incident in incidents
        if incident.external_url and incident.external_url not in known_urls
    ]
    problems = []
    for alertmanager, answer in zip(alertmanagers, answers):
        held_incidents = (
            incident
            for incident in unknown_incidents
            if incident.open_fingerprint in answer.silences
        )
        incident = next(held_incidents, None)
        if incident:
            problems.append(
                f"alertmanagers, {alertmanager.url}: it holds the alert of {incident.episode}, but "
                f"the notification came from another URL: set external_url to "
                f"{incident.external_url}, or add the Alertmanager with that URL"
            )
    return problems


def _check_uptimes(
    alertmanagers: Sequence[AlertmanagerApi], duration: timedelta
) -> tuple[bool, list[str]]:
    """Return whether all Alertmanagers have been running for this long, and the query errors."""

    def read_uptime(alertmanager: AlertmanagerApi) -> timedelta | str:
        try:
            return alertmanager.status().uptime
        except MonitoringError as error:
            return str(error)

    with ThreadPoolExecutor(_MAX_PARALLEL) as pool:
        uptimes = list(pool.map(read_uptime, alertmanagers))
    problems = [problem for problem in uptimes if isinstance(problem, str)]
    have_run_long_enough = all(
        isinstance(uptime, timedelta) and uptime >= duration for uptime in uptimes
    )
    return have_run_long_enough, problems


def _update_alerts(sync_round: SyncRound, changed_rows: Sequence[dict[str, Any]]) -> None:
    for chunk in database.batched(changed_rows):
        with sync_round.writing() as connection:
            for changed_row in chunk:
                connection.execute(
                    update(alerts)
                    .where(alerts.c.id == changed_row["id"], is_open())
                    .values(**changed_row)
                )


def _close(sync_round: SyncRound, ids: Sequence[int]) -> int:
    closed_count = 0
    for chunk in database.batched(ids):
        with sync_round.writing() as connection:
            closed_count += connection.execute(
                update(alerts)
                .where(
                    alerts.c.id.in_(chunk),
                    is_open(),
                    # A notification may have been recorded in the meantime.
                    alerts.c.last_seen_at < alerts.c.missing_since,
                )
                .values(
                    open_fingerprint=None,
                    closed_at=clock.database_now(connection),
                    ended_by=EndedBy.GONE,
                )
            ).rowcount
    return closed_count


def _clear_stored_values(sync_round: SyncRound) -> None:
    """Clear the values that earlier rounds stored, because no Alertmanager is configured now."""
    has_stored_values = or_(alerts.c.missing_since.is_not(None), alerts.c.silence_id.is_not(None))
    with database.reading(sync_round.engine) as connection:
        ids = connection.scalars(select(alerts.c.id).where(is_open(), has_stored_values)).all()
    cleared_values = dict.fromkeys(_STORED_COLUMNS)
    _update_alerts(sync_round, [{"id": row_id, **cleared_values} for row_id in ids])


def _store_problems(sync_round: SyncRound, problems: Sequence[str]) -> None:
    """Add the problems to the result of the round, and store them for the health view."""
    for problem in problems:
        sync_round.note(problem)
    text = cut("; ".join(problems), meta.c.value)
    with database.reading(sync_round.engine) as connection:
        stored_text = read_meta(connection, MONITORING_PROBLEM) or ""
    if text != stored_text:
        with sync_round.writing() as connection:
            write_meta(connection, MONITORING_PROBLEM, text)
