"""Protocols for the objects that the web application uses."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Callable, Protocol, TypeVar

from poundcake.announcement import Request
from poundcake.endpoint.metrics import Metrics
from poundcake.endpoint.request_status import JournalStatus
from poundcake.endpoint.waiting_requests import Candidates
from poundcake.trail.refresh import ExecutionReader
from poundcake.trail.search import Filters

T = TypeVar("T")


class RequestJournal(Protocol):
    """The journal, which stores accepted requests."""

    @property
    def backlog(self) -> int:
        """The number of requests waiting to be recorded."""

    def accept(
        self, request: Request, sender_request_id: str, body_sha256: str, alert_count: int
    ) -> str:
        """Store a request durably and return its request_id.

        Args:
            request: The request; its request_id is not set yet.
            sender_request_id: The UUID that the sender chose as the request id, or ''.
            body_sha256: The hash of the body, from `request_ids.body_sha256`.
            alert_count: The number of alerts in the request.

        Raises:
            JournalError: Nothing was stored.
        """


class Service(Protocol):
    """The part of the endpoint that its web application uses."""

    @property
    def metrics(self) -> Metrics:
        """The endpoint's metrics."""

    @property
    def journal(self) -> RequestJournal | None:
        """The journal, or None while it cannot be opened."""

    @property
    def stackstorm(self) -> ExecutionReader:
        """StackStorm's API."""

    def journal_problem(self) -> str:
        """Return why the journal is not open."""

    def note_journal_failure(self, reason: str) -> None:
        """Note that the journal could not be written or read."""

    def note_accepted(self) -> None:
        """Note that a request was stored in the journal."""

    def read(self, view: Callable[..., Any], **query: Any) -> dict[str, Any]:
        """Return `view(connection, **query)`, run on the tracking database.

        Raises:
            DatabaseError: The tracking database cannot be read.
        """

    def read_recorded(self, query: Callable[..., T], **arguments: Any) -> T:
        """Return `query(connection, **arguments)`, run on the tracking database.

        StackStorm is not asked, so open executions are as of the last sync.

        Raises:
            DatabaseError: The tracking database cannot be read.
        """

    def status(self, request_id: str) -> dict[str, Any] | None:
        """Return the trail of a request, or None if it is unknown.

        Raises:
            DatabaseError: The request is not in the journal, and the tracking database cannot be
                read.
            JournalError: The request is not in the tracking database, and the journal cannot be
                read.
        """

    def journal_status(self, request_id: str) -> JournalStatus:
        """Return what the journal says about a request.

        Raises:
            FilterError: Several request_ids in the journal begin with `request_id`.
        """

    def waiting_requests(self, filters: Filters, limit: int, offset: int) -> dict[str, Any]:
        """Return the newest requests that are not recorded yet and contain a matching alert.

        Raises:
            JournalError: The journal cannot be read.
        """

    def waiting_candidates(self, filters: Filters, limit: int, offset: int) -> Candidates:
        """Return the newest requests that are not recorded yet, for find_waiting().

        Raises:
            JournalError: The journal cannot be read.
        """

    def newest_waiting_at(self) -> datetime | None:
        """Return when the newest request that is not recorded yet was received, or None.

        Raises:
            JournalError: The journal cannot be read.
        """

    def health(self) -> dict[str, Any]:
        """Return the health view. Its `status` is ok, degraded or unavailable."""
