"""Write rows of another database's trail into this one, and verify that they arrived unchanged.

Two rows are the same if their natural keys are equal. Their numeric ids may differ, because each
database counts from 1, so the caller translates the references between rows.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Collection, Dict, Iterable, Mapping, Sequence, Tuple

from sqlalchemy import Table, func, insert, select, update
from sqlalchemy.engine import Connection

from poundcake.alertmanager import RESOLVED
from poundcake.trail import clock, database
from poundcake.trail.errors import CopyError
from poundcake.trail.outcomes import EndedBy, Outcome
from poundcake.trail.schema import alerts, api_calls, audit, executions, links

Row = Dict[str, Any]
"""A row of a table: its values by column."""
Key = Tuple[Any, ...]

_encode = json.JSONEncoder(default=datetime.isoformat).encode
_ACKNOWLEDGEMENT = ("acknowledged_at", "acknowledged_by", "acknowledged_comment")


@dataclass(frozen=True)
class CopiedTable:
    """A table of the trail, and how to recognize its rows in another database.

    Attributes:
        table: The table.
        lookup: The indexed column by which its rows are read.
        key: The columns of the natural key. A numeric reference is translated first.
        parent: The column that refers to the numeric id of another row, or empty.
    """

    table: Table
    lookup: str
    key: tuple[str, ...]
    parent: str = ""

    @property
    def name(self) -> str:
        """The name of the table."""
        return self.table.name

    @property
    def has_numeric_id(self) -> bool:
        """Whether the table's id is a number that the database assigns."""
        return self.key != ("id",)

    @functools.cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns without a numeric id."""
        names = (column.name for column in self.table.columns)
        return tuple(name for name in names if name != "id" or not self.has_numeric_id)

    def key_of(self, row: Row) -> Key:
        """Return the natural key of a row."""
        return tuple([row[name] for name in self.key])

    def differences(self, row: Row, existing: Row) -> list[str]:
        """Return the columns in which two rows differ."""
        return [name for name in self.columns if row[name] != existing[name]]

    def line_of(self, row: Row, parent: Any) -> str:
        """Return a row as one line for the checksum, the same on MariaDB and SQLite.

        Args:
            row: The row.
            parent: The natural key of the row that it refers to, which replaces the reference.
        """
        return _encode([parent if name == self.parent else row[name] for name in self.columns])


CALLS = CopiedTable(api_calls, "request_id", ("request_id",))
ALERTS = CopiedTable(alerts, "api_call_id", ("api_call_id", "position"), "api_call_id")
LINKS = CopiedTable(links, "alert_id", ("alert_id", "st2_execution_id"), "alert_id")
EXECUTIONS = CopiedTable(executions, "id", ("id",))
# An entry has no unique key. Its details change while a purge runs.
AUDIT = CopiedTable(audit, "at", ("at", "action", "execution_id", "target", "st2_user", "comment"))
TABLES = (EXECUTIONS, CALLS, ALERTS, LINKS, AUDIT)


@dataclass
class WrittenRows:
    """The counts of the rows of one table in one transaction.

    Attributes:
        rows: How many rows the source has.
        inserted: How many of them were inserted.
        updated: How many of them the target had with other values, and were updated.
        lines: The rows that were verified, as lines for the checksum.
    """

    rows: int = 0
    inserted: int = 0
    updated: int = 0
    lines: list[str] = field(default_factory=list)


class RowWriter:
    """Write rows in one transaction of the target.

    Attributes:
        written: The counts, by the name of the table.
    """

    def __init__(self, connection: Connection, source_wins: bool, verify: bool):
        """Create a writer.

        Args:
            connection: A transaction of the target.
            source_wins: Whether rows that the target has are overwritten. False if the target is in
                use, because its own rows are newer then.
            verify: Whether to compare rows with the source. The first of two passes does not.
        """
        self.written = {table.name: WrittenRows() for table in TABLES}
        self._connection = connection
        self._source_wins = source_wins
        self._verify = verify

    def write(
        self, kind: CopiedTable, rows: Sequence[Row], parents: Mapping[Any, Any] | None = None
    ) -> dict[Any, Row]:
        """Write rows, and read them back and compare them.

        Args:
            kind: The table.
            rows: Rows of the source, with their references already translated to the target's ids.
            parents: The natural keys of the rows to which they refer, by id in the target.

        Returns:
            The rows of the target, by the ids that the same rows have in the source.

        Raises:
            CopyError: A row arrived changed, or is too large for the target.
            IntegrityError: The target, which is in use, got a conflicting row at the same time.
        """
        wanted = {kind.key_of(row): row for row in rows}
        if self._source_wins:
            self._free_unique_values(kind, wanted)
        found = self._read(kind, wanted.values())
        missing = [row for key, row in wanted.items() if key not in found]
        updated = self._update(kind, wanted, found) if self._source_wins else 0
        if not self._source_wins:
            self._merge(kind, missing)
        self._insert(kind, missing)
        if missing or updated:
            found = self._read(kind, wanted.values())
        count = self.written[kind.name]
        if self._verify:
            for row in wanted.values() if self._source_wins else missing:
                _compare(kind, row, found.get(kind.key_of(row)))
                count.lines.append(kind.line_of(row, (parents or {}).get(row.get(kind.parent))))
        count.rows += len(wanted)
        count.inserted += len(missing)
        count.updated += updated
        return {row["id"]: found[key] for key, row in wanted.items() if key in found}

    def _read(self, kind: CopiedTable, wanted: Iterable[Row]) -> dict[Key, Row]:
        """Return the rows of the target that may be the same as these, by natural key."""
        column = kind.table.c[kind.lookup]
        values = sorted({row[kind.lookup] for row in wanted})
        found: dict[Key, Row] = {}
        for chunk in database.batched(values):
            for result in self._connection.execute(select(kind.table).where(column.in_(chunk))):
                row = dict(result._mapping)
                found.setdefault(kind.key_of(row), row)
        return found

    def _insert(self, kind: CopiedTable, rows: Sequence[Row]) -> None:
        for row in rows:
            self._check_size(kind, row)
        if not kind.has_numeric_id:
            self._insert_all(kind, rows)
            return
        # If the source wins, keep its ids that are free. The target assigns the others.
        taken = self._taken_ids(kind, [row["id"] for row in rows]) if self._source_wins else None
        free = [row for row in rows if taken is not None and row["id"] not in taken]
        self._insert_all(kind, free)
        others = [row for row in rows if taken is None or row["id"] in taken]
        self._insert_all(kind, [{name: row[name] for name in kind.columns} for row in others])

    def _insert_all(self, kind: CopiedTable, rows: Sequence[Row]) -> None:
        if rows:
            self._connection.execute(insert(kind.table), rows)

    def _taken_ids(self, kind: CopiedTable, ids: Sequence[int]) -> set[int]:
        column = kind.table.c.id
        taken: set[int] = set()
        for chunk in database.batched(ids):
            taken.update(self._connection.scalars(select(column).where(column.in_(chunk))))
        return taken

    def _update(
        self, kind: CopiedTable, wanted: Mapping[Key, Row], found: Mapping[Key, Row]
    ) -> int:
        """Update the rows that differ, and return their number."""
        count = 0
        for key, existing in found.items():
            row = wanted.get(key)
            changed = kind.differences(row, existing) if row else []
            if row and changed:
                self._check_size(kind, row)
                self._change(kind, existing, **{name: row[name] for name in changed})
                count += 1
        return count

    def _check_size(self, kind: CopiedTable, row: Row) -> None:
        name = f"{kind.name}, id {row['id']} in the source"
        try:
            database.check_size(self._connection, name, row, "run poundcake.migrate again")
        except ValueError as error:
            raise CopyError(str(error)) from None

    # -- the source wins

    def _free_unique_values(self, kind: CopiedTable, wanted: Mapping[Key, Row]) -> None:
        """Clear unique values of the target that rows of the source need: claims, open incidents.

        Another row of the target has such a value if an earlier run copied that row and it has
        changed since, or if the target was once in use itself.
        """
        if kind is LINKS:
            claims = {row["claim"]: key for key, row in wanted.items() if row["claim"]}
            for existing in self._lock_rows_with(kind, "claim", claims):
                if kind.key_of(existing) != claims[existing["claim"]]:
                    self._change(kind, existing, claim=None)
        elif kind is ALERTS:
            opened = {
                row["open_fingerprint"]: row for row in wanted.values() if row["open_fingerprint"]
            }
            for existing in self._lock_rows_with(kind, "open_fingerprint", opened):
                row = opened[existing["open_fingerprint"]]
                if kind.key_of(existing) != kind.key_of(row):
                    self._close(existing, row, clock.database_now(self._connection))

    # -- the target wins

    def _merge(self, kind: CopiedTable, rows: Sequence[Row]) -> None:
        """Change new rows before they are inserted, to fit what the target has recorded itself."""
        if kind is LINKS:
            claims = {row["claim"]: row for row in rows if row["claim"]}
            for existing in self._lock_rows_with(kind, "claim", claims):
                claims[existing["claim"]]["claim"] = None
        elif kind is ALERTS:
            self._merge_incidents([row for row in rows if row["open_fingerprint"]])

    def _merge_incidents(self, rows: Sequence[Row]) -> None:
        """Decide which open incidents of the source stay open.

        If both databases have an open incident of a label set, only one stays open: the one that
        was admitted, or the target's if both or neither were. If an incident that was not admitted
        stayed open instead, its next notification would start a second remediation.
        """
        opened = {row["open_fingerprint"]: row for row in rows}
        resolved_at = self._last_resolves(opened)
        existing_open = {
            row["open_fingerprint"]: row
            for row in self._lock_rows_with(ALERTS, "open_fingerprint", opened)
        }
        now = clock.database_now(self._connection)
        for fingerprint, row in opened.items():
            existing, resolve = existing_open.get(fingerprint), resolved_at.get(fingerprint)
            if resolve and resolve > row["last_seen_at"]:
                row.update(open_fingerprint=None, closed_at=resolve, ended_by=EndedBy.RESOLVE.value)
            elif existing and _is_admitted(row) and not _is_admitted(existing):
                self._close(existing, row, now)
                row["last_seen_at"] = max(row["last_seen_at"], existing["last_seen_at"])
                row.update(_missing_acknowledgement(row, existing))
            elif existing:
                row.update(_ending(row, existing, now))
                missing = _missing_acknowledgement(existing, row)
                if missing:
                    self._change(ALERTS, existing, **missing)

    def _last_resolves(self, fingerprints: Collection[str]) -> dict[str, datetime]:
        """Return when the target last received a resolve, by fingerprint."""
        found: dict[str, datetime] = {}
        for chunk in database.batched(sorted(fingerprints)):
            rows = self._connection.execute(
                select(alerts.c.fingerprint, func.max(alerts.c.created_at))
                .where(alerts.c.fingerprint.in_(chunk), alerts.c.status == RESOLVED)
                .group_by(alerts.c.fingerprint)
            )
            found.update((row[0], row[1]) for row in rows)
        return found

    # -- both

    def _lock_rows_with(self, kind: CopiedTable, name: str, values: Collection[str]) -> list[Row]:
        """Lock and return the rows of the target that have one of the values in a unique column."""
        column = kind.table.c[name]
        found: list[Row] = []
        for chunk in database.batched(sorted(values)):
            rows = self._connection.execute(
                select(kind.table).where(column.in_(chunk)).with_for_update()
            )
            found += [dict(row._mapping) for row in rows]
        return found

    def _close(self, existing: Row, successor: Row, at: datetime) -> None:
        self._change(ALERTS, existing, **_ending(existing, successor, at))

    def _change(self, kind: CopiedTable, existing: Row, **values: Any) -> None:
        self._connection.execute(
            update(kind.table).where(kind.table.c.id == existing["id"]).values(values)
        )


def _is_admitted(row: Row) -> bool:
    return bool(row["outcome"] == Outcome.ADMITTED)


def _ending(row: Row, successor: Row, at: datetime) -> Row:
    """Return the values that end an incident because another row is now the open incident."""
    is_same_episode = row["episode"] == successor["episode"]
    ended_by = None if is_same_episode else EndedBy.SUPERSEDED.value
    return {"open_fingerprint": None, "closed_at": at, "ended_by": ended_by}


def _missing_acknowledgement(row: Row, other: Row) -> Row:
    """Return the acknowledgement of another row if a row has none."""
    if row["acknowledged_at"] or not other["acknowledged_at"]:
        return {}
    return {name: other[name] for name in _ACKNOWLEDGEMENT}


def _compare(kind: CopiedTable, row: Row, existing: Row | None) -> None:
    """Raise CopyError if a row arrived changed."""
    if existing is None:
        raise CopyError(f"{kind.name}: the row with id {row['id']} in the source did not arrive")
    for name in kind.differences(row, existing):
        raise CopyError(
            f"{kind.name}: {name} of the row with id {row['id']} in the source arrived changed"
        )
