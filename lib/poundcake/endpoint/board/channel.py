"""Exchange objects with another process of the pack, over a socket that only the two have.

The objects are pickled. Only a process that this pack has started may be at the other end.
"""

from __future__ import annotations

import pickle
import socket
import struct
from typing import Any, NamedTuple

_LENGTH = struct.Struct("!Q")
_CHUNK = 1 << 16


class ClosedError(ConnectionError):
    """The other process closed the channel, or ended."""


class Call(NamedTuple):
    """Asks the other process to call one of the functions that it offers.

    Attributes:
        function: The name of the function.
        arguments: The arguments.
    """

    function: str
    arguments: tuple[Any, ...]


class Result(NamedTuple):
    """What a function returned."""

    value: Any


class Failure(NamedTuple):
    """What a function raised."""

    error: Exception


class Channel:
    """One end of a pair of sockets.

    Args:
        stream: The socket.
    """

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream

    def send(self, message: object) -> None:
        """Send an object.

        Raises:
            OSError: The other process ended, or does not read.
        """
        data = pickle.dumps(message)
        self._stream.sendall(_LENGTH.pack(len(data)) + data)

    def receive(self) -> Any:
        """Return the next object.

        Raises:
            OSError: The other process ended, closed the channel, or did not send an object in time.
        """
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
        return pickle.loads(self._read(length))

    def close(self) -> None:
        """Close this end. The other process then cannot receive anything more."""
        self._stream.close()

    def _read(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            chunk = self._stream.recv(min(_CHUNK, length - len(data)))
            if not chunk:
                raise ClosedError("the other process closed the channel")
            data += chunk
        return bytes(data)
