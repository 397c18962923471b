"""Move a damaged journal into quarantine, and salvage the requests that can still be read.

journal.sqlite                  the damaged file
journal.sqlite.salvage          the new journal while it is being filled
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
_FOREIGN_FILE_ERRORS = ("no such ", "already exists", "unsupported file format")


@dataclass(frozen=True)
class Report:
    """The report on a damaged journal.

    Attributes:
        file: The path of the damaged file in quarantine.
        at: When it was moved there, in seconds since the epoch.
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
        """Return the report as a JSON object."""
        return asdict(self)

    def __str__(self) -> str:
        saved = "1 request was saved" if self.saved == 1 else f"{self.saved} requests were saved"
        return (
            f"the journal was damaged ({self.reason}) and is kept as {self.file}; {saved}, "
            f"{self.lost} {'is' if self.lost == 1 else 'are'} known to be lost, and about "
            f"{self.unread_bytes} bytes could not be read: check the disk, then move the file away"
        )


def is_damage(error: BaseException) -> bool:
    """Return True if an error means that the file is damaged or is not a journal.

    A full or failing disk does not count as damage to the file.
    """
    # The driver raises this class itself, not a subclass, only for SQLITE_CORRUPT and
    # SQLITE_NOTADB.
    if type(error) is sqlite3.DatabaseError:
        return True
    return type(error) is sqlite3.OperationalError and any(
        text in str(error) for text in _FOREIGN_FILE_ERRORS
    )


def has_orphaned_wal(path: str) -> bool:
    """Return True if a journal is empty or missing while its -wal file is not empty.

    SQLite would delete that -wal file as soon as the journal is opened.
    """
    return not _file_size(path) and bool(_file_size(path + "-wal"))


