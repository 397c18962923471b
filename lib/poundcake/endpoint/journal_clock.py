"""The journal's own clock, which decides what is due.

People and NTP step the wall clock, sometimes by hours. If the wall clock decided what is due, a
step back would stop every retry for that long, and a step forward would make everything due
immediately. So the journal has its own clock: it follows the monotonic clock while the process
runs, is saved in the file, and continues from the saved time after a restart.
"""

from __future__ import annotations

import time
from time import monotonic

MAX_DOWNTIME = 60.0
"""Maximum downtime that the clock counts after a restart, in seconds.

The wall clock measures the downtime, and may have been stepped during it.
"""
MAX_WAIT = 3600.0
"""Longest wait that the journal stores, in seconds."""


class JournalClock:
    """A clock in seconds that is never stepped. A new one starts at the wall clock's time."""

    def __init__(self, saved_time: float | None = None):
        """Start the clock.

        Args:
            saved_time: The last time that was saved in the file, or None for a new journal.
        """
        start = time.time()
        if saved_time is not None:
            start = saved_time + min(max(start - saved_time, 0.0), MAX_DOWNTIME)
        self._offset = start - monotonic()

    def now(self) -> float:
        """Return the current time on this clock."""
        return monotonic() + self._offset

    def to_monotonic(self, moment: float) -> float:
        """Convert a time on this clock to a time on the process's monotonic clock."""
        return moment - self._offset
