"""List the StackStorm executions that ran for alerts."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.trail import queries, search, text


class St2Executions(PackAction):
    """Run poundcake.st2_executions."""

    def work(
        self,
        status: str = "",
        limit: int = 20,
        offset: int = 0,
        format: str = "json",
        width: int = text.DEFAULT_WIDTH,
        **filters: Any,
    ) -> dict[str, Any] | str:
        """Return the view as JSON, or as text for a terminal."""
        view = self.live_view(
            queries.st2_executions,
            status=status,
            filters=search.parse(**filters),
            limit=limit,
            offset=offset,
            web_url=self.settings.st2_web_url,
        )
        return text.st2_executions(view, width=width) if format == "text" else view
