"""A running endpoint applies a changed configuration completely or not at all."""

from __future__ import annotations

import os
import re
import socket
import ssl
import threading

import pytest

from poundcake.endpoint import config_watcher
from tests import services
from tests.lib.certificates import Authority
from tests.lib.endpoint.test_tls import TlsEndpoint
from tests.lib.endpoints import ENDPOINT_CLASSES, RUNTIMES, message
from tests.lib.samples import alert, webhook
from tests.waiting import wait_for

SHORT_INTERVALS = {
    "endpoint.config_watcher.POLL_SECONDS": 0.1,
    "endpoint.supervisor.RETRY_SECONDS": 0.2,
}
LIVE = "/api/v1/health/live"


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture(params=RUNTIMES)
def start_endpoint(request, tmp_path):
    """Return a function that starts an endpoint with a short polling interval."""
    endpoints = []

    def factory(token="", **config):
        endpoint = ENDPOINT_CLASSES[request.param](tmp_path, SHORT_INTERVALS, **config).start()
        endpoints.append(endpoint)
        return endpoint.wait_for_status(200, **bearer(token))

    yield factory
    for endpoint in endpoints:
        endpoint.stop()


@pytest.fixture
def read_log(caplog, tmp_path):
    """Return a function that reads the log of the endpoints."""
    caplog.set_level("INFO")

    def read():
        file = tmp_path / "log"
        return file.read_text(errors="replace") if file.exists() else caplog.text

    return read


def test_the_configuration_is_polled_as_often_as_documented():
    assert config_watcher.POLL_SECONDS <= 25  # docs/CONFIGURATION.md promises 30 s


class TestChanges:
    def test_a_registered_change_is_applied_without_a_restart(self, start_endpoint, read_log):
        endpoint = start_endpoint(allowed_hosts=["web-1"])
        assert endpoint.configuration()["in_force"]["dry_run"] is True
        old_applied_at = endpoint.configuration()["applied_at"]
        endpoint.register(dry_run=False, allowed_hosts=None, max_body_bytes=1024)
        wait_for(lambda: endpoint.configuration()["in_force"]["dry_run"] is False)
        health = endpoint.get("/api/v1/health").json
        assert (health["status"], health["dry_run"]) == ("ok", False)
        assert health["configuration"]["applied_at"] > old_applied_at
        assert "allowed_hosts is empty" in health["configuration"]["warnings"][0]
        assert endpoint.post(webhook(alert(annotations={"x": "y" * 2000}))).status == 413
        message = "using the changed configuration: max_body_bytes, dry_run, allowed_hosts"
        assert read_log().count(message) == 1

    def test_a_removed_token_is_refused_on_open_connections(self, start_endpoint, tmp_path):
        token_file = tmp_path / "token"
        token_file.write_text("the-first-long-token")
        endpoint = start_endpoint(
            "the-first-long-token",
            auth_tokens=[f"file:{token_file}"],
            basic_auth="user:a-long-password-01",
        )
        with endpoint.client() as client:

            def get_status_with(token):
                client.send(message("GET", "/api/v1/health", **bearer(token)))
                return client.read().status

            assert get_status_with("the-first-long-token") == 200
            # The registered configuration does not change, only the file does.
            token_file.write_text("the-second-long-token")
            endpoint.wait_for_status(200, **bearer("the-second-long-token"))
            assert get_status_with("the-first-long-token") == 401
            assert get_status_with("the-second-long-token") == 200

    def test_a_changed_database_url_is_used(self, start_endpoint, tmp_path):
        url_file = tmp_path / "database_url"
        url_file.write_text(f"sqlite:///{tmp_path}/one.sqlite")
        endpoint = start_endpoint(database_url=f"file:{url_file}")
        first_id = endpoint.accept(webhook(alert()))
        status = "/api/v1/status/" + first_id
        wait_for(lambda: endpoint.get(status).json["alerts"])
        # If the request were still in flight, it would be announced again only after 30 s.
        wait_for(
            lambda: not endpoint.get("/api/v1/health").json["components"]["journal"]["waiting"]
        )
        url_file.write_text(f"sqlite:///{tmp_path}/two.sqlite")
        wait_for(lambda: os.path.exists(f"{tmp_path}/two.sqlite"))
        wait_for(lambda: not endpoint.get("/api/v1/executions/recent").json["executions"])
        second_id = endpoint.accept(webhook(alert("Second")))
        wait_for(lambda: endpoint.get("/api/v1/status/" + second_id).json["alerts"])

    def test_changes_lose_no_accepted_request(self, start_endpoint):
        endpoint = start_endpoint()
        accepted_ids = []
        for number in range(20):
            accepted_ids.append(endpoint.accept(webhook(alert(f"N{number}"))))
            endpoint.register(max_connections=100 + number)
        wait_for(lambda: endpoint.configuration()["in_force"]["max_connections"] == 119)
        for request_id in accepted_ids:
            wait_for(lambda i=request_id: endpoint.get("/api/v1/status/" + i).json["alerts"])


