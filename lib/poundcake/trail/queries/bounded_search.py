"""The bounded search for alerts behind the list views.

A view has to respond quickly during an outage, even with a long history. So a search reads only the
newest entries of one index, at most DEPTH, and applies the filters to those. If it stops before the
end of the history, the view reports that its total is a lower bound, and returns a cursor with
which the search continues.

Filters on columns are applied by the database. Matchers on labels and annotations are applied to
the entries that satisfy these filters.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Callable, Mapping, NamedTuple, Sequence

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Select,
    Subquery,
    and_,
    false,
    func,
    literal,
    or_,
    select,
    true,
    tuple_,
    union_all,
)
from sqlalchemy.engine import Connection

from poundcake.trail.alert_conditions import AlertConditions, has_value
from poundcake.trail.label_matchers import are_selective, find_matching, has_id
from poundcake.trail.schema import alerts
from poundcake.trail.search import Cursor, Filters

DEPTH = 1_000
CHECKED_DEPTH = 500
"""How many entries a search reads with matchers, or if filters have several values."""
REGEX_DEPTH = 250
"""How many it reads if it also needs all of their labels: with matchers, but none with `=`."""
# The filters for which poundcake_alerts has an index, the most selective first. The search reads
# the index of the first one that is set, and applies the other filters to its entries.
_INDEXED = ("fingerprint", "instance", "alert_name", "outcome", "severity")


class Entry(NamedTuple):
    """An alert in an index."""

    id: int
    created_at: datetime
    api_call_id: int


class Candidates(NamedTuple):
    """The newest alerts that a search found in an index, which may match all filters.

    Attributes:
        rows: A subquery that selects id, api_call_id, created_at and outcome, and the columns by
            which the rows are still to be filtered. Unless `is_end_known`, it has at most DEPTH + 1
            rows.
        matches: The condition for the rows that match all filters.
        is_end_known: Whether it is known where the search ended. Otherwise, the number of rows
            shows it.
        end: If it is known, and the history continues: the created_at and id of the last alert that
            was searched.
    """

    rows: Subquery
    matches: ColumnElement[bool]
    is_end_known: bool = False
    end: tuple[datetime, int] | None = None

    def continues(self, connection: Connection, count: int | None = None) -> bool:
        """Return True if the search stopped before the end of the history.

        Args:
            connection: A connection to the tracking database.
            count: The number of candidates if it is known.
        """
        if self.is_end_known:
            return self.end is not None
        if count is None:
            count = connection.scalar(select(func.count()).select_from(self.rows)) or 0
        return count > DEPTH

    def continuation(self, connection: Connection, *more_ids: int) -> Cursor:
        """Return the cursor with which a search that stopped continues."""
        if self.end:
            return Cursor.of(*self.end, *more_ids)
        moment, row_id = self.rows.c.created_at, self.rows.c.id
        oldest_row = select(moment, row_id).order_by(moment, row_id).limit(1)
        return Cursor.of(*connection.execute(oldest_row).one(), *more_ids)


def depth_of(conditions: AlertConditions) -> int:
    """Return how many entries of an index a search with these conditions reads."""
    if conditions.is_simple:
        return DEPTH
    reads_all_labels = conditions.has_matchers and not are_selective(conditions)
    return min(DEPTH, REGEX_DEPTH if reads_all_labels else CHECKED_DEPTH)


def select_candidates(
    connection: Connection,
    conditions: AlertConditions,
    filters: Filters,
    after: tuple[datetime, int] | None = None,
    is_enough: Callable[[Sequence[Entry]], bool] | None = None,
) -> Candidates:
    """Return the newest alerts that may match the filters.

    Args:
        connection: A connection to the tracking database.
        conditions: The conditions that the filters mean.
        filters: The filters. Their time range applies to the times of receipt.
        after: The created_at and id of an alert. Only alerts that follow it in the list are
            returned.
        is_enough: With matchers, and if the history continues after the entries of the search, stop
            when this returns True for the alerts that have been found.
    """
    if not conditions.is_simple:
        search = _select_from_branches(connection, conditions, filters, after)
        return (
            _apply_matchers(connection, search, conditions, is_enough)
            if conditions.has_matchers
            else search
        )
    remaining = dict(conditions.values)
    indexed = _first_indexed(remaining)
    indexed_values = remaining.pop(indexed, ())
    rows = _select_newest(
        [
            *([has_value(alerts.c[indexed], indexed_values)] if indexed else []),
            *time_filters(filters, alerts.c.created_at),
            *_alerts_after(after),
        ],
        [alerts.c.api_call_id, alerts.c.outcome]
        + [alerts.c[name] for name in remaining if name != "outcome"],
        DEPTH + 1,
    )
    subquery = rows.subquery("candidates")
    return Candidates(
        subquery, and_(True, *[subquery.c[name] == value for name, (value,) in remaining.items()])
    )


def _select_from_branches(
    connection: Connection,
    conditions: AlertConditions,
    filters: Filters,
    after: tuple[datetime, int] | None,
) -> Candidates:
    """Return the newest alerts of several parts of an index: one for each value of its column."""
    remaining = dict(conditions.values)
    if conditions.episode or conditions.call_id is not None:
        branches = [_ids_of(connection, conditions, after)]
        size = DEPTH + 1  # enough for all of them
    else:
        indexed = _first_indexed(remaining)
        values = remaining.pop(indexed, ())
        branches = [[alerts.c[indexed] == value] for value in values] if indexed else [[]]
        branches = branches or [[false()]]
        size = depth_of(conditions) // len(branches) + 1
    time_range = [*time_filters(filters, alerts.c.created_at), *_alerts_after(after)]
    columns = [alerts.c.api_call_id, alerts.c.outcome]
    columns += [alerts.c[name] for name in remaining if name != "outcome"]
    # The last entry of each part that has more. Without the columns, MariaDB would sort all entries
    # of another index that is smaller.
    ends = _union(
        [_select_newest([*b, *time_range], columns, 1).offset(size - 1) for b in branches]
    )
    end = max(((row.created_at, row.id) for row in connection.execute(ends)), default=None)
    if end:
        time_range += _alerts_until(end)
    rows = _union([_select_newest([*b, *time_range], columns, size) for b in branches])
    subquery = rows.subquery("candidates")
    matches = [has_value(subquery.c[name], values) for name, values in remaining.items()]
    return Candidates(subquery, and_(True, *matches), True, end)


def _union(selects: Sequence[Select[Any]]) -> Select[Any] | CompoundSelect[Any]:
    """Return all rows of statements with a limit."""
    if len(selects) == 1:
        return selects[0]
    branches = [statement.subquery(f"branch_{n}") for n, statement in enumerate(selects)]
    return union_all(*[select(*branch.c) for branch in branches])


def _apply_matchers(
    connection: Connection,
    search: Candidates,
    conditions: AlertConditions,
    is_enough: Callable[[Sequence[Entry]], bool] | None,
) -> Candidates:
    """Return the candidates that satisfy the matchers."""
    rows = search.rows.c
    statement = select(rows.id, rows.created_at, rows.api_call_id).where(search.matches)
    ordered = statement.order_by(rows.created_at.desc(), rows.id.desc())
    entries = {row.id: Entry(*row) for row in connection.execute(ordered)}

    def has_enough(ids: Sequence[int]) -> bool:
        return is_enough is not None and is_enough([entries[row_id] for row_id in ids])

    may_stop = is_enough and search.end
    matching = find_matching(
        connection, list(entries), conditions, is_enough=has_enough if may_stop else None
    )
    end = search.end
    if matching.checked_count < len(entries):
        last_checked = list(entries.values())[matching.checked_count - 1]
        end = last_checked.created_at, last_checked.id
    columns = [alerts.c[name] for name in ("id", "api_call_id", "created_at", "outcome")]
    matching_rows = select(*columns).where(has_id(alerts.c.id, matching.ids))
    return Candidates(matching_rows.subquery("candidates"), true(), True, end)


def _first_indexed(values: Mapping[str, Any]) -> str:
    """Return the most selective filter for which there is an index, or ''."""
    return next((name for name in _INDEXED if name in values), "")


def _ids_of(
    connection: Connection, conditions: AlertConditions, after: tuple[datetime, int] | None
) -> list[ColumnElement[bool]]:
    """Return the condition for the newest alerts of an episode or a request."""
    newest = select(alerts.c.id).order_by(alerts.c.id.desc()).limit(DEPTH + 1)
    if conditions.episode:
        newest = newest.where(alerts.c.episode == conditions.episode)
    if conditions.call_id is not None:
        newest = newest.where(alerts.c.api_call_id == conditions.call_id)
        # All alerts of a request have the same time.
        newest = newest.where(alerts.c.id < after[1]) if after else newest
    return [has_id(alerts.c.id, connection.scalars(newest).all())]


def _select_newest(
    conditions: Sequence[ColumnElement[bool]],
    columns: Sequence[ColumnElement[Any]],
    limit: int,
) -> Select[Any]:
    moment, row_id = alerts.c.created_at, alerts.c.id
    return (
        select(row_id, moment, *columns)
        .where(*conditions)
        .order_by(moment.desc(), row_id.desc())
        .limit(limit)
    )


def _alerts_after(after: tuple[datetime, int] | None) -> list[ColumnElement[bool]]:
    return rows_after((alerts.c.created_at, alerts.c.id), after) if after else []


def _alerts_until(last: tuple[datetime, int]) -> list[ColumnElement[bool]]:
    """Return the conditions for an alert and all newer ones."""
    moment, row_id = last
    return [
        alerts.c.created_at >= moment,
        or_(alerts.c.created_at > moment, alerts.c.id >= row_id),
    ]


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
