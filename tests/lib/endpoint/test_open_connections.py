"""When too many connections are open, the least needed one is closed."""

from __future__ import annotations

import pytest

from poundcake.endpoint.open_connections import OpenConnections, Phase


class FakeConnection:
    """A connection that counts how often it is aborted."""

    def __init__(self, connections):
        self.abort_count = 0
        self.slot = connections.admit(self.abort)

    def abort(self):
        self.abort_count += 1


@pytest.fixture
def full_connections():
    """Return OpenConnections with a limit of three, and the three connections that are open."""
    connections = OpenConnections(3)
    return connections, [FakeConnection(connections) for _ in range(3)]


def abort_counts(open_connections):
    return [connection.abort_count for connection in open_connections]


def test_the_longest_idle_connection_is_closed(full_connections):
    connections, open_connections = full_connections
    open_connections[0].slot.enter(Phase.BUSY)
    open_connections[0].slot.enter(Phase.WAITING)
    assert FakeConnection(connections).slot
    assert abort_counts(open_connections) == [0, 1, 0]
    assert (len(connections), connections.evicted) == (3, 1)


def test_a_lingering_connection_is_closed_first(full_connections):
    connections, open_connections = full_connections
    open_connections[2].slot.enter(Phase.LINGERING)
    FakeConnection(connections)
    assert abort_counts(open_connections) == [0, 0, 1]


def test_a_busy_connection_is_never_closed(full_connections):
    connections, open_connections = full_connections
    for connection in open_connections:
        assert connection.slot.enter(Phase.BUSY)
    assert FakeConnection(connections).slot is None
    assert abort_counts(open_connections) == [0, 0, 0]
    assert connections.evicted == 1


def test_a_connection_whose_response_is_not_read_is_closed_before_a_new_one_is_refused(
    full_connections,
):
    connections, open_connections = full_connections
    open_connections[1].slot.enter(Phase.ANSWERING)
    open_connections[2].slot.enter(Phase.BUSY)
    FakeConnection(connections).slot.enter(Phase.BUSY)
    assert abort_counts(open_connections) == [1, 0, 0]
    assert FakeConnection(connections).slot
    assert abort_counts(open_connections) == [1, 1, 0]


def test_a_closed_connection_starts_no_request(full_connections):
    connections, open_connections = full_connections
    FakeConnection(connections)
    assert not open_connections[0].slot.enter(Phase.BUSY)
    connections.remove(open_connections[0].slot)
    assert len(connections) == 3


def test_stopping_completes_requests_in_flight_and_starts_no_others(full_connections):
    connections, open_connections = full_connections
    open_connections[0].slot.enter(Phase.BUSY)
    connections.stop()
    assert open_connections[0].slot.enter(Phase.ANSWERING)
    assert connections.abort_idle() == 1
    assert abort_counts(open_connections) == [0, 1, 1]
    assert open_connections[0].slot.is_last_request
    assert not open_connections[1].slot.enter(Phase.BUSY)
    assert open_connections[0].slot.enter(Phase.LINGERING)
    assert connections.abort_idle() == 0
