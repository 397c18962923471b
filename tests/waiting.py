"""Waiting for what comes by itself."""

import time


def wait_for(look, seconds=60):
    """What look() gives, as soon as that is something; AssertionError after so many seconds."""
    until = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < until, f"not in {seconds} s"
        time.sleep(0.02)
