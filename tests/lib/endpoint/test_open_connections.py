"""Which connection is closed when there are too many."""

from __future__ import annotations

import pytest

from poundcake.endpoint.open_connections import OpenConnections, Phase


class Opened:
    """A connection that records when it is aborted."""

    def __init__(self, connections):
        self.aborted = 0
        self.slot = connections.admit(self.abort)

    def abort(self):
        self.aborted += 1


@pytest.fixture
def full():
    """Return three open connections, which is the maximum."""
    connections = OpenConnections(3)
    return connections, [Opened(connections) for _ in range(3)]


def aborted(opened):
    return [connection.aborted for connection in opened]


def test_the_longest_idle_connection_is_closed(full):
    connections, opened = full
    opened[0].slot.enter(Phase.BUSY)
    opened[0].slot.enter(Phase.WAITING)
    assert Opened(connections).slot
    assert aborted(opened) == [0, 1, 0]
    assert (len(connections), connections.evicted) == (3, 1)


def test_a_lingering_connection_is_closed_first(full):
    connections, opened = full
    opened[2].slot.enter(Phase.LINGERING)
    Opened(connections)
    assert aborted(opened) == [0, 0, 1]


def test_a_busy_connection_is_never_closed(full):
    connections, opened = full
    for connection in opened:
        assert connection.slot.enter(Phase.BUSY)
    assert Opened(connections).slot is None
    assert aborted(opened) == [0, 0, 0]
    assert connections.evicted == 1


def test_a_connection_whose_response_is_not_read_is_closed_before_a_new_one_is_refused(full):
    connections, opened = full
    opened[1].slot.enter(Phase.ANSWERING)
    opened[2].slot.enter(Phase.BUSY)
    Opened(connections).slot.enter(Phase.BUSY)
    assert aborted(opened) == [1, 0, 0]
    assert Opened(connections).slot
    assert aborted(opened) == [1, 1, 0]


def test_a_closed_connection_starts_no_request(full):
    connections, opened = full
    Opened(connections)
    assert not opened[0].slot.enter(Phase.BUSY)
    connections.leave(opened[0].slot)
    assert len(connections) == 3


def test_stopping_lets_requests_in_flight_finish_and_starts_no_others(full):
    connections, opened = full
    opened[0].slot.enter(Phase.BUSY)
    connections.stop()
    assert opened[0].slot.enter(Phase.ANSWERING)
    assert connections.abort_idle() == 1
    assert aborted(opened) == [0, 1, 1]
    assert opened[0].slot.is_last_request
    assert not opened[1].slot.enter(Phase.BUSY)
    assert opened[0].slot.enter(Phase.LINGERING)
    assert connections.abort_idle() == 0
