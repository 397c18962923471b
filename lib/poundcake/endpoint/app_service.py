"""Protocols for the objects that the web application uses."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Protocol

from poundcake.announcement import Request
from poundcake.endpoint.metrics import Metrics
from poundcake.endpoint.trail_views import JournalReader, TrailReader
from poundcake.trail.refresh import ExecutionReader


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


class Service(TrailReader, JournalReader, Protocol):
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

    def newest_waiting_at(self) -> datetime | None:
        """Return when the newest request that is not recorded yet was received, or None.

        Raises:
            JournalError: The journal cannot be read.
        """

    def health(self) -> dict[str, Any]:
        """Return the health view. Its `status` is ok, degraded or unavailable."""
