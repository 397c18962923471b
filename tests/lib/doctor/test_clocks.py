"""Clocks that differ are found."""

from __future__ import annotations

from datetime import timedelta

import pytest

from poundcake.doctor.clocks import ClockReading, check_clocks, read_clock
from poundcake.doctor.finding import Status
from poundcake.errors import PoundCakeError
from poundcake.trail.clock import local_now
from tests.lib.samples import NOON, later


@pytest.mark.parametrize(
    "seconds, status",
    [(0, "ok"), (9, "ok"), (-9, "ok"), (11, "warning"), (-290, "warning"), (301, "problem")],
)
def test_the_offset_decides(seconds, status):
    (finding,) = check_clocks([ClockReading("the database", later(seconds), NOON)])
    assert finding.status == status
    assert "the clock of the database" in finding.what
    if status != "ok":
        assert f"{abs(seconds)} s {'ahead of' if seconds > 0 else 'behind'}" in finding.what
        assert "synchronize" in finding.remedy


def test_a_clock_that_cannot_be_read_is_unknown():
    def fail():
        raise PoundCakeError("connection refused")

    (finding,) = check_clocks([read_clock("StackStorm's API", fail)])
    assert finding.status is Status.UNKNOWN
    assert "connection refused" in finding.what
    (finding,) = check_clocks([read_clock("Prometheus", lambda: None)])
    assert finding.status is Status.UNKNOWN
    assert "does not tell its time" in finding.what


def test_a_reading_compares_with_the_time_at_which_it_was_read():
    reading = read_clock("x", lambda: local_now() + timedelta(hours=1))
    assert abs(reading.remote - reading.local - timedelta(hours=1)) < timedelta(seconds=5)
