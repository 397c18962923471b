"""The newest requests, with their alerts and the executions that ran for them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Mapping, NamedTuple, Sequence

from sqlalchemy import ColumnElement, Row, and_, case, distinct, func, select
from sqlalchemy.engine import Connection

from poundcake.timestamps import format_timestamp
from poundcake.trail import database
from poundcake.trail.outcomes import Explanation
from poundcake.trail.queries import bounded_search
from poundcake.trail.queries.bounded_search import candidates, rows_after, time_filters
from poundcake.trail.queries.page import Page, page_of
from poundcake.trail.queries.rows import (
    Execution,
    by_alert,
    executions_of_alerts,
    first_workflow,
    join_reasons,
    request_state,
)
from poundcake.trail.schema import alerts, api_calls, links
from poundcake.trail.search import Cursor, Filters

# A request may have 10,000 alerts, and a page may have 1000 requests. So a page shows at most
# _ALERTS_OF_REQUEST alerts of each request, and about _ALERTS_ON_PAGE in total.
_ALERTS_OF_REQUEST = 20
_ALERTS_ON_PAGE = 2000


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


@dataclass(frozen=True)
class RequestAlert:
    """An alert of a request in the list, and the workflow that was started for it."""

    row: _AlertRow
    st2_workflow: str

    def as_json(self) -> dict[str, Any]:
        """Return the alert as JSON, as the view's URL returns it."""
        answer = {
            "id": self.row.id,
            "alert_name": self.row.alert_name,
            "severity": self.row.severity,
            "instance": self.row.instance,
            "status": self.row.status,
            "outcome": self.row.outcome,
            "reason": join_reasons(self.row.reason, self.row.explanation_reason),
            "st2_workflow": self.st2_workflow,
        }
        for name in ("ended_by", "acknowledged_by"):
            if getattr(self.row, name):
                answer[name] = getattr(self.row, name)
        return answer


@dataclass(frozen=True)
class RequestSummary:
    """One request in the list.

    Attributes:
        request_id: The id of the request.
        received_at: When the endpoint received it.
        status: Its state, see rows.request_state().
        alert_count: The number of alerts in the request.
        execution_count: The number of StackStorm executions that were started for these alerts.
        alerts: Its first alerts in the order of the payload, and the matching alert by which the
            request was found.
    """

    request_id: str
    received_at: datetime
    status: str
    alert_count: int
    execution_count: int
    alerts: list[RequestAlert]

    def as_json(self) -> dict[str, Any]:
        """Return the request as JSON, as the view's URL returns it."""
        answer: dict[str, Any] = {
            "request_id": self.request_id,
            "received_at": format_timestamp(self.received_at),
            "status": self.status,
            "alert_count": self.alert_count,
            "st2_execution_count": self.execution_count,
            "alerts": [alert.as_json() for alert in self.alerts],
        }
        if self.alert_count > len(self.alerts):
            answer["alerts_left_out"] = self.alert_count - len(self.alerts)
        return answer


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
    """Return the newest requests. With filters on alerts, only those with a matching alert."""
    find = _requests_with_alerts if filters.alert_filters else _requests
    page = find(connection, filters, limit, offset)
    found_by = [found.sort_id for found in page.rows] if filters.alert_filters else []
    ids = [found.call_id for found in page.rows]
    return page.with_rows(_summaries(connection, ids, found_by))


def _requests(connection: Connection, filters: Filters, limit: int, offset: int) -> Page[_Match]:
    moment, row_id = api_calls.c.created_at, api_calls.c.id
    conditions = time_filters(filters, moment)
    if filters.before:
        conditions += rows_after((moment, row_id), _after(filters.before))
    counted = select(row_id).where(*conditions).limit(bounded_search.DEPTH + 1).subquery("counted")
    total = connection.scalar(select(func.count()).select_from(counted)) or 0
    rows = connection.execute(
        select(row_id, moment, row_id)
        .where(*conditions)
        .order_by(moment.desc(), row_id.desc())
        .limit(limit + 1)
        .offset(offset)
    )
    depth = bounded_search.DEPTH
    page_rows = [_Match(*row) for row in rows]
    return page_of(page_rows, limit, min(total, depth), _Match.cursor, at_least=total > depth)


def _requests_with_alerts(
    connection: Connection, filters: Filters, limit: int, offset: int
) -> Page[_Match]:
    """Return the requests with a matching alert, sorted by their newest matching alerts."""
    after = _after(filters.before) if filters.before else None
    searched = candidates(filters, after)
    alert, matches = searched.rows.c, searched.matches
    if after:
        shown = _on_earlier_pages(connection, filters, after)
        matches = and_(matches, alert.api_call_id.not_in(shown))
    counts = select(func.count(), func.count(distinct(case((matches, alert.api_call_id)))))
    scanned, total = connection.execute(counts.select_from(searched.rows)).one()
    moment = func.max(alert.created_at, type_=alerts.c.created_at.type)
    newest = func.max(alert.id)
    rows = connection.execute(
        select(alert.api_call_id, moment, newest)
        .where(matches)
        .group_by(alert.api_call_id)
        .order_by(moment.desc(), newest.desc())
        .limit(limit + 1)
        .offset(offset)
    )
    at_least = scanned > bounded_search.DEPTH
    rest = searched.cursor_of_oldest(connection) if at_least else None
    page_rows = [_Match(*row) for row in rows]
    return page_of(page_rows, limit, total, _Match.cursor, at_least, rest)


