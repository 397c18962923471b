"""etc/haproxy.cfg is valid, and sends each webhook to an endpoint that accepts it.

tests/faults/test_two_endpoints.py kills the endpoints, HAProxy and the servers behind them.
"""

from __future__ import annotations

import configparser
import http.client
import json
import os
import re
import ssl
import subprocess
import time
import uuid

import pytest

from tests import documents, services
from tests.conftest import start
from tests.lib.certificates import Authority
from tests.lib.endpoints import Patched
from tests.lib.samples import alert, webhook
from tests.load_balancer import ADDRESSES, CONFIGURATION, LoadBalancer, uncomment_tls

pytestmark = pytest.mark.services

POST_TOKEN, READ_TOKEN = "a-token-that-posts", "a-token-that-reads"
CREDENTIALS = [
    {"name": "alertmanager", "scope": "post", "token": POST_TOKEN},
    {"name": "haproxy", "scope": "read", "token": READ_TOKEN},
]


@pytest.fixture
def endpoints(tmp_path):
    """Return a function that starts two endpoints on one database, with this configuration."""
    started = []

    def factory(**config):
        config["database_url"] = f"sqlite:///{tmp_path / 'tracking.sqlite'}"
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            started.append(Patched(tmp_path / name, **config).start())
        return started

    yield factory
    for endpoint in started:
        endpoint.stop()


@pytest.fixture
def load_balancer():
    """Return a function that starts HAProxy in front of endpoints."""
    servers = []

    def factory(endpoints, **options):
        servers.append(start(LoadBalancer, [e.port for e in endpoints], **options))
        return servers[-1]

    yield factory
    for server in servers:
        server.close()


def post(server, name, context=None, request_id=""):
    """Post a webhook through HAProxy, and return the status and the JSON of the response."""
    if context:
        client = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=30, context=context)
    else:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {POST_TOKEN}"}
    if request_id:
        headers["X-Request-ID"] = request_id
    client.request("POST", "/api/v1/webhook", json.dumps(webhook(alert(alertname=name))), headers)
    response = client.getresponse()
    text = response.read()
    client.close()
    is_json = (response.getheader("Content-Type") or "").endswith("json")
    return response.status, json.loads(text) if is_json else {}


def wait_for_log(server, text):
    deadline = time.monotonic() + 20
    while text not in server.log():
        assert time.monotonic() < deadline, server.log()
        time.sleep(0.05)


