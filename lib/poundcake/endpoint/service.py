"""The endpoint as a whole: HTTP server, journal and pipeline, brought up and kept up."""

from __future__ import annotations

import logging
import threading
from typing import Any, Callable

from poundcake.config import Config, ConfigError
from poundcake.endpoint import health
from poundcake.endpoint.app import Receiver
from poundcake.endpoint.bus import Broker
from poundcake.endpoint.http_server import Server
from poundcake.endpoint.installation import Installation, install
from poundcake.endpoint.journal import Journal
from poundcake.endpoint.metrics import Metrics
from poundcake.endpoint.supervisor import Supervisor
from poundcake.endpoint.tls import Certificates, TLSError
from poundcake.stackstorm import StackStorm
from poundcake.trail.database import DatabaseError

STOP_SECONDS = 2.0
"""For requests under way. With all else it takes less than the 5 seconds that StackStorm's
container gives a sensor."""


class Endpoint:
    """Take webhooks and see to it that each is recorded."""

    def __init__(
        self,
        pack_config: Any,
        bus: Broker,
        stackstorm: Callable[[Config], StackStorm],
        log: logging.Logger,
    ):
        """Make an endpoint that does nothing until run() is called.

        Args:
            pack_config: As StackStorm hands it to the sensor.
            bus: Publishes triggers.
            stackstorm: Returns StackStorm's API for a checked configuration.
        """
        self._pack_config = pack_config
        self._bus = bus
        self._connect = stackstorm
        self._log = log
        self._supervisor = Supervisor(self._bring_up, log)
        self._installation: Installation | None = None
        self._server: Server | None = None
        self.metrics = Metrics(self.health, self._connections)

    def run(self) -> None:
        """Serve until stop() is called, whatever is missing at the start."""
        self._supervisor.run(self._shut_down)

    def stop(self, timeout: float = 4.5) -> None:
        """Take no new request, finish those under way, close the journal."""
        self._supervisor.stop(timeout)

    def ask_stop(self) -> None:
        """Have run() end; for a signal handler, which must not wait for anything."""
        self._supervisor.ask_stop()

    def _bring_up(self) -> list[str]:
        """Start the parts that do not run yet.

        Returns:
            What is in the way; an empty string for the journal, which reports that itself.
        """
        if self._installation is None:
            try:
                self._installation = install(
                    self._pack_config, self._bus, self._connect, self.metrics, self._log
                )
            except (ConfigError, DatabaseError) as error:
                return [f"configuration: {error}"]
        problems = []
        # The journal first: a client that finds the port open can post. The port is opened without
        # a journal, too, so that the health view can say what is wrong.
        try:
            if not self._installation.keeper.keep():
                problems.append("")
        finally:
            problems += self._listen(self._installation.config)
        return problems

    def _listen(self, config: Config) -> list[str]:
        if self._server:
            return []
        try:
            server = Server(
                config.host,
                config.port,
                Receiver(config, self, self._log),
                config.max_connections,
                self._log,
                Certificates(config, self._log) if config.tls_certificate else None,
            )
        except TLSError as error:
            return [str(error)]
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            return [f"cannot listen on {config.host}:{config.port}: {reason}"]
        serving = threading.Thread(target=server.serve, name="poundcake-server", daemon=True)
        try:
            serving.start()
        except RuntimeError:  # no more threads; the next try needs the port again
            server.close()
            raise
        self._server = server
        how = ", ".join(config.authentication) or "no authentication, loopback only"
        self._log.info("webhooks at %s/api/v1/webhook (%s)", server.address, how)
        return []

    def _shut_down(self) -> None:
        if self._server:
            self._server.stop(STOP_SECONDS)
        if self._installation:
            self._installation.keeper.close()
        self._log.info("stopped")

    def _connections(self) -> tuple[int, int, int]:
        """Return how many connections are open, were evicted, and failed in TLS's handshake."""
        server = self._server
        if server is None:
            return 0, 0, 0
        return server.connections, server.evicted, server.failed_handshakes

    # -- what the application asks; it is served once there is an installation

    @property
    def _installed(self) -> Installation:
        if self._installation is None:
            raise RuntimeError("the endpoint is not configured yet")
        return self._installation

    @property
    def journal(self) -> Journal | None:
        """The journal; None while there is none."""
        return self._installation.keeper.journal if self._installation else None

    def accepted(self) -> None:
        """Go on now: a request was put into the journal."""
        self._installed.keeper.accepted()

    def journal_problem(self) -> str:
        """Return why there is no journal."""
        return self._installed.keeper.problem()

    def journal_failed(self, reason: str) -> None:
        """Note that the journal could not be written or read."""
        self._installed.keeper.failed(reason)

    def read(self, view: Callable[..., Any], **query: Any) -> Any:
        """Return a view of the tracking database. Raises DatabaseError."""
        return self._installed.read(view, **query)

    def status(self, request_id: str) -> dict[str, Any] | None:
        """Return the status view of a request, None if it is unknown.

        Raises:
            DatabaseError, JournalError: The one of the two that may know it cannot be read.
        """
        return self._installed.status(request_id)

    def health(self) -> dict[str, Any]:
        """Return how the endpoint and all that it needs are."""
        address = self._server.address if self._server else ""
        return health.assemble(self._installed, address).as_dict()
