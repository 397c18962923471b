"""The text views are readable on a terminal, and no recorded text can control the terminal."""

from __future__ import annotations

import pytest

from poundcake.trail import text
from tests.lib.samples import later

# `st2 run` prints a backslash followed by an n as a line break; see unescape_like_st2().
HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\x08\x9b31m\u202e\nforged line\x00\\nforged\\r\\nline\u2028x"


def alert(**overrides):
    view = {
        "request_id": "r",
        "received_at": "2026-01-14T12:00:00Z",
        "alert_name": "HostDown",
        "severity": "critical",
        "instance": "web-1",
        "status": "firing",
        "outcome": "admitted",
        "reason": "",
        "st2_workflow": "poundcake.host_down",
        "id": 1,
        "fingerprint": "f",
        "st2_rule": "",
        "labels": {},
        "summary": "",
        "runbook_url": "",
    }
    view.update(overrides)
    return view


def episode(**overrides):
    view = {
        "episode": "f-1",
        "fingerprint": "f",
        "alert_name": "HostDown",
        "severity": "critical",
        "instance": "web-1",
        "state": "firing",
        "starts_at": "2026-01-14T12:00:00Z",
        "ends_at": None,
        "last_seen_at": "2026-01-14T12:30:00Z",
        "notifications": 2,
        "alerts": [alert()],
        "stackstorm_executions": [],
    }
    view.update(overrides)
    return view


def why(*episodes, **overrides):
    answer = dict({"episodes": list(episodes), "count": len(episodes)}, **overrides)
    return text.why(answer, 24, later(3 * 3600 + 1800 + 59))


def execution(**overrides):
    view = {
        "st2_execution_id": "e",
        "st2_workflow": "poundcake.host_down",
        "st2_rule": "poundcake.host_down",
        "status": "succeeded",
        "duration_seconds": 1.5,
        "message": "done",
        "triggered_at": "2026-01-14T12:00:00Z",
        "request_id": "r",
        "alert": {"name": "HostDown", "severity": "critical", "instance": "web-1"},
        "alert_id": 1,
        "started_at": "2026-01-14T12:00:00.123456Z",
        "result": "changed",
        "action": "ipmi.power_cycle",
        "target": "web-1",
        "action_execution_id": "a",
        "reason": "",
    }
    view.update(overrides)
    return view


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
    why(episode(stackstorm_executions=[execution()])),
    why(episode(), episode(severity="", instance="", episode="", state="")),
    why(),
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
        lambda value: why(episode(alert_name=value, instance=value, severity=value, episode=value)),
        lambda value: why(episode(alerts=[alert(reason=value)])),
        lambda value: why(episode(stackstorm_executions=[execution(message=value)])),
        lambda value: why(stackstorm=value, next=value),
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


@pytest.mark.parametrize(
    "seconds, age",
    [
        (-5, "0 s ago"),
        (89, "89 s ago"),
        (90, "1 min ago"),
        (5399, "89 min ago"),
        (5400, "1 h ago"),
        (129_599, "35 h ago"),
        (129_600, "1 day ago"),
        (864_000, "10 days ago"),
    ],
)
def test_why_shows_the_time_of_the_last_notification(seconds, age):
    answer = {"episodes": [episode(last_seen_at="2026-01-14T12:00:00Z")], "count": 1}
    assert f"last notification {age}\n" in text.why(answer, 24, later(seconds))


def test_why_marks_a_stale_incident():
    answer = {"episodes": [episode(last_seen_at="2026-01-14T12:00:00Z")], "count": 1}
    assert "firing since" in text.why(answer, 2, later(7200))
    assert "firing (stale) since" in text.why(answer, 2, later(7201))
    answer["episodes"][0]["outcome"] = "rate_limited"
    assert "firing (rate limited, stale) since" in text.why(answer, 2, later(7201))
    answer["episodes"][0]["state"] = "resolved"
    assert "stale" not in text.why(answer, 2, later(7201))


