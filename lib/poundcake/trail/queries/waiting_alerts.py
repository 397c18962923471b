"""The alerts of requests that wait in the endpoint's journal, as the view why shows them."""

from __future__ import annotations

from typing import Any, Mapping

from poundcake.trail import commands
from poundcake.trail.queries.episode_verdict import EpisodeVerdict, Judgement


def waiting_alerts(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the alerts in an endpoint's list of waiting requests, each with its judgement.

    Args:
        document: The response of the route /api/v1/requests/waiting.
    """
    return [
        {
            **_judge(request).as_json(),
            "request_id": request["request_id"],
            "received_at": request["received_at"],
            "request_status": request["status"],
            "blocked_by": request["blocked_by"],
            **alert,
        }
        for request in document["requests"]
        for alert in request["alerts"]
    ]


def _judge(request: Mapping[str, Any]) -> Judgement:
    """Judge an alert that waits. Nothing can have run for it."""
    where = "the endpoint has it on disk"
    if request["status"] == "announced":
        where = "RabbitMQ has it, and StackStorm has not recorded it yet"
    reason = request["blocked_by"]
    step = "nothing to be done; if this takes several minutes, check the components"
    if reason:
        step = "repair that component; the request is then recorded automatically"
    if request["stuck"]:
        step = "correct what keeps it from being recorded; it is tried again every 10 minutes"
    return Judgement(
        EpisodeVerdict.WAITING_TO_BE_RECORDED,
        f"nothing can run for it yet; {where}" + (f"; {reason}" if reason else ""),
        step,
        commands.HEALTH,
    )
