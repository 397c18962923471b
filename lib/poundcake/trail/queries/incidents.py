"""The open incidents, with what was done about each of them and what a person has to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Sequence

from sqlalchemy import Subquery, false, func, select
from sqlalchemy.engine import Connection

from poundcake.alertmanager import RESOLVED
from poundcake.config import Config
from poundcake.execution_status import TERMINAL, WAITING, ExecutionStatus
from poundcake.string_enum import StringEnum
from poundcake.timestamps import format_timestamp
from poundcake.trail.alert_conditions import AlertConditions, has_value, resolve
from poundcake.trail.label_matchers import find_matching, has_id
from poundcake.trail.outcomes import Outcome
from poundcake.trail.queries.bounded_search import depth_of, rows_after, time_filters
from poundcake.trail.queries.changes import changes_of_episodes
from poundcake.trail.queries.episode import FIRING, Description, Episode, Notification
from poundcake.trail.queries.episode_events import EpisodeEvents, events_of_episodes
from poundcake.trail.queries.episode_verdict import EpisodeVerdict, Judgement, judge
from poundcake.trail.queries.episodes import read_descriptions
from poundcake.trail.queries.near_misses import near_misses_of_incidents, needs_near_misses
from poundcake.trail.queries.page import Page, make_page
from poundcake.trail.queries.rows import (
    AlertRow,
    alerts_by_id,
    executions_of_alerts,
    format_optional,
    group_by_alert,
    incident_remarks,
    matched_rule,
    newest_execution,
    without_outdated_reason,
)
from poundcake.trail.queries.why import EpisodesView, read_circumstances
from poundcake.trail.schema import alerts, executions, links, unindexed
from poundcake.trail.search import Cursor, Filters

_NO_LIMIT = (1 << 63) - 1
# How many of the newest open executions are looked at. Those of incidents that have ended are among
# them.
_MAX_EXECUTIONS = 500
# The other statuses of an execution that has not ended. A list of them uses the index.
_WORKING = tuple(
    status.value for status in ExecutionStatus if status.value not in (*WAITING, *TERMINAL)
)
# The filters whose columns are in the index ix_poundcake_alerts_by_open.
_IN_INDEX = ("severity", "alert_name", "instance")

# The verdicts on incidents that a person already handles, and on those that need nobody.
_HANDLED = (EpisodeVerdict.ACKNOWLEDGED, EpisodeVerdict.SILENCED)
_IN_PROGRESS = (
    EpisodeVerdict.RUNNING,
    EpisodeVerdict.CHANGED,
    EpisodeVerdict.RETRYING,
    EpisodeVerdict.WAITING_FOR_STACKSTORM,
)
# The verdicts on incidents that continue at a known time. Without one, they need a person.
_MAY_GO_ON = (EpisodeVerdict.REFUSED, EpisodeVerdict.HELD_BACK)


class Attention(StringEnum):
    """Who takes care of an open incident."""

    NEEDS_PERSON = "needs_person"
    """Nothing more happens without a person."""
    IN_PROGRESS = "in_progress"
    """Something is being done for it, or will be without a person."""
    HANDLED = "handled"
    """A person has acknowledged it or silenced its alert."""

    @classmethod
    def of(cls, judgement: Judgement) -> Attention:
        """Return who takes care of an incident with this judgement."""
        if judgement.verdict in _HANDLED:
            return cls.HANDLED
        # The common cause of a storm needs a person, even if the change is tried again.
        is_storm = judgement.detail == "storm"
        goes_on = judgement.verdict in _MAY_GO_ON and judgement.next_at and not is_storm
        return cls.IN_PROGRESS if goes_on or judgement.verdict in _IN_PROGRESS else cls.NEEDS_PERSON


@dataclass(frozen=True)
class Incident:
    """An open incident.

    Attributes:
        episode: Its episode. It contains only the notification that opened the incident, and what
            the judgement depends on.
        row: The alert that opened it.
        is_stale: Whether its last notification is older than stale_after_hours.
        judgement: What was done about it, and what a person has to do.
    """

    episode: Episode
    row: AlertRow
    is_stale: bool
    judgement: Judgement

    def as_json(self) -> dict[str, Any]:
        """Return the incident as JSON, as the view's URL returns it."""
        row, execution = self.row, newest_execution(self.episode.executions)
        fields = {
            "fingerprint": row.fingerprint,
            "episode": row.episode,
            "alert_name": row.alert_name,
            "severity": row.severity,
            "instance": row.instance,
            **self.episode.description.as_json(),
            **self.judgement.as_json(),
            "attention": Attention.of(self.judgement).value,
            "starts_at": format_optional(row.starts_at),
            "last_seen_at": format_timestamp(row.last_seen_at),
            "notifications": row.notifications,
            "stale": self.is_stale,
            "request_id": row.request_id,
            "st2_workflow": execution.st2_workflow if execution else "",
            "st2_execution_id": execution.st2_execution_id if execution else "",
            "remediation_status": (
                execution.annotated_status if execution else row.full_reason or row.outcome
            ),
            "st2_execution_status": execution.status if execution else "",
            "result": execution.result.value if execution else "",
            **incident_remarks(row),
        }
        if row.outcome != Outcome.ADMITTED:
            fields["outcome"] = row.outcome
        if self.episode.approvals:
            fields["approvals"] = [approval.as_json() for approval in self.episode.approvals]
        return fields


