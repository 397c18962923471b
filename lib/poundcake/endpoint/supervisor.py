"""Start the endpoint and keep it running for as long as the sensor runs.

StackStorm restarts a sensor at most twice. So the endpoint never exits because of an error: it logs
each problem once, and retries.
"""

from __future__ import annotations

import logging
import threading
import time
from time import monotonic
from typing import Callable

RETRY_SECONDS = 1.0
"""Seconds between checks. The wait doubles after each failure, up to ten times this value."""
TICK_SECONDS = 0.2


class Supervisor:
    """Repeatedly call a function that starts whatever is not running, until stopped."""

    def __init__(self, start_parts: Callable[[], list[str]], log: logging.Logger):
        """Create a supervisor.

        Args:
            start_parts: Starts the parts that are not running, and returns a sentence for each
                problem; an empty list if everything runs. Empty sentences are not logged.
            log: The logger for problems.
        """
        self._start_parts = start_parts
        self._log = log
        # A plain flag, not an Event, because a signal handler sets it: the handler may run while
        # its own thread holds the lock of the Event.
        self._is_stopping = False
        self._is_woken = False
        self._ended = threading.Event()
        self._logged_problems: list[str] = []

    def run(self, shut_down: Callable[[], None]) -> None:
        """Run until request_stop() is called, then shut down."""
        wait = RETRY_SECONDS
        try:
            while not self._is_stopping:
                self._is_woken = False
                is_up = self._start_missing_parts()
                wait = RETRY_SECONDS if is_up else min(wait * 2, 10 * RETRY_SECONDS)
                deadline = monotonic() + wait
                while not (self._is_stopping or self._is_woken) and monotonic() < deadline:
                    time.sleep(TICK_SECONDS)
        finally:
            shut_down()
            self._ended.set()

    def request_stop(self) -> None:
        """Make run() return, without waiting for it; safe to call in a signal handler."""
        self._is_stopping = True

    def wake(self) -> None:
        """End the current wait, so that the parts are checked now. Safe to call from any thread."""
        self._is_woken = True

    def stop(self, timeout: float) -> None:
        """Make run() return, and wait for it at most `timeout` seconds."""
        self.request_stop()
        self._ended.wait(timeout)

    def _start_missing_parts(self) -> bool:
        """Start the missing parts and log each new problem. Return True if everything runs."""
        try:
            problems = self._start_parts()
        # This is a bug, but the next attempt may succeed, and exiting would not help.
        except Exception as error:
            exc_info: Exception | None = error
            problems = [f"the endpoint cannot be started: {type(error).__name__}: {error}"]
        else:
            exc_info = None
        for problem in problems:
            if problem and problem not in self._logged_problems:
                self._log.error("%s; retrying until it works", problem, exc_info=exc_info)
        self._logged_problems = problems
        return not problems
