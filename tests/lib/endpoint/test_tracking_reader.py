"""The endpoint's access to the tracking database."""

from __future__ import annotations

import datetime

import pytest

from poundcake.endpoint import tracking_reader
from poundcake.endpoint.tracking_reader import CLOCK_WAIT, TrackingReader
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
