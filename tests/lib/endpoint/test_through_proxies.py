"""Behind a real proxy, no client gets or loses a response because of another client.

A proxy that reuses its upstream connections sends requests of several clients over one of them.
If the proxy and the endpoint disagreed about where a request ends, the rest of one client's body
would become another client's request, and the response would go to the wrong client.
"""

from __future__ import annotations

import json
import uuid

import pytest

from tests.conftest import start
from tests.lib.endpoint.framing_corpus import CASES, LIVE, WEBHOOK
from tests.lib.endpoint.proxies import PROXIES
from tests.lib.endpoints import Client, InThreads, message

pytestmark = pytest.mark.services

TOKEN = "Bearer the-token-in-use"
# The start of a request that would consume the next one as its own header or body.
SWALLOWING_HEADER = b"GET /api/v1/health/live HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Swallowed: "
SWALLOWING_BODY = (
    b"POST /api/v1/webhook HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Content-Length: 150\r\n\r\n"
)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    new_endpoint = InThreads(tmp_path_factory.mktemp("proxied"), auth_tokens=["the-token-in-use"])
    yield new_endpoint.start().ready()
    new_endpoint.stop()


@pytest.fixture(params=["reusing", "not reusing"])
def reuses_connections(request):
    return request.param == "reusing"


@pytest.fixture(params=sorted(PROXIES))
def proxy(request, endpoint, reuses_connections):
    server = start(PROXIES[request.param], endpoint.port, reuses_connections)
    yield server
    server.close()


def attack(port, data):
    """Send the data of a hostile client, and disconnect after the first response."""
    with Client(port, timeout=1) as client:
        try:
            client.send(data)
            client.socket.recv(65536)
            client.socket.settimeout(0.02)
            while client.socket.recv(65536):
                pass
        except OSError:
            pass  # the proxy has closed the connection


def iterate_attacks(with_unfinished_requests):
    """Yield each case, and optionally variants that end with an unfinished request."""
    for case in CASES:
        if len(case.data) < 9000:  # no proxy forwards longer headers
            yield case.data
            head, separator, _ = case.data.partition(b"GET /smuggled")
            if (
                with_unfinished_requests
                and separator
                and case.name.startswith(("length", "coding", "field"))
            ):
                yield head + SWALLOWING_HEADER
            if with_unfinished_requests and separator and case.name.startswith("length"):
                yield head + SWALLOWING_BODY


def check_bystander(client):
    """Check two requests of an uninvolved client, and return the id and the body of its webhook."""
    request_id = str(uuid.uuid4())
    body = json.dumps({"alerts": [], "receiver": request_id}).encode()
    client.send(message("POST", WEBHOOK, body, Authorization=TOKEN, X_Request_ID=request_id))
    response = client.read()
    assert (response.status, response.headers["x-request-id"]) == (202, request_id)
    client.send(message("GET", LIVE))
    response = client.read()
    assert (response.status, response.json) == (200, {"status": "alive"})
    return request_id, body


def test_each_client_gets_the_response_to_its_own_request(proxy, endpoint, reuses_connections):
    ids_before = {entry.request_id for entry in endpoint.entries()}
    sent_bodies = {}
    for data in iterate_attacks(with_unfinished_requests=reuses_connections):
        attack(proxy.port, data)
        with Client(proxy.port) as client:
            try:
                request_id, body = check_bystander(client)
            except (AssertionError, AttributeError, KeyError, OSError) as error:
                pytest.fail(f"after {data!r}: {error!r}")
        sent_bodies[request_id] = body
    stored_bodies = {
        entry.request_id: entry.body
        for entry in endpoint.entries()
        if entry.request_id not in ids_before
    }
    # The attacker has no token, so only the bystanders' webhooks are stored, verbatim.
    assert stored_bodies == sent_bodies
