"""The StackStorm executions that were started for alerts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from itertools import starmap, takewhile
from typing import Any, NamedTuple, Sequence

from sqlalchemy import Select, Subquery, select
from sqlalchemy.engine import Connection

from poundcake.execution_status import STATUSES
from poundcake.timestamps import format_timestamp
from poundcake.trail import database
from poundcake.trail.alert_conditions import AlertConditions, resolve
from poundcake.trail.label_matchers import find_matching
from poundcake.trail.queries.bounded_search import (
    depth_of,
    rows_after,
    select_candidates,
    time_filters,
)
from poundcake.trail.queries.episodes import short_text, shown_labels
from poundcake.trail.queries.page import Page
from poundcake.trail.queries.rows import Execution, executions_by_link
from poundcake.trail.schema import (
    ALERTS_BY_ID,
    FILTERED_BY_ID,
    alerts,
    executions,
    links,
    unindexed,
)
from poundcake.trail.search import MAX_ROWS, Cursor, Filters, require_one_of

_STARTED_AT, _EXECUTION_ID, _LINK_ID = executions.c.start_timestamp, executions.c.id, links.c.id


class _Alert(NamedTuple):
    """The columns of an alert that the list shows."""

    id: int
    alert_name: str
    severity: str
    instance: str
    labels: str


_ALERTS_BY_ID = select(
    alerts.c.id,
    alerts.c.alert_name,
    alerts.c.severity,
    alerts.c.instance,
    short_text(alerts.c.labels),
).where(database.has_one_of(alerts.c.id))


@dataclass(frozen=True)
class ListedExecution:
    """One execution in the list, and the alert for which it was started."""

    execution: Execution
    alert: _Alert

    def as_json(self) -> dict[str, Any]:
        """Return the execution as JSON, as the view's URL returns it."""
        execution = self.execution
        return {
            "request_id": execution.request_id,
            "st2_execution_id": execution.st2_execution_id,
            "st2_workflow": execution.st2_workflow,
            "st2_rule": execution.st2_rule,
            "status": execution.status,
            "triggered_at": format_timestamp(execution.started_at or execution.linked_at),
            "duration_seconds": execution.duration_seconds,
            "url": execution.url,
            **execution.result_as_json(),
            "message": execution.message_line,
            "alert": {
                "name": self.alert.alert_name,
                "severity": self.alert.severity,
                "instance": self.alert.instance,
                "labels": dict(shown_labels(self.alert.labels)),
            },
        }


def linked_executions(
    connection: Connection,
    status: str = "",
    filters: Filters = Filters(),
    limit: int = 20,
    offset: int = 0,
    web_url: str = "",
) -> Page[ListedExecution]:
    """Return the executions that were started for alerts, most recently started first.

    An execution that is linked to several alerts has a row for each.

    Args:
        connection: A connection to the tracking database.
        status: The StackStorm status of the execution, or '' for any.
        filters: The filters on its alert, and the time range in which it started.
        limit: The maximum number of rows.
        offset: How many rows to skip.
        web_url: StackStorm's web UI, for links to the executions.

    Raises:
        FilterError: `status` is not a status of StackStorm.
    """
    require_one_of("status", status, STATUSES)
    end = offset + limit
    ids, next_cursor = _find_links(connection, status, filters, max(end, MAX_ROWS) + 1)
    page = ids[offset:end]
    executions_by_link_id = executions_by_link(connection, page, web_url)
    alert_ids = {execution.alert_id for execution in executions_by_link_id.values()}
    rows = database.read_batched(connection, _ALERTS_BY_ID, sorted(alert_ids))
    alerts_by_id = {alert.id: alert for alert in starmap(_Alert, rows)}
    # A purge may delete some of the rows while this page is read.
    listed = [
        ListedExecution(
            executions_by_link_id[link_id],
            alerts_by_id[executions_by_link_id[link_id].alert_id],
        )
        for link_id in page
        if link_id in executions_by_link_id
        and executions_by_link_id[link_id].alert_id in alerts_by_id
    ]
    has_more = len(ids) > end and listed
    return Page(
        listed,
        min(len(ids), MAX_ROWS),
        len(ids) > MAX_ROWS or next_cursor is not None,
        _cursor(listed[-1].execution) if has_more else next_cursor,
    )


def _find_links(
    connection: Connection, status: str, filters: Filters, limit: int
) -> tuple[Sequence[int], Cursor | None]:
    """Find the links to matching executions, newest first, at most `limit`.

    With filters on alerts, search the executions of all matching alerts if there are only a few
    alerts, and otherwise the newest executions.

    Returns:
        The ids of the links, and the cursor with which to continue if the search stopped early.
    """
    next_cursor = None
    conditions = resolve(connection, filters)
    statement = (
        _select_for_few_alerts(connection, status, filters, conditions)
        if filters.has_alert_filter
        else None
    )
    are_newest = statement is None
    if statement is None:
        # Search one more execution, because the cursor's own execution may have no more links.
        depth = depth_of(conditions) if filters.has_alert_filter else limit
        newest = _select_newest(status, filters, depth + 1)
        statement = _select_links(connection, newest, filters, conditions)
        next_cursor = _cursor_after(connection, newest, depth) if filters.has_alert_filter else None
    order = list(statement.selected_columns)
    if filters.before:
        after = (filters.before.moment, *filters.before.execution_and_row_id())
        statement = statement.where(*rows_after(order, after))
    statement = statement.order_by(*[column.desc() for column in order])
    if are_newest and conditions.has_matchers:
        return _match_links(connection, statement, conditions, next_cursor)
    link_ids = statement.with_only_columns(order[-1])
    return connection.scalars(link_ids.limit(limit)).all(), next_cursor


