"""The paths of the pages, for links between them."""

from __future__ import annotations

from typing import Mapping
from urllib.parse import quote, urlencode

from poundcake.endpoint.routes import BOARD_PATH

EPISODES_PATH = f"{BOARD_PATH}/episodes"
REQUESTS_PATH = f"{BOARD_PATH}/requests"
AUTOMATION_PATH = f"{BOARD_PATH}/automation"
HEALTH_PATH = f"{BOARD_PATH}/health"
STATIC_PATH = f"{BOARD_PATH}/static/"
EPISODE_TEMPLATE = f"{EPISODES_PATH}/{{episode}}"
REQUEST_TEMPLATE = f"{REQUESTS_PATH}/{{request_id}}"
PAGE_TEMPLATES = (
    BOARD_PATH,
    EPISODES_PATH,
    EPISODE_TEMPLATE,
    REQUEST_TEMPLATE,
    AUTOMATION_PATH,
    HEALTH_PATH,
)
"""The path templates of all pages."""


def with_parameters(path: str, parameters: Mapping[str, str]) -> str:
    """Return a path with parameters. Empty ones are left out."""
    query = urlencode({name: text for name, text in parameters.items() if text})
    return f"{path}?{query}" if query else path


def now_path(before: str) -> str:
    """Return the path of the page with the open incidents after a cursor."""
    return with_parameters(BOARD_PATH, {"before": before})


def episode_path(episode: str) -> str:
    """Return the path of the page of an episode."""
    return f"{EPISODES_PATH}/{quote(episode, safe='')}"


def request_path(request_id: str) -> str:
    """Return the path of the page of a request."""
    return f"{REQUESTS_PATH}/{quote(request_id, safe='')}"


def search_path(**filters: str) -> str:
    """Return the path of the page with the episodes that match filters. Empty ones are left out."""
    return with_parameters(EPISODES_PATH, filters)
