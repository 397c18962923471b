"""The endpoint serves TLS with its certificate, and authenticates clients by theirs."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import time
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from unittest import mock

import pytest
import requests
from cryptography import x509

from poundcake.config import Config
from poundcake.endpoint import tls
from tests.lib import certificates
from tests.lib.certificates import Authority
from tests.lib.endpoint.framing_corpus import CASES
from tests.lib.endpoint.wire import statuses
from tests.lib.endpoints import ENDPOINT_CLASSES, RUNTIMES, message
from tests.lib.samples import alert, webhook
from tests.waiting import wait_for

LIVE = "/api/v1/health/live"
HEALTH = "/api/v1/health"
WEBHOOK = "/api/v1/webhook"
TOKEN = "the-token-in-use"


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@pytest.fixture
def certificate_files(authority):
    certificate, key = authority.issue("endpoint")
    return {"tls_certificate": certificate, "tls_key": key}


class TlsEndpoint:
    """An endpoint with TLS, queried with `requests`. Its `runner` connects without TLS."""

    def __init__(self, runner, ca):
        self.runner, self.ca = runner, str(ca)
        self.url = f"https://127.0.0.1:{runner.port}"

    def get(self, path=LIVE, **options):
        with requests.Session() as session:  # a separate connection for each request
            session.trust_env = False
            return session.get(self.url + path, verify=self.ca, timeout=20, **options)

    def connect(self, context=None):
        """Return a TLS connection to the endpoint."""
        context = context or ssl.create_default_context(cafile=self.ca)
        with socket.create_connection(("127.0.0.1", self.runner.port), timeout=20) as plain_socket:
            return context.wrap_socket(plain_socket, server_hostname="127.0.0.1")

    def get_serial(self):
        """Return the serial number of the endpoint's certificate."""
        with self.connect() as connection:
            return connection.getpeercert()["serialNumber"]

    def read_log(self, caplog):
        """Return the log so far."""
        path = self.runner.folder / "log"
        return path.read_text() if path.exists() else caplog.text


def is_live(endpoint):
    try:
        return endpoint.get().status_code == 200
    except requests.RequestException:
        return False


@pytest.fixture(params=RUNTIMES)
def start_endpoint(request, tmp_path, authority, caplog):
    with endpoint_factory(request.param, tmp_path, authority, caplog) as start:
        yield start


@pytest.fixture
def start_endpoint_in_process(tmp_path, authority, caplog):
    """Like start_endpoint, but the endpoint always runs in this process, so a test can patch it."""
    with endpoint_factory("threads", tmp_path, authority, caplog) as start:
        yield start


@contextmanager
def endpoint_factory(runtime, tmp_path, authority, caplog):
    """Provide a function that starts an endpoint, and stop all of them at the end."""
    caplog.set_level("INFO")
    endpoints = []

    def factory(settings=None, until=is_live, **config):
        runner = ENDPOINT_CLASSES[runtime](tmp_path, settings, **config).start()
        endpoints.append(runner)
        endpoint = TlsEndpoint(runner, authority.certificate)
        wait_for(lambda: until(endpoint))
        return endpoint

    yield factory
    for runner in endpoints:
        runner.stop()


def read_all(client):
    """Read until the other side closes or resets the connection."""
    try:
        while client.receive():
            pass
    except ConnectionError:
        pass


