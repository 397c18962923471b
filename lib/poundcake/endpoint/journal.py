"""Store accepted requests in a local SQLite file before answering them, and track their progress.

    accepted -> announced -> recorded -> done, then pruned a day later

A request enters the next state only once the receiving side is known to have it, so a request that
is lost in transit is sent again. `journal_schema.RequestState` describes each state.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Iterator, NamedTuple, Sequence, TypeVar

from poundcake.announcement import Request
from poundcake.endpoint.group_commit import Acceptance, GroupCommit, NewRow, insert
from poundcake.endpoint.journal_entry import Entry, read_entry, read_request
from poundcake.endpoint.journal_file import (
    JournalError,
    JournalFile,
    fetch,
    in_transaction,
    save_clock,
)
from poundcake.endpoint.journal_schema import COLUMNS, RequestState

T = TypeVar("T")

__all__ = ["Entry", "Journal", "JournalCounts", "JournalError", "RequestState"]

KEEP_DONE = 86400.0  # seconds
# Maximum total size of the bodies that are loaded together, in bytes.
BATCH_BYTES = 4 << 20
# Maximum number of alerts in the requests that due() returns.
PAGE_ALERTS = 10_000
# Maximum number of requests to prune in one transaction, during which none can be accepted.
_PRUNE_BATCH = 200
_MAX_VARIABLES = 500  # in one statement; SQLite before 3.32 allows 999

# All columns except those that only the announcement needs.
_ENTRY_COLUMNS = ", ".join(COLUMNS[:6] + COLUMNS[11:])
_WAITING = f"state IN ('{RequestState.ACCEPTED}', '{RequestState.ANNOUNCED}')"


@dataclass
class JournalCounts:
    """How many requests are in each state.

    Attributes:
        accepted, announced, recorded, done: The number of requests in that state.
        stuck: The number of accepted and announced requests that failed when announced by
            themselves, while others were recorded.
        oldest_seconds: How long the oldest request that is not stuck has waited to be recorded.
        overdue_seconds: How long the most overdue step of a recorded request has been due.
    """

    accepted: int
    announced: int
    recorded: int
    done: int
    stuck: int
    oldest_seconds: float
    overdue_seconds: float


class _CountKey(NamedTuple):
    """The key by which requests are counted."""

    state: RequestState
    is_stuck: bool


class Journal:
    """The journal of one endpoint. All methods may be called from any (green) thread.

    Every method raises JournalError if the file cannot be read or written. Waits are in seconds.
    """

    def __init__(self, path: str, damage: str = ""):
        """Open or create the journal; see JournalFile for arguments and errors."""
        self._file = JournalFile(path, damage)
        self._group_commit = GroupCommit(self._file, self._count_accepted)
        try:
            (row,) = self._file.run(fetch, "SELECT endpoint_id FROM journal")
            self.endpoint_id = str(row["endpoint_id"])
            # Only functions passed to JournalFile.run() change it, one thread at a time.
            # It has all keys from the start, so that other threads may read it at any time.
            self._counts: Counter[_CountKey] = self._file.run(_count_all)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Wait for the commit in progress and close the file."""
        self._file.close()

    def check(self) -> None:
        """Raise JournalError if the journal still cannot be written. This changes nothing."""
        self._file.check()

    @property
    def problem(self) -> str:
        """Why the last write or read failed, or '' if it succeeded."""
        return self._file.problem

    @property
    def is_damaged(self) -> bool:
        """Whether the file is damaged. It will be replaced when it is opened again."""
        return self._file.is_damaged

    @property
    def backlog(self) -> int:
        """The number of requests waiting to be recorded, excluding stuck ones."""
        return (
            self._counts[_CountKey(RequestState.ACCEPTED, False)]
            + self._counts[_CountKey(RequestState.ANNOUNCED, False)]
        )

    # -- accepting

    def accept(
        self, request: Request, sender_request_id: str, body_sha256: str, alert_count: int
    ) -> str:
        """Store a request durably and return its request_id.

        Requests that arrive at the same time share a commit.

        Args:
            request: The request to store.
            sender_request_id: The request id that the sender chose, a UUID, or ''. The same id with
                the same body is the same request. With a different body, the request gets a new id.
            body_sha256: The hash of the body.
            alert_count: The number of alerts in the request.
        """
        return self._group_commit.accept(
            Acceptance(request, sender_request_id, body_sha256, alert_count)
        )

    def _count_accepted(self, count: int) -> None:
        self._counts[_CountKey(RequestState.ACCEPTED, False)] += count

    def import_recorded(self, request: Request, body_sha256: str, alert_count: int) -> None:
        """Import a request that another process recorded, so that this endpoint emits it.

        Do nothing if the journal already has the request.
        """
        if self.find(request.request_id) is None:
            row = NewRow(request.request_id, True, self._now(), RequestState.RECORDED)
            self._file.run(self._import, Acceptance(request, "", body_sha256, alert_count), row)

    def _import(self, connection: sqlite3.Connection, acceptance: Acceptance, row: NewRow) -> None:
        in_transaction(connection, insert, acceptance, row)
        self._counts[_CountKey(RequestState.RECORDED, False)] += 1

    # -- reading

    def find(self, request_id: str) -> Entry | None:
        """Return the entry of a request, or None if it is unknown or pruned."""
        entries = self._entries("WHERE request_id = ?", request_id)
        return entries[0] if entries else None

    def find_with_prefix(self, prefix: str, limit: int) -> list[Entry]:
        """Return the entries whose request_id begins with a prefix of ASCII characters."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        return self._entries(
            "WHERE request_id >= ? AND request_id < ? ORDER BY request_id LIMIT ?",
            prefix,
            end,
            limit,
        )

    def find_unknown_ids(self, request_ids: Sequence[str]) -> list[str]:
        """Return the request_ids that the journal does not have, in the same order."""
        known_ids: set[str] = set()
        for chunk in _chunks(request_ids):
            placeholders = ",".join("?" * len(chunk))
            statement = f"SELECT request_id FROM requests WHERE request_id IN ({placeholders})"
            known_ids.update(row["request_id"] for row in self._file.run(fetch, statement, chunk))
        return [request_id for request_id in request_ids if request_id not in known_ids]

    def next_fresh_batch(self, limit: int) -> list[Entry]:
        """Return requests that were never announced, oldest first, up to BATCH_BYTES of bodies."""
        where = f"WHERE state = '{RequestState.ACCEPTED}' AND due_at = 0 ORDER BY id LIMIT ?"
        return _take_batch(self._entries(where, limit))

    def next_failed_batch(self, limit: int) -> list[Entry]:
        """Return the requests of one failed batch that are due for a retry, oldest first."""
        where = (
            f"WHERE state = '{RequestState.ACCEPTED}' AND due_at > 0 AND due_at <= ?"
            " ORDER BY due_at, id LIMIT 1"
        )
        oldest = self._entries(where, self._now())
        if not oldest:
            return []
        limit = min(limit, oldest[0].batch_limit or limit)
        where = (
            f"WHERE batch_id = ? AND batch_limit = ? AND state = '{RequestState.ACCEPTED}'"
            " AND due_at > 0 AND due_at <= ? ORDER BY id LIMIT ?"
        )
        batch = self._entries(where, oldest[0].batch_id, oldest[0].batch_limit, self._now(), limit)
        return _take_batch(batch)

    def failed(self, limit: int) -> list[Entry]:
        """Return requests that wait for another announcement, the earliest due first."""
        where = (
            f"WHERE state = '{RequestState.ACCEPTED}' AND due_at > 0 ORDER BY due_at, id LIMIT ?"
        )
        return self._entries(where, limit)

    def announced(self) -> list[Entry]:
        """Return the requests that were published and are not known to be recorded."""
        return self._entries(f"WHERE state = '{RequestState.ANNOUNCED}' ORDER BY id")

    def newest_waiting(self, limit: int) -> list[Entry]:
        """Return requests that wait to be recorded, newest first, up to BATCH_BYTES of bodies."""
        # With one search, SQLite would sort all waiting requests, and webhooks would wait for it.
        searches = " UNION ALL ".join(
            f"SELECT * FROM (SELECT id FROM requests INDEXED BY {index}"
            f" WHERE {_WAITING} AND stuck = {stuck} ORDER BY id DESC LIMIT ?)"
            for stuck, index in enumerate(("ix_requests_waiting", "ix_requests_stuck"))
        )
        where = f"WHERE id IN ({searches}) ORDER BY id DESC LIMIT ?"
        return _take_batch(self._entries(where, limit, limit, limit))

    def due_recorded(self, limit: int) -> list[Entry]:
        """Return recorded requests whose next step is due, up to PAGE_ALERTS alerts."""
        where = (
            f"WHERE state = '{RequestState.RECORDED}' AND due_at <= ? ORDER BY due_at, id LIMIT ?"
        )
        entries = self._entries(where, self._now(), limit)
        return _take_up_to(entries, [entry.alert_count for entry in entries], PAGE_ALERTS)

    def load_requests(self, entries: Sequence[Entry]) -> list[Request]:
        """Return the requests of entries, with their bodies, in the order of the entries."""
        requests: dict[int, Request] = {}
        for chunk in _chunks([entry.id for entry in entries]):
            statement = (
                "SELECT requests.*, bodies.body FROM requests JOIN bodies USING (id)"
                f" WHERE id IN ({','.join('?' * len(chunk))})"
            )
            for row in self._file.run(fetch, statement, chunk):
                requests[row["id"]] = self._convert(read_request, row)
        return [requests[entry.id] for entry in entries if entry.id in requests]

    def counts(self) -> JournalCounts:
        """Return how many requests are in each state, and how long the oldest has waited."""
        by_state = Counter(dict.fromkeys(RequestState, 0))
        for key, count in self._counts.items():
            by_state[key.state] += count
        now = self._now()
        oldest_rows = self._file.run(
            fetch,
            f"SELECT accepted_at FROM requests INDEXED BY ix_requests_waiting WHERE {_WAITING}"
            " AND stuck = 0 ORDER BY id LIMIT 1",
        )
        ((due_at,),) = self._file.run(
            fetch, f"SELECT min(due_at) FROM requests WHERE state = '{RequestState.RECORDED}'"
        )
        return JournalCounts(
            accepted=by_state[RequestState.ACCEPTED],
            announced=by_state[RequestState.ANNOUNCED],
            recorded=by_state[RequestState.RECORDED],
            done=by_state[RequestState.DONE],
            stuck=sum(count for key, count in self._counts.items() if key.is_stuck),
            oldest_seconds=max(0.0, now - oldest_rows[0][0]) if oldest_rows else 0.0,
            overdue_seconds=0.0 if due_at is None else max(0.0, now - due_at),
        )

    def stuck_ids(self, limit: int) -> list[str]:
        """Return the request_ids of stuck requests."""
        statement = (
            f"SELECT request_id FROM requests WHERE {_WAITING} AND stuck = 1 ORDER BY id LIMIT ?"
        )
        return [row["request_id"] for row in self._file.run(fetch, statement, (limit,))]

    # -- changing states

    def mark_announced(self, ids: Sequence[int], batch_id: str) -> None:
        """Note that the broker accepted requests as the batch `batch_id`."""
        now = self._now()
        self._update(
            ids,
            "state = ?, state_since = ?, due_at = ?, batch_id = ?",
            (RequestState.ANNOUNCED, now, now, batch_id),
        )

    def mark_missed(
        self, ids: Sequence[int], wait: float, batch_limit: int, is_stuck: bool = False
    ) -> None:
        """Move requests back to the state `accepted`, and schedule their next announcement.

        Args:
            ids: The ids of the entries.
            wait: Seconds until they may be announced again.
            batch_limit: How many of them may be announced together, or 0 for no limit.
            is_stuck: Whether each failed when announced by itself, while others were recorded.
        """
        now = self._now()
        self._update(
            ids,
            "state = ?, state_since = ?, attempts = attempts + 1, due_at = ?, batch_limit = ?,"
            " stuck = ?",
            (RequestState.ACCEPTED, now, now + wait, batch_limit, int(is_stuck)),
        )

    def mark_recorded(self, ids: Sequence[int]) -> None:
        """Note that requests were found in the tracking database."""
        now = self._now()
        self._update(
            ids,
            "state = ?, state_since = ?, attempts = 0, due_at = ?, batch_limit = 0, stuck = 0",
            (RequestState.RECORDED, now, now),
        )

    def mark_emitted(self, ids: Sequence[int], recheck_wait: float, emit_wait: float) -> None:
        """Note that the triggers of requests were published.

        Args:
            ids: The ids of the entries.
            recheck_wait: Seconds until the next check of whether their alerts are explained.
            emit_wait: Seconds until alerts that StackStorm lost may be emitted again.
        """
        now = self._now()
        self._update(
            ids,
            "attempts = attempts + 1, due_at = ?, emit_after = ?",
            (now + recheck_wait, now + emit_wait),
        )

    def postpone(self, ids: Sequence[int], wait: float) -> None:
        """Delay the next step of requests without changing their state."""
        self._update(ids, "due_at = ?", (self._now() + wait,))

    def mark_done(self, ids: Sequence[int]) -> None:
        """Note that the outcome of every alert of the requests is known."""
        now = self._now()
        self._update(
            ids, "state = ?, state_since = ?, due_at = ?", (RequestState.DONE, now, now + KEEP_DONE)
        )

    def clear_waits(self) -> None:
        """Make all requests waiting for another announcement due now, except the stuck ones."""
        now = self._now()
        self._file.write(
            _execute,
            f"UPDATE requests SET due_at = ? WHERE state = '{RequestState.ACCEPTED}' AND due_at > ?"
            " AND stuck = 0",
            (now, now),
        )

    def prune(self) -> int:
        """Remove a batch of requests that have been done for a day.

        Returns:
            How many were removed; 0 means that none are left to prune.
        """
        return self._file.run(self._prune, self._now())

    def _prune(self, connection: sqlite3.Connection, now: float) -> int:
        count = in_transaction(connection, _prune, now)
        self._counts[_CountKey(RequestState.DONE, False)] -= count
        return count

    def _now(self) -> float:
        return self._file.clock.now()

    def _entries(self, where: str, *args: object) -> list[Entry]:
        rows = self._file.run(fetch, f"SELECT {_ENTRY_COLUMNS} FROM requests {where}", args)
        to_monotonic = self._file.clock.to_monotonic
        return [self._convert(read_entry, row, to_monotonic) for row in rows]

    def _convert(self, convert: Callable[..., T], row: sqlite3.Row, *args: Any) -> T:
        try:
            return convert(row, *args)
        except (ValueError, TypeError, AttributeError) as error:
            # SQLite does not detect data that was overwritten within a page.
            damage = sqlite3.DatabaseError(f"a request cannot be read: {error}")
            raise self._file.note_failure(damage) from None

    def _update(self, ids: Sequence[int], assignments: str, args: Sequence[object]) -> None:
        for chunk in _chunks(ids):
            self._file.run(self._update_chunk, chunk, assignments, args)

    def _update_chunk(
        self,
        connection: sqlite3.Connection,
        ids: Sequence[int],
        assignments: str,
        args: Sequence[object],
    ) -> None:
        before, after = in_transaction(connection, _update, ids, assignments, args)
        self._counts.update(after)
        self._counts.subtract(before)


def _update(
    connection: sqlite3.Connection, ids: Sequence[int], assignments: str, args: Sequence[object]
) -> tuple[Counter[_CountKey], Counter[_CountKey]]:
    """Update requests. Return their counts before and after."""
    where = f"WHERE id IN ({','.join('?' * len(ids))})"
    values = [arg.value if isinstance(arg, RequestState) else arg for arg in args]
    before = _count(connection, where, ids)
    connection.execute(f"UPDATE requests SET {assignments} {where}", [*values, *ids])
    return before, _count(connection, where, ids)


def _count(connection: sqlite3.Connection, where: str, ids: Sequence[int]) -> Counter[_CountKey]:
    statement = f"SELECT state, stuck, count(*) FROM requests {where} GROUP BY state, stuck"
    return Counter(
        {
            _CountKey(RequestState(state), bool(is_stuck)): count
            for state, is_stuck, count in connection.execute(statement, ids)
        }
    )


def _count_all(connection: sqlite3.Connection) -> Counter[_CountKey]:
    """Count all requests, using only indexes because the table's rows are large."""
    counts = Counter(
        {_CountKey(state, is_stuck): 0 for state in RequestState for is_stuck in (False, True)}
    )
    select_all = "SELECT state, count(*) FROM requests GROUP BY state"
    for state, count in connection.execute(select_all):
        counts[_CountKey(RequestState(state), False)] = count
    select_stuck = (
        f"SELECT state, count(*) FROM requests WHERE {_WAITING} AND stuck = 1 GROUP BY state"
    )
    for state, count in connection.execute(select_stuck):
        counts[_CountKey(RequestState(state), True)] = count
        counts[_CountKey(RequestState(state), False)] -= count
    return counts


