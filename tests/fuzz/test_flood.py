"""A short flood: a few thousand requests to each kind of endpoint."""

from __future__ import annotations

import os

import pytest

from tests.fuzz import flood
from tests.fuzz.wild import RequestGenerator


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is read from /proc")
@pytest.mark.parametrize("kind", sorted(flood.KINDS))
def test_the_endpoint_survives_a_short_flood(kind):
    # Half of it is warm-up, after which the endpoint has allocated its permanent memory.
    assert flood.flood(kind, flood.Plan(requests=2000, warm_up=5)) == []


def test_the_same_seed_generates_the_same_requests():
    first, second, third = RequestGenerator("1"), RequestGenerator("1"), RequestGenerator("2")
    for _ in range(50):
        assert first.framed_request().data == second.framed_request().data
        assert first.unframed_request().data == second.unframed_request().data
    assert first.framed_request().data != third.framed_request().data
