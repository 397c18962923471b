"""What is open is counted as the views show it."""

from __future__ import annotations

from sqlalchemy import update

from poundcake.trail import database
from poundcake.trail.open_counts import OpenCounts, read_open_counts
from poundcake.trail.schema import changes
from tests.lib.recorded_day import record_day


def read(engine, breaker_failures=0):
    with database.reading(engine) as connection:
        return read_open_counts(connection, breaker_failures)


def test_a_new_database_has_nothing_open(engine):
    assert read(engine, 1) == OpenCounts(0, 0, 0)


def test_incidents_workflows_and_breakers_are_counted(engine):
    record_day(engine)
    # rack-8 waits for an approval; see test_stats for the number of incidents.
    assert read(engine) == OpenCounts(incidents=17, waiting_workflows=1, open_breakers=0)
    # The newest change of nginx was not verified, and that of disk failed.
    assert read(engine, 1).open_breakers == 2
    assert read(engine, 2).open_breakers == 1
    with database.transaction(engine) as connection:
        connection.execute(update(changes).values(result="cleared"))
    assert read(engine, 1).open_breakers == 0