class TestCertificate:
    def test_webhooks_are_accepted(self, start_endpoint, certificate_files):
        endpoint = start_endpoint(**certificate_files)
        response = requests.post(
            endpoint.url + "/api/v1/webhook", json=webhook(), verify=endpoint.ca, timeout=20
        )
        assert response.status_code == 202
        assert endpoint.get(HEALTH).json()["address"] == endpoint.url

    def test_a_connection_serves_many_requests(self, start_endpoint, certificate_files):
        endpoint = start_endpoint(**certificate_files)
        with requests.Session() as session:
            session.verify, session.trust_env = endpoint.ca, False
            for _ in range(3):
                assert session.get(endpoint.url + LIVE, timeout=20).json() == {"status": "alive"}
            large_webhook = webhook(alert(annotations={"text": "x" * 300000}))
            webhook_url = endpoint.url + "/api/v1/webhook"
            assert session.post(webhook_url, json=large_webhook, timeout=20).status_code == 202

    def test_tls_does_not_change_the_framing_of_requests(self, start_endpoint, certificate_files):
        """Check every fourth case of the corpus that has exactly one response."""
        endpoint = start_endpoint(**certificate_files)
        for case in [case for case in CASES if len(case.statuses) == 1][::4]:
            received = b""
            with endpoint.connect() as connection:
                try:
                    connection.sendall(case.data)
                    while True:
                        chunk = connection.recv(65536)
                        received += chunk
                        if not chunk:
                            break
                except OSError:
                    pass  # the endpoint has closed the connection
            assert statuses(received) == case.statuses, case.name

    @pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
    def test_tls_versions_before_1_2_are_refused(self, start_endpoint, certificate_files):
        endpoint = start_endpoint(**certificate_files)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(endpoint.ca)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(ssl.SSLError):
            endpoint.connect(context)
        assert is_live(endpoint)

    def test_a_new_certificate_is_used_without_a_restart(
        self, start_endpoint, certificate_files, authority
    ):
        endpoint = start_endpoint(**certificate_files)
        old_serial = endpoint.get_serial()
        authority.issue("endpoint")
        assert endpoint.get_serial() != old_serial

    def test_a_broken_certificate_does_not_replace_the_previous_one(
        self, start_endpoint, certificate_files, authority, caplog
    ):
        endpoint = start_endpoint(**certificate_files)
        old_serial = endpoint.get_serial()
        with open(certificate_files["tls_key"], "w") as file:
            file.write("no key")
        for _ in range(2):  # the problem is logged only for the first connection
            assert endpoint.get_serial() == old_serial
        assert endpoint.read_log(caplog).count("keeping the previous certificate") == 1
        authority.issue("endpoint")
        assert endpoint.get_serial() != old_serial
        assert "using the changed certificate files" in endpoint.read_log(caplog)

    def test_the_end_of_the_certificate_in_use_is_known(
        self, certificate_files, authority, monkeypatch
    ):
        used = tls.Certificates(Config(**certificate_files), logging.getLogger("tls"))
        hour = timedelta(hours=1)
        in_an_hour = datetime.now(timezone.utc) + hour
        assert abs(used.expires_at - in_an_hour) < timedelta(minutes=1)
        monkeypatch.setattr(certificates, "HOUR", 2 * hour)
        authority.issue("endpoint")
        used.current()
        assert abs(used.expires_at - in_an_hour - hour) < timedelta(minutes=1)

    def test_a_certificate_is_used_if_python_cannot_read_its_end(
        self, certificate_files, monkeypatch
    ):
        monkeypatch.delattr(tls._ssl, "_test_decode_cert")
        assert tls.Certificates(Config(**certificate_files), None).expires_at is None

    def test_certificate_files_can_be_created_after_the_start(
        self, start_endpoint, certificate_files, caplog
    ):
        moved_key = certificate_files["tls_key"] + ".away"
        os.rename(certificate_files["tls_key"], moved_key)
        expected_message = "tls_key: cannot read " + certificate_files["tls_key"]
        endpoint = start_endpoint(
            until=lambda endpoint: expected_message in endpoint.read_log(caplog),
            **certificate_files,
        )
        os.rename(moved_key, certificate_files["tls_key"])
        wait_for(lambda: is_live(endpoint))


