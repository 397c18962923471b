"""Compare one call of `record` for many requests with a separate call for each request.

    python -m bench.record [--process] [--requests 1000]

The command uses a fresh SQLite database and a fresh private MariaDB server, with durable commits as
in production. Without --process, all calls run in this process. With --process, each call runs the
action in a separate process, as StackStorm does, and the total time of the separate calls is
extrapolated from a sample. The exit code is then 1 if the one call takes more than a twentieth of
that time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any, Callable, Iterator, Sequence

from bench import history, incidents
from bench.server import MariaDB
from poundcake import announcement
from poundcake.announcement import Request
from poundcake.config import Config
from poundcake.trail import database
from poundcake.trail.record import record_requests
from tests.services import MissingProgram

MIN_SPEEDUP = 20
SAMPLE = 50
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# A function that records requests and returns {"outcomes": {outcome: number of alerts}}.
Record = Callable[[Sequence[Request]], Any]


def requests(count: int) -> list[Request]:
    """Return the newest requests of the history, ten alerts each, as the journal announces them."""
    end = datetime.now(timezone.utc)
    newest = []
    for rows in history.rows(incidents.SMALLEST, end):
        call: dict[str, Any] = dict(zip(history.CALLS, rows.calls[0]))
        newest.append(
            Request(
                request_id=call["request_id"],
                received_at=_parse_stored(call["created_at"]),
                client_host=call["client_host"],
                client_request_id="",
                method=call["method"],
                path=call["path"],
                headers=json.loads(call["headers"]),
                body=json.dumps(_webhook(call, rows.alerts)),
            )
        )
    return newest[-count:]


def _webhook(call: dict[str, Any], alerts: Sequence[incidents.Values]) -> dict[str, Any]:
    webhook_alerts = []
    for values in alerts:
        row: dict[str, Any] = dict(zip(history.ALERTS, values))
        ends_at = row["ends_at"]
        webhook_alerts.append(
            {
                "status": row["status"],
                "labels": json.loads(row["labels"]),
                "annotations": json.loads(row["annotations"]),
                "startsAt": _parse_stored(row["starts_at"]).isoformat(),
                "endsAt": _parse_stored(ends_at).isoformat() if ends_at else "0001-01-01T00:00:00Z",
                "generatorURL": row["generator_url"],
                "fingerprint": row["fingerprint"],
            }
        )
    return {
        "version": "4",
        "groupKey": call["group_key"],
        "status": call["group_status"],
        "receiver": call["receiver"],
        "truncatedAlerts": 0,
        "alerts": webhook_alerts,
    }


def _parse_stored(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=timezone.utc)


def in_process(url: str) -> Record:
    """Return record_requests() with an open engine."""
    engine = database.open_engine(url)
    database.prepare(engine)
    return lambda batch: record_requests(engine, Config(cooldown_seconds=0), batch)


def as_action(url: str) -> Record:
    """Return the action poundcake.record, which runs in a new process for each call."""
    engine = database.open_engine(url)
    database_id = database.prepare(engine)
    engine.dispose()
    marker = "bench-result\n"

    def record(batch: Sequence[Request]) -> Any:
        task = {
            "file": os.path.join(ROOT, "actions", "record.py"),
            "config": {"database_url": url},
            "parameters": announcement.pack(batch, database_id),
            "mark": marker,
        }
        process = subprocess.run(
            [sys.executable, os.path.join(ROOT, "standalone", "python_action.py")],
            input=json.dumps(task).encode(),
            stdout=subprocess.PIPE,
            check=True,
            env=dict(
                os.environ,
                ST2_ACTION_PACK_NAME="poundcake",
                PYTHONPATH=os.path.join(ROOT, "actions", "lib"),
            ),
        )
        output = json.loads(process.stdout.decode().split(marker)[1])
        if not output["status"]:
            sys.exit(f"record failed: {output['result']}")
        return output["result"]

    return record


@contextmanager
def sqlite() -> Iterator[Callable[[], str]]:
    """Yield a function that returns the URL of a fresh database."""
    with tempfile.TemporaryDirectory(prefix="poundcake-") as directory:
        names = iter(range(100))
        yield lambda: f"sqlite:///{directory}/{next(names)}.db"


@contextmanager
def mariadb() -> Iterator[Callable[[], str]]:
    """Yield a function that returns the URL of a fresh database on a private MariaDB."""
    with tempfile.TemporaryDirectory(prefix="poundcake-") as directory:
        os.chmod(directory, 0o755)  # the server runs under another account
        try:
            server = MariaDB(os.path.join(directory, "mariadb"))
        except MissingProgram as error:
            sys.exit(str(error))
        try:
            yield lambda: str(server.url(server.create_database()))
        finally:
            server.close()


def compare(
    new_database: Callable[[], str],
    make_record: Callable[[str], Record],
    batch: Sequence[Request],
    sample: int,
) -> tuple[float, float]:
    """Return how many seconds one call for all requests takes, and one call for each request.

    Args:
        new_database: Returns the URL of a fresh database.
        make_record: Returns a function that records into a database.
        sample: The number of calls with one request.
    """
    record = make_record(new_database())
    started = time.perf_counter()
    result = record(batch)
    batch_seconds = time.perf_counter() - started
    record = make_record(new_database())
    started = time.perf_counter()
    outcomes: Counter[str] = Counter()
    for request in batch[:sample]:
        outcomes.update(record([request])["outcomes"])
    single_seconds = (time.perf_counter() - started) * len(batch) / sample
    if sample == len(batch) and outcomes != result["outcomes"]:
        sys.exit(f"the outcomes differ: {result['outcomes']} and {dict(outcomes)}")
    return batch_seconds, single_seconds


def main() -> None:
    """Compare one call with separate calls on both databases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--process", action="store_true", help="use a process for each call")
    parser.add_argument("--requests", type=int, default=1000, help="at most 1000 (%(default)s)")
    arguments = parser.parse_args()
    if not 1 <= arguments.requests <= 1000:
        parser.error("--requests must be 1 to 1000")
    batch = requests(arguments.requests)
    make_record = as_action if arguments.process else in_process
    sample = min(SAMPLE, len(batch)) if arguments.process else len(batch)
    remark = "" if sample == len(batch) else f" (from {sample} of them)"
    is_too_slow = False
    for name, databases in (("SQLite", sqlite), ("MariaDB", mariadb)):
        with databases() as new_database:
            batch_seconds, single_seconds = compare(new_database, make_record, batch, sample)
        is_too_slow |= arguments.process and single_seconds < MIN_SPEEDUP * batch_seconds
        print(
            f"{name}: {len(batch)} requests in one call {batch_seconds:.2f} s, "
            f"one call per request {single_seconds:.1f} s"
            f"{remark}: {single_seconds / batch_seconds:.1f} times as long",
            flush=True,
        )
    if is_too_slow:
        sys.exit(f"one call must be at least {MIN_SPEEDUP} times faster")


if __name__ == "__main__":
    main()
