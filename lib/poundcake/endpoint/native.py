"""Calls that block in C, in a process whose threads are green.

StackStorm patches its sensors with eventlet: all threads share one native thread, and a call into
SQLite stops them all until it returns.
"""

from __future__ import annotations

import sys
from typing import Any, Callable


def is_eventlet_patched() -> bool:
    """Whether eventlet has replaced this process's threads."""
    patcher = sys.modules.get("eventlet.patcher")
    return bool(patcher and patcher.is_monkey_patched("thread"))


def run_in_native_thread(function: Callable, *args: Any) -> Any:
    """function(*args), in a native thread where the process's own threads are green.

    The caller holds a lock around it where the function uses what others use: a green lock must
    not be waited for from within a native thread.
    """
    if is_eventlet_patched():
        from eventlet import tpool

        return tpool.execute(function, *args)
    return function(*args)
