"""What is open is counted as the views show it."""

from __future__ import annotations

from sqlalchemy import update

from poundcake.trail import database
from poundcake.trail.open_counts import OpenCounts, read_open_counts
from poundcake.trail.schema import alerts, changes, events, executions
from tests.lib.recorded_day import record_day
from tests.lib.samples import NOON, alert, later
from tests.lib.trails import database_time, record


def read(engine, breaker_failures=0):
    with database_time(NOON), database.reading(engine) as connection:
        return read_open_counts(connection, breaker_failures, stale_after_hours=24)


def test_a_new_database_has_nothing_open(engine):
    assert read(engine, 1) == OpenCounts(0, 0, 0)


def test_incidents_workflows_and_breakers_are_counted(engine):
    record_day(engine)
    # rack-8 waits for an approval; see test_stats for the number of incidents.
    counts = read(engine)
    assert (counts.incidents, counts.waiting_workflows, counts.open_breakers) == (17, 1, 0)
    # The newest change of nginx was not verified, and that of disk failed.
    assert read(engine, 1).open_breakers == 2
    assert read(engine, 2).open_breakers == 1
    with database.transaction(engine) as connection:
        connection.execute(update(changes).values(result="cleared"))
    assert read(engine, 1).open_breakers == 0


def test_what_waits_for_stackstorm_is_measured_from_the_oldest(engine):
    record(engine, alert("A", fingerprint="a"), received_at=later(-90000))
    record(engine, alert("B", fingerprint="b"), received_at=later(-600))
    assert read(engine).stale_incidents == 1
    with database.transaction(engine) as connection:
        connection.execute(update(alerts).values(silence_id="s", silenced_until=later(60)))
    assert read(engine).stale_incidents == 0
    with database.transaction(engine) as connection:
        connection.execute(update(alerts).values(explanation="retry"))
        for number, (status, seconds) in enumerate(
            [("failed", 5000), ("paused", 4000), ("running", 3000), ("delayed", 2000)]
        ):
            connection.execute(
                executions.insert().values(
                    id=f"e{number}", action="a.b", status=status, start_timestamp=later(-seconds)
                )
            )
        for name, published_at in (("x", later(0)), ("y", None)):
            connection.execute(
                events.insert().values(
                    id=name,
                    kind="limit_reached",
                    subject=name,
                    at=later(-700),
                    payload="{}",
                    published_at=published_at,
                )
            )
    counts = read(engine)
    assert counts.oldest_lost_seconds == 90000
    assert counts.oldest_running_seconds == 3000
    assert counts.oldest_event_seconds == 700
