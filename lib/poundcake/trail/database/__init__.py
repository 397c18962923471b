"""The tracking database: open it, prepare its tables, and use it.

engine        open a connection pool for MariaDB or SQLite
mariadb       configure MariaDB connections, and refuse servers that cannot be used
sqlite        configure SQLite connections
holds         refuse a database whose trail was moved to another one
tables        create and upgrade the tables, and return the database's id
transactions  read, write, and retry
batches       build statements for many rows at once
"""

from __future__ import annotations

from poundcake.trail.database.batches import batched, has_one_of, read_batched
from poundcake.trail.database.engine import open_engine
from poundcake.trail.database.mariadb import check_size, longest_text
from poundcake.trail.database.tables import (
    has_view_indexes,
    identify,
    migrate,
    pending,
    prepare,
    upgrade_tables,
)
from poundcake.trail.database.transactions import (
    ATTEMPTS,
    describe,
    kind,
    public_url,
    reading,
    retry_deadlocks,
    retry_while_unavailable,
    transaction,
)
from poundcake.trail.errors import DatabaseError

__all__ = [
    "ATTEMPTS",
    "DatabaseError",
    "batched",
    "check_size",
    "describe",
    "has_one_of",
    "has_view_indexes",
    "identify",
    "kind",
    "longest_text",
    "migrate",
    "open_engine",
    "pending",
    "prepare",
    "public_url",
    "read_batched",
    "reading",
    "retry_deadlocks",
    "retry_while_unavailable",
    "transaction",
    "upgrade_tables",
]
