"""The tracking database: how it is opened, how its tables come to be, and which one it is."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Sequence

from sqlalchemy import create_engine, event, false, func, inspect, select, text
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from poundcake.errors import PoundCakeError
from poundcake.trail import schema

# Seconds. A statement that waits longer is better tried again, with a sentence about it.
CONNECT_TIMEOUT = 3
STATEMENT_TIMEOUT = 30
# What `migrate` has for one change, and for waiting until another process is done.
MIGRATION_TIMEOUT = 86400
# As many alerts are indexed so quickly that the first write does it.
FEW_ALERTS = 50_000
# Compiled ones that an engine keeps, each some 20 KB: a view has one for each set of filters, and
# whoever asks the endpoint chooses those.
_STATEMENTS = 100

# One quick SELECT, which fails where one of the other tables is missing.
_META = select(schema.meta.c.name, schema.meta.c.value).where(
    *(
        ~select(*table.primary_key).where(false()).exists()
        for table in schema.metadata.sorted_tables
        if table is not schema.meta
    )
)


class DatabaseError(PoundCakeError):
    """The tracking database cannot be used now. The message has no password in it."""


def open_engine(url: str | URL, seconds: int = STATEMENT_TIMEOUT) -> Engine:
    """An engine for the tracking database. Nothing is connected yet.

    url: ``mysql+pymysql://user:password@host/name`` or ``sqlite:////path``. seconds: how long one
    statement may take. Raises DatabaseError where the URL is none.
    """
    try:
        parsed = make_url(url)
    except (SQLAlchemyError, ValueError):
        raise DatabaseError("database_url: not an SQLAlchemy URL") from None
    if parsed.get_backend_name() == "sqlite":
        if not os.path.isabs(parsed.database or ""):
            raise DatabaseError("database_url: sqlite:// and an absolute path are expected")
        # One connection a use: SQLAlchemy's pool has locks, which a native thread must not share
        # with green ones.
        wait = 10 if seconds <= STATEMENT_TIMEOUT else seconds
        engine = create_engine(
            parsed,
            poolclass=NullPool,
            query_cache_size=_STATEMENTS,
            connect_args={"timeout": wait},
        )
        limit = seconds if seconds < STATEMENT_TIMEOUT else 0
        event.listen(engine, "connect", lambda c, _: _prepare_sqlite(c, limit))
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if not parsed.database:
        raise DatabaseError("database_url: it names no database (…@host/poundcake)")
    return create_engine(
        parsed,
        # A re-read after a unique key refused a row must see the row that was there first.
        isolation_level="READ COMMITTED",
        query_cache_size=_STATEMENTS,
        pool_pre_ping=True,
        pool_recycle=1800,
        pool_timeout=5,
        connect_args={
            "charset": "utf8mb4",
            "connect_timeout": CONNECT_TIMEOUT,
            "read_timeout": seconds + 1,
            "write_timeout": seconds + 1,
            # A change of a table that waits for a reader holds up everyone after it. A list of
            # all durations of a year is not to be cut.
            "init_command": f"SET time_zone = '+00:00', innodb_lock_wait_timeout = 10,"
            f" lock_wait_timeout = {STATEMENT_TIMEOUT}, group_concat_max_len = {1 << 28},"
            f" max_statement_time = {int(seconds)}",
        },
    )


def kind(engine: Engine) -> str:
    """``SQLite`` or ``MariaDB``, for people."""
    return "SQLite" if engine.dialect.name == "sqlite" else "MariaDB"


def prepare(engine: Engine, create: bool = True) -> str:
    """Brings the tables to what the writers need, and returns the database's id (a UUID).

    Where there are few alerts it brings them to the newest revision; else what takes long is left
    to `migrate`. Two that do it at once wait for each other. Raises DatabaseError where the
    database cannot be reached, has tables of a newer release, or lacks what is needed and
    ``create`` is false.
    """
    with _described(engine):
        found = _meta_of(engine)
        version = _version(found)
        if create and version < schema.VERSION:
            wanted = schema.VERSION if _is_small(engine, version) else schema.NEEDED
            if version < wanted:
                try:
                    _upgrade(engine, wanted, STATEMENT_TIMEOUT, lambda line: None)
                except (DatabaseError, SQLAlchemyError):
                    if version < schema.NEEDED:
                        raise
                    # The writers can do without, and `pending` tells of it.
                found = _meta_of(engine)
        elif version < schema.NEEDED:
            has = f"has schema {version}, this release needs {schema.NEEDED}"
            raise DatabaseError(
                f"the tracking database {has if version else 'has no tables'}: run `st2 run "
                "poundcake.migrate` (with auto_migrate: true the first write does it)"
            )
    return found["database_id"]


def migrate(engine: Engine, log: Callable[[str], None]) -> list[dict[str, Any]]:
    """Brings the tables to the newest revision, however long it takes.

    log: called with a line for each revision and each index. Returns what was done, in order:
    [{revision, description, seconds}]. Raises DatabaseError; what was done until then stays, and
    the next call goes on there.
    """
    with _described(engine):
        if _version(_meta_of(engine)) == schema.VERSION:
            return []
        return _upgrade(engine, schema.VERSION, MIGRATION_TIMEOUT, log)


def pending(bind: Engine | Connection) -> str:
    """What waits for `migrate`, in a sentence; empty where nothing does.

    Raises DatabaseError, or the connection's own SQLAlchemyError, where it cannot be read.
    """
    if isinstance(bind, Engine):
        with reading(bind) as connection:
            return pending(connection)
    version = _version(_meta(bind))
    if version >= schema.VERSION:
        return ""
    return (
        f"the tables have schema {version} of {schema.VERSION}: run `st2 run poundcake.migrate`, "
        "which makes the views quick and may take long"
    )


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """One transaction; what the database refuses is raised as DatabaseError, but for a unique
    key's IntegrityError, which callers decide by."""
    try:
        with engine.begin() as connection:
            yield connection
    except IntegrityError:
        raise
    except SQLAlchemyError as error:
        raise DatabaseError(describe(error, engine)) from error


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection for reads that see one moment and hold up no writer."""
    try:
        with engine.connect() as plain:
            connection = plain.execution_options(poundcake_read=True)
            with connection.begin():
                yield connection
    except SQLAlchemyError as error:
        raise DatabaseError(describe(error, engine)) from error


def in_chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Slices that fit into one IN list: SQLite before 3.32 takes 999 variables."""
    for start in range(0, len(values), 500):
        yield values[start : start + 500]


