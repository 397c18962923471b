"""The script with which Alembic runs revisions, on the connection from trail.migrations.

After each revision it copies Alembic's version to poundcake_meta, which the pack reads. `schema` is
the newest revision of the tables. A release that does not know that revision refuses to write.
`indexes` is the newest revision that only builds indexes.
"""

from __future__ import annotations

from typing import Any, Collection

from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo
from sqlalchemy import text
from sqlalchemy.engine import Connection

from poundcake.trail.schema import INDEX_REVISIONS

# Do not use the tables of schema.py here or in the revisions, because they change over time.
_UPDATE = text("UPDATE poundcake_meta SET value = :value WHERE name = :name")
_INSERT = text("INSERT INTO poundcake_meta (name, value) VALUES (:name, :value)")


def note_revision(
    ctx: MigrationContext, step: MigrationInfo, heads: Collection[Any], run_args: Any
) -> None:
    """Write the newest revision of each branch to poundcake_meta, in Alembic's transaction."""
    numbers = {int(head) for head in heads}
    indexes = numbers.intersection(INDEX_REVISIONS)
    # A database of release 0.2.0 has only one head, the revision of the indexes.
    _write(ctx, "schema", max(numbers - indexes or indexes))
    if indexes:
        _write(ctx, "indexes", max(indexes))
    if not step.is_stamp:
        context.config.attributes["applied"](step.up_revision)


def _write(ctx: MigrationContext, name: str, number: int) -> None:
    assert ctx.connection is not None
    row = {"name": name, "value": str(number)}
    if not ctx.connection.execute(_UPDATE, row).rowcount:
        ctx.connection.execute(_INSERT, row)


connection: Connection = context.config.attributes["connection"]
if connection.dialect.name != "sqlite":
    # Alembic only commits transactions that it began. On SQLite, all revisions run in the
    # transaction of the caller.
    connection.commit()
context.configure(
    connection=connection, transaction_per_migration=True, on_version_apply=note_revision
)
with context.begin_transaction():
    context.run_migrations()
