"""A TCP proxy between the pack and a server, which can cut, stall and delay connections."""

from __future__ import annotations

import socket
import struct
import threading
import time

TO_SERVER, TO_CLIENT = "to server", "to client"
_CHUNK = 65536
_DRAIN_SECONDS = 5


class Trip:
    """Cuts a connection, once, when a condition is met.

    The condition is a number of bytes in one direction, or a sequence of patterns, each in a
    separate chunk.

    Args:
        direction: TO_SERVER or TO_CLIENT.
        after: The number of bytes, if there are no patterns.
        patterns: The patterns.
        forward: Whether to forward the chunk with the last pattern. The connection is then cut when
            the other side responds, which shows that the chunk has arrived.

    Attributes:
        fired: Set when the connection is cut.
    """

    def __init__(self, direction, after=0, patterns=(), forward=True):
        self.direction, self.forward = direction, forward
        self._remaining_bytes, self._patterns = after, patterns
        self._matched_patterns = {}  # {pair: number of patterns}
        self._awaiting_response = None  # the pair that forwarded the last pattern
        self.fired = threading.Event()

    def bytes_before_cut(self, pair, direction, chunk):
        """Return how many bytes of the chunk pass before the cut, or None if there is no cut."""
        if self._awaiting_response:
            return 0 if self._awaiting_response == pair and direction != self.direction else None
        if direction != self.direction:
            return None
        if not self._patterns:
            if len(chunk) < self._remaining_bytes:
                self._remaining_bytes -= len(chunk)
                return None
            return self._remaining_bytes
        matched = self._matched_patterns.get(pair, 0)
        if self._patterns[matched] not in chunk:
            return None
        self._matched_patterns[pair] = matched + 1
        if matched + 1 < len(self._patterns):
            return None
        if self.forward:
            self._awaiting_response = pair
            return None
        return 0

    def handle_end(self, pair):
        """Start over with another connection if this one ended before it was cut."""
        if self._awaiting_response == pair:
            self._awaiting_response, self._matched_patterns = None, {}


class Proxy:
    """Listens on a free port, and forwards everything to another port on loopback.

    Attributes:
        delay: Seconds by which each chunk is delayed.
        is_stalled: Whether connections are accepted but nothing is forwarded in either direction.
    """

    def __init__(self, target_port):
        self.target_port = target_port
        self.delay = 0.0
        self._trip = None
        self._lock = threading.Lock()
        self._pairs = set()
        self._flowing = threading.Event()
        self._flowing.set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def is_stalled(self):
        return not self._flowing.is_set()

    @is_stalled.setter
    def is_stalled(self, value):
        if value:
            self._flowing.clear()
        else:
            self._flowing.set()

    def set_trip(self, direction, **condition):
        """Cut the first connection that meets the condition, and return the Trip."""
        trip = Trip(direction, **condition)
        with self._lock:
            self._trip = trip
        return trip

    def cut(self):
        """Reset all connections."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            self._end(pair)

    def close(self):
        """Stop accepting connections, and end the open ones."""
        self._listener.close()
        self.is_stalled = False
        self.cut()

    def _accept(self):
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target_port), timeout=5)
            except OSError:
                _reset(client)
                continue
            server.settimeout(None)
            for connection in (client, server):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = (client, server)
            with self._lock:
                self._pairs.add(pair)
            for direction in (TO_SERVER, TO_CLIENT):
                threading.Thread(target=self._forward, args=(pair, direction), daemon=True).start()

    def _forward(self, pair, direction):
        source, target = pair if direction == TO_SERVER else reversed(pair)
        try:
            while True:
                chunk = source.recv(_CHUNK)
                self._flowing.wait()
                if self.delay:
                    time.sleep(self.delay)
                if not chunk:
                    break
                count = self._bytes_before_cut(pair, direction, chunk)
                target.sendall(chunk if count is None else chunk[:count])
                if count is not None:
                    break
        except OSError:
            pass
        self._end(pair)

    def _bytes_before_cut(self, pair, direction, chunk):
        with self._lock:
            trip = self._trip
            if trip is None:
                return None
            count = trip.bytes_before_cut(pair, direction, chunk)
            if count is not None:
                self._trip = None
                trip.fired.set()
            return count

    def _end(self, pair):
        with self._lock:
            if pair not in self._pairs:
                return
            self._pairs.discard(pair)
            if self._trip:
                self._trip.handle_end(pair)
        client, server = pair
        _reset(client)
        # A reset would discard data that the server has not read yet.
        threading.Thread(target=_drain, args=(server,), daemon=True).start()


def _reset(connection):
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    connection.close()


def _drain(connection):
    try:
        connection.settimeout(_DRAIN_SECONDS)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(_CHUNK):
            pass
    except OSError:
        pass
    connection.close()
