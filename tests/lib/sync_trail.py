"""A tracking database and a fake StackStorm for tests of sync."""

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
    """A tracking database and the StackStorm that sync polls."""

    def __init__(self, engine, stackstorm=None):
        self.engine = engine
        self.stackstorm = stackstorm or FakeStackStorm()

    def record(self, *sent_alerts, seconds=5, **fields):
        """Record a request as of some seconds ago, and return its id and the rows of its alerts."""
        new_request = request(*sent_alerts, received_at=ago(seconds), **fields)
        record_requests(self.engine, Config(max_remediations_per_hour=0), [new_request])
        with database.transaction(self.engine) as connection:
            call_id = connection.scalar(
                select(api_calls.c.id).where(api_calls.c.request_id == new_request.request_id)
            )
            belongs_to_request = alerts.c.api_call_id == call_id
            connection.execute(
                update(alerts).where(belongs_to_request).values(recorded_at=ago(seconds))
            )
            rows = connection.execute(
                select(alerts).where(belongs_to_request).order_by(alerts.c.position)
            ).all()
        return new_request.request_id, rows

    def record_storm(self, count, seconds):
        """Record requests with one alert each, and return (request_id, alert row) of each."""
        new_requests = [request(alert(f"A{n}"), received_at=ago(seconds)) for n in range(count)]
        record_requests(self.engine, Config(max_remediations_per_hour=0), new_requests)
        self.change(alerts, recorded_at=ago(seconds))
        return list(
            zip((new_request.request_id for new_request in new_requests), self.rows(alerts))
        )

    def sync(self, alertmanagers=(), **config):
        config.setdefault("host_cooldown_seconds", 0)
        return sync.sync(self.engine, Config(**config), self.stackstorm, alertmanagers)

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