def test_interventions_are_shown():
    entry = {
        "at": "2026-01-14T12:00:00Z",
        "action": "acknowledge",
        "st2_user": "anna",
        "execution_id": "e",
        "target": "f-1",
        "comment": "the disk\nis on order",
        "details": {"undo": True},
    }
    acknowledgement = {
        "acknowledged_by": "anna",
        "acknowledged_comment": "the disk is on order",
        "notes": "startsAt: not a time: 'x'",
    }
    closing = {"ended_by": "closed", "closed_by": "ben", "closed_comment": "gone"}
    output = why(episode(audit=[entry], outcome="unconfirmed", **acknowledgement, **closing))
    for line in (
        "firing (unconfirmed) since",
        "\n  acknowledged by anna: the disk is on order\n",
        "\n  closed by ben: gone\n",
        "\n  not read: startsAt: not a time: 'x'\n",
        "\n  2026-01-14T12:00:00Z  acknowledge (undone) by anna: the disk is on order\n",
    ):
        assert line in output
    assert "expired: no notification for" in why(episode(ended_by="expired"))


def test_why_shows_why_nothing_ran():
    assert "no rule matched" in why(episode(alerts=[alert(reason="no rule matched")]))
    assert "nothing ran for it" in why(episode())
    assert "no matching alert" in why()


def test_why_shows_the_notifications_and_executions_of_an_episode():
    assert why(
        episode(
            alerts=[
                alert(reason="new incident"),
                alert(outcome="duplicate", received_at="2026-01-14T12:30:00Z", request_id="s"),
            ],
            stackstorm_executions=[execution(), execution(status="running", duration_seconds=None)],
        ),
        at_least=True,
        next="2026-01-14T12:00:00Z/5/9",
    ).split("\n") == [
        "",
        "HostDown  web-1  critical  firing since 2026-01-14T12:00:00Z, seen 2 times,"
        " last notification 3 h ago",
        "  episode f-1",
        "  2026-01-14T12:00:00Z  firing: admitted, new incident",
        "    request r",
        "  2026-01-14T12:30:00Z  firing: duplicate",
        "    request s",
        "  poundcake.host_down (e): succeeded after 1.5 s, done",
        "  poundcake.host_down (e): running, done",
        "",
        "at least 1 episode",
        "more: before=2026-01-14T12:00:00Z/5/9",
    ]


@pytest.mark.parametrize(
    "overrides, expected_end",
    [
        (
            {"state": "resolved", "ends_at": "2026-01-14T12:40:00Z", "notifications": 1},
            "resolved at 2026-01-14T12:40:00Z, began at 2026-01-14T12:00:00Z, seen once",
        ),
        ({"state": "superseded"}, "superseded, began at 2026-01-14T12:00:00Z, seen 2 times"),
        ({"state": ""}, "not an incident"),
    ],
)
def test_why_shows_how_an_episode_ended(overrides, expected_end):
    heading = why(episode(**overrides)).split("\n")[1]
    assert heading == "HostDown  web-1  critical  " + expected_end


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


@pytest.mark.parametrize(
    "render, count_line, at_least",
    [
        (lambda overrides: why(episode(), **dict({"count": 7}, **overrides)), "7 episodes", True),
    ],
)
def test_a_list_shows_its_count_and_how_to_continue(render, count_line, at_least):
    assert render({}).split("\n")[-1] == count_line
    lines = render({"next": "CURSOR", "stackstorm": "unavailable"}).split("\n")
    assert lines[-3:] == [count_line, "more: before=CURSOR", "stackstorm: unavailable"]
    if at_least:
        assert render({"at_least": True}).split("\n")[-1] == "at least " + count_line


def test_an_empty_page_is_not_shown_as_an_empty_list():
    assert why().split("\n")[1:] == ["no matching alert is recorded"]
    assert why(at_least=True, next="CURSOR").split("\n")[1:] == [
        "none of the newest alerts matches",
        "more: before=CURSOR",
    ]


@pytest.mark.parametrize(
    "render, singular, plural",
    [
        (lambda n: why(episode(), count=n), "1 episode", "2 episodes"),
        (
            lambda n: why(episode(alerts_left_out=n)),
            "  1 more notification",
            "  2 more notifications",
        ),
    ],
)
def test_counts_use_the_singular_and_the_plural(render, singular, plural):
    assert singular in render(1).split("\n")
    assert plural in render(2).split("\n")


def test_omitted_rows_are_counted():
    assert "  5 more notifications" in why(episode(notifications=9, alerts_left_out=5)).split("\n")
    assert "more" not in why(episode(notifications=1))