@dataclass(frozen=True)
class IncidentsView(EpisodesView):
    """A page of the episodes of open incidents, with the facts that their judgements depend on."""

    def as_json(self) -> dict[str, Any]:
        """Return the view as JSON, as its URL returns it."""
        return self._page_as_json([*map(self._judge, self.page.rows)], "active_alerts")

    def _judge(self, episode: Episode) -> Incident:
        return Incident(
            episode,
            episode.newest_row,
            self.circumstances.is_stale(episode),
            judge(episode, self.circumstances),
        )


def read_incidents(
    connection: Connection,
    filters: Filters = Filters(),
    limit: int = 100,
    offset: int = 0,
    config: Config | None = None,
) -> IncidentsView:
    """Return the open incidents, newest first.

    Args:
        connection: A connection to the tracking database.
        filters: The filters on their alerts.
        limit: The maximum number of incidents.
        offset: How many incidents to skip.
        config: The configuration, on whose limits the judgements depend; None for the defaults.
    """
    page = _find_page(connection, filters, limit, offset)
    rows = alerts_by_id(connection, page.rows)
    has_misses = needs_near_misses(rows, filters, offset)
    return IncidentsView(
        page.with_rows(_build_episodes(connection, rows)),
        read_circumstances(connection, config or Config()),
        near_misses=near_misses_of_incidents(connection, filters) if has_misses else (),
    )


def read_incidents_at_work(
    connection: Connection, limit: int = 100, config: Config | None = None
) -> IncidentsView:
    """Return the open incidents whose workflow has not ended: those that wait for a person first.

    They are found by their executions, however many incidents are open. The latest workflow comes
    first.

    Args:
        connection: A connection to the tracking database.
        limit: The maximum number of incidents.
        config: The configuration, on whose limits the judgements depend; None for the defaults.
    """
    ids = list(
        dict.fromkeys(
            [
                *_find_by_executions(connection, WAITING),
                *_find_by_executions(connection, _WORKING),
            ]
        )
    )
    rows = {row.id: row for row in alerts_by_id(connection, ids[:limit])}
    episodes = _build_episodes(connection, [rows[i] for i in ids[:limit] if i in rows])
    return IncidentsView(
        Page(episodes, len(ids)), read_circumstances(connection, config or Config())
    )


def _find_by_executions(connection: Connection, statuses: Sequence[str]) -> Sequence[int]:
    """Return the open incidents with an execution in one of these statuses, the latest first."""
    newest = (
        select(executions.c.id, executions.c.start_timestamp)
        .where(executions.c.status.in_(statuses))
        .order_by(executions.c.start_timestamp.desc(), executions.c.id.desc())
        .limit(_MAX_EXECUTIONS)
        .subquery("newest")
    )
    return connection.scalars(
        select(alerts.c.id)
        .join(links, links.c.alert_id == alerts.c.id)
        .join(newest, newest.c.id == links.c.st2_execution_id)
        .where(unindexed(alerts.c.open_fingerprint) > "")
        .order_by(newest.c.start_timestamp.desc(), newest.c.id.desc())
    ).all()


