"""Parse RFC 3339 timestamps of any form and Date headers, and format times and durations."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(?P<fraction>\d+))?"
    r"(?:[Zz]|(?P<sign>[+-])(?P<hours>\d\d):(?P<minutes>\d\d))\Z",
    re.ASCII,
)
# Go's zero time is in the year 1. Alertmanager sends it for a time that is not set.
_ZERO_YEARS = ("0000", "0001")


def parse_timestamp(text: object) -> datetime | None:
    """Parse an RFC 3339 timestamp with any offset and any number of decimals, and return it in UTC.

    Before Python 3.11, ``datetime.fromisoformat`` rejects ``Z`` and nine decimals. Decimals beyond
    microseconds are truncated. A leap second (RFC 3339, section 5.7) becomes the second before it.

    Args:
        text: A value from a payload, of any type.

    Returns:
        The time, or None if the value is missing (null or an empty string) or is Go's zero time.

    Raises:
        ValueError: The value is not a timestamp, or is a time that does not exist.
    """
    if text is None or text == "":
        return None
    match = _RFC3339.match(text) if isinstance(text, str) else None
    if not match:
        raise ValueError("must be an RFC 3339 time such as 2026-01-14T12:00:00Z")
    if match[1] in _ZERO_YEARS:
        return None
    try:
        return _to_datetime(match)
    except (ValueError, OverflowError):
        raise ValueError(f"{text} does not exist") from None


def parse_http_date(text: object) -> datetime | None:
    """Return the time in a Date header, or None if it is missing or unreadable.

    Such a time is always in UTC (RFC 9110, section 5.6.7), also if its zone is missing.
    """
    from email.utils import parsedate_to_datetime  # most actions read no such header

    if not isinstance(text, str):
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):  # before Python 3.10, it is a TypeError
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def format_timestamp(moment: datetime) -> str:
    """Return a time as ISO 8601 in UTC with ``Z``, the format of every response and trigger."""
    return moment.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")


def format_duration(seconds: float) -> str:
    """Return a duration as people read it: "0.4 s", "12 s", "3 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 180 else f"{seconds / 60:.0f} min"


def _to_datetime(match: re.Match[str]) -> datetime:
    year, month, day, hour, minute, second = (int(digits) for digits in match.groups()[:6])
    if second > 60:
        raise ValueError
    microsecond = int((match["fraction"] or "0")[:6].ljust(6, "0"))
    second = min(second, 59)
    local_time = datetime(year, month, day, hour, minute, second, microsecond, timezone.utc)
    return local_time - _parse_offset(match)


def _parse_offset(match: re.Match[str]) -> timedelta:
    if not match["sign"]:
        return timedelta(0)
    hours, minutes = int(match["hours"]), int(match["minutes"])
    if hours > 23 or minutes > 59:
        raise ValueError
    offset = timedelta(hours=hours, minutes=minutes)
    return offset if match["sign"] == "+" else -offset
