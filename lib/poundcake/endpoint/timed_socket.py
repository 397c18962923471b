"""A connected socket whose reads and writes share one deadline.

A time limit for each read alone lets a client hold a connection for ever, a byte at a time.
"""

from __future__ import annotations

import socket
import time
from typing import Protocol

_CHUNK = 65536


class ByteStream(Protocol):
    """A connection to a client, plain or TLS. Every method may raise OSError.

    It raises `socket.timeout`, which is an OSError, once the deadline has passed.
    """

    def expire_in(self, seconds: float) -> None:
        """Set the deadline for everything that follows."""

    def receive(self, size: int) -> bytes:
        """Return at least one byte and at most `size`, or b"" if the client has sent its last."""

    def send(self, data: bytes) -> None:
        """Send all of `data`."""

    def linger(self, seconds: float, most_bytes: int) -> None:
        """Say that nothing more comes, and discard what the client still sends."""


class TimedSocket:
    """A plain connection: the ByteStream over a connected socket."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._deadline = 0.0

    def expire_in(self, seconds: float) -> None:
        """Set the deadline for everything that follows."""
        self._deadline = time.monotonic() + seconds

    def peek(self) -> bytes:
        """Return the first byte that arrives, and leave it to be received."""
        self._limit()
        return self._socket.recv(1, socket.MSG_PEEK)

    def receive(self, size: int) -> bytes:
        """Return at least one byte, or b"" if the client has sent its last."""
        self._limit()
        return self._socket.recv(size)

    def send(self, data: bytes) -> None:
        """Send all of `data`."""
        # Not sendall: under eventlet each part of the data would have the whole time.
        rest = memoryview(data)
        while rest:
            self._limit()
            rest = rest[self._socket.send(rest) :]

    def linger(self, seconds: float, most_bytes: int) -> None:
        """Discard what still comes for a while, before the socket is closed.

        Closing a socket that has unread data resets the connection, and the client may lose the
        answer that it was just sent (RFC 9112, section 9.6).
        """
        self._socket.shutdown(socket.SHUT_WR)
        self.expire_in(seconds)
        while most_bytes > 0:
            chunk = self.receive(_CHUNK)
            if not chunk:
                return
            most_bytes -= len(chunk)

    def _limit(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise socket.timeout("the client was too slow")
        self._socket.settimeout(left)
