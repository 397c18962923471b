"""Wait until a condition is true."""

from __future__ import annotations

import time


def wait_for(condition, seconds=60):
    """Return the first true value of condition(). Raise AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"the condition was not true within {seconds} s"
        time.sleep(0.02)
