"""A trail and a StackStorm, for rounds of sync."""

from __future__ import annotations

import datetime

from sqlalchemy import select, update

from poundcake.config import Config
from poundcake.trail import database, sync
from poundcake.trail.record import record_requests
from poundcake.trail.schema import alerts, api_calls
from tests.lib.fake_stackstorm import FakeStackStorm
from tests.lib.samples import UTC, alert, request


def ago(seconds):
    return datetime.datetime.now(UTC) - datetime.timedelta(seconds=seconds)


class SyncTrail:
    """A tracking database and a StackStorm."""

    def __init__(self, engine, stackstorm=None):
        self.engine = engine
        self.stackstorm = stackstorm or FakeStackStorm()

    def record(self, *found, seconds=5, **more):
        """Record a request some seconds ago, and return its id and the rows of its alerts."""
        sent = request(*found, received_at=ago(seconds), **more)
        record_requests(self.engine, Config(max_remediations_per_hour=0), [sent])
        with database.transaction(self.engine) as connection:
            call = connection.scalar(
                select(api_calls.c.id).where(api_calls.c.request_id == sent.request_id)
            )
            its_alerts = alerts.c.api_call_id == call
            connection.execute(update(alerts).where(its_alerts).values(recorded_at=ago(seconds)))
            rows = connection.execute(
                select(alerts).where(its_alerts).order_by(alerts.c.position)
            ).all()
        return sent.request_id, rows

    def record_storm(self, count, seconds):
        """Record requests with one alert each, and return (request_id, row) of each."""
        sent = [request(alert(f"A{n}"), received_at=ago(seconds)) for n in range(count)]
        record_requests(self.engine, Config(max_remediations_per_hour=0), sent)
        self.change(alerts, recorded_at=ago(seconds))
        return list(zip((one.request_id for one in sent), self.rows(alerts)))

    def sync(self, **config):
        config.setdefault("host_cooldown_seconds", 0)
        return sync.sync(self.engine, Config(**config), self.stackstorm)

    def change(self, table, *conditions, **values):
        with database.transaction(self.engine) as connection:
            connection.execute(update(table).where(*conditions).values(**values))

    def rows(self, table):
        with database.reading(self.engine) as connection:
            return connection.execute(select(table).order_by(table.c.id)).all()

    def one(self, table=alerts):
        (row,) = self.rows(table)
        return row

    def explanations(self):
        return [row.explanation for row in self.rows(alerts)]

    @property
    def completed(self):
        return [bool(row.completed_at) for row in self.rows(api_calls)]
