"""The text views are readable on a terminal, and no recorded text can control the terminal."""

from __future__ import annotations

import pytest

from poundcake.trail import text

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
    }
    view = {
        "since": "2026-01-14T12:00:00Z",
        "until": "2026-01-15T12:00:00Z",
        "workflows": [dict(row, workflow="poundcake.host_down")],
        "alerts": [dict(row, alert_name="HostDown")],
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
        lambda value: text.stats(stats(workflows=[dict(stats()["workflows"][0], workflow=value)])),
        lambda value: text.stats(stats(alerts=[dict(stats()["alerts"][0], alert_name=value)])),
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


def test_stats_have_each_figure_in_its_column():
    lines = text.stats(stats()).split("\n")
    assert lines[1] == "2026-01-14T12:00:00Z to 2026-01-15T12:00:00Z"
    headings = "COUNT SUCCEEDED FAILED RUNNING OTHER NOT CLEARED SUCCESS RATE MEAN SECONDS"
    for name, row in (("WORKFLOW", "poundcake.host_down"), ("ALERT NAME", "HostDown")):
        (number,) = [n for n, line in enumerate(lines) if line.startswith(name)]
        assert lines[number].split() == (name + " " + headings + " P95 SECONDS").split()
        assert lines[number + 1].split() == [row, "5", "3", "1", "1", "0", "2", "0.75", "1.5"]
    assert "nothing ran" not in "".join(lines)
    assert "nothing ran" in text.stats(stats(workflows=[], alerts=[]))
