"""Show the trail of one request."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake import endpoint_client
from poundcake.config import MONITORING_KEYS
from poundcake.trail import queries, text
from poundcake.trail.errors import TrackingError


class Status(PackAction):
    """Run poundcake.status."""

    unneeded_keys = MONITORING_KEYS

    def work(
        self, request_id: str, format: str = "json", width: int = text.DEFAULT_WIDTH
    ) -> dict[str, Any] | str:
        """Return the view as JSON, or as text for a terminal."""
        web_url = self.settings.st2_web_url
        view = self.live_view(queries.status, request_id=request_id, web_url=web_url)
        if view is None:
            # The request may be in the endpoint's journal, but not recorded yet.
            view = self._pending_status(request_id)
        return text.status(view, width=width) if format == "text" else view

    def _pending_status(self, request_id: str) -> dict[str, Any]:
        """Return the endpoint's status view of a request that is not recorded yet.

        Raises:
            TrackingError: The endpoint does not know the request, or is unreachable.
        """
        result = endpoint_client.status(self.settings, request_id)
        if isinstance(result, endpoint_client.Answered):
            return result.document
        message = f"no request {request_id} is recorded"
        if isinstance(result, endpoint_client.Refused) and result.status == 404:
            raise TrackingError(message)
        raise TrackingError(f"{message}; the endpoint may have it, but {result}")
