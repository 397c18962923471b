"""Generate the history that a busy Alertmanager leaves in the tracking tables in a year.

    python -m bench.history [--directory DIRECTORY] [--mariadb] [--small 10000] [--large 1000000]

The same seed and the same end produce the same rows. A shorter history is the last part of a longer
one, so the number of alerts per hour, the open incidents, and the proportions of names, outcomes
and statuses do not depend on the length.

There are 500 slots, ten in each group. Each slot has one incident after another; see
bench.incidents. Each request is a notification of one group. The 50 groups take turns, with one
request every 31.5 seconds.
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import json
import os
import sqlite3
import sys
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from itertools import chain, islice
from typing import Callable, Iterator, NamedTuple, Sequence

from sqlalchemy import Connection, Table, create_engine, func, inspect, select
from sqlalchemy.engine import make_url

from bench import incidents
from bench.incidents import GROUPS, PER_REQUEST, SEED, SMALLEST, Incident, Value, Values, as_stored
from bench.server import BUFFER_POOL, MariaDB
from poundcake.timestamps import format_timestamp, parse_timestamp
from poundcake.trail import database, schema
from tests.services import MissingProgram

# Requests in one transaction.
REQUESTS_PER_TRANSACTION = 1000

CALLS = (
    "id request_id method path headers body status_code created_at completed_at client_host "
    "receiver group_key group_status truncated_alerts delivery_key body_sha256"
).split()
ALERTS = (
    "id api_call_id position fingerprint alert_name severity instance labels annotations "
    "generator_url status starts_at created_at recorded_at"
).split() + [*incidents.AlertDecision._fields, "attempt"]
LINKS = (
    "id request_id alert_id st2_execution_id st2_rule_ref st2_action_ref created_at claim"
).split()
EXECUTIONS = (
    "id action status start_timestamp end_timestamp rule error dry_run mutated verified stage "
    "message web_url synced_at"
).split()
TABLES = [
    (schema.api_calls, CALLS),
    (schema.alerts, ALERTS),
    (schema.executions, EXECUTIONS),
    (schema.links, LINKS),
]
HEADERS = json.dumps({"User-Agent": "Alertmanager/0.27.0", "Content-Type": "application/json"})


class Rows(NamedTuple):
    """The rows of one request, a list for each of TABLES."""

    calls: list[Values]
    alerts: list[Values]
    executions: list[Values]
    links: list[Values]


Write = Callable[[Connection, Table, Sequence[str], Sequence[Values]], None]


def rows(alerts: int, end: datetime) -> Iterator[Rows]:
    """Yield the rows of each request of a history, oldest first."""
    call_count = alerts // PER_REQUEST
    notifications = call_count // GROUPS
    slots = [
        incidents.incidents_of(slot, notifications, end) for slot in range(GROUPS * PER_REQUEST)
    ]
    current = [next(slot) for slot in slots]
    link_count = 0
    for number in reversed(range(call_count)):
        notification, group = divmod(number, GROUPS)
        first_slot = group * PER_REQUEST
        for slot in range(first_slot, first_slot + PER_REQUEST):
            if current[slot].opened - notification == current[slot].length:
                current[slot] = next(slots[slot])
        request = _Request(number, call_count - number, end, link_count)
        for position in range(PER_REQUEST):
            request.add(position, current[first_slot + position], notification)
        link_count = request.links
        yield request.rows()


class _Request:
    """Build the rows of a request, to which alerts are added.

    Args:
        number: The number of the request, counted back from the end of the history.
        call_id: The id of the request's row in poundcake_api_calls.
        end: The end of the history.
        links: The number of links of the earlier requests.
    """

    def __init__(self, number: int, call_id: int, end: datetime, links: int) -> None:
        received = incidents.received_at(number, end)
        recorded = received + timedelta(milliseconds=400 + number * 31 % 900)
        self._number = number
        self._call_id = call_id
        self._request_id = incidents.request_id(number)
        self._created_at, self._recorded_at = as_stored(received), as_stored(recorded)
        # None once an execution that has not ended is added.
        self._completed_at: str | None = self._recorded_at
        self._fragments: list[str] = []
        self._rows = Rows([], [], [], [])
        self.links = links

    def add(self, position: int, incident: Incident, notification: int) -> None:
        """Add the alert about an incident.

        Args:
            position: The position of the alert in the request, from 0.
            incident: The incident.
            notification: The number of the notification, counted back from the newest of the group.
        """
        alert_id = (self._call_id - 1) * PER_REQUEST + position + 1
        status, decision = incident.notification(incident.opened - notification, self._created_at)
        self._fragments.append('{"status": "' + status + '", ' + incident.fragment)
        self._rows.alerts.append(
            (
                alert_id,
                self._call_id,
                position,
                incident.fingerprint,
                incident.name,
                incident.severity,
                incident.instance,
                incident.labels,
                incident.annotations,
                "http://prometheus.example/graph?g0.expr=up",
                status,
                incident.stored_start,
                self._created_at,
                self._recorded_at,
                *decision,
                1,
            )
        )
        if decision.outcome == "resolved":
            self._delay_completion(decision.checked_at)
        if decision.outcome == "admitted":
            for run in incident.runs():
                self._link(alert_id, run)

    def _link(self, alert_id: int, run: incidents.Run) -> None:
        self.links += 1
        started_at, ended_at, synced_at = run.row[3], run.row[4], run.row[-1]
        self._rows.executions.append(run.row)
        self._rows.links.append(
            (
                self.links,
                self._request_id,
                alert_id,
                run.execution_id,
                run.workflow,
                run.workflow,
                started_at,
                run.claim,
            )
        )
        self._delay_completion(str(synced_at) if ended_at else None)

    def _delay_completion(self, moment: str | None) -> None:
        if self._completed_at is not None:
            self._completed_at = max(self._completed_at, moment) if moment else None

    def rows(self) -> Rows:
        """Return the rows after all alerts have been added."""
        alerts = ", ".join(self._fragments)
        body = (
            f'{{"version": "4", "receiver": "poundcake", "status": "firing", "alerts": [{alerts}]}}'
        )
        sha256 = hashlib.sha256(body.encode()).hexdigest()
        self._rows.calls.append(
            (
                self._call_id,
                self._request_id,
                "POST",
                "/api/v1/webhook",
                HEADERS,
                body,
                202,
                self._created_at,
                self._completed_at,
                f"192.0.2.{1 + self._number % 3}",
                "poundcake",
                f'{{}}/{{team=~".+"}}:{{group="{self._number % GROUPS}"}}',
                "firing",
                0,
                sha256[::-1],
                sha256,
            )
        )
        return self._rows


def build(url: str, alerts: int, end: datetime) -> None:
    """Create the tables in an empty database, and fill them.

    Args:
        url: The SQLAlchemy URL of the database.
        alerts: The number of alerts in the history.
    """
    is_mariadb = make_url(url).get_backend_name() == "mysql"
    engine = create_engine(url, connect_args={"local_infile": True} if is_mariadb else {})
    started = time.monotonic()
    with engine.connect() as connection:
        if not is_mariadb:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            connection.exec_driver_sql("PRAGMA synchronous = OFF")
            connection.exec_driver_sql("PRAGMA cache_size = -500000")
        schema.metadata.create_all(connection)
        for table in (schema.api_calls, schema.alerts):
            for index in table.indexes:
                index.drop(connection)
        connection.commit()
        _fill(connection, load if is_mariadb else insert, rows(alerts, end))
        print(f"{alerts:,} alerts written after {time.monotonic() - started:.0f} s")
        # Creating the indexes now is many times faster than updating them for each row.
        for table in (schema.api_calls, schema.alerts):
            _create_indexes(connection, table, is_mariadb)
        digest = incidents.seeded_digest("database")[:32]
        metadata = [
            {"name": "schema", "value": str(schema.VERSION)},
            {"name": "indexes", "value": str(schema.INDEX_REVISIONS[-1])},
            {"name": "database_id", "value": str(uuid.UUID(digest))},
            {"name": "history", "value": _description(alerts, end)},
        ]
        connection.execute(schema.meta.insert(), metadata)
        connection.commit()
        if is_mariadb:
            names = ", ".join(table.name for table, _ in TABLES)
            connection.exec_driver_sql("ANALYZE TABLE " + names).all()
    engine.dispose()
    print(f"indexes created, {time.monotonic() - started:.0f} s in total", flush=True)


def _fill(connection: Connection, write: Write, requests: Iterator[Rows]) -> None:
    # Write the requests of one transaction while generating those of the next.
    with ThreadPoolExecutor(1) as writer:
        pending = None
        for chunk in iter(lambda: list(islice(requests, REQUESTS_PER_TRANSACTION)), []):
            if pending:
                pending.result()
            pending = writer.submit(_write_all, connection, write, chunk)
        if pending:
            pending.result()


def _create_indexes(connection: Connection, table: Table, is_mariadb: bool) -> None:
    indexes = sorted(table.indexes, key=lambda index: str(index.name))
    if not is_mariadb:
        for index in indexes:
            index.create(connection)
        return
    # Add all indexes in one pass over the table.
    clauses = ", ".join(
        f"ADD INDEX {index.name} ({', '.join(column.name for column in index.columns)})"
        for index in indexes
    )
    connection.exec_driver_sql(f"ALTER TABLE {table.name} {clauses}")


@contextmanager
def open_histories(
    arguments: argparse.Namespace, sizes: Sequence[int] = ()
) -> Iterator[dict[int, str]]:
    """Yield the URLs of the selected histories by size, after building the missing ones.

    With --mariadb, the server of the directory runs until the context ends.

    Args:
        sizes: The sizes to open; by default the small and the large one.
    """
    directory = os.path.abspath(arguments.directory)
    os.makedirs(directory, exist_ok=True)
    try:
        server = MariaDB(os.path.join(directory, "mariadb")) if arguments.mariadb else None
    except MissingProgram as error:
        sys.exit(str(error))
    try:
        if server:
            print(f"MariaDB {server.version()}, buffer pool {BUFFER_POOL}")
        else:
            print(f"SQLite {sqlite3.sqlite_version}")
        end = _end_of_histories(directory)
        sizes_to_open = sizes or [arguments.small, arguments.large]
        yield {alerts: _prepare_history(directory, server, alerts, end) for alerts in sizes_to_open}
    finally:
        if server:
            server.close()


def _end_of_histories(directory: str) -> datetime:
    """Return the end of the histories in a directory: the time at which the first was built."""
    path = os.path.join(directory, "end")
    if not os.path.exists(path):
        with open(path, "w") as file:
            file.write(format_timestamp(datetime.now(timezone.utc).replace(microsecond=0)))
    with open(path) as file:
        end = parse_timestamp(file.read())
    if end is None:
        sys.exit(f"{path} is empty: delete it")
    return end


def _prepare_history(directory: str, server: MariaDB | None, size: int, end: datetime) -> str:
    """Return the URL of a history. Build it if it is missing."""
    name = f"poundcake_{size}"
    path = os.path.join(directory, name + ".db")
    url = server.url(name) if server else "sqlite:///" + path
    if server:
        server.execute(f"CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8mb4")
    if not _is_built(url, _description(size, end)):
        print(f"building a history of {size:,} alerts", flush=True)
        if server:
            server.drop_database(name)
            server.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        else:
            for file in glob.glob(glob.escape(path) + "*"):
                os.unlink(file)
        build(url, size, end)
    engine = database.open_engine(url)
    database.migrate(engine, print)  # builds indexes that were added since
    engine.dispose()
    return url


def _description(size: int, end: datetime) -> str:
    return f"{size} alerts, seed {SEED}, end {format_timestamp(end)}"


def _is_built(url: str, description: str) -> bool:
    """Return True if the database has this complete history with the tables of this release."""
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table(schema.meta.name):
                return False
            values = connection.execute(select(schema.meta.c.name, schema.meta.c.value))
            meta = {name: value for name, value in values}
    finally:
        engine.dispose()
    return meta.get("history") == description and meta["schema"] == str(schema.VERSION)


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have in common."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--directory",
        default=os.path.join(tempfile.gettempdir(), "poundcake-bench"),
        help="folder of the histories (default: %(default)s)",
    )
    parser.add_argument(
        "--mariadb", action="store_true", help="use a private MariaDB instead of SQLite"
    )
    for name, default in (("small", SMALLEST), ("large", 1_000_000)):
        parser.add_argument(
            "--" + name, type=parse_size, default=default, help="alerts (default: %(default)s)"
        )
    return parser


def parse_size(text: str) -> int:
    """Return a number of alerts from the command line."""
    number = int(text) if text.isdigit() else 0
    if number < SMALLEST or number % SMALLEST:
        raise argparse.ArgumentTypeError(f"must be a multiple of {SMALLEST}")
    return number


def _write_all(connection: Connection, write: Write, requests: Sequence[Rows]) -> None:
    for (table, columns), lists in zip(TABLES, zip(*requests)):
        write(connection, table, columns, list(chain.from_iterable(lists)))
    connection.commit()


def insert(
    connection: Connection, table: Table, columns: Sequence[str], values: Sequence[Values]
) -> None:
    """Write rows with INSERT."""
    names, placeholders = ", ".join(columns), ", ".join("?" * len(columns))
    connection.exec_driver_sql(
        f"INSERT INTO {table.name} ({names}) VALUES ({placeholders})", list(values)
    )


def load(
    connection: Connection, table: Table, columns: Sequence[str], values: Sequence[Values]
) -> None:
    """Write rows with LOAD DATA.

    This is several times faster than INSERT, because the driver need not format every value.
    """
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="") as file:
        for row in values:
            file.write("\t".join(map(as_load_data_field, row)) + "\n")
        file.flush()
        connection.exec_driver_sql(
            f"LOAD DATA LOCAL INFILE '{file.name}' INTO TABLE {table.name} CHARACTER SET utf8mb4 "
            f"({', '.join(columns)})"
        )


def as_load_data_field(value: Value) -> str:
    """Return a value in the format of LOAD DATA."""
    if value is None:
        return "\\N"
    if isinstance(value, str):
        for plain, escaped in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n")):
            if plain in value:
                value = value.replace(plain, escaped)
        return value
    return str(int(value))


def main() -> None:
    """Build the histories, and print the number of rows in their tables."""
    arguments = argument_parser(__doc__).parse_args()
    with open_histories(arguments) as urls:
        for alerts in sorted(urls):
            engine = create_engine(urls[alerts])
            with engine.connect() as connection:
                for table, _ in TABLES:
                    count = connection.scalar(select(func.count()).select_from(table))
                    print(f"{count:12,} {table.name}")
            engine.dispose()


if __name__ == "__main__":
    main()
