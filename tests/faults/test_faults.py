"""The short version of the fault suite, with some faults in each component."""

from __future__ import annotations

import pytest

from tests.faults.faults import FAULTS
from tests.faults.run import TITLES, Run

SEED = 1
SELECTED = {
    "sqlite": [
        "sensor killed at a random moment",
        "sensor killed in the middle of a request's body",
        "sensor killed as soon as a 202 is read",
        "sensor killed after the journal's commit, before the answer",
        "sensor killed between an announcement and its confirm",
        "sensor killed after the confirm, before mark_announced",
        "sensor killed after the record, before mark_recorded",
        "sensor killed, and unsynced writes lost",
        "sensor killed between two alerts of one request",
        "sensor killed after the emission, before mark_emitted",
        "StackStorm killed right after taking an announcement",
        "StackStorm killed right after taking an alert",
    ],
    "mariadb": [
        "RabbitMQ killed and started",
        "RabbitMQ's queue unbound",
        "RabbitMQ's memory alarm",
        "poundcake.announce cut before its confirm",
        "alerts arrive twice concurrently",
        "MariaDB killed and started",
        "MariaDB slow",
        "MariaDB read-only",
        "MariaDB's rows locked by other clients",
        "poundcake_api_calls cut after COMMIT",
        "recording one request fails",
        "sensor stopped (SIGTERM)",
    ],
}
FAILPOINTS = {
    "sqlite": [
        "record before commit",
        "record committed",
        "link before commit",
        "sync before commit",
        "sync committed",
    ],
    "mariadb": ["link committed", "before work", "after work"],
}


@pytest.mark.parametrize("kind", sorted(SELECTED))
def test_nothing_is_lost_and_nothing_is_done_twice(kind, request, rabbitmq, tmp_path):
    mariadb = request.getfixturevalue("mariadb") if kind == "mariadb" else None
    faults_by_name = {fault.name: fault for fault in FAULTS}
    faults = [faults_by_name[name] for name in SELECTED[kind]]
    faults = [fault for fault in faults if not fault.missing]
    print(TITLES)
    run = Run(kind, tmp_path / "world", rabbitmq, mariadb, SEED, print)
    try:
        run.start()
        run.inject("the short version", faults, FAILPOINTS[kind])
        assert not run.problems
        assert run.injected == len(faults) + len(FAILPOINTS[kind])
    finally:
        run.close()
