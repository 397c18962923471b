"""Find the open incident that a person means, by the filters of the view why.

The actions for one alert take these filters as parameters besides the name of its episode.
"""

from __future__ import annotations

from typing import Any, Callable, Sequence

from sqlalchemy import ColumnElement, Row, select
from sqlalchemy.engine import Connection

from poundcake.trail import commands, short_ids
from poundcake.trail.alert_conditions import resolve
from poundcake.trail.errors import NoIncidentError, TrackingError
from poundcake.trail.index_ranges import has_prefix
from poundcake.trail.label_matchers import find_matching, has_id
from poundcake.trail.open_work import is_open
from poundcake.trail.schema import alerts
from poundcake.trail.search import Filters

MAX_LISTED_INCIDENTS = 5
"""Maximum number of incidents that the error about an ambiguous choice lists."""
# Maximum number of candidates to which a matcher is applied.
_MAX_CANDIDATES = 1000
_FILTER_COLUMNS = ("alert_name", "instance", "severity", "fingerprint")
_COLUMNS = (
    alerts.c.id,
    alerts.c.episode,
    alerts.c.alert_name,
    alerts.c.instance,
    alerts.c.acknowledged_at,
)

CommandFor = Callable[[str], str]
"""Returns the command for an episode, which an error suggests."""


def identifies_incident(filters: Filters) -> bool:
    """Return True if one of the filters identifies an incident, as its episode does."""
    names = ("episode", "request_id", "labels", *_FILTER_COLUMNS)
    return any(getattr(filters, name) for name in names)


def find_open_incident(
    connection: Connection,
    filters: Filters,
    command_for: CommandFor,
    for_update: bool = False,
) -> Row[Any]:
    """Return the columns id, episode, alert_name, instance and acknowledged_at of an open incident.

    Args:
        connection: A transaction.
        filters: Filters on its alert. The beginning of the episode's name suffices.
        command_for: Returns the command for an episode, in case several incidents match.
        for_update: Whether to lock its row.

    Raises:
        NoIncidentError: No open incident matches.
        TrackingError: More than one open incident matches, or no filter identifies one.
        FilterError: A short id is ambiguous.
    """
    if not identifies_incident(filters):
        raise TrackingError("identify the incident: pass episode, or alert_name, instance, …")
    statement = (
        select(*_COLUMNS)
        .where(*_conditions(connection, filters, is_open()))
        .order_by(alerts.c.id)
        .limit(MAX_LISTED_INCIDENTS + 1)
    )
    rows = connection.execute(statement.with_for_update() if for_update else statement).all()
    rows = [row for row in rows if row.episode == filters.episode] or rows
    if not rows:
        raise NoIncidentError(f"no open incident matches; list them: {commands.ACTIVE}")
    if len(rows) > 1:
        listed = list_candidates(rows, command_for)
        raise TrackingError(f"more than one open incident matches; choose one: {listed}")
    return rows[0]


def find_matching_episodes(
    connection: Connection, filters: Filters, episodes: Sequence[str]
) -> set[str]:
    """Return which of these episodes match the filters, whether their incidents are open or not.

    Raises:
        FilterError: A short id is ambiguous.
    """
    is_listed = alerts.c.episode.in_(episodes)
    conditions = _conditions(connection, filters, is_listed)
    return set(connection.scalars(select(alerts.c.episode).where(*conditions)))


def list_candidates(rows: Sequence[Row[Any]], command_for: CommandFor) -> str:
    """Return the name of the alert of each incident, with the command for it.

    Args:
        rows: The incidents, with at least the columns episode, alert_name and instance.
        command_for: Returns the command for an episode.
    """
    listed = [f"{_name_of(row)}: {command_for(row.episode)}" for row in rows[:MAX_LISTED_INCIDENTS]]
    others = "; and others" if len(rows) > MAX_LISTED_INCIDENTS else ""
    return f"{'; '.join(listed)}{others}"


def command_for_episode(action: str, *parameters: str, comment: str = "") -> CommandFor:
    """Return a function that returns the command to run an action of the pack for an episode.

    Args:
        action: The name of the action.
        parameters: More parameters of the action, as `name=value`. Empty ones are left out.
        comment: The comment that the person passed. The command has a placeholder for it, because
            an error cannot contain the quotes that it needs.
    """
    placeholder = "comment=…" if comment else ""
    kept = [parameter for parameter in (*parameters, placeholder) if parameter]
    return lambda episode: commands.for_episode(action, episode, *kept)


def _conditions(
    connection: Connection, filters: Filters, is_candidate: ColumnElement[bool]
) -> list[ColumnElement[bool]]:
    """Return the conditions for the candidates whose alert matches the filters."""
    # Only candidates count here, so the episode's name may be shorter than in the views.
    alert_conditions = resolve(connection, filters.without_episode())
    conditions = [
        is_candidate,
        *alert_conditions.on_columns(lambda name: alerts.c[name], _FILTER_COLUMNS),
    ]
    if filters.episode:
        conditions += _begins_with(filters.episode)
    if alert_conditions.call_id is not None:
        # A repeat belongs to the incident that an earlier request opened.
        notified = alerts.alias("notified")
        episodes = select(notified.c.episode).where(
            notified.c.api_call_id == alert_conditions.call_id
        )
        conditions.append(alerts.c.episode.in_(episodes))
    if alert_conditions.has_matchers:
        candidate_ids = select(alerts.c.id).where(*conditions).limit(_MAX_CANDIDATES)
        ids = connection.scalars(candidate_ids).all()
        conditions.append(has_id(alerts.c.id, find_matching(connection, ids, alert_conditions).ids))
    return conditions


def _begins_with(episode: str) -> list[ColumnElement[bool]]:
    """Return the conditions for the episodes that begin with a text."""
    if len(episode) < short_ids.MIN_CHARACTERS:
        return [alerts.c.episode == episode]
    return has_prefix(alerts.c.episode, episode)


def _name_of(row: Row[Any]) -> str:
    return " ".join(filter(None, (row.alert_name or "(no name)", row.instance)))
