"""The text of the view why shows what it is given, and no text of an alert can forge a line."""

from __future__ import annotations

import pytest

from poundcake.timestamps import parse_timestamp
from poundcake.trail import text
from poundcake.trail.clock import format_deadline
from poundcake.trail.text.layout import display_width
from tests.lib.samples import later
from tests.lib.trail.test_text import HOSTILE, unescape_like_st2
from tests.lib.trail.text.rows import alert

NOW = later(3 * 3600)


def episode(**overrides):
    view = {
        "verdict": "no_rule",
        "title": "NOTHING RAN",
        "headline": "no rule matches the alert",
        "next_step": "handle it by hand",
        "next_command": "st2 run poundcake.plan format=text episode=f-1",
        "next_at": None,
        "episode": "f-1",
        "fingerprint": "f",
        "alert_name": "HostDown",
        "severity": "critical",
        "instance": "web-1",
        "labels": {"team": "infra"},
        "summary": "web-1 is down",
        "runbook_url": "https://runbooks.example/host",
        "state": "firing",
        "starts_at": "2026-01-14T12:00:00.123456Z",
        "ends_at": None,
        "last_seen_at": "2026-01-14T12:30:00.123456Z",
        "notifications": 2,
        "alerts": [alert()],
        "stackstorm_executions": [],
        "timeline": [{"at": "2026-01-14T12:00:00.123456Z", "text": "firing: new incident"}],
    }
    view.update(overrides)
    return view


def waiting(**overrides):
    view = {
        "verdict": "waiting_to_be_recorded",
        "title": "WAITING TO BE RECORDED",
        "headline": "nothing can run for it yet",
        "next_step": "nothing to be done",
        "next_command": "",
        "next_at": None,
        "request_id": "r",
        "received_at": "2026-01-14T12:00:00.123456Z",
        "alert_name": "HostDown",
        "severity": "critical",
        "instance": "web-1",
        "labels": {},
        "summary": "",
        "runbook_url": "",
    }
    view.update(overrides)
    return view


def render(*episodes, width=80, **overrides):
    view = {"episodes": list(episodes), "count": len(episodes), **overrides}
    return text.why(view, NOW, width)


def lines_of(*episodes, **overrides):
    return render(*episodes, **overrides).split("\n")


def test_an_episode_has_its_verdict_first_and_its_command_last():
    assert lines_of(episode(), at_least=True, next="2026-01-14T12:00:00Z/5/9") == [
        "",
        "NOTHING RAN  HostDown  web-1  critical, firing for 2 h",
        "  no rule matches the alert",
        "  alert: web-1 is down",
        "  runbook: https://runbooks.example/host",
        "  labels: team=infra",
        "  12:00:00Z  firing: new incident",
        "  episode f-1",
        "  request r",
        "  next: handle it by hand",
        "  run: st2 run poundcake.plan format=text episode=f-1",
        "",
        "at least 1 episode",
        "more: before=2026-01-14T12:00:00Z/5/9",
    ]


@pytest.mark.parametrize("output", [render(episode()), render(), render(waiting=[waiting()])])
def test_the_text_starts_on_a_new_line(output):
    assert output.startswith("\n") and not output.startswith("\n\n")
    assert not output.endswith("\n")
    assert all(line == line.rstrip() for line in output.split("\n"))


@pytest.mark.parametrize(
    "make",
    [
        lambda value: render(episode(alert_name=value)),
        lambda value: render(episode(instance=value)),
        lambda value: render(episode(severity=value)),
        lambda value: render(episode(summary=value)),
        lambda value: render(episode(runbook_url=value)),
        lambda value: render(episode(labels={"team": value})),
        lambda value: render(episode(labels={value: "x"})),
        lambda value: render(episode(headline=value)),
        lambda value: render(episode(next_step=value)),
        lambda value: render(episode(timeline=[{"at": "2026-01-14T12:00:00Z", "text": value}])),
        lambda value: render(episode(approvals=[{"evidence": [value]}])),
        lambda value: render(episode(silence_id="s", silenced_by=value, silenced_comment=value)),
        lambda value: render(waiting=[waiting(alert_name=value, headline=value)]),
        lambda value: render(stackstorm=value),
        lambda value: render(endpoint=value),
    ],
)
@pytest.mark.parametrize("width", [40, 80])
def test_no_text_moves_the_cursor_or_forges_a_line(make, width):
    hostile = unescape_like_st2(make(HOSTILE))
    assert "forged line" in " ".join(hostile.split())
    for character in hostile:
        assert character == "\n" or character.isprintable()
    assert "\nforged" not in hostile
    assert all(display_width(line) <= 80 for line in hostile.split("\n"))


@pytest.mark.parametrize("length", range(20, 75))
@pytest.mark.parametrize("field", ["alert_name", "instance", "summary", "headline"])
def test_a_wrapped_text_cannot_imitate_a_line_of_the_view(field, length):
    command = "  run: st2 run poundcake.resume"
    value = "x" * length + " run: st2 run poundcake.resume"
    lines = lines_of(episode(**{field: value}))
    assert command not in lines
    assert sum(line.startswith("  run: ") for line in lines) == 1


def test_a_command_is_never_broken():
    command = "st2 run poundcake.replay request_id=" + "0" * 36 + " force=true"
    for width in (40, 80):
        (line,) = [
            line for line in lines_of(episode(next_command=command), width=width) if command in line
        ]
        assert line.strip() in (command, f"run: {command}")


