"""Two clustered Alertmanagers and a Prometheus in front of an endpoint, on loopback.

exporter <- Prometheus -> proxy -> Alertmanager 0 -> proxy -> endpoint
                       -> proxy -> Alertmanager 1 -> proxy ->
"""

from __future__ import annotations

import contextlib
import datetime
import http.server
import json
import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from urllib.parse import urlsplit

from tests import services
from tests.faults.proxy import Proxy

ROUTE = {"group_wait": "1s", "group_interval": "3s", "repeat_interval": "30s"}
# Longer than group_interval, and longer than Prometheus needs to send its alerts again.
GONE_AFTER = 15
# A failed notification is retried after at most 10 seconds, a notification waits for
# group_interval, and the second Alertmanager waits for the first. If a resolve is never sent, two
# rounds of sync close the incident, up to a minute apart.
MAX_SECONDS = 180
# Prometheus sends an endsAt that is four times its resend delay ahead: here, four seconds.
EXPIRY = 4
CLUSTER_OPTIONS = (
    "--cluster.settle-timeout=2s",
    "--cluster.peer-timeout=2s",
    "--cluster.gossip-interval=200ms",
    "--cluster.pushpull-interval=5s",
    "--cluster.probe-interval=500ms",
    "--cluster.probe-timeout=300ms",
    "--cluster.reconnect-interval=2s",
)
# The name is unique, so that concurrent test runs do not remove each other's rules.
TABLE = f"poundcake_tests_{os.getpid()}"


