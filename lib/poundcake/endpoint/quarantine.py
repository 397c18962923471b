"""Put a damaged journal into quarantine, and salvage the requests that plain SQL can still read.

journal.sqlite                  the damaged file
journal.sqlite.salvage          the new journal while it is filled
journal.sqlite.salvaged-TIME    the complete new journal; it replaces the old one even after a crash
journal.sqlite.corrupt-TIME     the damaged file in quarantine, with its -wal and -shm and a report
"""

from __future__ import annotations

import glob
import json
import os
import sqlite3
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Callable, Iterator

from poundcake.endpoint import journal_schema
from poundcake.trail.shared_files import create_file

_SIDE_FILES = ("-wal", "-shm", "-journal")
_DAY = 86400
_FIRST_WAIT = 60  # seconds
_MAX_ID = 1 << 62
_FOREIGN = ("no such ", "already exists", "unsupported file format")


@dataclass(frozen=True)
class Report:
    """The report on a damaged journal.

    Attributes:
        file: The path of the damaged file in quarantine.
        at: When it was put there, in seconds since the epoch.
        reason: What was wrong with it.
        saved: The number of requests that were salvaged.
        lost: The number of requests whose id was found but whose contents were unreadable.
        unread_bytes: An estimate of the bytes that could not be read.
    """

    file: str
    at: float
    reason: str
    saved: int
    lost: int
    unread_bytes: int

    def as_dict(self) -> dict[str, str | float]:
        """Return the report as JSON."""
        return asdict(self)

    def __str__(self) -> str:
        saved = "1 request was saved" if self.saved == 1 else f"{self.saved} requests were saved"
        return (
            f"the journal was damaged ({self.reason}) and is kept as {self.file}; {saved}, "
            f"{self.lost} {'is' if self.lost == 1 else 'are'} known to be lost, about "
            f"{self.unread_bytes} bytes could not be read: check the disk, then move the file away"
        )


def is_damage(error: BaseException) -> bool:
    """Return True if an error means that the file is damaged or is not a journal.

    A disk that is full or failing is not damage of the file.
    """
    # The driver raises exactly this class, not a subclass, only for SQLITE_CORRUPT and
    # SQLITE_NOTADB.
    if type(error) is sqlite3.DatabaseError:
        return True
    return type(error) is sqlite3.OperationalError and any(s in str(error) for s in _FOREIGN)


def has_orphaned_wal(path: str) -> bool:
    """Return True if a journal is empty or missing while its -wal file is not empty.

    SQLite would delete that -wal file as soon as the journal is opened.
    """
    return not _size(path) and bool(_size(path + "-wal"))


