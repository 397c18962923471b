"""Whether a page can ask StackStorm for the current state of executions."""

from __future__ import annotations

from poundcake.endpoint.board.board_service import BoardService
from poundcake.endpoint.health import State


def stackstorm_problem(service: BoardService) -> str:
    """Return why a page shows executions as of the last sync, or '' if it can ask StackStorm.

    While StackStorm is down, nobody should wait for it, because others wait for their pages.
    """
    stackstorm = service.recent_health()["components"].get("stackstorm", {})
    if stackstorm.get("state") != State.DOWN:
        return ""
    return f"open executions are as of the last sync: {stackstorm['detail']}"
