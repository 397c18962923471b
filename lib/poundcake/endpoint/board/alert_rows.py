"""What the pages show of an alert besides its row in a view: links, and the labels that matter."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from poundcake.config import Config
from poundcake.stackstorm.web_ui import inquiry_url
from poundcake.trail import commands
from poundcake.trail.queries.episode import shorten_text
from poundcake.urls import check_http_url

MAX_LABELS = 6
"""Maximum number of labels of an alert in a list."""
# The lengths to which a list cuts texts, in characters.
_MAX_LABEL = 60
_MAX_SUMMARY = 200
_MAX_HEADLINE = 400


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


def for_list(
    row: Mapping[str, Any], hidden: Mapping[str, str], max_labels: int = MAX_LABELS
) -> dict[str, Any]:
    """Return a row for a list, with fewer labels and shorter texts.

    Args:
        row: The row.
        hidden: The labels that are shown elsewhere.
        max_labels: The maximum number of labels.
    """
    others = {name: value for name, value in row["labels"].items() if name not in hidden}
    shown = list(others.items())[:max_labels]
    return {
        **row,
        "labels": {
            shorten_text(name, _MAX_LABEL): shorten_text(value, _MAX_LABEL) for name, value in shown
        },
        "labels_left_out": len(others) - len(shown) + row.get("labels_left_out", 0),
        "summary": shorten_text(row["summary"], _MAX_SUMMARY),
        "headline": shorten_text(row["headline"], _MAX_HEADLINE),
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
