"""RFC 3339 times, read as senders write them and written in one form."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import Any

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?" r"(?:[Zz]|([+-])(\d\d):(\d\d))\Z",
    re.ASCII,
)


def parse_timestamp(text: Any) -> datetime | None:
    """An RFC 3339 time, of any offset and with any number of decimals, as UTC.

    None for a missing one and for Go's zero time (year 1), which stands for "not set".
    Raises ValueError for anything else. datetime.fromisoformat of Python 3.8 to 3.10 refuses
    ``Z`` and nine decimals.
    """
    if text is None or text == "":
        return None
    match = _RFC3339.match(text) if isinstance(text, str) else None
    if not match:
        raise ValueError("an RFC 3339 time is expected, such as 2026-01-14T12:00:00Z")
    year, month, day, hour, minute, second = (int(n) for n in match.groups()[:6])
    micros = int((match.group(7) or "0")[:6].ljust(6, "0"))
    if year <= 1:
        return None
    try:
        # 60 is a leap second (RFC 3339, section 5.7).
        moment = datetime(year, month, day, hour, minute, min(second, 59), micros, timezone.utc)
        if match.group(8):
            hours, minutes = int(match.group(9)), int(match.group(10))
            if hours > 23 or minutes > 59:
                raise ValueError
            offset = timedelta(hours=hours, minutes=minutes)
            moment = moment - offset if match.group(8) == "+" else moment + offset
    except (ValueError, OverflowError):
        raise ValueError(f"no such time: {text}") from None
    if second > 60:
        raise ValueError(f"no such time: {text}")
    return moment


def format_timestamp(moment: datetime) -> str:
    """ISO 8601 in UTC with ``Z``, as every answer and trigger of the pack writes it."""
    return moment.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")
