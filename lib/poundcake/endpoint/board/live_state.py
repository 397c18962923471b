"""What the process that computes the pages asks the endpoint."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Callable, Mapping, Sequence

from poundcake.endpoint.app_service import Service
from poundcake.endpoint.request_status import JournalStatus
from poundcake.endpoint.waiting_requests import Candidates
from poundcake.stackstorm import Execution
from poundcake.trail.search import Filters


class LiveState:
    """The endpoint as EndpointState.

    Args:
        service: The endpoint.
        refused_webhooks: Returns the report on the webhooks that were refused.
    """

    def __init__(self, service: Service, refused_webhooks: Callable[[], Mapping[str, Any]]) -> None:
        self._service = service
        self.refused_webhooks = refused_webhooks

    def recent_health(self) -> dict[str, Any]:
        """See LiveFacts."""
        return self._service.metrics.recent_health()

    def waiting_candidates(self, filters: Filters, limit: int, offset: int) -> Candidates:
        """See JournalReader. Raises JournalError."""
        return self._service.waiting_candidates(filters, limit, offset)

    def newest_waiting_at(self) -> datetime | None:
        """See LiveFacts. Raises JournalError."""
        return self._service.newest_waiting_at()

    def journal_status(self, request_id: str) -> JournalStatus:
        """See JournalReader. Raises FilterError."""
        return self._service.journal_status(request_id)

    def get_executions(self, ids: Sequence[str]) -> Mapping[str, Execution]:
        """See ExecutionReader. Raises StackStormError."""
        return self._service.stackstorm.get_executions(ids)

    def get_children(self, execution_id: str) -> Sequence[Execution]:
        """See ExecutionReader. Raises StackStormError."""
        return self._service.stackstorm.get_children(execution_id)
