"""What was accepted and how far it has come: a local SQLite file, written before the answer.

    accepted -> announced -> recorded -> done, then pruned a day later

A request moves on only when the far end was seen to have it, so whatever is lost in between is
sent again. `journal_schema.RequestState` says what each state means.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Iterator, NamedTuple, Sequence, TypeVar

from poundcake.announcement import Request
from poundcake.endpoint.group_commit import Acceptance, GroupCommit, NewRow, insert
from poundcake.endpoint.journal_entry import Entry, entry_of, request_of
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
# Bytes of bodies that are loaded together; what does not fit goes into the next batch.
BATCH_BYTES = 4 << 20
# Alerts of the requests that are looked at together.
PAGE_ALERTS = 10_000
# Requests that are pruned in one transaction, during which nothing is accepted.
_PRUNED_TOGETHER = 200
_VARIABLES = 500  # in one statement; SQLite before 3.32 takes 999

_LIGHT = ", ".join(COLUMNS[:6] + COLUMNS[11:])  # without what only the announcement needs
_WAITING = f"state IN ('{RequestState.ACCEPTED}', '{RequestState.ANNOUNCED}')"


@dataclass
class JournalCounts:
    """How many requests are in each state.

    stuck: of the accepted and announced ones, those that failed alone. oldest_seconds: how long
    the oldest of the others has waited to be recorded. overdue_seconds: how long a recorded
    request has been waiting for its next step to begin.
    """

    accepted: int
    announced: int
    recorded: int
    done: int
    stuck: int
    oldest_seconds: float
    overdue_seconds: float


class _Slot(NamedTuple):
    """What the counts are kept by."""

    state: RequestState
    stuck: bool


class Journal:
    """The journal of one endpoint. All methods may be called from any (green) thread.

    All of them raise JournalError if the file cannot be read or written. Waits are in seconds.
    """

    def __init__(self, path: str, damage: str = ""):
        """Open or create the journal; see JournalFile for arguments and errors."""
        self._file = JournalFile(path, damage)
        self._group_commit = GroupCommit(self._file, self._added)
        try:
            (row,) = self._file.run(fetch, "SELECT endpoint_id FROM journal")
            self.endpoint_id = str(row["endpoint_id"])
            # Changed only by functions that run on the connection, so by one at a time; it has all
            # keys from the start, so that others may read it meanwhile.
            self._counts: Counter[_Slot] = self._file.run(_count_all)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Wait for the commit under way and close the file."""
        self._file.close()

    def check(self) -> None:
        """Find out whether what could not be written can be now, without changing anything."""
        self._file.check()

    @property
    def problem(self) -> str:
        """Why the journal could not be written or read the last time, '' if it could."""
        return self._file.problem

    @property
    def is_damaged(self) -> bool:
        """Return True if the file itself is at fault, so that only opening it again helps."""
        return self._file.is_damaged

    @property
    def backlog(self) -> int:
        """How many requests wait to be recorded, without the stuck ones."""
        return (
            self._counts[_Slot(RequestState.ACCEPTED, False)]
            + self._counts[_Slot(RequestState.ANNOUNCED, False)]
        )

    # -- accepting

    def accept(self, request: Request, wanted_id: str, sha256: str, alerts: int) -> str:
        """Store a request durably and return its request_id.

        Requests that arrive at the same time share a commit.

        Args:
            wanted_id: The sender's own UUID, or ''. The same id with the same body is the same
                request; with another body it gets a new id.
            sha256: Of the body.
            alerts: How many the request brings.
        """
        return self._group_commit.accept(Acceptance(request, wanted_id, sha256, alerts))

    def _added(self, count: int) -> None:
        self._counts[_Slot(RequestState.ACCEPTED, False)] += count

    def import_recorded(self, request: Request, sha256: str, alerts: int) -> None:
        """Add a request that another process recorded, a replay, so that it is emitted here.

        One that the journal has already stays as it is.
        """
        if self.find(request.request_id) is None:
            row = NewRow(request.request_id, True, self._now(), RequestState.RECORDED)
            self._file.run(self._import, Acceptance(request, "", sha256, alerts), row)

    def _import(self, connection: sqlite3.Connection, acceptance: Acceptance, row: NewRow) -> None:
        in_transaction(connection, insert, acceptance, row)
        self._counts[_Slot(RequestState.RECORDED, False)] += 1

    # -- reading

    def find(self, request_id: str) -> Entry | None:
        """Return the entry of a request; None if it is unknown or pruned."""
        entries = self._entries("WHERE request_id = ?", request_id)
        return entries[0] if entries else None

    def unknown(self, request_ids: Sequence[str]) -> list[str]:
        """Return those of the requests that the journal does not have, in their order."""
        known: set[str] = set()
        for some in _chunks(request_ids):
            marks = ",".join("?" * len(some))
            statement = f"SELECT request_id FROM requests WHERE request_id IN ({marks})"
            known.update(row["request_id"] for row in self._file.run(fetch, statement, some))
        return [request_id for request_id in request_ids if request_id not in known]

    def fresh(self, limit: int) -> list[Entry]:
        """Return requests never announced, oldest first, with at most BATCH_BYTES of bodies."""
        where = f"WHERE state = '{RequestState.ACCEPTED}' AND due_at = 0 ORDER BY id LIMIT ?"
        return _within_bytes(self._entries(where, limit))

    def failed(self, limit: int) -> list[Entry]:
        """Return the requests of one failed batch that are due for a retry, oldest first."""
        where = (
            f"WHERE state = '{RequestState.ACCEPTED}' AND due_at > 0 AND due_at <= ?"
            " ORDER BY due_at, id LIMIT 1"
        )
        first = self._entries(where, self._now())
        if not first:
            return []
        limit = min(limit, first[0].batch_limit or limit)
        where = (
            f"WHERE batch_id = ? AND batch_limit = ? AND state = '{RequestState.ACCEPTED}'"
            " AND due_at > 0 AND due_at <= ? ORDER BY id LIMIT ?"
        )
        batch = self._entries(where, first[0].batch_id, first[0].batch_limit, self._now(), limit)
        return _within_bytes(batch)

    def announced(self) -> list[Entry]:
        """Return the requests that the broker has and the tracking database has not shown yet."""
        return self._entries(f"WHERE state = '{RequestState.ANNOUNCED}' ORDER BY id")

    def due(self, limit: int) -> list[Entry]:
        """Return recorded requests whose next step is due, with at most PAGE_ALERTS alerts."""
        where = (
            f"WHERE state = '{RequestState.RECORDED}' AND due_at <= ? ORDER BY due_at, id LIMIT ?"
        )
        entries = self._entries(where, self._now(), limit)
        return _within(entries, [entry.alert_count for entry in entries], PAGE_ALERTS)

    def load_requests(self, entries: Sequence[Entry]) -> list[Request]:
        """Return the requests of entries, with their bodies, in the order of the entries."""
        found: dict[int, Request] = {}
        for some in _chunks([entry.id for entry in entries]):
            statement = (
                "SELECT requests.*, bodies.body FROM requests JOIN bodies USING (id)"
                f" WHERE id IN ({','.join('?' * len(some))})"
            )
            for row in self._file.run(fetch, statement, some):
                found[row["id"]] = self._readable(request_of, row)
        return [found[entry.id] for entry in entries if entry.id in found]

    def counts(self) -> JournalCounts:
        """Return how many requests are in each state, and how long the oldest has waited."""
        states = Counter(dict.fromkeys(RequestState, 0))
        for slot, number in self._counts.items():
            states[slot.state] += number
        now = self._now()
        oldest = self._file.run(
            fetch,
            f"SELECT accepted_at FROM requests INDEXED BY ix_requests_waiting WHERE {_WAITING}"
            " AND stuck = 0 ORDER BY id LIMIT 1",
        )
        ((due_at,),) = self._file.run(
            fetch, f"SELECT min(due_at) FROM requests WHERE state = '{RequestState.RECORDED}'"
        )
        return JournalCounts(
            accepted=states[RequestState.ACCEPTED],
            announced=states[RequestState.ANNOUNCED],
            recorded=states[RequestState.RECORDED],
            done=states[RequestState.DONE],
            stuck=sum(number for slot, number in self._counts.items() if slot.stuck),
            oldest_seconds=max(0.0, now - oldest[0][0]) if oldest else 0.0,
            overdue_seconds=0.0 if due_at is None else max(0.0, now - due_at),
        )

    def stuck(self, limit: int) -> list[str]:
        """Return the request_ids of requests that failed alone while others were recorded."""
        statement = (
            f"SELECT request_id FROM requests WHERE {_WAITING} AND stuck = 1 ORDER BY id LIMIT ?"
        )
        return [row["request_id"] for row in self._file.run(fetch, statement, (limit,))]

    # -- moving on

    def mark_announced(self, ids: Sequence[int], batch_id: str) -> None:
        """Note that the broker has taken requests in a batch of that name."""
        now = self._now()
        self._update(
            ids,
            "state = ?, state_since = ?, due_at = ?, batch_id = ?",
            (RequestState.ANNOUNCED, now, now, batch_id),
        )

    def mark_missed(
        self, ids: Sequence[int], wait: float, batch_limit: int, is_stuck: bool = False
    ) -> None:
        """Note that requests were not recorded in time: announce them again after a wait.

        Args:
            batch_limit: How many of them may be announced together, 0 for any number.
            is_stuck: Each of them failed alone while others were recorded.
        """
        now = self._now()
        self._update(
            ids,
            "state = ?, state_since = ?, attempts = attempts + 1, due_at = ?, batch_limit = ?,"
            " stuck = ?",
            (RequestState.ACCEPTED, now, now + wait, batch_limit, int(is_stuck)),
        )

    def mark_recorded(self, ids: Sequence[int]) -> None:
        """Note that requests were seen in the tracking database."""
        now = self._now()
        self._update(
            ids,
            "state = ?, state_since = ?, attempts = 0, due_at = ?, batch_limit = 0, stuck = 0",
            (RequestState.RECORDED, now, now),
        )

    def mark_emitted(self, ids: Sequence[int], look_wait: float, emit_wait: float) -> None:
        """Note that the triggers of requests were published.

        Args:
            look_wait: Until it is looked whether they are explained.
            emit_wait: Until those that StackStorm lost may be emitted again.
        """
        now = self._now()
        self._update(
            ids,
            "attempts = attempts + 1, due_at = ?, emit_after = ?",
            (now + look_wait, now + emit_wait),
        )

    def postpone(self, ids: Sequence[int], wait: float) -> None:
        """Have the next step of requests wait, and change nothing else about them."""
        self._update(ids, "due_at = ?", (self._now() + wait,))

    def mark_done(self, ids: Sequence[int]) -> None:
        """Note that it is known what became of each alert of requests."""
        now = self._now()
        self._update(
            ids, "state = ?, state_since = ?, due_at = ?", (RequestState.DONE, now, now + KEEP_DONE)
        )

    def clear_waits(self) -> None:
        """End the waits of all requests that are to be announced again, except the stuck ones."""
        now = self._now()
        self._file.write(
            _execute,
            f"UPDATE requests SET due_at = ? WHERE state = '{RequestState.ACCEPTED}' AND due_at > ?"
            " AND stuck = 0",
            (now, now),
        )

    def prune(self) -> int:
        """Remove requests that have been done for a day, a few at a time.

        Returns:
            How many were removed; 0 means that none are left.
        """
        return self._file.run(self._prune, self._now())

    def _prune(self, connection: sqlite3.Connection, now: float) -> int:
        count = in_transaction(connection, _prune, now)
        self._counts[_Slot(RequestState.DONE, False)] -= count
        return count

    def _now(self) -> float:
        return self._file.clock.now()

    def _entries(self, where: str, *args: object) -> list[Entry]:
        rows = self._file.run(fetch, f"SELECT {_LIGHT} FROM requests {where}", args)
        to_monotonic = self._file.clock.to_monotonic
        return [self._readable(entry_of, row, to_monotonic) for row in rows]

    def _readable(self, convert: Callable[..., T], row: sqlite3.Row, *args: Any) -> T:
        try:
            return convert(row, *args)
        except (ValueError, TypeError, AttributeError) as error:
            # SQLite does not see what was overwritten inside a page.
            damage = sqlite3.DatabaseError(f"a request cannot be read: {error}")
            raise self._file.failed(damage) from None

    def _update(self, ids: Sequence[int], assignments: str, args: Sequence[object]) -> None:
        for some in _chunks(ids):
            self._file.run(self._update_some, some, assignments, args)

    def _update_some(
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
) -> tuple[Counter[_Slot], Counter[_Slot]]:
    """Change requests; return what to count before and after."""
    where = f"WHERE id IN ({','.join('?' * len(ids))})"
    values = [arg.value if isinstance(arg, RequestState) else arg for arg in args]
    before = _count(connection, where, ids)
    connection.execute(f"UPDATE requests SET {assignments} {where}", [*values, *ids])
    return before, _count(connection, where, ids)


