"""Which endpoint emits a request that several endpoints hold."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from poundcake.trail import database, emissions
from poundcake.trail.schema import api_calls
from tests.lib.samples import NOON, alert
from tests.lib.trails import database_time, in_parallel, on_sqlite, record

ONE, OTHER = "11111111-endpoint-one", "22222222-endpoint-other"


@pytest.fixture
def requests(engine):
    return {record(engine, alert(f"A{n}")) for n in range(3)}


def claim(engine, request_ids, endpoint, at=NOON):
    with database_time(at):
        return emissions.claim(engine, list(request_ids), endpoint)


def test_the_first_endpoint_to_claim_emits(engine, requests):
    first, *rest = sorted(requests)
    assert claim(engine, [first], ONE) == {first}
    assert claim(engine, requests, OTHER) == set(rest)
    assert claim(engine, requests, ONE) == {first}


@on_sqlite
def test_claiming_again_extends_the_claims(engine, requests):
    for minutes in (0, 9, 18):
        at = NOON + minutes * emissions.LEASE / 10
        assert claim(engine, requests, ONE, at) == requests
        assert claim(engine, requests, OTHER, at) == set()


def test_the_claim_of_an_endpoint_that_is_gone_expires(engine, requests):
    claim(engine, requests, ONE)
    almost = NOON + 0.999 * emissions.LEASE
    assert claim(engine, requests, OTHER, almost) == set()
    assert claim(engine, requests, OTHER, NOON + emissions.LEASE) == requests
    # If the first endpoint returns, it does not get the claim.
    assert claim(engine, requests, ONE, NOON + emissions.LEASE) == set()


@on_sqlite
def test_an_unrecorded_request_cannot_be_claimed(engine, requests):
    assert claim(engine, ["nobody"], ONE) == set()
    assert claim(engine, [], ONE) == set()


@on_sqlite
def test_more_requests_than_sqlite_has_variables(engine):
    ids = {record(engine) for _ in range(3)} | {str(n) for n in range(2000)}
    with database.reading(engine) as connection:
        known = set(connection.scalars(select(api_calls.c.request_id)))
    assert claim(engine, ids, ONE) == known


def test_one_of_two_concurrent_endpoints_emits_each_request(engine):
    requests = [record(engine, alert(f"A{n}")) for n in range(20)]
    orders = [requests, requests[::-1], requests[10:] + requests[:10]]
    found = in_parallel(3, lambda i: emissions.claim(engine, orders[i], f"endpoint-{i}"))
    assert not [f for f in found if isinstance(f, Exception)], found
    assert sorted(r for claimed in found for r in claimed) == sorted(requests)
