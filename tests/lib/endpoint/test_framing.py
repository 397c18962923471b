"""Send the corpus of framing cases to an endpoint: no request becomes two."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest

from tests.lib.endpoint.framing_corpus import BODY, CASES, HOOK, LIVE
from tests.lib.endpoint.wire import exchange, statuses
from tests.lib.endpoints import message
from tests.waiting import wait_for

GROUPS = sorted({case.name.partition(":")[0] for case in CASES})


@pytest.mark.parametrize("group", GROUPS)
def test_every_case_gets_the_response_in_the_corpus(endpoint, group):
    cases = [case for case in CASES if case.name.startswith(group)]
    before = len(endpoint.entries())
    answered = {case.name: statuses(exchange(endpoint, case.data)) for case in cases}
    assert answered == {case.name: case.statuses for case in cases}
    assert len(endpoint.entries()) == before + sum(case.can_be_stored for case in cases)


@pytest.mark.parametrize("case", [c for c in CASES if c.statuses in ((400,), (414,), (431,))][::7])
def test_a_refusal_is_a_problem_document(endpoint, case):
    with endpoint.client() as client:
        with suppress(ConnectionError):
            client.send(case.data)
        answer = client.read()
    assert (answer.status,) == case.statuses
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["connection"] == "close"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.json["status"] == answer.status
    assert answer.json["request_id"] and answer.json["detail"]
    assert "smuggled" not in answer.body.decode()


def test_a_refused_head_request_has_no_body(endpoint):
    received = exchange(endpoint, b"HEAD / HTTP/1.1\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 400 ") and received.endswith(b"\r\n\r\n")


def test_the_rest_of_a_refused_body_is_not_a_request(make):
    """Not even if there is no time to read the whole body."""
    endpoint = make({"endpoint.http_connection.LINGER_BYTES": 10}, auth_tokens=["the-token-in-use"])
    inner = message("POST", HOOK, BODY, Authorization="Bearer the-token-in-use")
    received = exchange(endpoint, message("POST", HOOK, b"0123456789" + inner))
    assert statuses(received) == (401,)
    assert b"\r\nConnection: close\r\n" in received
    assert endpoint.get(LIVE).status == 200
    assert endpoint.entries() == []


def test_changed_bytes_never_cause_a_5xx(endpoint):
    chance = random.Random(7)
    good = message("POST", HOOK, BODY)
    for _ in range(60):
        data = bytearray(good)
        for _ in range(chance.randrange(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        assert all(status < 500 for status in statuses(exchange(endpoint, bytes(data))))
    assert endpoint.get(LIVE).status == 200


def test_the_header_is_bounded_before_authentication(make):
    """12 connections with one long line after the other once held 383 MiB."""
    endpoint = make(auth_tokens=["the-token-in-use"])
    clients = [endpoint.client() for _ in range(4)]
    try:
        for client in clients:
            try:
                client.send(b"GET / HTTP/1.1\r\n")
                for _ in range(20):
                    client.send(b"X: " + b"x" * 60000 + b"\r\n")
            except ConnectionError:
                pass  # the endpoint has closed the connection
        for client in clients:
            assert client.read().status == 431
    finally:
        for client in clients:
            client.socket.close()
    wait_for(lambda: endpoint.get(LIVE).status == 200)
