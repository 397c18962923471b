"""The text of the statistics: the totals first, and everything within the width."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from poundcake.trail import stats, text
from poundcake.trail.search import Filters
from tests.lib.recorded_day import record_day
from tests.lib.samples import NOON
from tests.lib.trails import database_time, view

GOLDEN = Path(__file__).parent / "golden_stats"


@pytest.fixture
def read_day(engine):
    """Return a function that reads the statistics of a recorded day."""
    record_day(engine)

    def read(**query):
        with database_time(NOON):
            return view(engine, stats.stats, Filters(**query), 15)

    return read


def test_the_text_begins_with_the_totals_and_ends_with_a_command(read_day):
    output = text.stats(read_day(), now=NOON)
    assert output == "\n" + (GOLDEN / "stats.txt").read_text(encoding="utf-8").rstrip("\n")


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_text_fits_the_width(read_day, width):
    lines = text.stats(read_day(), width, NOON).split("\n")
    assert max(len(line) for line in lines if "st2 run" not in line) <= width


@pytest.mark.parametrize(
    "since, until, expected",
    [
        (timedelta(seconds=20), timedelta(0), "Last 20 s: "),
        (timedelta(hours=1), timedelta(0), "Last 1 h: "),
        (timedelta(minutes=90), timedelta(0), "Last 90 min: "),
        (timedelta(days=1), timedelta(0), "Last 24 h: "),
        (timedelta(days=7), timedelta(0), "Last 7 days: "),
        (timedelta(days=2), timedelta(days=1), "2026-01-12 12:00Z to 2026-01-13 12:00Z: "),
    ],
)
def test_the_first_line_names_the_time_range(read_day, since, until, expected):
    found = read_day(since=NOON - since, until=NOON - until)
    assert text.stats(found, now=NOON).startswith("\n" + expected)


def test_an_empty_time_range_says_so(read_day):
    found = read_day(since=NOON - timedelta(days=9), until=NOON - timedelta(days=8))
    output = text.stats(found, now=NOON)
    assert "0 alerts admitted, nothing ran" in output
    assert "nothing ran for an alert in that time" in output


def test_names_beyond_the_tenth_are_counted(read_day):
    found = read_day()
    found["no_rule"] = [
        {"alert_name": f"A{n}", "count": 1, "last_at": "2026-01-14T10:30:00Z"} for n in range(15)
    ]
    lines = text.stats(found, now=NOON).split("\n")
    assert "5 more" in lines and not any(line.startswith("A10") for line in lines)


def test_the_command_quotes_the_name_of_an_alert(read_day):
    found = read_day()
    found["no_rule"][0]["alert_name"] = "Disk full; reboot"
    assert text.stats(found, now=NOON).endswith("alert_name='Disk full; reboot'")
