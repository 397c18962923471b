"""The views of the trail: alerts, the executions that ran for them, and their outcomes.

The views run in actions and in the sensor process, and import nothing from the endpoint. Each view
has its own module, which returns typed rows:

| view | URL | module |
|---|---|---|
| status | /api/v1/status/{request_id} | request_status |
| executions_recent | /api/v1/executions/recent | requests |
| alerts_active | /api/v1/alerts/active | incidents |
| st2_executions | /api/v1/st2/executions | executions |
| why | /api/v1/why | why, episodes, episode, episode_events, episode_verdict, episode_timeline |
| alert_of_request, alert_of_episode (the actions get_alert and plan) | | alert |

`bounded_search` contains the search that the lists share, `near_misses` explains answers without
rows, and `rows` contains the rows that the lists show. The functions in this module return the
views as JSON objects, as their URLs return them.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Callable

from sqlalchemy.engine import Connection

from poundcake.config import Config
from poundcake.trail.queries.alert import alert_details, find_episode_alert, has_ended_work
from poundcake.trail.queries.episodes import DEFAULT_LIMIT
from poundcake.trail.queries.executions import linked_executions
from poundcake.trail.queries.incidents import read_incidents
from poundcake.trail.queries.near_misses import (
    near_misses,
    near_misses_of_executions,
    needs_near_misses,
)
from poundcake.trail.queries.page import Page
from poundcake.trail.queries.request_status import request_trail
from poundcake.trail.queries.requests import recent_requests
from poundcake.trail.queries.why import EpisodesView, read_episodes
from poundcake.trail.recorded_alert import unknown_alert
from poundcake.trail.search import Filters

__all__ = [
    "DEFAULT_LIMIT",
    "EpisodesView",
    "Page",
    "alert_of_episode",
    "alert_of_request",
    "alerts_active",
    "executions_recent",
    "read_episodes",
    "read_incidents",
    "recorded_alert",
    "st2_executions",
    "status",
    "why",
]


def status(connection: Connection, request_id: str, web_url: str = "") -> dict[str, Any] | None:
    """Return the whole trail of one request, or None if it is not recorded."""
    trail = request_trail(connection, request_id, web_url)
    return trail.as_json() if trail else None


def executions_recent(
    connection: Connection, filters: Filters = Filters(), limit: int = 20, offset: int = 0
) -> dict[str, Any]:
    """Return the newest requests. With filters on alerts, only those with a matching alert."""
    view = recent_requests(connection, filters, limit, offset).as_json("executions", "total")
    return _with_near_misses(view, "executions", filters, offset, connection, near_misses)


def alerts_active(
    connection: Connection,
    stale_after_hours: int,
    filters: Filters = Filters(),
    limit: int = 100,
    offset: int = 0,
) -> dict[str, Any]:
    """Return the open incidents, newest first.

    Open executions are shown as recorded. To judge the incidents by their current state, use
    read_incidents() and refresh.refresh_open_executions().
    """
    config = Config(stale_after_hours=stale_after_hours)
    return read_incidents(connection, filters, limit, offset, config).as_json()


def st2_executions(
    connection: Connection,
    status: str = "",
    filters: Filters = Filters(),
    limit: int = 20,
    offset: int = 0,
    web_url: str = "",
) -> dict[str, Any]:
    """Return the StackStorm executions that ran for alerts, most recently started first."""
    page = linked_executions(connection, status, filters, limit, offset, web_url)
    view = page.as_json("st2_executions", "count")
    find = partial(near_misses_of_executions, status=status)
    return _with_near_misses(view, "st2_executions", filters, offset, connection, find)


def why(
    connection: Connection,
    filters: Filters,
    limit: int = DEFAULT_LIMIT,
    offset: int = 0,
    web_url: str = "",
    config: Config | None = None,
) -> dict[str, Any]:
    """Return the episodes of the matching alerts, most recently seen first.

    Open executions are shown as recorded. To judge the episodes by their current state, use
    read_episodes() and refresh.refresh_open_executions().
    """
    return read_episodes(connection, filters, limit, offset, web_url, config).as_json()


def alert_of_request(
    connection: Connection, request_id: str, episode: str
) -> dict[str, Any] | None:
    """Return one alert with its labels and annotations, or None if it is not recorded."""
    details = alert_details(connection, request_id, episode)
    return details.as_json() if details else None


def recorded_alert(connection: Connection, request_id: str, episode: str) -> dict[str, Any]:
    """Return the result of alert_of_request().

    Raises:
        TrackingError: The alert is not recorded.
    """
    alert = alert_of_request(connection, request_id, episode)
    if alert is None:
        raise unknown_alert(request_id, episode)
    return alert


def alert_of_episode(connection: Connection, episode: str) -> dict[str, Any] | None:
    """Return the newest firing alert of an episode, or None if the episode is not recorded.

    Prefer an alert that was emitted; see alert.find_episode_alert(). `has_ended_work` says whether
    executions have worked on it and ended, so that nothing starts again for it.
    """
    details = find_episode_alert(connection, episode)
    if details is None:
        return None
    return {**details.as_json(), "has_ended_work": has_ended_work(connection, details)}


def _with_near_misses(
    view: dict[str, Any],
    rows_key: str,
    filters: Filters,
    offset: int,
    connection: Connection,
    find: Callable[[Connection, Filters], list[dict[str, Any]]],
) -> dict[str, Any]:
    """Return a view with the alerts that nearly match, if its first page has no rows."""
    if not needs_near_misses(view[rows_key], filters, offset):
        return view
    misses = find(connection, filters)
    return {**view, "near_misses": misses} if misses else view
