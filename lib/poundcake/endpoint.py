"""The endpoint as a whole: server, receiver, journal and relay, brought up and kept up.

StackStorm starts a sensor that ended only twice again, so nothing here ends by itself: what
cannot be had is said and tried again.
"""

import os
import threading
import time
from typing import Any, Callable, Dict, Optional

import poundcake
from poundcake import database, live, views
from poundcake.bus import Bus
from poundcake.config import Config, ConfigError, load
from poundcake.database import DatabaseError
from poundcake.health import Component
from poundcake.journal import STUCK, Entry, Journal, JournalError
from poundcake.receiver import Receiver
from poundcake.relay import Relay, Tracking
from poundcake.server import Server
from poundcake.stackstorm import StackStorm

_RETRY = 3  # seconds
_TICK = 0.2
_SAY_AGAIN = 60
_STOP_TIME = 2.0
_VIEW_TIME = 5


class Endpoint:
    """Takes webhooks and sees to it that each is recorded.

    bus and stackstorm(config) are the ways into StackStorm.
    """

    def __init__(
        self,
        pack_config: Any,
        bus: Bus,
        stackstorm: Callable[[Config], StackStorm],
        log: Any,
    ):
        self._pack_config = pack_config
        self._bus = bus
        self._connect = stackstorm
        self._log = log
        # A plain flag, because a signal handler sets it: it may run while this very thread holds
        # the lock of an Event.
        self._stop_asked = False
        self._said = ("", 0.0)
        self._settled = threading.Event()
        self._server: Optional[Server] = None
        self._serving: Optional[threading.Thread] = None
        self._config = Config()
        self._tracking: Optional[Tracking] = None
        self._relay: Optional[Relay] = None
        self._api: Optional[StackStorm] = None
        self.journal: Optional[Journal] = None
        self._journal_component = Component(log, "journal")

    # -- life

    def run(self) -> None:
        """Serves until stop() is called, whatever is missing at the start."""
        try:
            while not self._stop_asked:
                self._say(self._bring_up())
                until = time.monotonic() + _RETRY
                while not self._stop_asked and time.monotonic() < until:
                    time.sleep(_TICK)
        finally:
            self._shut_down()
            self._settled.set()

    def stop(self, timeout: float = 4.5) -> None:
        """Takes no new request, finishes those under way, closes the journal."""
        self.ask_stop()
        self._settled.wait(timeout)

    def ask_stop(self) -> None:
        """Has run() end; for a signal handler, which must not wait for anything."""
        self._stop_asked = True

    def _say(self, problem: str) -> None:
        said, at = self._said
        if problem and (problem != said or time.monotonic() - at > _SAY_AGAIN):
            self._log.error("%s; tried again every %s s", problem, _RETRY)
            self._said = (problem, time.monotonic())
        elif not problem:
            self._said = ("", 0.0)

    def _bring_up(self) -> str:
        """Does what is still missing. Returns why something still is, '' with all in place."""
        if self._api is None:
            try:
                self._config = load(self._pack_config)
                engine = database.open_engine(self._config.tracking_url, _VIEW_TIME)
            except (ConfigError, DatabaseError) as error:
                return f"configuration: {error}"
            self._log.setLevel(self._config.log_level.upper())
            for key in self._config.literal_secrets:
                self._log.warning(
                    "%s stands in the pack's configuration itself, and so on the command line of "
                    "the pack's actions: file:/path or env:NAME keeps it out of there",
                    key,
                )
            self._tracking = Tracking(engine, self._config.auto_migrate)
            self._api = self._connect(self._config)
        problem = ""
        if self._server is None:
            problem = self._listen()
        return self._open_journal() or problem

    def _listen(self) -> str:
        config = self._config
        try:
            self._server = Server(
                config.host,
                config.port,
                Receiver(config, self, self._log),
                config.max_connections,
                self._log,
            )
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            return f"cannot listen on {config.host}:{config.port}: {reason}"
        self._serving = threading.Thread(
            target=self._server.serve, name="poundcake-server", daemon=True
        )
        self._serving.start()
        how = "bearer token" if config.authenticated else "no authentication, loopback only"
        self._log.info("webhooks at %s%s (%s)", self._server.address, "/api/v1/webhook", how)
        return ""

    def _open_journal(self) -> str:
        if self.journal:
            return ""
        try:
            database.make_folder(self._config.state_dir)
            journal = Journal(self._config.journal_path)
            relay = Relay(self._config, journal, self._tracking, self._bus, self._api, self._log)
            relay.start()
        except (JournalError, OSError) as error:
            reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
            self._journal_component.down(str(reason))
            return f"journal: {reason}"
        self._relay = relay
        self.journal = journal
        self._journal_component.ok()
        waiting = journal.backlog
        if waiting:
            self._log.info("going on with %s requests of before", waiting)
        return ""

    def _shut_down(self) -> None:
        if self._server:
            self._server.stop(_STOP_TIME)
        if self._relay:
            self._relay.stop(_STOP_TIME)
        if self.journal:
            self.journal.close()
        self._log.info("stopped")

    # -- what the receiver asks

    def accepted(self) -> None:
        """A request was put into the journal."""
        self._journal_component.ok()
        self._relay.wake()

    def journal_problem(self) -> str:
        """Why there is no journal."""
        return f"the journal cannot be opened: {self._journal_component.detail or 'starting'}"

    def journal_failed(self, reason: str) -> None:
        """The journal could not be written."""
        self._journal_component.down(reason)

    def read(self, view: Callable, **query: Any) -> Any:
        """A view over the tracking database, with what StackStorm says now. Raises
        DatabaseError."""
        answer = self._tracking.read(lambda connection: view(connection, **query))
        return live.ask(self._api, answer) if answer else answer

    def status(self, request_id: str) -> Optional[Dict[str, Any]]:
        """The status view: of what is on record, else of what is in the journal."""
        entry = self.journal.find(request_id) if self.journal else None
        try:
            answer = self.read(
                views.status, request_id=request_id, web_url=self._config.st2_web_url
            )
        except DatabaseError as error:
            if entry is None:
                raise
            return views.accepted(entry, f"database: {error}")
        if answer is None and entry:
            return views.accepted(entry, self._held_up_by(entry))
        return answer

    def _held_up_by(self, entry: Entry) -> str:
        relay = self._relay
        if relay and entry.list_limit == STUCK:
            return f"it alone cannot be recorded: {relay.stuck_reason or 'tried every 10 minutes'}"
        for component in (relay.database, relay.broker, relay.stackstorm) if relay else ():
            if component.state == "down":
                return f"{component.name}: {component.detail}"
        return ""

    def health(self) -> Dict[str, Any]:
        """How the endpoint and all that it needs are. ``status``: ok, degraded (webhooks are
        taken, something else is wrong) or unavailable."""
        journal = self._journal_report()
        relay = self._relay
        components = {"journal": journal}
        if relay:
            waiting = journal.get("waiting", 0)
            components["broker"] = relay.broker.report(waiting=journal.get("accepted", 0))
            components["database"] = relay.database.report(waiting=waiting)
            if relay.pending:
                components["database"]["pending"] = relay.pending
            components["stackstorm"] = relay.stackstorm.report(
                waiting=journal.get("recorded", 0), stuck=journal.get("stuck_requests", [])
            )
        states = {name: part["state"] for name, part in components.items()}
        if states["journal"] != "ok":
            status = "unavailable"
        else:
            wrong = "down" in states.values() or journal.get("stuck_requests")
            status = "degraded" if wrong else "ok"
        return {
            "status": status,
            "version": poundcake.__version__,
            "address": self._server.address if self._server else "",
            "authentication": "bearer" if self._config.authenticated else "none",
            "database": database.kind(self._tracking.engine),
            "dry_run": self._config.dry_run,
            "literal_secrets": list(self._config.literal_secrets),
            "components": components,
        }

    def _journal_report(self) -> Dict[str, Any]:
        if self.journal is None:
            return self._journal_component.report()
        try:
            counts = self.journal.counts()
            stuck = self.journal.stuck(20) if counts["stuck"] else []
        except JournalError as error:
            self._journal_component.down(str(error))
            return self._journal_component.report()
        full = self.journal.backlog >= self._config.backlog_limit
        oldest = counts["oldest"]
        report = self._journal_component.report(
            waiting=self.journal.backlog,
            backlog_limit=self._config.backlog_limit,
            oldest_seconds=round(time.time() - oldest, 1) if oldest else 0,
            accepted=counts.get("accepted", 0),
            announced=counts.get("announced", 0),
            recorded=counts.get("recorded", 0),
            done=counts.get("done", 0),
            stuck_requests=stuck,
        )
        if full:
            report.update(state="full", detail="backlog_limit is reached")
        elif not os.access(self._config.state_dir, os.W_OK):
            report.update(state="down", detail=f"{self._config.state_dir} is not writable")
        return report
