"""Refuse to use a database whose trail was moved to another one or is not completely copied.

Only one database may be in use. If two were in use, an alert that one of them knows would be new to
the other, and would be remediated again. `poundcake.migrate` marks both databases in poundcake_meta
while it copies the trail. Every write transaction reads the marks, and so does every process before
it uses a database.
"""

from __future__ import annotations

from typing import Iterable, Mapping

from sqlalchemy import delete, select
from sqlalchemy.engine import Connection

from poundcake.trail.errors import DatabaseError
from poundcake.trail.schema import cut, meta

MOVED_TO = "moved_to"
"""The mark of a database whose trail was moved: the other database's id, a space, and its URL."""
COPYING_FROM = "copying_from"
"""The mark of a database with an incomplete copy: the source's id, a space, and its URL."""
_MARKS = (MOVED_TO, COPYING_FROM)
# Every writer locks this row shared, and the copy locks it exclusively to lock out writers. The row
# exists in every database that has tables. Nothing else locks it for long. A scan of several rows
# would also lock rows that writers lock exclusively, and they could deadlock.
_LOCK = select(meta.c.value).where(meta.c.name == "schema")
_LOCK_SHARED = _LOCK.with_for_update(read=True)


def hold_reason(rows: Mapping[str, str]) -> str:
    """Return why a database must not be used, or '' if it may be.

    Args:
        rows: The rows of its poundcake_meta.
    """
    if COPYING_FROM in rows:
        return (
            f"the copy of the trail from {_url(rows[COPYING_FROM])} is not complete: wait until "
            "poundcake.migrate has ended; if it failed or was killed, run it again with the same "
            "parameters"
        )
    if MOVED_TO in rows:
        return (
            f"the trail was moved to {_url(rows[MOVED_TO])}: set database_url to it and run "
            "`st2ctl reload --register-configs`"
        )
    return ""


def check_writable(connection: Connection) -> None:
    """Raise DatabaseError if the database must not be used.

    The database stays writable until the transaction ends, because the copy waits for all write
    transactions before it marks the database. On SQLite, writers wait for each other anyway.
    """
    lock_shared(connection)
    check_usable(connection)


def check_usable(connection: Connection) -> None:
    """Raise DatabaseError if the database must not be used, without taking a lock."""
    reason = hold_reason(read_marks(connection))
    if reason:
        raise DatabaseError(reason)


def read_marks(connection: Connection) -> dict[str, str]:
    """Return the marks of a database that has tables."""
    rows = connection.execute(select(meta.c.name, meta.c.value).where(meta.c.name.in_(_MARKS)))
    return {name: value for name, value in rows}


def lock_shared(connection: Connection) -> None:
    """Wait until no transaction locks out writers, and make later ones wait for this one."""
    if connection.dialect.name != "sqlite":
        connection.execute(_LOCK_SHARED)


def lock_out_writers(connection: Connection) -> None:
    """Wait for other write transactions, and make later ones wait until this one ends."""
    connection.execute(_LOCK.with_for_update())


def set_mark(connection: Connection, name: str, database_id: str, url: str) -> None:
    """Mark a database. The caller has locked out writers."""
    remove_marks(connection, [name])
    value = cut(f"{database_id} {url}", meta.c.value)
    connection.execute(meta.insert().values(name=name, value=value))


def remove_marks(connection: Connection, names: Iterable[str] = _MARKS) -> None:
    """Remove the marks of a database, so that it may be used. The caller has locked out writers."""
    connection.execute(delete(meta).where(meta.c.name.in_(list(names))))


def marked_id(marks: Mapping[str, str], name: str) -> str:
    """Return the id of the other database from a mark, or '' if there is no such mark."""
    return marks.get(name, "").partition(" ")[0]


def _url(mark: str) -> str:
    return mark.partition(" ")[2]
