"""The clock by which the journal writes down when something is due.

People and NTP set the wall clock, sometimes by hours. If it decided what is due, a step back would
stop every retry for as long, and a step forward would make everything due at once. So the journal
has its own clock: it runs with the monotonic clock while the process runs, is saved in the file,
and continues from there after a restart.
"""

from __future__ import annotations

import time
from time import monotonic

MAX_DOWNTIME = 60.0
"""How much of the time without a process counts, in seconds, whatever the wall clock says."""
MAX_WAIT = 3600.0
"""The longest wait that is ever written to the journal, in seconds."""


class JournalClock:
    """A clock in seconds that never steps. It starts at the wall clock's time."""

    def __init__(self, saved: float | None = None):
        """Start the clock.

        Args:
            saved: Its time when it was last saved; None for a new journal.
        """
        start = time.time()
        if saved is not None:
            start = saved + min(max(start - saved, 0.0), MAX_DOWNTIME)
        self._offset = start - monotonic()

    def now(self) -> float:
        """Return the time of this clock."""
        return monotonic() + self._offset

    def to_monotonic(self, moment: float) -> float:
        """Return a time of this clock as a time of the process's monotonic clock."""
        return moment - self._offset