def _after(before: Cursor) -> tuple[datetime, int]:
    return before.moment, before.row_ids(1)[0]


def _on_earlier_pages(
    connection: Connection, filters: Filters, after: tuple[datetime, int]
) -> Sequence[int]:
    """Return the requests that an earlier page showed but that have more alerts on this page.

    All alerts of a request have the time of the request, so only requests with the cursor's time
    can be split across two pages.
    """
    moment, alert_id = after
    earlier = select(distinct(alerts.c.api_call_id)).where(
        alerts.c.created_at == moment,
        alerts.c.id >= alert_id,
        *[alerts.c[name] == value for name, value in filters.alert_filters.items()],
    )
    return connection.scalars(earlier).all()


def _summaries(
    connection: Connection, ids: Sequence[int], found_by: Sequence[int]
) -> list[RequestSummary]:
    """Return the rows of the page.

    Args:
        connection: A connection to the tracking database.
        ids: The row ids of the requests, in the order of the page.
        found_by: The row ids of the matching alerts by which the requests were found.
    """
    calls = {row.id: row for row in _calls(connection, ids)}
    limit = max(1, min(_ALERTS_OF_REQUEST, _ALERTS_ON_PAGE // max(1, len(ids))))
    shown = _shown_alerts(connection, ids, found_by, limit)
    shown_ids = [row.id for rows in shown.values() for row in rows]
    executions = by_alert(executions_of_alerts(connection, shown_ids))
    large = [calls[i] for i in ids if i in calls and len(shown.get(i, [])) >= limit]
    totals = _totals(connection, large)
    summaries = []
    for call in (calls[call_id] for call_id in ids if call_id in calls):
        rows = shown.get(call.id, [])
        total = totals.get(call.id) or _totals_of_shown(rows, executions)
        summaries.append(_summary(call, rows, total, executions))
    return summaries


def _summary(
    call: Row[Any],
    shown: Sequence[_AlertRow],
    total: _Totals,
    executions: Mapping[int, Sequence[Execution]],
) -> RequestSummary:
    has_executions = total.executions > 0
    return RequestSummary(
        request_id=call.request_id,
        received_at=call.created_at,
        status=request_state(call.error, total.has_lost, call.completed_at, has_executions),
        alert_count=total.alerts,
        execution_count=total.executions,
        alerts=[RequestAlert(row, first_workflow(executions.get(row.id, []))) for row in shown],
    )


def _calls(connection: Connection, ids: Sequence[int]) -> list[Row[Any]]:
    names = ("id", "request_id", "created_at", "completed_at", "error")
    found: list[Row[Any]] = []
    for chunk in database.batched(ids):
        found += connection.execute(
            select(*[api_calls.c[name] for name in names]).where(api_calls.c.id.in_(chunk))
        )
    return found


def _shown_alerts(
    connection: Connection, ids: Sequence[int], found_by: Sequence[int], limit: int
) -> dict[int, list[_AlertRow]]:
    """Return the first `limit` alerts of each request, and the alert by which it was found."""
    first = _alerts(connection, alerts.c.api_call_id, ids, alerts.c.position < limit)
    others = sorted(set(found_by) - {row.id for row in first})
    shown: dict[int, list[_AlertRow]] = {}
    for row in first + _alerts(connection, alerts.c.id, others):
        shown.setdefault(row.api_call_id, []).append(row)
    for rows in shown.values():
        rows.sort(key=lambda row: row.position)
    return shown


def _alerts(
    connection: Connection,
    column: ColumnElement[int],
    values: Sequence[int],
    *conditions: ColumnElement[bool],
) -> list[_AlertRow]:
    columns = [alerts.c[name] for name in _AlertRow._fields]
    found: list[_AlertRow] = []
    for chunk in database.batched(values):
        statement = select(*columns).where(column.in_(chunk), *conditions)
        found += [_AlertRow(*row) for row in connection.execute(statement)]
    return found


class _Totals(NamedTuple):
    """Totals over all alerts of a request, including those that are not shown."""

    alerts: int
    has_lost: bool
    executions: int


def _totals_of_shown(
    rows: Sequence[_AlertRow], executions: Mapping[int, Sequence[Execution]]
) -> _Totals:
    """Return the totals of a request whose alerts are all shown."""
    started = {e.st2_execution_id for row in rows for e in executions.get(row.id, [])}
    has_lost = any(row.explanation == Explanation.LOST for row in rows)
    return _Totals(len(rows), has_lost, len(started))


def _totals(connection: Connection, calls: Sequence[Row[Any]]) -> dict[int, _Totals]:
    """Return the totals of requests whose alerts may not all be shown, by row id."""
    is_lost = case((alerts.c.explanation == Explanation.LOST, 1), else_=0)
    found: dict[int, _Totals] = {}
    for chunk in database.batched(calls):
        counts = connection.execute(
            select(links.c.request_id, func.count(distinct(links.c.st2_execution_id)))
            .where(links.c.request_id.in_([call.request_id for call in chunk]))
            .group_by(links.c.request_id)
        )
        started = {request_id: count for request_id, count in counts}
        request_ids = {call.id: call.request_id for call in chunk}
        for call_id, count, lost in connection.execute(
            select(alerts.c.api_call_id, func.count(), func.max(is_lost))
            .where(alerts.c.api_call_id.in_(request_ids))
            .group_by(alerts.c.api_call_id)
        ):
            found[call_id] = _Totals(count, bool(lost), started.get(request_ids[call_id], 0))
    return found
