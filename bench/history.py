"""A made-up history: what a busy Alertmanager leaves in the tracking tables in a year.

    python -m bench.history [--directory DIRECTORY] [--mariadb] [--small 10000] [--large 1000000]

The same seed and the same end make the same rows, and a shorter history is the last part of a
longer one: the alerts of an hour, the open incidents and the shares of names, outcomes and
statuses do not depend on the length.

500 places, ten to a group, each have one incident after another. A group is one Alertmanager
notification: 50 groups take turns, one request every 31.5 seconds. Lengths are drawn from the end
backwards, so that the end is the same however far back the history goes.
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import json
import os
import random
import sqlite3
import sys
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from itertools import chain, islice

from sqlalchemy import create_engine, func, inspect, select
from sqlalchemy.engine import make_url

from bench.server import BUFFER_POOL, MariaDB
from poundcake.alertmanager import episode_name, fingerprint
from poundcake.timestamps import format_timestamp, parse_timestamp
from poundcake.trail import schema
from tests.services import Missing

SEED = 20
# 10 million alerts are a year.
INTERVAL = timedelta(seconds=31.536)
GROUPS = 50
PER_REQUEST = 10
# Of the 50 groups, those that bundle one alert name; the others bundle a cluster's alerts.
NAMED = 25
SMALLEST = 10_000
# Requests in one transaction.
AT_ONCE = 1000

SERVICES = (
    "Host Disk Memory Cpu Network Postgres Redis Kafka Nginx Api Checkout Search Mail Dns Backup "
    "Certificate Queue Storage Scheduler Cache"
).split()
PROBLEMS = "Down LatencyHigh ErrorsHigh Full Saturated Lagging Flapping Degraded Stuck Slow".split()
NAMES = [service + problem for problem in PROBLEMS for service in SERVICES]
INSTANCES = 5000
WORKFLOWS = ["poundcake.host_down", "poundcake.disk_cleanup", "poundcake.service_restart"]
OTHER_WORKFLOW = "operations.notify"

STATUSES = ["succeeded", "failed", "timeout", "canceled", "abandoned"]
STATUS_WEIGHTS = [93, 6, 0.5, 0.3, 0.2]

CALLS = (
    "id request_id method path headers body status_code created_at completed_at client_host "
    "receiver group_key group_status truncated_alerts delivery_key body_sha256"
).split()
ALERTS = (
    "id api_call_id position fingerprint alert_name severity instance labels annotations "
    "generator_url status starts_at ends_at created_at recorded_at episode outcome reason explanation "
    "explanation_reason checked_at st2_rule_matched open_fingerprint last_seen_at notifications "
    "closed_at attempt"
).split()
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


def stored(moment):
    """A moment as both databases take it."""
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")


def digest(*what):
    return hashlib.sha256(repr((SEED,) + what).encode()).hexdigest()


def request_id(number):
    return str(uuid.UUID(digest("request", number)[:32], version=4))


def workflow_of(name):
    return WORKFLOWS[NAMES.index(name) % len(WORKFLOWS)]


class Incident:
    """One incident: how its notifications went, from the first (0) to the last.

    place: 0 to 499. number: counted back from the newest of the place, which is open. opened: its
    first notification, counted back from the group's newest. length: its notifications, with the
    resolve.
    """

    def __init__(self, place, number, opened, length, end):
        draw = random.Random(f"{SEED}-{place}-{number}")
        self.group, self.position = divmod(place, PER_REQUEST)
        self.end, self.opened, self.length = end, opened, length
        self.open = number == 0
        if self.group < NAMED:
            rank = self.group
        else:
            # Frequent names are much more frequent than rare ones.
            rank = int(len(NAMES) ** draw.random()) - 1
        self.name = NAMES[rank]
        # No two places share an instance, so that no two incidents of one fingerprint overlap.
        host = place + GROUPS * PER_REQUEST * draw.randrange(INSTANCES // (GROUPS * PER_REQUEST))
        service = SERVICES[rank % len(SERVICES)].lower()
        self.instance = f"{service}-{host:04}.fra{host % 4 + 1}.example:9100"
        self.severity = ["warning", "critical", "warning", "info", "warning", "critical"][rank % 6]
        if draw.random() < 0.001 or place == GROUPS * PER_REQUEST - 1 and self.open:
            self.severity = "page"
        labels = {
            "alertname": self.name,
            "cluster": f"fra{host % 4 + 1}",
            "environment": "production",
            "instance": self.instance,
            "job": service,
            "prometheus": f"monitoring/prometheus-{host % 2}",
            "severity": self.severity,
            "team": "team-" + service,
        }
        self.fingerprint = fingerprint(labels)
        self.labels = json.dumps(labels)
        self.annotations = json.dumps(
            {
                "summary": f"{self.name} on {self.instance}",
                "description": f"{self.name} has been seen on {self.instance} for more than 5 minutes, the value is "
                f"{draw.uniform(1, 100):.1f}.",
                "runbook_url": "https://runbooks.example/" + self.name.lower(),
            }
        )
        self.starts_at = self.received_at(0) - timedelta(seconds=draw.uniform(20, 90))
        self.episode = episode_name(self.fingerprint, self.starts_at)
        self.starts = stored(self.starts_at)
        self.draw = draw
        self._plan(draw)
        self.fragment = json.dumps(
            {
                "fingerprint": self.fingerprint,
                "labels": {"alertname": self.name, "instance": self.instance},
                "startsAt": format_timestamp(self.starts_at),
            }
        )[1:]

    def _plan(self, draw):
        firing = self.length - (not self.open)
        # How often it is refused before it is admitted, if it ever is.
        self.refused = draw.randint(1, 4) if draw.random() < 0.15 else 0
        self.refusal = draw.choice(["cooldown", "cooldown", "rate_limited"])
        self.refused = min(self.refused, firing)
        # One notification in a few incidents cannot be read, or says what is not so.
        self.odd, self.oddity = None, draw.choice(["malformed", "nothing open", "nothing open"])
        if firing > self.refused + 2 and draw.random() < 0.25:
            self.odd = draw.randrange(self.refused + 1, firing - 1)
        self.firing = firing
        self.duplicate = f"duplicate of {request_id(self.request(self.refused))}"

    def request(self, nth):
        """The number of the request of the nth notification, counted back from the newest."""
        return (self.opened - nth) * GROUPS + self.group

    def received_at(self, nth):
        return received_at(self.request(nth), self.end)

    def row(self, nth, created_at):
        """The nth notification: (status, what the rest of its row of poundcake_alerts is).

        created_at: when it came, as it is stored.
        """
        if nth == self.odd:
            return self._odd(created_at)
        if nth == self.firing:
            holder = self.refused if self.refused < self.firing else 0
            checked = stored(self.received_at(nth) + timedelta(seconds=12))
            return "resolved", (
                created_at,
                self.episode,
                "resolved",
                f"ends the incident of {request_id(self.request(holder))}",
                "no_rule",
                "no rule matched",
                checked,
                None,
                None,
                created_at,
                1,
                None,
            )
        if nth < self.refused:
            return "firing", self._refused(nth, created_at)
        if nth == self.refused:
            return "firing", self._admitted(nth)
        return "firing", (
            None,
            self.episode,
            "duplicate",
            self.duplicate,
            "none",
            None,
            None,
            None,
            None,
            created_at,
            1,
            None,
        )

    def _odd(self, created_at):
        if self.oddity == "malformed":
            reason = "alerts[{}].endsAt: an RFC 3339 time is expected, such as 2026-01-14T12:00:00Z"
            status, name, reason = "firing", "malformed", reason.format(self.position)
        else:
            status, name, reason = "resolved", "duplicate", "nothing open"
        ends_at = created_at if status == "resolved" else None
        rest = (ends_at, None, name, reason, "none", None, None, None, None, created_at, 1, None)
        return status, rest

    def _refused(self, nth, created_at):
        until = format_timestamp(self.received_at(self.refused))
        reason = f"cooldown until {until}"
        if self.refusal == "rate_limited":
            reason = f"limit of 100 an hour for this alert name until {until}"
        opens, last_seen, seen, closed = None, created_at, 1, None
        if nth == 0:
            # The later refusals are its repeats.
            seen = self.refused
            last_seen = stored(self.received_at(self.refused - 1))
            if self.refused < self.length:
                closed = stored(self.received_at(self.refused))
            elif self.open:
                opens = self.fingerprint
        return (
            None,
            self.episode,
            self.refusal,
            reason,
            "none",
            None,
            None,
            None,
            opens,
            last_seen,
            seen,
            closed,
        )

    def _admitted(self, nth):
        reason = "new incident"
        if nth:
            reason = "first notification after {}".format(self.refusal.replace("_", " "))
        return (
            None,
            self.episode,
            "admitted",
            reason,
            "execution",
            "",
            stored(self.received_at(nth) + timedelta(seconds=self.draw.uniform(5, 15))),
            workflow_of(self.name),
            self.fingerprint if self.open else None,
            stored(self.received_at(self.firing - 1)),
            self.firing - nth - (self.odd is not None),
            None if self.open else stored(self.received_at(self.firing)),
        )

    def runs(self):
        """The executions for the admitted row: [(id, workflow, claim, row of execution_db)]."""
        number = self.request(self.refused)
        came = self.received_at(self.refused)
        workflows = [(workflow_of(self.name), f"{self.episode}|{workflow_of(self.name)}")]
        if self.draw.random() < 0.01:
            workflows.append((OTHER_WORKFLOW, None))
        # A few of the newest are not through yet.
        running = number < 3 * GROUPS and self.position == 0
        made = []
        for workflow, claim in workflows:
            name = digest("execution", number, self.position, workflow)[:16]
            row = self._run(name, workflow, came, running)
            made.append((row[0], workflow, claim, row))
        return made

    def _run(self, name, workflow, came, running):
        status = self.draw.choices(STATUSES, STATUS_WEIGHTS)[0]
        dry_run = self.draw.random() < 0.3
        seconds = self.draw.expovariate(1 / 40)
        started = came + timedelta(seconds=self.draw.uniform(1, 4))
        ended = started + timedelta(seconds=3600 if status == "timeout" else 2 + seconds)
        # MongoDB's ObjectId begins with the second it was made in: neighbours in time are
        # neighbours in an index.
        execution_id = f"{int(started.timestamp()):08x}{name}"
        host = self.instance.partition(":")[0]
        error, stage, message, flags = None, None, None, (None, None, None)
        if running:
            status, ended = "running", None
        elif status == "succeeded":
            flags = (dry_run, not dry_run, not dry_run)
            stage = "done"
            message = f"{self.name} on {host}: 3 of 3 checks passed"
        else:
            error = f"{workflow} on {host}: {status}"
            if status == "failed":
                flags = (dry_run, False, False)
                stage, message = "unreachable", f"{host} does not answer on port 22"
        return (
            execution_id,
            workflow,
            status,
            stored(started),
            stored(ended) if ended else None,
            workflow,
            error,
            *flags,
            stage,
            message,
            "https://st2.example/#/history/" + execution_id,
            stored((ended or started) + timedelta(seconds=5)),
        )


def received_at(number, end):
    """When a request came: number 0 at the end, each a little off the beat."""
    return end - INTERVAL * number - timedelta(milliseconds=number * 7919 % 3000)


def incidents(place, notifications, end):
    """The incidents of one place within so many notifications, the oldest first."""
    draw = random.Random(f"{SEED}-{place}")
    # The open one began within the shortest history.
    lengths = [draw.randint(1, SMALLEST // PER_REQUEST // GROUPS - 1)]
    covered = lengths[0]
    while covered < notifications:
        lengths.append(draw.randint(3, 60))
        covered += lengths[-1]
    for number in reversed(range(len(lengths))):
        yield Incident(place, number, covered - 1, lengths[number], end)
        covered -= lengths[number]


def rows(alerts, end):
    """The rows of each request, the oldest first: one list for each of TABLES."""
    calls = alerts // PER_REQUEST
    notifications = calls // GROUPS
    places = [incidents(place, notifications, end) for place in range(GROUPS * PER_REQUEST)]
    current = [next(place) for place in places]
    link_id = 0
    for number in reversed(range(calls)):
        notification, group = divmod(number, GROUPS)
        call_id = calls - number
        came = received_at(number, end)
        created_at = stored(came)
        recorded_at = stored(came + timedelta(milliseconds=400 + number * 31 % 900))
        own_id = request_id(number)
        completed_at = recorded_at
        alert_rows, link_rows, execution_rows, fragments = [], [], [], []
        for position in range(PER_REQUEST):
            place = group * PER_REQUEST + position
            incident = current[place]
            nth = incident.opened - notification
            if nth == incident.length:
                incident = current[place] = next(places[place])
                nth = 0
            alert_id = (call_id - 1) * PER_REQUEST + position + 1
            status, (ends_at, *rest) = incident.row(nth, created_at)
            fragments.append('{"status": "' + status + '", ' + incident.fragment)
            alert_rows.append(
                (
                    alert_id,
                    call_id,
                    position,
                    incident.fingerprint,
                    incident.name,
                    incident.severity,
                    incident.instance,
                    incident.labels,
                    incident.annotations,
                    "http://prometheus.example/graph?g0.expr=up",
                    status,
                    incident.starts,
                    ends_at,
                    created_at,
                    recorded_at,
                    *rest,
                    1,
                )
            )
            if rest[1] == "resolved" and completed_at is not None:
                completed_at = max(completed_at, rest[5])
            if rest[1] == "admitted":
                for execution_id, workflow, claim, execution in incident.runs():
                    link_id += 1
                    execution_rows.append(execution)
                    link_rows.append(
                        (
                            link_id,
                            own_id,
                            alert_id,
                            execution_id,
                            workflow,
                            workflow,
                            execution[3],
                            claim,
                        )
                    )
                    ended = execution[4] and execution[-1]
                    if completed_at is not None:
                        completed_at = ended and max(completed_at, ended)
        body = '{{"version": "4", "receiver": "poundcake", "status": "firing", "alerts": [{}]}}'
        body = body.format(", ".join(fragments))
        sha256 = hashlib.sha256(body.encode()).hexdigest()
        call = (
            call_id,
            own_id,
            "POST",
            "/api/v1/webhook",
            HEADERS,
            body,
            202,
            created_at,
            completed_at,
            f"192.0.2.{1 + number % 3}",
            "poundcake",
            f'{{}}/{{team=~".+"}}:{{group="{group}"}}',
            "firing",
            0,
            sha256[::-1],
            sha256,
        )
        yield [call], alert_rows, execution_rows, link_rows


def build(url, alerts, end):
    """Makes the tables in an empty database and fills them. url: SQLAlchemy's."""
    mariadb = make_url(url).get_backend_name() == "mysql"
    engine = create_engine(url, connect_args={"local_infile": True} if mariadb else {})
    write = load if mariadb else insert
    started = time.monotonic()
    with engine.connect() as connection:
        if not mariadb:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            connection.exec_driver_sql("PRAGMA synchronous = OFF")
            connection.exec_driver_sql("PRAGMA cache_size = -500000")
        schema.metadata.create_all(connection)
        # Many times quicker than row by row.
        later = {
            t: sorted(t.indexes, key=lambda i: i.name) for t in (schema.api_calls, schema.alerts)
        }
        for indexes in later.values():
            for index in indexes:
                index.drop(connection)
        connection.commit()
        made = rows(alerts, end)
        # The requests of a transaction are written while those of the next are made up.
        with ThreadPoolExecutor(1) as writer:
            writing = writer.submit(int)
            for some in iter(lambda: list(islice(made, AT_ONCE)), []):
                writing.result()
                writing = writer.submit(write_all, connection, write, some)
            writing.result()
        print(f"{alerts:,} alerts written after {time.monotonic() - started:.0f} s")
        for table, indexes in later.items():
            if mariadb:
                # All in one reading of the table.
                added = ", ".join(
                    "ADD INDEX {} ({})".format(i.name, ", ".join(c.name for c in i.columns))
                    for i in indexes
                )
                connection.exec_driver_sql(f"ALTER TABLE {table.name} {added}")
            else:
                for index in indexes:
                    index.create(connection)
        connection.execute(
            schema.meta.insert(),
            [
                {"name": "schema", "value": str(schema.VERSION)},
                {"name": "indexes", "value": str(schema.INDEX_REVISIONS[-1])},
                {"name": "database_id", "value": str(uuid.UUID(digest("database")[:32]))},
                {"name": "history", "value": _wanted(alerts, end)},
            ],
        )
        connection.commit()
        if mariadb:
            names = ", ".join(table.name for table, _ in TABLES)
            connection.exec_driver_sql("ANALYZE TABLE " + names).all()
    engine.dispose()
    print(f"indexes made, {time.monotonic() - started:.0f} s in all", flush=True)


