"""Read fields of a JSON response. For a missing or malformed field, return an empty value."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from poundcake.timestamps import parse_timestamp


def value(response: Any, *path: str) -> Any:
    """Return the value at a path of keys in nested objects, or None if there is none."""
    for key in path:
        if not isinstance(response, dict):
            return None
        response = response.get(key)
    return response


def text(response: Any, *path: str) -> str:
    """Return the string at a path, or '' if there is none."""
    field = value(response, *path)
    return field if isinstance(field, str) else ""


def moment(response: Any, *path: str) -> datetime | None:
    """Return the timestamp at a path, or None if it is missing or malformed."""
    try:
        return parse_timestamp(value(response, *path))
    except ValueError:
        return None