class TestWrongClients:
    def test_plain_http_is_refused_with_an_explanation(self, start_endpoint, certificate_files):
        endpoint = start_endpoint(**certificate_files)
        with endpoint.runner.client() as client:
            client.send(message("GET", LIVE))
            response = client.read()
            assert response.status == 400
            assert "https://" in response.json["detail"]
            assert client.closed()

    def test_a_webhook_over_plain_http_is_refused(self, start_endpoint, certificate_files):
        endpoint = start_endpoint(**certificate_files)
        assert endpoint.runner.post(webhook()).status == 400
        assert endpoint.runner.entries() == []

    @pytest.mark.parametrize(
        "data", [b"\x16", b"\x16\x03\x01\x02\x00\x01", b"\x16" * 400], ids=range(3)
    )
    def test_a_connection_without_a_handshake_is_closed(
        self, start_endpoint, certificate_files, data
    ):
        endpoint = start_endpoint(
            {"endpoint.http_connection.HEADER_TIMEOUT": 0.5}, **certificate_files
        )
        with endpoint.runner.client() as client:
            client.send(data)
            read_all(client)
            assert len(client.buffer) < 20  # at most a TLS alert
        assert is_live(endpoint)

    def test_the_time_limit_applies_to_the_whole_handshake(self, start_endpoint, certificate_files):
        endpoint = start_endpoint(
            {"endpoint.http_connection.HEADER_TIMEOUT": 1.0}, **certificate_files
        )
        with endpoint.runner.client() as client:
            client.send(b"\x16\x03\x01\x02\x00")
            with pytest.raises(ConnectionError):
                for _ in range(100):
                    client.send(b"\x01")
                    time.sleep(0.1)

    @pytest.mark.parametrize(
        "plaintext",
        [b"GET /", message("POST", WEBHOOK, b"", Content_Length="9")],
        ids=["header", "body"],
    )
    def test_a_tls_record_sent_slowly_has_the_time_limit_of_its_content(
        self, start_endpoint, certificate_files, plaintext
    ):
        endpoint = start_endpoint(
            {
                "endpoint.http_connection.HEADER_TIMEOUT": 1.0,
                "endpoint.http_connection.BODY_TIMEOUT": 1.0,
            },
            **certificate_files,
        )
        context = ssl.create_default_context(cafile=endpoint.ca)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        with endpoint.runner.client() as plain_client:
            while True:
                try:
                    client.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    plain_client.send(outgoing.read())
                    incoming.write(plain_client.socket.recv(65536))
            client.write(plaintext)
            plain_client.send(outgoing.read())
            client.write(b"x" * 200)
            with pytest.raises(ConnectionError):
                for byte in outgoing.read():
                    plain_client.send(bytes([byte]))
                    time.sleep(0.1)

    def test_silent_clients_do_not_block_others(self, start_endpoint, certificate_files):
        endpoint = start_endpoint(
            {"endpoint.http_connection.HEADER_TIMEOUT": 1.0}, **certificate_files
        )
        silent_clients = [endpoint.runner.client() for _ in range(20)]
        try:
            assert is_live(endpoint)
            assert all(client.closed() for client in silent_clients)
        finally:
            for client in silent_clients:
                client.socket.close()

    def test_silent_connections_are_evicted(self, start_endpoint, certificate_files):
        endpoint = start_endpoint(max_connections=3, **certificate_files)
        silent_clients = [endpoint.runner.client() for _ in range(6)]
        try:
            assert is_live(endpoint)
        finally:
            for client in silent_clients:
                client.socket.close()

    def test_every_failure_is_counted_and_one_is_logged(
        self, start_endpoint, certificate_files, caplog
    ):
        endpoint = start_endpoint(**certificate_files)
        for _ in range(5):
            with endpoint.runner.client() as client:
                client.send(b"\x16\x03\x01\x00\x05hello")
                read_all(client)
        lines = endpoint.get("/metrics").text.splitlines()
        assert "poundcake_failed_handshakes_total 5.0" in lines
        assert endpoint.read_log(caplog).count("TLS with 127.0.0.1 failed") == 1

    def test_a_tls_client_fails_on_a_plain_port(self, start_endpoint, authority, tmp_path):
        runner = ENDPOINT_CLASSES["threads"](tmp_path).start()
        try:
            runner.ready()
            with pytest.raises(ssl.SSLError):
                TlsEndpoint(runner, authority.certificate).connect()
            assert runner.get(LIVE).status == 200
        finally:
            runner.stop()


