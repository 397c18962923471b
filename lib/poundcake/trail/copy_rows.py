"""Write rows of another database's trail into this one, and verify that they arrived unchanged.

Two rows are the same if their natural keys are equal. Their numeric ids may differ, because each
database assigns its ids. So the caller translates the references between rows.
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
from poundcake.trail.schema import alerts, api_calls, audit, changes, events, executions, links

Row = Dict[str, Any]
"""A row of a table: its values by column."""
Key = Tuple[Any, ...]

_encode = json.JSONEncoder(default=datetime.isoformat).encode
_ACKNOWLEDGEMENT = ("acknowledged_at", "acknowledged_by", "acknowledged_comment")


@dataclass(frozen=True)
class TableSpec:
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

    def differences(self, row: Row, existing_row: Row) -> list[str]:
        """Return the columns in which two rows differ."""
        return [name for name in self.columns if row[name] != existing_row[name]]

    def line_of(self, row: Row, parent: Any) -> str:
        """Return a row as one line for the checksum, the same on MariaDB and SQLite.

        Args:
            row: The row.
            parent: The natural key of the row that it refers to, which replaces the reference.
        """
        return _encode([parent if name == self.parent else row[name] for name in self.columns])


CALLS = TableSpec(api_calls, "request_id", ("request_id",))
ALERTS = TableSpec(alerts, "api_call_id", ("api_call_id", "position"), "api_call_id")
LINKS = TableSpec(links, "alert_id", ("alert_id", "st2_execution_id"), "alert_id")
EXECUTIONS = TableSpec(executions, "id", ("id",))
# An audit entry has no unique key, and its details may change while a purge runs.
AUDIT = TableSpec(audit, "at", ("at", "action", "execution_id", "target", "st2_user", "comment"))
CHANGES = TableSpec(changes, "st2_execution_id", ("st2_execution_id", "episode"))
EVENTS = TableSpec(events, "id", ("id",))
TABLES = (EXECUTIONS, CALLS, ALERTS, LINKS, AUDIT, CHANGES, EVENTS)


@dataclass
class WrittenRows:
    """The counts of the rows of one table in one transaction.

    Attributes:
        rows: How many rows the source has.
        inserted: How many of these rows were inserted.
        updated: How many rows of the target had other values and were updated.
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
            source_wins: Whether to overwrite rows that the target has. False if the target is in
                use, because its rows are newer then.
            verify: Whether to compare the written rows with the source. The first of two passes
                does not.
        """
        self.written = {table.name: WrittenRows() for table in TABLES}
        self._connection = connection
        self._source_wins = source_wins
        self._verify = verify

    def write(
        self, spec: TableSpec, rows: Sequence[Row], parents: Mapping[Any, Any] | None = None
    ) -> dict[Any, Row]:
        """Write rows, read them back, and compare them.

        Args:
            spec: The table.
            rows: Rows of the source, with their references already translated to the target's ids.
            parents: The natural keys of the rows that these rows refer to, by id in the target.

        Returns:
            The rows of the target, by the id of the same row in the source.

        Raises:
            CopyError: A row arrived changed, or is too large for the target.
            IntegrityError: The target is in use, and another writer inserted a conflicting row.
        """
        rows_by_key = {spec.key_of(row): row for row in rows}
        if self._source_wins:
            self._free_unique_values(spec, rows_by_key)
        existing_rows = self._read(spec, rows_by_key.values())
        missing_rows = [row for key, row in rows_by_key.items() if key not in existing_rows]
        updated = self._update(spec, rows_by_key, existing_rows) if self._source_wins else 0
        if not self._source_wins:
            self._merge(spec, missing_rows)
        self._insert(spec, missing_rows)
        if missing_rows or updated:
            existing_rows = self._read(spec, rows_by_key.values())
        counts = self.written[spec.name]
        if self._verify:
            for row in rows_by_key.values() if self._source_wins else missing_rows:
                _compare(spec, row, existing_rows.get(spec.key_of(row)))
                counts.lines.append(spec.line_of(row, (parents or {}).get(row.get(spec.parent))))
        counts.rows += len(rows_by_key)
        counts.inserted += len(missing_rows)
        counts.updated += updated
        return {
            row["id"]: existing_rows[key]
            for key, row in rows_by_key.items()
            if key in existing_rows
        }

    def _read(self, spec: TableSpec, rows: Iterable[Row]) -> dict[Key, Row]:
        """Return the rows of the target that may be the same as these, by natural key."""
        column = spec.table.c[spec.lookup]
        values = sorted({row[spec.lookup] for row in rows})
        rows_by_key: dict[Key, Row] = {}
        for chunk in database.batched(values):
            for result in self._connection.execute(select(spec.table).where(column.in_(chunk))):
                row = dict(result._mapping)
                rows_by_key.setdefault(spec.key_of(row), row)
        return rows_by_key

    def _insert(self, spec: TableSpec, rows: Sequence[Row]) -> None:
        for row in rows:
            self._check_size(spec, row)
        if not spec.has_numeric_id:
            self._insert_all(spec, rows)
            return
        # If the source wins, keep its ids that are free. The target assigns the others.
        taken_ids = (
            self._taken_ids(spec, [row["id"] for row in rows]) if self._source_wins else None
        )
        rows_with_free_ids = [
            row for row in rows if taken_ids is not None and row["id"] not in taken_ids
        ]
        self._insert_all(spec, rows_with_free_ids)
        other_rows = [row for row in rows if taken_ids is None or row["id"] in taken_ids]
        self._insert_all(spec, [{name: row[name] for name in spec.columns} for row in other_rows])

    def _insert_all(self, spec: TableSpec, rows: Sequence[Row]) -> None:
        if rows:
            self._connection.execute(insert(spec.table), rows)

    def _taken_ids(self, spec: TableSpec, ids: Sequence[int]) -> set[int]:
        column = spec.table.c.id
        taken_ids: set[int] = set()
        for chunk in database.batched(ids):
            taken_ids.update(self._connection.scalars(select(column).where(column.in_(chunk))))
        return taken_ids

    def _update(
        self, spec: TableSpec, rows_by_key: Mapping[Key, Row], existing_rows: Mapping[Key, Row]
    ) -> int:
        """Update the rows that differ, and return their number."""
        count = 0
        for key, existing_row in existing_rows.items():
            row = rows_by_key.get(key)
            changed_columns = spec.differences(row, existing_row) if row else []
            if row and changed_columns:
                self._check_size(spec, row)
                self._change(spec, existing_row, **{name: row[name] for name in changed_columns})
                count += 1
        return count

    def _check_size(self, spec: TableSpec, row: Row) -> None:
        name = f"{spec.name}, id {row['id']} in the source"
        try:
            database.check_size(self._connection, name, row, "run poundcake.migrate again")
        except ValueError as error:
            raise CopyError(str(error)) from None

    # -- the source wins

    def _free_unique_values(self, spec: TableSpec, rows_by_key: Mapping[Key, Row]) -> None:
        """Clear the claims and open incidents of the target whose unique values the source needs.

        Another row of the target has such a value if an earlier run copied that row and the row has
        changed since, or if the target was once in use.
        """
        if spec in (LINKS, CHANGES):
            claims = {row["claim"]: key for key, row in rows_by_key.items() if row["claim"]}
            for existing_row in self._lock_rows_with(spec, "claim", claims):
                if spec.key_of(existing_row) != claims[existing_row["claim"]]:
                    self._change(spec, existing_row, claim=None)
        elif spec is ALERTS:
            open_rows = {
                row["open_fingerprint"]: row
                for row in rows_by_key.values()
                if row["open_fingerprint"]
            }
            for existing_row in self._lock_rows_with(spec, "open_fingerprint", open_rows):
                row = open_rows[existing_row["open_fingerprint"]]
                if spec.key_of(existing_row) != spec.key_of(row):
                    self._close(existing_row, row, clock.database_now(self._connection))

    # -- the target wins

    def _merge(self, spec: TableSpec, rows: Sequence[Row]) -> None:
        """Change new rows before they are inserted, so that they fit the rows of the target."""
        if spec in (LINKS, CHANGES):
            claims = {row["claim"]: row for row in rows if row["claim"]}
            for existing_row in self._lock_rows_with(spec, "claim", claims):
                claims[existing_row["claim"]]["claim"] = None
        elif spec is ALERTS:
            self._merge_incidents([row for row in rows if row["open_fingerprint"]])

    def _merge_incidents(self, rows: Sequence[Row]) -> None:
        """Decide which open incidents of the source stay open.

        If both databases have an open incident of a label set, only one stays open: the one that
        was admitted, or the target's if both or neither were. If an incident that was not admitted
        stayed open instead, its next notification would start a second remediation.
        """
        open_rows = {row["open_fingerprint"]: row for row in rows}
        resolved_at = self._last_resolves(open_rows)
        existing_open_rows = {
            row["open_fingerprint"]: row
            for row in self._lock_rows_with(ALERTS, "open_fingerprint", open_rows)
        }
        now = clock.database_now(self._connection)
        for fingerprint, row in open_rows.items():
            existing_row, resolve = (
                existing_open_rows.get(fingerprint),
                resolved_at.get(fingerprint),
            )
            if resolve and resolve > row["last_seen_at"]:
                row.update(open_fingerprint=None, closed_at=resolve, ended_by=EndedBy.RESOLVE.value)
            elif existing_row and _is_admitted(row) and not _is_admitted(existing_row):
                self._close(existing_row, row, now)
                row["last_seen_at"] = max(row["last_seen_at"], existing_row["last_seen_at"])
                row.update(_missing_acknowledgement(row, existing_row))
            elif existing_row:
                row.update(_closing_values(row, existing_row, now))
                acknowledgement = _missing_acknowledgement(existing_row, row)
                if acknowledgement:
                    self._change(ALERTS, existing_row, **acknowledgement)

    def _last_resolves(self, fingerprints: Collection[str]) -> dict[str, datetime]:
        """Return when the target last received a resolve, by fingerprint."""
        resolved_at: dict[str, datetime] = {}
        for chunk in database.batched(sorted(fingerprints)):
            rows = self._connection.execute(
                select(alerts.c.fingerprint, func.max(alerts.c.created_at))
                .where(alerts.c.fingerprint.in_(chunk), alerts.c.status == RESOLVED)
                .group_by(alerts.c.fingerprint)
            )
            resolved_at.update((row[0], row[1]) for row in rows)
        return resolved_at

    # -- for both outcomes of a conflict

    def _lock_rows_with(self, spec: TableSpec, name: str, values: Collection[str]) -> list[Row]:
        """Lock and return the rows of the target that have one of the values in a unique column."""
        column = spec.table.c[name]
        locked_rows: list[Row] = []
        for chunk in database.batched(sorted(values)):
            rows = self._connection.execute(
                select(spec.table).where(column.in_(chunk)).with_for_update()
            )
            locked_rows += [dict(row._mapping) for row in rows]
        return locked_rows

    def _close(self, existing_row: Row, successor: Row, at: datetime) -> None:
        self._change(ALERTS, existing_row, **_closing_values(existing_row, successor, at))

    def _change(self, spec: TableSpec, existing_row: Row, **values: Any) -> None:
        self._connection.execute(
            update(spec.table).where(spec.table.c.id == existing_row["id"]).values(values)
        )


def _is_admitted(row: Row) -> bool:
    return bool(row["outcome"] == Outcome.ADMITTED)


def _closing_values(row: Row, successor: Row, at: datetime) -> Row:
    """Return the values that end an incident because another row is now the open incident."""
    is_same_episode = row["episode"] == successor["episode"]
    ended_by = None if is_same_episode else EndedBy.SUPERSEDED.value
    return {"open_fingerprint": None, "closed_at": at, "ended_by": ended_by}


def _missing_acknowledgement(row: Row, other: Row) -> Row:
    """Return the acknowledgement of `other` if `row` has none, otherwise nothing."""
    if row["acknowledged_at"] or not other["acknowledged_at"]:
        return {}
    return {name: other[name] for name in _ACKNOWLEDGEMENT}


def _compare(spec: TableSpec, row: Row, existing_row: Row | None) -> None:
    """Raise CopyError if a row arrived changed."""
    if existing_row is None:
        raise CopyError(f"{spec.name}: the row with id {row['id']} in the source did not arrive")
    for name in spec.differences(row, existing_row):
        raise CopyError(
            f"{spec.name}: {name} of the row with id {row['id']} in the source arrived changed"
        )
