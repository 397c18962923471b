"""Create the tables of the journal, and upgrade those of an older release.

Bodies are in a separate table because they can be several MiB. A request changes its state several
times, and these changes should not read or write the body.
"""

from __future__ import annotations

import sqlite3
import uuid

from poundcake.string_enum import StringEnum

VERSION = 3
"""The version in `PRAGMA user_version`. Release 0.2.0 wrote version 1, release 0.3.0 version 2."""


class RequestState(StringEnum):
    """The last step that a request has completed.

    A request enters the next state only once the receiving side is known to have it.
    """

    ACCEPTED = "accepted"
    """The request is in the journal, and the sender received a 202 response."""
    ANNOUNCED = "announced"
    """The broker has the request, in the announcement of a batch of requests."""
    RECORDED = "recorded"
    """The request is in the tracking database, and its triggers are published or about to be."""
    DONE = "done"
    """StackStorm has reported the outcome of each alert of the request."""


# Columns of `requests` in the order of the table. Times (REAL) are seconds on the journal's own
# clock, see journal_clock; received_at is the wall clock's time in RFC 3339, for people.
COLUMNS = (
    "id",
    "request_id",
    "body_sha256",
    "body_bytes",
    "alert_count",
    "received_at",
    "client_host",
    "client_request_id",
    "method",
    "path",
    "headers",
    "shared",
    "accepted_at",
    "state",
    "state_since",
    "due_at",
    "attempts",
    "batch_id",
    "batch_limit",
    "stuck",
    "emit_after",
    "credential",
)

_TABLES = (
    """
CREATE TABLE journal (
    endpoint_id TEXT NOT NULL,
    clock REAL NOT NULL  -- the time at which it was last saved
)""",
    """
CREATE TABLE requests (
    id INTEGER PRIMARY KEY,
    request_id TEXT NOT NULL UNIQUE,
    body_sha256 TEXT NOT NULL,
    body_bytes INTEGER NOT NULL,
    alert_count INTEGER NOT NULL,
    received_at TEXT NOT NULL,
    client_host TEXT NOT NULL,
    client_request_id TEXT NOT NULL,
    method TEXT NOT NULL,
    path TEXT NOT NULL,
    headers TEXT NOT NULL,  -- JSON
    shared INTEGER NOT NULL,  -- 1: another endpoint may hold the same request
    accepted_at REAL NOT NULL,
    state TEXT NOT NULL,
    state_since REAL NOT NULL,
    due_at REAL NOT NULL,  -- when the next step is due; 0: accepted and never announced
    attempts INTEGER NOT NULL,  -- failed attempts at the current step
    batch_id TEXT NOT NULL,  -- id of the last announcement
    batch_limit INTEGER NOT NULL,  -- maximum requests in its next announcement; 0: no limit
    stuck INTEGER NOT NULL,  -- 1: failed when announced by itself, while others did not
    emit_after REAL,  -- when its alerts may be emitted again; NULL: never emitted
    credential TEXT NOT NULL DEFAULT ''  -- name of the sender's credential; '' if none was needed
)""",
    """
CREATE TABLE bodies (
    id INTEGER PRIMARY KEY REFERENCES requests (id),
    body BLOB NOT NULL
)""",
    "CREATE INDEX ix_requests_due ON requests (state, due_at, id)",
    "CREATE INDEX ix_requests_failed ON requests (batch_id, id)"
    " WHERE state = 'accepted' AND due_at > 0",
    "CREATE INDEX ix_requests_waiting ON requests (id)"
    " WHERE state IN ('accepted', 'announced') AND stuck = 0",
    "CREATE INDEX ix_requests_stuck ON requests (id)"
    " WHERE state IN ('accepted', 'announced') AND stuck = 1",
)

