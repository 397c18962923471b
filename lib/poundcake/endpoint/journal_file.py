"""Open, lock and upgrade the journal's SQLite file, and report its errors."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import sqlite3
import threading
import time
from typing import Any, Callable, Sequence, TypeVar

from poundcake.endpoint import journal_schema, native, quarantine
from poundcake.endpoint.journal_clock import MAX_WAIT, JournalClock
from poundcake.endpoint.journal_entry import is_intact
from poundcake.endpoint.journal_schema import VERSION, RequestState
from poundcake.errors import PoundCakeError
from poundcake.trail.shared_files import create_file, revoke_access_of_others

T = TypeVar("T")

# Bytes that SQLite may need to write a request, besides its body.
_WRITE_OVERHEAD = 65536


class JournalError(PoundCakeError):
    """The journal cannot be written or read at the moment; nothing was accepted."""


class JournalFile:
    """The file of one journal. All methods may be called from any (green) thread.

    Attributes:
        lock: Held while the connection is in use.
        clock: The journal's clock.
        problem: Why the last write or read failed, or '' if it succeeded.
        is_damaged: Whether the file is damaged. It is replaced when it is opened again.
    """

    def __init__(self, path: str, damage: str = ""):
        """Open or create the journal.

        Move a damaged file into quarantine, and continue with a new one that contains the requests
        that can still be read.

        Args:
            path: The path of the file; its folder must exist.
            damage: The damage that was found while the file was last open, or '' if there is none.

        Raises:
            JournalError: The folder cannot be used, another process has the journal open, another
                release wrote it, or too many damaged files went into quarantine recently.
        """
        self._path = path
        self.problem = ""
        self.is_damaged = False
        # Bytes that the last failed commit needed. With less free space, the disk counts as full.
        self._needed_bytes = 0
        # Green threads wait for this lock, so it must be a patched one.
        self.lock = threading.Lock()
        # Native threads wait for this one. If a green thread was killed, its native thread may
        # still be using the connection when the next one starts.
        self._connection_lock = native.native_lock()
        self._lock_file = self._open_lock_file()
        try:
            self._connection, self.clock = native.run_in_native_thread(_open, path, damage)
        except BaseException:
            os.close(self._lock_file)
            raise

    def _open_lock_file(self) -> int:
        try:
            lock_file = os.open(self._path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        except OSError as error:
            raise JournalError(
                f"cannot use {self._path}.lock: {error.strerror}; check state_dir and its owner"
            ) from None
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock_file)
            raise JournalError(
                f"{self._path}: another endpoint uses this state_dir; give each endpoint its own"
            ) from None
        return lock_file

    def close(self) -> None:
        """Wait for the commit in progress and close the file."""
        with self.lock:
            try:
                native.run_in_native_thread(self._close)
            finally:
                os.close(self._lock_file)

    def _close(self) -> None:
        with self._connection_lock:
            try:
                save_clock(self._connection, self.clock.now())
            except sqlite3.Error:
                pass  # the file is damaged or the disk is full
            self._connection.close()

    def run(self, work: Callable[..., T], *args: Any) -> T:
        """Return work(connection, *args). Raises JournalError."""
        with self.lock:
            try:
                return self.run_locked(work, *args)
            except sqlite3.Error as error:
                raise self.note_failure(error) from None

    def write(self, work: Callable[..., T], *args: Any) -> T:
        """Run work(connection, *args) in one transaction.

        Returns:
            What `work` returns.

        Raises:
            JournalError: The journal cannot be read or written.
        """
        result: T = self.run(in_transaction, work, *args)
        return result

    def run_locked(self, work: Callable[..., T], *args: Any) -> T:
        """Do the same as run(), for a caller that holds `lock`. Raises sqlite3.Error."""
        result: T = native.run_in_native_thread(self._run_exclusively, work, *args)
        return result

    def _run_exclusively(self, work: Callable[..., T], *args: Any) -> T:
        with self._connection_lock:
            return work(self._connection, *args)

    def check(self) -> None:
        """Check that the file can be written, without changing anything.

        Raises:
            JournalError: It cannot be written, or the disk still has no space for the last write
                that failed.
        """
        if shutil.disk_usage(os.path.dirname(self._path)).free < self._needed_bytes:
            raise JournalError(self.problem)
        self.run(_rewrite_version)
        self.note_success()

    def note_success(self) -> None:
        """Note that a write succeeded."""
        self.problem, self._needed_bytes = "", 0

    def note_failure(self, error: BaseException, body_bytes: int = 0) -> JournalError:
        """Note an error and return it as a JournalError.

        Args:
            error: The exception that was raised.
            body_bytes: The total size of the bodies in the failed commit.
        """
        self.problem = f"{self._path}: {str(error) or type(error).__name__}"
        self.is_damaged = self.is_damaged or quarantine.is_damage(error)
        if body_bytes:
            self._needed_bytes = _WRITE_OVERHEAD + 2 * body_bytes
        return JournalError(self.problem)


def in_transaction(connection: sqlite3.Connection, work: Callable[..., T], *args: Any) -> T:
    """Run work(connection, *args) in one transaction; return the result. Roll back on an error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work(connection, *args)
        connection.execute("COMMIT")
        return result
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def save_clock(connection: sqlite3.Connection, now: float) -> None:
    """Save the time of the journal's clock, so that it can continue from there after a restart."""
    connection.execute("UPDATE journal SET clock = ?", (now,))


