"""Format the alerts that nearly matched the filters of a view."""

from __future__ import annotations

from typing import Any, Mapping

from poundcake.timestamps import parse_timestamp
from poundcake.trail.search import NO_VALUE


def near_miss_lines(view: Mapping[str, Any]) -> list[str]:
    """Return what nearly matched, or [] if the view does not say."""
    misses = view.get("near_misses")
    if not misses:
        return []
    unknown = [describe_near_miss(miss) for miss in misses if not miss.get("received_at")]
    nearest = [f"  {describe_near_miss(miss)}" for miss in misses if miss.get("received_at")]
    return [*unknown, *(["", "nearly matched:", *nearest] if nearest else [])]


def describe_near_miss(miss: Mapping[str, Any]) -> str:
    """Return an alert that nearly matched, and why it did not, or the value that no alert has."""
    reasons = "; ".join(map(_describe_exclusion, miss["excluded_by"]))
    received_at = parse_timestamp(miss.get("received_at"))
    if received_at is None:
        return reasons
    name = (
        " ".join(filter(None, (miss["alert_name"], miss["instance"]))) or "an alert without a name"
    )
    return f"{name} at {received_at:%Y-%m-%d %H:%M:%SZ}: {reasons}"


def _describe_exclusion(exclusion: Mapping[str, str]) -> str:
    name, given, found = exclusion["filter"], exclusion["given"], exclusion["found"]
    if name == "state":
        return "its incident has ended"
    if name == "executions":
        return "nothing ran for it"
    if name in ("since", "until"):
        return f"{'before' if name == 'since' else 'not before'} {name}={given}"
    if not found:
        return f"no alert has {name}={given}"
    if name in ("labels", "annotations"):
        return f"has {found}, not {given}"
    return f"{name} is {'empty' if found == NO_VALUE else found}, not {given}"
