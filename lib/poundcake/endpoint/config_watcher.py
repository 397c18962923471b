"""Poll for configuration changes for as long as the sensor runs.

StackStorm does not notify sensors when a configuration is registered, and a file that
`file:/path` refers to may change at any time.
"""

from __future__ import annotations

import threading
from typing import Any, Callable

POLL_SECONDS = 20.0
"""Shorter than the documented 30 s, to leave time to read and apply the configuration."""
_MAX_CHARACTERS = 300


class ConfigWatcher:
    """Read the registered configuration every POLL_SECONDS.

    It uses its own thread, because StackStorm's database may be slow to respond.

    Attributes:
        latest: The configuration from the last successful read, not validated.
        problem: Why the last read failed; empty if it succeeded.
    """

    def __init__(self, initial: Any, read: Callable[[], Any], on_poll: Callable[[], None]) -> None:
        """Create a watcher that does nothing until start() is called.

        Args:
            initial: The configuration to use until the first poll.
            read: Returns the currently registered configuration. May raise any exception.
            on_poll: Called after each poll.
        """
        self.latest = initial
        self.problem = ""
        self._read = read
        self._on_poll = on_poll
        self._has_new_poll = False
        self._stopping = threading.Event()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="poundcake-config", daemon=True).start()

    def stop(self) -> None:
        """Stop polling, without waiting for a poll in progress."""
        self._stopping.set()

    def consume_poll(self) -> bool:
        """Return True if there has been a poll since the last call."""
        has_new_poll, self._has_new_poll = self._has_new_poll, False
        return has_new_poll

    def _run(self) -> None:
        while not self._stopping.wait(POLL_SECONDS):
            self._poll()

    def _poll(self) -> None:
        try:
            self.latest, self.problem = self._read(), ""
        except ImportError:
            pass  # not a StackStorm process: keep the initial configuration
        # StackStorm's code may raise anything, for instance if a datastore key is missing.
        except Exception as error:
            text = (str(error).splitlines() or [""])[0] or type(error).__name__
            self.problem = f"the registered configuration cannot be read: {text[:_MAX_CHARACTERS]}"
        self._has_new_poll = True
        self._on_poll()
