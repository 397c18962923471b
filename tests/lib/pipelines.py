"""A journal, a tracking database and the pipeline between them.

A test drives the pipeline itself, or starts its thread. A test that drives it does not sleep:
advance() moves the monotonic clock of the endpoint's modules and runs each step until nothing
changes.
"""

from __future__ import annotations

import logging
import time

import pytest
from sqlalchemy import update

from poundcake import announcement
from poundcake.config import Config
from poundcake.endpoint import (
    announcer,
    emission_claims,
    emitter,
    event_publisher,
    journal_clock,
    pipeline,
    request_importer,
    sync_timer,
    triggers,
    worker,
)
from poundcake.endpoint.bus import BusError
from poundcake.endpoint.dependencies import Dependencies
from poundcake.endpoint.health import Components
from poundcake.endpoint.journal import Journal
from poundcake.endpoint.metrics import CountedBus, Metrics
from poundcake.endpoint.pipeline import Pipeline
from poundcake.endpoint.tracking_reader import TrackingReader
from poundcake.request_ids import body_sha256
from poundcake.trail import database
from poundcake.trail.record import record_requests
from poundcake.trail.schema import alerts, api_calls
from tests.lib.empty_databases import create_sqlite_database
from tests.lib.samples import later, request
from tests.lib.trails import open_shared_engine
from tests.waiting import wait_for

LOG = logging.getLogger("pipeline")
MODULES_WITH_A_CLOCK = (
    announcer,
    emission_claims,
    event_publisher,
    emitter,
    journal_clock,
    pipeline,
    request_importer,
    sync_timer,
    worker,
)


class Clock:
    """The monotonic clock of the endpoint's modules, which a test can advance."""

    def __init__(self, monkeypatch):
        self.offset = 0.0
        for module in MODULES_WITH_A_CLOCK:
            monkeypatch.setattr(module, "monotonic", self)

    def __call__(self):
        return time.monotonic() + self.offset


class Broker:
    """A broker with a StackStorm that records the announced requests.

    Attributes:
        published: (trigger, payload, trace tag) of each message.
        is_down: Whether every publish fails.
        refuses: A function of a trigger and a payload that returns whether the broker refuses them.
        records: Whether announced requests are recorded.
        poison: Bodies that make the recording of a whole announcement fail.
    """

    def __init__(self, engine):
        self.engine = engine
        self.config = Config()
        self.published = []
        self.is_down = False
        self.refuses = lambda trigger, payload: False
        self.records = True
        self.poison = set()

    def publish(self, trigger, payload, trace_tag):
        if self.is_down or self.refuses(trigger, payload):
            raise BusError("the broker is down" if self.is_down else "refused")
        self.published.append((trigger, payload, trace_tag))
        if trigger == triggers.ANNOUNCE and self.records:
            self.record(payload)

    def check(self):
        if self.is_down:
            raise BusError("the broker is down")

    def close(self):
        pass

    def record(self, payload):
        """Record the announced requests, as the action does."""
        requests = announcement.unpack(payload["version"], payload["batch"])
        if not self.poison & {r.body for r in requests}:
            offset = payload["clock_offset_seconds"]
            record_requests(self.engine, self.config, requests, payload["database_id"], offset)

    def payloads(self, trigger):
        """Return the payloads published for a trigger."""
        return [payload for name, payload, _ in list(self.published) if name == trigger]

    @property
    def batches(self):
        """Return the bodies in each announcement."""
        return [
            [r.body for r in announcement.unpack(p["version"], p["batch"])]
            for p in self.payloads(triggers.ANNOUNCE)
        ]


class API:
    """A StackStorm API that reports why nothing is recorded."""

    problem, failure, stuck, error = "", "", "", None

    def find_rule_problem(self, rule, action):
        if self.error:
            raise self.error
        return self.problem

    def find_last_failure(self, action, since):
        return self.failure

    def describe_stuck_execution(self, action, since):
        return self.stuck


