"""The proxy forwards everything, and cuts and stalls connections on request."""

from __future__ import annotations

import socket
import threading

import pytest

from tests.faults.proxy import TO_CLIENT, TO_SERVER, Proxy


class Echo:
    """A server that echoes everything, and stores what it received."""

    def __init__(self):
        self.received = b""
        self.connection_ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        connection = self._listener.accept()[0]
        while True:
            chunk = connection.recv(65536)
            if not chunk:
                break
            self.received += chunk
            connection.sendall(chunk)
        self.connection_ended.set()

    def close(self):
        self._listener.close()


@pytest.fixture
def echo():
    echo = Echo()
    yield echo
    echo.close()


@pytest.fixture
def proxy(echo):
    proxy = Proxy(echo.port)
    yield proxy
    proxy.close()


@pytest.fixture
def client(proxy):
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as connection:
        yield connection


def receive(client, length):
    """Return this many bytes, or fewer if the connection ends first."""
    received = b""
    try:
        while len(received) < length:
            chunk = client.recv(length - len(received))
            if not chunk:
                break
            received += chunk
    except ConnectionError:
        pass
    return received


def test_everything_is_forwarded(client, echo):
    text = bytes(range(256)) * 4000
    threading.Thread(target=client.sendall, args=(text,), daemon=True).start()

    assert receive(client, len(text)) == text
    assert echo.received == text


def test_a_connection_is_cut_after_a_number_of_bytes_to_the_server(client, echo, proxy):
    trip = proxy.set_trip(TO_SERVER, after=3)
    client.sendall(b"abcdef")

    assert echo.connection_ended.wait(10)
    assert trip.fired.is_set()
    assert echo.received == b"abc"


def test_a_connection_is_cut_before_the_response(client, echo, proxy):
    trip = proxy.set_trip(TO_CLIENT, after=0)
    client.sendall(b"abcdef")

    assert receive(client, 1) == b""
    assert echo.connection_ended.wait(10)
    assert trip.fired.is_set()
    assert echo.received == b"abcdef"


@pytest.mark.parametrize("forward, expected", [(True, b"one two"), (False, b"one ")])
def test_a_connection_is_cut_after_patterns_in_order(client, echo, proxy, forward, expected):
    trip = proxy.set_trip(TO_SERVER, patterns=[b"one", b"two"], forward=forward)
    client.sendall(b"one ")
    assert receive(client, 4) == b"one "
    assert not trip.fired.is_set()

    client.sendall(b"two")
    assert echo.connection_ended.wait(10)
    assert trip.fired.is_set()
    assert echo.received == expected


def test_a_stalled_connection_resumes(client, echo, proxy):
    proxy.is_stalled = True
    client.sendall(b"abc")
    client.settimeout(0.3)
    with pytest.raises(socket.timeout):
        client.recv(3)
    assert echo.received == b""

    proxy.is_stalled = False
    client.settimeout(10)
    assert receive(client, 3) == b"abc"


def test_cut_ends_open_connections(client, echo, proxy):
    client.sendall(b"abc")
    assert receive(client, 3) == b"abc"

    proxy.cut()
    assert receive(client, 1) == b""
    assert echo.connection_ended.wait(10)
