"""A changed configuration is applied to a running endpoint completely or not at all."""

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
from tests.lib.endpoint.test_tls import Secured
from tests.lib.endpoints import KINDS, WAYS, message
from tests.lib.samples import alert, webhook
from tests.waiting import wait_for

QUICK = {"endpoint.config_watcher.POLL_SECONDS": 0.1, "endpoint.supervisor.RETRY_SECONDS": 0.2}
LIVE = "/api/v1/health/live"


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture(params=WAYS)
def make(request, tmp_path):
    """Return a function that starts an endpoint that polls for changes often."""
    made = []

    def factory(token="", **config):
        endpoint = KINDS[request.param](tmp_path, QUICK, **config).start()
        made.append(endpoint)
        return endpoint.wait_for_status(200, **bearer(token))

    yield factory
    for endpoint in made:
        endpoint.stop()


@pytest.fixture
def log(caplog, tmp_path):
    """Return a function that returns the log of the endpoints."""
    caplog.set_level("INFO")

    def text():
        file = tmp_path / "log"
        return file.read_text(errors="replace") if file.exists() else caplog.text

    return text


def test_the_configuration_is_polled_as_often_as_documented():
    assert config_watcher.POLL_SECONDS <= 25  # docs/CONFIGURATION.md promises 30


class TestChanges:
    def test_a_registered_change_is_applied_without_a_restart(self, make, log):
        endpoint = make(allowed_hosts=["web-1"])
        assert endpoint.configuration()["in_force"]["dry_run"] is True
        before = endpoint.configuration()["applied_at"]
        endpoint.register(dry_run=False, allowed_hosts=None, max_body_bytes=1024)
        wait_for(lambda: endpoint.configuration()["in_force"]["dry_run"] is False)
        health = endpoint.get("/api/v1/health").json
        assert (health["status"], health["dry_run"]) == ("ok", False)
        assert health["configuration"]["applied_at"] > before
        assert "allowed_hosts is empty" in health["configuration"]["warnings"][0]
        assert endpoint.post(webhook(alert(annotations={"x": "y" * 2000}))).status == 413
        message = "using the changed configuration: max_body_bytes, dry_run, allowed_hosts"
        assert log().count(message) == 1

    def test_a_removed_token_is_refused_on_open_connections(self, make, tmp_path):
        secret = tmp_path / "token"
        secret.write_text("the-first-long-token")
        endpoint = make(
            "the-first-long-token",
            auth_tokens=[f"file:{secret}"],
            basic_auth="user:a-long-password-of-ours",
        )
        with endpoint.client() as client:

            def status_with(token):
                client.send(message("GET", "/api/v1/health", **bearer(token)))
                return client.read().status

            assert status_with("the-first-long-token") == 200
            # Only the file changes, not the registered configuration.
            secret.write_text("the-second-long-token")
            endpoint.wait_for_status(200, **bearer("the-second-long-token"))
            assert status_with("the-first-long-token") == 401
            assert status_with("the-second-long-token") == 200

    def test_a_changed_database_url_is_used(self, make, tmp_path):
        url = tmp_path / "database_url"
        url.write_text(f"sqlite:///{tmp_path}/one.sqlite")
        endpoint = make(database_url=f"file:{url}")
        request_id = endpoint.accept(webhook(alert()))
        status = "/api/v1/status/" + request_id
        wait_for(lambda: endpoint.get(status).json["alerts"])
        # An announced request that is not recorded is first missed, after 30 s.
        wait_for(
            lambda: not endpoint.get("/api/v1/health").json["components"]["journal"]["waiting"]
        )
        url.write_text(f"sqlite:///{tmp_path}/two.sqlite")
        wait_for(lambda: os.path.exists(f"{tmp_path}/two.sqlite"))
        wait_for(lambda: not endpoint.get("/api/v1/executions/recent").json["executions"])
        again = endpoint.accept(webhook(alert("Again")))
        wait_for(lambda: endpoint.get("/api/v1/status/" + again).json["alerts"])

    def test_no_accepted_request_is_lost(self, make):
        endpoint = make()
        accepted = []
        for number in range(20):
            accepted.append(endpoint.accept(webhook(alert(f"N{number}"))))
            endpoint.register(max_connections=100 + number)
        wait_for(lambda: endpoint.configuration()["in_force"]["max_connections"] == 119)
        for request_id in accepted:
            wait_for(lambda i=request_id: endpoint.get("/api/v1/status/" + i).json["alerts"])


