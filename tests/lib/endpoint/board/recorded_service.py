"""The part of the endpoint that pages use, on a trail that a test has recorded."""

from __future__ import annotations

from poundcake.trail import database
from tests.lib.samples import NOON
from tests.lib.trails import database_time

HEALTH = {
    "status": "ok",
    "version": "1.2.3",
    "address": "http://127.0.0.1:8000",
    "authentication": "none",
    "database": "SQLite",
    "dry_run": True,
    "literal_secrets": [],
    "configuration": {
        "applied_at": "2026-01-14T11:00:00Z",
        "problem": "",
        "warnings": [],
        "remediation_errors": [],
        "in_force": {},
    },
    "components": {
        "journal": {
            "state": "ok",
            "since": "2026-01-14T11:00:00Z",
            "detail": "",
            "waiting": 0,
            "backlog_limit": 100_000,
            "oldest_seconds": 0.0,
            "accepted": 0,
            "announced": 0,
            "recorded": 0,
            "done": 0,
            "stuck": 0,
            "stuck_requests": [],
            "set_aside": [],
        },
        "broker": {"state": "ok", "since": "2026-01-14T11:00:00Z", "detail": "", "waiting": 0},
        "database": {"state": "ok", "since": "2026-01-14T11:00:00Z", "detail": "", "waiting": 0},
        "stackstorm": {"state": "ok", "since": "2026-01-14T11:00:00Z", "detail": "", "waiting": 0},
    },
    "paused": None,
}
"""The health view of an endpoint that works."""


class RecordedService:
    """An endpoint whose tracking database is a test's, as at noon.

    Attributes:
        health: The health view.
        waiting_at: When the newest request in the journal was received.
        reads: The number of reads of the tracking database.
    """

    def __init__(self, engine):
        self._engine = engine
        self.health = HEALTH
        self.waiting_at = None
        self.reads = 0
        self.refused = {"count": 0, "last": None}

    def recent_health(self):
        return self.health

    def refused_webhooks(self):
        return self.refused

    def read_recorded(self, query, **arguments):
        self.reads += 1
        with database_time(NOON), database.reading(self._engine) as connection:
            return query(connection, **arguments)

    def newest_waiting_at(self):
        return self.waiting_at
