"""An endpoint without credentials refuses requests that a web page may have sent."""

from __future__ import annotations

import pytest

from tests.lib.endpoint.problem_documents import check_problem
from tests.lib.endpoints import message
from tests.lib.samples import unique_body, webhook

HEALTH = "/api/v1/health"
TOKEN = {"Authorization": "Bearer the-old-token-01"}


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "192.0.2.1", "[::2]"]
)
def test_a_host_name_from_dns_rebinding_is_refused(endpoint, host):
    body = unique_body()
    for response in (endpoint.get(HEALTH, Host=host), endpoint.post(body, Host=host)):
        assert "http://127.0.0.1" in check_problem(response, 403)["detail"]
    assert not endpoint.has_stored(body)


def test_the_host_in_an_absolute_url_is_checked(endpoint):
    assert endpoint.request("GET", "http://evil.example" + HEALTH).status == 403
    with endpoint.client() as client:
        client.send(message("GET", "http://localhost" + HEALTH, Host="evil.example"))
        assert client.read().status == 200


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8000", "127.9.9.9", "localhost:9", "LocalHost", "[::1]:80", ""]
)
def test_loopback_names_are_accepted(endpoint, host):
    assert endpoint.get(HEALTH, Host=host).status == 200


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "https://127.0.0.1.evil.example",
        "http://127.0.0.1:1",
        "null",
        "",
        "file://",
        "127.0.0.1",
    ],
)
def test_a_request_from_another_origin_is_refused(endpoint, origin):
    body = unique_body()
    for response in (endpoint.get(HEALTH, Origin=origin), endpoint.post(body, Origin=origin)):
        assert "Origin" in check_problem(response, 403)["detail"]
    assert not endpoint.has_stored(body)


def test_a_request_from_the_same_origin_is_accepted(endpoint):
    host = f"127.0.0.1:{endpoint.port}"
    assert endpoint.get(HEALTH, Host=host, Origin="http://" + host).status == 200


def test_a_form_posted_by_a_page_is_refused(endpoint):
    """A browser sends these media types without a preflight request."""
    for media_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert endpoint.post(webhook(), Content_Type=media_type).status == 415


def test_a_preflight_request_is_not_allowed(endpoint):
    response = endpoint.request("OPTIONS", "/api/v1/webhook", Origin="http://evil.example")
    assert response.status == 403
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_the_liveness_route_accepts_any_host_name(endpoint):
    assert endpoint.get("/api/v1/health/live", Host="evil.example").status == 200


def test_any_host_name_is_accepted_if_credentials_are_required(guarded_endpoint):
    """A proxy may send any host name, and a web page does not know the credentials."""
    assert guarded_endpoint.get(HEALTH, Host="poundcake.example", **TOKEN).status == 200
    response = guarded_endpoint.post(webhook(), Host="x", Origin="https://grafana.example", **TOKEN)
    assert response.status == 202
