"""The page Now: what fires, what was done about it, and what needs a person."""

from __future__ import annotations

from typing import Any

from poundcake.config import Config
from poundcake.endpoint.app_service import Service
from poundcake.trail import queries
from poundcake.trail.search import Filters

MAX_INCIDENTS = 200
"""Maximum number of open incidents that the page shows in detail."""


def read_now(config: Config, service: Service) -> dict[str, Any]:
    """Return what the page shows.

    Raises:
        DatabaseError: The tracking database cannot be read.
    """
    view = service.read_recorded(
        queries.read_incidents, filters=Filters(), limit=MAX_INCIDENTS, config=config
    ).as_json()
    groups: dict[str, list[dict[str, Any]]] = {
        "needs_person": [],
        "in_progress": [],
        "handled": [],
    }
    for incident in view["active_alerts"]:
        groups[incident["attention"]].append(incident)
    return {"view": view, "groups": groups}
