"""Configure connections to MariaDB, and refuse servers that cannot be used."""

from __future__ import annotations

from typing import Any, Mapping

from sqlalchemy.engine import Connection
from sqlalchemy.pool import ConnectionPoolEntry

from poundcake.trail.errors import DatabaseError

_CONNECT_TIMEOUT = 3  # seconds
# MariaDB's default. A server may be configured with modes that change the meaning of statements,
# such as EMPTY_STRING_IS_NULL, ORACLE, ANSI_QUOTES or NO_BACKSLASH_ESCAPES.
_SQL_MODE = (
    "STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_AUTO_CREATE_USER,NO_ENGINE_SUBSTITUTION"
)
# PyMySQL packs rows into INSERT statements of up to 1,024,000 bytes.
_MIN_PACKET = 1 << 20
# An allowance for the statement itself and for values that are not text.
_OVERHEAD_BYTES = 1 << 15
_ESCAPED = "\0\n\r\x1a\"'\\"
_PACKET = "max_allowed_packet"


def connect_args(seconds: int, lock_seconds: int) -> dict[str, Any]:
    """Return PyMySQL's arguments for a connection.

    Args:
        seconds: How long one statement may take.
        lock_seconds: How long an ALTER TABLE waits for transactions that use the table. Meanwhile,
            all later statements on the table are blocked.
    """
    settings = {
        "sql_mode": f"'{_SQL_MODE}'",
        "time_zone": "'+00:00'",
        "innodb_lock_wait_timeout": 10,
        "lock_wait_timeout": lock_seconds,
        # The statistics concatenate the durations of up to a year, which must not be truncated.
        "group_concat_max_len": 1 << 28,
        "max_statement_time": int(seconds),
    }
    return {
        "charset": "utf8mb4",
        "connect_timeout": _CONNECT_TIMEOUT,
        "read_timeout": seconds + 1,
        "write_timeout": seconds + 1,
        "init_command": "SET " + ", ".join(f"{name} = {v}" for name, v in settings.items()),
    }


def check_server(connection: Any, entry: ConnectionPoolEntry) -> None:
    """Refuse a server that cannot store all data, and store its maximum packet size.

    Called with each new PyMySQL connection. Raises DatabaseError.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT @@log_bin AND @@binlog_format = 'STATEMENT', @@max_allowed_packet")
        statement_binlog, packet = cursor.fetchone()
    entry.info[_PACKET] = packet
    problem = ""
    if statement_binlog:
        problem = (
            "binlog_format is STATEMENT, in which the server refuses every write at isolation "
            "level READ COMMITTED: set binlog_format = MIXED (or ROW) in the server's configuration"
        )
    elif packet < _MIN_PACKET:
        problem = (
            f"max_allowed_packet is {packet} bytes: set max_allowed_packet = 16M in the server's "
            f"configuration (the minimum is {_MIN_PACKET})"
        )
    if problem:
        connection.close()
        raise DatabaseError(f"the database server cannot be used: {problem}")


def refuse_writes(connection: Any, entry: ConnectionPoolEntry) -> None:
    """Make a new PyMySQL connection read-only."""
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION READ ONLY")


def longest_text(connection: Connection) -> int | None:
    """Return how many characters always fit into one statement, or None if there is no limit."""
    packet = connection.info.get(_PACKET)
    # No character takes more than 4 bytes, escaped or not.
    return None if packet is None else (packet - _OVERHEAD_BYTES) // 4


def check_size(
    connection: Connection,
    name: str,
    row: Mapping[str, object],
    next_step: str = "replay the request",
) -> None:
    """Raise ValueError if a row is too large for one statement. The message starts with `name`.

    The server would close the connection when it receives a larger packet, and the rows of other
    requests in the same transaction would be lost.

    Args:
        connection: A connection.
        name: The name of the row for the message.
        row: The values of the row.
        next_step: The instruction to follow after raising the server's limit.
    """
    packet = connection.info.get(_PACKET)
    if packet is None:  # SQLite
        return
    texts = [value for value in row.values() if isinstance(value, str)]
    if 4 * sum(map(len, texts)) + _OVERHEAD_BYTES <= packet:
        return
    size = sum(map(_escaped_size, texts)) + _OVERHEAD_BYTES
    if size > packet:
        raise ValueError(
            f"{name}: too large for the database server, {size} bytes and max_allowed_packet is "
            f"{packet}: raise it in the server's configuration, then {next_step}"
        )


def _escaped_size(text: str) -> int:
    """Return the size in bytes of a text in a statement, including PyMySQL's escapes."""
    return len(text.encode("utf-8", "replace")) + sum(map(text.count, _ESCAPED))
