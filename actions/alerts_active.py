"""List the alerts that are firing now."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.trail import queries, search, text


class AlertsActive(PackAction):
    """Run poundcake.alerts_active."""

    def work(
        self,
        limit: int = 100,
        offset: int = 0,
        format: str = "json",
        width: int = text.DEFAULT_WIDTH,
        **filters: Any,
    ) -> dict[str, Any] | str:
        """Return the view as JSON, or as text for a terminal."""
        view = self.live_view(
            queries.read_incidents,
            filters=search.parse(**filters),
            limit=limit,
            offset=offset,
            config=self.settings,
        )
        return text.alerts_active(view, width=width) if format == "text" else view
