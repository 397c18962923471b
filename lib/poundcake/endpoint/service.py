"""Start the HTTP server, the journal and the pipeline, and keep them running."""

from __future__ import annotations

import errno
import logging
import threading
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, Callable

import poundcake
from poundcake.config import TLS_FILES, Config, ConfigError, changed_keys, load
from poundcake.endpoint import health, native
from poundcake.endpoint.app import Receiver
from poundcake.endpoint.bus import Broker
from poundcake.endpoint.config_watcher import ConfigWatcher
from poundcake.endpoint.http_server import Server
from poundcake.endpoint.installation import (
    Installation,
    apply_log_settings,
    build_installation,
)
from poundcake.endpoint.journal import Journal
from poundcake.endpoint.metrics import Metrics
from poundcake.endpoint.request_status import JournalStatus
from poundcake.endpoint.supervisor import Supervisor
from poundcake.endpoint.tls import Certificates, TLSError
from poundcake.endpoint.tracking_reader import open_engine
from poundcake.endpoint.waiting_requests import Candidates
from poundcake.errors import PoundCakeError
from poundcake.stackstorm import StackStorm
from poundcake.trail import database
from poundcake.trail.database import DatabaseError
from poundcake.trail.search import Filters

STOP_SECONDS = 2.0
"""Seconds to wait for requests in flight.

The whole shutdown has to fit in the 5 seconds that StackStorm's container gives a sensor.
"""
# If one of these keys changes, a new server replaces the old one, and clients must reconnect.
_SERVER_KEYS = ("host", "port", *TLS_FILES)

_LISTEN_ADVICE = {
    errno.EADDRINUSE: "stop the program that uses the port, or set another port",
    errno.EADDRNOTAVAIL: "set host to an address of this machine",
    errno.EACCES: "set port to 1024 or higher",
}


class ListenError(PoundCakeError):
    """The endpoint cannot listen on the configured address.

    Attributes:
        is_taken: Whether another socket listens on that address.
    """

    def __init__(self, config: Config, error: Exception) -> None:
        number = getattr(error, "errno", None) or 0
        reason = getattr(error, "strerror", None) or error
        advice = _LISTEN_ADVICE.get(number, "check host and port in the configuration")
        super().__init__(f"cannot listen on {config.host}:{config.port}: {reason}; {advice}")
        self.is_taken = number == errno.EADDRINUSE


