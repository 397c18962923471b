"""The text of each view starts on a new line, and no recorded text can control the terminal."""

from __future__ import annotations

import pytest

from poundcake.trail import text
from poundcake.trail.text.layout import MAX_WIDTH, display_width
from tests.lib.samples import later
from tests.lib.trail.text.rows import (
    active,
    alert,
    call,
    configuration,
    execution,
    health,
    refused_report,
    status,
)

# `st2 run` prints a backslash followed by an n as a line break; see unescape_like_st2().
HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\x08\x9b31m\u202e\nforged line\x00\\nforged\\r\\nline\u2028x"
NOW = later(3600)
TRICKY = [
    "中文" * 40,
    "x" * 300,
    "שרת " * 30,
    "a\u0336\u0336\u0336" * 90,
    "👩\u200d💻" * 50,
    HOSTILE,
]


def recent(*calls, **fields):
    return {"executions": list(calls), "total": len(calls), **fields}


def incidents(*rows, **fields):
    return {"active_alerts": list(rows), "count": len(rows), **fields}


def executions(*rows, **fields):
    return {"st2_executions": list(rows), "count": len(rows), **fields}


VIEWS = [
    (text.status, status()),
    (text.status, status(alerts=[], stackstorm_executions=[])),
    (text.executions_recent, recent(call(), call(alerts=[]))),
    (text.executions_recent, recent()),
    (text.alerts_active, incidents(active(stale=True))),
    (text.alerts_active, incidents()),
    (text.st2_executions, executions(execution())),
    (text.st2_executions, executions()),
    (text.health, health()),
    (text.health, health(configuration=configuration("kept", ["odd"]))),
]


@pytest.mark.parametrize("render, view", VIEWS)
def test_a_text_view_starts_on_a_new_line(render, view):
    output = render(view, NOW)
    assert output.startswith("\n") and not output.startswith("\n\n")
    assert not output.endswith("\n")
    assert all(line == line.rstrip() for line in output.split("\n"))
    assert "  next: " in output or "\nnext: " in output


HOSTILE_VIEWS = [
    lambda value: (
        text.status,
        status(receiver=value, error=value, blocked_by=value, stackstorm=value),
    ),
    lambda value: (
        text.status,
        status(alerts=[alert(alert_name=value, reason=value, instance=value)]),
    ),
    lambda value: (
        text.status,
        status(alerts=[alert(labels={value: value}, summary=value, runbook_url=value)]),
    ),
    lambda value: (
        text.status,
        status(
            stackstorm_executions=[execution(message=value, change_reason=value, result="failed")]
        ),
    ),
    lambda value: (
        text.executions_recent,
        recent(call(alerts=[alert(alert_name=value, instance=value, reason=value)])),
    ),
    lambda value: (
        text.alerts_active,
        incidents(active(alert_name=value, headline=value, labels={"a": value}, summary=value)),
    ),
    lambda value: (
        text.st2_executions,
        executions(
            execution(alert={"name": value, "instance": "", "labels": {"a": value}}, target=value)
        ),
    ),
    lambda value: (text.st2_executions, executions(execution(), next=value, stackstorm=value)),
    lambda value: (text.health, health(address=value)),
    lambda value: (
        text.health,
        health(components={"broker": {"state": "down", "since": "", "detail": value}}),
    ),
    lambda value: (text.health, health(refused=refused_report(value))),
]


@pytest.mark.parametrize("make_view", HOSTILE_VIEWS)
def test_nothing_moves_the_cursor_or_forges_a_line(make_view):
    def render(value):
        render_view, view = make_view(value)
        return unescape_like_st2(render_view(view, NOW, MAX_WIDTH))

    plain, hostile = render("harmless"), render(HOSTILE)
    assert "harmless" in plain and "forged line" in hostile
    for character in hostile:
        assert character == "\n" or character.isprintable()
    assert hostile.count("\n") == plain.count("\n")
    assert "\nforged" not in hostile


@pytest.mark.parametrize("make_view", HOSTILE_VIEWS)
@pytest.mark.parametrize("value", TRICKY)
@pytest.mark.parametrize("width", [40, 80, 120])
def test_every_line_fits(make_view, value, width):
    render_view, view = make_view(value)
    for line in render_view(view, NOW, width).split("\n"):
        assert display_width(line) <= width or line.lstrip().startswith(("next: st2", "st2 "))
        assert line.startswith((" ", "\u200e")) or "forged" not in line[:10]


@pytest.mark.parametrize("render, view", VIEWS)
def test_times_have_no_microseconds(render, view):
    assert ".123456" in str(view) or "received_at" not in str(view)
    assert ".123456" not in render(view, NOW)


def unescape_like_st2(output):
    """Return what `st2 run` prints for a text: the result of st2client's strutil.unescape()."""
    return output.replace("\\n", "\n").replace("\\r", "\r").replace('\\"', '"')


@pytest.mark.parametrize("blank", [" ", "\xa0", "\u2800", "\u3164", "\u115f", "\uffa0", "\u034f"])
def test_spaces_in_a_label_cannot_imitate_columns(blank):
    spaced_alert = alert(alert_name=f"HostDown{blank * 3}web-1{blank * 2}resolved")
    assert "HostDown web-1 resolved" in text.status(status(alerts=[spaced_alert]), NOW)


@pytest.mark.parametrize(
    "render, count",
    [
        (lambda view: text.executions_recent(recent(call(), **view), NOW), "7 requests recorded"),
        (lambda view: text.st2_executions(executions(execution(), **view), NOW), "7 executions"),
        (
            lambda view: text.alerts_active(incidents(active(), **view), NOW),
            "7 active alerts: 1 in progress",
        ),
    ],
)
def test_a_list_shows_its_count_and_how_to_continue(render, count):
    fields = {"count": 7, "total": 7}
    assert count in render(fields).split("\n")
    assert f"at least {count}" in render({**fields, "at_least": True}).split("\n")
    lines = render({**fields, "next": "CURSOR", "stackstorm": "unavailable"}).split("\n")
    assert lines[-3:-1] == ["more: before=CURSOR", "stackstorm: unavailable"]
    assert lines[-1].startswith("next: st2 ")


@pytest.mark.parametrize(
    "output",
    [
        text.status(status(alerts=[alert(alert_name="")])),
        text.executions_recent({"executions": [call(alerts=[alert(alert_name="")])], "total": 1}),
        text.alerts_active({"active_alerts": [active(alert_name="")], "count": 1}),
    ],
    ids=["status", "executions_recent", "alerts_active"],
)
def test_an_alert_without_a_name_is_shown_as_such(output):
    assert "(no name) web-1" in output
