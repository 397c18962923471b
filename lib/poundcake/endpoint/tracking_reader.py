"""Read and write the tracking database from the endpoint."""

from __future__ import annotations

import threading
from time import monotonic
from typing import Any, Callable, TypeVar

from sqlalchemy.engine import Connection, Engine

from poundcake.config import Config
from poundcake.endpoint import native
from poundcake.trail import clock, database
from poundcake.trail.database import DatabaseError, holds

CLOCK_CHECK_SECONDS = 30.0
"""Seconds between comparisons of this machine's clock with the database's."""

MAX_VIEWS = 2
"""Maximum number of views that are read concurrently.

Views and the pipeline share SQLite's lock and MariaDB's connections. Without this limit, a client
that reads many views at once could delay the emission of every alert.
"""

MAX_WAITING_VIEWS = 32
"""Maximum number of views that are being read or waiting to be read.

Each keeps a connection busy, and the endpoint needs the other connections for webhooks.
"""

VIEW_TIMEOUT_SECONDS = 5
"""Time limit of each database statement, in seconds. It is short because a person is waiting."""

T = TypeVar("T")


def open_engine(config: Config) -> Engine:
    """Return an engine for the tracking database, with the time limit of views.

    Raises:
        DatabaseError: The database URL cannot be used.
    """
    return database.open_engine(config.tracking_url, VIEW_TIMEOUT_SECONDS)


class TrackingReader:
    """Read and write the tracking database, from any (green) thread.

    On SQLite, calls run one at a time in a native thread, so that they do not block all green
    threads.
    """

    def __init__(self, engine: Engine, create_tables: bool):
        """Create a reader.

        Args:
            engine: The engine of the tracking database.
            create_tables: Whether to create the tables if they do not exist.
        """
        self.engine = engine
        self._create_tables = create_tables
        self._database_id = ""
        self._lock = threading.Lock()
        self._queued_views = threading.BoundedSemaphore(MAX_WAITING_VIEWS)
        self._active_views = threading.BoundedSemaphore(MAX_VIEWS)
        self._clock_offset = 0.0
        self._compared_at: float | None = None

    def read(self, query: Callable[..., T], *args: Any) -> T:
        """Return query(connection, *args), run in a read transaction.

        Raises:
            DatabaseError: The database cannot be read now.
        """
        self.database_id()
        result: T = self._call(self._read, query, *args)
        return result

    def read_view(self, query: Callable[..., T], *args: Any) -> T:
        """Return query(connection, *args), once fewer than MAX_VIEWS other views are being read.

        Raises:
            DatabaseError: The database cannot be read now, or too many views are waiting.
        """
        if not self._queued_views.acquire(blocking=False):
            raise DatabaseError(f"{MAX_WAITING_VIEWS} other views are waiting; try again")
        try:
            with self._active_views:
                return self.read(query, *args)
        finally:
            self._queued_views.release()

    def write(self, function: Callable[..., T], *args: Any) -> T:
        """Return function(engine, *args), which writes to the database.

        Raises:
            DatabaseError: The database cannot be written now.
        """
        self.database_id()
        return self._call(function, self.engine, *args)

    def database_id(self) -> str:
        """Return the id of the database. Create missing tables if `create_tables` was set.

        Raises:
            DatabaseError: The database cannot be read now.
        """
        if not self._database_id:
            self._database_id = self._call(database.prepare, self.engine, self._create_tables)
        return self._database_id

    def clock_offset(self) -> float:
        """Return how many seconds this machine's clock is ahead of the database's.

        The offset is measured during other reads. On SQLite it is 0, because SQLite uses this
        machine's clock.

        Raises:
            DatabaseError: The offset has not been measured yet, and the database cannot be read.
        """
        if self._compared_at is None and self.engine.dialect.name != "sqlite":
            self.read(lambda connection: None)
        return self._clock_offset

    @property
    def last_clock_offset(self) -> float | None:
        """The offset as it was measured last, or None if it has not been measured yet."""
        has_offset = self._compared_at is not None or self.engine.dialect.name == "sqlite"
        return self._clock_offset if has_offset else None

    def switch_engine(self, engine: Engine, create_tables: bool) -> None:
        """Use another engine from now on. Reads in progress finish on the previous one."""
        previous, self.engine, self._create_tables = self.engine, engine, create_tables
        if engine is not previous:
            self.forget_database_id()
            self._clock_offset, self._compared_at = 0.0, None
            previous.dispose()

    def forget_database_id(self) -> None:
        """Forget the database's id, so that the next call reads it again.

        It changes if the database is replaced.
        """
        self._database_id = ""

    def _call(self, function: Callable[..., T], *args: Any) -> T:
        if self.engine.dialect.name != "sqlite":
            return function(*args)
        with self._lock:
            return native.run_in_native_thread(function, *args)

    def _read(self, query: Callable[..., T], *args: Any) -> T:
        with database.reading(self.engine) as connection:
            self._check_usable(connection)
            self._compare_clocks(connection)
            return query(connection, *args)

    def _check_usable(self, connection: Connection) -> None:
        try:
            holds.check_usable(connection)
        except DatabaseError:
            # Without the id, the announcer cannot publish anything.
            self.forget_database_id()
            raise

    def _compare_clocks(self, connection: Connection) -> None:
        now = monotonic()
        if self._compared_at is not None and now - self._compared_at < CLOCK_CHECK_SECONDS:
            return
        if self.engine.dialect.name == "sqlite":
            return
        started_at = clock.local_now()
        database_time = clock.database_now(connection)
        local_time = started_at + (clock.local_now() - started_at) / 2
        self._clock_offset = round((local_time - database_time).total_seconds(), 6)
        self._compared_at = now
