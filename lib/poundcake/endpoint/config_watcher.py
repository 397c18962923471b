"""Look for a changed configuration again and again, for as long as the sensor lives.

StackStorm tells nobody that a configuration was registered, and a file behind ``file:/path`` may
change at any time.
"""

from __future__ import annotations

import threading
from typing import Any, Callable

POLL_SECONDS = 20.0
"""What is documented is 30: the rest is for StackStorm's database, and to apply the change."""
_MOST_CHARACTERS = 300


class ConfigWatcher:
    """Read the registered configuration every POLL_SECONDS.

    It has a thread, because StackStorm's database may take long to answer.

    Attributes:
        found: The configuration, unchecked, as it could last be read.
        problem: Why it could not be read the last time; empty if it could.
    """

    def __init__(self, given: Any, read: Callable[[], Any], has_looked: Callable[[], None]) -> None:
        """Make a watcher that does nothing until start() is called.

        Args:
            given: The configuration that is used until the first look.
            read: Returns the configuration that is registered now. May raise anything.
            has_looked: Called after each look.
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
        """Look no more. A look under way is not waited for."""
        self._stopping.set()

    def take(self) -> bool:
        """Return True once after each look."""
        is_new, self._is_new = self._is_new, False
        return is_new

    def _run(self) -> None:
        while not self._stopping.wait(POLL_SECONDS):
            self._look()

    def _look(self) -> None:
        try:
            self.found, self.problem = self._read(), ""
        except ImportError:
            pass  # not in a process of StackStorm: what the sensor was given stays
        # Whatever StackStorm's code raises, for instance for a key that the datastore lacks.
        except Exception as error:
            text = (str(error).splitlines() or [""])[0] or type(error).__name__
            self.problem = f"the registered one cannot be read: {text[:_MOST_CHARACTERS]}"
        self._is_new = True
        self._has_looked()
