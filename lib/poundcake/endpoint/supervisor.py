"""Bring something up and keep it up, for as long as the sensor lives.

StackStorm starts a sensor that ended only twice again, so nothing here ends by itself: what cannot
be had is logged once and tried again.
"""

from __future__ import annotations

import logging
import threading
import time
from time import monotonic
from typing import Callable

RETRY_SECONDS = 1.0
"""Between looks; doubled after each that found something missing, up to ten times as long."""
TICK_SECONDS = 0.2


class Supervisor:
    """Call a function that brings up what is missing, again and again until stopped."""

    def __init__(self, bring_up: Callable[[], list[str]], log: logging.Logger):
        """Make a supervisor.

        Args:
            bring_up: Does what is still missing and returns what is in the way, a sentence each;
                nothing if all is in place. A sentence that is empty is not logged.
        """
        self._bring_up = bring_up
        self._log = log
        # A plain flag, because a signal handler sets it: it may run while this very thread holds
        # the lock of an Event.
        self._is_stopping = False
        self._is_woken = False
        self._ended = threading.Event()
        self._logged: list[str] = []

    def run(self, shut_down: Callable[[], None]) -> None:
        """Run until ask_stop() is called, then shut down."""
        wait = RETRY_SECONDS
        try:
            while not self._is_stopping:
                self._is_woken = False
                wait = RETRY_SECONDS if self._is_up() else min(wait * 2, 10 * RETRY_SECONDS)
                until = monotonic() + wait
                while not (self._is_stopping or self._is_woken) and monotonic() < until:
                    time.sleep(TICK_SECONDS)
        finally:
            shut_down()
            self._ended.set()

    def ask_stop(self) -> None:
        """Have run() end; for a signal handler, which must not wait for anything."""
        self._is_stopping = True

    def wake(self) -> None:
        """Call the function now, from any thread: there is something new."""
        self._is_woken = True

    def stop(self, timeout: float) -> None:
        """Have run() end; wait for that at most `timeout` seconds."""
        self.ask_stop()
        self._ended.wait(timeout)

    def _is_up(self) -> bool:
        """Bring up what is missing; log once what is in the way. Return True if nothing is."""
        try:
            problems = self._bring_up()
        # A fault of ours; there may be none at the next try, and ending helps nobody.
        except Exception as error:
            problems = [f"{type(error).__name__}: {error}"]
            if problems[0] not in self._logged:
                self._log.exception("the endpoint cannot be brought up")
        for problem in problems:
            if problem and problem not in self._logged:
                self._log.error("%s; retrying until it works", problem)
        self._logged = problems
        return not problems
