"""Log warnings that may recur at any rate, without filling the log."""

from __future__ import annotations

import logging
import threading
from time import monotonic


class RateLimitedLogger:
    """Log each text at most once per interval, with the number of times it was suppressed."""

    def __init__(self, log: logging.Logger, seconds: float = 60):
        self._log = log
        self._seconds = seconds
        self._lock = threading.Lock()
        # {text: (monotonic time from which it may be logged again, how often it was suppressed)}
        self._texts: dict[str, tuple[float, int]] = {}

    def warning(self, text: str, *args: object, exc_info: Exception | None = None) -> None:
        """Log a warning.

        Args:
            text: A format string as in `logging`. It must come from a fixed set, because the limit
                applies to each format string.
            args: The values for the format string, which may differ each time.
            exc_info: The exception whose traceback is logged, too.
        """
        now = monotonic()
        with self._lock:
            next_at, suppressed = self._texts.get(text, (0.0, 0))
            if now < next_at:
                self._texts[text] = next_at, suppressed + 1
                return
            self._texts[text] = now + self._seconds, 0
        times = "1 time" if suppressed == 1 else f"{suppressed} times"
        suffix = f" (and {times} since it was last logged)" if suppressed else ""
        self._log.warning(text + "%s", *args, suffix, exc_info=exc_info)