class Endpoint:
    """Accept webhooks, and process each of them until its outcome is known."""

    def __init__(
        self,
        pack_config: Any,
        bus: Broker,
        connect_stackstorm: Callable[[Callable[[], Config]], StackStorm],
        log: logging.Logger,
        registered_config: Callable[[], Any] | None = None,
    ):
        """Create an endpoint. It does nothing until run() is called.

        Args:
            pack_config: The configuration that StackStorm passes to the sensor.
            bus: Publishes triggers.
            connect_stackstorm: Returns a client of StackStorm's API, given a function that returns
                the current configuration.
            log: The endpoint's logger.
            registered_config: Returns the currently registered configuration, and may raise any
                exception. By default, `pack_config` is used, and only its secret files can change.
        """
        self._bus = bus
        self._connect_stackstorm = connect_stackstorm
        self._log = log
        self._supervisor = Supervisor(self._start_parts, log)
        self._watcher = ConfigWatcher(
            pack_config, registered_config or (lambda: pack_config), self._supervisor.wake
        )
        self._installation: Installation | None = None
        self._applied_at = datetime.now(timezone.utc)
        self._config_problem = ""
        self._server: Server | None = None
        # The server that the last start-up line is about.
        self._logged_server: Server | None = None
        self._receiver: Receiver | None = None
        self.metrics = Metrics(self.health, self._connection_counts)

    def run(self) -> None:
        """Serve until stop() is called. Keep retrying the parts that cannot start."""
        native.shorten_switches()
        self._watcher.start()
        self._supervisor.run(self._shut_down)

    def stop(self, timeout: float = 4.5) -> None:
        """Refuse new requests, finish those in flight, and close the journal."""
        self._supervisor.stop(timeout)

    def request_stop(self) -> None:
        """Make run() return, without waiting for it; safe to call in a signal handler."""
        self._supervisor.request_stop()

    def _start_parts(self) -> list[str]:
        """Start the parts that are not running yet.

        Returns:
            A sentence for each problem. An empty string stands for a problem with the journal,
            which the journal keeper logs itself.
        """
        problems = self._configure()
        if self._installation is None:
            return problems
        # Open the journal first, so that a client that finds the port open can post. Open the port
        # even without a journal, so that the health view can report what is wrong.
        try:
            if not self._installation.keeper.ensure_open():
                problems.append("")
        finally:
            problems += self._listen(self._installation.config)
        self._log_start(self._installation)
        return problems

    def _configure(self) -> list[str]:
        """Apply the newest configuration. Return a list with the problem, or an empty list."""
        if self._installation is None:
            try:
                config = load(self._watcher.latest)
                stackstorm = self._connect_stackstorm(self._current_config)
                self._installation = build_installation(
                    config, self._bus, stackstorm, self.metrics, self._log, self._current_config
                )
            except (ConfigError, DatabaseError) as error:
                return [f"configuration: {error}"]
            self._applied_at = datetime.now(timezone.utc)
            apply_log_settings(config, Config(), self._log)
        elif self._watcher.consume_poll():
            self._config_problem = self._reconfigure(self._installation)
        return [self._config_problem] if self._config_problem else []

    def _current_config(self) -> Config:
        return self._configured_installation.config

    def _reconfigure(self, installation: Installation) -> str:
        """Apply a changed configuration completely or not at all.

        Returns:
            A message that says what could not be applied and why; empty if there was no problem.
        """
        failures, notes = [self._watcher.problem], []
        try:
            # Load it even if it has not changed, because the secret files may have.
            new_config = load(self._watcher.latest)
            # Keep the folder, because its journal may have pending requests.
            config = replace(new_config, state_dir=installation.config.state_dir)
            if config != installation.config:
                self._apply(config, installation)
            if new_config.state_dir != config.state_dir:
                notes = [f"state_dir: restart the sensor to use {new_config.state_dir}"]
        except (ConfigError, DatabaseError, TLSError, ListenError) as error:
            failures.append(str(error))
        if self._server and self._server.certificates:
            self._server.certificates.current()  # reloads changed files, and logs errors
        failure = "; ".join(filter(None, failures))
        errors = [f"keeping the previous configuration: {failure}"] if failure else []
        return "; ".join([*errors, *notes])

    def _apply(self, config: Config, installation: Installation) -> None:
        """Switch to a new configuration. If this raises, the previous one stays in effect.

        Raises:
            DatabaseError, TLSError, ListenError: The configuration cannot be used.
        """
        previous, engine = installation.config, installation.reader.engine
        changed = changed_keys(previous, config)
        if config.tracking_url != previous.tracking_url:
            engine = open_engine(config)
        if self._server and self._receiver:
            if set(changed) & set(_SERVER_KEYS):
                self._replace_server(config, self._server, self._receiver)
            else:
                self._receiver.configure(config)
                self._server.limit_connections(config.max_connections)
        installation.reader.switch_engine(engine, config.auto_migrate)
        self._installation = replace(installation, config=config)
        self._applied_at = datetime.now(timezone.utc)
        self._log.info(
            "using the changed configuration: %s; mode: %s", ", ".join(changed), self._mode(config)
        )
        apply_log_settings(config, previous, self._log)

    def _replace_server(self, config: Config, old_server: Server, old_receiver: Receiver) -> None:
        """Replace the server with one for a new configuration, and let requests in flight finish.

        If this raises, the old server still serves, or `_listen` starts another one.
        """
        receiver = Receiver(config, self, self._log, old_receiver.refused_webhooks)
        server = None
        try:
            server = self._new_server(config, receiver, old_server)
        except ListenError as error:
            # 0.0.0.0 conflicts with every address of this host: stop the old server first.
            if not (error.is_taken and old_server.bound_to[1] == config.port):
                raise
        old_server.stop(0)
        old_receiver.close()
        self._server = None
        self._start_server(server or self._new_server(config, receiver), receiver, config)

    def _listen(self, config: Config) -> list[str]:
        if self._server:
            return []
        receiver = self._receiver or Receiver(config, self, self._log)
        receiver.configure(config)
        try:
            server = self._new_server(config, receiver)
        except (TLSError, ListenError) as error:
            return [str(error)]
        self._start_server(server, receiver, config)
        return []

    def _new_server(
        self, config: Config, receiver: Receiver, predecessor: Server | None = None
    ) -> Server:
        """Return a server that listens on its port but does not accept connections yet.

        Raises:
            TLSError, ListenError: The configuration cannot be used.
        """
        certificates = Certificates(config, self._log) if config.tls_certificate else None
        try:
            return Server(
                config.host,
                config.port,
                receiver,
                config.max_connections,
                self._log,
                certificates,
                predecessor,
            )
        except (OSError, UnicodeError) as error:
            raise ListenError(config, error) from None

    def _start_server(self, server: Server, receiver: Receiver, config: Config) -> None:
        thread = threading.Thread(target=server.serve, name="poundcake-server", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # out of threads; close the port, or the next attempt fails
            server.close()
            raise
        self._server, self._receiver = server, receiver

    def _log_start(self, installation: Installation) -> None:
        """Log one line about a new server, once it is known whether changes are paused."""
        server, config = self._server, installation.config
        pipeline = installation.keeper.pipeline
        is_mode_known = (
            pipeline is None
            or pipeline.has_read_pause
            or pipeline.components.database.state == health.State.DOWN
        )
        if server is None or server is self._logged_server or not is_mode_known:
            return
        self._logged_server = server
        self._log.info(
            "poundcake %s: webhooks at %s/api/v1/webhook; credentials: %s; database: %s; mode: %s",
            poundcake.__version__,
            server.address,
            ", ".join(config.authentication) or "none, so only loopback names are answered",
            database.public_url(installation.reader.engine.url),
            self._mode(config),
        )

    def _mode(self, config: Config) -> str:
        """Describe whether changes are made."""
        pipeline = self._installation.keeper.pipeline if self._installation else None
        if config.dry_run:
            mode = "dry run, so nothing is changed"
        else:
            mode = "live, so remediations make changes"
        return f"{mode}; {pipeline.pause}" if pipeline and pipeline.pause else mode

    def _shut_down(self) -> None:
        self._watcher.stop()
        if self._server:
            self._server.stop(STOP_SECONDS)
        if self._receiver:
            self._receiver.close()
        if self._installation:
            self._installation.keeper.close()
        self._log.info("stopped: webhooks are accepted again after the next start")

    def _connection_counts(self) -> tuple[int, int, int]:
        """Return the numbers of open connections, evicted connections and failed TLS handshakes."""
        server = self._server
        if server is None:
            return 0, 0, 0
        return server.connections, server.evicted, server.failed_handshakes

    # -- the interface for the web application, which starts only after the installation exists

    @property
    def _configured_installation(self) -> Installation:
        if self._installation is None:
            raise RuntimeError("the endpoint is not configured yet")
        return self._installation

    @property
    def journal(self) -> Journal | None:
        """The journal, or None while it cannot be opened."""
        return self._installation.keeper.journal if self._installation else None

    @property
    def stackstorm(self) -> StackStorm:
        """StackStorm's API."""
        return self._configured_installation.stackstorm

    def note_accepted(self) -> None:
        """Note that a request was added to the journal, and wake the pipeline."""
        self._configured_installation.keeper.note_accepted()

    def journal_problem(self) -> str:
        """Return why the journal is not open."""
        return self._configured_installation.keeper.problem()

    def note_journal_failure(self, reason: str) -> None:
        """Note that the journal could not be written or read."""
        self._configured_installation.keeper.note_failure(reason)

    def read(self, view: Callable[..., Any], **query: Any) -> Any:
        """See TrailReader. Raises DatabaseError."""
        return self._configured_installation.views.read(view, **query)

    def status(self, request_id: str) -> dict[str, Any] | None:
        """See TrailReader. Raises FilterError, DatabaseError and JournalError."""
        return self._configured_installation.views.status(request_id)

    def waiting_requests(self, filters: Filters, limit: int, offset: int) -> dict[str, Any]:
        """See TrailReader. Raises JournalError."""
        return self._configured_installation.views.waiting_requests(filters, limit, offset)

    def journal_status(self, request_id: str) -> JournalStatus:
        """See JournalReader. Raises FilterError."""
        return self._configured_installation.journal_status(request_id)

    def waiting_candidates(self, filters: Filters, limit: int, offset: int) -> Candidates:
        """See JournalReader. Raises JournalError."""
        return self._configured_installation.waiting_candidates(filters, limit, offset)

    def newest_waiting_at(self) -> datetime | None:
        """Return when the newest request that is not recorded yet was received, or None.

        Raises:
            JournalError: The journal cannot be read.
        """
        journal = self.journal
        waiting = journal.newest_waiting(1) if journal and journal.backlog else []
        return waiting[0].received_at if waiting else None

    def health(self) -> dict[str, Any]:
        """Return the health view of the endpoint."""
        address = self._server.address if self._server else ""
        certificates = self._server.certificates if self._server else None
        problems = [self._config_problem, certificates.problem if certificates else ""]
        report = health.build_report(
            self._configured_installation,
            address,
            self._applied_at,
            "; ".join(filter(None, problems)),
            certificates.expires_at if certificates else None,
        )
        return report.as_dict()
