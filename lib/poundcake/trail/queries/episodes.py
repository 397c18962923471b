"""The episodes of alerts and the executions that ran for them, most recently seen first.

An episode is one occurrence of one label set; see poundcake.trail.admission.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from typing import Mapping, NamedTuple, Sequence

from sqlalchemy import ColumnElement, case, func, or_, select
from sqlalchemy.engine import Connection

from poundcake.alertmanager import FIRING
from poundcake.execution_status import WAITING
from poundcake.trail.alert_conditions import AlertConditions, resolve
from poundcake.trail.audit import AuditEntry, read_entries
from poundcake.trail.changes import FAILURES, Change, ChangeResult
from poundcake.trail.database import has_one_of, read_batched
from poundcake.trail.label_matchers import find_matching
from poundcake.trail.outcomes import EMITTED, EndedBy, Outcome
from poundcake.trail.queries.bounded_search import Entry, select_candidates, time_filters
from poundcake.trail.queries.changes import changes_of_episodes, count_failures_in_a_row
from poundcake.trail.queries.episode import Description, Episode, Notification
from poundcake.trail.queries.episode_events import (
    EpisodeEvents,
    add_evidence,
    events_of_episodes,
)
from poundcake.trail.queries.page import Page
from poundcake.trail.queries.rows import (
    AlertRow,
    Execution,
    alerts_by_id,
    executions_of_alerts,
    matched_rule,
    without_outdated_reason,
)
from poundcake.trail.schema import alerts
from poundcake.trail.search import Cursor, Filters

DEFAULT_LIMIT = 10
# Maximum number of matching notifications from which one page is built.
_MAX_NOTIFICATIONS = 40
# How many of an episode's newest notifications are shown, and how many of the newest ones that
# changed something.
_MAX_SHOWN = 3
# The labels and annotations of an alert are not shown if they are longer than this, in characters.
_MAX_DESCRIPTION = 20_000


def short_text(column: ColumnElement[str]) -> ColumnElement[str]:
    """Return the expression for a JSON column, or for an empty object if it is too long to show."""
    return case((func.length(column) <= _MAX_DESCRIPTION, column), else_="{}")


_DESCRIPTIONS = select(
    alerts.c.id, short_text(alerts.c.labels), short_text(alerts.c.annotations)
).where(has_one_of(alerts.c.id))
_CHANGING_OUTCOMES = [o for o in Outcome if o not in (Outcome.DUPLICATE, Outcome.MALFORMED)]
# The notifications that changed something. Repetitions during a cooldown change nothing. They are
# counted by the incident that the first notification opened.
_CHANGING_NOTIFICATIONS = select(alerts.c.id).where(
    has_one_of(alerts.c.episode),
    alerts.c.outcome.in_(_CHANGING_OUTCOMES),
    or_(
        alerts.c.outcome.in_(EMITTED),
        alerts.c.open_fingerprint.is_not(None),
        alerts.c.closed_at.is_not(None),
    ),
)
_NEWEST_ID = select(func.max(alerts.c.id))


class _Match(NamedTuple):
    """A notification that matches the filters."""

    id: int
    received_at: datetime
    episode: str | None


class _SearchResult(NamedTuple):
    """The newest notifications that match the filters.

    Attributes:
        matches: At most _MAX_NOTIFICATIONS, newest first.
        newest_id: The id of the newest alert when the first page was read. Later alerts are left
            out, so that an episode with a new notification does not move between pages.
        next_cursor: The cursor of the next matches, or None if there are no more.
    """

    matches: list[_Match]
    newest_id: int
    next_cursor: Cursor | None


def find_episodes(
    connection: Connection,
    filters: Filters,
    limit: int = DEFAULT_LIMIT,
    offset: int = 0,
    web_url: str = "",
) -> Page[Episode]:
    """Return the episodes of the matching alerts, most recently seen first.

    The total counts the episodes of the newest matching notifications.

    Args:
        connection: A connection to the tracking database.
        filters: The filters on alerts.
        limit: The maximum number of episodes.
        offset: How many episodes to skip.
        web_url: StackStorm's web UI, for links to the executions.
    """
    conditions = resolve(connection, filters)
    result = _search(connection, filters, conditions)
    groups: dict[str | int, list[_Match]] = {}
    for match in result.matches:
        groups.setdefault(match.episode or match.id, []).append(match)
    if filters.before:
        newest_matches = [group[0] for group in groups.values() if group[0].episode]
        for name in _shown_on_earlier_pages(connection, filters, conditions, newest_matches):
            del groups[name]
    end = offset + limit
    page = list(groups.values())[offset:end]
    next_cursor = result.next_cursor
    if len(groups) > end:
        last_match = page[-1][0]
        next_cursor = Cursor.of(last_match.received_at, last_match.id, result.newest_id)
    episodes = _build_episodes(connection, page, web_url)
    return Page(episodes, len(groups), result.next_cursor is not None, next_cursor)


def _search(connection: Connection, filters: Filters, conditions: AlertConditions) -> _SearchResult:

    def is_enough(found: Sequence[Entry]) -> bool:
        return len(found) > _MAX_NOTIFICATIONS

    if filters.before:
        alert_id, newest_id = filters.before.row_ids(2)
        after = (filters.before.moment, alert_id)
        search = select_candidates(connection, conditions, filters, after, is_enough)
    else:
        newest_id = connection.scalar(_NEWEST_ID) or 0
        search = select_candidates(connection, conditions, filters, None, is_enough)
    moment, row_id = search.rows.c.created_at, search.rows.c.id
    newest = (
        select(row_id)
        .where(search.matches, row_id <= newest_id)
        .order_by(moment.desc(), row_id.desc())
        .limit(_MAX_NOTIFICATIONS + 1)
        .subquery("newest")
    )
    matches = [
        _Match(*row)
        for row in connection.execute(
            select(alerts.c.id, alerts.c.created_at, alerts.c.episode)
            .join(newest, newest.c.id == alerts.c.id)
            .order_by(alerts.c.created_at.desc(), alerts.c.id.desc())
        )
    ]
    next_cursor = None
    if len(matches) > _MAX_NOTIFICATIONS:
        last_match = matches[_MAX_NOTIFICATIONS - 1]
        next_cursor = Cursor.of(last_match.received_at, last_match.id, newest_id)
    elif search.continues(connection):
        next_cursor = search.continuation(connection, newest_id)
    return _SearchResult(matches[:_MAX_NOTIFICATIONS], newest_id, next_cursor)


def _shown_on_earlier_pages(
    connection: Connection,
    filters: Filters,
    conditions: AlertConditions,
    matches: Sequence[_Match],
) -> set[str]:
    """Return the episodes of these matches that an earlier page has already shown.

    An earlier page has shown an episode if the episode has a newer matching alert. Only the next
    alert with the same fingerprint is read, which belongs to the same episode or to a later one. If
    a late alert of another episode lies in between, the episode is shown again.
    """
    before = filters.before
    if before is None:
        return set()
    alert_id, newest_id = before.row_ids(2)
    later_alerts = alerts.alias("later")
    column_conditions = time_filters(replace(filters, since=None), later_alerts.c.created_at)
    # The other columns have the same values in all alerts with the same fingerprint.
    column_conditions += conditions.on_columns(
        lambda name: later_alerts.c[name], ("severity", "status", "outcome")
    )
    next_alert_id = (
        select(later_alerts.c.id)
        .where(
            later_alerts.c.fingerprint == alerts.c.fingerprint,
            later_alerts.c.created_at >= before.moment,
            or_(later_alerts.c.created_at > before.moment, later_alerts.c.id >= alert_id),
            later_alerts.c.id <= newest_id,
            *column_conditions,
        )
        .order_by(later_alerts.c.created_at, later_alerts.c.id)
        .limit(1)
        .scalar_subquery()
    )
    names = {match.episode for match in matches}
    next_ids = connection.scalars(
        select(next_alert_id).where(alerts.c.id.in_([match.id for match in matches]))
    )
    ids = find_matching(
        connection, [row_id for row_id in next_ids if row_id is not None], conditions
    ).ids
    shown_names = connection.scalars(select(alerts.c.episode).where(alerts.c.id.in_(ids)))
    return {name for name in shown_names if name in names}


def _build_episodes(
    connection: Connection, groups: Sequence[Sequence[_Match]], web_url: str
) -> list[Episode]:
    """Return an episode for each group of matches. Each group is sorted newest first."""
    changing_ids = {
        row.id
        for row in read_batched(
            connection,
            _CHANGING_NOTIFICATIONS,
            [group[0].episode for group in groups if group[0].episode],
        )
    }
    newest_ids = {match.id for group in groups for match in group[:_MAX_SHOWN]}
    all_rows = alerts_by_id(connection, sorted(changing_ids | newest_ids))
    newest_rows = {row.id: row for row in all_rows if row.id in newest_ids}
    changing_by_episode: dict[str, list[AlertRow]] = {}
    for row in all_rows:
        if row.id in changing_ids:
            changing_by_episode.setdefault(row.episode or "", []).append(row)
    shown_rows: list[list[AlertRow]] = []
    for group in groups:
        changing_rows = changing_by_episode.get(group[0].episode or "", [])
        newest_in_group = [
            newest_rows[match.id] for match in group[:_MAX_SHOWN] if match.id in newest_rows
        ]
        rows = {
            row.id: row for row in changing_rows[:_MAX_SHOWN] + newest_in_group + changing_rows[-1:]
        }
        shown_rows.append(sorted(rows.values(), key=lambda row: (row.received_at, row.id)))
    executions = executions_of_alerts(
        connection, [row.id for rows in shown_rows for row in rows], web_url
    )
    shown_rows = [[without_outdated_reason(row, executions) for row in rows] for rows in shown_rows]
    by_target = read_entries(
        connection, [name for rows in shown_rows for row in rows for name in _audit_targets(row)]
    )
    names = [rows[0].episode or "" for rows in shown_rows if rows]
    changes_by_episode = changes_of_episodes(connection, names)
    events_by_episode = events_of_episodes(connection, names)
    descriptions = read_descriptions(connection, [rows[-1].id for rows in shown_rows if rows])
    episodes = [
        _build_episode(
            rows, changing_by_episode.get(rows[0].episode or "", rows), executions, by_target
        )
        for rows in shown_rows
        if rows
    ]
    return [
        _with_remediation(
            connection,
            replace(episode, description=descriptions[episode.newest_row.id]),
            changes_by_episode.get(episode.name, []),
            events_by_episode.get(episode.name),
        )
        for episode in episodes
    ]


def _with_remediation(
    connection: Connection,
    episode: Episode,
    changes: list[Change],
    events: EpisodeEvents | None,
) -> Episode:
    """Return an episode with the changes and the events about its remediations."""
    granted = [change for change in changes if change.result != ChangeResult.REFUSED]
    failures = 0
    if granted and granted[-1].result in FAILURES:
        failures = count_failures_in_a_row(connection, granted[-1])
    waiting_ids = [row.st2_execution_id for row in episode.executions if row.status in WAITING]
    approvals, ends = events or EpisodeEvents({}, {})
    return replace(
        episode,
        executions=add_evidence(episode.executions, ends),
        changes=changes,
        approvals=[approvals[row_id] for row_id in waiting_ids if row_id in approvals],
        reported_ends=ends,
        failures_in_a_row=failures,
    )


def shown_labels(text: str) -> Mapping[str, str]:
    """Return the labels that views show, given a short_text() of all labels."""
    return Description.of(json.loads(text), {}).labels


def read_descriptions(connection: Connection, alert_ids: Sequence[int]) -> dict[int, Description]:
    """Return what alerts say about themselves, by the row id of the alert."""
    return {
        row_id: Description.of(json.loads(labels), json.loads(annotations))
        for row_id, labels, annotations in read_batched(connection, _DESCRIPTIONS, alert_ids)
    }


def _audit_targets(row: AlertRow) -> tuple[str, ...]:
    """Return the possible targets of audit entries: the episode and the request."""
    return (row.episode or "", row.request_id)


def _build_episode(
    shown_rows: list[AlertRow],
    changing_rows: list[AlertRow],
    executions: Sequence[Execution],
    audit: Mapping[str, Sequence[AuditEntry]],
) -> Episode:
    """Return one episode.

    Args:
        shown_rows: The notifications to show, oldest first.
        changing_rows: The notifications that changed something, newest first; equal to
            `shown_rows` if the alert has no episode.
        executions: The executions of these and other alerts.
        audit: The audit entries by target.
    """
    first_row = shown_rows[0]
    ids = {row.id for row in shown_rows}
    own_executions = [execution for execution in executions if execution.alert_id in ids]
    firing_rows = [row for row in changing_rows if row.status == FIRING]
    resolve_rows = [row for row in changing_rows if row.outcome == Outcome.RESOLVED]
    incident_rows = [row for row in firing_rows if row.open_fingerprint or row.closed_at]
    targets = {name for row in shown_rows for name in _audit_targets(row)}
    notification_count = sum(row.notifications for row in firing_rows) or len(shown_rows)
    return Episode(
        name=first_row.episode or "",
        fingerprint=first_row.fingerprint,
        alert_name=first_row.alert_name,
        severity=first_row.severity,
        instance=first_row.instance,
        state=_state(changing_rows, resolve_rows, incident_rows),
        starts_at=(firing_rows or shown_rows)[-1].starts_at,
        ends_at=_ended_at(incident_rows, resolve_rows),
        last_seen_at=max(row.last_seen_at for row in shown_rows),
        notification_count=notification_count,
        notifications=[
            Notification(
                row, matched_rule(row, [e for e in own_executions if e.alert_id == row.id])
            )
            for row in shown_rows
        ],
        executions=own_executions,
        left_out_count=notification_count - _count_shown(shown_rows, firing_rows)
        if firing_rows
        else 0,
        incident=incident_rows[0] if incident_rows else None,
        audit=sorted(
            (entry for name in targets for entry in audit.get(name, ())), key=lambda entry: entry.at
        ),
    )


def _state(
    changing_rows: Sequence[AlertRow],
    resolve_rows: Sequence[AlertRow],
    incident_rows: Sequence[AlertRow],
) -> str:
    if any(row.open_fingerprint for row in changing_rows):
        return "firing"
    ended_by = next((row.ended_by for row in incident_rows if row.ended_by), None)
    if ended_by:
        return "resolved" if ended_by == EndedBy.RESOLVE else ended_by
    # Release 0.2.0 did not record how an incident ended.
    if resolve_rows:
        return "resolved"
    return "superseded" if any(row.closed_at for row in changing_rows) else ""


def _ended_at(
    incident_rows: Sequence[AlertRow], resolve_rows: Sequence[AlertRow]
) -> datetime | None:
    if resolve_rows:
        return resolve_rows[0].sender_ended_at
    last_incident = incident_rows[0] if incident_rows else None
    if last_incident is None or last_incident.ended_by in (None, EndedBy.SUPERSEDED):
        return None  # it is open, or the time of its end is unknown
    return last_incident.closed_at


def _count_shown(shown_rows: Sequence[AlertRow], firing_rows: Sequence[AlertRow]) -> int:
    """Return how many of the notifications that the episode's incidents counted are shown.

    A firing notification after the last counted one was recorded late and was not counted. One that
    changed something was counted, although a replay has the time of the request that it copies.
    """
    last_counted_at = max(row.last_seen_at for row in firing_rows)
    changing_ids = {row.id for row in firing_rows}
    return sum(
        row.status == FIRING and (row.id in changing_ids or row.received_at <= last_counted_at)
        for row in shown_rows
    )