# {version of the file: a SELECT of its requests, with COLUMNS and then the body}
_SELECTS = {
    # list_limit was -1 for a stuck request. Version 1 did not store which ids clients chose, so
    # any request that is not done may be shared. due_at 0 now means "never announced", so an
    # accepted request that was announced before gets 1, which is also long past.
    1: """
SELECT id, request_id, sha256 AS body_sha256, length(body) AS body_bytes, alerts AS alert_count,
    received_at, client_host, client_request_id, method, path, headers,
    state <> 'done' AS shared,
    coalesce(min(strftime('%s', received_at) * 1.0, state_at), state_at) AS accepted_at,
    state, state_at AS state_since,
    CASE WHEN state = 'done' THEN state_at + 86400 WHEN tries > 0 THEN max(next_at, 1)
        ELSE next_at END AS due_at,
    tries AS attempts, list_id AS batch_id, max(list_limit, 0) AS batch_limit,
    list_limit < 0 AS stuck, nullif(emit_at, 0) AS emit_after,
    '' AS credential, body
FROM entries""",
    2: f"SELECT {', '.join(f'requests.{c}' for c in COLUMNS[:-1])}, '' AS credential, bodies.body"
    " FROM requests JOIN bodies ON bodies.id = requests.id",
    VERSION: f"SELECT {', '.join(f'requests.{c}' for c in COLUMNS)}, bodies.body"
    " FROM requests JOIN bodies ON bodies.id = requests.id",
}
_TABLE_NAMES = {1: "entries", 2: "requests", VERSION: "requests"}


def create(connection: sqlite3.Connection, clock: float) -> None:
    """Create the tables in an empty file, inside the caller's transaction."""
    for statement in _TABLES:
        connection.execute(statement)
    connection.execute("INSERT INTO journal VALUES (?, ?)", (str(uuid.uuid4()), clock))
    connection.execute(f"PRAGMA user_version={VERSION}")


def upgrade(connection: sqlite3.Connection, version: int) -> None:
    """Upgrade the tables of an older version, inside the caller's transaction."""
    if version == 2:
        connection.execute("ALTER TABLE requests ADD COLUMN credential TEXT NOT NULL DEFAULT ''")
        connection.execute(f"PRAGMA user_version={VERSION}")
    else:
        _upgrade_version_1(connection)


def _upgrade_version_1(connection: sqlite3.Connection) -> None:
    """Convert the tables of version 1 to the current version."""
    # Version 1 stored wall-clock times. The journal's clock continues from the newest of them: the
    # start of a state, or the next check of a recorded request (one every 5 seconds).
    newest_time = connection.execute(
        "SELECT max(CASE WHEN state = 'recorded' THEN max(state_at, next_at) ELSE state_at END)"
        " FROM entries"
    ).fetchone()[0]
    create(connection, newest_time or 0.0)
    columns = ", ".join(COLUMNS)
    connection.execute(f"INSERT INTO bodies SELECT id, body FROM ({_SELECTS[1]})")
    connection.execute(f"INSERT INTO requests ({columns}) SELECT {columns} FROM ({_SELECTS[1]})")
    connection.execute("DROP TABLE entries")


def insert(connection: sqlite3.Connection, values: tuple[object, ...], body: bytes) -> None:
    """Add a request with its body, inside the caller's transaction.

    Args:
        connection: A connection to the journal.
        values: The values in the order of COLUMNS; the id may be None.
        body: The body.
    """
    placeholders = ", ".join("?" * len(COLUMNS))
    cursor = connection.execute(f"INSERT INTO requests VALUES ({placeholders})", values)
    connection.execute("INSERT INTO bodies VALUES (?, ?)", (cursor.lastrowid, body))


def select_one(version: int) -> str:
    """Return a SELECT of one request by its id, with COLUMNS and the body."""
    return f"SELECT * FROM ({_SELECTS[version]}) WHERE id = ?"


def select_ids(version: int) -> list[str]:
    """Return statements that each select all ids.

    They read the table and an index, each from both ends, so that damage in one place hides as few
    ids as possible.
    """
    table = _TABLE_NAMES[version]
    statements = (
        f"SELECT id FROM {table} NOT INDEXED ORDER BY id",
        f"SELECT id FROM {table} INDEXED BY sqlite_autoindex_{table}_1 ORDER BY request_id",
    )
    return [f"{statement} {direction}" for statement in statements for direction in ("ASC", "DESC")]


def is_known(version: int) -> bool:
    """Return True if this release can read files of that version."""
    return version in _SELECTS
