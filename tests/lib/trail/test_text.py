"""The text views are readable on a terminal, and no recorded text can control the terminal."""

from __future__ import annotations

import pytest

from poundcake.trail import text
from poundcake.trail.execution_results import ExecutionResult

# `st2 run` prints a backslash followed by an n as a line break; see unescape_like_st2().
HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\x08\x9b31m\u202e\nforged line\x00\\nforged\\r\\nline\u2028x"


def stats(**overrides):
    row = {
        "count": 5,
        "succeeded": 3,
        "failed": 1,
        "running": 1,
        "other": 0,
        "not_cleared": 2,
        "success_rate": 0.75,
        "mean_seconds": 1.5,
        "p95_seconds": None,
        "changed": 3,
        "results": dict(dict.fromkeys(ExecutionResult, 0), cleared=1, not_cleared=2, failed=1),
        "refusals": {},
        "help_rate": 0.3333,
        "mean_seconds_to_clear": 90.5,
    }
    admitted = ("admitted", "open", "cleared_by_themselves", "no_rule", "not_started", "lost")
    view = {
        "since": "2026-01-14T12:00:00Z",
        "until": "2026-01-15T12:00:00Z",
        "workflows": [dict(row, workflow="poundcake.host_down")],
        "alerts": [dict(row, alert_name="HostDown")],
        "totals": {**dict.fromkeys(admitted, 1), **row},
        "no_rule": [{"alert_name": "DiskFull", "count": 1, "last_at": "2026-01-15T11:00:00Z"}],
    }
    view.update(overrides)
    return view


TEXT_VIEWS = [
    text.stats(stats()),
    text.stats(stats(workflows=[], alerts=[])),
]


@pytest.mark.parametrize("output", TEXT_VIEWS)
def test_a_text_view_starts_on_a_new_line(output):
    assert output.startswith("\n") and not output.startswith("\n\n")
    assert not output.endswith("\n")
    assert all(line == line.rstrip() for line in output.split("\n"))


@pytest.mark.parametrize(
    "render",
    [
        lambda value: text.stats(
            stats(workflows=[dict(stats()["workflows"][0], workflow=value)]), 500
        ),
        lambda value: text.stats(stats(alerts=[dict(stats()["alerts"][0], alert_name=value)]), 500),
        lambda value: text.stats(
            stats(no_rule=[dict(stats()["no_rule"][0], alert_name=value)]), 500
        ),
    ],
)
def test_nothing_moves_the_cursor_or_forges_a_line(render):
    plain = unescape_like_st2(render("harmless"))
    hostile = unescape_like_st2(render(HOSTILE))
    assert "harmless" in plain and "forged line" in hostile
    for character in hostile:
        assert character == "\n" or character.isprintable()
    assert hostile.count("\n") == plain.count("\n")
    assert "\nforged" not in hostile


def unescape_like_st2(output):
    """Return what `st2 run` prints for a text: the result of st2client's strutil.unescape()."""
    return output.replace("\\n", "\n").replace("\\r", "\r").replace('\\"', '"')
