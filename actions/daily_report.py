"""Report what happened in the last day, and what needs a person's attention."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.trail import daily_report, search, text


class DailyReport(PackAction):
    """Run poundcake.daily_report."""

    def work(
        self,
        since: str = "",
        until: str = "",
        format: str = "text",
        width: int = text.DEFAULT_WIDTH,
    ) -> dict[str, Any] | str:
        """Return the report as text for a message, or as JSON."""
        report = self.view(
            daily_report.daily_report,
            filters=search.parse(since=since, until=until),
            config=self.settings,
        )
        return text.daily_report(report, width=width) if format == "text" else report
