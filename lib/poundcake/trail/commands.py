"""The `st2` commands that views suggest as the next step."""

from __future__ import annotations

import shlex

HEALTH = "st2 run poundcake.health format=text"
"""Shows the state of the endpoint and of everything that it depends on."""
DOCTOR = "st2 run poundcake.doctor format=text"
"""Checks everything that the installation needs."""
ACTIVE = "st2 run poundcake.alerts_active format=text"
"""Lists the open incidents."""
PLAN = "st2 run poundcake.plan format=text"
"""Checks every entry of `remediations`."""
RESUME = "st2 run poundcake.resume format=text"
"""Ends the pause of all changes."""


def for_episode(action: str, episode: str, *parameters: str) -> str:
    """Return the command that runs an action of the pack for an episode.

    Args:
        action: The name of the action.
        episode: The name of the episode.
        parameters: More parameters of the action, as `name=value`.
    """
    return " ".join([f"st2 run poundcake.{action} format=text episode={episode}", *parameters])


def show_episode(episode: str) -> str:
    """Return the command that shows what was done in an episode."""
    return f"st2 run poundcake.why format=text episode={episode}"


def plan(episode: str) -> str:
    """Return the command that shows what would be done for an episode now."""
    return f"st2 run poundcake.plan format=text episode={episode}"


def replay(request_id: str) -> str:
    """Return the command that replays a request, even if a workflow has worked on its alerts."""
    return f"st2 run poundcake.replay request_id={request_id} force=true"


def end_silence(silence_id: str) -> str:
    """Return the command that ends a silence in Alertmanager."""
    return f"st2 run poundcake.unsilence format=text silence_id={silence_id}"


def release_breaker(remediation: str) -> str:
    """Return the command that allows a remediation again that its breaker stops."""
    return f"st2 run poundcake.release format=text remediation={shlex.quote(remediation)}"


def answer_inquiry(inquiry_id: str) -> str:
    """Return the command that answers a request for approval."""
    return f"st2 inquiry respond {inquiry_id}"


def show_request(request_id: str) -> str:
    """Return the command that shows the trail of a request.

    The first 12 digits of its id, with a hyphen, identify it, and the command fits on a line.
    """
    return f"st2 run poundcake.status format=text request_id={request_id[:13]}"
