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


def error_of(client):
    with pytest.raises(MonitoringError) as caught:
        client.get(PATH)
    return str(caught.value)


def sent(fake):
    return fake.requests[-1][2]


@pytest.mark.parametrize(
    "server, header",
    [
        ({}, None),
        ({"token": "a-token"}, "Bearer a-token"),
        ({"basic": "änna:a:word"}, "Basic " + base64.b64encode("änna:a:word".encode()).decode()),
    ],
)
def test_the_credential_is_sent(fake, server, header):
    fake.responses[PATH] = []
    assert client(fake.url, **server).get(PATH).document == []
    assert sent(fake).get("Authorization") == header


def test_the_environment_and_netrc_add_nothing(fake, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text(f"machine {services.LOOPBACK} login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    fake.responses[PATH] = []
    client(fake.url).get(PATH)
    assert "Authorization" not in sent(fake)


def test_a_redirect_is_not_followed(fake):
    fake.status, fake.headers = 302, {"Location": "http://other.example/steal"}
    error = error_of(client(fake.url, token="hush"))
    assert error.startswith(f"alertmanagers, {fake.url}: {PATH} redirects to http://other.example")
    assert len(fake.requests) == 1


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
def test_an_error_of_the_server_is_shown_without_the_credential(fake, body, text):
    fake.status, fake.responses[PATH] = 404, body
    error = error_of(client(fake.url, token="hush-token"))
    assert error.startswith(f"alertmanagers, {fake.url}: GET {PATH}: {text}")
    assert "hush" not in error and "\n" not in error


@pytest.mark.parametrize("body", [b"<html>", b"[" * 200_000, b"\xff"])
def test_something_else_than_json(fake, body):
    fake.responses[PATH] = body
    assert error_of(client(fake.url)).endswith(f"{PATH}: the response is not JSON")


def test_a_response_that_is_too_large_once_it_is_decompressed(fake, monkeypatch):
    monkeypatch.setattr(http_json, "MAX_BYTES", 1 << 20)
    fake.headers = {"Content-Encoding": "gzip"}
    fake.responses[PATH] = gzip.compress(b'["%s"]' % (b" " * (1 << 20)))
    assert error_of(client(fake.url)).endswith("the response is larger than 1 MiB")


def test_a_response_that_never_ends(fake, monkeypatch):
    monkeypatch.setattr(http_json, "_MAX_SECONDS", 0.2)

    def trickle(handler):
        handler.send_response(200)
        handler.end_headers()
        for _ in range(600):
            handler.wfile.write(b" " * (1 << 16))

    fake.responses[PATH] = trickle
    monkeypatch.setattr(http_json.time, "monotonic", iter(range(1000)).__next__)
    assert "the response took longer than" in error_of(client(fake.url))


def test_a_server_that_does_not_answer():
    url = f"http://{services.LOOPBACK}:{services.free_port()}"
    assert error_of(client(url)) == f"alertmanagers, {url}: Connection refused"


def test_a_server_that_answers_too_late(fake, monkeypatch):
    monkeypatch.setattr(http_json, "_TIMEOUT", (1, 0.1))
    asked = threading.Event()
    fake.responses[PATH] = lambda handler: asked.wait(10)
    assert error_of(client(fake.url)) == f"alertmanagers, {fake.url}: it did not answer in time"
    asked.set()


def test_a_damaged_body(fake):
    fake.headers, fake.responses[PATH] = {"Content-Encoding": "gzip"}, b"not gzip"
    assert error_of(client(fake.url)).startswith(f"alertmanagers, {fake.url}: ")


class TestTls:
    @pytest.fixture
    def secured(self, fake, tmp_path):
        authority = Authority(tmp_path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.issue("server"))
        fake.server.socket = context.wrap_socket(fake.server.socket, server_side=True)
        fake.responses[PATH] = []
        return fake.url.replace("http:", "https:"), str(authority.certificate)

    def test_the_certificate_of_a_private_authority(self, secured):
        url, ca_file = secured
        assert client(url, ca_file=ca_file).get(PATH).document == []
        assert "certificate verify failed" in error_of(client(url))

    def test_a_missing_file(self, secured):
        url, _ = secured
        assert "/no/such/ca.pem" in error_of(client(url, ca_file="/no/such/ca.pem"))
