"""Build the parts of an endpoint from its configuration: database, StackStorm's API, journal."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Callable

from poundcake.config import Config
from poundcake.endpoint.bus import Broker
from poundcake.endpoint.dependencies import Dependencies
from poundcake.endpoint.health import Components
from poundcake.endpoint.journal import Entry, Journal, JournalError
from poundcake.endpoint.journal_keeper import JournalKeeper
from poundcake.endpoint.metrics import CountedBus, Metrics
from poundcake.endpoint.pipeline import Pipeline
from poundcake.endpoint.request_status import JournalStatus, pending_status
from poundcake.endpoint.tracking_reader import TrackingReader, open_engine
from poundcake.endpoint.trail_views import TrailViews
from poundcake.endpoint.waiting_requests import Candidates, read_candidates
from poundcake.stackstorm import StackStorm
from poundcake.trail import short_ids
from poundcake.trail.search import Filters

_SHORT_ID = re.compile(rf"[0-9a-f-]{{{short_ids.MIN_CHARACTERS},35}}\Z")


@dataclass(frozen=True)
class Installation:
    """The parts of an endpoint."""

    config: Config
    reader: TrackingReader
    stackstorm: StackStorm
    keeper: JournalKeeper

    @property
    def views(self) -> TrailViews:
        """The views that combine what the parts know."""
        return TrailViews(self.config, self.reader, self, self.stackstorm)

    def journal_status(self, request_id: str) -> JournalStatus:
        """See JournalReader. Raises FilterError."""
        entry, problem = self._find_entry(request_id)
        pipeline = self.keeper.pipeline
        blocked_by = pipeline.blocked_by(entry) if entry and pipeline else ""
        return JournalStatus(pending_status(entry, blocked_by) if entry else None, problem)

    def waiting_candidates(self, filters: Filters, limit: int, offset: int) -> Candidates:
        """See JournalReader. Raises JournalError."""
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
