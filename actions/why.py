"""Show what ran for an alert, or why nothing ran."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.trail import queries, search, text


class Why(PackAction):
    """Run poundcake.why."""

    def work(
        self,
        limit: int = 10,
        offset: int = 0,
        format: str = "json",
        width: int = text.WIDTH,
        **filters: Any,
    ) -> dict[str, Any] | str:
        """Return the view as JSON, or as text for a terminal."""
        parsed_filters = search.parse(**filters)
        search.require_identifying_filter(parsed_filters)
        view = self.live_view(
            queries.read_episodes,
            filters=search.parse(**filters),
            limit=limit,
            offset=offset,
            web_url=self.settings.st2_web_url,
            config=self.settings,
        )
        return text.why(view, width=width) if format == "text" else view
