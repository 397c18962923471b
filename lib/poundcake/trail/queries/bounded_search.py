"""The bounded search for alerts behind the list views.

A view has to respond quickly during an outage, even with a long history. So a search reads only the
newest entries of one index, at most DEPTH, and applies the filters to those. If it stops before the
end of the history, the view reports that its total is a lower bound, and returns a cursor with
which the search continues.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple, Sequence

from sqlalchemy import (
    ColumnElement,
    Subquery,
    and_,
    func,
    literal,
    or_,
    select,
    tuple_,
)
from sqlalchemy.engine import Connection

from poundcake.trail.schema import alerts
from poundcake.trail.search import Cursor, Filters

DEPTH = 1_000
# The filters for which poundcake_alerts has an index, the most selective first. The search reads
# the index of the first one that is set, and applies the other filters to its entries.
_INDEXED = ("fingerprint", "instance", "alert_name", "outcome", "severity")


class Candidates(NamedTuple):
    """The newest alerts in one index, at most DEPTH + 1, which may match all filters.

    Attributes:
        rows: A subquery that selects id, api_call_id, created_at and outcome, and the columns by
            which the rows are still to be filtered.
        matches: The condition for the rows that match all filters.
    """

    rows: Subquery
    matches: ColumnElement[bool]

    def count(self, connection: Connection) -> int:
        """Return the number of candidates. It is more than DEPTH if the history continues."""
        return connection.scalar(select(func.count()).select_from(self.rows)) or 0

    def cursor_of_oldest(self, connection: Connection, *more_ids: int) -> Cursor:
        """Return the cursor with which the search continues after the candidates."""
        moment, row_id = self.rows.c.created_at, self.rows.c.id
        oldest_row = select(moment, row_id).order_by(moment, row_id).limit(1)
        return Cursor.of(*connection.execute(oldest_row).one(), *more_ids)


def select_candidates(filters: Filters, after: tuple[datetime, int] | None = None) -> Candidates:
    """Return the newest alerts that may match the filters.

    Args:
        filters: The filters. Their time range applies to the times of receipt.
        after: The created_at and id of an alert. Only alerts that follow it in the list are
            returned.
    """
    remaining_filters = dict(filters.alert_filters)
    indexed_filter = next((name for name in _INDEXED if name in remaining_filters), "")
    rows = select(alerts.c.id, alerts.c.api_call_id, alerts.c.created_at, alerts.c.outcome)
    if indexed_filter:
        rows = rows.where(alerts.c[indexed_filter] == remaining_filters.pop(indexed_filter))
    rows = rows.add_columns(*[alerts.c[name] for name in remaining_filters if name != "outcome"])
    rows = rows.where(*time_filters(filters, alerts.c.created_at))
    if after:
        rows = rows.where(*rows_after((alerts.c.created_at, alerts.c.id), after))
    rows = rows.order_by(alerts.c.created_at.desc(), alerts.c.id.desc()).limit(DEPTH + 1)
    subquery = rows.subquery("candidates")
    return Candidates(
        subquery,
        and_(True, *[subquery.c[name] == remaining_filters[name] for name in remaining_filters]),
    )


def time_filters(filters: Filters, moment: ColumnElement[Any]) -> list[ColumnElement[bool]]:
    """Return the conditions for rows whose time is within the filters' time range."""
    conditions: list[ColumnElement[bool]] = []
    if filters.since:
        conditions.append(moment >= filters.since)
    if filters.until:
        conditions.append(moment < filters.until)
    return conditions


def rows_after(
    columns: Sequence[ColumnElement[Any]], values: Sequence[datetime | int | str]
) -> list[ColumnElement[bool]]:
    """Return the conditions for rows that follow a row in a list that is sorted newest first.

    Args:
        columns: The columns by which the list is sorted: a time, then unique columns.
        values: The values of these columns in the row.
    """
    moment, *ids = columns
    last_moment, *last_ids = values
    last_row = tuple_(*[literal(value, column.type) for value, column in zip(last_ids, ids)])
    return [
        # Databases can use an index for this condition, but not for the next one.
        moment <= last_moment,
        or_(moment < last_moment, tuple_(*ids) < last_row),
    ]


def unindexed(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Wrap a text column in an expression that no index matches.

    If a statement reads only a few rows by id, this keeps SQLite from reading thousands of rows
    from the index of a filter instead.
    """
    return func.coalesce(column, "")
