"""Open the tracking database."""

from __future__ import annotations

import os
import sqlite3
from typing import Any
from urllib.parse import quote

from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from poundcake.trail.database import mariadb, sqlite
from poundcake.trail.errors import DatabaseError

# How long a statement may take, in seconds. A slower one fails with an error that says so.
STATEMENT_TIMEOUT = 30
# How many compiled statements an engine caches, each about 20 KB. A view needs one statement for
# each set of filters, which clients choose.
_COMPILED_STATEMENTS = 100


def open_engine(
    url: str | URL, seconds: int = STATEMENT_TIMEOUT, read_only: bool = False
) -> Engine:
    """Return an engine for the tracking database. The engine connects on first use.

    Args:
        url: ``mysql+pymysql://user:password@host/name`` or ``sqlite:////path``.
        seconds: How long one statement may take.
        read_only: Refuse every write, and do not create a missing SQLite file.

    Raises:
        DatabaseError: The URL cannot be used.
    """
    try:
        parsed = make_url(url)
    except (SQLAlchemyError, ValueError):
        raise DatabaseError("database_url: not an SQLAlchemy URL") from None
    if "@" in (parsed.host or ""):
        # Otherwise the part before the last @ would be shown as part of the host name.
        raise DatabaseError("database_url: write an @ in the password as %40")
    if parsed.get_backend_name() == "sqlite":
        return _open_sqlite(parsed, seconds, read_only)
    return _open_mariadb(parsed, seconds, read_only)


def _open_sqlite(url: URL, seconds: int, read_only: bool) -> Engine:
    if not os.path.isabs(url.database or ""):
        raise DatabaseError("database_url: sqlite:// needs an absolute path, as in sqlite:////path")
    timeout = 10 if seconds <= STATEMENT_TIMEOUT else seconds
    options: dict[str, Any] = {"connect_args": {"timeout": timeout}}
    if read_only:
        address = f"file:{quote(url.database or '')}?mode=ro"
        options = {"creator": lambda: sqlite3.connect(address, timeout=timeout, uri=True)}
    engine = create_engine(
        url,
        # Open a connection for each use. SQLAlchemy's pools use locks, which native threads must
        # not share with green threads.
        poolclass=NullPool,
        query_cache_size=_COMPILED_STATEMENTS,
        **options,
    )
    limit = seconds if seconds < STATEMENT_TIMEOUT else 0
    event.listen(
        engine, "connect", lambda connection, _: sqlite.set_up(connection, limit, read_only)
    )
    event.listen(engine, "begin", sqlite.begin)
    return engine


def _open_mariadb(url: URL, seconds: int, read_only: bool) -> Engine:
    if not url.database:
        raise DatabaseError("database_url: the name of the database is missing (…@host/poundcake)")
    engine = create_engine(
        url,
        # After a unique key rejects a row, the next read must see the conflicting row.
        isolation_level="READ COMMITTED",
        query_cache_size=_COMPILED_STATEMENTS,
        pool_pre_ping=True,
        pool_recycle=1800,
        pool_timeout=5,
        connect_args=mariadb.connect_args(seconds, STATEMENT_TIMEOUT),
    )
    event.listen(engine, "connect", mariadb.check_server)
    if read_only:
        event.listen(engine, "connect", mariadb.refuse_writes)
    return engine
