"""The alerts in the endpoint's journal that wait to be recorded, as the pages show them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from poundcake.endpoint.board.alert_rows import for_list
from poundcake.endpoint.board.board_service import BoardService
from poundcake.endpoint.journal import JournalError
from poundcake.trail.queries.waiting_alerts import waiting_alerts
from poundcake.trail.search import Filters

MAX_ROWS = 20
"""Maximum number of alerts that are shown."""


@dataclass(frozen=True)
class JournalRows:
    """The newest alerts that wait to be recorded.

    Attributes:
        rows: The alerts, as the view why shows them, with short labels.
        left_out_count: The number of waiting alerts that are not shown.
        at_least: Whether there may be more of them.
        problem: Why the journal cannot be read, or ''.
    """

    rows: list[dict[str, Any]]
    left_out_count: int = 0
    at_least: bool = False
    problem: str = ""

    def as_variables(self) -> dict[str, Any]:
        """Return the variables of a template."""
        return {
            "rows": self.rows,
            "left_out": self.left_out_count,
            "at_least": self.at_least,
            "problem": self.problem,
        }


def read_journal(service: BoardService, filters: Filters, limit: int = MAX_ROWS) -> JournalRows:
    """Return the newest alerts in the journal that match the filters, at most `limit`."""
    try:
        document = service.waiting_requests(filters, limit, 0)
    except JournalError as error:
        return JournalRows([], problem=str(error))
    rows = waiting_alerts(document)
    not_listed = sum(request.get("alerts_left_out", 0) for request in document["requests"])
    return JournalRows(
        [for_list(row, {}) for row in rows[:limit]],
        max(0, len(rows) - limit) + not_listed,
        bool(document.get("at_least")) or document["count"] > limit,
    )
