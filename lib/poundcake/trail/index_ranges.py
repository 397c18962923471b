"""Read distinct values and prefixes from an index, without reading the rows of each value."""

from __future__ import annotations

from sqlalchemy import Column, ColumnElement, select
from sqlalchemy.engine import Connection
from sqlalchemy.sql import Select, func

_LAST_BEFORE_SURROGATES, _FIRST_AFTER_SURROGATES = 0xD7FF, 0xE000
_LAST_CODE_POINT = 0x10FFFF


def has_prefix(column: ColumnElement[str], prefix: str) -> list[ColumnElement[bool]]:
    """Return the conditions for values with a prefix, as a range of an index.

    Unlike LIKE, a range is case-sensitive on SQLite, too, and does not depend on the collation's
    rules for wildcards.
    """
    if not prefix:
        return []
    end = _end_of_prefix(prefix)
    return [column >= prefix, *([column < end] if end else [])]


def distinct_values(
    connection: Connection, column: Column[str], limit: int, prefix: str = ""
) -> list[str]:
    """Return the distinct values of a column in order, at most `limit`.

    The column must be the first one of an index. The database skips from one value to the next.

    Args:
        connection: A connection to the tracking database.
        column: The column.
        limit: The maximum number of values.
        prefix: Only values with this prefix.
    """
    if connection.dialect.name == "sqlite":
        statement = _skip_scan(column, prefix)
    else:
        # MariaDB reads the first entry of each group. (In a recursive statement, it would read the
        # whole index for each value.)
        statement = select(column).where(*has_prefix(column, prefix)).distinct().order_by(column)
    return [value for value in connection.scalars(statement.limit(limit)) if value is not None]


def _skip_scan(column: Column[str], prefix: str) -> Select[tuple[str]]:
    """Return a statement that reads the distinct values one after another.

    SQLite would read every entry of the index for SELECT DISTINCT.
    """
    values = (
        select(func.min(column).label("value"))
        .where(*has_prefix(column, prefix))
        .cte("distinct_values", recursive=True)
    )
    later = column.table.alias("later").c[column.name]
    next_value = (
        select(func.min(later))
        .where(later > values.c.value, *has_prefix(later, prefix))
        .scalar_subquery()
    )
    values = values.union_all(select(next_value).where(values.c.value.is_not(None)))
    return select(values.c.value).where(values.c.value.is_not(None))


def _end_of_prefix(prefix: str) -> str:
    """Return the first text after all texts with a prefix, or '' if there is none.

    Both databases compare texts by code point.
    """
    for position in reversed(range(len(prefix))):
        code = ord(prefix[position])
        if code < _LAST_CODE_POINT:
            following = _FIRST_AFTER_SURROGATES if code == _LAST_BEFORE_SURROGATES else code + 1
            return prefix[:position] + chr(following)
    return ""
