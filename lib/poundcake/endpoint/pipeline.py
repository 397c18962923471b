"""The pipeline from the journal to StackStorm: the steps, and the thread that runs them."""

from __future__ import annotations

from time import monotonic

from poundcake.endpoint import native
from poundcake.endpoint.announcer import Announcer
from poundcake.endpoint.bus import BusError
from poundcake.endpoint.dependencies import Dependencies
from poundcake.endpoint.emitter import Emitter
from poundcake.endpoint.event_publisher import EventPublisher
from poundcake.endpoint.health import Components, State
from poundcake.endpoint.journal import Entry, JournalError
from poundcake.endpoint.rate_limited_logger import RateLimitedLogger
from poundcake.endpoint.request_importer import RequestImporter
from poundcake.endpoint.sync_timer import SyncTimer
from poundcake.endpoint.worker import Worker
from poundcake.trail import uncopied
from poundcake.trail.database import DatabaseError
from poundcake.trail.open_counts import read_open_counts
from poundcake.trail.pause import Pause, read_pause

PRUNE_WAIT = 60.0
"""Seconds between checks for requests to prune."""
PRUNE_PAUSE = 0.1
"""Seconds between pruning transactions. Requests can be accepted in the meantime."""
PENDING_WAIT = 30.0
"""Seconds between checks for migrations that are waiting for an operator."""
FAILURE_LOG_SECONDS = 600.0
"""Seconds between log lines about a step that keeps failing unexpectedly."""
PAUSE_WAIT = 5.0
"""Seconds between reads of the pause, which the health view and the metrics show."""

OPEN_COUNTS_WAIT = 15.0
"""Seconds between counts of what is open, which the metrics show."""


class Pipeline:
    """Process the requests of a journal until StackStorm has reported their outcomes.

    Attributes:
        announcer: The step that announces requests.
        sync_timer: The step that requests a sync.
        emitter: The step that publishes the triggers of recorded requests.
        worker: The thread that runs the steps.
        pending: What an operator has to run poundcake.migrate for.
        pause: The pause of all changes, as it was a few seconds ago; None if there was none.
        has_read_pause: Whether the pause has been read since the pipeline started.
    """

    def __init__(self, dependencies: Dependencies):
        """Create a pipeline. start() resumes the requests in the journal."""
        self._dependencies = dependencies
        self._failure_log = RateLimitedLogger(dependencies.log, FAILURE_LOG_SECONDS)
        self.announcer = Announcer(dependencies)
        self.sync_timer = SyncTimer(dependencies)
        # The emitter reports its progress to the worker, which does not exist yet.
        self.emitter = Emitter(dependencies, self._keep_going, self.sync_timer.sync_soon)
        self._prune_at = 0.0
        self._read_pending_at = 0.0
        self.pending = uncopied.Pending()
        self._read_pause_at = 0.0
        self._count_open_at = 0.0
        self.pause: Pause | None = None
        self.has_read_pause = False
        self.worker = Worker(
            [
                ("checking the broker", self._check_broker),
                ("polling for recorded requests", self.announcer.poll_recorded),
                ("polling for requests that are recorded late", self.announcer.poll_late),
                ("announcing", self.announcer.announce),
                ("importing requests", RequestImporter(dependencies).import_requests),
                ("emitting", self.emitter.emit),
                ("publishing events", EventPublisher(dependencies, self._keep_going).publish),
                ("requesting a sync", self.sync_timer.request_sync),
                ("checking for migrations", self._read_pending),
                ("reading the pause", self._read_pause),
                ("counting what is open", self._count_open),
                ("pruning the journal", self._prune),
            ],
            self._note_failure,
        )

    @property
    def components(self) -> Components:
        """The components that the endpoint depends on, besides the journal."""
        return self._dependencies.components

    def start(self) -> None:
        """Start the thread, or restart it if it has ended."""
        self.worker.start()

    def stop(self, timeout: float) -> None:
        """Stop after the current step; wait at most `timeout` seconds for it."""
        self.worker.stop(timeout)
        self._dependencies.bus.close()

    def wake(self) -> None:
        """Run the steps now, because the journal has a new request."""
        self.worker.wake()

    def problem(self) -> str:
        """Describe a problem with the thread or with requests, or return '' if there is none."""
        return self.worker.problem() or self.emitter.problem()

    def blocked_by(self, entry: Entry) -> str:
        """Return why a request is not recorded yet, or '' if nothing is wrong."""
        if entry.is_stuck:
            reason = self.announcer.stuck_reason or "it is retried every 10 minutes"
            return f"this request alone cannot be recorded: {reason}"
        component = self.components.first_down()
        return f"{component.name}: {component.detail}" if component else ""

    def _note_failure(self, step: str, error: Exception) -> None:
        if isinstance(error, BusError):
            self.components.broker.mark_down(str(error))
        elif isinstance(error, DatabaseError):
            self.components.database.mark_down(str(error))
        elif not isinstance(error, JournalError):  # the journal keeper reports journal errors
            # One format string per step, so that each step has its own limit.
            self._failure_log.warning(
                f"{step} failed unexpectedly, retrying: %s: %s",
                type(error).__name__,
                error,
                exc_info=error,
            )

    def _keep_going(self) -> bool:
        return self.worker.keep_going()

    def _check_broker(self) -> None:
        """Check the connection to the broker before anything is published."""
        if self.components.broker.state == State.UNKNOWN:
            self._dependencies.broker.check()
            self.components.broker.mark_ok()

    def _read_pending(self) -> None:
        if monotonic() < self._read_pending_at:
            return
        reader, config = self._dependencies.reader, self._dependencies.config()
        request_ids = native.run_in_native_thread(
            uncopied.find_open_requests_in_default_file, config, reader.engine
        )
        self.pending = reader.read(uncopied.read_pending, config, request_ids)
        self._read_pending_at = monotonic() + PENDING_WAIT

    def _read_pause(self) -> None:
        if monotonic() >= self._read_pause_at:
            pause = self._dependencies.reader.read(read_pause)
            # The start-up line shows the first pause.
            if self.has_read_pause and pause != self.pause:
                self._dependencies.log.info("changes are %s", pause or "no longer paused")
            self.pause, self.has_read_pause = pause, True
            self._read_pause_at = monotonic() + PAUSE_WAIT

    def _count_open(self) -> None:
        if monotonic() >= self._count_open_at:
            config = self._dependencies.config()
            counts = self._dependencies.reader.read(
                read_open_counts, config.breaker_failures, config.stale_after_hours
            )
            self._dependencies.metrics.open_counts.set(counts)
            self._count_open_at = monotonic() + OPEN_COUNTS_WAIT

    def _prune(self) -> float | None:
        if monotonic() < self._prune_at:
            return None
        wait = PRUNE_PAUSE if self._dependencies.journal.prune() else PRUNE_WAIT
        self._prune_at = monotonic() + wait
        return wait