def decode_text(raw: bytes) -> str:
    """Decode a text column. Text that is not UTF-8 means that the file is damaged."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise sqlite3.DatabaseError(f"a text column cannot be decoded: {error}") from None


def seconds_until_replacement(path: str) -> float:
    """Return how many seconds to wait before another damaged journal may be replaced.

    The wait grows with the number of journals that were damaged in the last day. Otherwise, a
    failing disk would soon be full of damaged journals.
    """
    ages = [time.time() - report.at for report in read_reports(path)]
    recent_ages = [age for age in ages if 0 <= age < _DAY]
    return _FIRST_WAIT * 4.0 ** (len(recent_ages) - 1) - min(recent_ages) if recent_ages else 0.0


def replace(path: str, clock: float, is_intact: Callable[[sqlite3.Row], bool], reason: str) -> None:
    """Replace a damaged journal with a new one that contains the requests that can still be read.

    Args:
        path: The path of the damaged journal.
        clock: The time of the new journal's clock if the damaged file does not contain one.
        is_intact: Returns True if a row of `journal_schema.select_one` is intact.
        reason: What is wrong, for the report.

    Raises:
        sqlite3.Error: The new journal cannot be written, for example because the disk is full.
            The old one is unchanged.
        OSError: The same as for sqlite3.Error.
    """
    new_path, now = path + ".salvage", time.time()
    timestamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    _remove(new_path)
    create_file(path)  # it may be missing while its -wal file exists
    try:
        saved, lost, unused_bytes = _salvage(new_path, path, clock, is_intact)
        size = _file_size(path) + _file_size(path + "-wal")
        report = Report(
            file=f"{path}.corrupt-{timestamp}",
            at=now,
            reason=reason,
            saved=saved,
            lost=lost,
            unread_bytes=max(0, size - unused_bytes - _file_size(new_path)) if saved else size,
        )
        create_file(report.file + ".json")
        with open(report.file + ".json", "w", encoding="utf-8") as file:
            json.dump(report.as_dict(), file)
        os.rename(new_path, f"{path}.salvaged-{timestamp}")
    finally:
        _remove(new_path)
    finish_replacement(path)


def finish_replacement(path: str) -> None:
    """Complete a replacement that was interrupted.

    If there is a complete new journal, move the damaged one away and put the new one in its place.
    """
    for salvaged in glob.glob(glob.escape(path) + ".salvaged-*"):
        corrupt = f"{path}.corrupt-{salvaged.rpartition('-')[2]}"
        # Move the file itself last. Otherwise, if the process were killed in between, the new
        # journal would use the old side files.
        for suffix in (*_SIDE_FILES, ""):
            if os.path.exists(path + suffix):
                os.rename(path + suffix, corrupt + suffix)
        os.rename(salvaged, path)


def read_reports(path: str) -> list[Report]:
    """Return the reports on the journals that are still in quarantine, oldest first."""
    quarantine_reports = []
    for name in sorted(glob.glob(glob.escape(path) + ".corrupt-*Z")):
        try:
            with open(name + ".json", encoding="utf-8") as file:
                quarantine_reports.append(Report(**json.load(file)))
        except (OSError, ValueError, TypeError):
            pass  # an operator removed or edited the report
    return quarantine_reports


def _salvage(
    new_path: str, path: str, clock: float, is_intact: Callable[[sqlite3.Row], bool]
) -> tuple[int, int, int]:
    """Fill a new journal from a damaged one.

    Returns:
        The numbers of saved requests, lost requests, and unused bytes in the damaged file.
    """
    create_file(new_path)
    with closing(sqlite3.connect(new_path, isolation_level=None)) as new_db:
        # No other process opens the file before it is complete.
        new_db.execute("PRAGMA journal_mode=OFF")
        new_db.execute("PRAGMA synchronous=FULL")
        new_db.execute("BEGIN")
        journal_schema.create(new_db, clock)
        if not _file_size(path):
            new_db.execute("COMMIT")
            return 0, 0, 0
        with closing(_open(path)) as old_db:
            version = _read_number(old_db, "PRAGMA user_version")
            ids: set[int] = set()
            saved = 0
            if journal_schema.is_known(version):
                ids = _find_ids(old_db, version)
                for row in _read_rows(old_db, version, ids):
                    if is_intact(row):
                        journal_schema.insert(new_db, tuple(row)[:-1], row["body"])
                        saved += 1
            _copy_identity(new_db, old_db)
            page_size = _read_number(old_db, "PRAGMA page_size")
            unused_bytes = page_size * _read_number(old_db, "PRAGMA freelist_count")
        new_db.execute("COMMIT")
    return saved, len(ids) - saved, unused_bytes


def _open(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.text_factory = decode_text
    return connection


def _read_number(old_db: sqlite3.Connection, statement: str) -> int:
    """Return the single number that a statement selects, or 0 if it cannot be read."""
    rows = list(_read_undamaged(old_db, statement))
    return int(rows[0][0]) if rows else 0


def _find_ids(old_db: sqlite3.Connection, version: int) -> set[int]:
    """Return the ids that can still be read from the table or an index."""
    values: set[object] = set()
    for statement in journal_schema.select_ids(version):
        values.update(row[0] for row in _read_undamaged(old_db, statement))
    return {value for value in values if isinstance(value, int) and 0 < value < _MAX_ID}


def _read_rows(old_db: sqlite3.Connection, version: int, ids: set[int]) -> Iterator[sqlite3.Row]:
    for row_id in sorted(ids):
        yield from _read_undamaged(old_db, journal_schema.select_one(version), row_id)


def _copy_identity(new_db: sqlite3.Connection, old_db: sqlite3.Connection) -> None:
    """Copy the endpoint's id and the clock from the old journal to the new one."""
    for row in _read_undamaged(old_db, "SELECT endpoint_id, clock FROM journal"):
        new_db.execute("UPDATE journal SET endpoint_id = ?, clock = ?", tuple(row))


def _read_undamaged(
    old_db: sqlite3.Connection, statement: str, *args: object
) -> Iterator[sqlite3.Row]:
    """Yield the rows of a statement up to the first one that is damaged."""
    try:
        yield from old_db.execute(statement, args)
    except sqlite3.Error as error:
        if not is_damage(error):
            raise


def _file_size(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0


def _remove(path: str) -> None:
    for suffix in (*_SIDE_FILES, ""):
        if os.path.exists(path + suffix):
            os.remove(path + suffix)
