"""People can pause all changes, and resume them."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import select

from poundcake.trail import database, queries, search, text
from poundcake.trail.audit import Actor
from poundcake.trail.errors import TrackingError
from poundcake.trail.health import add_pause
from poundcake.trail.pause import Pause, pause, read_pause, resume
from poundcake.trail.schema import audit
from poundcake.trail.text.confirmations import confirm_pause
from tests.lib.samples import NOON, alert, later
from tests.lib.trails import database_time, on_sqlite, record, view

ANNA, BEN = Actor("anna", "e-anna"), Actor("ben", "e-ben")


def read_current_pause(engine, at=0):
    with database_time(later(at)), database.reading(engine) as connection:
        return read_pause(connection)


def pause_at_time(engine, actor=ANNA, reason="maintenance", minutes=0, at=0):
    with database_time(later(at)):
        return pause(engine, actor, reason, minutes)


def read_audit(engine):
    with database.reading(engine) as connection:
        return [
            (row.action, row.st2_user, row.comment, json.loads(row.details))
            for row in connection.execute(select(audit).order_by(audit.c.id))
        ]


def test_a_pause_lasts_until_changes_are_resumed(engine):
    assert read_current_pause(engine) is None
    assert pause_at_time(engine) == Pause(NOON, "anna", "maintenance")
    assert read_current_pause(engine, 86_400) == Pause(NOON, "anna", "maintenance")
    assert resume(engine, BEN) == Pause(NOON, "anna", "maintenance")
    assert read_current_pause(engine) is None
    assert read_audit(engine) == [
        ("pause", "anna", "maintenance", {"until": ""}),
        ("resume", "ben", "", {}),
    ]


def test_a_pause_with_an_end_ends_automatically(engine):
    assert pause_at_time(engine, minutes=5).until == later(300)
    assert read_current_pause(engine, 299).reason == "maintenance"
    assert read_current_pause(engine, 300) is None
    with database_time(later(301)):
        assert resume(engine, ANNA) is None


def test_resuming_without_a_pause_does_nothing(engine):
    assert resume(engine, ANNA) is None
    assert read_audit(engine) == []


@pytest.mark.parametrize(
    "first, second, until",
    [(0, 5, None), (5, 0, None), (60, 5, later(3600)), (5, 60, later(10 + 3600))],
)
def test_a_second_pause_never_shortens_the_first(engine, first, second, until):
    pause_at_time(engine, minutes=first)
    second_pause = pause_at_time(engine, BEN, "more", second, at=10)
    assert second_pause == read_current_pause(engine, 11) == Pause(NOON, "ben", "more", until)
    requested_end = later(10 + second * 60) if second else None
    assert second_pause.has_later_end == (until != requested_end)


def test_a_first_pause_ends_as_requested_if_the_database_has_another_clock(engine):
    for seconds in (-3600, 3600):
        with database_time(later(seconds)):
            first_pause = pause(engine, ANNA, "maintenance", 5)
            text = confirm_pause(first_pause.as_json(), first_pause.has_later_end).as_text()
            resume(engine, ANNA)
        assert "were already paused" not in text


@on_sqlite
def test_a_pause_needs_a_reason(engine):
    with pytest.raises(TrackingError, match="reason"):
        pause(engine, ANNA, "  ")


@on_sqlite
def test_a_long_reason_is_truncated(engine):
    assert pause_at_time(engine, reason="x" * 400).reason == "x" * 255
    assert read_audit(engine)[0][2] == "x" * 400


@on_sqlite
def test_the_views_show_the_pause_at_the_top(engine):
    record(engine, alert(fingerprint="f"))
    why = {"filters": search.parse(alert_name="HostDown")}
    assert "paused" not in view(engine, queries.why, **why)
    pause_at_time(engine, minutes=7 * 24 * 60 * 52)
    expected = {
        "at": "2026-01-14T12:00:00Z",
        "by": "anna",
        "reason": "maintenance",
        "until": "2027-01-13T12:00:00Z",
    }
    episodes = view(engine, queries.why, **why)
    active = view(engine, queries.alerts_active, stale_after_hours=24)
    health = add_pause({"status": "ok"}, engine)
    assert episodes["paused"] == active["paused"] == health["paused"] == expected
    line = "PAUSED by anna at 2026-01-14 12:00:00Z until 2027-01-13 12:00:00Z: maintenance"
    for page in (text.why(episodes), text.alerts_active(active)):
        assert page.splitlines()[1] == line
        assert page.splitlines()[3].endswith("st2 run poundcake.resume format=text")
    assert text.why(view(engine, queries.why, filters=search.parse(alert_name="x"))).startswith(
        "\nPAUSED"
    )