def _open(path: str, damage: str) -> tuple[sqlite3.Connection, JournalClock]:
    try:
        for file in glob.glob(glob.escape(path) + "*"):
            revoke_access_of_others(file)
        quarantine.finish_replacement(path)
        if not damage and quarantine.has_orphaned_wal(path):
            damage = "it is empty, but its -wal file is not"
        if not damage:
            try:
                return _connect(path)
            except sqlite3.Error as error:
                if not quarantine.is_damage(error):
                    raise
                damage = str(error)
        if quarantine.seconds_until_replacement(path) > 0:
            raise JournalError(
                f"{path}: {damage}; the previous journal was damaged too, so this one is not "
                "replaced yet: check the disk"
            )
        quarantine.replace(path, time.time(), is_intact, damage)
        return _connect(path)
    except sqlite3.Error as error:
        raise JournalError(f"{path}: {error}") from None
    except OSError as error:
        raise JournalError(f"{error.filename or path}: {error.strerror}") from None


def _connect(path: str) -> tuple[sqlite3.Connection, JournalClock]:
    # SQLite would open a read-only file, and leave a read-only -shm file behind.
    if os.path.exists(path) and not os.access(path, os.W_OK):
        raise JournalError(f"cannot write {path}: permission denied (run: chown st2: {path})")
    create_file(path)
    db = sqlite3.connect(path, timeout=1, isolation_level=None, check_same_thread=False)
    try:
        db.row_factory = sqlite3.Row
        db.text_factory = quarantine.decode_text
        version = _check_version(db, path)
        if version == 0 and fetch(db, "SELECT 1 FROM sqlite_master LIMIT 1"):
            raise sqlite3.DatabaseError("it is another program's database")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        if version == 0:
            in_transaction(db, journal_schema.create, JournalClock().now())
        elif version < VERSION:
            in_transaction(db, journal_schema.upgrade, version)
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return db, _start_clock(db)
    except BaseException:
        db.close()
        raise


def _check_version(db: sqlite3.Connection, path: str) -> int:
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version != 0 and not journal_schema.is_known(version):
        raise JournalError(
            f"{path}: written by another release of the pack (version {version}, this one has "
            f"{VERSION}); install that release again until the journal has no waiting requests"
        )
    return version


def _start_clock(db: sqlite3.Connection) -> JournalClock:
    """Start the clock at the saved time, and cap all stored times that are too far ahead.

    Raises:
        sqlite3.Error: The file is damaged or cannot be written.
    """
    row = db.execute("SELECT endpoint_id, clock FROM journal").fetchone()
    if row is None or not isinstance(row["clock"], (int, float)):
        raise sqlite3.DatabaseError("the table journal has no readable row")
    clock = JournalClock(row["clock"])
    in_transaction(db, _cap_times, clock.now())
    return clock


def _cap_times(db: sqlite3.Connection, now: float) -> None:
    save_clock(db, now)
    open_states = "state IN ({})".format(
        ", ".join(
            f"'{state}'"
            for state in (RequestState.ACCEPTED, RequestState.ANNOUNCED, RequestState.RECORDED)
        )
    )
    for column, latest in (
        ("due_at", now + MAX_WAIT),
        ("emit_after", now + MAX_WAIT),
        ("state_since", now),
        ("accepted_at", now),
    ):
        db.execute(
            f"UPDATE requests SET {column} = ? WHERE {open_states} AND {column} > ?",
            (latest, latest),
        )


def _rewrite_version(connection: sqlite3.Connection) -> None:
    # This changes nothing, and fails if the file cannot be written.
    connection.execute(f"PRAGMA user_version={VERSION}")


def fetch(
    connection: sqlite3.Connection, statement: str, args: Sequence[object] = ()
) -> list[sqlite3.Row]:
    """Return all rows of a statement."""
    return connection.execute(statement, args).fetchall()
