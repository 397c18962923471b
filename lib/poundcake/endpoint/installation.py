"""Build the parts of an endpoint from its configuration: database, StackStorm's API, journal."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any, Callable, TypeVar

from poundcake.config import Config
from poundcake.endpoint import native
from poundcake.endpoint.bus import Broker
from poundcake.endpoint.dependencies import Dependencies
from poundcake.endpoint.health import Components
from poundcake.endpoint.journal import Entry, Journal, JournalError
from poundcake.endpoint.journal_keeper import JournalKeeper
from poundcake.endpoint.metrics import CountedBus, Metrics
from poundcake.endpoint.pipeline import Pipeline
from poundcake.endpoint.request_status import JournalStatus, pending_status, read_status
from poundcake.endpoint.tracking_reader import TrackingReader, open_engine
from poundcake.endpoint.waiting_requests import Candidates, find_waiting, read_candidates
from poundcake.stackstorm import StackStorm
from poundcake.trail import refresh, short_ids
from poundcake.trail.record import config_identity
from poundcake.trail.search import Filters

T = TypeVar("T")
_SHORT_ID = re.compile(rf"[0-9a-f-]{{{short_ids.MIN_CHARACTERS},35}}\Z")


@dataclass(frozen=True)
class Installation:
    """The parts of an endpoint, and the views that combine their data."""

    config: Config
    reader: TrackingReader
    stackstorm: StackStorm
    keeper: JournalKeeper

    def read(self, view: Callable[..., Any], **query: Any) -> Any:
        """Return a view of the tracking database, with open executions refreshed from StackStorm.

        Raises:
            DatabaseError: The database cannot be read now.
        """
        document = self.read_recorded(view, **query)
        if not document:
            return document
        minutes = self.config.approval_minutes
        return refresh.refresh_open_executions(self.stackstorm, document, minutes)

    def read_recorded(self, query: Callable[..., T], **arguments: Any) -> T:
        """Return the result of a query on the tracking database, without asking StackStorm.

        Raises:
            DatabaseError: The database cannot be read now.
        """
        return self.reader.read_view(lambda connection: query(connection, **arguments))

    def status(self, request_id: str) -> dict[str, Any] | None:
        """Return the status view of a request, even if it is not recorded yet; None if unknown.

        Args:
            request_id: The id of the request, or a unique prefix of it.

        Raises:
            FilterError: Several request_ids begin with it.
            DatabaseError: The request is not in the journal, and the tracking database cannot be
                read.
            JournalError: The request is not in the tracking database, and the journal cannot be
                read.
        """
        journal = self.journal_status(request_id)
        return read_status(self.read, journal, request_id, self.config.st2_web_url)

    def journal_status(self, request_id: str) -> JournalStatus:
        """Return what the journal says about a request.

        Raises:
            FilterError: Several request_ids in the journal begin with `request_id`.
        """
        entry, problem = self._find_entry(request_id)
        pipeline = self.keeper.pipeline
        blocked_by = pipeline.blocked_by(entry) if entry and pipeline else ""
        return JournalStatus(pending_status(entry, blocked_by) if entry else None, problem)

    def waiting_requests(self, filters: Filters, limit: int, offset: int) -> dict[str, Any]:
        """Return the newest requests that are not recorded yet and contain a matching alert.

        Raises:
            JournalError: The journal cannot be read.
        """
        candidates = self.waiting_candidates(filters, limit, offset)
        view: dict[str, Any] = native.run_in_native_thread(
            find_waiting, candidates, config_identity(self.config), filters, limit
        )
        return view

    def waiting_candidates(self, filters: Filters, limit: int, offset: int) -> Candidates:
        """Return the newest requests that are not recorded yet, for find_waiting().

        Raises:
            JournalError: The journal cannot be read.
        """
        journal, pipeline = self.keeper.journal, self.keeper.pipeline
        if journal is None:
            raise JournalError(self.keeper.problem())
        blocked_by = pipeline.blocked_by if pipeline else lambda entry: ""
        return read_candidates(journal, filters, limit, offset, blocked_by)

    def _find_entry(self, request_id: str) -> tuple[Entry | None, str]:
        """Return the journal's entry for a request, or None.

        Also return why the journal cannot be read, or '' if it can.

        Raises:
            FilterError: Several request_ids in the journal begin with `request_id`.
        """
        journal = self.keeper.journal
        if journal is None:
            return None, self.keeper.problem()
        try:
            entry = journal.find(request_id)
            if entry is None and _SHORT_ID.match(request_id):
                entries = journal.find_with_prefix(request_id, short_ids.MAX_LISTED + 1)
                ids = [entry.request_id for entry in entries]
                if len(ids) > 1:
                    raise short_ids.ambiguous("request_id", request_id, ids)
                entry = entries[0] if entries else None
            return entry, ""
        except JournalError as error:
            return None, str(error)


def build_installation(
    config: Config,
    bus: Broker,
    stackstorm: StackStorm,
    metrics: Metrics,
    log: logging.Logger,
    current_config: Callable[[], Config],
) -> Installation:
    """Create the parts that a configuration describes, without opening any of them.

    Args:
        config: The configuration.
        bus: Publishes triggers.
        stackstorm: StackStorm's API.
        metrics: The endpoint's metrics.
        log: The endpoint's logger.
        current_config: Returns the configuration that is current when it is called.

    Raises:
        DatabaseError: The database URL cannot be used.
    """
    reader = TrackingReader(open_engine(config), config.auto_migrate)

    def make_pipeline(journal: Journal) -> Pipeline:
        return Pipeline(
            Dependencies(
                journal=journal,
                reader=reader,
                bus=CountedBus(bus, metrics),
                broker=bus,
                stackstorm=stackstorm,
                components=Components(log),
                metrics=metrics,
                log=log,
                config=current_config,
            )
        )

    return Installation(config, reader, stackstorm, JournalKeeper(config, make_pipeline, log))


def apply_log_settings(config: Config, previous: Config, log: logging.Logger) -> None:
    """Set the log level, and log a warning for each setting that is probably a mistake.

    Args:
        config: The configuration.
        previous: The previous configuration. Its warnings are not repeated.
        log: The endpoint's logger.
    """
    log.setLevel(config.log_level.upper())
    logged = {*previous.warnings, *previous.remediation_errors}
    for warning in [*config.warnings, *config.remediation_errors]:
        if warning not in logged:
            log.warning("configuration: %s", warning)
    for key in config.literal_secrets:
        if key not in previous.literal_secrets:
            log.warning(
                "configuration: %s contains a literal secret, which is visible on the command "
                "line of the pack's actions: use file:/path or env:NAME instead",
                key,
            )
