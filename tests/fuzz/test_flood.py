"""The short cut of the flood: some thousand requests on each kind of endpoint."""

import os

import pytest

from tests.fuzz import flood
from tests.fuzz.wild import RequestGenerator


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is read from /proc")
@pytest.mark.parametrize("kind", sorted(flood.KINDS))
def test_nothing_is_wrong_after_it(kind):
    # Half of it is for the warm-up: what the endpoint keeps for good it has by then.
    assert flood.flood(kind, 2000, warm_up=5) == []


def test_a_seed_is_always_the_same():
    one, other, third = RequestGenerator("1"), RequestGenerator("1"), RequestGenerator("2")
    for _ in range(50):
        assert one.framed_request().data == other.framed_request().data
        assert one.unframed_request().data == other.unframed_request().data
    assert one.framed_request().data != third.framed_request().data
