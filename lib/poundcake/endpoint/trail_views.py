"""Views that combine the tracking database, the journal and StackStorm."""

from __future__ import annotations

from typing import Any, Callable, Protocol, TypeVar

from poundcake.config import Config
from poundcake.endpoint import native
from poundcake.endpoint.request_status import JournalStatus, read_status
from poundcake.endpoint.tracking_reader import TrackingReader
from poundcake.endpoint.waiting_requests import Candidates, find_waiting
from poundcake.trail import refresh
from poundcake.trail.record import config_identity
from poundcake.trail.refresh import ExecutionReader
from poundcake.trail.search import Filters

T = TypeVar("T")


class JournalReader(Protocol):
    """What the views ask the journal."""

    def waiting_candidates(self, filters: Filters, limit: int, offset: int) -> Candidates:
        """Return the newest requests that are not recorded yet, for find_waiting().

        Raises:
            JournalError: The journal cannot be read.
        """

    def journal_status(self, request_id: str) -> JournalStatus:
        """Return what the journal says about a request.

        Raises:
            FilterError: Several request_ids in the journal begin with `request_id`.
        """


class TrailReader(Protocol):
    """The views, as their callers use them."""

    def read(self, view: Callable[..., Any], **query: Any) -> dict[str, Any]:
        """Return `view(connection, **query)`, with open executions as StackStorm has them now.

        Raises:
            DatabaseError: The tracking database cannot be read.
        """

    def status(self, request_id: str) -> dict[str, Any] | None:
        """Return the trail of a request, even if it is not recorded yet; None if it is unknown.

        Args:
            request_id: The id of the request, or a unique prefix of it.

        Raises:
            FilterError: Several request_ids begin with it.
            DatabaseError: The request is not in the journal, and the tracking database cannot be
                read.
            JournalError: The request is not in the tracking database, and the journal cannot be
                read.
        """

    def waiting_requests(self, filters: Filters, limit: int, offset: int) -> dict[str, Any]:
        """Return the newest requests that are not recorded yet and contain a matching alert.

        Raises:
            JournalError: The journal cannot be read.
        """


class TrailViews:
    """The views of an endpoint, in its own process or in the one that computes the pages.

    Args:
        config: The configuration.
        reader: Reads the tracking database.
        journal: The journal, or the endpoint that has it.
        executions: StackStorm's API.
    """

    def __init__(
        self,
        config: Config,
        reader: TrackingReader,
        journal: JournalReader,
        executions: ExecutionReader,
    ) -> None:
        self._config = config
        self._reader = reader
        self._journal = journal
        self._executions = executions

    def read_recorded(self, query: Callable[..., T], **arguments: Any) -> T:
        """Return `query(connection, **arguments)`, run on the tracking database.

        StackStorm is not asked, so open executions are as of the last sync.

        Raises:
            DatabaseError: The tracking database cannot be read.
        """
        return self._reader.read_view(lambda connection: query(connection, **arguments))

    def read(self, view: Callable[..., Any], **query: Any) -> Any:
        """See TrailReader. Raises DatabaseError."""
        document = self.read_recorded(view, **query)
        if not document:
            return document
        minutes = self._config.approval_minutes
        return refresh.refresh_open_executions(self._executions, document, minutes)

    def status(self, request_id: str) -> dict[str, Any] | None:
        """See TrailReader. Raises FilterError, DatabaseError and JournalError."""
        journal = self._journal.journal_status(request_id)
        return read_status(self.read, journal, request_id, self._config.st2_web_url)

    def waiting_requests(self, filters: Filters, limit: int, offset: int) -> dict[str, Any]:
        """See TrailReader. Raises JournalError."""
        candidates = self._journal.waiting_candidates(filters, limit, offset)
        view: dict[str, Any] = native.run_in_native_thread(
            find_waiting, candidates, config_identity(self._config), filters, limit
        )
        return view
