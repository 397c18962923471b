"""The newest requests, with their alerts and the executions that ran for them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from itertools import starmap
from typing import Any, Mapping, NamedTuple, Sequence

from sqlalchemy import Row, and_, bindparam, case, distinct, func, select
from sqlalchemy.engine import Connection

from poundcake.timestamps import format_timestamp
from poundcake.trail import database
from poundcake.trail.alert_conditions import AlertConditions, resolve
from poundcake.trail.label_matchers import find_matching
from poundcake.trail.outcomes import Explanation
from poundcake.trail.queries import bounded_search
from poundcake.trail.queries.bounded_search import rows_after, select_candidates, time_filters
from poundcake.trail.queries.episodes import short_text, shown_labels
from poundcake.trail.queries.page import Page, make_page
from poundcake.trail.queries.rows import (
    Execution,
    executions_of_alerts,
    first_workflow,
    group_by_alert,
    join_reasons,
    main_execution,
    reason_with_executions,
    request_state,
)
from poundcake.trail.schema import alerts, api_calls, links
from poundcake.trail.search import Cursor, Filters

# A request may have 10,000 alerts, and a page may have 1000 requests. So a page shows at most
# _MAX_REQUEST_ALERTS alerts of each request, and about _MAX_PAGE_ALERTS in total.
_MAX_REQUEST_ALERTS = 20
_MAX_PAGE_ALERTS = 2000


class _AlertRow(NamedTuple):
    """The columns of poundcake_alerts that the list shows."""

    id: int
    api_call_id: int
    position: int
    alert_name: str
    severity: str
    instance: str
    status: str
    outcome: str
    reason: str
    explanation: str | None
    explanation_reason: str | None
    ended_by: str | None
    acknowledged_by: str | None
    labels: str


_CALLS = select(
    *[api_calls.c[name] for name in ("id", "request_id", "created_at", "completed_at", "error")]
).where(database.has_one_of(api_calls.c.id))
_ALERTS = select(
    *[alerts.c[name] for name in _AlertRow._fields if name != "labels"], short_text(alerts.c.labels)
)
_FIRST_ALERTS = _ALERTS.where(
    database.has_one_of(alerts.c.api_call_id), alerts.c.position < bindparam("limit")
)
_ALERTS_BY_ID = _ALERTS.where(database.has_one_of(alerts.c.id))


@dataclass(frozen=True)
class RequestAlert:
    """An alert of a request in the list, with its labels and the executions started for it."""

    row: _AlertRow
    labels: Mapping[str, str]
    executions: Sequence[Execution]

    def as_json(self) -> dict[str, Any]:
        """Return the alert as JSON, as the view's URL returns it."""
        fields = {
            "id": self.row.id,
            "alert_name": self.row.alert_name,
            "severity": self.row.severity,
            "instance": self.row.instance,
            "labels": dict(self.labels),
            "status": self.row.status,
            "outcome": self.row.outcome,
            "reason": join_reasons(
                self.row.reason, reason_with_executions(self.row, self.executions)
            ),
            "st2_workflow": first_workflow(self.executions),
        }
        execution = main_execution(self.executions)
        if execution:
            fields.update(
                st2_execution_id=execution.st2_execution_id,
                **execution.result_as_json(),
                message=execution.message_line,
            )
        for name in ("ended_by", "acknowledged_by"):
            if getattr(self.row, name):
                fields[name] = getattr(self.row, name)
        return fields


@dataclass(frozen=True)
class RequestSummary:
    """One request in the list.

    Attributes:
        request_id: The id of the request.
        received_at: When the endpoint received it.
        status: Its state, see rows.request_state().
        alert_count: The number of alerts in the request.
        execution_count: The number of StackStorm executions that were started for these alerts.
        alerts: Its first alerts in the order of the payload and, with filters on alerts, its newest
            matching alert.
    """

    request_id: str
    received_at: datetime
    status: str
    alert_count: int
    execution_count: int
    alerts: list[RequestAlert]

    def as_json(self) -> dict[str, Any]:
        """Return the request as the JSON object that the endpoint serves."""
        fields: dict[str, Any] = {
            "request_id": self.request_id,
            "received_at": format_timestamp(self.received_at),
            "status": self.status,
            "alert_count": self.alert_count,
            "st2_execution_count": self.execution_count,
            "alerts": [alert.as_json() for alert in self.alerts],
        }
        if self.alert_count > len(self.alerts):
            fields["alerts_left_out"] = self.alert_count - len(self.alerts)
        return fields