def retry_while_unavailable(work: Callable[[], Any], seconds: float) -> Any:
    """work(), tried again while the database cannot be used, for so many seconds."""
    deadline = time.monotonic() + seconds
    pause = 0.2
    while True:
        try:
            return work()
        except DatabaseError:
            if time.monotonic() + pause > deadline:
                raise
        time.sleep(pause)
        pause = min(pause * 2, 5)


def describe(error: Exception, engine: Engine) -> str:
    """What went wrong, in one line, without statement, parameters or password."""
    where = engine.url.render_as_string(hide_password=True)
    if isinstance(error, DBAPIError) and error.orig is not None:
        what = " ".join(str(part) for part in error.orig.args) or type(error.orig).__name__
    else:
        what = str(error).splitlines()[0]
    if engine.url.password:
        what = what.replace(str(engine.url.password), "***")
    return f"{where}: {what}"


def make_folder(path: str) -> None:
    """Makes a folder that the sensor's user and root can both use, whichever comes first.

    StackStorm's packages run the sensor as `st2` and actions as root: what root makes is handed
    to the owner of the folder it is made in.
    """
    if path and not os.path.isdir(path):
        make_folder(os.path.dirname(path))
        try:
            os.mkdir(path, 0o770)
        except FileExistsError:
            return
        _give_to_owner(path)


def _give_to_owner(path: str) -> None:
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        parent = os.stat(os.path.dirname(path) or ".")
        # SQLite hands -wal and -shm to the owner of the database by itself.
        for file in (path, path + "-wal", path + "-shm"):
            if os.path.exists(file):
                os.chown(file, parent.st_uid, parent.st_gid)


@contextmanager
def _described(engine: Engine) -> Iterator[None]:
    try:
        yield
    except (SQLAlchemyError, OSError) as error:
        raise DatabaseError(describe(error, engine)) from None


