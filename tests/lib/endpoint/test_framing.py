"""The endpoint answers each case of the corpus as expected, and never splits a request in two."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest

from tests.lib.endpoint.framing_corpus import BODY, CASES, LIVE, WEBHOOK
from tests.lib.endpoint.wire import exchange, statuses
from tests.lib.endpoints import message
from tests.waiting import wait_for

GROUPS = sorted({case.name.partition(":")[0] for case in CASES})


@pytest.mark.parametrize("group", GROUPS)
def test_each_case_is_answered_as_expected(endpoint, group):
    cases = [case for case in CASES if case.name.startswith(group)]
    count_before = len(endpoint.entries())
    received_statuses = {case.name: statuses(exchange(endpoint, case.data)) for case in cases}
    assert received_statuses == {case.name: case.statuses for case in cases}
    assert len(endpoint.entries()) == count_before + sum(case.stores_a_webhook for case in cases)


@pytest.mark.parametrize("case", [c for c in CASES if c.statuses in ((400,), (414,), (431,))][::7])
def test_a_refusal_is_a_problem_document(endpoint, case):
    with endpoint.client() as client:
        with suppress(ConnectionError):
            client.send(case.data)
        response = client.read()
    assert (response.status,) == case.statuses
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["connection"] == "close"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.json["status"] == response.status
    assert response.json["request_id"] and response.json["detail"]
    assert "smuggled" not in response.body.decode()


def test_a_refused_head_request_has_no_body(endpoint):
    received = exchange(endpoint, b"HEAD / HTTP/1.1\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 400 ") and received.endswith(b"\r\n\r\n")


def test_the_remainder_of_a_refused_body_is_not_a_request(start_endpoint):
    """The body is longer than what the endpoint discards before it closes the connection."""
    endpoint = start_endpoint(
        {"endpoint.http_connection.LINGER_BYTES": 10}, auth_tokens=["the-token-in-use"]
    )
    hidden_request = message("POST", WEBHOOK, BODY, Authorization="Bearer the-token-in-use")
    received = exchange(endpoint, message("POST", WEBHOOK, b"0123456789" + hidden_request))
    assert statuses(received) == (401,)
    assert b"\r\nConnection: close\r\n" in received
    assert endpoint.get(LIVE).status == 200
    assert endpoint.entries() == []


def test_corrupted_bytes_never_cause_a_5xx(endpoint):
    generator = random.Random(7)
    valid_request = message("POST", WEBHOOK, BODY)
    for _ in range(60):
        data = bytearray(valid_request)
        for _ in range(generator.randrange(1, 6)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        assert all(status < 500 for status in statuses(exchange(endpoint, bytes(data))))
    assert endpoint.get(LIVE).status == 200


def test_the_size_of_the_header_is_bounded_before_authentication(start_endpoint):
    """Long header lines on 12 connections used to occupy 383 MiB."""
    endpoint = start_endpoint(auth_tokens=["the-token-in-use"])
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
