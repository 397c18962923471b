"""Lay out text for a terminal: tables, totals, ages, and the frame of a view.

All text in a view is sanitized first, because text from a sender or a host must not break the
layout.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Mapping, Sequence

from poundcake.inert import one_line
from poundcake.timestamps import parse_timestamp


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return the lines of a table, with each column as wide as its longest cell.

    Args:
        headings: The heading of each column.
        rows: The cells of each row; None is an empty cell.
    """
    lines = [[heading.upper() for heading in headings]]
    lines += [["" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines
    ]


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 alert", "2 alerts"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def format_total(view: Mapping[str, Any], key: str, noun: str) -> str:
    """Return how many rows a view has in total: "12 alerts", or "at least 1000 alerts"."""
    return f"{'at least ' if view.get('at_least') else ''}{counted(view[key], noun)}"


def footer_lines(view: Mapping[str, Any]) -> list[str]:
    """Return the hint for the next page and the problem with StackStorm's API, if any."""
    lines = [f"more: before={view['next']}"] if view.get("next") else []
    if view.get("stackstorm"):
        lines.append(f"stackstorm: {view['stackstorm']}")
    return lines


def format_age(moment: str, now: datetime) -> str:
    """Return how long ago a time was, for example "12 min ago"."""
    parsed_moment = parse_timestamp(moment)
    seconds = max(0, int((now - parsed_moment).total_seconds())) if parsed_moment else 0
    for unit, size, limit in (("s", 1, 90), ("min", 60, 90 * 60), ("h", 3600, 36 * 3600)):
        if seconds < limit:
            return f"{seconds // size} {unit} ago"
    return f"{counted(seconds // 86400, 'day')} ago"


def sanitize(value: Any) -> Any:
    """Return the view with all text made safe: it cannot move the cursor or forge a line."""
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, dict):
        return {key: sanitize(item) for key, item in value.items()}
    if isinstance(value, list):
        return [sanitize(item) for item in value]
    return value


def join_lines(lines: Sequence[str]) -> str:
    """Return the lines of a view as one text."""
    # `st2 run` prints "result: " before the first line, which would shift its columns.
    return "\n" + "\n".join(lines)
