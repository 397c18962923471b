"""What the pages show of an alert besides its row in a view: links, and the labels that matter."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from poundcake.config import Config
from poundcake.stackstorm.web_ui import inquiry_url
from poundcake.trail import commands
from poundcake.trail.queries.episode import shorten_text
from poundcake.urls import check_http_url

MAX_LABELS = 8
"""Maximum number of labels of an alert in a list."""
_MAX_LABEL = 60  # characters
_MAX_SUMMARY = 200


def shared_labels(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the labels that all rows have with the same value; none if there is only one row."""
    if len(rows) < 2:
        return {}
    first, *others = (row["labels"] for row in rows)
    return {
        name: value
        for name, value in first.items()
        if all(labels.get(name) == value for labels in others)
    }


def with_short_labels(row: Mapping[str, Any], hidden: Mapping[str, str]) -> dict[str, Any]:
    """Return a row for a list: with fewer and shorter labels, and a shorter summary.

    Args:
        row: The row.
        hidden: The labels that are shown elsewhere.
    """
    others = {name: value for name, value in row["labels"].items() if name not in hidden}
    shown = list(others.items())[:MAX_LABELS]
    return {
        **row,
        "labels": {name: shorten_text(value, _MAX_LABEL) for name, value in shown},
        "labels_left_out": len(others) - len(shown) + row.get("labels_left_out", 0),
        "summary": shorten_text(row["summary"], _MAX_SUMMARY),
    }


def approvals(row: Mapping[str, Any], config: Config) -> list[dict[str, Any]]:
    """Return the requests for approval of a row, each with the ways to answer it."""
    return [
        {
            **approval,
            "url": inquiry_url(config.st2_web_url, approval["st2_inquiry_id"]),
            "command": commands.answer_inquiry(approval["st2_inquiry_id"]),
        }
        for approval in row.get("approvals", ())
    ]


def safe_url(url: str) -> str:
    """Return a URL that a sender chose if it is safe to link to, or ''."""
    try:
        check_http_url(url)
    except ValueError:
        return ""
    return url