class TestAddress:
    def test_a_changed_port_is_used_and_requests_in_flight_are_completed(self, start_endpoint):
        endpoint = start_endpoint()
        busy_client = endpoint.client()
        idle_client = endpoint.client()
        busy_client.send(
            message("POST", "/api/v1/webhook", b"", Content_Length="2", Expect="100-continue")
        )
        assert busy_client.read().status == 100
        old_port = endpoint.port
        endpoint.port = services.free_port()
        endpoint.register(port=endpoint.port).wait_for_status(200)
        assert endpoint.configuration()["in_force"]["port"] == endpoint.port
        wait_for(lambda: not services.accepts_connections(old_port))
        assert idle_client.closed()
        busy_client.send(b"{}")
        response = busy_client.read()
        assert response.status == 400  # the request was answered, but is not a webhook
        assert response.headers["connection"] == "close"
        for client in (busy_client, idle_client):
            client.socket.close()

    def test_a_changed_host_may_include_the_previous_one(self, start_endpoint):
        """The endpoint cannot listen on 127.0.0.1 and 0.0.0.0 at the same time."""
        endpoint = start_endpoint()
        endpoint.register(host="0.0.0.0", auth_tokens=["the-only-long-token"])
        wait_for(lambda: get_health_status(endpoint) == 401)
        assert (
            endpoint.configuration(**bearer("the-only-long-token"))["in_force"]["host"] == "0.0.0.0"
        )
        endpoint.register(host="127.0.0.1", auth_tokens=None)
        wait_for(lambda: get_health_status(endpoint) == 200)
        assert endpoint.configuration()["in_force"]["host"] == "127.0.0.1"

    def test_the_old_address_is_restored_if_the_new_one_fails(self, start_endpoint, read_log):
        endpoint = start_endpoint()
        with socket.socket() as listener:  # the port is also in use on another address
            listener.bind(("127.0.0.2", endpoint.port))
            listener.listen(1)
            endpoint.register(host="0.0.0.0", auth_tokens=["the-only-long-token"])
            wait_for(lambda: "cannot listen on 0.0.0.0" in read_log())
            wait_for(lambda: get_health_status(endpoint) == 200)
            assert endpoint.configuration()["in_force"]["host"] == "127.0.0.1"

    def test_tls_is_turned_on_and_off_without_refusing_a_connection(self, start_endpoint, tmp_path):
        endpoint = start_endpoint()
        authority = Authority(tmp_path)
        certificate, key = authority.issue("endpoint")
        errors, stopping = [], threading.Event()

        def connect_repeatedly():
            while not stopping.is_set():
                try:
                    endpoint.client().socket.close()
                except ConnectionRefusedError as error:
                    errors.append(error)

        thread = threading.Thread(target=connect_repeatedly)
        thread.start()
        try:
            idle_client = endpoint.client()
            endpoint.register(tls_certificate=certificate, tls_key=key)
            tls_endpoint = TlsEndpoint(endpoint, authority.certificate)
            wait_for(lambda: responds_with_200(tls_endpoint))
            assert tls_endpoint.get("/api/v1/health").json()["address"].startswith("https://")
            assert idle_client.closed()
            idle_client.socket.close()
            endpoint.register(tls_certificate=None, tls_key=None).wait_for_status(200)
        finally:
            stopping.set()
            thread.join()
        assert errors == []

    def test_removing_the_client_ca_closes_the_connections_that_used_it(
        self, start_endpoint, tmp_path
    ):
        authority = Authority(tmp_path)
        certificate, key = authority.issue("endpoint")
        (tmp_path / "clients").mkdir()
        client_ca = Authority(tmp_path / "clients", "client-ca")
        endpoint = ENDPOINT_CLASSES["threads"](
            tmp_path,
            SHORT_INTERVALS,
            tls_certificate=certificate,
            tls_key=key,
            tls_client_ca=str(client_ca.certificate),
        ).start()
        try:
            tls_endpoint = TlsEndpoint(endpoint, authority.certificate)
            wait_for(lambda: responds_with_200(tls_endpoint))
            context = ssl.create_default_context(cafile=tls_endpoint.ca)
            context.load_cert_chain(*client_ca.issue("am"))
            with tls_endpoint.connect(context) as connection:
                connection.sendall(message("GET", "/api/v1/health"))
                assert connection.recv(100).startswith(b"HTTP/1.1 200")
                endpoint.register(tls_client_ca=None, auth_tokens=["the-only-long-token"])
                wait_for(
                    lambda: responds_with_200(
                        tls_endpoint, "/api/v1/health", headers=bearer("the-only-long-token")
                    )
                )
                connection.settimeout(10)
                try:
                    while connection.recv(65536):
                        pass
                except OSError:
                    pass  # the connection was closed
        finally:
            endpoint.stop()


