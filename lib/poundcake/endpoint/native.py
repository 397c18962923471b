"""Run calls that block in C, without stopping the green threads of the sensor process.

StackStorm patches its sensors with eventlet: all threads share one native thread, and a call into
SQLite or zlib, or json.loads() of a large text, blocks all of them until it returns.
"""

from __future__ import annotations

import sys
import threading
from typing import Any, Callable, TypeVar

T = TypeVar("T")

SWITCH_SECONDS = 0.001
"""How long a thread may compute while another one waits for the interpreter, in seconds.

Python's default is 0.005. Answering a webhook takes several switches between the green threads and
the native thread that writes the journal. While another native thread reads a view, each of these
switches would take that long.
"""


def is_eventlet_patched() -> bool:
    """Return True if eventlet has replaced the threads of this process with green ones."""
    patcher = sys.modules.get("eventlet.patcher")
    return bool(patcher and patcher.is_monkey_patched("thread"))


def run_in_native_thread(function: Callable[..., T], *args: Any) -> T:
    """Return function(*args), run in a native thread if this process's threads are green.

    Code that runs in the native thread must not wait for a green lock. If the function uses
    objects that other threads also use, hold a lock around this call, or use a `native_lock`
    inside it.
    """
    if not is_eventlet_patched():
        return function(*args)
    from eventlet import tpool

    result: T = tpool.execute(function, *args)
    return result


def shorten_switches() -> None:
    """Let native threads that compute delay the green threads less."""
    if is_eventlet_patched():
        sys.setswitchinterval(SWITCH_SECONDS)


def native_lock() -> threading.Lock:
    """Return a lock that native threads may wait for, whether or not the process is patched."""
    if not is_eventlet_patched():
        return threading.Lock()
    from eventlet import patcher

    lock: threading.Lock = patcher.original("threading").Lock()
    return lock
