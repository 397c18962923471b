"""One thread runs the steps despite their errors, and reports whether it is alive."""

from __future__ import annotations

import threading

import pytest

from poundcake.endpoint import retry, worker
from poundcake.endpoint.worker import Worker
from tests.waiting import wait_for


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(retry, "FAILURE_WAITS", (0.01, 0.02))
    monkeypatch.setattr(worker, "IDLE_WAIT", 0.01)


@pytest.fixture
def make():
    """Return a function that starts a worker with named steps; worker.seen has the failures."""
    made = []

    def factory(**steps):
        seen = []
        worker = Worker(list(steps.items()), lambda name, error: seen.append((name, str(error))))
        worker.seen = seen
        made.append(worker)
        worker.start()
        return worker

    yield factory
    for running in made:
        running.stop(5)


def test_a_failed_step_is_retried_and_the_others_run(make, quick):
    ran = {"bad": 0, "good": 0}

    def bad():
        ran["bad"] += 1
        if ran["bad"] < 3:
            raise ValueError("a fault")

    def good():
        ran["good"] += 1

    running = make(bad=bad, good=good)
    wait_for(lambda: ran["bad"] > 3 and ran["good"] > 3)
    assert running.seen == [("bad", "a fault")] * 2


def test_consecutive_failures_lengthen_the_waits(clock, monkeypatch):
    monkeypatch.setattr(retry, "jittered", lambda wait: wait)
    waits = []

    def fails():
        raise ValueError

    worker = Worker([("fails", fails)], lambda *_: None)
    for _ in range(8):
        waits.append(worker._run_step(worker._steps[0]))
        assert worker._run_step(worker._steps[0]) > 0  # not before its wait is over
        clock.offset += waits[-1]
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]


def test_waking_runs_the_steps_immediately(make, monkeypatch):
    monkeypatch.setattr(worker, "IDLE_WAIT", 3600)
    ran = []
    running = make(step=lambda: ran.append(1))
    wait_for(lambda: ran)
    running.wake()
    wait_for(lambda: len(ran) > 1)


def test_stopping_does_not_wait_for_the_next_run(make, monkeypatch):
    monkeypatch.setattr(worker, "IDLE_WAIT", 3600)
    running = make(step=lambda: None)
    running.stop(60)
    assert not running._thread.is_alive()
    assert not running.is_dead()  # it must not be restarted
    assert running.problem() == ""


def test_a_step_can_be_asked_to_end_early(make):
    left = threading.Event()

    def step():
        while worker.keep_going():
            pass
        left.set()

    worker = Worker([("step", step)], lambda *_: None)
    worker.start()
    worker.stop(60)
    assert left.is_set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_ended_thread_is_dead_and_can_be_restarted(make, quick):
    ran = []

    def step():
        ran.append(1)
        if len(ran) == 1:
            raise SystemExit  # as in a killed green thread

    running = make(step=step)
    wait_for(running.is_dead)
    assert "has died" in running.problem()
    running.start()
    wait_for(lambda: len(ran) > 2)
    assert not running.is_dead() and running.problem() == ""


def test_a_hanging_thread_is_reported_with_its_step(make, clock):
    hangs, entered = threading.Event(), threading.Event()

    def step():
        entered.set()
        hangs.wait(60)

    running = make(emitting=step)
    assert entered.wait(60)
    assert running.problem() == ""
    clock.offset += worker.HUNG_SECONDS + 1
    assert "has hung for 12" in running.problem() and "emitting" in running.problem()
    running.keep_going()  # it shows progress
    assert running.problem() == ""
    hangs.set()
