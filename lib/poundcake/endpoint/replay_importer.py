"""Import replays, which an action records and an endpoint emits."""

from __future__ import annotations

from time import monotonic

from poundcake.endpoint.dependencies import Dependencies
from poundcake.endpoint.tracking_queries import find_unemitted_replays, load_request

POLL_WAIT = 5.0
"""Seconds between polls for replays."""
MAX_IMPORTS_PER_POLL = 100


class ReplayImporter:
    """Import replays from the tracking database into the journal, as recorded requests."""

    def __init__(self, dependencies: Dependencies):
        self._dependencies = dependencies
        self._poll_at = 0.0

    def import_replays(self) -> float | None:
        """Import the replays that the journal does not have yet."""
        remaining = self._poll_at - monotonic()
        if remaining > 0:
            return remaining
        journal, reader = self._dependencies.journal, self._dependencies.reader
        unknown_ids = journal.find_unknown_ids(reader.read(find_unemitted_replays))
        self._dependencies.components.database.mark_ok()
        for request_id in unknown_ids[:MAX_IMPORTS_PER_POLL]:
            # Load one at a time, because each may be several MiB.
            replay = reader.read(load_request, request_id)
            if replay:
                journal.import_recorded(*replay)
        wait = 0.0 if len(unknown_ids) > MAX_IMPORTS_PER_POLL else POLL_WAIT
        self._poll_at = monotonic() + wait
        return wait
