"""Run the steps that move requests on, in one thread that nothing ends."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from time import monotonic
from typing import Callable, Optional, Sequence

from poundcake.endpoint import retry

Step = Callable[[], Optional[float]]
"""Does what is due, and returns in how many seconds it wants to run again; None: when asked."""

IDLE_WAIT = 1.0
HUNG_SECONDS = 120.0
"""A step that shows no progress for so long hangs: every call inside has a shorter time limit."""


@dataclass
class _Scheduled:
    """A step, how often it failed in a row, and until when it waits for that reason."""

    name: str
    run: Step
    failures: int = 0
    waits_until: float = 0.0


class Worker:
    """Run steps one after the other, again and again; a step that fails waits and runs again."""

    def __init__(self, steps: Sequence[tuple[str, Step]], failed: Callable[[str, Exception], None]):
        """Make a worker that does not run yet.

        Args:
            steps: Name and function of each; each has its own wait after failures.
            failed: Called with the name of a step and what it raised.
        """
        self._steps = [_Scheduled(name, run) for name, run in steps]
        self._failed = failed
        self._wake = threading.Event()
        self._is_stopping = False
        self._thread: threading.Thread | None = None
        # The step under way, and when it last showed progress; '' between steps.
        self._step = ""
        self._progress_at = 0.0

    def start(self) -> None:
        """Start the thread, or another one if it has ended."""
        self._thread = threading.Thread(target=self._run, name="poundcake-worker", daemon=True)
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Stop after the step under way; wait for that at most `timeout` seconds."""
        self._is_stopping = True
        self._wake.set()
        if self._thread:
            self._thread.join(timeout)

    def wake(self) -> None:
        """Run the steps now: there is something new."""
        self._wake.set()

    def keep_going(self) -> bool:
        """Note the progress of the step that calls this; return False if it should end early."""
        self._progress_at = monotonic()
        return not self._is_stopping

    def is_dead(self) -> bool:
        """Return True if the thread has ended without being stopped."""
        return bool(self._thread) and not self._is_stopping and not self._is_alive()

    def problem(self) -> str:
        """Return what is wrong with the thread, in a sentence; '' if it works."""
        if self.is_dead():
            return "the thread that announces and emits requests has ended; it is started again"
        step, seconds = self._step, monotonic() - self._progress_at
        if step and seconds > HUNG_SECONDS and not self._is_stopping:
            return (
                f"the thread that announces and emits requests has hung for {seconds:.0f} s "
                f"({step}); if that goes on, restart the sensor container"
            )
        return ""

    def _is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _run(self) -> None:
        while not self._is_stopping:
            pause = IDLE_WAIT
            for step in self._steps:
                wanted = self._run_step(step)
                if wanted is not None:
                    pause = min(pause, wanted)
            self._wake.wait(pause)
            self._wake.clear()

    def _run_step(self, step: _Scheduled) -> float | None:
        """Run a step unless it failed a moment ago; return when it wants to run again."""
        left = step.waits_until - monotonic()
        if left > 0:
            return left
        self._progress_at, self._step = monotonic(), step.name
        try:
            wanted = step.run()
            step.failures = 0
            return wanted
        # Whatever goes wrong with one step must not end the thread that retries it.
        except Exception as error:
            self._failed(step.name, error)
        finally:
            self._step = ""
        wait = retry.jittered(retry.doubled(retry.FAILURE_WAITS, step.failures))
        step.failures += 1
        step.waits_until = monotonic() + wait
        return wait