@contextmanager
def open_histories(chosen, sizes=None):
    """{size: URL} of the histories that the options choose, built where they are not there yet.

    A context: the MariaDB in the directory runs as long. sizes: those wanted, both by default.
    """
    directory = os.path.abspath(chosen.directory)
    os.makedirs(directory, exist_ok=True)
    try:
        server = MariaDB(os.path.join(directory, "mariadb")) if chosen.mariadb else None
    except Missing as missing:
        sys.exit(str(missing))
    try:
        if server:
            print(f"MariaDB {server.version()}, buffer pool {BUFFER_POOL}")
        else:
            print(f"SQLite {sqlite3.sqlite_version}")
        end = _end(directory)
        wanted = sizes or [chosen.small, chosen.large]
        yield {alerts: _history(directory, server, alerts, end) for alerts in wanted}
    finally:
        if server:
            server.close()


def _end(directory):
    """When the histories of a directory end: when the first of them was built."""
    path = os.path.join(directory, "end")
    if not os.path.exists(path):
        with open(path, "w") as file:
            file.write(format_timestamp(datetime.now(timezone.utc).replace(microsecond=0)))
    with open(path) as file:
        return parse_timestamp(file.read())


def _history(directory, server, size, end):
    name = f"poundcake_{size}"
    path = os.path.join(directory, name + ".db")
    url = server.url(name) if server else "sqlite:///" + path
    if server:
        server.execute(f"CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8mb4")
    if not _is_there(url, _wanted(size, end)):
        print(f"building a history of {size:,} alerts", flush=True)
        if server:
            server.drop_database(name)
            server.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        else:
            for file in glob.glob(glob.escape(path) + "*"):
                os.unlink(file)
        build(url, size, end)
    return url


