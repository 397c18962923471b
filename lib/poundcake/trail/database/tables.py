"""Create and upgrade the tables, and return the database's id.

The revisions in migrations/versions form two branches. The revisions of the tables are quick even
with a long history, and every writer needs them, so the first writer runs them. The revisions that
only build indexes can take hours. They run automatically if there are few alerts. Otherwise, only
`poundcake.migrate` runs them, so that an upgrade never blocks the recording of alerts.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Iterator, Mapping

from sqlalchemy import false, func, inspect, select, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.sql import Select

from poundcake.trail import schema
from poundcake.trail.database import holds
from poundcake.trail.database.engine import STATEMENT_TIMEOUT, open_engine
from poundcake.trail.database.sqlite import READ_ONLY
from poundcake.trail.database.transactions import describe, reading
from poundcake.trail.errors import DatabaseError
from poundcake.trail.shared_files import (
    create_file,
    give_to_owner_of_folder,
    make_folder,
    revoke_access_of_others,
)

if TYPE_CHECKING:  # Alembic takes longer to import than most actions take to run.
    from poundcake.trail.migrations import Step

# How long `migrate` waits, in seconds, for one schema change, and for another migration to end.
MIGRATION_TIMEOUT = 86400
# With at most this many alerts, indexes are quick to build, so the first write builds them.
FEW_ALERTS = 50_000

# A column of the first revision of each of these tables, which other programs' tables lack.
_FIRST_COLUMNS = {schema.api_calls.name: "body_sha256", schema.alerts.name: "episode"}
_ALL_META = select(schema.meta.c.name, schema.meta.c.value)
# A quick SELECT that also fails if one of the other tables is missing.
_META = _ALL_META.where(
    *(
        ~select(*table.primary_key).where(false()).exists()
        for table in schema.metadata.sorted_tables
        if table is not schema.meta
    )
)


@dataclass(frozen=True)
class _Version:
    """The version of the tables, from poundcake_meta.

    Attributes:
        database_id: The database's id, or '' if there are no tables.
        tables: The newest applied revision of the tables, or 0 if none was applied.
        indexes: The newest applied revision of the indexes, or 0 if none was applied.
        hold_reason: Why the database must not be used, or '' if it may.
    """

    database_id: str = ""
    tables: int = 0
    indexes: int = 0
    hold_reason: str = ""

    @classmethod
    def of(cls, meta: Mapping[str, str]) -> _Version:
        """Parse the rows of poundcake_meta. Raise DatabaseError if a newer release wrote them."""
        tables = int(meta.get("schema", 0))
        if tables > schema.VERSION:
            raise DatabaseError(
                f"the tables have schema {tables}, but this release of the pack supports only "
                f"up to {schema.VERSION}: install the release that created them, or a newer "
                "one, with `st2 pack install`"
            )
        # Release 0.2.0 stored the revision of the indexes as that of the tables.
        default_indexes = tables if tables in schema.INDEX_REVISIONS else 0
        indexes = int(meta.get("indexes", default_indexes))
        return cls(meta.get("database_id", ""), tables, indexes, holds.hold_reason(meta))

    @property
    def has_all_tables(self) -> bool:
        return self.tables >= schema.VERSION

    @property
    def has_all_indexes(self) -> bool:
        return self.indexes >= schema.INDEX_REVISIONS[-1]

    @property
    def heads(self) -> set[int]:
        """The newest revision of each branch, as Alembic stamps them."""
        return {self.tables, self.indexes} - {0}


def prepare(engine: Engine, create: bool = True) -> str:
    """Create or upgrade the tables that writers need, and return the database's id, a UUID.

    If there are few alerts, also build the indexes that only views need. Concurrent callers wait
    for each other.

    Args:
        engine: The database.
        create: Whether missing tables and columns may be created.

    Raises:
        DatabaseError: The database is unavailable, has tables of a newer release, needs an upgrade
            while ``create`` is False, or must not be used because the trail was moved.
    """
    with _describing_errors(engine):
        _revoke_file_access(engine)
        version = _version_of(engine)
        if version.hold_reason:
            raise DatabaseError(version.hold_reason)
        if not version.has_all_tables:
            if not create:
                raise DatabaseError(_missing_message(version))
            _upgrade_tables(engine, STATEMENT_TIMEOUT, _ignore)
            version = _version_of(engine)
        if create and not version.has_all_indexes and _has_few_alerts(engine):
            try:
                _build_indexes(engine, STATEMENT_TIMEOUT, _ignore)
            except (DatabaseError, SQLAlchemyError):
                pass  # writers work without the indexes, and pending() reports them
    return version.database_id


def migrate(engine: Engine, log: Callable[[str], None]) -> list[Step]:
    """Upgrade the tables and their indexes to the newest revisions, however long it takes.

    Args:
        engine: The database.
        log: Called with a line for each revision and each index.

    Returns:
        The revisions that were run, in order.

    Raises:
        DatabaseError: A revision failed. Completed revisions are kept, and the next call continues
            after them.
    """
    steps: list[Step] = []
    with _describing_errors(engine):
        version = _version_of(engine)
        if not version.has_all_tables:
            steps += _upgrade_tables(engine, MIGRATION_TIMEOUT, log)
            version = _version_of(engine)
        if not version.has_all_indexes:
            steps += _build_indexes(engine, MIGRATION_TIMEOUT, log)
    return steps


def identify(engine: Engine) -> str:
    """Return the database's id, or '' if it has no tables. Change nothing.

    Raises:
        DatabaseError: The database is unavailable, or has tables of a newer release.
    """
    with _describing_errors(engine):
        return _version_of(engine).database_id


def upgrade_tables(engine: Engine, log: Callable[[str], None]) -> None:
    """Upgrade existing tables, but not their indexes, however long it takes.

    Raises:
        DatabaseError: A revision failed. The next call continues after the completed ones.
    """
    with _describing_errors(engine):
        if not _version_of(engine).has_all_tables:
            _upgrade_tables(engine, MIGRATION_TIMEOUT, log)


def pending(bind: Engine | Connection) -> str:
    """Return a sentence that describes the pending migrations, or '' if there are none.

    Args:
        bind: The database, or a connection to it.

    Raises:
        DatabaseError: The tables cannot be read, or a newer release wrote them.
        SQLAlchemyError: A statement on the given connection failed.
    """
    if isinstance(bind, Engine):
        with reading(bind) as connection:
            return pending(connection)
    version = _Version.of(_read_meta(bind))
    if not version.has_all_tables:
        return _missing_message(version)
    if not version.has_all_indexes:
        return (
            "the views and the cooldown of hosts are slow until their indexes are built: run "
            "`st2 run poundcake.migrate`, which may take a long time"
        )
    return ""


def has_view_indexes(connection: Connection) -> bool:
    """Return True if the indexes that the views use have been built."""
    return _Version.of(_read_pairs(connection, _ALL_META)).has_all_indexes


def _missing_message(version: _Version) -> str:
    state = f"has schema {version.tables}, but this release needs {schema.VERSION}"
    return (
        f"the tracking database {state if version.tables else 'has no tables'}: run `st2 run "
        "poundcake.migrate` (with auto_migrate: true, the first write runs it)"
    )


def _upgrade_tables(engine: Engine, seconds: int, log: Callable[[str], None]) -> list[Step]:
    return _upgrade(engine, schema.VERSION, seconds, log)


def _build_indexes(engine: Engine, seconds: int, log: Callable[[str], None]) -> list[Step]:
    return _upgrade(engine, schema.INDEX_REVISIONS[-1], seconds, log)


def _upgrade(engine: Engine, revision: int, seconds: int, log: Callable[[str], None]) -> list[Step]:
    """Run the pending revisions up to and including `revision`.

    On SQLite they run in one transaction. MariaDB commits each change of a table separately. A
    revision that was interrupted can run again, and continues where it stopped.
    """
    from poundcake.trail import migrations

    path = engine.url.database if engine.dialect.name == "sqlite" else None
    if path:
        make_folder(os.path.dirname(path))
        create_file(path)
    migration_engine = open_engine(engine.url, seconds)
    try:
        with _exclusive_migration(migration_engine, seconds) as connection:
            version = _Version.of(_read_meta(connection))
            _check_stamp(connection, version)
            if not version.tables:
                _refuse_foreign_tables(connection)
            steps = migrations.upgrade(connection, revision, log)
    finally:
        migration_engine.dispose()
    if path:
        give_to_owner_of_folder(path)
    return steps


def _check_stamp(connection: Connection, version: _Version) -> None:
    """Compare Alembic's stamps with poundcake_meta, and write the stamps if there are none."""
    from poundcake.trail import migrations

    stamps = _stamps(connection)
    expected_stamps = {migrations.revision(number) for number in version.heads}
    if stamps and stamps != expected_stamps:
        raise DatabaseError(
            f"alembic_version has revision {', '.join(sorted(stamps))}, but poundcake_meta has "
            f"schema {version.tables}: restore all tables from one backup"
        )
    # The first release wrote no stamps, and a backup may have been restored without them.
    if version.tables > 1 and not stamps:
        migrations.stamp(connection, version.heads)


