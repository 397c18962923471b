"""What can still be read of a damaged journal goes on in a new one; the old file is set aside.

journal.sqlite                  the damaged one
journal.sqlite.salvage          a new one, while it is filled
journal.sqlite.salvaged-TIME    filled: from here on it counts, whoever is killed
journal.sqlite.corrupt-TIME     the damaged one, set aside, with its -wal and -shm and a .json
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import sqlite3
import time
from contextlib import closing
from typing import Any, Callable, Iterator

_SIDE_FILES = ("-wal", "-shm", "-journal")
_DAY = 86400
_FIRST_WAIT = 60  # seconds
# Around each id that is still named, others are looked for that are not.
_REACH = 2000
_PAGE = 4096
# Each names all entries, in an order of its own; a scan ends at the first page that is damaged.
_SCANS = (
    "SELECT id FROM entries NOT INDEXED ORDER BY id {0}",
    "SELECT id FROM entries INDEXED BY sqlite_autoindex_entries_1 ORDER BY request_id {0}",
    "SELECT id FROM entries INDEXED BY ix_entries_state ORDER BY state {0}, next_at {0}, id {0}",
)
_FOREIGN = ("no such ", "already exists", "unsupported file format")


def is_damage(error: BaseException) -> bool:
    """Whether the file is damaged or no journal; a disk that is full or fails is neither."""
    # The driver has this very class for SQLITE_CORRUPT and SQLITE_NOTADB alone.
    if type(error) is sqlite3.DatabaseError:
        return True
    return type(error) is sqlite3.OperationalError and any(s in str(error) for s in _FOREIGN)


def is_headless(path: str) -> bool:
    """Whether the file is empty or gone and its -wal is not, which SQLite would then delete."""
    return not _size(path) and bool(_size(path + "-wal"))


def text(raw: bytes) -> str:
    """A text_factory for which bytes that are no text are damage."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise sqlite3.DatabaseError(f"a text cannot be read: {error}") from None


def wait(path: str) -> float:
    """Seconds until a journal may be set aside again: the more of the last day there are, the
    longer, or a disk that damages each would be filled with them.
    """
    ages = [time.time() - report["at"] for report in reports(path)]
    recent = [age for age in ages if 0 <= age < _DAY]
    return _FIRST_WAIT * 4 ** (len(recent) - 1) - min(recent) if recent else 0.0