def _wanted(size, end):
    return f"{size} alerts, seed {SEED}, end {format_timestamp(end)}"


def _is_there(url, wanted):
    """Whether the database has this history, whole and with the tables of this release."""
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table(schema.meta.name):
                return False
            rows = connection.execute(select(schema.meta.c.name, schema.meta.c.value))
            found = {name: value for name, value in rows}
    finally:
        engine.dispose()
    return found.get("history") == wanted and found["schema"] == str(schema.VERSION)


def options(description):
    """The options that the tools of this folder share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--directory",
        default=os.path.join(tempfile.gettempdir(), "poundcake-bench"),
        help="where the histories are kept (default: %(default)s)",
    )
    parser.add_argument(
        "--mariadb", action="store_true", help="on a MariaDB of its own instead of SQLite"
    )
    for name, default in (("small", SMALLEST), ("large", 1_000_000)):
        parser.add_argument(
            "--" + name, type=size, default=default, help="alerts (default: %(default)s)"
        )
    return parser


def size(text):
    """A number of alerts, from the command line."""
    number = int(text) if text.isdigit() else 0
    if number < SMALLEST or number % SMALLEST:
        raise argparse.ArgumentTypeError(f"a multiple of {SMALLEST} is expected")
    return number


def write_all(connection, write, requests):
    for (table, columns), lists in zip(TABLES, zip(*requests)):
        write(connection, table, columns, list(chain.from_iterable(lists)))
    connection.commit()


def insert(connection, table, columns, made):
    statement = "INSERT INTO {} ({}) VALUES ({})".format(
        table.name, ", ".join(columns), ", ".join("?" * len(columns))
    )
    connection.exec_driver_sql(statement, made)


def load(connection, table, columns, made):
    """Several times quicker than INSERT, which the driver writes value by value."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="") as file:
        for row in made:
            file.write("\t".join(map(field, row)) + "\n")
        file.flush()
        connection.exec_driver_sql(
            "LOAD DATA LOCAL INFILE '{}' INTO TABLE {} CHARACTER SET utf8mb4 ({})".format(
                file.name, table.name, ", ".join(columns)
            )
        )


def field(value):
    """As LOAD DATA reads it."""
    if value is None:
        return "\\N"
    if isinstance(value, str):
        for plain, escaped in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n")):
            if plain in value:
                value = value.replace(plain, escaped)
        return value
    return str(int(value))


def main():
    chosen = options(__doc__).parse_args()
    with open_histories(chosen) as urls:
        for alerts in sorted(urls):
            engine = create_engine(urls[alerts])
            with engine.connect() as connection:
                for table, _ in TABLES:
                    count = connection.scalar(select(func.count()).select_from(table))
                    print(f"{count:12,} {table.name}")
            engine.dispose()


if __name__ == "__main__":
    main()
