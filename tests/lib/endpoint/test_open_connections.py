"""When too many connections are open, the least needed one is closed."""

from __future__ import annotations

import pytest

from poundcake.endpoint.open_connections import OpenConnections, Phase


class FakeConnection:
    """A connection that counts how often it is aborted."""

    def __init__(self, tracker):
        self.abort_count = 0
        self.slot = tracker.admit(self.abort)

    def abort(self):
        self.abort_count += 1


@pytest.fixture
def full_connections():
    """Return an OpenConnections with a limit of three, and its three connections."""
    tracker = OpenConnections(3)
    return tracker, [FakeConnection(tracker) for _ in range(3)]


def abort_counts(connections):
    return [connection.abort_count for connection in connections]


def test_the_longest_idle_connection_is_closed(full_connections):
    tracker, connections = full_connections
    connections[0].slot.enter(Phase.BUSY)
    connections[0].slot.enter(Phase.WAITING)
    assert FakeConnection(tracker).slot
    assert abort_counts(connections) == [0, 1, 0]
    assert (len(tracker), tracker.evicted) == (3, 1)


def test_a_lingering_connection_is_closed_first(full_connections):
    tracker, connections = full_connections
    connections[2].slot.enter(Phase.LINGERING)
    FakeConnection(tracker)
    assert abort_counts(connections) == [0, 0, 1]


def test_a_busy_connection_is_never_closed(full_connections):
    tracker, connections = full_connections
    for connection in connections:
        assert connection.slot.enter(Phase.BUSY)
    assert FakeConnection(tracker).slot is None
    assert abort_counts(connections) == [0, 0, 0]
    assert tracker.evicted == 1


def test_a_connection_whose_response_is_not_read_is_closed_before_a_new_one_is_refused(
    full_connections,
):
    tracker, connections = full_connections
    connections[1].slot.enter(Phase.ANSWERING)
    connections[2].slot.enter(Phase.BUSY)
    FakeConnection(tracker).slot.enter(Phase.BUSY)
    assert abort_counts(connections) == [1, 0, 0]
    assert FakeConnection(tracker).slot
    assert abort_counts(connections) == [1, 1, 0]


def test_a_closed_connection_starts_no_request(full_connections):
    tracker, connections = full_connections
    FakeConnection(tracker)
    assert not connections[0].slot.enter(Phase.BUSY)
    tracker.remove(connections[0].slot)
    assert len(tracker) == 3


def test_stopping_completes_requests_in_flight_and_starts_no_others(full_connections):
    tracker, connections = full_connections
    connections[0].slot.enter(Phase.BUSY)
    tracker.stop()
    assert connections[0].slot.enter(Phase.ANSWERING)
    assert tracker.abort_idle() == 1
    assert abort_counts(connections) == [0, 1, 1]
    assert connections[0].slot.is_last_request
    assert not connections[1].slot.enter(Phase.BUSY)
    assert connections[0].slot.enter(Phase.LINGERING)
    assert tracker.abort_idle() == 0
