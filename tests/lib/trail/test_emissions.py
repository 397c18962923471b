"""If several endpoints hold a request, exactly one of them emits it."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from poundcake.trail import database, emissions
from poundcake.trail.schema import api_calls
from tests.lib.samples import NOON, alert
from tests.lib.trails import database_time, in_parallel, on_sqlite, record

FIRST_ENDPOINT, SECOND_ENDPOINT = "11111111-endpoint-one", "22222222-endpoint-two"


@pytest.fixture
def request_ids(engine):
    return {record(engine, alert(f"A{n}")) for n in range(3)}


def claim(engine, request_ids, endpoint, at=NOON):
    with database_time(at):
        return emissions.claim(engine, list(request_ids), endpoint)


def test_the_first_endpoint_that_claims_a_request_emits_it(engine, request_ids):
    first, *others = sorted(request_ids)
    assert claim(engine, [first], FIRST_ENDPOINT) == {first}
    assert claim(engine, request_ids, SECOND_ENDPOINT) == set(others)
    assert claim(engine, request_ids, FIRST_ENDPOINT) == {first}


@on_sqlite
def test_claiming_again_extends_the_claims(engine, request_ids):
    for minutes in (0, 9, 18):
        at = NOON + minutes * emissions.LEASE / 10
        assert claim(engine, request_ids, FIRST_ENDPOINT, at) == request_ids
        assert claim(engine, request_ids, SECOND_ENDPOINT, at) == set()


def test_the_claim_of_a_stopped_endpoint_expires(engine, request_ids):
    claim(engine, request_ids, FIRST_ENDPOINT)
    shortly_before = NOON + 0.999 * emissions.LEASE
    assert claim(engine, request_ids, SECOND_ENDPOINT, shortly_before) == set()
    assert claim(engine, request_ids, SECOND_ENDPOINT, NOON + emissions.LEASE) == request_ids
    # When the first endpoint returns, it does not get the claim back.
    assert claim(engine, request_ids, FIRST_ENDPOINT, NOON + emissions.LEASE) == set()


@on_sqlite
def test_an_unrecorded_request_cannot_be_claimed(engine, request_ids):
    assert claim(engine, ["unknown"], FIRST_ENDPOINT) == set()
    assert claim(engine, [], FIRST_ENDPOINT) == set()


@on_sqlite
def test_more_requests_than_sqlite_has_variables_can_be_claimed(engine):
    ids = {record(engine) for _ in range(3)} | {str(n) for n in range(2000)}
    with database.reading(engine) as connection:
        recorded_ids = set(connection.scalars(select(api_calls.c.request_id)))
    assert claim(engine, ids, FIRST_ENDPOINT) == recorded_ids


def test_one_of_several_concurrent_endpoints_emits_each_request(engine):
    request_ids = [record(engine, alert(f"A{n}")) for n in range(20)]
    orders = [request_ids, request_ids[::-1], request_ids[10:] + request_ids[:10]]
    results = in_parallel(3, lambda i: emissions.claim(engine, orders[i], f"endpoint-{i}"))
    assert not [result for result in results if isinstance(result, Exception)], results
    emitted_ids = [request_id for claimed_ids in results for request_id in claimed_ids]
    assert sorted(emitted_ids) == sorted(request_ids)
