"""The page of a request: its alerts, and what ran for them."""

from __future__ import annotations

from typing import Any

from poundcake.config import Config
from poundcake.endpoint.board.alert_rows import shared_labels
from poundcake.endpoint.board.board_service import BoardService
from poundcake.endpoint.board.execution_rows import execution_row
from poundcake.endpoint.board.journal_rows import JournalRows, read_journal
from poundcake.endpoint.board.paths import search_path
from poundcake.trail import search
from poundcake.trail.text.remarks import audit_lines, change_lines, incident_remark_lines
from poundcake.trail.text.request import next_commands, summarize_request

MAX_ALERTS = 20
"""Maximum number of alerts that the page shows. The page Episodes shows all of them."""
MAX_EXECUTIONS = 5
"""Maximum number of executions that the page shows of each alert."""
_IN_JOURNAL = ("accepted", "announced")


def read_request(config: Config, service: BoardService, request_id: str) -> dict[str, Any] | None:
    """Return what the page shows, or None if the request is unknown.

    Args:
        config: The configuration.
        service: The endpoint.
        request_id: The id of the request, or the beginning of it.

    Raises:
        FilterError: Several request_ids begin with `request_id`.
        DatabaseError: The request is not in the journal, and the tracking database cannot be read.
        JournalError: The request is not in the tracking database, and the journal cannot be read.
    """
    view = service.status(request_id.lower())
    if view is None:
        return None
    executions: dict[int, list[dict[str, Any]]] = {}
    for execution in view["stackstorm_executions"]:
        executions.setdefault(execution["alert_id"], []).append(execution_row(execution, config))
    shown = view["alerts"][:MAX_ALERTS]
    hidden = shared_labels(shown)
    linked = {row["st2_execution_id"] for row in view["stackstorm_executions"]}
    unlinked = [c for c in view.get("changes", ()) if c["st2_execution_id"] not in linked]
    journal = JournalRows([])
    if view["status"] in _IN_JOURNAL:
        journal = read_journal(service, search.parse(None, request_id=view["request_id"]))
    return {
        "request": view,
        "summary": summarize_request(view),
        "shared_labels": hidden,
        "alerts": [
            {
                **alert,
                "labels": {
                    name: text for name, text in alert["labels"].items() if name not in hidden
                },
                "executions": executions.get(alert["id"], [])[:MAX_EXECUTIONS],
                "executions_left_out": max(
                    0, len(executions.get(alert["id"], [])) - MAX_EXECUTIONS
                ),
                "remarks": incident_remark_lines(alert),
            }
            for alert in shown
        ],
        "alerts_left_out": len(view["alerts"]) - len(shown),
        "all_href": search_path(request_id=view["request_id"]),
        "changes": change_lines({"changes": unlinked[:MAX_ALERTS]}),
        "audit": audit_lines(view)[:MAX_ALERTS],
        "journal": journal.as_variables(),
        "commands": next_commands(view),
        "stackstorm": view.get("stackstorm", ""),
    }