class Exporter:
    """Serves metrics to Prometheus: `fault{instance="web-0"}` is 1 while the instance is faulty."""

    def __init__(self, instances):
        self.faulty = dict.fromkeys(instances, False)
        exporter = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                lines = [f'fault{{instance="{i}"}} {int(f)}\n' for i, f in exporter.faulty.items()]
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # Prometheus has been stopped
                    self.wfile.write("".join(lines).encode())

            def log_message(self, *args):
                pass

        self._server = http.server.ThreadingHTTPServer((services.LOOPBACK, 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


class Prometheus(services.Server):
    """A Prometheus that evaluates one alerting rule each second."""

    name = "Prometheus"

    def __init__(self, alert_name, exporter_port, alertmanager_ports):
        self.alert_name = alert_name
        self._exporter_port, self._alertmanager_ports = exporter_port, alertmanager_ports
        super().__init__()

    def prepare(self):
        self.server = services.program("prometheus")
        self.port = services.free_port()
        targets = [f"{services.LOOPBACK}:{port}" for port in self._alertmanager_ports]
        exporter = {
            "job_name": "exporter",
            "honor_labels": True,
            "static_configs": [{"targets": [f"{services.LOOPBACK}:{self._exporter_port}"]}],
        }
        configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [exporter],
            "alerting": {
                "alertmanagers": [{"timeout": "2s", "static_configs": [{"targets": targets}]}]
            },
        }
        rule = {"alert": self.alert_name, "expr": "fault == 1"}
        rules = {"groups": [{"name": "faults", "rules": [rule]}]}
        for name, content in (("prometheus.yml", configuration), ("rules.yml", rules)):
            with open(self.path(name), "w") as file:
                json.dump(content, file)  # JSON is YAML

    def command(self):
        return [
            self.server,
            "--config.file=" + self.path("prometheus.yml"),
            "--storage.tsdb.path=" + self.path("data"),
            f"--web.listen-address={services.LOOPBACK}:{self.port}",
            "--rules.alert.resend-delay=1s",
        ]

    def is_ready(self):
        # Prometheus responds with 503 while it starts.
        try:
            url = f"http://{services.LOOPBACK}:{self.port}/-/ready"
            with urllib.request.urlopen(url, timeout=5) as response:
                return response.status == 200
        except OSError:
            return False


class ClusteredAlertmanager(services.Alertmanager):
    """An Alertmanager with a peer."""

    def __init__(self, cluster_port, peer_port, webhook_url, http_config=None):
        self.cluster_port = cluster_port
        self.cluster_options = (
            f"--cluster.listen-address={services.LOOPBACK}:{cluster_port}",
            f"--cluster.peer={services.LOOPBACK}:{peer_port}",
            *CLUSTER_OPTIONS,
        )
        super().__init__(webhook_url, http_config, **ROUTE)

    def command(self):
        # Without --web.external-url, its notifications would contain the name of this machine.
        return [*super().command(), f"--web.external-url={self.url}"]

    def silence(self, **labels):
        """Silence the alerts with these labels for an hour, and return the silence's id."""
        now = datetime.datetime.now(datetime.timezone.utc)
        body = {
            "matchers": [
                {"name": name, "value": value, "isRegex": False} for name, value in labels.items()
            ],
            "startsAt": now.isoformat(),
            "endsAt": (now + datetime.timedelta(hours=1)).isoformat(),
            "createdBy": "anna",
            "comment": "a new disk",
        }
        return json.loads(self.request("/api/v2/silences", body))["silenceID"]

    def active(self):
        """Return the instances whose alert is active."""
        alerts = json.loads(self.request("/api/v2/alerts?active=true"))
        return {a["labels"]["instance"] for a in alerts if a["status"]["state"] == "active"}


class World:
    """The processes and the connections between them.

    Args:
        endpoint_url: The base URL of an endpoint on loopback.
        token: The token of the endpoint, or an empty string.
        alert_name: The name of the only alert.
        instances: The instances that can be faulty.
    """

    def __init__(self, endpoint_url, token, alert_name, instances):
        self._resources = []
        try:
            self._start(endpoint_url, token, alert_name, instances)
        except BaseException:
            self.close()
            raise

    def _start(self, endpoint_url, token, alert_name, instances):
        http_config = {"authorization": {"credentials": token}} if token else None
        endpoint_port = urlsplit(endpoint_url).port
        self.exporter = self._manage(Exporter(instances))
        self.to_endpoint = [self._manage(Proxy(endpoint_port)) for _ in range(2)]
        ports = [services.free_port() for _ in range(2)]
        self.alertmanagers = []
        for number, proxy in enumerate(self.to_endpoint):
            url = f"http://{services.LOOPBACK}:{proxy.port}/api/v1/webhook"
            self.alertmanagers.append(
                self._manage(
                    ClusteredAlertmanager(ports[number], ports[1 - number], url, http_config)
                )
            )
        for alertmanager in self.alertmanagers:
            alertmanager.start()
        self.to_alertmanager = [self._manage(Proxy(a.port)) for a in self.alertmanagers]
        proxies = [proxy.port for proxy in self.to_alertmanager]
        self.prometheus = self._manage(Prometheus(alert_name, self.exporter.port, proxies))
        self.prometheus.start()

    def _manage(self, resource):
        """Return a resource that close() will close."""
        self._resources.append(resource)
        return resource

    @property
    def configuration(self):
        """Return the configuration that makes the pack query these Alertmanagers."""
        return {
            "alertmanagers": [{"url": alertmanager.url} for alertmanager in self.alertmanagers],
            "gone_after_seconds": GONE_AFTER,
        }

    def set_faulty(self, *instances):
        """Make these instances faulty, and all others healthy."""
        for instance in self.exporter.faulty:
            self.exporter.faulty[instance] = instance in instances

    def agreed_alerts(self):
        """Return the instances that are active in both Alertmanagers, or None if they differ."""
        first, second = (alertmanager.active() for alertmanager in self.alertmanagers)
        return first if first == second else None

    def cut(self, *proxies):
        """Close the connections through these proxies, and stop forwarding."""
        for proxy in proxies:
            proxy.is_stalled = True
            proxy.cut()

    def restore(self, *proxies):
        """Forward again. Connections that were stalled are closed, and their bytes are lost."""
        for proxy in proxies:
            proxy.cut()
            proxy.is_stalled = False

    def freeze_prometheus(self):
        self.prometheus.process.send_signal(signal.SIGSTOP)

    def thaw_prometheus(self):
        self.prometheus.process.send_signal(signal.SIGCONT)

    def cut_gossip(self):
        """Separate the Alertmanagers from each other."""
        ports = ", ".join(str(a.cluster_port) for a in self.alertmanagers)
        rules = f"""
            table inet {TABLE} {{
                chain input {{
                    type filter hook input priority 0;
                    meta l4proto {{ tcp, udp }} th dport {{ {ports} }} drop
                }}
            }}"""
        subprocess.run(["nft", "-f", "-"], input=rules.encode(), check=True)

    def restore_gossip(self):
        subprocess.run(["nft", "delete", "table", "inet", TABLE], check=False, capture_output=True)

    def close(self):
        if can_cut_gossip():
            self.restore_gossip()
        for resource in reversed(self._resources):
            resource.close()


def can_cut_gossip():
    """Return True if this process can use nftables."""
    if not shutil.which("nft"):
        return False
    tables = subprocess.run(["nft", "list", "tables"], check=False, capture_output=True)
    return tables.returncode == 0


def wait_until_equal(world, open_alerts, seconds, stable_seconds=2.0):
    """Wait until the endpoint shows the active alerts of both Alertmanagers, and keeps doing so.

    Args:
        world: The World.
        open_alerts: A function that returns the instances that the endpoint shows.
        seconds: The time limit.
        stable_seconds: How long both sides must stay equal.

    Returns:
        The set of instances, and the seconds until both sides were equal.

    Raises:
        AssertionError: They were not equal in time.
    """
    started_at = time.monotonic()
    equal_since, previous = None, None
    while True:
        active, open_instances, now = world.agreed_alerts(), open_alerts(), time.monotonic()
        if active is None or active != open_instances:
            equal_since = None
        elif equal_since is None or active != previous:
            equal_since = now
        previous = active
        if equal_since is not None and now - equal_since >= stable_seconds:
            return active, equal_since - started_at
        assert now - started_at < seconds + stable_seconds, (
            f"after {seconds} s, the active alerts of the Alertmanagers are "
            f"{[sorted(a.active()) for a in world.alertmanagers]}, but the endpoint shows "
            f"{sorted(open_instances)}"
        )
        time.sleep(0.25)
