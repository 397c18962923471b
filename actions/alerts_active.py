"""List the alerts that are firing now."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.trail import queries, search, text


class AlertsActive(PackAction):
    """Run poundcake.alerts_active."""

    def work(
        self, limit: int = 100, offset: int = 0, format: str = "json", **filters: Any
    ) -> dict[str, Any] | str:
        """Return the view as JSON, or as text for a terminal."""
        view = self.live_view(
            queries.alerts_active,
            stale_after_hours=self.settings.stale_after_hours,
            filters=search.parse(**filters),
            limit=limit,
            offset=offset,
        )
        return text.alerts_active(view) if format == "text" else view