class _Match(NamedTuple):
    """A matching request, with the values by which the list is sorted.

    Attributes:
        call_id: The row id of the request.
        received_at: When it was received.
        sort_id: The row id of the request or, with filters on alerts, of its newest matching alert.
    """

    call_id: int
    received_at: datetime
    sort_id: int

    def cursor(self) -> Cursor:
        """Return the cursor that continues after this request."""
        return Cursor.of(self.received_at, self.sort_id)


def recent_requests(
    connection: Connection, filters: Filters = Filters(), limit: int = 20, offset: int = 0
) -> Page[RequestSummary]:
    """Return the newest requests. With filters on alerts, return only those with a match."""
    find_page = _find_requests_with_alerts if filters.has_alert_filter else _find_requests
    page = find_page(connection, filters, limit, offset)
    matching_alert_ids = [match.sort_id for match in page.rows] if filters.has_alert_filter else []
    ids = [match.call_id for match in page.rows]
    return page.with_rows(_summaries(connection, ids, matching_alert_ids))


def _find_requests(
    connection: Connection, filters: Filters, limit: int, offset: int
) -> Page[_Match]:
    moment, row_id = api_calls.c.created_at, api_calls.c.id
    conditions = time_filters(filters, moment)
    if filters.before:
        conditions += rows_after((moment, row_id), _cursor_values(filters.before))
    counted_requests = (
        select(row_id).where(*conditions).limit(bounded_search.DEPTH + 1).subquery("counted")
    )
    total = connection.scalar(select(func.count()).select_from(counted_requests)) or 0
    rows = connection.execute(
        select(row_id, moment, row_id)
        .where(*conditions)
        .order_by(moment.desc(), row_id.desc())
        .limit(limit + 1)
        .offset(offset)
    )
    depth = bounded_search.DEPTH
    page_rows = [_Match(*row) for row in rows]
    return make_page(page_rows, limit, min(total, depth), _Match.cursor, at_least=total > depth)


def _find_requests_with_alerts(
    connection: Connection, filters: Filters, limit: int, offset: int
) -> Page[_Match]:
    """Return the requests with a matching alert, sorted by their newest matching alert."""
    after = _cursor_values(filters.before) if filters.before else None
    conditions = resolve(connection, filters)
    search = select_candidates(
        connection,
        conditions,
        filters,
        after,
        is_enough=lambda found: len({row.api_call_id for row in found}) > offset + limit,
    )
    alert, matches = search.rows.c, search.matches
    if after:
        shown_request_ids = _shown_on_earlier_pages(connection, conditions, after)
        matches = and_(matches, alert.api_call_id.not_in(shown_request_ids))
    counts = select(func.count(), func.count(distinct(case((matches, alert.api_call_id)))))
    scanned_count, total = connection.execute(counts.select_from(search.rows)).one()
    moment = func.max(alert.created_at, type_=alerts.c.created_at.type)
    newest_alert_id = func.max(alert.id)
    rows = connection.execute(
        select(alert.api_call_id, moment, newest_alert_id)
        .where(matches)
        .group_by(alert.api_call_id)
        .order_by(moment.desc(), newest_alert_id.desc())
        .limit(limit + 1)
        .offset(offset)
    )
    at_least = search.continues(connection, scanned_count)
    next_cursor = search.continuation(connection) if at_least else None
    page_rows = [_Match(*row) for row in rows]
    return make_page(page_rows, limit, total, _Match.cursor, at_least, next_cursor)


def _cursor_values(before: Cursor) -> tuple[datetime, int]:
    return before.moment, before.row_ids(1)[0]


def _shown_on_earlier_pages(
    connection: Connection, conditions: AlertConditions, after: tuple[datetime, int]
) -> set[int]:
    """Return the requests of earlier pages that have more matching alerts on this page.

    All alerts of a request have the time of the request, so only requests with the cursor's time
    can be split between two pages.
    """
    moment, alert_id = after
    rows = connection.execute(
        select(alerts.c.id, alerts.c.api_call_id).where(
            alerts.c.created_at == moment,
            alerts.c.id >= alert_id,
            *conditions.on_columns(lambda name: alerts.c[name]),
        )
    )
    request_ids = {row_id: call_id for row_id, call_id in rows}
    matching = find_matching(connection, list(request_ids), conditions)
    return {request_ids[row_id] for row_id in matching.ids}


