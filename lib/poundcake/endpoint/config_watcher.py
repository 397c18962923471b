"""Poll for a changed configuration for as long as the sensor runs.

StackStorm does not notify sensors when a configuration is registered, and a file behind
`file:/path` may change at any time.
"""

from __future__ import annotations

import threading
from typing import Any, Callable

POLL_SECONDS = 20.0
"""Shorter than the documented 30 s, to leave time to read and apply the configuration."""
_MOST_CHARACTERS = 300


class ConfigWatcher:
    """Read the registered configuration every POLL_SECONDS.

    It uses its own thread, because StackStorm's database may be slow to respond.

    Attributes:
        found: The configuration from the last successful read, not validated.
        problem: Why the last read failed; empty if it succeeded.
    """

    def __init__(self, given: Any, read: Callable[[], Any], has_looked: Callable[[], None]) -> None:
        """Create a watcher that does nothing until start() is called.

        Args:
            given: The configuration to use until the first poll.
            read: Returns the currently registered configuration. May raise any exception.
            has_looked: Called after each poll.
        """
        self.found = given
        self.problem = ""
        self._read = read
        self._has_looked = has_looked
        self._is_new = False
        self._stopping = threading.Event()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="poundcake-config", daemon=True).start()

    def stop(self) -> None:
        """Stop polling, without waiting for a poll in progress."""
        self._stopping.set()

    def take(self) -> bool:
        """Return True once after each poll."""
        is_new, self._is_new = self._is_new, False
        return is_new

    def _run(self) -> None:
        while not self._stopping.wait(POLL_SECONDS):
            self._look()

    def _look(self) -> None:
        try:
            self.found, self.problem = self._read(), ""
        except ImportError:
            pass  # not a StackStorm process: keep the configuration that was given
        # StackStorm's code may raise anything, for instance if a datastore key is missing.
        except Exception as error:
            text = (str(error).splitlines() or [""])[0] or type(error).__name__
            self.problem = f"the registered one cannot be read: {text[:_MOST_CHARACTERS]}"
        self._is_new = True
        self._has_looked()
