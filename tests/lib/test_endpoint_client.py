"""What an action gets from the endpoint: a response, a refusal, or why there is no response."""

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
from tests.lib.endpoints import KINDS
from tests.lib.samples import webhook
from tests.waiting import wait_for

UNKNOWN = "0b1e6f0a-5a1c-4c3e-9d5f-2f7a1c9e4b60"


@pytest.fixture
def start(tmp_path):
    """Return a function that starts an endpoint without waiting for it."""
    started = []

    def factory(**config):
        running = KINDS["threads"](tmp_path, **config).start()
        started.append(running)
        return running

    yield factory
    for running in started:
        running.stop()


@pytest.fixture
def impostor():
    """Return a function that starts another server and returns the configuration to query it."""
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


def test_health_and_status(start):
    running = start(auth_tokens=["the-token-in-use"]).ready()
    config = load({"port": running.port, "auth_tokens": ["the-token-in-use"]})
    health = endpoint_client.health(config)
    assert isinstance(health, Answered)
    assert health.document["status"] in ("ok", "degraded")
    request_id = running.accept(webhook(), Authorization="Bearer the-token-in-use")
    status = endpoint_client.status(config, request_id)
    assert isinstance(status, Answered)
    assert status.document["request_id"] == request_id


@pytest.mark.parametrize("request_id", [UNKNOWN, "nothing", "../../health", "a/b?c"])
def test_an_unknown_request(start, request_id):
    running = start().ready()
    result = endpoint_client.status(load({"port": running.port}), request_id)
    assert isinstance(result, Refused) and result.status == 404


def test_degraded_health_is_a_valid_answer(start, tmp_path):
    (tmp_path / "in-the-way").write_text("")
    running = start(state_dir=str(tmp_path / "in-the-way" / "state")).ready(journal=False)
    health = endpoint_client.health(load({"port": running.port}))
    assert isinstance(health, Answered)
    assert health.document["status"] == "unavailable"


def test_wrong_credentials_are_not_reported_as_no_answer(start):
    running = start(auth_tokens=["the-token-in-use"])
    running.ready()
    wrong = load({"port": running.port, "auth_tokens": ["a-wrong-token-01"]})
    for result in (endpoint_client.health(wrong), endpoint_client.status(wrong, UNKNOWN)):
        assert isinstance(result, Refused) and result.status == 401
        assert str(result).startswith(f"http://127.0.0.1:{running.port} answered 401")
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
def test_a_response_from_another_server_is_not_an_answer(impostor, status, body):
    config = impostor(status, body)
    for result in (endpoint_client.health(config), endpoint_client.status(config, UNKNOWN)):
        assert isinstance(result, Refused) and result.status == status
        assert f"answered {status}" in str(result)


def test_no_redirect_is_followed(impostor):
    elsewhere = impostor(200, json.dumps({"components": {}}).encode())
    health = endpoint_client.health(impostor(302, b"", Location=elsewhere.endpoint_url))
    assert isinstance(health, Refused) and health.status == 302


def test_an_unreachable_server():
    port = services.free_port()
    config = load({"port": port})
    for health in (endpoint_client.health(config), endpoint_client.status(config, UNKNOWN)):
        assert health == Unreachable(f"http://127.0.0.1:{port}", "Connection refused")
        assert str(health).startswith(f"no answer from http://127.0.0.1:{port}")


@pytest.mark.parametrize("url", ["http://nosuch.invalid", "http://127.0.0.1:99999"])
def test_an_unreachable_url(url):
    health = endpoint_client.health(Config(endpoint_url=url))
    assert isinstance(health, Unreachable) and health.reason


def test_no_proxy_is_used(start, monkeypatch):
    """A proxy would see the token."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{services.free_port()}")
    running = start().ready()
    assert isinstance(endpoint_client.health(load({"port": running.port})), Answered)


class TestCertificate:
    def test_the_endpoints_own_certificate_is_pinned(self, start, tmp_path):
        authority = Authority(tmp_path)
        elsewhere = authority.issue("elsewhere", "192.0.2.1")
        files = dict(zip(("tls_certificate", "tls_key"), elsewhere))
        running = start(basic_auth="on-call:a-word-that-is-long", **files)
        config = load(running.config)
        wait_for(lambda: isinstance(endpoint_client.health(config), Answered))
        other, _ = authority.issue("other")
        health = endpoint_client.health(load(dict(running.config, tls_certificate=other)))
        assert isinstance(health, Unreachable)

    def test_one_that_cannot_be_read(self, tmp_path):
        missing, empty = tmp_path / "missing", tmp_path / "empty"
        empty.write_text("")
        for path in (missing, empty):
            health = endpoint_client.health(Config(tls_certificate=str(path)))
            assert isinstance(health, Unreachable)
        assert str(missing) in endpoint_client.health(Config(tls_certificate=str(missing))).reason
