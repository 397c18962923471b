"""A short flood of a few thousand requests to each kind of endpoint."""

from __future__ import annotations

import os

import pytest

from tests.fuzz import flood
from tests.fuzz.wild import RequestGenerator


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="memory is read from /proc")
@pytest.mark.parametrize("kind", sorted(flood.KINDS))
def test_the_endpoint_survives_a_short_flood(kind):
    # During the first half, the warm-up, the endpoint allocates its permanent memory.
    assert flood.flood(kind, flood.Plan(requests=2000, warm_up=5)) == []


def test_the_same_seed_generates_the_same_requests():
    generator, same_seed, other_seed = (RequestGenerator(seed) for seed in ("1", "1", "2"))
    for _ in range(50):
        assert generator.framed_request().data == same_seed.framed_request().data
        assert generator.unframed_request().data == same_seed.unframed_request().data
    assert generator.framed_request().data != other_seed.framed_request().data
