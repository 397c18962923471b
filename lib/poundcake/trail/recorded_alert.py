"""Find the alert that was recorded for an episode in a request."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.engine import Connection

from poundcake.trail.errors import TrackingError
from poundcake.trail.outcomes import EMITTED
from poundcake.trail.schema import alerts, api_calls


def find_alert(
    connection: Connection, request_id: str, episode: str, *columns: Any
) -> Row[Any] | None:
    """Return columns of the alert that a request contained for an episode, or None if it had none.

    Args:
        connection: A connection.
        request_id: The request that contained the alert.
        episode: The alert's episode.
        columns: What to return: columns of poundcake_alerts and poundcake_api_calls, or a whole
            table.
    """
    return connection.execute(
        select(*columns)
        .join_from(alerts, api_calls, api_calls.c.id == alerts.c.api_call_id)
        .where(api_calls.c.request_id == request_id, alerts.c.episode == episode)
        # One payload may contain an episode twice; prefer the alert that was emitted.
        .order_by(alerts.c.outcome.in_(EMITTED).desc(), alerts.c.id)
        .limit(1)
    ).one_or_none()


def read_alert(connection: Connection, request_id: str, episode: str, *columns: Any) -> Row[Any]:
    """Return the result of find_alert().

    Raises:
        TrackingError: The alert is not recorded.
    """
    alert = find_alert(connection, request_id, episode, *columns)
    if alert is None:
        raise unknown_alert(request_id, episode)
    return alert


def read_labels(connection: Connection, request_id: str, episode: str) -> dict[str, str]:
    """Return the labels of the result of find_alert(), as they were sent.

    Raises:
        TrackingError: The alert is not recorded.
    """
    labels: dict[str, str] = json.loads(
        read_alert(connection, request_id, episode, alerts.c.labels).labels
    )
    return labels


def unknown_alert(request_id: str, episode: str) -> TrackingError:
    """Return the error about an alert that is not recorded."""
    return TrackingError(f"no alert of episode {episode} in request {request_id} is recorded")