class TestAddress:
    def test_it_moves_to_another_port_and_finishes_requests_in_flight(self, make):
        endpoint = make()
        old = endpoint.client()
        idle = endpoint.client()
        old.send(message("POST", "/api/v1/webhook", b"", Content_Length="2", Expect="100-continue"))
        assert old.read().status == 100
        before = endpoint.port
        endpoint.port = services.free_port()
        endpoint.register(port=endpoint.port).wait_for_status(200)
        assert endpoint.configuration()["in_force"]["port"] == endpoint.port
        wait_for(lambda: not services.accepts_connections(before))
        assert idle.closed()
        old.send(b"{}")
        answer = old.read()
        assert answer.status == 400  # it was answered, but is not a webhook
        assert answer.headers["connection"] == "close"
        for client in (old, idle):
            client.socket.close()

    def test_it_moves_from_one_address_to_all(self, make):
        """The endpoint cannot listen on 127.0.0.1 and 0.0.0.0 at the same time."""
        endpoint = make()
        endpoint.register(host="0.0.0.0", auth_tokens=["the-only-long-token"])
        wait_for(lambda: status_of(endpoint) == 401)
        assert (
            endpoint.configuration(**bearer("the-only-long-token"))["in_force"]["host"] == "0.0.0.0"
        )
        endpoint.register(host="127.0.0.1", auth_tokens=None)
        wait_for(lambda: status_of(endpoint) == 200)
        assert endpoint.configuration()["in_force"]["host"] == "127.0.0.1"

    def test_the_old_address_is_restored_if_the_new_one_fails(self, make, log):
        endpoint = make()
        with socket.socket() as taken:  # so that the port is also in use on another address
            taken.bind(("127.0.0.2", endpoint.port))
            taken.listen(1)
            endpoint.register(host="0.0.0.0", auth_tokens=["the-only-long-token"])
            wait_for(lambda: "cannot listen on 0.0.0.0" in log())
            wait_for(lambda: status_of(endpoint) == 200)
            assert endpoint.configuration()["in_force"]["host"] == "127.0.0.1"

    def test_tls_is_turned_on_and_off_without_refusing_a_connection(self, make, tmp_path):
        endpoint = make()
        authority = Authority(tmp_path)
        certificate, key = authority.issue("endpoint")
        refused, stop = [], threading.Event()

        def connect():
            while not stop.is_set():
                try:
                    endpoint.client().socket.close()
                except ConnectionRefusedError as error:
                    refused.append(error)

        thread = threading.Thread(target=connect)
        thread.start()
        try:
            idle = endpoint.client()
            endpoint.register(tls_certificate=certificate, tls_key=key)
            secured = Secured(endpoint, authority.certificate)
            wait_for(lambda: is_answered(secured))
            assert secured.get("/api/v1/health").json()["address"].startswith("https://")
            assert idle.closed()
            idle.socket.close()
            endpoint.register(tls_certificate=None, tls_key=None).wait_for_status(200)
        finally:
            stop.set()
            thread.join()
        assert refused == []

    def test_a_changed_client_ca_ends_connections_of_the_old_one(self, make, tmp_path):
        authority = Authority(tmp_path)
        certificate, key = authority.issue("endpoint")
        (tmp_path / "clients").mkdir()
        clients = Authority(tmp_path / "clients", "client-ca")
        endpoint = KINDS["threads"](
            tmp_path,
            QUICK,
            tls_certificate=certificate,
            tls_key=key,
            tls_client_ca=str(clients.certificate),
        ).start()
        try:
            secured = Secured(endpoint, authority.certificate)
            wait_for(lambda: is_answered(secured))
            context = ssl.create_default_context(cafile=secured.ca)
            context.load_cert_chain(*clients.issue("am"))
            with secured.connect(context) as connection:
                connection.sendall(message("GET", "/api/v1/health"))
                assert connection.recv(100).startswith(b"HTTP/1.1 200")
                endpoint.register(tls_client_ca=None, auth_tokens=["the-only-long-token"])
                wait_for(
                    lambda: is_answered(
                        secured, "/api/v1/health", headers=bearer("the-only-long-token")
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


def status_of(endpoint):
    """Return the status of health without credentials, or None if the endpoint does not listen."""
    try:
        answer = endpoint.get("/api/v1/health")
    except OSError:
        return None
    return answer and answer.status  # a connection that was closed while idle has no response


def is_answered(secured, path=LIVE, **more):
    try:
        return secured.get(path, **more).status_code == 200
    except OSError:
        return False


class TestUnusableConfigurations:
    """The previous configuration stays in force; the problem is logged once and shown by health."""

    def assert_kept(self, endpoint, log, problem, **headers):
        """Assert that a problem is shown, logged once, and that the endpoint works as before."""
        wait_for(lambda: problem in endpoint.configuration(**headers)["problem"])
        health = endpoint.get("/api/v1/health", **headers).json
        assert health["status"] == "degraded"
        assert health["configuration"]["problem"].startswith("keeping the previous configuration: ")
        assert endpoint.post(webhook(), **headers).status == 202
        # A record in the meantime may log the same reason.
        pattern = f"keeping the previous configuration: .*{re.escape(problem)}"
        assert len(re.findall(pattern, log())) == 1

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
    def test_a_broken_configuration(self, make, log, config, problem):
        endpoint = make()
        endpoint.register(dry_run=False, allowed_hosts=["*"], **config)
        self.assert_kept(endpoint, log, problem)
        in_force = endpoint.configuration()["in_force"]
        assert in_force["dry_run"] is True  # no part of the change is applied
        endpoint.register(**{**dict.fromkeys(config), "port": endpoint.port})
        wait_for(lambda: endpoint.configuration()["in_force"]["dry_run"] is False)
        self.wait_until_restored(endpoint)

    def test_a_port_that_is_in_use_at_first(self, make, log):
        endpoint = make()
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen(1)
            port = taken.getsockname()[1]
            endpoint.register(port=port)
            self.assert_kept(
                endpoint, log, f"cannot listen on 127.0.0.1:{port}: Address already in use"
            )
        endpoint.port = port
        endpoint.wait_for_status(200)
        self.wait_until_restored(endpoint)

    def test_an_unreadable_token_file(self, make, log, tmp_path):
        secret = tmp_path / "token"
        secret.write_text("the-only-long-token")
        endpoint = make("the-only-long-token", auth_tokens=[f"file:{secret}", "another-long-token"])
        os.rename(str(secret), str(secret) + ".away")
        self.assert_kept(endpoint, log, "cannot read", **bearer("the-only-long-token"))
        secret.write_text("a-new-and-long-token")
        endpoint.wait_for_status(200, **bearer("a-new-and-long-token"))
        self.wait_until_restored(endpoint, **bearer("a-new-and-long-token"))

    def test_an_unreadable_registration(self, make, log, tmp_path):
        endpoint = make()
        path = endpoint.published_path + ".config"
        with open(path, "w") as file:
            file.write("not json")
        self.assert_kept(endpoint, log, "the registered one cannot be read: ")
        endpoint.register()
        self.wait_until_restored(endpoint)

    def test_a_broken_certificate_file(self, make, log, tmp_path):
        authority = Authority(tmp_path)
        certificate, key = authority.issue("endpoint")
        endpoint = make()
        endpoint.register(tls_certificate=certificate, tls_key=key)
        secured = Secured(endpoint, authority.certificate)
        wait_for(lambda: is_answered(secured))
        with open(key, "w") as file:
            file.write("no key")
        wait_for(lambda: secured.get("/api/v1/health").json()["status"] == "degraded")
        problem = secured.get("/api/v1/health").json()["configuration"]["problem"]
        assert problem.endswith("keeping the previous certificate")
        assert log().count("keeping the previous certificate") == 1
        authority.issue("endpoint")
        wait_for(lambda: secured.get("/api/v1/health").json()["status"] == "ok")

    def test_another_state_dir_waits_for_a_restart_and_the_rest_is_applied(self, make, tmp_path):
        endpoint = make()
        before = endpoint.config["state_dir"]
        endpoint.register(state_dir=str(tmp_path / "other"), give_up_hours=5)
        wait_for(lambda: endpoint.configuration()["in_force"]["give_up_hours"] == 5)
        configuration = endpoint.configuration()
        assert configuration["in_force"]["state_dir"] == before
        assert configuration["problem"] == (
            f"state_dir: {tmp_path}/other is used after a restart of the sensor"
        )
        assert endpoint.get("/api/v1/health").json["status"] == "degraded"
        assert not (tmp_path / "other").exists()

    def test_a_configuration_that_is_broken_at_the_start_is_used_after_its_repair(
        self, make, tmp_path
    ):
        endpoint = KINDS["threads"](tmp_path, QUICK, allowed_host=["web-1"]).start()
        try:
            endpoint.register(allowed_host=None).wait_for_status(200)
        finally:
            endpoint.stop()
