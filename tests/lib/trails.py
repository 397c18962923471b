"""Record trails for tests, and read the pages of views."""

from __future__ import annotations

import functools
import json
import threading
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import pytest
from sqlalchemy import event
from sqlalchemy.pool import QueuePool

from poundcake.config import Config
from poundcake.stackstorm import Execution
from poundcake.trail import claims, clock, database, search
from poundcake.trail.mirror import write_execution
from poundcake.trail.record import record_requests
from poundcake.trail.search import Filters
from tests.lib.samples import NOON, iso, later, request

WORKFLOW = "poundcake.host_down"
# For tests that run on one kind of database only.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_mariadb = pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
# LIVEACTION_STATUSES of st2common/constants/action.py, and `gone`, which only the pack uses.
STATUSES = (
    "requested scheduled delayed running succeeded failed timeout abandoned canceling canceled"
    " pending pausing paused resuming gone"
).split()


def episode(fingerprint, starts_at=NOON):
    return f"{fingerprint}-{int(starts_at.timestamp() * 1000)}"


@contextmanager
def database_time(moment):
    """Stop the database's clock at a given time. Not thread-safe."""
    with mock.patch.object(clock, "database_now", lambda connection: moment):
        yield


def record(engine, *alerts, config=None, **fields):
    """Record one request at the time of its receipt, and return its id."""
    new_request = request(*alerts, **fields)
    with database_time(new_request.received_at):
        record_requests(engine, config or Config(cooldown_seconds=0), [new_request])
    return new_request.request_id


def record_execution(
    engine, request_id, episode, execution="e1", workflow=WORKFLOW, **other_fields
):
    """Link an ended execution to an episode."""
    claims.link(engine, request_id, episode, workflow, execution)
    fields = {
        "id": execution,
        "status": "succeeded",
        "start_timestamp": iso(later(10)),
        "end_timestamp": iso(later(12.5)),
        "rule": {"ref": "poundcake.host_down"},
        "result": {
            "output": {
                "dry_run": False,
                "mutated": True,
                "verified": True,
                "stage": "done",
                "message": "web-1 answers",
            }
        },
    }
    fields.update(other_fields)
    with database.transaction(engine) as connection:
        write_execution(connection, Execution.parse(fields), NOON)


def disable_fsync(engine):
    """Let SQLite commit without waiting for the disk, because no test cuts the power."""
    if engine.dialect.name == "sqlite":
        event.listen(
            engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF")
        )


class _Pool(QueuePool):
    """A pool without a maximum, because tests use many connections at once."""

    def __init__(self, creator, **options):
        super().__init__(creator, **{**options, "max_overflow": -1})


@functools.lru_cache(maxsize=None)
def open_shared_engine(url):
    """Return the engine that all tests with this URL share, because it caches the statements.

    It keeps its connections to SQLite until the test ends: opening one takes longer than most
    statements. In production, each transaction opens one, because of eventlet's locks.
    """
    with mock.patch("poundcake.trail.database.engine.NullPool", _Pool):
        engine = database.open_engine(url)
    disable_fsync(engine)
    return engine


def in_parallel(count, work):
    """Run work(index) in `count` threads at once, and return each result or exception."""
    start, results = threading.Barrier(count), [None] * count

    def run(index):
        start.wait()
        try:
            results[index] = work(index)
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def view(engine, function, *args, **query):
    with database.reading(engine) as connection:
        result = function(connection, *args, **query)
    json.dumps(result)  # the HTTP route must be able to serialize it
    return result


def pages(engine, function, *args, filters=Filters(), **query):
    """Yield all pages of a view, following `next` from page to page."""
    for _ in range(100):
        page = view(engine, function, *args, filters=filters, **query)
        yield page
        if "next" not in page:
            return
        filters = replace(filters, before=search.parse(before=page["next"]).before)
    raise AssertionError("the pages do not end")
