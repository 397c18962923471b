"""Read fields of a JSON response. A missing or malformed field becomes empty, not an error."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from poundcake.timestamps import parse_timestamp


def value(answer: Any, *path: str) -> Any:
    """Return the value at a path of keys in nested objects, or None if there is none."""
    for key in path:
        if not isinstance(answer, dict):
            return None
        answer = answer.get(key)
    return answer


def text(answer: Any, *path: str) -> str:
    """Return the string at a path, or '' if there is none."""
    field = value(answer, *path)
    return field if isinstance(field, str) else ""


def moment(answer: Any, *path: str) -> datetime | None:
    """Return the timestamp at a path, or None if it is missing or malformed."""
    try:
        return parse_timestamp(value(answer, *path))
    except ValueError:
        return None