def _prune(connection: sqlite3.Connection, now: float) -> int:
    save_clock(connection, now)
    rows = fetch(
        connection,
        f"SELECT id, body_bytes FROM requests WHERE state = '{RequestState.DONE}' AND due_at <= ?"
        " ORDER BY due_at LIMIT ?",
        (now, _PRUNE_BATCH),
    )
    # Deleting a body of several MiB takes as long as deleting hundreds of small ones.
    ids = [row["id"] for row in _take_up_to(rows, [row["body_bytes"] for row in rows], BATCH_BYTES)]
    for table in ("bodies", "requests"):
        connection.executemany(f"DELETE FROM {table} WHERE id = ?", [(i,) for i in ids])
    return len(ids)


def _execute(connection: sqlite3.Connection, statement: str, args: Sequence[object]) -> None:
    connection.execute(statement, args)


def _take_batch(entries: list[Entry]) -> list[Entry]:
    return _take_up_to(entries, [entry.body_bytes for entry in entries], BATCH_BYTES)


def _take_up_to(items: list[Any], sizes: Iterable[int], limit: int) -> list[Any]:
    """Return the longest prefix of items within a total size, but at least one item."""
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if count and total > limit:
            return items[:count]
    return items


def _chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), _MAX_VARIABLES):
        yield values[start : start + _MAX_VARIABLES]
