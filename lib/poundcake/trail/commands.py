"""The `st2` commands that views suggest as the next step."""

from __future__ import annotations

HEALTH = "st2 run poundcake.health format=text"
"""Shows the state of the endpoint and of everything that it depends on."""


def show_request(request_id: str) -> str:
    """Return the command that shows the trail of a request.

    The first 12 digits of its id, with a hyphen, identify it, and the command fits on a line.
    """
    return f"st2 run poundcake.status format=text request_id={request_id[:13]}"
