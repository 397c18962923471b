"""The page Health: what does not work, and what a person does about it."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from poundcake.config import Config
from poundcake.endpoint.board.board_service import BoardService
from poundcake.endpoint.board.status_line import read_breakers
from poundcake.trail.database import DatabaseError
from poundcake.trail.text.health import (
    describe_mode,
    describe_status,
    find_problems,
    find_remarks,
)

_JOURNAL_STATES = {
    "accepted": "accepted, and not yet sent to RabbitMQ",
    "announced": "sent to RabbitMQ, and not yet recorded",
    "recorded": "recorded, and StackStorm has not processed all alerts",
    "done": "done, and kept for a day",
}


def read_health(config: Config, service: BoardService) -> dict[str, Any]:
    """Return what the page shows.

    Args:
        config: The configuration.
        service: The endpoint.
    """
    health = {**service.recent_health(), "refused": service.refused_webhooks()}
    now = datetime.now(timezone.utc)
    breakers: list[dict[str, Any]] = []
    problem = ""
    try:
        breakers = service.read_recorded(read_breakers, config=config)
    except DatabaseError as error:
        problem = str(error)
    journal = health["components"]["journal"]
    return {
        "health": health,
        "status_text": describe_status(health, now),
        "mode": describe_mode(health),
        "problems": find_problems(health, now),
        "remarks": [_split(remark) for remark in find_remarks(health, now)],
        "stuck_requests": journal.get("stuck_requests") or [],
        "journal": journal if journal.get("waiting") is not None else None,
        "journal_states": {
            description: journal.get(state) for state, description in _JOURNAL_STATES.items()
        },
        "breakers": breakers,
        "breakers_problem": problem,
    }


def _split(remark: str) -> tuple[str, str]:
    """Return the subject of a remark, and what it says about it."""
    subject, _, text = remark.partition(": ")
    return subject, text
