"""List the newest webhooks with their alerts and the executions that ran for them."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.trail import queries, search, text


class ExecutionsRecent(PackAction):
    """Run poundcake.executions_recent."""

    def work(
        self,
        limit: int = 20,
        offset: int = 0,
        format: str = "json",
        width: int = text.DEFAULT_WIDTH,
        **filters: Any,
    ) -> dict[str, Any] | str:
        """Return the view as JSON, or as text for a terminal."""
        view = self.view(
            queries.executions_recent, filters=search.parse(**filters), limit=limit, offset=offset
        )
        return text.executions_recent(view, width=width) if format == "text" else view
