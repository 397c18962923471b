"""Requests to monitoring servers are bounded, and never leak a credential."""

from __future__ import annotations

import base64
import gzip
import json
import ssl
import threading

import pytest

from poundcake.monitoring import MonitoringError, http_json
from poundcake.monitoring.http_json import JsonClient
from poundcake.monitoring_servers import MonitoringServer
from tests import services
from tests.lib.certificates import Authority

PATH = "/api/v2/alerts"


def client(url, **server):
    return JsonClient("alertmanagers", MonitoringServer(url, **server))


def get_error(client):
    with pytest.raises(MonitoringError) as caught:
        client.get(PATH)
    return str(caught.value)


def last_request_headers(fake_server):
    return fake_server.requests[-1][2]


@pytest.mark.parametrize(
    "server, header",
    [
        ({}, None),
        ({"token": "a-token"}, "Bearer a-token"),
        ({"basic": "änna:a:word"}, "Basic " + base64.b64encode("änna:a:word".encode()).decode()),
    ],
)
def test_the_credential_is_sent(fake_server, server, header):
    fake_server.responses[PATH] = []
    assert client(fake_server.url, **server).get(PATH).document == []
    assert last_request_headers(fake_server).get("Authorization") == header


def test_proxies_and_netrc_from_the_environment_are_ignored(fake_server, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text(f"machine {services.LOOPBACK} login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    fake_server.responses[PATH] = []
    client(fake_server.url).get(PATH)
    assert "Authorization" not in last_request_headers(fake_server)


def test_a_redirect_is_not_followed(fake_server):
    fake_server.status, fake_server.headers = 302, {"Location": "http://other.example/steal"}
    error = get_error(client(fake_server.url, token="hush"))
    assert error.startswith(
        f"alertmanagers, {fake_server.url}: {PATH} redirects to http://other.example"
    )
    assert len(fake_server.requests) == 1


@pytest.mark.parametrize(
    "body, text",
    [
        (b"no such route", "404 no such route"),
        (json.dumps({"error": "bad data\nmore"}).encode(), "404 bad data"),
        (json.dumps({"message": "bad"}).encode(), "404 bad"),
        (b"you sent hush-token", "404 you sent ***"),
        (b"\xff", "404"),
    ],
)
def test_an_error_from_the_server_is_shown_without_the_credential(fake_server, body, text):
    fake_server.status, fake_server.responses[PATH] = 404, body
    error = get_error(client(fake_server.url, token="hush-token"))
    assert error.startswith(f"alertmanagers, {fake_server.url}: GET {PATH}: {text}")
    assert "hush" not in error and "\n" not in error


@pytest.mark.parametrize("body", [b"<html>", b"[" * 200_000, b"\xff"])
def test_a_response_that_is_not_json_is_an_error(fake_server, body):
    fake_server.responses[PATH] = body
    assert get_error(client(fake_server.url)).endswith(f"{PATH}: the response is not JSON")


def test_a_response_that_is_too_large_after_decompression_is_an_error(fake_server, monkeypatch):
    monkeypatch.setattr(http_json, "MAX_BYTES", 1 << 20)
    fake_server.headers = {"Content-Encoding": "gzip"}
    fake_server.responses[PATH] = gzip.compress(b'["%s"]' % (b" " * (1 << 20)))
    assert get_error(client(fake_server.url)).endswith("the response is larger than 1 MiB")


def test_a_response_that_never_ends_is_an_error(fake_server, monkeypatch):
    monkeypatch.setattr(http_json, "_MAX_SECONDS", 0.2)

    def trickle(handler):
        handler.send_response(200)
        handler.end_headers()
        for _ in range(600):
            handler.wfile.write(b" " * (1 << 16))

    fake_server.responses[PATH] = trickle
    monkeypatch.setattr(http_json.time, "monotonic", iter(range(1000)).__next__)
    assert "the response took longer than" in get_error(client(fake_server.url))


def test_a_refused_connection_is_an_error():
    url = f"http://{services.LOOPBACK}:{services.free_port()}"
    assert get_error(client(url)) == f"alertmanagers, {url}: Connection refused"


def test_a_late_response_is_an_error(fake_server, monkeypatch):
    monkeypatch.setattr(http_json, "_TIMEOUT", (1, 0.1))
    test_has_ended = threading.Event()
    fake_server.responses[PATH] = lambda handler: test_has_ended.wait(10)
    assert (
        get_error(client(fake_server.url))
        == f"alertmanagers, {fake_server.url}: it did not answer in time"
    )
    test_has_ended.set()


def test_a_damaged_body_is_an_error(fake_server):
    fake_server.headers, fake_server.responses[PATH] = {"Content-Encoding": "gzip"}, b"not gzip"
    assert get_error(client(fake_server.url)).startswith(f"alertmanagers, {fake_server.url}: ")


class TestTls:
    @pytest.fixture
    def https_server(self, fake_server, tmp_path):
        authority = Authority(tmp_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.issue("server"))
        fake_server.server.socket = context.wrap_socket(fake_server.server.socket, server_side=True)
        fake_server.responses[PATH] = []
        return fake_server.url.replace("http:", "https:"), str(authority.certificate)

    def test_a_private_authority_is_trusted_only_if_configured(self, https_server):
        url, ca_file = https_server
        assert client(url, ca_file=ca_file).get(PATH).document == []
        assert "certificate verify failed" in get_error(client(url))

    def test_a_missing_ca_file_is_named(self, https_server):
        url, _ = https_server
        assert "/no/such/ca.pem" in get_error(client(url, ca_file="/no/such/ca.pem"))
