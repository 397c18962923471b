"""Run the steps of the pipeline in one thread that survives every error."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from time import monotonic
from typing import Callable, Optional, Sequence

from poundcake.endpoint import retry

Step = Callable[[], Optional[float]]
"""A function that does the work that is due.

It returns the seconds until it should run again, or None to leave that to the worker.
"""

IDLE_WAIT = 1.0
HUNG_SECONDS = 120.0
"""Seconds without progress after which a step counts as hung. Each call has a shorter timeout."""


@dataclass
class _ScheduledStep:
    """A step and its state.

    Attributes:
        name: What the step does, for log lines, such as "emitting".
        run: The function to call.
        failures: Failed runs in a row.
        retry_at: Monotonic time before which a step that failed does not run again.
    """

    name: str
    run: Step
    failures: int = 0
    retry_at: float = 0.0


class Worker:
    """Run steps one after the other in a loop. A step that fails is retried after a backoff."""

    def __init__(
        self, steps: Sequence[tuple[str, Step]], on_failure: Callable[[str, Exception], None]
    ):
        """Create a worker that is not running yet.

        Args:
            steps: The name and function of each step. Each step has its own backoff.
            on_failure: Called with the name of a step and the exception that it raised.
        """
        self._steps = [_ScheduledStep(name, run) for name, run in steps]
        self._on_failure = on_failure
        self._wake = threading.Event()
        self._is_stopping = False
        self._thread: threading.Thread | None = None
        # The name of the current step ('' between steps), and when it last made progress.
        self._current_step = ""
        self._progress_at = 0.0

    def start(self) -> None:
        """Start the thread, or a new one if it has ended."""
        self._thread = threading.Thread(target=self._run, name="poundcake-worker", daemon=True)
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Stop after the current step; wait for it at most `timeout` seconds."""
        self._is_stopping = True
        self._wake.set()
        if self._thread:
            self._thread.join(timeout)

    def wake(self) -> None:
        """Run the steps now instead of waiting."""
        self._wake.set()

    def keep_going(self) -> bool:
        """Note that the current step makes progress. Return False if it should end early."""
        self._progress_at = monotonic()
        return not self._is_stopping

    def is_dead(self) -> bool:
        """Return True if the thread has ended without being stopped."""
        return bool(self._thread) and not self._is_stopping and not self._is_alive()

    def problem(self) -> str:
        """Return a sentence that says what is wrong with the thread, or '' if it works."""
        if self.is_dead():
            return "the thread that announces and emits requests has ended; it is being restarted"
        step, seconds = self._current_step, monotonic() - self._progress_at
        if step and seconds > HUNG_SECONDS and not self._is_stopping:
            return (
                f"the thread that announces and emits requests has hung for {seconds:.0f} s "
                f"({step}); if this persists, restart the sensor container"
            )
        return ""

    def _is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _run(self) -> None:
        while not self._is_stopping:
            shortest_wait = IDLE_WAIT
            for step in self._steps:
                wait = self._run_step(step)
                if wait is not None:
                    shortest_wait = min(shortest_wait, wait)
            self._wake.wait(shortest_wait)
            self._wake.clear()

    def _run_step(self, step: _ScheduledStep) -> float | None:
        """Run a step unless it is backing off. Return the seconds until it has to run again."""
        remaining = step.retry_at - monotonic()
        if remaining > 0:
            return remaining
        self._progress_at, self._current_step = monotonic(), step.name
        try:
            next_wait = step.run()
            step.failures = 0
            return next_wait
        # No error in a step may end the thread, which has to retry the step.
        except Exception as error:
            self._on_failure(step.name, error)
        finally:
            self._current_step = ""
        wait = retry.jittered(retry.doubled(retry.FAILURE_WAITS, step.failures))
        step.failures += 1
        step.retry_at = monotonic() + wait
        return wait
