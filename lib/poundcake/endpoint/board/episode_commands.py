"""The commands that a person may run for an episode."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from poundcake.trail import commands
from poundcake.trail.execution_results import ExecutionResult
from poundcake.trail.outcomes import EMITTED
from poundcake.trail.queries.episode import FIRING

_AT_WORK = (ExecutionResult.RUNNING, ExecutionResult.WAITING)


def list_commands(episode: Mapping[str, Any], has_alertmanagers: bool) -> list[dict[str, str]]:
    """Return the commands that make sense for an episode in its state, each with its effect.

    The most useful ones come first.

    Args:
        episode: The episode, as the view why shows it.
        has_alertmanagers: Whether alerts can be silenced.
    """
    name = episode["episode"]
    found: list[tuple[str, str]] = []
    if episode["state"] == FIRING:
        found += _commands_for_incident(episode, has_alertmanagers)
    found.append(("Show this page in a terminal", commands.show_episode(name)))
    return [{"effect": effect, "text": text} for effect, text in found]


def _commands_for_incident(
    episode: Mapping[str, Any], has_alertmanagers: bool
) -> list[tuple[str, str]]:
    """Return the commands for an episode whose incident is open."""
    name = episode["episode"]
    at_work = any(row["result"] in _AT_WORK for row in episode["stackstorm_executions"])
    is_acknowledged = bool(episode.get("acknowledged_by") or episode.get("acknowledged_at"))
    is_silenced = bool(episode.get("silence_id"))
    found = []
    for approval in episode.get("approvals", ())[:1]:
        change = approval["change"] or "the change"
        found.append((f"Approve {change}", commands.for_episode("approve", name)))
        found.append((f"Reject {change}", commands.for_episode("approve", name, "reject=true")))
    if is_acknowledged:
        undo = commands.for_episode("acknowledge", name, "undo=true")
        found.append(("Withdraw the acknowledgement", undo))
    else:
        acknowledge = commands.for_episode("acknowledge", name)
        found.append(("Acknowledge it, so that nothing new is started for it", acknowledge))
    if is_silenced:
        found.append(("End the silence", commands.for_episode("unsilence", name)))
    found.append(("Show what would be done now", commands.plan(name)))
    if has_alertmanagers and not is_silenced:
        silence = commands.for_episode("silence", name, "minutes=60", "comment=by-hand")
        found.append(("Silence it in Alertmanager for an hour", silence))
    if not at_work:
        if any(claim["result"] == "claimed" for claim in episode.get("claims", ())):
            release = commands.for_episode("release", name)
            found.append(("Release it, so that another workflow may work on it", release))
        if not (is_acknowledged or is_silenced):
            replay = commands.replay(_deciding_request(episode["alerts"]))
            found.append(("Replay it: rules and remediations get the alert again", replay))
    close = commands.for_episode("close", name, "comment=ended")
    found.append(("Close it, if the alert has ended unnoticed", close))
    return found


def _deciding_request(notifications: Sequence[Mapping[str, Any]]) -> str:
    """Return the request of the newest firing notification, preferably one that was emitted."""
    firing = [row for row in notifications if row["status"] == FIRING] or notifications
    emitted = [row for row in firing if row["outcome"] in EMITTED]
    return str((emitted or firing)[-1]["request_id"])