def replace(path: str, tables: str, is_sound: Callable[[sqlite3.Row], bool], reason: str) -> None:
    """Puts a new journal, with all that can be read of the damaged one, in that one's place.

    tables: the SQL that makes the new one's. is_sound(row): whether an entry is as it was
    written. reason: what is wrong, for the report. Raises sqlite3.Error and OSError, a full disk
    for one; the journal is then as it was.
    """
    new, copy, now = path + ".salvage", path + ".copy", time.time()
    when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    _remove(new, copy)
    open(path, "ab").close()  # where only a -wal is left
    try:
        with closing(sqlite3.connect(new, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode=OFF")  # nobody sees the file before it is whole
            db.execute("PRAGMA synchronous=FULL")
            db.executescript(f"BEGIN; {tables} COMMIT;")
            with closing(_reader(path, new, copy)) as old:
                named = _named(old)
                columns = len(db.execute("SELECT * FROM entries").description)
                db.execute("BEGIN")
                db.executemany(
                    f"INSERT OR IGNORE INTO entries VALUES ({', '.join('?' * columns)})",
                    (tuple(row) for row in _rows(old, named) if is_sound(row)),
                )
                db.execute("COMMIT")
                free = old.execute("PRAGMA freelist_count").fetchone()[0] * _PAGE
            saved = {row[0] for row in db.execute("SELECT id FROM entries")}
        size = _size(path) + _size(path + "-wal")
        report = {
            "file": f"{path}.corrupt-{when}",
            "at": now,
            "reason": reason,
            "saved": len(saved),
            "lost": len(named - saved),
            "unread_bytes": max(0, size - free - _size(new)) if saved else size,
        }
        with open(report["file"] + ".json", "w", encoding="utf-8") as file:
            json.dump(report, file)
        os.rename(new, f"{path}.salvaged-{when}")
    finally:
        _remove(new, copy)
    finish(path)


def finish(path: str) -> None:
    """Where a new journal is filled: sets the damaged one aside and puts it in its place."""
    for salvaged in glob.glob(glob.escape(path) + ".salvaged-*"):
        aside = f"{path}.corrupt-{salvaged.rpartition('-')[2]}"
        # The file itself last: the new one would take what is left beside it for its own.
        for suffix in (*_SIDE_FILES, ""):
            if os.path.exists(path + suffix):
                os.rename(path + suffix, aside + suffix)
        os.rename(salvaged, path)


def reports(path: str) -> list[dict[str, Any]]:
    """What became of the journals that were set aside and are still there, oldest first.

    [{file, at, reason, saved, lost, unread_bytes}]: at is seconds since the epoch; saved and lost
    are entries, lost those that the damaged file still names; unread_bytes is an estimate.
    """
    found = []
    for name in sorted(glob.glob(glob.escape(path) + ".corrupt-*Z")):
        try:
            with open(name + ".json", encoding="utf-8") as file:
                found.append(json.load(file))
        except (OSError, ValueError):
            pass  # its report was taken away; whoever did so knows of it
    return found


def sentence(report: dict[str, Any]) -> str:
    """A report for people."""
    return (
        f"the journal was damaged ({report['reason']}) and is set aside as {report['file']}; "
        f"{report['saved']} entries go on, {report['lost']} are known to be lost, about "
        f"{report['unread_bytes']} bytes could not be read: look at the disk, then move it away"
    )


def _reader(path: str, new: str, copy: str) -> sqlite3.Connection:
    """Reads the damaged journal. Without a first page nothing is read of the others: it has that
    of the new one, whose tables begin at the same pages, in a copy then.
    """
    if _size(path):
        old = _connect(path)
        try:
            old.execute("SELECT id FROM entries LIMIT 0")
            return old
        except sqlite3.Error as error:
            if "no such" in str(error):
                return old
            old.close()
            if not is_damage(error):
                raise
    for suffix in ("", "-wal"):
        if os.path.exists(path + suffix):
            shutil.copyfile(path + suffix, copy + suffix)
    with open(new, "rb") as file:
        first = bytearray(file.read(_PAGE))
    first[18:20] = b"\2\2"  # it has a -wal (https://www.sqlite.org/fileformat.html)
    first[24:40] = bytes(16)  # its size is that of the file, and no page is free
    with open(copy, "r+b" if os.path.exists(copy) else "wb") as file:
        file.write(first)
    return _connect(copy)


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.text_factory = text
    return connection


def _named(old: sqlite3.Connection) -> set[int]:
    """The ids of all entries that the table or an index still names."""
    found: set[int] = set()
    for scan in _SCANS:
        for order in ("ASC", "DESC"):
            try:
                found.update(row["id"] for row in old.execute(scan.format(order)))
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
    return {i for i in found if isinstance(i, int) and 0 < i < 1 << 62}


def _rows(old: sqlite3.Connection, named: set[int]) -> Iterator[sqlite3.Row]:
    """All entries that can be read: in a row up to what is damaged, then one by one."""
    seen: set[int] = set()
    try:
        for row in old.execute("SELECT * FROM entries NOT INDEXED ORDER BY id"):
            seen.add(row["id"])
            yield row
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
    next_id = 0
    for i in sorted(named or {1}):
        for one in range(max(next_id, i - _REACH), i + _REACH):
            if one not in seen:
                try:
                    yield from old.execute("SELECT * FROM entries WHERE id = ?", (one,))
                except sqlite3.Error as error:
                    if not is_damage(error):
                        raise
        next_id = i + _REACH


def _size(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0


def _remove(*paths: str) -> None:
    for path in paths:
        for suffix in (*_SIDE_FILES, ""):
            if os.path.exists(path + suffix):
                os.remove(path + suffix)