def _refuse_foreign_tables(connection: Connection) -> None:
    """Raise DatabaseError if another program has created a table with the name of one of ours.

    The first revision may have created some tables before it was killed, so a table that has all
    columns of that revision is accepted.
    """
    inspector = inspect(connection)
    for table, column in _FIRST_COLUMNS.items():
        if inspector.has_table(table):
            names = [existing["name"] for existing in inspector.get_columns(table)]
            if column not in names:
                raise DatabaseError(
                    f"the table {table} was not created by this pack (it has no column {column}); "
                    "set database_url to an empty database"
                )


@contextmanager
def _exclusive_migration(engine: Engine, seconds: int) -> Iterator[Connection]:
    """Open a connection for a migration, and prevent other processes from migrating.

    On SQLite, the connection is in a transaction. On MariaDB, it holds a lock until it is closed.
    """
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            with connection.begin():
                yield connection
            return
        # Lock names are global to the server, not to one database, and are case-insensitive.
        lock = text("SELECT GET_LOCK(CONCAT('poundcake_', SHA1(DATABASE())), :seconds)")
        if not connection.scalar(lock, {"seconds": seconds - 5}):
            raise DatabaseError(
                "another process is migrating the tracking database, or the server is still "
                "finishing a statement of a migration that was killed: try again later"
            )
        connection.commit()
        yield connection


