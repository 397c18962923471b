"""A list of requests recorded in one call of `record`, against one call for each.

    python -m bench.record [--process] [--requests 1000]

On a fresh SQLite and a fresh MariaDB of its own, with durable commits as in use. In one process it
compares the work alone; with --process each call is the action in a process of its own, as
StackStorm runs it, and the calls of one request are a sample. A call of `record` is the latter:
with --process it ends with 1 where the one call takes more than a twentieth of the time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from datetime import datetime, timezone

from bench import history
from bench.server import MariaDB
from poundcake import announcement
from poundcake.announcement import Request
from poundcake.config import Config
from poundcake.trail import database
from poundcake.trail.record import record_requests
from tests.services import Missing

TIMES = 20
SAMPLE = 50
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def requests(count):
    """The newest requests of the history, ten alerts each, as the journal announces them."""
    end = datetime.now(timezone.utc)
    found = []
    for (call,), alerts, _, _ in history.rows(history.SMALLEST, end):
        call = dict(zip(history.CALLS, call))
        found.append(
            Request(
                request_id=call["request_id"],
                received_at=_moment(call["created_at"]),
                client_host=call["client_host"],
                client_request_id="",
                method=call["method"],
                path=call["path"],
                headers=json.loads(call["headers"]),
                body=json.dumps(_webhook(call, alerts)),
            )
        )
    return found[-count:]


def _webhook(call, rows):
    listed = []
    for row in rows:
        row = dict(zip(history.ALERTS, row))
        ends_at = row["ends_at"]
        listed.append(
            {
                "status": row["status"],
                "labels": json.loads(row["labels"]),
                "annotations": json.loads(row["annotations"]),
                "startsAt": _moment(row["starts_at"]).isoformat(),
                "endsAt": _moment(ends_at).isoformat() if ends_at else "0001-01-01T00:00:00Z",
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
        "alerts": listed,
    }


def _moment(text):
    return datetime.strptime(text, "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=timezone.utc)


class InProcess:
    """tracking.record on an engine that is open."""

    def __init__(self, url):
        self.engine = database.open_engine(url)
        database.prepare(self.engine)

    def __call__(self, some):
        return record_requests(self.engine, Config(), some)


class AsAction:
    """The action poundcake.record, each time a new process."""

    def __init__(self, url):
        self.url = url
        engine = database.open_engine(url)
        self.database_id = database.prepare(engine)
        engine.dispose()

    def __call__(self, some):
        mark = "bench-result\n"
        task = {
            "file": os.path.join(ROOT, "actions", "record.py"),
            "config": {"database_url": self.url},
            "parameters": announcement.pack(some, self.database_id),
            "mark": mark,
        }
        run = subprocess.run(
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
        answer = json.loads(run.stdout.decode().split(mark)[1])
        if not answer["status"]:
            sys.exit("record failed: {}".format(answer["result"]))
        return answer["result"]


@contextmanager
def sqlite():
    """A context: a function that gives the URL of a fresh database."""
    with tempfile.TemporaryDirectory(prefix="poundcake-") as directory:
        names = iter(range(100))
        yield lambda: f"sqlite:///{directory}/{next(names)}.db"


@contextmanager
def mariadb():
    """The same on a MariaDB of its own."""
    with tempfile.TemporaryDirectory(prefix="poundcake-") as directory:
        os.chmod(directory, 0o755)  # the server runs under an account of its own
        try:
            server = MariaDB(os.path.join(directory, "mariadb"))
        except Missing as missing:
            sys.exit(str(missing))
        try:
            yield lambda: server.url(server.create_database())
        finally:
            server.close()


def compare(fresh, kind, some, sample):
    """(seconds of one call, seconds of a call for each, of which `sample` were made)."""
    once = kind(fresh())
    started = time.perf_counter()
    whole = once(some)
    one = time.perf_counter() - started
    each = kind(fresh())
    started = time.perf_counter()
    outcomes = {}
    for request in some[:sample]:
        for outcome, times in each([request])["outcomes"].items():
            outcomes[outcome] = outcomes.get(outcome, 0) + times
    many = (time.perf_counter() - started) * len(some) / sample
    if sample == len(some) and outcomes != whole["outcomes"]:
        sys.exit("not the same: {} and {}".format(whole["outcomes"], outcomes))
    return one, many


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--process", action="store_true", help="each call in its own process")
    parser.add_argument("--requests", type=int, default=1000, help="at most 1000 (%(default)s)")
    chosen = parser.parse_args()
    if not 1 <= chosen.requests <= 1000:
        parser.error("--requests: 1 to 1000 are expected")
    some = requests(chosen.requests)
    kind = AsAction if chosen.process else InProcess
    sample = min(SAMPLE, len(some)) if chosen.process else len(some)
    missed = False
    for name, place in (("SQLite", sqlite), ("MariaDB", mariadb)):
        with place() as fresh:
            one, many = compare(fresh, kind, some, sample)
        missed |= chosen.process and many < TIMES * one
        print(
            "{}: {} requests in one call {:.2f} s, a call for each {:.1f} s{}: {:.1f} times".format(
                name,
                len(some),
                one,
                many,
                "" if sample == len(some) else f" (from {sample} of them)",
                many / one,
            ),
            flush=True,
        )
    if missed:
        sys.exit(f"{TIMES} times are expected")


if __name__ == "__main__":
    main()
