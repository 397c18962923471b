"""Check how far the clocks of the servers differ from the clock of this host."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Callable, Sequence

from poundcake.doctor.finding import Finding, ok, problem, unknown, warning
from poundcake.errors import PoundCakeError

# The times in HTTP headers are in whole seconds, and the request takes time too.
_TOLERANCE = timedelta(seconds=10)
# Signed webhooks and the search for executions allow no more.
_MAX_OFFSET = timedelta(minutes=5)


@dataclass(frozen=True)
class ClockReading:
    """The time by a server's clock, and the time by this host's clock when it was read.

    Attributes:
        name: The server, in words.
        remote: The time by the server's clock, or None if it is unknown.
        local: The time by this host's clock.
        error: Why the server's time is unknown, or ''.
    """

    name: str
    remote: datetime | None
    local: datetime
    error: str = ""


def read_clock(name: str, read: Callable[[], datetime | None]) -> ClockReading:
    """Read the clock of a server. An error becomes part of the reading."""
    before = datetime.now(timezone.utc)
    try:
        remote = read()
    except PoundCakeError as error:
        return ClockReading(name, None, before, str(error))
    local = before + (datetime.now(timezone.utc) - before) / 2
    return ClockReading(name, remote, local, "" if remote else "the server does not tell its time")


def check_clocks(readings: Sequence[ClockReading]) -> list[Finding]:
    """Check each reading."""
    return [_check_clock(reading) for reading in readings]


def _check_clock(reading: ClockReading) -> Finding:
    check = "clocks"
    if reading.remote is None:
        what = f"the clock of {reading.name} could not be read: {reading.error}"
        return unknown(check, what, "make the server answer, then run doctor again")
    offset = reading.remote - reading.local
    seconds = abs(offset.total_seconds())
    direction = "ahead of" if offset > timedelta(0) else "behind"
    what = f"the clock of {reading.name} is {seconds:.0f} s {direction} the clock of this host"
    remedy = "synchronize the clocks of both machines (chrony or ntpd)"
    if abs(offset) > _MAX_OFFSET:
        return problem(check, what, remedy)
    if abs(offset) > _TOLERANCE:
        return warning(check, what, remedy)
    return ok(check, f"the clock of {reading.name} agrees with that of this host")
