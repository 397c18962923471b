"""Move the trail to another database: copy it, verify the copy, and retire the old database.

The source may stay in use while most of the trail is copied. Then writers are locked out of the
source, the changes since the first pass are copied, and every row is verified. Finally, the source
is marked as moved, and nothing can be written to it any more. Until then, the target is marked as
incomplete, so that nothing can be recorded in it. So only one of the two is in use at any time, and
no alert that is recorded in one of them is treated as new by the other.

If `database_url` was changed first, the target is already in use, and the source no longer is. In
that case, rows that the target lacks are added, and its existing rows are kept.

Each page of rows is one transaction. A copy that was killed can be run again, and skips the rows
that the target already has.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from functools import partial
from typing import Any, Callable, Iterator, NamedTuple, Sequence, TypedDict

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError

from poundcake.trail import audit, database, pause
from poundcake.trail.audit import NOBODY, Actor
from poundcake.trail.copy_rows import (
    ALERTS,
    AUDIT,
    CALLS,
    CHANGES,
    EVENTS,
    EXECUTIONS,
    LINKS,
    TABLES,
    Row,
    RowWriter,
    TableSpec,
    WrittenRows,
)
from poundcake.trail.database import holds
from poundcake.trail.errors import CopyError
from poundcake.trail.open_work import is_open
from poundcake.trail.schema import alerts, api_calls, links

# Maximum rows of a page, and maximum characters of its requests. A body may be as large as 7 MiB.
_PAGE_ROWS = 500
_PAGE_SIZE = 8 << 20
# How long a page is retried while a database is unavailable, in seconds.
_RETRY_SECONDS = 60
_PAGES_PER_LOG_LINE = 20

Log = Callable[[str], None]


class TableResult(TypedDict):
    """The result for one table.

    Attributes:
        rows: The number of rows in the source.
        inserted: The number of rows that were inserted into the target.
        updated: The number of rows that had been copied before and have changed since.
        kept: The number of rows that the target already had.
        verified: The number of rows that were read back from the target and compared.
        sha256: The checksum of the verified rows, the same in both databases.
    """

    rows: int
    inserted: int
    updated: int
    kept: int
    verified: int
    sha256: str


class CopyResult(TypedDict):
    """The result of a copy.

    Attributes:
        source: The URL of the source, without its password.
        target: The URL of the target, without its password.
        complete: Always true, because an incomplete copy raises an error.
        already_moved: Whether an earlier run had already moved the trail. If so, nothing was done.
        tables: The results by table. Empty if nothing was done.
    """

    source: str
    target: str
    complete: bool
    already_moved: bool
    tables: dict[str, TableResult]


class _TableTotal:
    """The total of the results for all pages of one table."""

    def __init__(self) -> None:
        self._counts = WrittenRows()
        self._verified = 0
        self._hash = hashlib.sha256()

    def add(self, written: WrittenRows) -> None:
        """Add the result of a page."""
        self._counts.rows += written.rows
        self._counts.inserted += written.inserted
        self._counts.updated += written.updated
        for line in written.lines:
            self._hash.update(line.encode() + b"\n")
        self._verified += len(written.lines)

    def as_result(self, first_pass_total: _TableTotal | None) -> TableResult:
        """Return the result for the table, including the rows that the first pass wrote."""
        first_pass_counts = first_pass_total._counts if first_pass_total else WrittenRows()
        inserted = self._counts.inserted + first_pass_counts.inserted
        return TableResult(
            rows=self._counts.rows,
            inserted=inserted,
            updated=self._counts.updated + first_pass_counts.updated,
            # Purge may have deleted rows of the source since they were copied.
            kept=max(0, self._counts.rows - inserted),
            verified=self._verified,
            sha256=self._hash.hexdigest(),
        )


class _Databases(NamedTuple):
    """The databases of a copy.

    Attributes:
        reader: The source, opened read-only.
        source: The source, opened for writing, to lock and mark it.
        target: The target.
        source_id: The id of the source.
        target_id: The id of the target.
    """

    reader: Engine
    source: Engine
    target: Engine
    source_id: str
    target_id: str


def copy_trail(
    source: str, target: str, is_target_in_use: bool, log: Log, actor: Actor = NOBODY
) -> CopyResult:
    """Move the trail from one database to another.

    Args:
        source: The URL of the database that has the trail. Older tables are upgraded first.
        target: The URL of the database to move it to. Its tables are created or upgraded.
        is_target_in_use: Whether the target may be in use. If not, the source may be.
        log: Called with each progress message.
        actor: Who moves the trail. The audit log of the target has an entry about each move.

    Raises:
        CopyError: The databases cannot be used for a copy, or a copied row differs in the target.
        DatabaseError: A database is unavailable. The rows that were copied are kept, and the next
            call with the same arguments continues.
    """
    with _open_databases(source, target, log) as databases:
        is_copy_needed = _mark_target(databases, is_target_in_use)
        result = CopyResult(
            source=database.public_url(databases.source.url),
            target=database.public_url(databases.target.url),
            complete=True,
            already_moved=not is_copy_needed,
            tables={},
        )
        if not is_copy_needed:
            return result
        source_wins = holds.COPYING_FROM in _read_marks(databases.target)
        first_pass_totals: dict[str, _TableTotal] = {}
        # If the target is in use, the source is not, so it can be locked from the start.
        if source_wins:
            first_pass_totals = _Pass(databases, source_wins, log, verify=False).run()
        with database.transaction(databases.source, check=False) as locked_source:
            holds.lock_out_writers(locked_source)
            _check_source_marks(databases, holds.read_marks(locked_source))
            log("writers are locked out of the source; copying the remaining changes")
            totals = _Pass(databases, source_wins, log).run()
            _copy_pause(locked_source, databases.target)
            holds.set_mark(locked_source, holds.MOVED_TO, databases.target_id, result["target"])
        _unmark_target(databases.target, actor, result)
        result["tables"] = {
            name: total.as_result(first_pass_totals.get(name)) for name, total in totals.items()
        }
        return result


# -- before and after the copy


@contextmanager
def _open_databases(source: str, target: str, log: Log) -> Iterator[_Databases]:
    """Open and check both databases, and upgrade their tables. Close them at the end."""
    engines = [
        database.open_engine(source, read_only=True),
        database.open_engine(source),
        database.open_engine(target),
    ]
    reader, writer, target_engine = engines
    try:
        source_id = _read_source_id(reader)
        if source_id == database.identify(target_engine):
            raise CopyError(
                f"the source and the target are the same database, {source_id}, or one is a copy "
                "of the other's files: nothing was copied"
            )
        database.migrate(target_engine, log)
        database.upgrade_tables(writer, log)
        yield _Databases(reader, writer, target_engine, source_id, database.identify(target_engine))
    finally:
        for engine in engines:
            engine.dispose()


def _read_source_id(reader: Engine) -> str:
    url = database.public_url(reader.url)
    path = reader.url.database or ""
    if reader.dialect.name == "sqlite" and not os.path.isfile(path):
        raise CopyError(f"nothing was copied: {url}: no such file")
    source_id = database.identify(reader)
    if not source_id:
        raise CopyError(f"nothing was copied: {url} has no tables of PoundCake")
    return source_id


def _read_marks(engine: Engine) -> dict[str, str]:
    with database.reading(engine) as connection:
        return holds.read_marks(connection)


def _check_source_marks(databases: _Databases, marks: dict[str, str]) -> None:
    """Raise CopyError if the source does not contain the whole trail."""
    moved_to = holds.marked_id(marks, holds.MOVED_TO)
    if holds.COPYING_FROM in marks or moved_to not in ("", databases.target_id):
        raise CopyError(f"nothing was copied from the source: {holds.hold_reason(marks)}")


def _mark_target(databases: _Databases, is_target_in_use: bool) -> bool:
    """Mark the target as incomplete, unless it is in use.

    Returns:
        Whether a copy is needed. False if an earlier run has already moved the trail.
    """
    source_marks = _read_marks(databases.source)
    _check_source_marks(databases, source_marks)
    with database.transaction(databases.target, check=False) as connection:
        holds.lock_out_writers(connection)
        marks = holds.read_marks(connection)
        copying_from = holds.marked_id(marks, holds.COPYING_FROM)
        if copying_from not in ("", databases.source_id):
            raise CopyError(
                "nothing was copied, because an earlier copy is not complete: "
                f"{holds.hold_reason(marks)}. To start with an empty target, drop its tables."
            )
        if holds.MOVED_TO in source_marks and not copying_from:
            return False
        is_empty = connection.scalar(select(api_calls.c.id).limit(1)) is None
        if not is_target_in_use or is_empty or marks:
            url = database.public_url(databases.source.url)
            holds.set_mark(connection, holds.COPYING_FROM, databases.source_id, url)
    return True


def _copy_pause(source: Connection, target: Engine) -> None:
    """Copy the pause, so that changes that are paused stay paused after the move."""
    with database.transaction(target, check=False) as connection:
        pause.copy_pause(source, connection)


def _unmark_target(target: Engine, actor: Actor, result: CopyResult) -> None:
    """Remove the mark from the target, so that the target can be used, and audit the move."""
    with database.transaction(target, check=False) as connection:
        holds.lock_out_writers(connection)
        holds.remove_marks(connection)
        details = {"source": result["source"], "target": result["target"]}
        audit.write_entry(connection, "migrate", actor, details=details)


# -- the copy


class _Pass:
    """A pass over the source that copies all rows that the target lacks.

    If the source wins, the pass also updates rows that differ in the target.
    """

    def __init__(self, databases: _Databases, source_wins: bool, log: Log, verify: bool = True):
        self._verify = verify
        self._databases = databases
        self._source_wins = source_wins
        self._log = log
        self._totals = {table.name: _TableTotal() for table in TABLES}
        self._pages = 0

    def run(self) -> dict[str, _TableTotal]:
        """Copy all tables, and return the totals by table."""
        # Copy executions first, because links refer to them.
        self._copy_table(EXECUTIONS)
        if not self._source_wins:
            # Copy open incidents early, so that a repeated notification does not open another one.
            self._copy_requests(_has_open_incident(), is_counted_later=True)
        self._copy_requests(None)
        self._copy_table(AUDIT)
        self._copy_table(CHANGES)
        self._copy_table(EVENTS)
        return self._totals

    def _copy_table(self, spec: TableSpec) -> None:
        def copy_page(last_id: Any) -> Any:
            with database.reading(self._databases.reader) as connection:
                rows = _fetch_rows(
                    connection, _page_after(select(spec.table), spec.table.c.id, last_id)
                )
            if not rows:
                return None
            self._write_page(lambda writer: writer.write(spec, rows))
            return rows[-1]["id"]

        self._copy_pages(copy_page)

    def _copy_requests(
        self, condition: ColumnElement[bool] | None, is_counted_later: bool = False
    ) -> None:
        """Copy requests with their alerts and links.

        Args:
            condition: Selects the requests; None for all.
            is_counted_later: Whether a later call reads the same requests again and counts them.
        """

        def copy_page(last_id: Any) -> Any:
            with database.reading(self._databases.reader) as connection:
                ids = _read_page_ids(connection, last_id, condition)
                requests = _read_requests(connection, ids)
            if not ids:
                return None
            self._write_page(partial(_write_requests, requests), is_counted_later)
            return ids[-1]

        self._copy_pages(copy_page)

    def _copy_pages(self, copy_page: Callable[[Any], Any]) -> None:
        """Copy page after page, until there are no more rows.

        Args:
            copy_page: Copies the page after an id, and returns the id of its last row, or None if
                there are no more rows. The id is None for the first page.
        """
        last_id: Any = None
        while True:
            copy_next_page = partial(database.retry_deadlocks, partial(copy_page, last_id))
            last_id = database.retry_while_unavailable(copy_next_page, _RETRY_SECONDS)
            if last_id is None:
                return
            self._pages += 1
            if self._pages % _PAGES_PER_LOG_LINE == 0:
                self._log(f"copied {self._pages} pages of up to {_PAGE_ROWS} rows")

    def _write_page(
        self, write: Callable[[RowWriter], object], is_counted_later: bool = False
    ) -> None:
        """Write a page in one transaction. Retry if another writer inserted a conflicting row."""
        for attempt in range(database.ATTEMPTS):
            try:
                with self._write_transaction() as connection:
                    writer = RowWriter(connection, self._source_wins, self._verify)
                    write(writer)
                break
            except IntegrityError as error:
                if attempt == database.ATTEMPTS - 1:
                    reason = database.describe(error, self._databases.target)
                    raise CopyError(f"a row cannot be inserted: {reason}") from None
        for name, written in writer.written.items():
            if is_counted_later:
                written.rows = 0
            self._totals[name].add(written)

    @contextmanager
    def _write_transaction(self) -> Iterator[Connection]:
        """Begin a transaction on the target. Raise CopyError if another run completed the copy."""
        if not self._source_wins:
            with database.transaction(self._databases.target) as connection:
                yield connection
            return
        with database.transaction(self._databases.target, check=False) as connection:
            holds.lock_shared(connection)
            marks = holds.read_marks(connection)
            if holds.marked_id(marks, holds.COPYING_FROM) != self._databases.source_id:
                raise CopyError("another run of poundcake.migrate has completed the copy")
            yield connection


class _Requests(NamedTuple):
    """Requests of the source, with their alerts and links."""

    calls: Sequence[Row]
    alerts: Sequence[Row]
    links: Sequence[Row]


def _fetch_rows(connection: Connection, statement: Select[Any]) -> list[Row]:
    return [dict(row._mapping) for row in connection.execute(statement)]


def _page_after(statement: Select[Any], column: Any, last_id: Any) -> Select[Any]:
    """Limit a statement to the page of rows after an id, or to the first page."""
    if last_id is not None:
        statement = statement.where(column > last_id)
    return statement.order_by(column).limit(_PAGE_ROWS)


def _has_open_incident() -> ColumnElement[bool]:
    return api_calls.c.id.in_(select(alerts.c.api_call_id).where(is_open()))


def _read_page_ids(
    connection: Connection, last_id: Any, condition: ColumnElement[bool] | None
) -> list[int]:
    """Return the ids of the next requests that fit into one page: at least one, if any remain."""
    size = func.length(api_calls.c.body) + func.length(api_calls.c.headers)
    statement = select(api_calls.c.id, size)
    if condition is not None:
        statement = statement.where(condition)
    ids: list[int] = []
    total = 0
    for call_id, length in connection.execute(_page_after(statement, api_calls.c.id, last_id)):
        total += length
        if ids and total > _PAGE_SIZE:
            break
        ids.append(call_id)
    return ids


def _read_requests(connection: Connection, ids: Sequence[int]) -> _Requests:
    calls = _fetch_rows(
        connection, select(api_calls).where(api_calls.c.id.in_(ids)).order_by(api_calls.c.id)
    )
    alert_rows = _fetch_rows(
        connection, select(alerts).where(alerts.c.api_call_id.in_(ids)).order_by(alerts.c.id)
    )
    alert_ids = select(alerts.c.id).where(alerts.c.api_call_id.in_(ids))
    link_rows = _fetch_rows(
        connection, select(links).where(links.c.alert_id.in_(alert_ids)).order_by(links.c.id)
    )
    return _Requests(calls, alert_rows, link_rows)


def _write_requests(requests: _Requests, writer: RowWriter) -> None:
    """Write requests with their alerts and links, with references translated to the target."""
    calls_by_source_id = writer.write(CALLS, requests.calls)
    request_ids = {call["id"]: call["request_id"] for call in calls_by_source_id.values()}
    alert_rows = [
        {**row, "api_call_id": calls_by_source_id[row["api_call_id"]]["id"]}
        for row in requests.alerts
    ]
    alerts_by_source_id = writer.write(ALERTS, alert_rows, request_ids)
    alert_keys = {
        alert["id"]: [request_ids[alert["api_call_id"]], alert["position"]]
        for alert in alerts_by_source_id.values()
    }
    # A link that was created while the page was being read may refer to an alert that only the next
    # pass copies.
    link_rows = [
        {**row, "alert_id": alerts_by_source_id[row["alert_id"]]["id"]}
        for row in requests.links
        if row["alert_id"] in alerts_by_source_id
    ]
    writer.write(LINKS, link_rows, alert_keys)
