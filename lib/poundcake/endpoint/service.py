"""The whole endpoint: start HTTP server, journal and pipeline, and keep them running."""

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
"""How long to wait for requests in flight.

The whole shutdown has to fit in the 5 seconds that StackStorm's container gives a sensor.
"""


class Endpoint:
    """Accept webhooks, and process each of them until its outcome is known."""

    def __init__(
        self,
        pack_config: Any,
        bus: Broker,
        stackstorm: Callable[[Config], StackStorm],
        log: logging.Logger,
    ):
        """Create an endpoint. It does nothing until run() is called.

        Args:
            pack_config: The configuration that StackStorm passes to the sensor.
            bus: Publishes triggers.
            stackstorm: Returns a client of StackStorm's API for a checked configuration.
            log: The endpoint's logger.
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
        """Serve until stop() is called. Parts that cannot start are retried."""
        self._supervisor.run(self._shut_down)

    def stop(self, timeout: float = 4.5) -> None:
        """Refuse new requests, finish those in flight, and close the journal."""
        self._supervisor.stop(timeout)

    def ask_stop(self) -> None:
        """Make run() return, without waiting for it; safe to call in a signal handler."""
        self._supervisor.ask_stop()

    def _bring_up(self) -> list[str]:
        """Start the parts that are not running yet.

        Returns:
            A sentence for each problem; an empty string for the journal, which logs its own.
        """
        if self._installation is None:
            try:
                self._installation = install(
                    self._pack_config, self._bus, self._connect, self.metrics, self._log
                )
            except (ConfigError, DatabaseError) as error:
                return [f"configuration: {error}"]
        problems = []
        # Open the journal first, so that a client that finds the port open can post. Open the port
        # even without a journal, so that the health view can report what is wrong.
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
        except RuntimeError:  # no more threads; close the port, or the next attempt fails
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
        """Return the numbers of open connections, evicted ones, and failed TLS handshakes."""
        server = self._server
        if server is None:
            return 0, 0, 0
        return server.connections, server.evicted, server.failed_handshakes

    # -- the interface for the web application, which starts only after the installation exists

    @property
    def _installed(self) -> Installation:
        if self._installation is None:
            raise RuntimeError("the endpoint is not configured yet")
        return self._installation

    @property
    def journal(self) -> Journal | None:
        """The journal, or None while it cannot be opened."""
        return self._installation.keeper.journal if self._installation else None

    def accepted(self) -> None:
        """Wake the pipeline: a request was added to the journal."""
        self._installed.keeper.accepted()

    def journal_problem(self) -> str:
        """Return why the journal is not open."""
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
            DatabaseError: The journal does not know it and the tracking database cannot be read.
            JournalError: The tracking database does not know it and the journal cannot be read.
        """
        return self._installed.status(request_id)

    def health(self) -> dict[str, Any]:
        """Return the health view of the endpoint."""
        address = self._server.address if self._server else ""
        return health.assemble(self._installed, address).as_dict()