class TestClientCertificates:
    @pytest.fixture
    def client_ca(self, tmp_path):
        (tmp_path / "clients").mkdir()
        return Authority(tmp_path / "clients", "client-ca")

    @pytest.fixture
    def endpoint(self, start_endpoint, certificate_files, client_ca):
        return start_endpoint(tls_client_ca=str(client_ca.certificate), **certificate_files)

    def test_a_certificate_from_the_client_ca_is_accepted(self, endpoint, client_ca):
        assert endpoint.get(HEALTH, cert=client_ca.issue("alertmanager")).status_code == 200
        assert endpoint.get(HEALTH).json()["detail"].endswith(": client certificate")

    def test_only_live_is_readable_without_a_certificate(self, endpoint):
        assert endpoint.get(HEALTH).status_code == 401
        response = requests.post(
            endpoint.url + "/api/v1/webhook", json=webhook(), verify=endpoint.ca, timeout=20
        )
        assert response.status_code == 401
        assert "WWW-Authenticate" not in response.headers
        assert endpoint.get(LIVE).status_code == 200
        assert endpoint.runner.entries() == []

    def test_a_certificate_from_another_ca_is_refused(self, endpoint, authority):
        with pytest.raises(requests.ConnectionError):
            endpoint.get(LIVE, cert=authority.issue("unknown-client"))

    def client_context(self, endpoint, certificate):
        context = ssl.create_default_context(cafile=endpoint.ca)
        context.load_cert_chain(*certificate)
        return context

    def request_health(self, connection):
        """Send a request on an open connection, and return what the endpoint sends."""
        connection.sendall(message("GET", HEALTH))
        try:
            return connection.recv(65536)
        except ConnectionError:
            return b""

    def test_an_open_connection_ends_when_the_client_ca_is_replaced(
        self, endpoint, client_ca, authority
    ):
        context = self.client_context(endpoint, client_ca.issue("alertmanager"))
        with endpoint.connect(context) as connection:
            assert b" 200 " in self.request_health(connection)
            authority.issue("endpoint")  # a new certificate for the endpoint changes nothing
            assert b" 200 " in self.request_health(connection)
            client_ca.certificate.write_bytes(authority.certificate.read_bytes())
            assert self.request_health(connection) == b""
        with pytest.raises(requests.ConnectionError):
            endpoint.get(HEALTH, cert=client_ca.issue("alertmanager"))
        assert endpoint.get(HEALTH, cert=authority.issue("new-client")).status_code == 200

    def test_a_certificate_that_expires_ends_its_connection_and_its_sessions(
        self, start_endpoint_in_process, certificate_files, client_ca, monkeypatch, caplog
    ):
        endpoint = start_endpoint_in_process(
            tls_client_ca=str(client_ca.certificate), **certificate_files
        )
        context = self.client_context(endpoint, client_ca.issue("alertmanager"))
        with endpoint.connect(context) as connection:
            assert b" 200 " in self.request_health(connection)
            session = connection.session
            after_expiry = time.time() + 7200
            monkeypatch.setattr(tls, "time", mock.Mock(time=lambda: after_expiry))
            assert self.request_health(connection) == b""
        with socket.create_connection(("127.0.0.1", endpoint.runner.port)) as plain_socket:
            with pytest.raises(OSError):
                with context.wrap_socket(
                    plain_socket, server_hostname="127.0.0.1", session=session
                ) as connection:
                    assert connection.session_reused
                    if not self.request_health(connection):
                        raise ConnectionError("closed")
        assert "certificate has expired: CN=alertmanager" in endpoint.read_log(caplog)

    def test_a_revoked_certificate_is_refused(self, start_endpoint, certificate_files, client_ca):
        certificates = {name: client_ca.issue(name) for name in ("revoked", "valid")}
        with open(client_ca.certificate, "ab") as file:
            file.write(client_ca.revoke("revoked"))
        endpoint = start_endpoint(tls_client_ca=str(client_ca.certificate), **certificate_files)
        with pytest.raises(requests.ConnectionError):
            endpoint.get(HEALTH, cert=certificates["revoked"])
        assert endpoint.get(HEALTH, cert=certificates["valid"]).status_code == 200

    def test_a_certificate_with_an_undecodable_name_fails_the_handshake(
        self, endpoint, client_ca, caplog
    ):
        # A DNS name of one byte, in DER, that is not UTF-8.
        names = x509.UnrecognizedExtension(
            x509.ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30\x03\x82\x01\xff"
        )
        with pytest.raises(requests.ConnectionError):
            endpoint.get(HEALTH, cert=client_ca.issue("odd", alternative_names=names))
        metrics = endpoint.get("/metrics", cert=client_ca.issue("alertmanager")).text
        assert "poundcake_failed_handshakes_total 1.0" in metrics
        assert "certificate cannot be decoded" in endpoint.read_log(caplog)
        assert "Traceback" not in endpoint.read_log(caplog)

    def test_another_configured_credential_is_accepted(
        self, start_endpoint, certificate_files, client_ca
    ):
        endpoint = start_endpoint(
            tls_client_ca=str(client_ca.certificate), auth_tokens=[TOKEN], **certificate_files
        )
        bearer = {"Authorization": "Bearer " + TOKEN}
        assert endpoint.get(HEALTH, headers=bearer).json()["authentication"] == (
            "bearer, client certificate"
        )
        assert endpoint.get(HEALTH, cert=client_ca.issue("alertmanager")).status_code == 200
        webhook_url = endpoint.url + "/api/v1/webhook"
        for credential in ({"cert": client_ca.issue("am-1")}, {"headers": bearer}):
            requests.post(webhook_url, json=webhook(), verify=endpoint.ca, timeout=20, **credential)
        assert endpoint.runner.credentials() == ["CN=am-1", "auth_tokens[1]"]
        assert endpoint.get(HEALTH).status_code == 401


