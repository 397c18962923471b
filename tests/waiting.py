"""Waiting for what happens by itself."""

from __future__ import annotations

import time


def wait_for(look, seconds=60):
    """Return the first true value of look(), or raise AssertionError after some seconds."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"not in {seconds} s"
        time.sleep(0.02)
