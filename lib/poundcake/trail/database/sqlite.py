"""Configure connections to SQLite."""

from __future__ import annotations

import sqlite3
import time

from sqlalchemy.engine import Connection

READ_ONLY = "poundcake_read"
"""The execution option of a connection that only reads and so does not wait for writers."""


def set_up(connection: sqlite3.Connection, seconds: int, read_only: bool = False) -> None:
    """Configure a new connection.

    Args:
        connection: The driver's connection.
        seconds: How long all of its statements together may take; 0 for no limit.
        read_only: Whether the file was opened read-only, so that it keeps its journal mode.
    """
    if seconds:
        deadline = time.monotonic() + seconds
        connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
    # The driver must not begin transactions itself. It would begin them as readers. If two such
    # transactions then write, one of them fails instead of waiting.
    connection.isolation_level = None
    if read_only:
        return
    _use_write_ahead_log(connection)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def begin(connection: Connection) -> None:
    """Begin a transaction: as a reader, or as a writer that waits for other writers."""
    is_reader = connection.get_execution_options().get(READ_ONLY)
    connection.exec_driver_sql("BEGIN" if is_reader else "BEGIN IMMEDIATE")


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    # Retry, because SQLite does not wait for the lock that this statement needs, and another
    # process may be opening the new file at the same time.
    for attempt in range(100):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if attempt == 99 or "locked" not in str(error):
                raise
            time.sleep(0.05)