def _count(connection: sqlite3.Connection, where: str, ids: Sequence[int]) -> Counter[_Slot]:
    statement = f"SELECT state, stuck, count(*) FROM requests {where} GROUP BY state, stuck"
    return Counter(
        {
            _Slot(RequestState(s), bool(stuck)): n
            for s, stuck, n in connection.execute(statement, ids)
        }
    )


def _count_all(connection: sqlite3.Connection) -> Counter[_Slot]:
    """Count all requests, by indexes alone: a row of the table has much more than its state."""
    counts = Counter({_Slot(state, stuck): 0 for state in RequestState for stuck in (False, True)})
    for state, number in connection.execute("SELECT state, count(*) FROM requests GROUP BY state"):
        counts[_Slot(RequestState(state), False)] = number
    stuck = f"SELECT state, count(*) FROM requests WHERE {_WAITING} AND stuck = 1 GROUP BY state"
    for state, number in connection.execute(stuck):
        counts[_Slot(RequestState(state), True)] = number
        counts[_Slot(RequestState(state), False)] -= number
    return counts


def _prune(connection: sqlite3.Connection, now: float) -> int:
    save_clock(connection, now)
    rows = fetch(
        connection,
        f"SELECT id, body_bytes FROM requests WHERE state = '{RequestState.DONE}' AND due_at <= ?"
        " ORDER BY due_at LIMIT ?",
        (now, _PRUNED_TOGETHER),
    )
    # A body of megabytes takes as long to remove as hundreds of small ones.
    ids = [row["id"] for row in _within(rows, [row["body_bytes"] for row in rows], BATCH_BYTES)]
    for table in ("bodies", "requests"):
        connection.executemany(f"DELETE FROM {table} WHERE id = ?", [(i,) for i in ids])
    return len(ids)


def _execute(connection: sqlite3.Connection, statement: str, args: Sequence[object]) -> None:
    connection.execute(statement, args)


def _within_bytes(entries: list[Entry]) -> list[Entry]:
    return _within(entries, [entry.body_bytes for entry in entries], BATCH_BYTES)


def _within(items: list[Any], sizes: Iterable[int], limit: int) -> list[Any]:
    """Return as many items, from the first on, as stay within a limit; one in any case."""
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if count and total > limit:
            return items[:count]
    return items


def _chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), _VARIABLES):
        yield values[start : start + _VARIABLES]
