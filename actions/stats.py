"""Count the results of remediations, by workflow and by alert name."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.trail import search, stats, text


class Stats(PackAction):
    """Run poundcake.stats."""

    def work(
        self, format: str = "json", width: int = text.DEFAULT_WIDTH, **filters: Any
    ) -> dict[str, Any] | str:
        """Return the view as JSON, or as text for a terminal."""
        view = self.view(
            stats.stats,
            filters=search.parse(**filters),
            not_cleared_minutes=self.settings.not_cleared_minutes,
        )
        return text.stats(view, width=width) if format == "text" else view
