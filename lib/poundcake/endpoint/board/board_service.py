"""Protocols for the parts of the endpoint that the board uses."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Callable, Mapping, Protocol, TypeVar

from poundcake.endpoint.trail_views import JournalReader, TrailReader
from poundcake.trail.refresh import ExecutionReader

T = TypeVar("T")


class LiveFacts(Protocol):
    """What only the endpoint knows about its own state."""

    def recent_health(self) -> dict[str, Any]:
        """Return the health view, about a second old at most."""

    def refused_webhooks(self) -> Mapping[str, Any]:
        """Return the report on the webhooks that were refused since the endpoint started."""

    def newest_waiting_at(self) -> datetime | None:
        """Return when the newest request that is not recorded yet was received, or None.

        Raises:
            JournalError: The journal cannot be read.
        """


class EndpointState(LiveFacts, JournalReader, ExecutionReader, Protocol):
    """What the process that computes the pages asks the endpoint."""


class BoardService(LiveFacts, TrailReader, Protocol):
    """What the pages use."""

    def read_recorded(self, query: Callable[..., T], **arguments: Any) -> T:
        """Return `query(connection, **arguments)`, run on the tracking database.

        StackStorm is not asked, so open executions are as of the last sync.

        Raises:
            DatabaseError: The tracking database cannot be read.
        """