def _revoke_file_access(engine: Engine) -> None:
    path = engine.url.database
    if engine.dialect.name == "sqlite" and path:
        for file in (path, path + "-wal", path + "-shm"):
            revoke_access_of_others(file)


def _version_of(engine: Engine) -> _Version:
    if engine.dialect.name == "sqlite" and not os.path.exists(engine.url.database or ""):
        return _Version()
    with engine.connect().execution_options(**{READ_ONLY: True}) as connection:
        return _Version.of(_read_meta(connection))


def _has_few_alerts(engine: Engine) -> bool:
    with engine.connect().execution_options(**{READ_ONLY: True}) as connection:
        return (connection.scalar(select(func.max(schema.alerts.c.id))) or 0) <= FEW_ALERTS


def _read_meta(connection: Connection) -> dict[str, str]:
    """Return the rows of poundcake_meta, or {} if the first revision is not complete."""
    try:
        return _read_pairs(connection, _META)
    except DBAPIError:
        missing_tables = set(schema.metadata.tables) - set(inspect(connection).get_table_names())
        if not missing_tables:
            raise
    stamps = _stamps(connection)
    has_meta = schema.meta.name not in missing_tables
    rows = _read_pairs(connection, _ALL_META) if has_meta else {}
    # Alembic stores one name for each branch. The greater name may be that of the index branch.
    version = int(rows.get("schema") or max(stamps, default="") or 0)
    missing_tables = {
        name for name in missing_tables if version >= schema.LATER_TABLES.get(name, 1)
    }
    if missing_tables:
        raise DatabaseError(
            f"the tracking database has schema {version}, but lacks "
            f"{', '.join(sorted(missing_tables))}: restore all tables from one backup, or drop the "
            "remaining ones (alembic_version is one of them) to start with an empty database"
        )
    return rows if version else {}


def _read_pairs(connection: Connection, statement: Select[Any]) -> dict[str, str]:
    return {name: value for name, value in connection.execute(statement)}


def _stamps(connection: Connection) -> set[str]:
    """Return the ids of the revisions that Alembic recorded; empty if its table is missing."""
    if not inspect(connection).has_table("alembic_version"):
        return set()
    return set(connection.scalars(text("SELECT version_num FROM alembic_version")))


@contextmanager
def _describing_errors(engine: Engine) -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        raise DatabaseError(describe(error, engine)) from None


def _ignore(line: str) -> None:
    """Discard a line of the log."""
