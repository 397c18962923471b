"""A TCP proxy between the pack and a server, which can be told to go wrong."""

from __future__ import annotations

import socket
import struct
import threading
import time

TO_SERVER, TO_CLIENT = "to server", "to client"
_CHUNK = 65536
_DRAIN_SECONDS = 5


class Trip:
    """What ends a connection.

    It is so many bytes in one direction, or patterns seen there in this order, each in its own
    chunk.

    forward: whether the chunk with the last pattern is passed on; the connection is cut then when
    the other side answers, which shows that all of it arrived. `sprung` is set at the cut; it
    springs once.
    """

    def __init__(self, direction, after=0, patterns=(), forward=True):
        self.direction, self.forward = direction, forward
        self._left, self._patterns = after, patterns
        self._seen = {}
        self._arrives = None
        self.sprung = threading.Event()

    def passes(self, pair, direction, chunk):
        """How many bytes of the chunk pass before the cut; None where all do, without one."""
        if self._arrives:
            return 0 if self._arrives == pair and direction != self.direction else None
        if direction != self.direction:
            return None
        if not self._patterns:
            if len(chunk) < self._left:
                self._left -= len(chunk)
                return None
            return self._left
        seen = self._seen.get(pair, 0)
        if self._patterns[seen] not in chunk:
            return None
        self._seen[pair] = seen + 1
        if seen + 1 < len(self._patterns):
            return None
        if self.forward:
            self._arrives = pair
            return None
        return 0

    def ended(self, pair):
        """The connection has ended by itself, answered or not: another has to spring it."""
        if self._arrives == pair:
            self._arrives, self._seen = None, {}


class Proxy:
    """Listens on a port of its own and passes everything on to another on loopback.

    delay: seconds that each chunk is held up. While `stalled`, connections are taken and nothing
    passes, in neither direction.
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
    def stalled(self):
        return not self._flowing.is_set()

    @stalled.setter
    def stalled(self, value):
        (self._flowing.clear if value else self._flowing.set)()

    def trip(self, direction, **how):
        """Sets a Trip for whichever connection springs it first, and returns it."""
        trip = Trip(direction, **how)
        with self._lock:
            self._trip = trip
        return trip

    def cut(self):
        """Ends all connections, as a reset does."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            self._end(pair)

    def close(self):
        """Takes no more connections, and ends those there are."""
        self._listener.close()
        self.stalled = False
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
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = (client, server)
            with self._lock:
                self._pairs.add(pair)
            for direction in (TO_SERVER, TO_CLIENT):
                threading.Thread(target=self._pass_on, args=(pair, direction), daemon=True).start()

    def _pass_on(self, pair, direction):
        source, target = pair if direction == TO_SERVER else reversed(pair)
        try:
            while True:
                chunk = source.recv(_CHUNK)
                self._flowing.wait()
                if self.delay:
                    time.sleep(self.delay)
                if not chunk:
                    break
                passing = self._sprung(pair, direction, chunk)
                target.sendall(chunk if passing is None else chunk[:passing])
                if passing is not None:
                    break
        except OSError:
            pass
        self._end(pair)

    def _sprung(self, pair, direction, chunk):
        with self._lock:
            trip = self._trip
            if trip is None:
                return None
            passing = trip.passes(pair, direction, chunk)
            if passing is not None:
                self._trip = None
                trip.sprung.set()
            return passing

    def _end(self, pair):
        with self._lock:
            if pair not in self._pairs:
                return
            self._pairs.discard(pair)
            if self._trip:
                self._trip.ended(pair)
        client, server = pair
        _reset(client)
        # A reset would take from the server what it has been sent and has not read yet.
        threading.Thread(target=_let_go, args=(server,), daemon=True).start()


def _reset(connection):
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    connection.close()


def _let_go(connection):
    try:
        connection.settimeout(_DRAIN_SECONDS)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(_CHUNK):
            pass
    except OSError:
        pass
    connection.close()
