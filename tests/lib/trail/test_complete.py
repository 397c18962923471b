"""A request is completed when all alerts are explained and all executions have ended."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event

from poundcake.trail import claims, complete
from poundcake.trail.schema import alerts, executions
from tests.lib.samples import alert
from tests.lib.sync_trail import SyncTrail


@pytest.fixture
def trail(engine):
    return SyncTrail(engine)


def test_a_request_is_completed_when_its_alert_is_explained_and_its_execution_has_ended(trail):
    request_id, (row,) = trail.record(alert())
    claims.link(trail.engine, request_id, row.episode, "pack.workflow", "e1")
    trail.stackstorm.run("e1", "running")
    assert trail.sync().completed == 0
    trail.change(alerts, explanation="execution")
    assert trail.sync().completed == 0 and trail.completed == [False]
    trail.change(executions, status="failed")
    assert trail.sync().completed == 1 and trail.completed == [True]
    assert trail.sync().completed == 0


def test_each_round_completes_one_batch(trail, monkeypatch):
    monkeypatch.setattr(complete, "_MAX_REQUESTS", 2)
    for n in range(3):
        trail.record(alert(f"A{n}"))
    trail.change(alerts, explanation="no_rule")
    assert [trail.sync().completed for _ in range(3)] == [2, 1, 0]


def test_a_request_is_not_completed_while_it_is_being_recorded(trail):
    """In MariaDB, an UPDATE can see a request whose alerts its own subquery does not see."""
    trail.record(alert())
    insert_done, may_continue = threading.Event(), threading.Event()

    def wait_after_insert(connection, cursor, statement, *_):
        if statement.startswith("INSERT INTO poundcake_alerts"):
            insert_done.set()
            assert may_continue.wait(20)

    event.listen(trail.engine, "after_cursor_execute", wait_after_insert)
    with ThreadPoolExecutor(2) as pool:
        recording = pool.submit(trail.record, alert(fingerprint="another"))
        assert insert_done.wait(20)
        syncing = pool.submit(trail.sync)
        time.sleep(0.5)  # give sync time to reach the lock of the other transaction
        may_continue.set()
        recording.result()
        assert syncing.result().completed == 0
    assert trail.completed == [False, False]
