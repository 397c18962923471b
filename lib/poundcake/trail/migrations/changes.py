"""The changes to tables that revisions consist of. Repeating a change has no effect."""

from __future__ import annotations

import time
from typing import Any

from alembic import context, op
from sqlalchemy import Column, Table, inspect
from sqlalchemy.types import TypeEngine


def create_table(table: Table) -> None:
    """Create a table and its indexes."""
    connection = op.get_bind()
    table.create(connection, checkfirst=True)
    # A revision that was killed may have created the table without its indexes.
    for index in table.indexes:
        index.create(connection, checkfirst=True)


def add_column(table: str, column: Column[Any]) -> None:
    """Add a column at the end of a table."""
    if column.name not in _columns(table):
        op.add_column(table, column)


def rename_column(table: str, old: str, new: str, type_: TypeEngine[Any]) -> None:
    """Rename a nullable column. Neither database rewrites the table for this."""
    if old in _columns(table):
        op.alter_column(table, old, new_column_name=new, existing_type=type_)


def add_index(name: str, table: str, *columns: str) -> None:
    """Build an index, and log how long it took."""
    if name not in _indexes(table):
        started_at = time.monotonic()
        op.create_index(name, table, columns)
        context.config.attributes["log"](f"index {name}: {time.monotonic() - started_at:.1f} s")


def drop_index(name: str, table: str) -> None:
    """Drop an index that no foreign key needs."""
    if name in _indexes(table):
        op.drop_index(name, table)


def _columns(table: str) -> set[str]:
    return {column["name"] for column in inspect(op.get_bind()).get_columns(table)}


def _indexes(table: str) -> set[str | None]:
    return {index["name"] for index in inspect(op.get_bind()).get_indexes(table)}
