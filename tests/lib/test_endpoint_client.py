"""An action gets the endpoint's response, a refusal, or the reason why there is no response."""

from __future__ import annotations

import http.server
import json
import threading

import pytest

from poundcake import endpoint_client
from poundcake.config import Config, load
from poundcake.endpoint_client import Answered, Refused, Unreachable
from tests import services
from tests.lib.certificates import Authority
from tests.lib.endpoints import ENDPOINT_CLASSES
from tests.lib.samples import webhook
from tests.waiting import wait_for

UNKNOWN_ID = "0b1e6f0a-5a1c-4c3e-9d5f-2f7a1c9e4b60"


@pytest.fixture
def start_endpoint(tmp_path):
    """Return a function that starts an endpoint without waiting until it is ready."""
    endpoints = []

    def factory(**config):
        endpoint = ENDPOINT_CLASSES["threads"](tmp_path, **config).start()
        endpoints.append(endpoint)
        return endpoint

    yield factory
    for endpoint in endpoints:
        endpoint.stop()


@pytest.fixture
def start_impostor():
    """Return a function that starts a server in place of the endpoint.

    The function returns a configuration whose endpoint_url is this server.
    """
    servers = []

    def factory(status, body, **headers):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return Config(endpoint_url=f"http://127.0.0.1:{server.server_address[1]}")

    yield factory
    for server in servers:
        server.shutdown()
        server.server_close()


def test_health_and_status_are_read(start_endpoint):
    endpoint = start_endpoint(auth_tokens=["the-token-in-use"]).ready()
    config = load({"port": endpoint.port, "auth_tokens": ["the-token-in-use"]})
    health = endpoint_client.health(config)
    assert isinstance(health, Answered)
    assert health.document["status"] in ("ok", "degraded")
    request_id = endpoint.accept(webhook(), Authorization="Bearer the-token-in-use")
    status = endpoint_client.status(config, request_id)
    assert isinstance(status, Answered)
    assert status.document["request_id"] == request_id


@pytest.mark.parametrize("request_id", [UNKNOWN_ID, "nothing", "../../health", "a/b?c"])
def test_an_unknown_request_is_refused(start_endpoint, request_id):
    endpoint = start_endpoint().ready()
    result = endpoint_client.status(load({"port": endpoint.port}), request_id)
    assert isinstance(result, Refused) and result.status == 404


def test_the_health_view_is_read_even_if_it_says_unavailable(start_endpoint, tmp_path):
    (tmp_path / "file").write_text("")
    endpoint = start_endpoint(state_dir=str(tmp_path / "file" / "state")).ready(journal=False)
    health = endpoint_client.health(load({"port": endpoint.port}))
    assert isinstance(health, Answered)
    assert health.document["status"] == "unavailable"


def test_wrong_credentials_are_reported_as_a_refusal(start_endpoint):
    endpoint = start_endpoint(auth_tokens=["the-token-in-use"])
    endpoint.ready()
    wrong_config = load({"port": endpoint.port, "auth_tokens": ["a-wrong-token-01"]})
    for result in (
        endpoint_client.health(wrong_config),
        endpoint_client.status(wrong_config, UNKNOWN_ID),
    ):
        assert isinstance(result, Refused) and result.status == 401
        assert str(result).startswith(f"http://127.0.0.1:{endpoint.port} answered 401")
        assert "credentials" in str(result) and "endpoint_url" in str(result)
        assert "wrong" not in str(result)


@pytest.mark.parametrize(
    "status, body",
    [
        (200, b"<html>It works!</html>"),
        (200, b"null"),
        (200, b"[]"),
        (200, b"{}"),
        (200, b'"components"'),
        (200, b""),
        (200, b"\xff\xfe"),
        (503, b"<html>Service Unavailable</html>"),
        (502, b"null"),
        (404, json.dumps({"detail": None}).encode()),
        (500, json.dumps({"components": {}, "request_id": ""}).encode()),
    ],
)
def test_a_response_from_another_server_is_a_refusal(start_impostor, status, body):
    config = start_impostor(status, body)
    for result in (endpoint_client.health(config), endpoint_client.status(config, UNKNOWN_ID)):
        assert isinstance(result, Refused) and result.status == status
        assert f"answered {status}" in str(result)


def test_redirects_are_not_followed(start_impostor):
    target = start_impostor(200, json.dumps({"components": {}}).encode())
    health = endpoint_client.health(start_impostor(302, b"", Location=target.endpoint_url))
    assert isinstance(health, Refused) and health.status == 302


def test_a_refused_connection_is_reported():
    port = services.free_port()
    config = load({"port": port})
    for result in (endpoint_client.health(config), endpoint_client.status(config, UNKNOWN_ID)):
        assert result == Unreachable(f"http://127.0.0.1:{port}", "Connection refused")
        assert str(result).startswith(f"no answer from http://127.0.0.1:{port}")


@pytest.mark.parametrize("url", ["http://nosuch.invalid", "http://127.0.0.1:99999"])
def test_an_unreachable_url_is_reported(url):
    health = endpoint_client.health(Config(endpoint_url=url))
    assert isinstance(health, Unreachable) and health.reason


def test_no_proxy_is_used(start_endpoint, monkeypatch):
    """A proxy would see the token."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{services.free_port()}")
    endpoint = start_endpoint().ready()
    assert isinstance(endpoint_client.health(load({"port": endpoint.port})), Answered)


class TestCertificate:
    def test_the_endpoints_own_certificate_is_pinned(self, start_endpoint, tmp_path):
        authority = Authority(tmp_path)
        issued_files = authority.issue("elsewhere", "192.0.2.1")
        tls_files = dict(zip(("tls_certificate", "tls_key"), issued_files))
        endpoint = start_endpoint(basic_auth="on-call:a-word-that-is-long", **tls_files)
        config = load(endpoint.config)
        wait_for(lambda: isinstance(endpoint_client.health(config), Answered))
        other_certificate, _ = authority.issue("other")
        health = endpoint_client.health(
            load(dict(endpoint.config, tls_certificate=other_certificate))
        )
        assert isinstance(health, Unreachable)

    def test_an_unreadable_certificate_is_reported(self, tmp_path):
        missing, empty = tmp_path / "missing", tmp_path / "empty"
        empty.write_text("")
        for path in (missing, empty):
            health = endpoint_client.health(Config(tls_certificate=str(path)))
            assert isinstance(health, Unreachable)
        assert str(missing) in endpoint_client.health(Config(tls_certificate=str(missing))).reason
