"""What was accepted and how far it has come: a local SQLite file, written before the answer.

    accepted -> announced -> recorded -> done, then pruned after a day

Only what is seen at the far end moves an entry on, so a loss anywhere between heals by itself:
`announced` says that the broker has the request, `recorded` that the tracking database has it,
`done` that StackStorm has told what became of each of its alerts.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Callable, Sequence

from poundcake.announcement import Request
from poundcake.endpoint import native, quarantine
from poundcake.errors import PoundCakeError
from poundcake.timestamps import format_timestamp, parse_timestamp

VERSION = 1
ACCEPTED, ANNOUNCED, RECORDED, DONE = "accepted", "announced", "recorded", "done"
KEEP_DONE = timedelta(days=1)
# Bytes of bodies that are announced together; what does not fit goes into the next list.
LIST_BYTES = 4 << 20
# The list_limit of a request that failed alone while others were recorded.
STUCK = -1

_TABLES = f"""
CREATE TABLE entries (
    id INTEGER PRIMARY KEY,
    request_id TEXT NOT NULL UNIQUE,
    received_at TEXT NOT NULL,
    client_host TEXT NOT NULL,
    client_request_id TEXT NOT NULL,
    method TEXT NOT NULL,
    path TEXT NOT NULL,
    headers TEXT NOT NULL,
    body BLOB NOT NULL,
    sha256 TEXT NOT NULL,
    alerts INTEGER NOT NULL,
    state TEXT NOT NULL,
    state_at REAL NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    next_at REAL NOT NULL DEFAULT 0,
    list_id TEXT NOT NULL DEFAULT '',
    list_limit INTEGER NOT NULL DEFAULT 0,
    emit_at REAL NOT NULL DEFAULT 0
);
CREATE INDEX ix_entries_state ON entries (state, next_at, id);
CREATE INDEX ix_entries_stuck ON entries (state) WHERE list_limit < 0;
PRAGMA user_version = {VERSION};
"""

# All that an entry has, but for its body.
_LIGHT = (
    "id, request_id, received_at, client_host, client_request_id, method, path, headers,"
    " x'' AS body, sha256, alerts, state, state_at, tries, next_at, list_id, list_limit, emit_at"
)


class JournalError(PoundCakeError):
    """The journal cannot be written or read now; nothing was accepted."""


@dataclass(frozen=True)
class Entry:
    """A request in the journal.

    tries: how often its present step was tried in vain. next_at: when it is tried again (seconds
    since the epoch). list_limit: how many may be announced together with it, 0 for any number,
    STUCK for one that goes alone.
    emit_at: when its alerts may be emitted again, 0 while they never were.
    """

    id: int
    request: Request
    sha256: str
    alerts: int
    state: str
    state_at: float
    tries: int
    next_at: float
    list_id: str
    list_limit: int
    emit_at: float


class _Acceptance:
    def __init__(self, request: Request, wanted_id: str, sha256: str, alerts: int):
        self.request = request
        self.wanted_id = wanted_id
        self.sha256 = sha256
        self.alerts = alerts
        self.request_id = ""
        self.error: Exception | None = None


class Journal:
    """The journal of one endpoint. All methods may be called from any (green) thread.

    damage: what an earlier one found wrong with the file, '' for nothing. Where that or opening it
    shows that it is damaged, it is set aside, and what can be read of it goes on in a new one.

    Raises JournalError at opening where the folder cannot be used, another process has it, another
    release wrote it, or too many were set aside of late.
    """

    def __init__(self, path: str, damage: str = ""):
        self._path = path
        # Why it could not be written or read the last time, '' where it could; and whether it is
        # its file that is damaged, so that only opening it again helps.
        self.problem = ""
        self.damaged = False
        # Bytes that the commit wanted that failed last: a disk with less is full for others, too.
        self._wanted = 0
        self._pending: list[_Acceptance] = []
        # Made after the process was patched, so that green threads wait for it greenly; what runs
        # under it in a native thread waits for nobody.
        self._lock = threading.Lock()
        self._pending_lock = threading.Lock()
        self._backlog = 0
        self._lock_file = self._lock_folder()
        try:
            native.run_in_native_thread(self._open, damage)
        except BaseException:
            os.close(self._lock_file)
            raise

    def _lock_folder(self) -> int:
        try:
            file = os.open(self._path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        except OSError as error:
            raise JournalError(f"{self._path}.lock: {error.strerror}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            raise JournalError(
                f"{self._path}: another endpoint uses this state_dir; give each its own"
            ) from None
        return file

    def _open(self, damage: str) -> None:
        try:
            quarantine.finish(self._path)
            if not damage and quarantine.is_headless(self._path):
                damage = "it is empty, and its -wal is not"
            if not damage:
                try:
                    self._connect()
                    return
                except sqlite3.Error as error:
                    if not quarantine.is_damage(error):
                        raise
                    damage = str(error)
            if quarantine.wait(self._path) > 0:
                raise JournalError(
                    f"{self._path}: {damage}; the one before it was damaged as well, so it stays "
                    "as it is for a while: look at the disk"
                )
            quarantine.replace(self._path, _TABLES, _is_sound, damage)
            self._connect()
        except sqlite3.Error as error:
            raise JournalError(f"{self._path}: {error}") from None
        except OSError as error:
            raise JournalError(f"{error.filename or self._path}: {error.strerror}") from None

    def _connect(self) -> None:
        # SQLite would open it to be read, and leave a -shm that may not be written, either.
        if os.path.exists(self._path) and not os.access(self._path, os.W_OK):
            raise JournalError(f"{self._path}: it may not be written")
        db = sqlite3.connect(self._path, timeout=1, isolation_level=None, check_same_thread=False)
        try:
            db.row_factory = sqlite3.Row
            db.text_factory = quarantine.text
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, VERSION):
                raise JournalError(
                    f"{self._path}: written by another release of the pack (version {version}, "
                    f"this one has {VERSION}); install that release again to work it off"
                )
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            if version == 0:
                db.executescript(f"BEGIN; {_TABLES} COMMIT;")
            db.execute(f"SELECT {_LIGHT} FROM entries LIMIT 0")
            db.execute(f"PRAGMA user_version={VERSION}")  # whether it can be written
            self._db = db
            self._backlog = self._count_backlog()
        except BaseException:
            db.close()
            raise

    def close(self) -> None:
        """Waits for the commit under way and closes the file."""
        with self._lock:
            try:
                self._db.close()
            finally:
                os.close(self._lock_file)

    def check(self) -> None:
        """Finds out whether what could not be written can be now, without changing anything. Raises
        JournalError where not.
        """
        if shutil.disk_usage(os.path.dirname(self._path)).free < self._wanted:
            raise JournalError(self.problem)
        self._call(self._write, f"PRAGMA user_version={VERSION}", ())
        self.problem, self._wanted = "", 0

    @property
    def backlog(self) -> int:
        """How many requests wait to be recorded, those that are stuck left out."""
        return self._backlog

    def accept(self, request: Request, wanted_id: str, sha256: str, alerts: int) -> str:
        """Puts a request on record and returns its request_id, once that is on the disk.

        wanted_id: the sender's own UUID, or ''. The same id with the same body is the same
        request; with another body it gets a new id. alerts: how many the request brings.
        Requests that come at the same time share a commit. Raises JournalError.
        """
        if self.damaged:
            raise JournalError(self.problem)
        acceptance = _Acceptance(request, wanted_id, sha256, alerts)
        with self._pending_lock:
            self._pending.append(acceptance)
        with self._lock:
            # Whoever gets the lock commits for all that wait; they find their answer there.
            if not acceptance.request_id and acceptance.error is None:
                with self._pending_lock:
                    batch, self._pending = self._pending, []
                try:
                    native.run_in_native_thread(self._commit, batch)
                    self.problem, self._wanted = "", 0
                # Whatever it is, none of them was accepted, and each has to hear of it.
                except Exception as error:
                    failure = self._failed(error)
                    self._wanted = 65536 + 2 * sum(len(a.request.body) for a in batch)
                    for waiting in batch:
                        waiting.error = failure
        if acceptance.error:
            raise acceptance.error
        return acceptance.request_id

    def _commit(self, batch: Sequence[_Acceptance]) -> None:
        ids = []
        added = 0
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for acceptance in batch:
                request_id, is_new = self._id_for(acceptance)
                ids.append(request_id)
                if is_new:
                    self._insert(acceptance, request_id)
                    added += 1
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        for acceptance, request_id in zip(batch, ids):
            acceptance.request_id = request_id
        self._backlog += added

    def _id_for(self, acceptance: _Acceptance) -> Any:
        if not acceptance.wanted_id:
            return str(uuid.uuid4()), True
        row = self._db.execute(
            "SELECT sha256 FROM entries WHERE request_id = ?", (acceptance.wanted_id,)
        ).fetchone()
        if row is None:
            return acceptance.wanted_id, True
        if row["sha256"] == acceptance.sha256:
            return acceptance.wanted_id, False
        # Seen with another body before: the same body again, sent by the same proxy with its
        # fixed header, is a request of its own each time.
        return str(uuid.uuid4()), True

    def adopt(self, request: Request, sha256: str, alerts: int) -> None:
        """Takes in a request that was recorded elsewhere, a replay, and has yet to be emitted.

        One that is known stays as it is. Raises JournalError.
        """
        if self.find(request.request_id) is None:
            acceptance = _Acceptance(request, "", sha256, alerts)
            self._call(self._insert, acceptance, request.request_id, RECORDED)

    def _insert(self, acceptance: _Acceptance, request_id: str, state: str = ACCEPTED) -> None:
        request = acceptance.request
        client_id = request.client_request_id or acceptance.wanted_id
        self._db.execute(
            "INSERT INTO entries (request_id, received_at, client_host, client_request_id, method,"
            " path, headers, body, sha256, alerts, state, state_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                request_id,
                format_timestamp(request.received_at),
                request.client_host,
                "" if client_id == request_id else client_id,
                request.method,
                request.path,
                json.dumps(request.headers),
                request.body.encode(),
                acceptance.sha256,
                acceptance.alerts,
                state,
                time.time(),
            ),
        )

    def find(self, request_id: str) -> Entry | None:
        """The entry of a request; None where it is unknown or pruned."""
        rows = self._select("WHERE request_id = ?", request_id)
        return rows[0] if rows else None

    def missing(self, request_ids: Sequence[str]) -> list[str]:
        """Those of the requests that it does not have, in their order. Raises JournalError."""
        known: set[str] = set()
        for start in range(0, len(request_ids), 500):
            some = request_ids[start : start + 500]
            marks = ",".join("?" * len(some))
            statement = f"SELECT request_id FROM entries WHERE request_id IN ({marks})"
            known.update(row["request_id"] for row in self._call(self._fetch, statement, some))
        return [request_id for request_id in request_ids if request_id not in known]

    def fresh(self, limit: int) -> list[Entry]:
        """Requests never announced, oldest first."""
        return self._list("WHERE state = ? AND tries = 0 ORDER BY id LIMIT ?", ACCEPTED, limit)

    def failed(self, now: float, limit: int) -> list[Entry]:
        """Requests whose announcement was not recorded, and whose wait is over: those of one
        list, oldest first.
        """
        head = self._light(
            "WHERE state = ? AND tries > 0 AND next_at <= ? ORDER BY next_at, id LIMIT 1",
            ACCEPTED,
            now,
        )
        if not head:
            return []
        limit = min(limit, abs(head[0].list_limit) or limit)
        return self._list(
            "WHERE state = ? AND list_id = ? ORDER BY id LIMIT ?",
            ACCEPTED,
            head[0].list_id,
            limit,
        )

    def announced(self) -> list[Entry]:
        """Requests that the broker has and the tracking database has not yet shown, without their
        bodies.
        """
        return self._light("WHERE state = ? ORDER BY id", ANNOUNCED)

    def recorded(self, now: float, limit: int) -> list[Entry]:
        """Recorded requests whose next look is due, without their bodies."""
        return self._light(
            "WHERE state = ? AND next_at <= ? ORDER BY next_at, id LIMIT ?", RECORDED, now, limit
        )

    def counts(self) -> dict[str, Any]:
        """{state: how many}, with `stuck` for those that failed alone, and `oldest`: when the
        first of the others that are not recorded was accepted (seconds since the epoch), None
        where there is none.
        """
        rows = self._call(
            self._fetch, "SELECT state, count(*) AS n FROM entries GROUP BY state", ()
        )
        found: dict[str, Any] = {r["state"]: r["n"] for r in rows}
        alone = "FROM entries WHERE state IN (:a, :b) AND list_limit < 0"
        states = {"a": ACCEPTED, "b": ANNOUNCED}
        found["stuck"] = self._call(self._fetch, f"SELECT count(*) AS n {alone}", states)[0]["n"]
        # From the indexes alone: reading the rows of a long backlog would hold up who is to accept.
        oldest = self._call(
            self._fetch,
            "SELECT received_at FROM entries WHERE id = (SELECT min(id) FROM entries"
            f" WHERE state IN (:a, :b) AND id NOT IN (SELECT id {alone}))",
            states,
        )
        received_at = parse_timestamp(oldest[0]["received_at"]) if oldest else None
        found["oldest"] = received_at.timestamp() if received_at else None
        return found

    def stuck(self, limit: int) -> list[str]:
        """request_ids of requests that failed alone while others were recorded."""
        rows = self._call(
            self._fetch,
            "SELECT request_id FROM entries WHERE state IN (?, ?) AND list_limit < 0"
            " ORDER BY id LIMIT ?",
            (ACCEPTED, ANNOUNCED, limit),
        )
        return [r["request_id"] for r in rows]

    def mark_announced(self, ids: Sequence[int], list_id: str) -> None:
        """The broker has taken them, as the list of that name."""
        self._update(ids, "state = ?, state_at = ?, list_id = ?", ANNOUNCED, time.time(), list_id)

    def mark_missed(self, ids: Sequence[int], next_at: float, list_limit: int) -> None:
        """They were not recorded in time: to be announced again, at most so many together."""
        self._update(
            ids,
            "state = ?, state_at = ?, tries = tries + 1, next_at = ?, list_limit = ?",
            ACCEPTED,
            time.time(),
            next_at,
            list_limit,
        )

    def mark_recorded(self, ids: Sequence[int]) -> None:
        """They were seen in the tracking database."""
        self._update(
            ids,
            "state = ?, state_at = ?, tries = 0, next_at = 0, list_limit = 0",
            RECORDED,
            time.time(),
        )

    def mark_emitted(self, ids: Sequence[int], next_at: float, emit_at: float) -> None:
        """Their triggers were published: look again at next_at, emit again from emit_at."""
        self._update(ids, "tries = tries + 1, next_at = ?, emit_at = ?", next_at, emit_at)

    def look_again(self, ids: Sequence[int], next_at: float) -> None:
        """Nothing has changed for them; look again then."""
        self._update(ids, "next_at = ?", next_at)

    def mark_done(self, ids: Sequence[int]) -> None:
        """It is known what became of each of their alerts."""
        self._update(ids, "state = ?, state_at = ?", DONE, time.time())

    def clear_waits(self) -> None:
        """What waits to be announced again need not wait any longer, but for what is stuck."""
        self._call(
            self._write,
            "UPDATE entries SET next_at = 0 WHERE state = ? AND tries > 0 AND list_limit >= 0",
            (ACCEPTED,),
        )

    def prune(self) -> int:
        """Removes what has been done for a day. Returns how many."""
        before = time.time() - KEEP_DONE.total_seconds()
        return self._call(
            self._write,
            "DELETE FROM entries WHERE id IN"
            " (SELECT id FROM entries WHERE state = ? AND state_at < ? LIMIT 1000)",
            (DONE, before),
        )

    def _call(self, function: Callable, *args: Any) -> Any:
        with self._lock:
            try:
                return native.run_in_native_thread(function, *args)
            except sqlite3.Error as error:
                raise self._failed(error) from None

    def _failed(self, error: Exception) -> JournalError:
        self.problem = f"{self._path}: {error}"
        self.damaged = self.damaged or quarantine.is_damage(error)
        return JournalError(self.problem)

    def _light(self, where: str, *args: Any) -> list[Entry]:
        return self._entries(f"SELECT {_LIGHT} FROM entries {where}", args)

    def _list(self, where: str, *args: Any) -> list[Entry]:
        sizes = self._call(self._fetch, f"SELECT id, length(body) AS n FROM entries {where}", args)
        ids: list[int] = []
        left = LIST_BYTES
        for row in sizes:
            left -= row["n"]
            if ids and left < 0:
                break
            ids.append(row["id"])
        return self._select(f"WHERE id IN ({','.join('?' * len(ids))}) ORDER BY id", *ids)

    def _select(self, where: str, *args: Any) -> list[Entry]:
        return self._entries(f"SELECT * FROM entries {where}", args)

    def _entries(self, statement: str, args: Sequence[Any]) -> list[Entry]:
        rows = self._call(self._fetch, statement, args)
        try:
            return [_entry(row) for row in rows]
        except (ValueError, TypeError, AttributeError) as error:
            # SQLite does not see what was overwritten inside of a page.
            damage = sqlite3.DatabaseError(f"an entry cannot be read: {error}")
            raise self._failed(damage) from None

    def _fetch(self, statement: str, args: Any) -> list[sqlite3.Row]:
        return self._db.execute(statement, args).fetchall()

    def _write(self, statement: str, args: Sequence[Any]) -> int:
        count = self._db.execute(statement, args).rowcount
        self._backlog = self._count_backlog()
        return count

    def _update(self, ids: Sequence[int], assignments: str, *args: Any) -> None:
        if ids:
            self._call(self._update_rows, ids, assignments, args)

    def _update_rows(self, ids: Sequence[int], assignments: str, args: Sequence[Any]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany(
                f"UPDATE entries SET {assignments} WHERE id = ?", [(*args, i) for i in ids]
            )
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._backlog = self._count_backlog()

    def _count_backlog(self) -> int:
        waiting, alone = self._db.execute(
            "SELECT (SELECT count(*) FROM entries WHERE state IN (:a, :b)),"
            " (SELECT count(*) FROM entries WHERE state IN (:a, :b) AND list_limit < 0)",
            {"a": ACCEPTED, "b": ANNOUNCED},
        ).fetchone()
        return waiting - alone


def _entry(row: sqlite3.Row) -> Entry:
    return Entry(
        id=row["id"],
        request=Request(
            request_id=row["request_id"],
            received_at=parse_timestamp(row["received_at"]),
            client_host=row["client_host"],
            client_request_id=row["client_request_id"],
            method=row["method"],
            path=row["path"],
            headers=json.loads(row["headers"]),
            body=row["body"].decode(),
        ),
        sha256=row["sha256"],
        alerts=row["alerts"],
        state=row["state"],
        state_at=row["state_at"],
        tries=row["tries"],
        next_at=row["next_at"],
        list_id=row["list_id"],
        list_limit=row["list_limit"],
        emit_at=row["emit_at"],
    )


def _is_sound(row: sqlite3.Row) -> bool:
    """Whether an entry of a damaged file is as it was written."""
    try:
        entry = _entry(row)
        sha256 = hashlib.sha256(row["body"]).hexdigest()
        return sha256 == entry.sha256 and entry.state in (ACCEPTED, ANNOUNCED, RECORDED, DONE)
    except (ValueError, TypeError, AttributeError, IndexError):
        return False
