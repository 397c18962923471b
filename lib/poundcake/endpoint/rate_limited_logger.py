"""Warnings that others can cause as often as they like."""

from __future__ import annotations

import threading
import time
from typing import Any


class RateLimitedLogger:
    """Logs a text at most once in so many seconds, and then how often it was left out."""

    def __init__(self, log: Any, seconds: float = 60):
        self._log = log
        self._seconds = seconds
        self._lock = threading.Lock()
        # By text: when it may be logged again, and how often it was not.
        self._texts: dict[str, tuple[float, int]] = {}

    def warning(self, text: str, *args: Any) -> None:
        """text: one of a few; what differs from time to time is in args, as in logging."""
        now = time.monotonic()
        with self._lock:
            next_at, left_out = self._texts.get(text, (0.0, 0))
            if now < next_at:
                self._texts[text] = next_at, left_out + 1
                return
            self._texts[text] = now + self._seconds, 0
        more = f" (and {left_out} times since this was last logged)" if left_out else ""
        self._log.warning(text + "%s", *args, more)
