"""Format the statistics on remediations."""

from __future__ import annotations

from typing import Any

from poundcake.trail.text.layout import DEFAULT_WIDTH, join_lines, sanitize, table
from poundcake.trail.text.near_misses import near_miss_lines


def stats(view: dict[str, Any], width: int = DEFAULT_WIDTH) -> str:
    """Format the statistics on remediations."""
    view = sanitize(view)
    lines = [f"{view['since']} to {view['until']}"]
    figures = ["count", "succeeded", "failed", "running", "other", "not_cleared"]
    figures += ["success_rate", "mean_seconds", "p95_seconds"]
    for key, rows in (("workflow", view["workflows"]), ("alert_name", view["alerts"])):
        headings = [name.replace("_", " ") for name in (key, *figures)]
        cells = [[row[name] for name in (key, *figures)] for row in rows]
        lines += ["", *table(headings, cells, width, fixed=headings[1:])]
    if not view["workflows"]:
        lines += ["", "nothing ran for an alert in that time"]
        lines += near_miss_lines(view)
    return join_lines(lines, width)
