"""The endpoint's access to the tracking database."""

from __future__ import annotations

import datetime
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from poundcake.endpoint import tracking_reader
from poundcake.endpoint.tracking_reader import CLOCK_WAIT, MAX_VIEWS, TrackingReader
from poundcake.trail import clock, database
from poundcake.trail.database import DatabaseError, holds
from tests.lib.trails import on_mariadb, on_sqlite


@pytest.fixture
def ahead(monkeypatch):
    """Return a function that sets this machine's clock ahead by seconds."""
    local_now = clock.local_now

    def set_ahead(seconds):
        moment = datetime.timedelta(seconds=seconds)
        monkeypatch.setattr(clock, "local_now", lambda: local_now() + moment)

    return set_ahead


def test_few_views_are_read_at_a_time(engine, monkeypatch):
    """However many clients read views, the pipeline waits for few of them."""
    reader, reading, most = TrackingReader(engine, True), [], []

    def observed(query):
        reading.append(query)
        most.append(len(reading))
        time.sleep(0.02)  # lets another thread enter
        reading.pop()

    monkeypatch.setattr(reader, "read", observed)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(reader.read_view, range(16)))
    assert len(most) == 16
    assert max(most) <= MAX_VIEWS


@on_mariadb
@pytest.mark.parametrize("seconds", [0, 600, -7200])
def test_the_offset_from_the_databases_clock(engine, ahead, seconds):
    ahead(seconds)
    assert abs(TrackingReader(engine, True).clock_offset() - seconds) < 5


@on_mariadb
def test_the_offset_is_measured_again_with_other_reads(engine, ahead, monkeypatch):
    reader = TrackingReader(engine, True)
    reader.clock_offset()
    ahead(600)
    reader.read(lambda connection: None)
    assert abs(reader.clock_offset()) < 5
    now = tracking_reader.monotonic() + CLOCK_WAIT
    monkeypatch.setattr(tracking_reader, "monotonic", lambda: now)
    reader.read(lambda connection: None)
    assert abs(reader.clock_offset() - 600) < 5


@on_sqlite
def test_sqlite_uses_this_machines_clock(engine, ahead):
    ahead(600)
    reader = TrackingReader(engine, True)
    reader.read(lambda connection: None)
    assert reader.clock_offset() == 0


def test_a_database_whose_trail_was_moved_is_not_used(engine):
    """Nothing is announced or emitted any more, because its id and every read are refused."""
    reader = TrackingReader(engine, True)
    reader.database_id()
    with database.transaction(engine) as connection:
        holds.set_mark(connection, holds.MOVED_TO, "another-id", "sqlite:////new")
    for use in (lambda: reader.read(lambda connection: None), reader.database_id):
        with pytest.raises(DatabaseError, match="the trail was moved to sqlite:////new"):
            use()
