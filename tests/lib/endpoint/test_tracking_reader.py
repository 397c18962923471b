"""The reader of the tracking database limits views and measures the offset of the clock."""

from __future__ import annotations

import datetime
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from poundcake.endpoint import tracking_reader
from poundcake.endpoint.tracking_reader import (
    CLOCK_CHECK_SECONDS,
    MAX_VIEWS,
    MAX_WAITING_VIEWS,
    TrackingReader,
)
from poundcake.trail import clock, database
from poundcake.trail.database import DatabaseError, holds
from tests.lib.trails import on_mariadb, on_sqlite


@pytest.fixture
def set_clock_ahead(monkeypatch):
    """Return a function that sets this machine's clock ahead by this many seconds."""
    local_now = clock.local_now

    def set_ahead(seconds):
        offset = datetime.timedelta(seconds=seconds)
        monkeypatch.setattr(clock, "local_now", lambda: local_now() + offset)

    return set_ahead


def test_the_number_of_concurrent_views_is_limited(engine, monkeypatch):
    """The pipeline then waits for only a few views, however many clients there are."""
    reader, active_queries, concurrent_counts = TrackingReader(engine, True), [], []

    def slow_read(query):
        active_queries.append(query)
        concurrent_counts.append(len(active_queries))
        time.sleep(0.02)  # another thread can enter meanwhile
        active_queries.pop()

    monkeypatch.setattr(reader, "read", slow_read)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(reader.read_view, range(16)))
    assert len(concurrent_counts) == 16
    assert max(concurrent_counts) <= MAX_VIEWS


def test_views_over_the_waiting_limit_are_refused(engine, monkeypatch):
    reader, may_end = TrackingReader(engine, True), threading.Event()
    monkeypatch.setattr(reader, "read", lambda query: may_end.wait(60))
    refusals = threading.Semaphore(0)

    def read_view(number):
        try:
            return reader.read_view(number)
        except DatabaseError as error:
            refusals.release()
            return str(error)

    with ThreadPoolExecutor(MAX_WAITING_VIEWS + 5) as pool:
        futures = [pool.submit(read_view, number) for number in range(MAX_WAITING_VIEWS + 5)]
        for _ in range(5):
            assert refusals.acquire(timeout=60)
        may_end.set()
        results = [future.result() for future in futures]
    assert results.count("32 other views are waiting; try again") == 5
    assert results.count(True) == MAX_WAITING_VIEWS
    assert reader.read_view(0)


@on_mariadb
@pytest.mark.parametrize("seconds", [0, 600, -7200])
def test_the_offset_from_the_databases_clock_is_measured(engine, set_clock_ahead, seconds):
    set_clock_ahead(seconds)
    assert abs(TrackingReader(engine, True).clock_offset() - seconds) < 5


@on_mariadb
def test_the_offset_is_measured_again_with_other_reads(engine, set_clock_ahead, monkeypatch):
    reader = TrackingReader(engine, True)
    reader.clock_offset()
    set_clock_ahead(600)
    reader.read(lambda connection: None)
    assert abs(reader.clock_offset()) < 5
    now = tracking_reader.monotonic() + CLOCK_CHECK_SECONDS
    monkeypatch.setattr(tracking_reader, "monotonic", lambda: now)
    reader.read(lambda connection: None)
    assert abs(reader.clock_offset() - 600) < 5


@on_sqlite
def test_sqlite_uses_this_machines_clock(engine, set_clock_ahead):
    set_clock_ahead(600)
    reader = TrackingReader(engine, True)
    reader.read(lambda connection: None)
    assert reader.clock_offset() == 0


def test_a_database_whose_trail_was_moved_is_not_used(engine):
    """The reader refuses to read anything, even its id, so nothing more is announced or emitted."""
    reader = TrackingReader(engine, True)
    reader.database_id()
    with database.transaction(engine) as connection:
        holds.set_mark(connection, holds.MOVED_TO, "another-id", "sqlite:////new")
    for read_database in (lambda: reader.read(lambda connection: None), reader.database_id):
        with pytest.raises(DatabaseError, match="the trail was moved to sqlite:////new"):
            read_database()
