"""Convert the rows of the journal to the types that the rest of the endpoint uses."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Callable

from poundcake.announcement import Request
from poundcake.endpoint.journal_schema import RequestState
from poundcake.timestamps import parse_timestamp


@dataclass(frozen=True)
class Entry:
    """A request in the journal, without the columns that only its announcement needs.

    Times are in seconds on the process's monotonic clock, except `received_at`.

    Attributes:
        id: The row id.
        request_id: The id that was returned to the sender.
        body_sha256: The hash of the body.
        body_bytes: The size of the body.
        alert_count: The number of alerts in the request.
        received_at: When it was received, on the wall clock.
        state: The last step that it has completed.
        state_since: When it entered its state.
        attempts: Failed attempts at the current step.
        batch_id: The id of its last announcement, or '' if it was never announced.
        batch_limit: How many requests may be announced with it, including itself; 0 for no limit.
        is_stuck: Whether it failed when announced by itself, while others were recorded.
        is_shared: Whether another endpoint may have the same request.
        emit_after: When its alerts may be emitted again, or None if they were never emitted.
        credential: The name of the credential that its sender used, or '' if it needed none.
    """

    id: int
    request_id: str
    body_sha256: str
    body_bytes: int
    alert_count: int
    received_at: datetime
    state: RequestState
    state_since: float
    attempts: int
    batch_id: str
    batch_limit: int
    is_stuck: bool
    is_shared: bool
    emit_after: float | None
    credential: str


def read_entry(row: sqlite3.Row, to_monotonic: Callable[[float], float]) -> Entry:
    """Convert a row of `requests` to an Entry.

    Args:
        row: The row.
        to_monotonic: Converts a time on the journal's clock to one on the monotonic clock.

    Raises:
        ValueError: The row is damaged.
        TypeError: The row is damaged.
    """
    emit_after = row["emit_after"]
    return Entry(
        id=row["id"],
        request_id=row["request_id"],
        body_sha256=row["body_sha256"],
        body_bytes=row["body_bytes"],
        alert_count=row["alert_count"],
        received_at=_received_at(row),
        state=RequestState(row["state"]),
        state_since=to_monotonic(row["state_since"]),
        attempts=row["attempts"],
        batch_id=row["batch_id"],
        batch_limit=row["batch_limit"],
        is_stuck=bool(row["stuck"]),
        is_shared=bool(row["shared"]),
        emit_after=None if emit_after is None else to_monotonic(emit_after),
        credential=row["credential"],
    )


def is_intact(row: sqlite3.Row) -> bool:
    """Return True if a row of a damaged file is intact."""
    try:
        entry = read_entry(row, lambda moment: moment + 0.0)
        headers = json.loads(row["headers"])
        return sha256(row["body"]).hexdigest() == entry.body_sha256 and isinstance(headers, dict)
    except (ValueError, TypeError, AttributeError, IndexError):
        return False


def read_request(row: sqlite3.Row) -> Request:
    """Convert a row of `requests`, joined with its body, to the request that was received.

    Raises:
        ValueError: The row is damaged.
        TypeError: The row is damaged.
    """
    return Request(
        request_id=row["request_id"],
        received_at=_received_at(row),
        client_host=row["client_host"],
        client_request_id=row["client_request_id"],
        method=row["method"],
        path=row["path"],
        headers=json.loads(row["headers"]),
        body=row["body"].decode(),
        credential=row["credential"],
    )


def _received_at(row: sqlite3.Row) -> datetime:
    received_at = parse_timestamp(row["received_at"])
    if received_at is None:
        raise ValueError("received_at is missing")
    return received_at
