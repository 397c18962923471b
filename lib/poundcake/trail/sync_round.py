"""A round of sync, and the lease that ensures that only one round writes at a time.

The lease is a row of poundcake_meta with its holder and its expiry by the database's clock. The
timeout of the action poundcake.sync is shorter than the lease, so StackStorm ends a round before
the next round can take over its lease. If a round is still running after that, because its machine
was suspended or StackStorm could not kill it, it notices the loss of the lease and stops writing.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Iterator, NamedTuple

from sqlalchemy import select, update
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError

from poundcake.errors import PoundCakeError
from poundcake.timestamps import format_timestamp, parse_timestamp
from poundcake.trail import database
from poundcake.trail.clock import database_now
from poundcake.trail.open_work import SYNCED_AT
from poundcake.trail.schema import meta

LEASE = timedelta(seconds=180)
"""The duration of the lease. The timeout in actions/sync.yaml is shorter."""
_LEASE_NAME = "sync_round"
_IS_LEASE = meta.c.name == _LEASE_NAME
_MAX_PROBLEMS = 20


class LeaseLostError(PoundCakeError):
    """The round took longer than its lease, so another round may have taken over."""


class Deadline:
    """The deadline of a step, by this machine's monotonic clock."""

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds

    @property
    def has_passed(self) -> bool:
        """Return True once the deadline has passed."""
        return time.monotonic() >= self._end


class _Holder(NamedTuple):
    owner: str
    until: datetime


class SyncRound:
    """One round: its write transactions, and the problems that it encountered.

    Attributes:
        engine: The tracking database, for reads.
        problems: A sentence for each problem, such as a request to StackStorm that failed. The
            round continues without the data of that request.
    """

    def __init__(self, engine: Engine, owner: str):
        self.engine = engine
        self.problems: list[str] = []
        self._owner = owner

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a write transaction, if this round still holds its lease.

        Raises:
            LeaseLostError: Another round has taken over, or the lease has expired.
        """
        with database.transaction(self.engine) as connection:
            holder = _parse(_read_and_lock_row(connection))
            now = database_now(connection)
            if holder is None or holder.owner != self._owner or now >= holder.until:
                is_taken = holder is not None and holder.owner != self._owner
                successor = f": {holder.owner} is running now" if holder and is_taken else ""
                raise LeaseLostError(
                    f"the round took longer than {LEASE.seconds} s and lost its lease{successor}"
                )
            yield connection

    def note(self, problem: str) -> None:
        """Add a problem to the result of the round."""
        if problem not in self.problems and len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(problem)

    def finish(self) -> None:
        """Store the time at which this round finished, and release the lease."""
        with self.writing() as connection:
            now = database_now(connection)
            write_meta(connection, SYNCED_AT, format_timestamp(now))
            self._release(connection, now)

    def abandon(self) -> None:
        """Release the lease without storing a time."""
        try:
            with self.writing() as connection:
                self._release(connection, database_now(connection))
        except LeaseLostError:
            pass  # the next round may have begun already

    def _release(self, connection: Connection, now: datetime) -> None:
        # Keep the row, because only an existing row can be locked.
        value = f"{self._owner} {format_timestamp(now)}"
        connection.execute(update(meta).where(_IS_LEASE).values(value=value))


def start_round(engine: Engine, owner: str) -> SyncRound | None:
    """Take the lease and return a new round, or None while another round is running.

    Args:
        engine: The tracking database.
        owner: The unique id of this round: the id of its execution, or a UUID.
    """
    for is_last_attempt in (False, True):
        try:
            with database.transaction(engine) as connection:
                row = _read_and_lock_row(connection)
                holder, now = _parse(row), database_now(connection)
                # A lease that ends after now + LEASE was taken before the clock was set back.
                if holder and now < holder.until <= now + LEASE:
                    return None
                # Do not use write_meta(): it would overwrite the row of a round that starts
                # concurrently.
                value = f"{owner} {format_timestamp(now + LEASE)}"
                if row is None:
                    connection.execute(meta.insert().values(name=_LEASE_NAME, value=value))
                else:
                    connection.execute(update(meta).where(_IS_LEASE).values(value=value))
            return SyncRound(engine, owner)
        except IntegrityError:
            # Another round has just inserted the row.
            if is_last_attempt:
                raise
    return None


def _read_and_lock_row(connection: Connection) -> str | None:
    """Return the value of the lease's row, and lock the row until the transaction ends."""
    value = connection.scalar(select(meta.c.value).where(_IS_LEASE).with_for_update())
    return value if value is None else str(value)


def _parse(row: str | None) -> _Holder | None:
    owner, _, until = (row or "").partition(" ")
    try:
        moment = parse_timestamp(until)
    except ValueError:
        return None
    return _Holder(owner, moment) if moment else None


def write_meta(connection: Connection, name: str, value: str) -> None:
    """Update a row of poundcake_meta, or insert it if it is missing."""
    existing_name = connection.scalar(select(meta.c.name).where(meta.c.name == name))
    if existing_name is None:
        connection.execute(meta.insert().values(name=name, value=value))
    else:
        connection.execute(update(meta).where(meta.c.name == name).values(value=value))