def get_health_status(endpoint):
    """Return the HTTP status of health without credentials, or None if there is no response."""
    try:
        response = endpoint.get("/api/v1/health")
    except OSError:
        return None
    return response and response.status  # a connection that was closed while idle has no response


def responds_with_200(tls_endpoint, path=LIVE, **options):
    try:
        return tls_endpoint.get(path, **options).status_code == 200
    except OSError:
        return False


class TestUnusableConfigurations:
    """The previous configuration stays in use; the problem is logged once and shown by health."""

    def assert_previous_is_kept(self, endpoint, read_log, problem, **headers):
        """Assert that a problem is shown and logged once, and that the endpoint still works."""
        wait_for(lambda: problem in endpoint.configuration(**headers)["problem"])
        health = endpoint.get("/api/v1/health", **headers).json
        assert health["status"] == "degraded"
        assert health["configuration"]["problem"].startswith("keeping the previous configuration: ")
        assert endpoint.post(webhook(), **headers).status == 202
        # The log may contain the same reason without this prefix, from recording a request.
        pattern = f"keeping the previous configuration: .*{re.escape(problem)}"
        assert len(re.findall(pattern, read_log())) == 1

    def wait_until_restored(self, endpoint, **headers):
        wait_for(lambda: not endpoint.configuration(**headers)["problem"])
        assert endpoint.get("/api/v1/health", **headers).json["status"] == "ok"

    @pytest.mark.parametrize(
        "config, problem",
        [
            ({"allowed_host": ["web-1"]}, "unknown key allowed_host; did you mean allowed_hosts?"),
            ({"port": "x"}, "port: must be a whole number from 1 to 65535"),
            ({"host": "0.0.0.0"}, "host: other machines could reach 0.0.0.0 without credentials"),
            (
                {"host": "192.0.2.1", "auth_tokens": ["the-only-long-token"]},
                "cannot listen on 192.0.2.1:",
            ),
            ({"auth_tokens": ["file:/no/such"]}, "auth_tokens: cannot read /no/such: no such file"),
            ({"database_url": "sqlite:///relative"}, "database_url: sqlite:// needs an absolute"),
            (
                {"tls_certificate": "/no/c", "tls_key": "/no/k"},
                "tls_certificate: cannot read /no/c",
            ),
        ],
    )
    def test_a_broken_configuration_is_not_applied(self, start_endpoint, read_log, config, problem):
        endpoint = start_endpoint()
        endpoint.register(dry_run=False, allowed_hosts=["*"], **config)
        self.assert_previous_is_kept(endpoint, read_log, problem)
        current = endpoint.configuration()["in_force"]
        assert current["dry_run"] is True  # no part of the change is applied
        endpoint.register(**{**dict.fromkeys(config), "port": endpoint.port})
        wait_for(lambda: endpoint.configuration()["in_force"]["dry_run"] is False)
        self.wait_until_restored(endpoint)

    def test_a_port_in_use_is_retried_until_it_is_free(self, start_endpoint, read_log):
        endpoint = start_endpoint()
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            port = listener.getsockname()[1]
            endpoint.register(port=port)
            self.assert_previous_is_kept(
                endpoint, read_log, f"cannot listen on 127.0.0.1:{port}: Address already in use"
            )
        endpoint.port = port
        endpoint.wait_for_status(200)
        self.wait_until_restored(endpoint)

    def test_an_unreadable_token_file_keeps_the_previous_tokens(
        self, start_endpoint, read_log, tmp_path
    ):
        token_file = tmp_path / "token"
        token_file.write_text("the-only-long-token")
        endpoint = start_endpoint(
            "the-only-long-token", auth_tokens=[f"file:{token_file}", "another-long-token"]
        )
        os.rename(str(token_file), str(token_file) + ".away")
        self.assert_previous_is_kept(
            endpoint, read_log, "cannot read", **bearer("the-only-long-token")
        )
        token_file.write_text("a-new-and-long-token")
        endpoint.wait_for_status(200, **bearer("a-new-and-long-token"))
        self.wait_until_restored(endpoint, **bearer("a-new-and-long-token"))

    def test_an_unreadable_registered_configuration_is_not_applied(
        self, start_endpoint, read_log, tmp_path
    ):
        endpoint = start_endpoint()
        path = endpoint.published_path + ".config"
        with open(path, "w") as file:
            file.write("not json")
        self.assert_previous_is_kept(
            endpoint, read_log, "the registered configuration cannot be read: "
        )
        endpoint.register()
        self.wait_until_restored(endpoint)

    def test_a_broken_key_keeps_the_previous_certificate(self, start_endpoint, read_log, tmp_path):
        authority = Authority(tmp_path)
        certificate, key = authority.issue("endpoint")
        endpoint = start_endpoint()
        endpoint.register(tls_certificate=certificate, tls_key=key)
        tls_endpoint = TlsEndpoint(endpoint, authority.certificate)
        wait_for(lambda: responds_with_200(tls_endpoint))
        with open(key, "w") as file:
            file.write("no key")
        wait_for(lambda: tls_endpoint.get("/api/v1/health").json()["status"] == "degraded")
        problem = tls_endpoint.get("/api/v1/health").json()["configuration"]["problem"]
        assert problem.endswith("keeping the previous certificate, key and client CA")
        assert read_log().count("keeping the previous certificate") == 1
        authority.issue("endpoint")
        wait_for(lambda: tls_endpoint.get("/api/v1/health").json()["status"] == "ok")

    def test_a_changed_state_dir_waits_for_a_restart_and_other_changes_are_applied(
        self, start_endpoint, tmp_path
    ):
        endpoint = start_endpoint()
        old_state_dir = endpoint.config["state_dir"]
        endpoint.register(state_dir=str(tmp_path / "other"), give_up_hours=5)
        wait_for(lambda: endpoint.configuration()["in_force"]["give_up_hours"] == 5)
        configuration = endpoint.configuration()
        assert configuration["in_force"]["state_dir"] == old_state_dir
        assert configuration["problem"] == (
            f"state_dir: restart the sensor to use {tmp_path}/other"
        )
        assert endpoint.get("/api/v1/health").json["status"] == "degraded"
        assert not (tmp_path / "other").exists()

    def test_a_configuration_broken_at_the_start_is_used_once_it_is_repaired(
        self, start_endpoint, tmp_path
    ):
        endpoint = ENDPOINT_CLASSES["threads"](
            tmp_path, SHORT_INTERVALS, allowed_host=["web-1"]
        ).start()
        try:
            endpoint.register(allowed_host=None).wait_for_status(200)
        finally:
            endpoint.stop()
