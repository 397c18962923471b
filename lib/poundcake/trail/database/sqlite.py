"""Connections to SQLite."""

from __future__ import annotations

import sqlite3
import time

from sqlalchemy.engine import Connection

READ_ONLY = "poundcake_read"
"""The execution option of a connection that only reads, and need not wait for a writer."""


def set_up(opened: sqlite3.Connection, seconds: int) -> None:
    """Configure a new connection.

    Args:
        opened: The driver's connection.
        seconds: How long its statements may take altogether; 0 for no limit.
    """
    if seconds:
        deadline = time.monotonic() + seconds
        opened.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
    # The driver must not begin transactions by itself: it would begin them as readers, and two
    # that later write would fail instead of waiting for each other.
    opened.isolation_level = None
    _use_write_ahead_log(opened)
    opened.execute("PRAGMA synchronous=FULL")
    opened.execute("PRAGMA foreign_keys=ON")


def begin(connection: Connection) -> None:
    """Begin a transaction: of a reader, or of a writer that waits for other writers."""
    is_reader = connection.get_execution_options().get(READ_ONLY)
    connection.exec_driver_sql("BEGIN" if is_reader else "BEGIN IMMEDIATE")


def _use_write_ahead_log(opened: sqlite3.Connection) -> None:
    # Two processes may open a new file at once, and SQLite does not wait for the lock of this
    # statement.
    for attempt in range(100):
        try:
            opened.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if attempt == 99 or "locked" not in str(error):
                raise
            time.sleep(0.05)
