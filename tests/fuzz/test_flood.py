"""The short cut of the flood: some thousand requests on each kind of endpoint."""

import os

import pytest

from tests.fuzz import flood
from tests.fuzz.wild import Wild


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is read from /proc")
@pytest.mark.parametrize("kind", sorted(flood.KINDS))
def test_nothing_is_wrong_after_it(kind):
    # Half of it is for the warm-up: what the endpoint keeps for good it has by then.
    assert flood.flood(kind, 2000, warm_up=5) == []


def test_a_seed_is_always_the_same():
    one, other, third = Wild("1"), Wild("1"), Wild("2")
    for _ in range(50):
        assert one.keeping().data == other.keeping().data
        assert one.ending().data == other.ending().data
    assert one.keeping().data != third.keeping().data
