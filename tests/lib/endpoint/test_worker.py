"""One thread runs the steps, continues after an error, and reports whether it is alive."""

from __future__ import annotations

import threading

import pytest

from poundcake.endpoint import retry, worker
from poundcake.endpoint.worker import Worker
from tests.waiting import wait_for


@pytest.fixture
def short_waits(monkeypatch):
    monkeypatch.setattr(retry, "FAILURE_WAITS", (0.01, 0.02))
    monkeypatch.setattr(worker, "IDLE_WAIT", 0.01)


@pytest.fixture
def start_worker():
    """Return a function that starts a worker with named steps, whose errors are in `failures`."""
    workers = []

    def factory(**steps):
        failures = []
        new_worker = Worker(
            list(steps.items()), lambda name, error: failures.append((name, str(error)))
        )
        new_worker.failures = failures
        workers.append(new_worker)
        new_worker.start()
        return new_worker

    yield factory
    for running_worker in workers:
        running_worker.stop(5)


def test_a_failed_step_is_retried_and_the_others_run(start_worker, short_waits):
    runs = {"bad": 0, "good": 0}

    def bad():
        runs["bad"] += 1
        if runs["bad"] < 3:
            raise ValueError("a fault")

    def good():
        runs["good"] += 1

    running_worker = start_worker(bad=bad, good=good)
    wait_for(lambda: runs["bad"] > 3 and runs["good"] > 3)
    assert running_worker.failures == [("bad", "a fault")] * 2


def test_consecutive_failures_lengthen_the_waits(clock, monkeypatch):
    monkeypatch.setattr(retry, "jittered", lambda wait: wait)
    waits = []

    def fail():
        raise ValueError

    new_worker = Worker([("fail", fail)], lambda *_: None)
    (step,) = new_worker._steps
    for _ in range(8):
        waits.append(new_worker._run_step(step))
        assert new_worker._run_step(step) > 0  # the wait is not over yet
        clock.offset += waits[-1]
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]


def test_waking_runs_the_steps_immediately(start_worker, monkeypatch):
    monkeypatch.setattr(worker, "IDLE_WAIT", 3600)
    runs = []
    running_worker = start_worker(step=lambda: runs.append(1))
    wait_for(lambda: runs)
    running_worker.wake()
    wait_for(lambda: len(runs) > 1)


def test_stopping_does_not_wait_for_the_next_run(start_worker, monkeypatch):
    monkeypatch.setattr(worker, "IDLE_WAIT", 3600)
    running_worker = start_worker(step=lambda: None)
    running_worker.stop(60)
    assert not running_worker._thread.is_alive()
    assert not running_worker.is_dead()  # so that nothing restarts it
    assert running_worker.problem() == ""


def test_a_step_can_end_early_when_the_worker_stops():
    has_ended = threading.Event()

    def step():
        while new_worker.keep_going():
            pass
        has_ended.set()

    new_worker = Worker([("step", step)], lambda *_: None)
    new_worker.start()
    new_worker.stop(60)
    assert has_ended.is_set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_ended_thread_is_dead_and_can_be_restarted(start_worker, short_waits):
    runs = []

    def step():
        runs.append(1)
        if len(runs) == 1:
            raise SystemExit  # as when eventlet kills a green thread

    running_worker = start_worker(step=step)
    wait_for(running_worker.is_dead)
    assert "has ended" in running_worker.problem()
    running_worker.start()
    wait_for(lambda: len(runs) > 2)
    assert not running_worker.is_dead() and running_worker.problem() == ""


def test_a_hung_thread_is_reported_with_its_step(start_worker, clock):
    may_end, has_started = threading.Event(), threading.Event()

    def step():
        has_started.set()
        may_end.wait(60)

    running_worker = start_worker(emitting=step)
    assert has_started.wait(60)
    assert running_worker.problem() == ""
    clock.offset += worker.HUNG_SECONDS + 1
    assert "has hung for 12" in running_worker.problem() and "emitting" in running_worker.problem()
    running_worker.keep_going()  # reports progress
    assert running_worker.problem() == ""
    may_end.set()
