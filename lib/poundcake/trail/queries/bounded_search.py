"""The bounded search for alerts behind the list views.

A view has to respond quickly during an outage, even with a long history. So a search reads only the
newest entries of one index, at most DEPTH, and applies the filters to those. If it stops before the
end of the history, the view reports that its total is a lower bound, and returns a cursor with
which the search continues.

Filters for single values of columns are applied by the database. For any other condition, such as a
matcher on a label, the search reads the entries and applies the filters itself.
"""

from __future__ import annotations

from datetime import datetime
from itertools import chain
from typing import Any, Mapping, NamedTuple, Sequence

from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    Subquery,
    and_,
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
"""How many entries a search reads if it applies the filters itself, which takes longer."""
REGEX_DEPTH = 250
"""How many it reads if it also needs all of their labels: with matchers, but none with `=`."""
# The filters for which poundcake_alerts has an index, the most selective first. The search reads
# the index of the first one that is set, and applies the other filters to its entries.
_INDEXED = ("fingerprint", "instance", "alert_name", "outcome", "severity")


class Candidates(NamedTuple):
    """The newest alerts that a search found in an index, which may match all filters.

    Attributes:
        rows: A subquery that selects id, api_call_id, created_at and outcome, and the columns by
            which the rows are still to be filtered. Unless `is_checked`, it has at most DEPTH + 1
            rows.
        matches: The condition for the rows that match all filters.
        is_checked: Whether the rows were read and checked, so that all of them match.
        last_checked: If they were, and the history continues: the created_at and id of the last
            alert that was checked.
    """

    rows: Subquery
    matches: ColumnElement[bool]
    is_checked: bool = False
    last_checked: tuple[datetime, int] | None = None

    def continues(self, connection: Connection, count: int | None = None) -> bool:
        """Return True if the search stopped before the end of the history.

        Args:
            connection: A connection to the tracking database.
            count: The number of candidates if it is known.
        """
        if self.is_checked:
            return self.last_checked is not None
        if count is None:
            count = connection.scalar(select(func.count()).select_from(self.rows)) or 0
        return count > DEPTH

    def continuation(self, connection: Connection, *more_ids: int) -> Cursor:
        """Return the cursor with which a search that stopped continues."""
        if self.last_checked:
            return Cursor.of(*self.last_checked, *more_ids)
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
    enough: int = 0,
) -> Candidates:
    """Return the newest alerts that may match the filters.

    Args:
        connection: A connection to the tracking database.
        conditions: The conditions that the filters mean.
        filters: The filters. Their time range applies to the times of receipt.
        after: The created_at and id of an alert. Only alerts that follow it in the list are
            returned.
        enough: With matchers, stop when about this number of alerts has been found; 0 for never.
    """
    if not conditions.is_simple:
        return _check_candidates(connection, conditions, filters, after, enough)
    remaining = dict(conditions.values)
    indexed = _first_indexed(remaining)
    indexed_values = remaining.pop(indexed, ())
    rows = _select_newest(
        [has_value(alerts.c[indexed], indexed_values)] if indexed else [],
        [alerts.c.api_call_id, alerts.c.outcome]
        + [alerts.c[name] for name in remaining if name != "outcome"],
        [*time_filters(filters, alerts.c.created_at), *_alerts_after(after)],
        DEPTH + 1,
    )
    subquery = rows.subquery("candidates")
    return Candidates(
        subquery, and_(True, *[subquery.c[name] == value for name, (value,) in remaining.items()])
    )


class _Entry(NamedTuple):
    """An alert in an index."""

    created_at: datetime
    id: int
    remaining: tuple[str, ...]


def _check_candidates(
    connection: Connection,
    conditions: AlertConditions,
    filters: Filters,
    after: tuple[datetime, int] | None,
    enough: int,
) -> Candidates:
    """Read the newest alerts that satisfy the conditions with an index, and check the others."""
    remaining = dict(conditions.values)
    depth = depth_of(conditions)
    if conditions.episode or conditions.call_id is not None:
        branches = [_ids_of(connection, conditions, after)]
        size = DEPTH + 1  # enough for all of them
    else:
        indexed = _first_indexed(remaining)
        values = remaining.pop(indexed, ())
        branches = [[alerts.c[indexed] == value] for value in values] if indexed else [[]]
        size = depth // max(1, len(branches)) + 1
    columns = [alerts.c[name] for name in remaining]
    range_conditions = [*time_filters(filters, alerts.c.created_at), *_alerts_after(after)]
    entries, horizon = _read_branches(connection, branches, columns, range_conditions, size)
    allowed_values = list(remaining.values())
    candidate_keys = [
        (entry.created_at, entry.id)
        for entry in entries
        if all(text in allowed for text, allowed in zip(entry.remaining, allowed_values))
    ]
    candidate_ids = [row_id for _, row_id in candidate_keys]
    matching = find_matching(connection, candidate_ids, conditions, enough=enough)
    if matching.checked_count < len(candidate_keys):
        horizon = candidate_keys[matching.checked_count - 1]
    columns = [alerts.c[name] for name in ("id", "api_call_id", "created_at", "outcome")]
    rows = select(*columns).where(has_id(alerts.c.id, matching.ids)).subquery("candidates")
    return Candidates(rows, true(), True, horizon)


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


def _read_branches(
    connection: Connection,
    branches: Sequence[Sequence[ColumnElement[bool]]],
    columns: Sequence[ColumnElement[Any]],
    range_conditions: Sequence[ColumnElement[bool]],
    size: int,
) -> tuple[list[_Entry], tuple[datetime, int] | None]:
    """Read the newest entries of several parts of an index, newest first.

    Args:
        connection: A connection to the tracking database.
        branches: The conditions of each part.
        columns: The columns to read besides created_at and id.
        range_conditions: The conditions of all parts.
        size: The maximum number of entries of each part.

    Returns:
        The entries down to the horizon, and the horizon: the created_at and id of the entry up to
        which all parts were read, or None if they were read to the end.
    """
    if not branches:
        return [], None
    selects = [
        select(literal(number, Integer).label("branch"), *newest.c)
        for number, newest in enumerate(
            _select_newest(conditions, columns, range_conditions, size).subquery(f"branch_{number}")
            for number, conditions in enumerate(branches)
        )
    ]
    rows = connection.execute(union_all(*selects) if len(selects) > 1 else selects[0]).all()
    entries_by_branch: dict[int, list[_Entry]] = {}
    for number, row_id, created_at, *remaining in rows:
        entry = _Entry(created_at, row_id, tuple(remaining))
        entries_by_branch.setdefault(number, []).append(entry)
    ends = [min(entries) for entries in entries_by_branch.values() if len(entries) == size]
    horizon = max(ends)[:2] if ends else None
    entries = sorted(chain.from_iterable(entries_by_branch.values()), reverse=True)
    return [entry for entry in entries if horizon is None or entry[:2] >= horizon], horizon


def _select_newest(
    conditions: Sequence[ColumnElement[bool]],
    columns: Sequence[ColumnElement[Any]],
    range_conditions: Sequence[ColumnElement[bool]],
    limit: int,
) -> Select[Any]:
    moment, row_id = alerts.c.created_at, alerts.c.id
    return (
        select(row_id, moment, *columns)
        .where(*conditions, *range_conditions)
        .order_by(moment.desc(), row_id.desc())
        .limit(limit)
    )


def _alerts_after(after: tuple[datetime, int] | None) -> list[ColumnElement[bool]]:
    return rows_after((alerts.c.created_at, alerts.c.id), after) if after else []


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