def check(path):
    """Return the exit code and the output of `haproxy -c`."""
    try:
        haproxy = services.program("haproxy")
    except services.MissingProgram as error:
        pytest.skip(str(error))
    environment = dict(os.environ, POUNDCAKE_READ_TOKEN=READ_TOKEN)
    result = subprocess.run(
        [haproxy, "-c", "-f", str(path)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return result.returncode, result.stdout


def certificate_files(tmp_path):
    """Return a CA, and the file with HAProxy's certificate and its key."""
    authority = Authority(tmp_path)
    certificate, key = authority.issue("haproxy")
    combined = tmp_path / "haproxy-with-key.pem"
    combined.write_text(open(certificate).read() + open(key).read())
    return authority, str(combined)


def test_haproxy_accepts_the_configuration():
    code, output = check(CONFIGURATION)
    assert code == 0 and "WARNING" not in output, output


def test_haproxy_accepts_the_configuration_with_tls(tmp_path):
    authority, certificate = certificate_files(tmp_path)
    path = tmp_path / "haproxy.cfg"
    text = CONFIGURATION.read_text(encoding="utf-8")
    path.write_text(uncomment_tls(text, certificate, str(authority.certificate)))
    code, output = check(path)
    assert code == 0 and "WARNING" not in output, output


def test_the_health_check_needs_a_credential_that_may_read(endpoints, load_balancer):
    both = endpoints(credentials=CREDENTIALS)
    for endpoint in both:
        endpoint.wait_for_status(200, Authorization=f"Bearer {READ_TOKEN}")
    allowed = load_balancer(both, token=READ_TOKEN)
    refused = load_balancer(both, token=POST_TOKEN)
    wait_for_log(refused, "has no server available")
    assert "code: 403" in refused.log()
    assert post(refused, "Refused")[0] == 503
    assert "DOWN" not in allowed.log()
    assert post(allowed, "Allowed")[0] == 202


def test_an_endpoint_that_cannot_accept_more_is_passed_over(endpoints, load_balancer):
    both = endpoints(backlog_limit=1)
    for endpoint in both:
        endpoint.ready().set_broker(up=False)
    server = load_balancer(both)
    # Each endpoint has space for one. HAProxy hands on the second one that the first would get.
    assert both[0].post(webhook(alert(alertname="First"))).status == 202
    second = post(server, "Second")
    assert second[0] == 202, (second, server.log())
    status, problem = post(server, "Third")
    assert status == 503
    # Until HAProxy has checked both endpoints, the response is the endpoint's own.
    assert "backlog_limit" in problem.get("detail", "backlog_limit")
    both[1].set_broker(up=True)
    deadline = time.monotonic() + 60
    while post(server, "Fourth")[0] != 202:
        assert time.monotonic() < deadline, server.log()
        time.sleep(0.2)


def test_a_stopped_endpoint_costs_no_webhook(endpoints, load_balancer):
    both = endpoints()
    for endpoint in both:
        endpoint.ready()
    server = load_balancer(both)
    both[0].process.kill()
    # While the kernel closes its sockets, HAProxy may close the sender's connection, too.
    # Alertmanager then sends again (tests/faults/test_two_endpoints.py).
    both[0].process.wait()
    assert [post(server, f"Webhook{n}")[0] for n in range(6)] == [202] * 6
    wait_for_log(server, "poundcake-1 is DOWN")
    both[0].start().ready()
    wait_for_log(server, "poundcake-1 is UP")
    before = len(both[0].entries())
    assert [post(server, f"Later{n}")[0] for n in range(2)] == [202] * 2
    assert len(both[0].entries()) == before + 1


def test_a_request_gets_an_id_unless_the_sender_has_set_one(endpoints, load_balancer):
    both = endpoints()
    for endpoint in both:
        endpoint.ready()
    server = load_balancer(both)
    with_new_id = [post(server, "Webhook")[1]["request_id"] for _ in range(2)]
    own_id = str(uuid.uuid4())
    with_own_id = [post(server, "Own", request_id=own_id)[1]["request_id"] for _ in range(2)]
    assert len(set(with_new_id)) == 2 and with_own_id == [own_id] * 2
    sent_ids = [
        json.loads(entry.headers)["X-Request-ID"]
        for endpoint in both
        for entry in endpoint.entries()
    ]
    assert sorted(sent_ids) == sorted(with_new_id + with_own_id)


def test_both_connections_can_use_tls(endpoints, load_balancer, tmp_path):
    authority, certificate = certificate_files(tmp_path)
    endpoint_certificate, endpoint_key = authority.issue("endpoint")
    both = endpoints(
        credentials=CREDENTIALS, tls_certificate=endpoint_certificate, tls_key=endpoint_key
    )
    server = load_balancer(both, token=READ_TOKEN, tls=(certificate, str(authority.certificate)))
    context = ssl.create_default_context(cafile=str(authority.certificate))
    deadline = time.monotonic() + 60
    while post(server, "Encrypted", context)[0] != 202:  # until both endpoints have started
        assert time.monotonic() < deadline, server.log()
        time.sleep(0.2)


class TestPage:
    """docs/HIGH_AVAILABILITY.md."""

    page = documents.ROOT / "docs" / "HIGH_AVAILABILITY.md"

    def test_the_commands_install_a_valid_configuration(self, tmp_path):
        for name in ("haproxy", "default", "poundcake"):
            (tmp_path / name).mkdir()
        (tmp_path / "poundcake" / "haproxy.secret").write_text(READ_TOKEN + "\n")
        try:
            haproxy = services.program("haproxy")
        except services.MissingProgram as error:
            pytest.skip(str(error))
        block = documents.find_block(self.page, "sh", "haproxy -c ")
        replacements = {
            "install -m 644 etc/": f"install -m 644 {documents.ROOT}/etc/",
            " /etc/": f" {tmp_path}/",
            "haproxy -c ": f"{haproxy} -c ",
        }
        documents.run_commands(block, replacements)
        variables = tmp_path / "default" / "haproxy"
        assert variables.read_text() == f"POUNDCAKE_READ_TOKEN={READ_TOKEN}\n"
        assert variables.stat().st_mode & 0o777 == 0o600

    def test_the_command_creates_a_folder_for_the_journal(self, tmp_path):
        block = documents.find_block(self.page, "sh", "install -d ")
        documents.run_commands(block, {"/var/lib": str(tmp_path), "-o st2 -g st2 ": ""})
        assert (tmp_path / "poundcake").stat().st_mode & 0o777 == 0o750

    def test_the_commands_check_both_endpoints(self, endpoints, tmp_path):
        both = endpoints(credentials=CREDENTIALS)
        (tmp_path / "haproxy.secret").write_text(READ_TOKEN)
        block = documents.find_block(self.page, "sh", "curl ")
        replacements = {"curl ": "curl -sf --noproxy '*' ", "/etc/poundcake": str(tmp_path)}
        for address, endpoint in zip(ADDRESSES, both):
            endpoint.wait_for_status(200, Authorization=f"Bearer {READ_TOKEN}")
            replacements[address] = f"127.0.0.1:{endpoint.port}"
        documents.run_commands(block, replacements)

    def test_the_options_of_sensor_containers_exist(self):
        """In StackStorm 3.8 and 3.9: st2reactor/sensor/config.py."""
        (block,) = documents.find_code_blocks(self.page, "ini")
        parser = configparser.ConfigParser()
        parser.read_string(block)
        assert {name: set(parser[name]) for name in parser.sections()} == {
            "sensorcontainer": {"sensor_node_name", "partition_provider"}
        }

    def test_each_test_that_the_page_names_exists(self):
        names = re.findall(r"`(tests/[\w/]+\.py)`", self.page.read_text(encoding="utf-8"))
        assert len(names) > 5
        assert [name for name in names if not (documents.ROOT / name).exists()] == []
