"""Copy rows of one database's trail to another, and verify that they were copied unchanged.

Two rows are the same if their natural keys are equal. Their numeric ids may differ, because each
database assigns its own. So the caller translates the references between rows.
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

_encode_json = json.JSONEncoder(default=datetime.isoformat).encode
_ACKNOWLEDGEMENT_COLUMNS = ("acknowledged_at", "acknowledged_by", "acknowledged_comment")


@dataclass(frozen=True)
class TableSpec:
    """A table of the trail, and how to recognize its rows in another database.

    Attributes:
        table: The table.
        lookup_column: The indexed column by which to look up its rows.
        key: The columns of the natural key. References in it are translated before a comparison.
        parent: The column that refers to the numeric id of another row, or empty.
    """

    table: Table
    lookup_column: str
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
        """The columns to copy and compare: all of them, except a numeric id."""
        names = (column.name for column in self.table.columns)
        return tuple(name for name in names if name != "id" or not self.has_numeric_id)

    def key_of(self, row: Row) -> Key:
        """Return the natural key of a row."""
        return tuple([row[name] for name in self.key])

    def differences(self, row: Row, existing_row: Row) -> list[str]:
        """Return the columns in which two rows differ."""
        return [name for name in self.columns if row[name] != existing_row[name]]

    def checksum_line(self, row: Row, parent: Any) -> str:
        """Return a row as one line for the checksum, the same on MariaDB and SQLite.

        Args:
            row: The row.
            parent: The natural key of the row that it refers to. It replaces the numeric reference.
        """
        return _encode_json([parent if name == self.parent else row[name] for name in self.columns])


CALLS = TableSpec(api_calls, "request_id", ("request_id",))
ALERTS = TableSpec(alerts, "api_call_id", ("api_call_id", "position"), "api_call_id")
LINKS = TableSpec(links, "alert_id", ("alert_id", "st2_execution_id"), "alert_id")
EXECUTIONS = TableSpec(executions, "id", ("id",))
# Audit entries have no unique key, so these columns replace one. `details` is left out, because it
# may change while a purge runs.
AUDIT = TableSpec(audit, "at", ("at", "action", "execution_id", "target", "st2_user", "comment"))
CHANGES = TableSpec(changes, "st2_execution_id", ("st2_execution_id", "episode"))
EVENTS = TableSpec(events, "id", ("id",))
TABLES = (EXECUTIONS, CALLS, ALERTS, LINKS, AUDIT, CHANGES, EVENTS)


@dataclass
class WrittenRows:
    """The rows of one table that were written in one transaction.

    Attributes:
        rows: The number of rows that were read from the source.
        inserted: The number of rows that were inserted into the target.
        updated: The number of rows of the target that differed and were updated.
        lines: The rows that were verified, as lines for the checksum.
    """

    rows: int = 0
    inserted: int = 0
    updated: int = 0
    lines: list[str] = field(default_factory=list)


class RowWriter:
    """Writes rows in one transaction of the target.

    Attributes:
        written: The results, by the name of the table.
    """

    def __init__(self, connection: Connection, source_wins: bool, verify: bool):
        """Create a writer.

        Args:
            connection: A transaction of the target.
            source_wins: Whether to overwrite rows that the target already has. False if the target
                is in use, because its rows are newer in that case.
            verify: Whether to compare the written rows with the source. This is necessary only in
                the last pass.
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
            CopyError: A row differs after it was written, or is too large for the target.
            IntegrityError: The target is in use, and another writer inserted a conflicting row.
        """
        rows_by_key = {spec.key_of(row): row for row in rows}
        if self._source_wins:
            self._free_unique_values(spec, rows_by_key)
        existing_rows = self._read(spec, rows_by_key.values())
        missing_rows = [row for key, row in rows_by_key.items() if key not in existing_rows]
        updated = self._update_rows(spec, rows_by_key, existing_rows) if self._source_wins else 0
        if not self._source_wins:
            self._merge(spec, missing_rows)
        self._insert(spec, missing_rows)
        if missing_rows or updated:
            existing_rows = self._read(spec, rows_by_key.values())
        counts = self.written[spec.name]
        if self._verify:
            parents = parents or {}
            for row in rows_by_key.values() if self._source_wins else missing_rows:
                _check_copied_row(spec, row, existing_rows.get(spec.key_of(row)))
                parent = parents.get(row.get(spec.parent))
                counts.lines.append(spec.checksum_line(row, parent))
        counts.rows += len(rows_by_key)
        counts.inserted += len(missing_rows)
        counts.updated += updated
        return {
            row["id"]: existing_rows[key]
            for key, row in rows_by_key.items()
            if key in existing_rows
        }

    def _read(self, spec: TableSpec, rows: Iterable[Row]) -> dict[Key, Row]:
        """Return the rows of the target that may correspond to these rows, by natural key."""
        column = spec.table.c[spec.lookup_column]
        values = sorted({row[spec.lookup_column] for row in rows})
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
        # If the source wins, keep its ids where the target has not used them. The target assigns
        # the other ids.
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

    def _update_rows(
        self, spec: TableSpec, rows_by_key: Mapping[Key, Row], existing_rows: Mapping[Key, Row]
    ) -> int:
        """Update the rows that differ, and return their number."""
        count = 0
        for key, existing_row in existing_rows.items():
            row = rows_by_key.get(key)
            changed_columns = spec.differences(row, existing_row) if row else []
            if row and changed_columns:
                self._check_size(spec, row)
                self._update_row(
                    spec, existing_row, **{name: row[name] for name in changed_columns}
                )
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
        """Free unique values that the source's rows need: clear claims, and close open incidents.

        Another row of the target has such a value if an earlier run copied that row, which has
        changed in the source since, or if the target was in use at some time.
        """
        if spec in (LINKS, CHANGES):
            claims = {row["claim"]: key for key, row in rows_by_key.items() if row["claim"]}
            for existing_row in self._lock_rows_with(spec, "claim", claims):
                if spec.key_of(existing_row) != claims[existing_row["claim"]]:
                    self._update_row(spec, existing_row, claim=None)
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
        """Change new rows so that they do not conflict with the existing rows of the target."""
        if spec in (LINKS, CHANGES):
            claims = {row["claim"]: row for row in rows if row["claim"]}
            for existing_row in self._lock_rows_with(spec, "claim", claims):
                claims[existing_row["claim"]]["claim"] = None
        elif spec is ALERTS:
            self._merge_incidents([row for row in rows if row["open_fingerprint"]])

    def _merge_incidents(self, rows: Sequence[Row]) -> None:
        """Decide which open incidents of the source stay open.

        If both databases have an open incident of a label set, only one of the two stays open: the
        admitted one, or the target's if both or neither were admitted. If the incident that was not
        admitted stayed open instead, its next notification would start a second remediation.
        """
        open_rows = {row["open_fingerprint"]: row for row in rows}
        last_resolves = self._read_last_resolves(open_rows)
        existing_open_rows = {
            row["open_fingerprint"]: row
            for row in self._lock_rows_with(ALERTS, "open_fingerprint", open_rows)
        }
        now = clock.database_now(self._connection)
        for fingerprint, row in open_rows.items():
            existing_row = existing_open_rows.get(fingerprint)
            closed_at = last_resolves.get(fingerprint)
            if closed_at and closed_at > row["last_seen_at"]:
                row.update(
                    open_fingerprint=None, closed_at=closed_at, ended_by=EndedBy.RESOLVE.value
                )
            elif existing_row and _is_admitted(row) and not _is_admitted(existing_row):
                self._close(existing_row, row, now)
                row["last_seen_at"] = max(row["last_seen_at"], existing_row["last_seen_at"])
                row.update(_missing_acknowledgement(row, existing_row))
            elif existing_row:
                row.update(_closed_values(row, existing_row, now))
                acknowledgement = _missing_acknowledgement(existing_row, row)
                if acknowledgement:
                    self._update_row(ALERTS, existing_row, **acknowledgement)

    def _read_last_resolves(self, fingerprints: Collection[str]) -> dict[str, datetime]:
        """Return the times of the last resolves that the target recorded, by fingerprint."""
        last_resolves: dict[str, datetime] = {}
        for chunk in database.batched(sorted(fingerprints)):
            rows = self._connection.execute(
                select(alerts.c.fingerprint, func.max(alerts.c.created_at))
                .where(alerts.c.fingerprint.in_(chunk), alerts.c.status == RESOLVED)
                .group_by(alerts.c.fingerprint)
            )
            last_resolves.update((row[0], row[1]) for row in rows)
        return last_resolves

    # -- whichever side wins

    def _lock_rows_with(self, spec: TableSpec, name: str, values: Collection[str]) -> list[Row]:
        """Lock and return the rows of the target with one of the values in a unique column."""
        column = spec.table.c[name]
        locked_rows: list[Row] = []
        for chunk in database.batched(sorted(values)):
            rows = self._connection.execute(
                select(spec.table).where(column.in_(chunk)).with_for_update()
            )
            locked_rows += [dict(row._mapping) for row in rows]
        return locked_rows

    def _close(self, existing_row: Row, successor: Row, at: datetime) -> None:
        self._update_row(ALERTS, existing_row, **_closed_values(existing_row, successor, at))

    def _update_row(self, spec: TableSpec, existing_row: Row, **values: Any) -> None:
        self._connection.execute(
            update(spec.table).where(spec.table.c.id == existing_row["id"]).values(values)
        )


def _is_admitted(row: Row) -> bool:
    return bool(row["outcome"] == Outcome.ADMITTED)


def _closed_values(row: Row, successor: Row, at: datetime) -> Row:
    """Return the values that close an incident's row because another row takes its place."""
    is_same_episode = row["episode"] == successor["episode"]
    ended_by = None if is_same_episode else EndedBy.SUPERSEDED.value
    return {"open_fingerprint": None, "closed_at": at, "ended_by": ended_by}


def _missing_acknowledgement(row: Row, other: Row) -> Row:
    """Return the acknowledgement of `other` if `row` has none, otherwise nothing."""
    if row["acknowledged_at"] or not other["acknowledged_at"]:
        return {}
    return {name: other[name] for name in _ACKNOWLEDGEMENT_COLUMNS}


def _check_copied_row(spec: TableSpec, row: Row, existing_row: Row | None) -> None:
    """Raise CopyError if a row of the source is missing from the target or differs there."""
    if existing_row is None:
        raise CopyError(f"{spec.name}: the row with id {row['id']} in the source was not copied")
    changed_columns = spec.differences(row, existing_row)
    if changed_columns:
        raise CopyError(
            f"{spec.name}: {', '.join(changed_columns)} of the row with id {row['id']} in the "
            "source differs in the target"
        )