class TestAlertmanager:
    """A real Alertmanager sends notifications over TLS."""

    @pytest.mark.parametrize("method", ["certificate", "password"])
    def test_a_notification_is_accepted(
        self, method, start_endpoint, certificate_files, authority, tmp_path, alertmanager
    ):
        (tmp_path / "clients").mkdir()
        client_ca = Authority(tmp_path / "clients", "client-ca")
        http_config = {"tls_config": {"ca_file": str(authority.certificate)}}
        if method == "certificate":
            endpoint = start_endpoint(tls_client_ca=str(client_ca.certificate), **certificate_files)
            http_config["tls_config"].update(zip(("cert_file", "key_file"), client_ca.issue("am")))
        else:
            endpoint = start_endpoint(
                basic_auth="on-call:a password with spaces", **certificate_files
            )
            http_config["basic_auth"] = {
                "username": "on-call",
                "password": "a password with spaces",
            }
        server = alertmanager(endpoint.url + "/api/v1/webhook", http_config=http_config)
        server.fire(alertname="HostDown")
        wait_for(lambda: len(endpoint.runner.entries()) == 1)
        body = endpoint.runner.entries()[0].body
        assert b"HostDown" in body


class TestCertificateNames:
    """The recorded name of a client certificate."""

    @pytest.mark.parametrize(
        "certificate, name",
        [
            ({"subject": ((("organizationName", "x"),), (("commonName", "am-1"),))}, "CN=am-1"),
            ({"subject": (), "subjectAltName": (("DNS", "am"), ("DNS", "b"))}, "DNS=am"),
            ({"subject": (), "serialNumber": "0A1B"}, "serial=0A1B"),
            (
                {
                    "subject": ((("commonName", ""),),),
                    "subjectAltName": (("othername", "<unsupported>"),),
                    "serialNumber": "0A1B",
                },
                "serial=0A1B",
            ),
            ({"subject": ((("commonName", "a\nb" + "c" * 64),),)}, "CN=a b" + "c" * 58),
        ],
    )
    def test_a_name_is_printable_and_fits_into_its_column(self, certificate, name):
        assert tls._certificate_name(certificate) == name
