"""Run HAProxy with etc/haproxy.cfg in front of two endpoints on loopback."""

from __future__ import annotations

import pathlib

from tests import services

CONFIGURATION = pathlib.Path(__file__).parents[1] / "etc" / "haproxy.cfg"
ADDRESSES = ("10.0.0.11:8000", "10.0.0.12:8000")


def uncomment_tls(text, certificate, ca_file):
    """Return the configuration with its lines for TLS, and with the paths of these files."""
    lines = text.splitlines()
    for comment in ("#bind :8000 ssl ", "#default-server ssl "):
        (number,) = [n for n, line in enumerate(lines) if line.strip().startswith(comment)]
        lines[number] = lines[number].replace("#", "")
    lines.remove("    bind :8000")
    text = "\n".join(lines) + "\n"
    text = text.replace("/etc/haproxy/poundcake.pem", certificate)
    return text.replace("/etc/haproxy/poundcake-ca.pem", ca_file)


class LoadBalancer(services.Server):
    """The HAProxy of etc/haproxy.cfg, with other addresses.

    Args:
        ports: The ports of the two endpoints.
        token: The token of its health checks.
        tls: The paths of a file with a certificate and its key, and of the CA of the endpoints'
            certificates; or None for HTTP without TLS.
    """

    name = "HAProxy"

    def __init__(self, ports, token="", tls=None):
        self._ports, self._token, self._tls = ports, token, tls
        super().__init__()

    def prepare(self):
        self._executable = services.program("haproxy")
        self.port = services.free_port()
        text = CONFIGURATION.read_text(encoding="utf-8")
        if self._tls:
            text = uncomment_tls(text, *self._tls)
        for address, port in zip(ADDRESSES, self._ports):
            assert address in text
            text = text.replace(address, f"{services.LOOPBACK}:{port}")
        text = text.replace("bind :8000", f"bind {services.LOOPBACK}:{self.port}")
        with open(self.path("haproxy.cfg"), "w") as file:
            file.write(text)

    def environment(self):
        return dict(super().environment(), POUNDCAKE_READ_TOKEN=self._token)

    def command(self):
        return [self._executable, "-db", "-f", self.path("haproxy.cfg")]

    def is_ready(self):
        return services.accepts_connections(self.port)
