"""What the web application needs of the endpoint that it belongs to."""

from __future__ import annotations

from typing import Any, Callable, Protocol

from poundcake.announcement import Request
from poundcake.endpoint.metrics import Metrics


class RequestJournal(Protocol):
    """Where accepted requests are stored."""

    @property
    def backlog(self) -> int:
        """How many requests wait to be recorded."""

    def accept(self, request: Request, wanted_id: str, sha256: str, alerts: int) -> str:
        """Store a request durably and return its request_id.

        Args:
            request: The request; its request_id is not set yet.
            wanted_id: The sender's own request id, a UUID, or an empty string.
            sha256: Of the body, as `request_ids.body_sha256` computes it.
            alerts: How many alerts it has.

        Raises:
            JournalError: Nothing was stored.
        """


class Service(Protocol):
    """The endpoint as its web application sees it."""

    @property
    def metrics(self) -> Metrics:
        """Where requests are counted."""

    @property
    def journal(self) -> RequestJournal | None:
        """The journal, or None while it cannot be opened."""

    def journal_problem(self) -> str:
        """Return why there is no journal."""

    def journal_failed(self, reason: str) -> None:
        """Take note that the journal could not be written."""

    def accepted(self) -> None:
        """Take note that a request was stored in the journal."""

    def read(self, view: Callable[..., dict[str, Any]], **query: Any) -> dict[str, Any]:
        """Return what `view(connection, **query)` returns for the tracking database.

        Raises:
            DatabaseError: The tracking database cannot be read.
        """

    def status(self, request_id: str) -> dict[str, Any] | None:
        """Return the trail of a request, or None if it is unknown.

        Raises:
            DatabaseError: The tracking database, which may know it, cannot be read.
            JournalError: The journal, which may know it, cannot be read.
        """

    def health(self) -> dict[str, Any]:
        """Return the health view. Its `status` is ok, degraded or unavailable."""
