"""Protocols for the parts of the endpoint that the board uses."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Callable, Mapping, Protocol, TypeVar

from poundcake.endpoint.request_status import JournalStatus
from poundcake.endpoint.waiting_requests import Candidates
from poundcake.trail.refresh import ExecutionReader
from poundcake.trail.search import Filters

T = TypeVar("T")


class JournalReader(Protocol):
    """What the board asks the endpoint about its own state."""

    def recent_health(self) -> dict[str, Any]:
        """Return the health view, about a second old at most."""

    def refused_webhooks(self) -> Mapping[str, Any]:
        """Return the report on the webhooks that were refused since the endpoint started."""

    def newest_waiting_at(self) -> datetime | None:
        """Return when the newest request that is not recorded yet was received, or None.

        Raises:
            JournalError: The journal cannot be read.
        """


class EndpointState(JournalReader, ExecutionReader, Protocol):
    """What the process that computes the pages asks the endpoint."""

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


class BoardService(JournalReader, Protocol):
    """What the pages use."""

    def waiting_requests(self, filters: Filters, limit: int, offset: int) -> dict[str, Any]:
        """Return the newest requests that are not recorded yet and contain a matching alert.

        Raises:
            JournalError: The journal cannot be read.
        """

    def read(self, view: Callable[..., Any], **query: Any) -> dict[str, Any]:
        """Return `view(connection, **query)`, with open executions as StackStorm has them now.

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