def _meta_of(engine: Engine) -> dict[str, str]:
    if engine.dialect.name == "sqlite" and not os.path.exists(engine.url.database or ""):
        return {}
    with engine.connect().execution_options(poundcake_read=True) as connection:
        return _meta(connection)


def _meta(connection: Connection) -> dict[str, str]:
    """What poundcake_meta says; nothing where there are no tables, or not all of the first."""
    try:
        return _pairs(connection, _META)
    except DBAPIError:
        missing = set(schema.metadata.tables) - set(inspect(connection).get_table_names())
        if not missing:
            raise
    stamp = _stamp(connection)
    if schema.meta.name not in missing:
        stamp = _pairs(connection, select(schema.meta.c.name, schema.meta.c.value)).get("schema")
    if stamp:
        raise DatabaseError(
            f"the tracking database says that it has schema {int(stamp)}, and lacks "
            f"{', '.join(sorted(missing))}: restore all tables from one backup, or drop those that "
            "are left (alembic_version is one of them) and begin anew"
        )
    return {}


def _pairs(connection: Connection, statement: Any) -> dict[str, str]:
    return {name: value for name, value in connection.execute(statement)}


def _version(found: dict[str, str]) -> int:
    """The schema's number, 0 where there are no tables. Raises DatabaseError at a newer one."""
    version = int(found.get("schema", 0))
    if version > schema.VERSION:
        raise DatabaseError(
            f"the tables have schema {version}, this release of the pack knows up to "
            f"{schema.VERSION}: install the release that made them, or a newer one, with "
            "`st2 pack install`"
        )
    return version


def _is_small(engine: Engine, version: int) -> bool:
    if not version:
        return True
    with engine.connect().execution_options(poundcake_read=True) as connection:
        return (connection.scalar(select(func.max(schema.alerts.c.id))) or 0) <= FEW_ALERTS


def _upgrade(
    engine: Engine, version: int, seconds: int, log: Callable[[str], None]
) -> list[dict[str, Any]]:
    from poundcake.trail import migrations

    is_file = engine.dialect.name == "sqlite"
    if is_file:
        make_folder(os.path.dirname(engine.url.database))
    patient = open_engine(engine.url, seconds)
    try:
        with _alone(patient, seconds) as connection:
            found = _version(_meta(connection))
            stamp = _stamp(connection)
            if stamp and stamp != migrations.revision(found):
                raise DatabaseError(
                    f"alembic_version says {stamp}, poundcake_meta says schema {found}: restore "
                    "all tables from one backup"
                )
            # The first release had no stamp; later ones may have been restored without.
            if found > 1 and not stamp:
                migrations.stamp(connection, found)
            steps = migrations.upgrade(connection, version, log)
    finally:
        patient.dispose()
    if is_file:
        _give_to_owner(engine.url.database)
    return steps


@contextmanager
def _alone(engine: Engine, seconds: int) -> Iterator[Connection]:
    """A connection while no other migrates this database: on SQLite a transaction, on MariaDB a
    lock that ends with the connection."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            with connection.begin():
                yield connection
            return
        # Locks belong to the server, and their names know no upper case.
        lock = text("SELECT GET_LOCK(CONCAT('poundcake_', SHA1(DATABASE())), :seconds)")
        if not connection.scalar(lock, {"seconds": seconds - 5}):
            raise DatabaseError(
                "another process is changing the tables of the tracking database, or the server "
                "is still at what one that was killed had asked for; try again later"
            )
        connection.commit()
        yield connection


def _stamp(connection: Connection) -> str:
    """Alembic's name of the revision; empty where there is none."""
    if not inspect(connection).has_table("alembic_version"):
        return ""
    return connection.scalar(text("SELECT version_num FROM alembic_version")) or ""


def _prepare_sqlite(connection, seconds: int) -> None:
    if seconds:
        deadline = time.monotonic() + seconds
        connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
    # The driver must not begin transactions by itself: it would begin them as readers, and two
    # that later write would fail instead of waiting for each other.
    connection.isolation_level = None
    cursor = connection.cursor()
    # Two that open a new file at once: SQLite does not wait for the lock of this statement.
    for attempt in range(100):
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            if attempt == 99 or "locked" not in str(error):
                raise
            time.sleep(0.05)
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection) -> None:
    reading = connection.get_execution_options().get("poundcake_read")
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
