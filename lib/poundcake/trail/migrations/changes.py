"""What revisions are made of: changes that are only made where they are not there yet."""

import time

from alembic import context, op
from sqlalchemy import Column, inspect


def add_column(table: str, column: Column) -> None:
    """Adds the column at the end of the table."""
    if column.name not in {found["name"] for found in inspect(op.get_bind()).get_columns(table)}:
        op.add_column(table, column)


def rename_column(table: str, old: str, new: str) -> None:
    """Renames the column; MariaDB 10.5 and SQLite 3.25 do it without rewriting the table."""
    names = {found["name"] for found in inspect(op.get_bind()).get_columns(table)}
    if old in names and new not in names:
        op.execute(f"ALTER TABLE {table} RENAME COLUMN {old} TO {new}")


def add_index(name: str, table: str, *columns: str) -> None:
    """Makes an index, and logs how long that took."""
    if name not in _indexes(table):
        began = time.monotonic()
        op.create_index(name, table, columns)
        context.config.attributes["log"](f"index {name}: {time.monotonic() - began:.1f} s")


def drop_index(name: str, table: str) -> None:
    """Drops an index, which no foreign key may need."""
    if name in _indexes(table):
        op.drop_index(name, table)


def _indexes(table: str) -> set:
    return {found["name"] for found in inspect(op.get_bind()).get_indexes(table)}
