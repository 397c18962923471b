"""The bounded search for alerts behind the list views.

A view has to answer in the middle of an incident, however long the history is. So a search reads
the newest entries of one index, at most DEPTH of them, and filters by what that index contains.
Where it stops before the history ends, the view says that its total is a lower bound and where to
go on.
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
# The filters that have an index of poundcake_alerts, the most selective first. The index of the
# first one that is given is read, and the other filters are looked up in its entries.
_INDEXED = ("fingerprint", "instance", "alert_name", "outcome", "severity")


class Candidates(NamedTuple):
    """The newest alerts of one index, at most DEPTH + 1, some of which match all filters.

    Attributes:
        rows: A subquery with id, api_call_id, created_at and outcome of the alerts.
        matches: The condition of those rows that match.
    """

    rows: Subquery
    matches: ColumnElement[bool]

    def count(self, connection: Connection) -> int:
        """Return how many there are; more than DEPTH if the history goes on behind them."""
        return connection.scalar(select(func.count()).select_from(self.rows)) or 0

    def cursor_of_oldest(self, connection: Connection, *more_ids: int) -> Cursor:
        """Return the cursor with which the search goes on after them."""
        moment, row_id = self.rows.c.created_at, self.rows.c.id
        oldest = select(moment, row_id).order_by(moment, row_id).limit(1)
        return Cursor.of(*connection.execute(oldest).one(), *more_ids)


def candidates(filters: Filters, after: tuple[datetime, int] | None = None) -> Candidates:
    """Return the newest alerts that may match the filters.

    Args:
        filters: Their times are those at which the alerts were received.
        after: created_at and id of an alert: only those that come after it in the list.
    """
    wanted = dict(filters.of_alerts)
    indexed = next((name for name in _INDEXED if name in wanted), "")
    rows = select(alerts.c.id, alerts.c.api_call_id, alerts.c.created_at, alerts.c.outcome)
    if indexed:
        rows = rows.where(alerts.c[indexed] == wanted.pop(indexed))
    rows = rows.add_columns(*[alerts.c[name] for name in wanted if name != "outcome"])
    rows = rows.where(*time_filters(filters, alerts.c.created_at))
    if after:
        rows = rows.where(*rows_after((alerts.c.created_at, alerts.c.id), after))
    rows = rows.order_by(alerts.c.created_at.desc(), alerts.c.id.desc()).limit(DEPTH + 1)
    found = rows.subquery("candidates")
    return Candidates(found, and_(True, *[found.c[name] == wanted[name] for name in wanted]))


def time_filters(filters: Filters, moment: ColumnElement[Any]) -> list[ColumnElement[bool]]:
    """Return the conditions of the rows whose moment is within the filters' range."""
    conditions: list[ColumnElement[bool]] = []
    if filters.since:
        conditions.append(moment >= filters.since)
    if filters.until:
        conditions.append(moment < filters.until)
    return conditions


def rows_after(
    columns: Sequence[ColumnElement[Any]], values: Sequence[datetime | int | str]
) -> list[ColumnElement[bool]]:
    """Return the conditions of the rows that come after a row in a list, newest first.

    Args:
        columns: What the list is sorted by: a time, and what tells rows of one time apart.
        values: The columns of that row.
    """
    moment, *ids = columns
    last_moment, *last_ids = values
    last = tuple_(*[literal(value, column.type) for value, column in zip(last_ids, ids)])
    return [
        # A database can enter an index by this condition, and not by the next.
        moment <= last_moment,
        or_(moment < last_moment, tuple_(*ids) < last),
    ]


def unindexed(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a text column as an expression that no index has.

    It keeps SQLite from entering a table by a filter that thousands of its rows match, where the
    statement needs a few of them by their id.
    """
    return func.coalesce(column, "")
