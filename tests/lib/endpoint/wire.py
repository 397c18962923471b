"""Exchange raw bytes with an endpoint."""

from __future__ import annotations

import re
import socket

_STATUS_LINE = re.compile(rb"(?:\A|\n)HTTP/1\.1 (\d\d\d) ")


def exchange(endpoint, data):
    """Send bytes, close the sending side, and return all bytes of the responses."""
    with endpoint.client() as client:
        try:
            client.send(data)
            client.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the endpoint has closed the connection
        chunks = []
        try:
            while True:
                chunk = client.socket.recv(65536)
                if not chunk:
                    break
                chunks.append(chunk)
        except OSError:
            pass
        return b"".join(chunks)


def statuses(received):
    """Return the statuses of all responses, in order."""
    return tuple(int(status) for status in _STATUS_LINE.findall(received))