class Rig:
    """A journal in a folder, a tracking database, and the pipeline between them."""

    def __init__(self, folder, database_path, clock=None):
        self.clock = clock
        self.engine = open_shared_engine(f"sqlite:///{database_path}").execution_options()
        self.path = str(folder / "journal.sqlite")
        self.journal = Journal(self.path)
        self.bus = Broker(self.engine)
        self.api = API()
        down = {"state": "down", "since": "2026-01-14T12:00:00Z"}
        self.metrics = Metrics(lambda: {"components": {"journal": down}}, lambda: (0, 0, 0))
        self.pipeline = None

    def assemble(self):
        """Create the pipeline without its thread."""
        self.reader = TrackingReader(self.engine, True)
        self.pipeline = Pipeline(
            Dependencies(
                journal=self.journal,
                reader=self.reader,
                bus=CountedBus(self.bus, self.metrics),
                broker=self.bus,
                stackstorm=self.api,
                components=Components(LOG),
                metrics=self.metrics,
                log=LOG,
                config=lambda: self.bus.config,
            )
        )
        return self

    @property
    def components(self):
        return self.pipeline.components

    # -- driven by the test

    def advance(self, seconds=0.0):
        """Move the clock, then run all steps until nothing changes."""
        self.clock.offset += seconds
        before = None
        for _ in range(100):
            after = (len(self.bus.published), self.states())
            if after == before:
                return
            before = after
            for step in self.pipeline.worker._steps:
                self.pipeline.worker._run_step(step)
            self.clock.offset += announcer.POLL_WAITS[1]
        raise AssertionError("the pipeline does not settle")

    def states(self):
        """Return {request_id: state} of all requests."""
        rows = self.journal._file.run(
            lambda db: db.execute("SELECT request_id, state FROM requests").fetchall()
        )
        return {row[0]: row[1] for row in rows}

    # -- driven by its thread

    def start(self):
        self.assemble().pipeline.start()
        return self

    def stop(self):
        if self.pipeline:
            self.pipeline.stop(5)
        self.pipeline = None

    def wait_for_state(self, request_id, state, seconds=60):
        """Wait until a request in the journal has this state."""
        wait_for(lambda: self.state(request_id) == state, seconds)

    # -- requests

    def accept(self, *sent_alerts, body=None, sender_request_id="", **fields):
        """Accept a request into the journal, and return its id."""
        new_request = request(*sent_alerts, body=body, **fields)
        request_id = self.journal.accept(
            new_request, sender_request_id, body_sha256(new_request.body), len(sent_alerts)
        )
        if self.pipeline:
            self.pipeline.wake()
        return request_id

    def state(self, request_id):
        return self.journal.find(request_id).state

    def set_explanation(self, explanation):
        """Set the explanation of every alert, as sync does."""
        with database.transaction(self.engine) as connection:
            connection.execute(update(alerts).values(explanation=explanation))
            if explanation not in (None, "retry"):
                connection.execute(update(api_calls).values(completed_at=later(60)))

    def reopen(self):
        """Restart the endpoint: reopen the journal, and drop everything in memory."""
        self.stop()
        self.journal.close()
        self.journal = Journal(self.path)
        return self.assemble()

    def close(self):
        self.stop()
        self.journal.close()
        self.engine.dispose()


class WallClock:
    """The wall clock, which a test can set."""

    def __init__(self, monkeypatch):
        self._real, self.offset = time.time, 0.0
        monkeypatch.setattr(time, "time", lambda: self._real() + self.offset)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def database_path(sqlite_path):
    """Return the path of a tracking database that has all tables but no alerts."""
    for file in sqlite_path.parent.iterdir():
        file.unlink()
    return create_sqlite_database(sqlite_path)


@pytest.fixture
def rig(tmp_path, database_path, clock):
    """Return a rig that the test drives."""
    new_rig = Rig(tmp_path, database_path, clock).assemble()
    yield new_rig
    new_rig.close()


@pytest.fixture
def wall_clock(monkeypatch):
    return WallClock(monkeypatch)
