"""Statements for many rows at once.

SQLAlchemy takes longer to build such a statement than the database takes to execute it, so the
statements are cached, one for each number of rows.
"""

from __future__ import annotations

import functools
from typing import Any, Iterator, Mapping, Sequence, TypeVar

from sqlalchemy import Row, Select, Update, bindparam, case, update
from sqlalchemy.engine import Connection
from sqlalchemy.sql import ColumnElement

from poundcake.trail.schema import alerts

# SQLite before 3.32 allows 999 variables in one statement.
VALUES = 500
ROWS = 100
_VALUES = "values"

_T = TypeVar("_T")


def batched(values: Sequence[_T], size: int = VALUES) -> Iterator[Sequence[_T]]:
    """Yield slices of `values` that fit into one IN list."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


def has_one_of(column: ColumnElement[Any]) -> ColumnElement[bool]:
    """Return the condition for a column to have one of the values that read_batched() is given."""
    return column.in_(bindparam(_VALUES, expanding=True))


def read_batched(
    connection: Connection, statement: Select[Any], values: Sequence[object], **parameters: object
) -> Iterator[Row[Any]]:
    """Yield the rows of a statement for any number of values.

    Args:
        connection: A connection.
        statement: A statement with one has_one_of(). It should be a constant, because building it
            for each call takes longer than executing it.
        values: The values.
        parameters: The other parameters of the statement.
    """
    for chunk in batched(values):
        yield from connection.execute(statement, {_VALUES: chunk, **parameters})


def bind_params(rows: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Return the parameters of a statement for several rows: ``{"id_0": …, "id_1": …}``."""
    return {f"{name}_{i}": value for i, row in enumerate(rows) for name, value in row.items()}


@functools.lru_cache(maxsize=ROWS)
def close_statement(count: int) -> Update:
    """Return the UPDATE that closes incidents.

    Its parameters for each row are id, closed_at and ended_by.
    """
    return _update_alerts(count).values(
        open_fingerprint=None,
        closed_at=_value_of_each(count, "closed_at"),
        ended_by=_value_of_each(count, "ended_by"),
    )


@functools.lru_cache(maxsize=ROWS)
def count_statement(count: int) -> Update:
    """Return the UPDATE that adds to the notification counts of open incidents.

    Its parameters for each row are id, last_seen_at, sender_starts_at, external_url, and
    notifications (the number to add).
    """
    return _update_alerts(count).values(
        last_seen_at=_value_of_each(count, "last_seen_at"),
        sender_starts_at=_value_of_each(count, "sender_starts_at"),
        external_url=_value_of_each(count, "external_url"),
        notifications=alerts.c.notifications + _value_of_each(count, "notifications"),
    )


def _update_alerts(count: int) -> Update:
    return update(alerts).where(alerts.c.id.in_([bindparam(f"id_{i}") for i in range(count)]))


def _value_of_each(count: int, name: str) -> ColumnElement[Any]:
    values = [bindparam(f"{name}_{i}", type_=alerts.c[name].type) for i in range(count)]
    return case(*((alerts.c.id == bindparam(f"id_{i}"), v) for i, v in enumerate(values)))
