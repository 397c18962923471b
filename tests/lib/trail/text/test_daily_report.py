"""The text of the daily report fits a mail or a chat message, and each part is there if needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from poundcake.config import Config
from poundcake.trail import text
from poundcake.trail.daily_report import daily_report
from poundcake.trail.search import Filters
from tests.lib.recorded_day import record_day
from tests.lib.samples import NOON
from tests.lib.trails import database_time, view

GOLDEN = Path(__file__).parent / "golden_stats" / "daily_report.txt"


def read_report(engine):
    with database_time(NOON):
        return view(engine, daily_report, Filters(), Config())


def test_the_text_names_what_needs_attention_and_ends_with_the_next_commands(engine):
    record_day(engine)
    output = text.daily_report(read_report(engine), now=NOON)
    assert output == GOLDEN.read_text(encoding="utf-8").rstrip("\n")


@pytest.mark.parametrize("width", [40, 80])
def test_the_text_fits_the_width(engine, width):
    record_day(engine)
    lines = text.daily_report(read_report(engine), width, NOON).split("\n")
    assert max(len(line) for line in lines if "st2 run" not in line) <= width


def test_a_quiet_day_has_only_its_totals(engine):
    assert text.daily_report(read_report(engine), now=NOON).split("\n") == [
        "Last 24 h: 0 alerts admitted, nothing ran",
        "",
        "next: st2 run poundcake.stats format=text",
    ]


def test_text_of_an_alert_cannot_forge_a_line(engine):
    record_day(engine)
    report = read_report(engine)
    report["failed"]["items"][0]["message"] = "x\nWhat prevents changes now"
    lines = text.daily_report(report, now=NOON).split("\n")
    assert lines.count("What prevents changes now") == 1


def test_items_beyond_the_tenth_are_counted(engine):
    record_day(engine)
    report = read_report(engine)
    report["failed"] = {"count": 120, "items": report["failed"]["items"] * 100}
    lines = text.daily_report(report, now=NOON).split("\n")
    assert "Failed: 120" in lines and "  110 more" in lines
