"""Track the open connections, and choose one to evict when there are too many."""

from __future__ import annotations

import threading
import time
from enum import IntEnum
from typing import Callable


class Phase(IntEnum):
    """What a connection is doing. Connections in the lowest phase are evicted first."""

    LINGERING = 0
    """Its last response was sent, and anything that the client still sends is discarded."""
    WAITING = 1
    """It has not sent a complete header: it is idle, slow, or in the TLS handshake."""
    ANSWERING = 2
    """Its response is being sent. It can be evicted, because the client may never read it all."""
    BUSY = 3
    """A request is being processed. A busy connection is never evicted."""


class Slot:
    """The place of one connection among the limited number of open ones."""

    def __init__(self, connections: OpenConnections, abort: Callable[[], None]) -> None:
        self._connections = connections
        self.abort = abort
        self.phase = Phase.WAITING
        self.since = time.monotonic()

    @property
    def is_last_request(self) -> bool:
        """Whether the connection has to close after its current request."""
        return self._connections.is_stopping

    def enter(self, phase: Phase) -> bool:
        """Set the phase of the connection.

        Returns:
            False if the connection was evicted, or if the server is stopping and the connection
            would wait for a request or start one. Even then, it may still send a response.
        """
        return self._connections.enter(self, phase)


class OpenConnections:
    """The open connections, at most `limit` of them. Safe to use from any thread.

    Attributes:
        limit: May be changed at any time. If more connections are open, none is closed, but each
            new one replaces one of them.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._slots: set[Slot] = set()
        self.is_stopping = False
        # The number of connections that were closed or not admitted because there were too many.
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._slots)

    def admit(self, abort: Callable[[], None]) -> Slot | None:
        """Admit a connection.

        If there are too many, evict the connection that has lingered longest; if none lingers, the
        one that has waited longest; if none waits, the one whose response has been in transit
        longest. If all are busy, do not admit the new one.

        Args:
            abort: Closes the connection; called from another thread.

        Returns:
            The slot of the connection, or None if it was not admitted.
        """
        slot, victim = Slot(self, abort), None
        with self._lock:
            if len(self._slots) >= self.limit:
                self.evicted += 1
                evictable = [other for other in self._slots if other.phase < Phase.BUSY]
                if not evictable:
                    return None
                victim = min(evictable, key=lambda other: (other.phase, other.since))
                # Remove it now, because its thread takes some time to end.
                self._slots.remove(victim)
            self._slots.add(slot)
        if victim:
            victim.abort()
        return slot

    def enter(self, slot: Slot, phase: Phase) -> bool:
        """Set the phase of a connection; see `Slot.enter`."""
        with self._lock:
            is_finishing = phase in (Phase.ANSWERING, Phase.LINGERING)
            if slot not in self._slots or (self.is_stopping and not is_finishing):
                return False
            slot.phase, slot.since = phase, time.monotonic()
            return True

    def remove(self, slot: Slot) -> None:
        """Remove a connection that has ended."""
        with self._lock:
            self._slots.discard(slot)

    def stop(self) -> None:
        """Prevent every connection from starting another request."""
        with self._lock:
            self.is_stopping = True

    def abort_idle(self) -> int:
        """Abort every connection without a request in flight. Return how many others are open."""
        with self._lock:
            slots = list(self._slots)
        idle = [slot for slot in slots if slot.phase < Phase.ANSWERING]
        for slot in idle:
            slot.abort()
        return len(slots) - len(idle)
