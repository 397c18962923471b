"""Format the statistics on remediations."""

from __future__ import annotations

from typing import Any

from poundcake.trail.text.layout import join_lines, sanitize, table
from poundcake.trail.text.near_misses import near_miss_lines


def stats(view: dict[str, Any]) -> str:
    """Format the statistics on remediations."""
    view = sanitize(view)
    lines = [f"{view['since']} to {view['until']}"]
    figures = ["count", "succeeded", "failed", "running", "other", "not_cleared"]
    figures += ["success_rate", "mean_seconds", "p95_seconds"]
    for key, rows in (("workflow", view["workflows"]), ("alert_name", view["alerts"])):
        headings = [name.replace("_", " ") for name in (key, *figures)]
        lines += ["", *table(headings, [[row[name] for name in (key, *figures)] for row in rows])]
    if not view["workflows"]:
        lines += ["", "nothing ran for an alert in that time"]
        lines += near_miss_lines(view)
    return join_lines(lines)