def test_the_time_until_the_next_step_is_shown():
    lines = lines_of(episode(next_step="wait until 2026-01-14T15:26:00Z", next_command=""))
    assert lines[-3] == "  next: wait until 15:26:00Z (in 26 min)"
    lines = lines_of(episode(next_step="wait until 2026-01-14T14:26:00Z", next_command=""))
    assert lines[-3] == "  next: wait until 14:26:00Z"


@pytest.mark.parametrize(
    "overrides, expected",
    [
        ({"starts_at": "2026-01-14T14:59:30Z"}, "critical, firing for 30 s"),
        ({"severity": "", "starts_at": "2026-01-12T14:00:00Z"}, "firing for 2 days"),
        ({"state": "resolved", "ends_at": "2026-01-14T14:40:00Z"}, "critical, resolved 20 min ago"),
        ({"state": "superseded"}, "critical, superseded"),
        ({"state": ""}, "critical, received 2 h ago"),
    ],
)
def test_the_title_says_how_long_an_alert_fires_or_when_it_ended(overrides, expected):
    assert lines_of(episode(**overrides))[1] == f"NOTHING RAN  HostDown  web-1  {expected}"


def test_a_time_of_another_day_has_its_date():
    event = {"at": "2026-01-13T12:00:00.5Z", "text": "firing"}
    assert "  2026-01-13 12:00:00Z  firing" in lines_of(episode(timeline=[event]))


def test_the_timeline_does_not_repeat_the_headline():
    event = {"at": "2026-01-14T12:00:00Z", "text": "e failed: the cause; it is tried again"}
    lines = lines_of(episode(headline="the cause", timeline=[event]))
    assert "  12:00:00Z  e failed; it is tried again" in lines


def test_labels_beyond_three_lines_are_counted():
    labels = {f"label_{n}": "x" * 40 for n in range(8)}
    lines = lines_of(episode(labels=labels, labels_left_out=5))
    assert "  10 more labels" in lines
    assert "  1 more label" in lines_of(episode(labels={"team": "infra"}, labels_left_out=1))
    (start,) = [n for n, line in enumerate(lines) if line.startswith("  labels:")]
    assert lines[start + 3] == "  10 more labels"


def test_notifications_that_are_not_shown_are_counted():
    output = lines_of(episode(alerts_left_out=5))
    assert "  5 more notifications, the last one at 12:30:00Z" in output
    assert "  1 more notification, the last one at 12:30:00Z" in lines_of(
        episode(alerts_left_out=1)
    )
    assert "more" not in render(episode())


def test_remarks_that_the_headline_does_not_contain_are_shown():
    remark = "  acknowledged by anna: the disk is on order"
    fields = {"acknowledged_by": "anna", "acknowledged_comment": "the disk is on order"}
    assert remark in lines_of(episode(verdict="running", **fields))
    assert remark not in lines_of(episode(verdict="acknowledged", **fields))


def test_an_empty_answer_says_why():
    assert lines_of() == [
        "",
        "no matching alert is recorded",
        "next: st2 run poundcake.executions_recent format=text",
    ]
    assert lines_of(at_least=True, next="CURSOR") == [
        "",
        "none of the newest alerts matches",
        "more: before=CURSOR",
    ]
    lines = lines_of(waiting=[waiting()])
    assert lines[1] == "WAITING TO BE RECORDED  HostDown  web-1  critical, received 2 h ago"
    assert lines[-1] == "no other matching alert is recorded"
    assert render(endpoint="no answer").endswith(
        "\nrequests that wait to be recorded are not shown: no answer\n"
        "next: st2 run poundcake.health format=text"
    )


def test_an_event_that_equals_the_headline_is_shown():
    event = {"at": "2026-01-14T12:30:00Z", "text": "anna closed it: the host is gone"}
    fields = {"headline": event["text"], "timeline": [event]}
    assert "  12:30:00Z  anna closed it: the host is gone" in lines_of(episode(**fields))


def test_a_duration_stays_on_one_line():
    start = "poundcake.linux_service (6b0a0e7cab4d3b0143a66b81) ended as a dry run after"
    for width in range(60, 101):
        event = {"at": "2026-01-14T12:30:00Z", "text": f"{start} 1.1 s"}
        assert " 1.1 s" in render(episode(timeline=[event]), width=width)


def test_the_count_and_the_notes_come_last():
    lines = lines_of(episode(), count=7, next="CURSOR", stackstorm="unavailable")
    assert lines[-3:] == ["7 episodes", "more: before=CURSOR", "stackstorm: unavailable"]


def test_the_end_of_a_pause_is_the_same_as_in_a_refusal():
    until = "2026-01-14T12:30:00.123456Z"
    pause = {"by": "anna", "at": "2026-01-14T12:00:00Z", "until": until, "reason": "rack 12"}
    refusal = format_deadline(parse_timestamp(until))
    assert f" until {refusal[11:]}:" in lines_of(paused=pause)[1]


def test_a_pause_comes_first():
    pause = {"by": "anna", "at": "2026-01-14T12:00:00.123456Z", "until": None, "reason": "rack 12"}
    assert lines_of(paused=pause)[1:5] == [
        "PAUSED by anna at 12:00:00Z: rack 12",
        "  nothing is changed; to allow changes again:",
        "    st2 run poundcake.resume format=text",
        "",
    ]
