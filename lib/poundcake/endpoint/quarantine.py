"""Put a damaged journal into quarantine and go on with what plain SQL can still read of it.

journal.sqlite                  the damaged file
journal.sqlite.salvage          a new journal while it is filled
journal.sqlite.salvaged-TIME    the same, complete: from here on it counts, also after a kill
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
    """What became of a damaged journal.

    file: where it is now. at: when it was put there (seconds since the epoch). reason: what was
    wrong with it. saved, lost: requests that go on, and those that the damaged file names without
    giving their contents. unread_bytes: an estimate.
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
        return (
            f"the journal was damaged ({self.reason}) and is kept as {self.file}; "
            f"{self.saved} requests go on, {self.lost} are known to be lost, about "
            f"{self.unread_bytes} bytes could not be read: check the disk, then move the file away"
        )


def is_damage(error: BaseException) -> bool:
    """Return True if an error says that the file is damaged or is no journal.

    A disk that is full or fails is neither.
    """
    # The driver has this very class for SQLITE_CORRUPT and SQLITE_NOTADB alone.
    if type(error) is sqlite3.DatabaseError:
        return True
    return type(error) is sqlite3.OperationalError and any(s in str(error) for s in _FOREIGN)


def has_lost_its_file(path: str) -> bool:
    """Return True if a journal is empty or gone and its -wal is not.

    SQLite deletes such a -wal as soon as the journal is opened.
    """
    return not _size(path) and bool(_size(path + "-wal"))


def strict_text(raw: bytes) -> str:
    """Decode a text column; bytes that are not UTF-8 are damage."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise sqlite3.DatabaseError(f"a text cannot be read: {error}") from None


def seconds_until_allowed(path: str) -> float:
    """Return how long to wait before another journal may be put into quarantine.

    The wait grows with the number of those of the last day, or a disk that damages each of them
    would be filled.
    """
    ages = [time.time() - report.at for report in reports(path)]
    recent = [age for age in ages if 0 <= age < _DAY]
    return _FIRST_WAIT * 4.0 ** (len(recent) - 1) - min(recent) if recent else 0.0


def replace(path: str, clock: float, is_sound: Callable[[sqlite3.Row], bool], reason: str) -> None:
    """Replace a damaged journal by a new one with all that can be read of it.

    Args:
        clock: The time of the journal's clock if the damaged file does not tell.
        is_sound: Tells whether a request, read as `journal_schema.select_one` gives it, is as it
            was written.
        reason: What is wrong, for the report.

    Raises:
        sqlite3.Error: The new journal cannot be written, for example because the disk is full;
            the old one is unchanged.
        OSError: The same.
    """
    new, now = path + ".salvage", time.time()
    when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    _remove(new)
    create_file(path)  # only its -wal may be left
    try:
        saved, lost, free = _fill(new, path, clock, is_sound)
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

    If there is a complete new journal, move the damaged one away and the new one into its place.
    """
    for salvaged in glob.glob(glob.escape(path) + ".salvaged-*"):
        corrupt = f"{path}.corrupt-{salvaged.rpartition('-')[2]}"
        # The file itself last: the new one would take what is left beside it for its own.
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
            pass  # somebody removed its report and so knows of it
    return found


def _fill(
    new: str, path: str, clock: float, is_sound: Callable[[sqlite3.Row], bool]
) -> tuple[int, int, int]:
    """Fill a new journal from a damaged one.

    Returns:
        How many requests were saved, how many are lost, and how many bytes of the damaged file
        were not in use.
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
                    if is_sound(row):
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
    """Return the one number a statement gives; 0 if the damage hides it."""
    rows = list(_readable(old, statement))
    return int(rows[0][0]) if rows else 0


def _ids(old: sqlite3.Connection, version: int) -> set[int]:
    """Return the ids of all requests that the table or an index still names."""
    found: set[object] = set()
    for statement in journal_schema.select_ids(version):
        found.update(row[0] for row in _readable(old, statement))
    return {i for i in found if isinstance(i, int) and 0 < i < _MAX_ID}


def _rows(old: sqlite3.Connection, version: int, ids: set[int]) -> Iterator[sqlite3.Row]:
    for i in sorted(ids):
        yield from _readable(old, journal_schema.select_one(version), i)


def _keep_identity(db: sqlite3.Connection, old: sqlite3.Connection) -> None:
    """Give the new journal the endpoint's id and the clock of the old one."""
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
