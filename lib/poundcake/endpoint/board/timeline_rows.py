"""The timeline of an episode, in which repeated notifications are folded."""

from __future__ import annotations

import re
from typing import Any, Iterator, Mapping, NamedTuple, Sequence

from poundcake.timestamps import parse_timestamp
from poundcake.trail.text.layout import format_elapsed

MIN_FOLDED = 3
"""The smallest number of notifications that are folded into one line."""
_NUMBER = re.compile(r"\d+")


class Timeline(NamedTuple):
    """The timeline of an episode.

    Attributes:
        rows: What happened, oldest first. A row is an event or, with the field `folded`, the events
            of notifications of the same kind in a row.
        left_out: How many more notifications there were that no row counts.
    """

    rows: list[dict[str, Any]]
    left_out: int


def build_timeline(episode: Mapping[str, Any]) -> Timeline:
    """Return the timeline of an episode, as the view why shows it."""
    groups = list(_split_by_kind(_list_events(episode)))
    left_out = episode.get("alerts_left_out", 0)
    rows: list[dict[str, Any]] = []
    for group in reversed(groups):
        is_repeat = len(group) > 1
        # The view lists only the newest notifications that changed nothing.
        unlisted = left_out if is_repeat else 0
        if is_repeat and len(group) + unlisted >= MIN_FOLDED:
            rows.append(_fold(group, unlisted))
            left_out -= unlisted
        else:
            rows += reversed(group)
    return Timeline(rows[::-1], left_out)


def _fold(events: Sequence[Mapping[str, Any]], unlisted: int) -> dict[str, Any]:
    """Return the row of notifications of the same kind."""
    first, last = events[0], events[-1]
    return {
        "id": f"repeats-{first['number']}",  # it stays the same while more notifications arrive
        "folded": events,
        "count": len(events) + unlisted,
        "unlisted": unlisted,
        "first_at": first["at"],
        "last_at": last["at"],
        # The unlisted ones came before the first listed one, at times that are not known here.
        "elapsed": "" if unlisted else first["elapsed"],
        "text": first["text"],
    }


def _list_events(episode: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the events, each with its number and the time since the previous event."""
    urls = {row["st2_execution_id"]: row["url"] for row in episode["stackstorm_executions"]}
    events = []
    previous = ""
    for number, event in enumerate(episode["timeline"], 1):
        moment = parse_timestamp(event["at"])
        elapsed = format_elapsed(previous, moment) if previous and moment else "0 s"
        execution_id = event.get("st2_execution_id", "")
        events.append(
            {
                **event,
                "number": number,
                "elapsed": "" if elapsed == "0 s" else elapsed,
                "request_id": event.get("request_id", ""),
                "execution_url": urls.get(execution_id, ""),
            }
        )
        previous = event["at"]
    return events


def _split_by_kind(events: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield the events in groups: notifications of the same kind in a row, or one other event."""
    group: list[dict[str, Any]] = []
    for event in events:
        if group and not (_kind_of(event) and _kind_of(event) == _kind_of(group[-1])):
            yield group
            group = []
        group.append(event)
    if group:
        yield group


def _kind_of(event: Mapping[str, Any]) -> str:
    """Return what a notification has in common with its repeats, or '' for another event."""
    return _NUMBER.sub("", event["text"]) if event["request_id"] else ""
