"""The endpoint as a whole: server, receiver, journal and relay, brought up and kept up.

StackStorm starts a sensor that ended only twice again, so nothing here ends by itself: what
cannot be had is said and tried again.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Callable

import poundcake
from poundcake.config import Config, ConfigError, load
from poundcake.endpoint import quarantine
from poundcake.endpoint.app import Receiver
from poundcake.endpoint.bus import Bus
from poundcake.endpoint.health import DOWN, OK, Component
from poundcake.endpoint.http_server import Server
from poundcake.endpoint.journal import STUCK, Entry, Journal, JournalError
from poundcake.endpoint.metrics import Metrics
from poundcake.endpoint.relay import Relay, Tracking
from poundcake.endpoint.tls import Certificates, TLSError
from poundcake.stackstorm import StackStorm
from poundcake.timestamps import format_timestamp
from poundcake.trail import database, queries, refresh
from poundcake.trail.database import DatabaseError
from poundcake.trail.shared_files import make_folder

_RETRY = 1  # seconds; longer with each try in vain, up to ten times that
_TICK = 0.2
# All together less than the 5 that StackStorm's container gives a sensor: for requests under way,
# and for the relay's step, which the next start takes up where it was left.
_STOP_TIME = 2.0
_RELAY_STOP_TIME = 1.0
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
        self._said: list[str] = []
        self._settled = threading.Event()
        self._server: Server | None = None
        self._config = Config()
        self._tracking: Tracking | None = None
        self._relay: Relay | None = None
        self._api: StackStorm | None = None
        self.journal: Journal | None = None
        self._journal_component = Component(log, "journal")
        # What is wrong with the journal's file, since it was last open.
        self._damage = ""
        self._said_aside: set[str] = set()
        self.metrics = Metrics(self.health, self._connections)

    # -- life

    def run(self) -> None:
        """Serves until stop() is called, whatever is missing at the start."""
        wait: float = _RETRY
        try:
            while not self._stop_asked:
                wait = _RETRY if self._bring_up() else min(wait * 2, 10 * _RETRY)
                until = time.monotonic() + wait
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

    def _bring_up(self) -> bool:
        """Does what is still missing, and says once why that cannot be. Returns whether all is in
        place.
        """
        problems: list[str] = []
        journal_works = False
        try:
            problems.append(self._configure())
            if self._api:
                # The journal first: whoever finds the port open can post. Without one too, the
                # port is opened: /health says what is wrong.
                try:
                    journal_works = self._keep_journal()
                finally:
                    problems.append(self._listen())
        # A fault of ours; there may be none at the next try, and ending helps nobody.
        except Exception as error:
            problems.append(f"{type(error).__name__}: {error}")
            if problems[-1] not in self._said:
                self._log.exception("the endpoint cannot be brought up")
        for problem in problems:
            if problem and problem not in self._said:
                self._log.error("%s; tried again until it works", problem)
        self._said = problems
        return journal_works and not any(problems)

    def _configure(self) -> str:
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
        return ""

    def _listen(self) -> str:
        if self._server:
            return ""
        config = self._config
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
            return str(error)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            return f"cannot listen on {config.host}:{config.port}: {reason}"
        serving = threading.Thread(target=server.serve, name="poundcake-server", daemon=True)
        try:
            serving.start()
        except RuntimeError:  # no more threads; the next try wants the port again
            server.close()
            raise
        self._server = server
        how = ", ".join(config.authentication) or "no authentication, loopback only"
        self._log.info("webhooks at %s%s (%s)", self._server.address, "/api/v1/webhook", how)
        return ""

    def _keep_journal(self) -> bool:
        """Opens the journal, and again where its file is damaged; where it could not be written,
        finds out whether it can be now. Returns whether it works.
        """
        journal = self.journal
        try:
            if journal and journal.damaged:
                self._drop_journal(journal)
            if self.journal is None:
                self._open_journal()
            elif journal.problem or self._journal_component.state != OK:
                journal.check()
        except (JournalError, OSError) as error:
            reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
            self.journal_failed(str(reason))
            return False
        self._journal_component.ok()
        return True

    def _drop_journal(self, journal: Journal) -> None:
        self.journal_failed(journal.problem)
        self.journal = None
        self._damage = journal.problem
        self._relay.stop(_RELAY_STOP_TIME)
        journal.close()

    def _open_journal(self) -> None:
        make_folder(self._config.state_dir)
        journal = Journal(self._config.journal_path, self._damage)
        try:
            relay = Relay(
                self._config,
                journal,
                self._tracking,
                self._bus,
                self._api,
                self._log,
                self.metrics,
            )
            relay.start()
        except BaseException:
            self._damage = journal.problem if journal.damaged else ""
            journal.close()
            raise
        self._damage = ""
        self._relay = relay
        self.journal = journal
        for report in quarantine.reports(self._config.journal_path):
            if report["file"] not in self._said_aside:
                self._said_aside.add(report["file"])
                self._log.error("%s", quarantine.sentence(report))
        waiting = journal.backlog
        if waiting:
            self._log.info("going on with %s requests of before", waiting)

    def _shut_down(self) -> None:
        if self._server:
            self._server.stop(_STOP_TIME)
        if self._relay:
            self._relay.stop(_RELAY_STOP_TIME)
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
        """The journal could not be written or read."""
        component = self._journal_component
        if component.state == DOWN and component.detail != reason:
            self._log.warning("journal: still down: %s", reason)
        component.down(reason)

    def read(self, view: Callable, **query: Any) -> Any:
        """A view over the tracking database, with what StackStorm says now. Raises
        DatabaseError.
        """
        answer = self._tracking.read(lambda connection: view(connection, **query))
        return refresh.refresh_open_executions(self._api, answer) if answer else answer

    def status(self, request_id: str) -> dict[str, Any] | None:
        """The status view: of what is on record, else of what is in the journal. Raises
        DatabaseError or JournalError where only the one that cannot be read may know it.
        """
        journal, entry, problem = self.journal, None, ""
        try:
            if journal:
                entry = journal.find(request_id)
            else:
                problem = self.journal_problem()
        except JournalError as error:
            problem = str(error)
        try:
            answer = self.read(
                queries.status, request_id=request_id, web_url=self._config.st2_web_url
            )
        except DatabaseError as error:
            if entry is None:
                raise
            return _pending_status(entry, f"database: {error}")
        if answer is None and entry:
            return _pending_status(entry, self._held_up_by(entry))
        if answer is None and problem:
            raise JournalError(problem)
        return answer

    def _held_up_by(self, entry: Entry) -> str:
        relay = self._relay
        if relay and entry.list_limit == STUCK:
            return f"it alone cannot be recorded: {relay.stuck_reason or 'tried every 10 minutes'}"
        for component in (relay.database, relay.broker, relay.stackstorm) if relay else ():
            if component.state == "down":
                return f"{component.name}: {component.detail}"
        return ""

    def health(self) -> dict[str, Any]:
        """How the endpoint and all that it needs are. ``status``: ok, degraded (webhooks are
        taken, something else is wrong) or unavailable.
        """
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
            wrong = (
                "down" in states.values() or journal.get("stuck_requests") or journal["set_aside"]
            )
            status = "degraded" if wrong else "ok"
        return {
            "status": status,
            "version": poundcake.__version__,
            "address": self._server.address if self._server else "",
            "authentication": ", ".join(self._config.authentication) or "none",
            "database": database.kind(self._tracking.engine),
            "dry_run": self._config.dry_run,
            "literal_secrets": list(self._config.literal_secrets),
            "components": components,
        }

    def _connections(self) -> tuple[int, int, int]:
        """How many are open, were closed for want of room, and did not come to TLS."""
        server = self._server
        return (
            (server.connections, server.evicted, server.failed_handshakes) if server else (0,) * 3
        )

    def _journal_report(self) -> dict[str, Any]:
        journal, aside = self.journal, quarantine.reports(self._config.journal_path)
        if journal is None:
            return self._journal_component.report(set_aside=aside)
        try:
            counts = journal.counts()
            stuck = journal.stuck(20) if counts["stuck"] else []
        except JournalError as error:
            self.journal_failed(str(error))
            return self._journal_component.report(set_aside=aside)
        full = journal.backlog >= self._config.backlog_limit
        oldest = counts["oldest"]
        report = self._journal_component.report(
            waiting=journal.backlog,
            backlog_limit=self._config.backlog_limit,
            oldest_seconds=round(time.time() - oldest, 1) if oldest else 0,
            accepted=counts.get("accepted", 0),
            announced=counts.get("announced", 0),
            recorded=counts.get("recorded", 0),
            done=counts.get("done", 0),
            stuck=counts["stuck"],
            stuck_requests=stuck,
            set_aside=aside,
        )
        if full:
            report.update(state="full", detail="backlog_limit is reached")
        elif report["state"] == OK and aside:
            report["detail"] = "; ".join(quarantine.sentence(one) for one in aside)
        return report


def _pending_status(entry: Entry, held_up_by: str = "") -> dict[str, Any]:
    """The status of a request that is in the journal and not recorded yet."""
    answer: dict[str, Any] = {
        "request_id": entry.request.request_id,
        "received_at": format_timestamp(entry.request.received_at),
        "completed_at": None,
        "status": entry.state,
        "receiver": "",
        "truncated_alerts": 0,
        "alerts": [],
        "stackstorm_executions": [],
    }
    if held_up_by:
        answer["held_up_by"] = held_up_by
    return answer
