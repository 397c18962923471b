"""Show whether webhooks are accepted, and the state of all dependencies."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake import endpoint_client
from poundcake.config import MONITORING_KEYS
from poundcake.trail import health, text


class Health(PackAction):
    """Run poundcake.health."""

    unneeded_keys = MONITORING_KEYS

    def work(self, format: str = "json", width: int = text.DEFAULT_WIDTH) -> dict[str, Any] | str:
        """Return the endpoint's health. If it is unreachable, check the dependencies directly."""
        result = endpoint_client.health(self.settings)
        if isinstance(result, endpoint_client.Answered):
            view = health.add_differences(result.document, self.settings)
        else:
            view = health.view_without_endpoint(
                self.settings, self.engine(), self.stackstorm(), str(result)
            )
        view = health.add_pause(view, self.engine())
        return text.health(view, width=width) if format == "text" else view
