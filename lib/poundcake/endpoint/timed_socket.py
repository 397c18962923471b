"""A connected socket whose reads and writes share one deadline.

If each read had its own time limit, a client could hold a connection forever by sending one byte at
a time.
"""

from __future__ import annotations

import socket
import time
from typing import Protocol

_CHUNK = 65536


class ByteStream(Protocol):
    """A connection to a client, plain or TLS.

    Every method may raise OSError, and raises `socket.timeout`, a subclass, once the deadline has
    passed.
    """

    def expire_in(self, seconds: float) -> None:
        """Set the deadline for all later calls, in seconds from now."""

    def receive(self, size: int) -> bytes:
        """Return 1 to `size` bytes, or b"" if the client has closed its side."""

    def send(self, data: bytes) -> None:
        """Send all of `data`."""

    def linger(self, seconds: float, max_bytes: int) -> None:
        """Close the sending side, and discard the data that the client still sends."""


class TimedSocket:
    """A ByteStream over a plain socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._deadline = 0.0

    def expire_in(self, seconds: float) -> None:
        """Set the deadline for all later calls, in seconds from now."""
        self._deadline = time.monotonic() + seconds

    def peek(self) -> bytes:
        """Return the next byte without consuming it."""
        self._apply_deadline()
        return self._socket.recv(1, socket.MSG_PEEK)

    def receive(self, size: int) -> bytes:
        """Return 1 to `size` bytes, or b"" if the client has closed its side."""
        self._apply_deadline()
        return self._socket.recv(size)

    def send(self, data: bytes) -> None:
        """Send all of `data`."""
        # Not sendall(): under eventlet, the timeout would apply to each chunk separately.
        unsent = memoryview(data)
        while unsent:
            self._apply_deadline()
            unsent = unsent[self._socket.send(unsent) :]

    def linger(self, seconds: float, max_bytes: int) -> None:
        """Close the sending side, and discard the data that the client still sends.

        Closing a socket that has unread data resets the connection, and the client may then lose
        the response (RFC 9112, section 9.6).
        """
        self._socket.shutdown(socket.SHUT_WR)
        self.expire_in(seconds)
        while max_bytes > 0:
            chunk = self.receive(_CHUNK)
            if not chunk:
                return
            max_bytes -= len(chunk)

    def _apply_deadline(self) -> None:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise socket.timeout("the client was too slow")
        self._socket.settimeout(remaining)
