"""Which connections are open, and which of them is closed when there are too many."""

from __future__ import annotations

import threading
import time
from enum import IntEnum
from typing import Callable


class Phase(IntEnum):
    """What a connection is doing. The lowest is the first to be closed."""

    LINGERING = 0
    """Its last answer is sent; what the client still sends is discarded."""
    WAITING = 1
    """It has not sent a whole header: it is idle, slow, or in its TLS handshake."""
    BUSY = 2
    """A request is being answered. Such a connection is never closed for another."""


class Slot:
    """The place that one open connection takes among all."""

    def __init__(self, connections: OpenConnections, abort: Callable[[], None]) -> None:
        self._connections = connections
        self.abort = abort
        self.phase = Phase.WAITING
        self.since = time.monotonic()

    @property
    def is_last_request(self) -> bool:
        """Whether the connection has to end after the request that it is answering."""
        return self._connections.stopping

    def enter(self, phase: Phase) -> bool:
        """Record what the connection does from now on.

        Returns:
            Whether it may: not if it was evicted, nor wait for or start a request once the server
            stops.
        """
        return self._connections.enter(self, phase)


class OpenConnections:
    """The open connections, at most `most` of them. Safe to use from any thread.

    most: may be changed at any time; connections above it are closed as new ones come.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._lock = threading.Lock()
        self._slots: set[Slot] = set()
        self.stopping = False
        # How many connections were closed because there were too many.
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._slots)

    def admit(self, abort: Callable[[], None]) -> Slot | None:
        """Admit a connection.

        If there are too many, the one that has lingered longest is closed, else the one that has
        waited longest. If all others are busy, the new one is not admitted.

        Args:
            abort: Ends the connection; called from another thread.

        Returns:
            Its slot, or None if it was not admitted.
        """
        slot, victim = Slot(self, abort), None
        with self._lock:
            if len(self._slots) >= self.most:
                self.evicted += 1
                idle = [other for other in self._slots if other.phase < Phase.BUSY]
                if not idle:
                    return None
                victim = min(idle, key=lambda other: (other.phase, other.since))
                # Its thread takes a moment to end, and it must not be chosen again meanwhile.
                self._slots.remove(victim)
            self._slots.add(slot)
        if victim:
            victim.abort()
        return slot

    def enter(self, slot: Slot, phase: Phase) -> bool:
        """Record what a connection does from now on; see `Slot.enter`."""
        with self._lock:
            if slot not in self._slots or (self.stopping and phase is not Phase.LINGERING):
                return False
            slot.phase, slot.since = phase, time.monotonic()
            return True

    def leave(self, slot: Slot) -> None:
        """Forget a connection that has ended."""
        with self._lock:
            self._slots.discard(slot)

    def stop(self) -> None:
        """Let no connection start another request."""
        with self._lock:
            self.stopping = True

    def abort_idle(self) -> int:
        """Abort every connection that answers no request. Return how many do."""
        with self._lock:
            slots = list(self._slots)
        idle = [slot for slot in slots if slot.phase < Phase.BUSY]
        for slot in idle:
            slot.abort()
        return len(slots) - len(idle)