def _match_links(
    connection: Connection,
    statement: Select[tuple[datetime, str, int]],
    conditions: AlertConditions,
    next_cursor: Cursor | None,
) -> tuple[Sequence[int], Cursor | None]:
    """Apply the matchers to the alerts of links, and return the result of _find_links().

    An execution may have thousands of links, so the number of checked links is limited, too.
    """
    depth = depth_of(conditions)
    with_alerts = statement.add_columns(links.c.alert_id).limit(depth + 1)
    rows = connection.execute(with_alerts).all()
    alert_ids = list(dict.fromkeys(row.alert_id for row in rows))
    matching = find_matching(connection, alert_ids, conditions)
    unchecked_ids = set(alert_ids[matching.checked_count :])
    checked_rows = list(takewhile(lambda row: row.alert_id not in unchecked_ids, rows))
    if len(checked_rows) < len(rows) or len(rows) > depth:
        next_cursor = Cursor.of(*checked_rows[-1][:3])
    matching_ids = set(matching.ids)
    return [row[2] for row in checked_rows if row.alert_id in matching_ids], next_cursor


def _cursor(execution: Execution) -> Cursor:
    started_at = execution.started_at or execution.linked_at
    return Cursor.of(started_at, execution.st2_execution_id, execution.link_id)


def _select_for_few_alerts(
    connection: Connection, status: str, filters: Filters, conditions: AlertConditions
) -> Select[tuple[datetime, str, int]] | None:
    """Select the executions of all matching alerts, or return None if there are too many."""
    any_time = replace(filters, since=None, until=None)
    if conditions.has_matchers:
        # Do not apply the matchers to alerts of which there are too many.
        on_columns = replace(conditions, labels=(), annotations=())
        if select_candidates(connection, on_columns, any_time).continues(connection):
            return None
    search = select_candidates(connection, conditions, any_time)
    if search.continues(connection):
        return None
    statement = (
        select(_STARTED_AT, _EXECUTION_ID, _LINK_ID)
        .select_from(search.rows)
        .join(links, links.c.alert_id == search.rows.c.id)
        .join(executions, links.c.st2_execution_id == _EXECUTION_ID)
        .where(search.matches, *time_filters(filters, _STARTED_AT))
    )
    return statement.where(unindexed(executions.c.status) == status) if status else statement


def _select_newest(status: str, filters: Filters, count: int) -> Subquery:
    """Select the newest executions within the filters' time range, at most `count`."""
    newest = select(_STARTED_AT, _EXECUTION_ID).where(*time_filters(filters, _STARTED_AT))
    if status:
        newest = newest.where(executions.c.status == status)
    if filters.before:
        # The "\0" includes the cursor's own execution, which may have links that the previous
        # page did not show.
        execution_id, _ = filters.before.execution_and_row_id()
        after = (filters.before.moment, execution_id + "\0")
        newest = newest.where(*rows_after((_STARTED_AT, _EXECUTION_ID), after))
    return newest.order_by(_STARTED_AT.desc(), _EXECUTION_ID.desc()).limit(count).subquery("newest")


def _select_links(
    connection: Connection, newest: Subquery, filters: Filters, conditions: AlertConditions
) -> Select[tuple[datetime, str, int]]:
    """Select the links of these executions to matching alerts."""
    statement = select(newest.c.start_timestamp, newest.c.id, _LINK_ID).join(
        links, links.c.st2_execution_id == newest.c.id
    )
    if filters.has_alert_filter:
        statement = statement.join(alerts, alerts.c.id == links.c.alert_id).where(
            *conditions.on_columns(lambda name: unindexed(alerts.c[name]))
        )
        # Without this hint, MariaDB reads whole rows. If the index is missing, it reports an error.
        if set(FILTERED_BY_ID) >= set(conditions.values) and database.has_view_indexes(connection):
            statement = statement.with_hint(alerts, f"FORCE INDEX ({ALERTS_BY_ID})")
    return statement


def _cursor_after(connection: Connection, newest: Subquery, depth: int) -> Cursor | None:
    """Return the cursor that continues after these executions, or None if there are no more."""
    started_at, execution_id = newest.c.start_timestamp, newest.c.id
    last_row = connection.execute(
        select(started_at, execution_id)
        .order_by(started_at.desc(), execution_id.desc())
        .offset(depth)
        .limit(1)
    ).one_or_none()
    return Cursor.of(*last_row, 0) if last_row else None
