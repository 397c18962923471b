"""Fields of a JSON answer. What is missing or has another form is empty, never an error."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from poundcake.timestamps import parse_timestamp


def value(answer: Any, *path: str) -> Any:
    """Return what stands under the keys of nested objects; None if something is in the way."""
    for key in path:
        if not isinstance(answer, dict):
            return None
        answer = answer.get(key)
    return answer


def text(answer: Any, *path: str) -> str:
    """Return a string; empty if there is none."""
    found = value(answer, *path)
    return found if isinstance(found, str) else ""


def moment(answer: Any, *path: str) -> datetime | None:
    """Return a timestamp; None if there is none, or it cannot be read."""
    try:
        return parse_timestamp(value(answer, *path))
    except ValueError:
        return None
