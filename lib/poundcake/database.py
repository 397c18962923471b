"""The tracking database: how it is opened, how its tables come to be, and which one it is."""

import os
import sqlite3
import time
import uuid
from contextlib import contextmanager
from typing import Any, Iterator, Sequence

from sqlalchemy import create_engine, event, inspect, select, text
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from poundcake import schema
from poundcake.errors import PoundCakeError

# Seconds. A statement that waits longer is better tried again, with a sentence about it.
CONNECT_TIMEOUT = 3
STATEMENT_TIMEOUT = 30


class DatabaseError(PoundCakeError):
    """The tracking database cannot be used now. The message has no password in it."""


def open_engine(url: str, seconds: int = STATEMENT_TIMEOUT) -> Engine:
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
        engine = create_engine(parsed, poolclass=NullPool, connect_args={"timeout": 10})
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
        pool_pre_ping=True,
        pool_recycle=1800,
        pool_timeout=5,
        connect_args={
            "charset": "utf8mb4",
            "connect_timeout": CONNECT_TIMEOUT,
            "read_timeout": seconds + 1,
            "write_timeout": seconds + 1,
            "init_command": f"SET time_zone = '+00:00', innodb_lock_wait_timeout = 10,"
            f" max_statement_time = {int(seconds)}",
        },
    )


def kind(engine: Engine) -> str:
    """``SQLite`` or ``MariaDB``, for people."""
    return "SQLite" if engine.dialect.name == "sqlite" else "MariaDB"


def prepare(engine: Engine, create: bool = True) -> str:
    """Makes the tables where they are missing, and returns the database's id (a UUID).

    Two that do it at once wait for each other. Raises DatabaseError where the database cannot be
    reached, has tables of a newer release, or has none and ``create`` is false.
    """
    try:
        found = _meta(engine)
        if "database_id" not in found:
            if not create:
                raise DatabaseError(
                    "the tracking database has no tables and auto_migrate is false: "
                    "run `st2 run poundcake.migrate`"
                )
            if engine.dialect.name == "sqlite":
                make_folder(os.path.dirname(engine.url.database))
            _create(engine)
            if engine.dialect.name == "sqlite":
                _give_to_owner(engine.url.database)
            found = _meta(engine)
    except (SQLAlchemyError, OSError) as error:
        raise DatabaseError(describe(error, engine)) from None
    if int(found["schema"]) > schema.VERSION:
        raise DatabaseError(
            f"the tables have schema {found['schema']}, this release of the pack knows up to "
            f"{schema.VERSION}: install the release that made them, or a newer one"
        )
    return found["database_id"]


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


def _meta(engine: Engine) -> dict:
    if engine.dialect.name == "sqlite" and not os.path.exists(engine.url.database or ""):
        return {}
    with engine.connect().execution_options(poundcake_read=True) as connection:
        try:
            rows = connection.execute(select(schema.meta.c.name, schema.meta.c.value))
            return {name: value for name, value in rows}
        except DBAPIError:
            if inspect(connection).has_table(schema.meta.name):
                raise
            return {}


def _create(engine: Engine) -> None:
    with engine.connect() as connection:
        locked = engine.dialect.name != "sqlite"
        if locked and not connection.scalar(text("SELECT GET_LOCK('poundcake_schema', 60)")):
            raise DatabaseError("another process has been making the tables for a minute")
        try:
            schema.metadata.create_all(connection)
            for name, value in (
                ("schema", str(schema.VERSION)),
                ("database_id", str(uuid.uuid4())),
            ):
                try:
                    with connection.begin_nested():
                        connection.execute(schema.meta.insert().values(name=name, value=value))
                except IntegrityError:
                    pass  # the other process was first
            connection.commit()
        finally:
            if locked:
                connection.execute(text("SELECT RELEASE_LOCK('poundcake_schema')"))


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
        except sqlite3.OperationalError:
            if attempt == 99:
                raise
            time.sleep(0.05)
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection) -> None:
    reading = connection.get_execution_options().get("poundcake_read")
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
