"""The open incidents, with the state of their remediation."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Subquery, false, func, select
from sqlalchemy.engine import Connection

from poundcake.alertmanager import RESOLVED
from poundcake.timestamps import format_timestamp
from poundcake.trail import clock
from poundcake.trail.alert_conditions import AlertConditions, has_value, resolve
from poundcake.trail.label_matchers import find_matching, has_id
from poundcake.trail.outcomes import Outcome
from poundcake.trail.queries.bounded_search import depth_of, rows_after, time_filters, unindexed
from poundcake.trail.queries.page import Page, make_page
from poundcake.trail.queries.rows import (
    AlertRow,
    Execution,
    alerts_by_id,
    executions_of_alerts,
    format_optional,
    incident_remarks,
)
from poundcake.trail.schema import alerts
from poundcake.trail.search import Cursor, Filters

_NO_LIMIT = (1 << 63) - 1
# The filters whose columns are in the index ix_poundcake_alerts_by_open.
_IN_INDEX = ("severity", "alert_name", "instance")


@dataclass(frozen=True)
class Incident:
    """An open incident.

    Attributes:
        row: The alert that opened it.
        is_stale: Whether its last notification is older than stale_after_hours.
        execution: The newest execution that was started for the alert, or None.
    """

    row: AlertRow
    is_stale: bool
    execution: Execution | None

    def as_json(self) -> dict[str, Any]:
        """Return the incident as JSON, as the view's URL returns it."""
        row, execution = self.row, self.execution
        fields = {
            "fingerprint": row.fingerprint,
            "episode": row.episode,
            "alert_name": row.alert_name,
            "severity": row.severity,
            "instance": row.instance,
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
            **incident_remarks(row),
        }
        if row.outcome != Outcome.ADMITTED:
            fields["outcome"] = row.outcome
        return fields


def open_incidents(
    connection: Connection,
    stale_after_hours: int,
    filters: Filters = Filters(),
    limit: int = 100,
    offset: int = 0,
) -> Page[Incident]:
    """Return the open incidents, newest first."""
    page = _find_page(connection, filters, limit, offset)
    rows = alerts_by_id(connection, page.rows)
    newest_executions = {
        execution.alert_id: execution
        for execution in executions_of_alerts(connection, [row.id for row in rows])
    }
    stale_before = clock.database_now(connection) - timedelta(hours=stale_after_hours)
    return page.with_rows(
        [
            Incident(row, row.last_seen_at < stale_before, newest_executions.get(row.id))
            for row in rows
        ]
    )


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