def _build_episodes(connection: Connection, rows: Sequence[AlertRow]) -> list[Episode]:
    """Return the episodes of incidents.

    Args:
        connection: A connection to the tracking database.
        rows: The alerts that opened the incidents.
    """
    ids = [row.id for row in rows]
    names = [row.episode or "" for row in rows]
    executions_by_alert = group_by_alert(executions_of_alerts(connection, ids))
    descriptions = read_descriptions(connection, ids)
    changes = changes_of_episodes(connection, names)
    # Only a workflow reports events.
    started = [name for row, name in zip(rows, names) if row.id in executions_by_alert]
    events = events_of_episodes(connection, started)
    episodes = []
    for incident_row, name in zip(rows, names):
        own_executions = executions_by_alert.get(incident_row.id, [])
        row = without_outdated_reason(incident_row, own_executions)
        approvals, ends = events.get(name) or EpisodeEvents({}, {})
        waiting_ids = [row.st2_execution_id for row in own_executions if row.status in WAITING]
        episode = Episode(
            name=name,
            fingerprint=row.fingerprint,
            alert_name=row.alert_name,
            severity=row.severity,
            instance=row.instance,
            state=FIRING,
            starts_at=row.starts_at,
            ends_at=None,
            last_seen_at=row.last_seen_at,
            notification_count=row.notifications,
            notifications=[Notification(row, matched_rule(row, own_executions))],
            executions=own_executions,
            incident=row,
            changes=changes.get(name, []),
            description=descriptions.get(row.id, Description()),
            approvals=[approvals[row_id] for row_id in waiting_ids if row_id in approvals],
            reported_ends=ends,
        )
        episodes.append(episode)
    return episodes


def _find_page(connection: Connection, filters: Filters, limit: int, offset: int) -> Page[int]:
    """Return the page with the ids of the alerts that opened the matching incidents."""
    alert_conditions = resolve(connection, filters)
    open_alerts = _select_open(alert_conditions)
    moment, row_id = open_alerts.c.created_at, open_alerts.c.id
    conditions = time_filters(filters, moment)
    conditions += alert_conditions.on_columns(lambda name: open_alerts.c[name], _IN_INDEX)
    if filters.before:
        (last_id,) = filters.before.row_ids(1)
        conditions += rows_after((moment, row_id), (filters.before.moment, last_id))
    if filters.status == RESOLVED:
        conditions.append(false())
    statement = select(row_id, moment).where(*conditions)
    if filters.outcome:
        statement = statement.join(alerts, alerts.c.id == row_id).where(
            unindexed(alerts.c.outcome) == filters.outcome
        )
    continuation = None
    if alert_conditions.has_matchers:
        depth = depth_of(alert_conditions)
        newest = statement.order_by(moment.desc(), row_id.desc()).limit(depth + 1)
        candidates = connection.execute(newest).all()
        matching = find_matching(connection, [row.id for row in candidates], alert_conditions)
        statement = statement.where(has_id(row_id, matching.ids))
        if len(candidates) > min(depth, matching.checked_count):
            last_checked = candidates[matching.checked_count - 1]
            continuation = Cursor.of(last_checked.created_at, last_checked.id)
    total = connection.scalar(select(func.count()).select_from(statement.subquery("matching"))) or 0
    rows = connection.execute(
        statement.order_by(moment.desc(), row_id.desc()).limit(limit + 1).offset(offset)
    ).all()
    page = make_page(
        rows,
        limit,
        total,
        lambda row: Cursor.of(row.created_at, row.id),
        at_least=continuation is not None,
        continuation=continuation,
    )
    return page.with_rows([row.id for row in page.rows])


def _select_open(conditions: AlertConditions) -> Subquery:
    """Select the alerts of open incidents, with the columns that their index contains."""
    is_open = alerts.c.open_fingerprint > ""  # SQLite uses no index for IS NOT NULL
    if "fingerprint" in conditions.values:
        is_open = has_value(alerts.c.open_fingerprint, conditions.values["fingerprint"])
    columns = [alerts.c[name] for name in ("id", "created_at", *_IN_INDEX)]
    # The limit keeps SQLite from merging the subquery into the statement. Otherwise, SQLite would
    # search the whole history by time or severity for the few open alerts.
    return select(*columns).where(is_open).limit(_NO_LIMIT).subquery("opened")