def _summaries(
    connection: Connection, ids: Sequence[int], matching_alert_ids: Sequence[int]
) -> list[RequestSummary]:
    """Return the requests of a page with their alerts.

    Args:
        connection: A connection to the tracking database.
        ids: The row ids of the requests, in the order of the page.
        matching_alert_ids: The row ids of the newest matching alert of each request; empty without
            filters on alerts.
    """
    requests_by_id = {row.id: row for row in database.read_batched(connection, _CALLS, ids)}
    limit = max(1, min(_MAX_REQUEST_ALERTS, _MAX_PAGE_ALERTS // max(1, len(ids))))
    shown_alerts = _read_shown_alerts(connection, ids, matching_alert_ids, limit)
    shown_ids = [row.id for rows in shown_alerts.values() for row in rows]
    executions = group_by_alert(executions_of_alerts(connection, shown_ids))
    large_requests = [
        requests_by_id[call_id]
        for call_id in ids
        if call_id in requests_by_id and len(shown_alerts.get(call_id, [])) >= limit
    ]
    totals = _read_totals(connection, large_requests)
    summaries = []
    for request in (requests_by_id[call_id] for call_id in ids if call_id in requests_by_id):
        rows = shown_alerts.get(request.id, [])
        total = totals.get(request.id) or _totals_of_shown_alerts(rows, executions)
        shown = [
            RequestAlert(row, shown_labels(row.labels), executions.get(row.id, [])) for row in rows
        ]
        summaries.append(_summary(request, shown, total))
    return summaries


def _summary(
    request: Row[Any],
    shown_alerts: list[RequestAlert],
    total: _Totals,
) -> RequestSummary:
    has_executions = total.executions > 0
    return RequestSummary(
        request_id=request.request_id,
        received_at=request.created_at,
        status=request_state(
            request.error, total.has_lost_alert, request.completed_at, has_executions
        ),
        alert_count=total.alerts,
        execution_count=total.executions,
        alerts=shown_alerts,
    )


def _read_shown_alerts(
    connection: Connection, ids: Sequence[int], matching_alert_ids: Sequence[int], limit: int
) -> dict[int, list[_AlertRow]]:
    """Return the first `limit` alerts of each request, and its newest matching alert."""
    rows = [*database.read_batched(connection, _FIRST_ALERTS, ids, limit=limit)]
    other_ids = sorted(set(matching_alert_ids) - {row.id for row in rows})
    rows += database.read_batched(connection, _ALERTS_BY_ID, other_ids)
    shown_alerts: dict[int, list[_AlertRow]] = {}
    for row in starmap(_AlertRow, rows):
        shown_alerts.setdefault(row.api_call_id, []).append(row)
    for request_alerts in shown_alerts.values():
        request_alerts.sort(key=lambda row: row.position)
    return shown_alerts


class _Totals(NamedTuple):
    """Totals over all alerts of a request, including those that are not shown."""

    alerts: int
    has_lost_alert: bool
    executions: int


def _totals_of_shown_alerts(
    rows: Sequence[_AlertRow], executions: Mapping[int, Sequence[Execution]]
) -> _Totals:
    """Return the totals of a request whose alerts are all shown."""
    execution_ids = {
        execution.st2_execution_id for row in rows for execution in executions.get(row.id, [])
    }
    has_lost_alert = any(row.explanation == Explanation.LOST for row in rows)
    return _Totals(len(rows), has_lost_alert, len(execution_ids))


def _read_totals(connection: Connection, requests: Sequence[Row[Any]]) -> dict[int, _Totals]:
    """Return the totals of requests whose alerts may not all be shown, by row id."""
    is_lost = case((alerts.c.explanation == Explanation.LOST, 1), else_=0)
    totals: dict[int, _Totals] = {}
    for chunk in database.batched(requests):
        counts = connection.execute(
            select(links.c.request_id, func.count(distinct(links.c.st2_execution_id)))
            .where(links.c.request_id.in_([request.request_id for request in chunk]))
            .group_by(links.c.request_id)
        )
        execution_counts = {request_id: count for request_id, count in counts}
        request_ids = {request.id: request.request_id for request in chunk}
        for call_id, alert_count, has_lost_alert in connection.execute(
            select(alerts.c.api_call_id, func.count(), func.max(is_lost))
            .where(alerts.c.api_call_id.in_(request_ids))
            .group_by(alerts.c.api_call_id)
        ):
            totals[call_id] = _Totals(
                alert_count, bool(has_lost_alert), execution_counts.get(request_ids[call_id], 0)
            )
    return totals