def strict_text(raw: bytes) -> str:
    """Decode a text column. Bytes that are not UTF-8 mean that the file is damaged."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise sqlite3.DatabaseError(f"a text cannot be read: {error}") from None


def seconds_until_allowed(path: str) -> float:
    """Return how many seconds to wait before another journal may be put into quarantine.

    The wait grows with the number of damaged journals of the last day. Otherwise a failing disk
    would soon be full of them.
    """
    ages = [time.time() - report.at for report in reports(path)]
    recent = [age for age in ages if 0 <= age < _DAY]
    return _FIRST_WAIT * 4.0 ** (len(recent) - 1) - min(recent) if recent else 0.0


def replace(path: str, clock: float, is_intact: Callable[[sqlite3.Row], bool], reason: str) -> None:
    """Replace a damaged journal with a new one that has every request that can still be read.

    Args:
        path: The path of the damaged journal.
        clock: The time of the journal's clock, in case the damaged file has lost it.
        is_intact: Returns True if a row of `journal_schema.select_one` is intact.
        reason: What is wrong, for the report.

    Raises:
        sqlite3.Error: The new journal cannot be written, for example because the disk is full.
            The old one is unchanged.
        OSError: The same as for sqlite3.Error.
    """
    new, now = path + ".salvage", time.time()
    when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    _remove(new)
    create_file(path)  # the file may be missing if only its -wal is left
    try:
        saved, lost, free = _fill(new, path, clock, is_intact)
        size = _size(path) + _size(path + "-wal")
        report = Report(
            file=f"{path}.corrupt-{when}",
            at=now,
            reason=reason,
            saved=saved,
            lost=lost,
            unread_bytes=max(0, size - free - _size(new)) if saved else size,
        )
        create_file(report.file + ".json")
        with open(report.file + ".json", "w", encoding="utf-8") as file:
            json.dump(report.as_dict(), file)
        os.rename(new, f"{path}.salvaged-{when}")
    finally:
        _remove(new)
    finish(path)


def finish(path: str) -> None:
    """Complete a replacement that was interrupted.

    If there is a complete new journal, move the damaged one away and put the new one in its place.
    """
    for salvaged in glob.glob(glob.escape(path) + ".salvaged-*"):
        corrupt = f"{path}.corrupt-{salvaged.rpartition('-')[2]}"
        # Move the file itself last. Otherwise, after a kill, the new journal would use the side
        # files of the old one.
        for suffix in (*_SIDE_FILES, ""):
            if os.path.exists(path + suffix):
                os.rename(path + suffix, corrupt + suffix)
        os.rename(salvaged, path)


def reports(path: str) -> list[Report]:
    """Return the reports on the journals that are still in quarantine, oldest first."""
    found = []
    for name in sorted(glob.glob(glob.escape(path) + ".corrupt-*Z")):
        try:
            with open(name + ".json", encoding="utf-8") as file:
                found.append(Report(**json.load(file)))
        except (OSError, ValueError, TypeError):
            pass  # an operator removed the report
    return found


def _fill(
    new: str, path: str, clock: float, is_intact: Callable[[sqlite3.Row], bool]
) -> tuple[int, int, int]:
    """Fill a new journal from a damaged one.

    Returns:
        The number of saved requests, of lost requests, and of unused bytes in the damaged file.
    """
    create_file(new)
    with closing(sqlite3.connect(new, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=OFF")  # nobody opens the file before it is complete
        db.execute("PRAGMA synchronous=FULL")
        db.execute("BEGIN")
        journal_schema.create(db, clock)
        if not _size(path):
            db.execute("COMMIT")
            return 0, 0, 0
        with closing(_open(path)) as old:
            version = _value(old, "PRAGMA user_version")
            ids: set[int] = set()
            saved = 0
            if journal_schema.is_known(version):
                ids = _ids(old, version)
                for row in _rows(old, version, ids):
                    if is_intact(row):
                        journal_schema.insert(db, tuple(row)[:-1], row["body"])
                        saved += 1
            _keep_identity(db, old)
            free = _value(old, "PRAGMA freelist_count") * _value(old, "PRAGMA page_size")
        db.execute("COMMIT")
    return saved, len(ids) - saved, free


def _open(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.text_factory = strict_text
    return connection


def _value(old: sqlite3.Connection, statement: str) -> int:
    """Return the single number that a statement selects, or 0 if it cannot be read."""
    rows = list(_readable(old, statement))
    return int(rows[0][0]) if rows else 0


def _ids(old: sqlite3.Connection, version: int) -> set[int]:
    """Return the ids of all requests that can still be found in the table or an index."""
    found: set[object] = set()
    for statement in journal_schema.select_ids(version):
        found.update(row[0] for row in _readable(old, statement))
    return {i for i in found if isinstance(i, int) and 0 < i < _MAX_ID}


def _rows(old: sqlite3.Connection, version: int, ids: set[int]) -> Iterator[sqlite3.Row]:
    for i in sorted(ids):
        yield from _readable(old, journal_schema.select_one(version), i)


def _keep_identity(db: sqlite3.Connection, old: sqlite3.Connection) -> None:
    """Copy the endpoint's id and the clock from the old journal to the new one."""
    for row in _readable(old, "SELECT endpoint_id, clock FROM journal"):
        db.execute("UPDATE journal SET endpoint_id = ?, clock = ?", tuple(row))


def _readable(old: sqlite3.Connection, statement: str, *args: object) -> Iterator[sqlite3.Row]:
    """Yield the rows of a statement up to the first damage."""
    try:
        yield from old.execute(statement, args)
    except sqlite3.Error as error:
        if not is_damage(error):
            raise


def _size(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0


def _remove(path: str) -> None:
    for suffix in (*_SIDE_FILES, ""):
        if os.path.exists(path + suffix):
            os.remove(path + suffix)
