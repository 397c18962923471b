"""Import recorded requests that this endpoint may have to emit: replays, and abandoned requests."""

from __future__ import annotations

from time import monotonic

from poundcake.endpoint.dependencies import Dependencies
from poundcake.endpoint.tracking_queries import find_requests_to_import, load_request

POLL_WAIT = 5.0
"""Seconds between polls for requests to import."""
MAX_IMPORTS_PER_POLL = 100


class RequestImporter:
    """Import requests from the tracking database into the journal, as recorded requests."""

    def __init__(self, dependencies: Dependencies):
        self._dependencies = dependencies
        self._poll_at = 0.0

    def import_requests(self) -> float | None:
        """Import the requests that the journal does not have yet."""
        remaining = self._poll_at - monotonic()
        if remaining > 0:
            return remaining
        journal, reader = self._dependencies.journal, self._dependencies.reader
        unknown_ids = journal.find_unknown_ids(reader.read(find_requests_to_import))
        self._dependencies.components.database.mark_ok()
        for request_id in unknown_ids[:MAX_IMPORTS_PER_POLL]:
            # Load one at a time, because each may be several MiB.
            request = reader.read(load_request, request_id)
            if request:
                journal.import_recorded(*request)
        wait = 0.0 if len(unknown_ids) > MAX_IMPORTS_PER_POLL else POLL_WAIT
        self._poll_at = monotonic() + wait
        return wait
