"""Store requests that arrive at the same time in one commit.

A commit waits for the disk. Each thread adds its request to a list and waits for the lock. The
thread that gets the lock commits the whole list and sets the request_id of every request in it.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import uuid
from dataclasses import dataclass
from typing import Callable, NamedTuple, Sequence

from poundcake.announcement import Request
from poundcake.endpoint import journal_schema
from poundcake.endpoint.journal_file import JournalError, JournalFile, in_transaction
from poundcake.endpoint.journal_schema import COLUMNS, RequestState
from poundcake.timestamps import format_timestamp


@dataclass
class Acceptance:
    """A request that is waiting to be committed, and the result of the commit.

    Attributes:
        request: The request to store.
        sender_request_id: The request id that the sender chose, a UUID, or ''.
        body_sha256: The hash of the body.
        alert_count: The number of alerts in the request.
        request_id: The id under which it was stored, '' until then.
        error: Why it was not stored, or None.
    """

    request: Request
    sender_request_id: str
    body_sha256: str
    alert_count: int
    request_id: str = ""
    error: JournalError | None = None


class NewRow(NamedTuple):
    """The values that the journal adds to a request.

    Attributes:
        request_id: The id under which the request is stored.
        is_shared: Whether another endpoint may have the same request.
        now: The current time on the journal's clock.
        state: The first state of the request.
    """

    request_id: str
    is_shared: bool
    now: float
    state: RequestState = RequestState.ACCEPTED


class GroupCommit:
    """Commit requests to a journal file. Safe to use from any (green) thread."""

    def __init__(self, file: JournalFile, on_added: Callable[[int], None]):
        """Create a group commit for a file.

        Args:
            file: The file to write to.
            on_added: Called after each commit with the number of new requests.
        """
        self._file = file
        self._on_added = on_added
        self._pending: list[Acceptance] = []
        self._pending_lock = threading.Lock()

    def accept(self, acceptance: Acceptance) -> str:
        """Store a request durably and return its request_id. Raises JournalError."""
        if self._file.is_damaged:
            raise JournalError(self._file.problem)
        with self._pending_lock:
            self._pending.append(acceptance)
        with self._file.lock:
            if not acceptance.request_id and acceptance.error is None:
                self._commit_pending()
        if acceptance.error:
            raise acceptance.error
        if not acceptance.request_id:
            # The thread that was committing this request's batch was killed.
            raise JournalError("the commit was interrupted; send the request again")
        return acceptance.request_id

    def _commit_pending(self) -> None:
        with self._pending_lock:
            batch, self._pending = self._pending, []
        try:
            self._file.run_locked(self._commit, batch)
            self._file.note_success()
        # After any error, no request of the batch is known to be stored: fail all of them.
        except Exception as error:
            failure = self._file.note_failure(error, sum(len(a.request.body) for a in batch))
            for acceptance in batch:
                acceptance.error = failure

    def _commit(self, connection: sqlite3.Connection, batch: Sequence[Acceptance]) -> None:
        results = in_transaction(connection, self._insert_all, batch)
        for acceptance, (request_id, _) in zip(batch, results):
            acceptance.request_id = request_id
        self._on_added(sum(is_new for _, is_new in results))

    def _insert_all(
        self, connection: sqlite3.Connection, batch: Sequence[Acceptance]
    ) -> list[tuple[str, bool]]:
        results = []
        for acceptance in batch:
            request_id, is_new = _choose_id(connection, acceptance)
            if is_new:
                is_shared = request_id == acceptance.sender_request_id
                insert(
                    connection, acceptance, NewRow(request_id, is_shared, self._file.clock.now())
                )
            results.append((request_id, is_new))
        return results


def insert(connection: sqlite3.Connection, acceptance: Acceptance, row: NewRow) -> None:
    """Add a request to the journal, inside the caller's transaction."""
    request = acceptance.request
    body = request.body.encode()
    client_id = request.client_request_id or acceptance.sender_request_id
    values = {
        "id": None,
        "request_id": row.request_id,
        "body_sha256": acceptance.body_sha256,
        "body_bytes": len(body),
        "alert_count": acceptance.alert_count,
        "received_at": format_timestamp(request.received_at),
        "credential": request.credential,
        "client_host": request.client_host,
        "client_request_id": "" if client_id == row.request_id else client_id,
        "method": request.method,
        "path": request.path,
        "headers": json.dumps(request.headers),
        "shared": int(row.is_shared),
        "accepted_at": row.now,
        "state": row.state.value,
        "state_since": row.now,
        "due_at": 0 if row.state == RequestState.ACCEPTED else row.now,
        "attempts": 0,
        "batch_id": "",
        "batch_limit": 0,
        "stuck": 0,
        "emit_after": None,
    }
    journal_schema.insert(connection, tuple(values[column] for column in COLUMNS), body)


def _choose_id(connection: sqlite3.Connection, acceptance: Acceptance) -> tuple[str, bool]:
    """Return the request_id for a request, and whether the request is new."""
    if not acceptance.sender_request_id:
        return str(uuid.uuid4()), True
    statement = "SELECT body_sha256 FROM requests WHERE request_id = ?"
    row = connection.execute(statement, (acceptance.sender_request_id,)).fetchone()
    if row is None:
        return acceptance.sender_request_id, True
    if row["body_sha256"] == acceptance.body_sha256:
        return acceptance.sender_request_id, False
    # A proxy with a fixed X-Request-ID sends different bodies with the same id. Each of them
    # is a new request, even if an earlier one had the same body.
    return str(uuid.uuid4()), True
