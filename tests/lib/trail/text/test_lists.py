"""The lists show what was done, and what needs a person first."""

from __future__ import annotations

import pytest

from poundcake.trail import text
from tests.lib.samples import later
from tests.lib.trail.text.rows import active, alert, call, execution

NOW = later(3600)


def recent(*calls, **fields):
    return text.executions_recent({"executions": list(calls), "total": len(calls), **fields}, NOW)


def incidents(*rows, **fields):
    return text.alerts_active({"active_alerts": list(rows), "count": len(rows), **fields}, NOW)


def executions(*rows, **fields):
    return text.st2_executions({"st2_executions": list(rows), "count": len(rows), **fields}, NOW)


def names(output, *candidates):
    words = output.replace("\n", " ").split(" ")
    return [word for word in words if word in candidates]


def test_what_needs_a_person_comes_first_then_the_severity():
    rows = [
        active(alert_name="One", attention="handled"),
        active(alert_name="Two", attention="in_progress"),
        active(alert_name="Three", attention="needs_person", severity="info"),
        active(alert_name="Four", attention="needs_person", severity="Critical", fingerprint="d"),
    ]
    output = incidents(*rows)
    title = "4 active alerts: 2 waiting for a person, 1 in progress, 1 acknowledged or silenced"
    assert " ".join(output.split()).startswith(title)
    assert names(output, "One", "Two", "Three", "Four") == ["Four", "Three", "Two", "One"]
    assert output.split("\n")[-1] == "next: st2 run poundcake.why format=text fingerprint=d"


def test_the_labels_that_tell_alerts_apart_come_first():
    rows = [active(labels={"cluster": "eu-1", "pod": pod, "namespace": "x" * 90}) for pod in "ab"]
    lines = [line for line in incidents(*rows).split("\n") if "pod=" in line]
    assert [line[:26] for line in lines] == [
        "  pod=a cluster=eu-1 names",
        "  pod=b cluster=eu-1 names",
    ]


def test_a_long_list_has_two_lines_for_each_incident():
    rows = [active(labels={"pod": f"p{n}"}, summary="not ready") for n in range(11)]
    output = incidents(*rows)
    assert output.count("RUNNING  HostDown") == 11 and output.count("  pod=p") == 11
    assert "not ready" not in output and "not ready" in incidents(*rows[:10])
    assert "filter for at most 10 alerts" in output
    assert "filter for at most 10 alerts" not in incidents(*rows[:10])


def test_a_stale_incident_is_marked_once():
    assert ", stale\n" in incidents(active(stale=True))
    assert ", stale\n" not in incidents(active(stale=True, verdict="stale", title="STALE"))


def test_an_empty_list_says_what_that_means_and_what_to_do():
    health = "next: st2 run poundcake.health format=text"
    assert incidents().split("\n")[1:] == [
        "no active alerts: nothing is firing, or the filters exclude everything that is",
        health,
    ]
    assert "0 requests recorded that match" in recent() and recent().endswith(health)
    assert "0 executions: nothing ran for an alert that matches" in executions()
    output = incidents(count=3)
    assert "3 active alerts" in output and "no active" not in output


def test_the_end_of_a_search_is_not_shown_as_an_empty_list():
    fields = {"next": "CURSOR", "at_least": True}
    for output in (recent(**fields), executions(**fields)):
        assert "\nmore: before=CURSOR\n" in output
        assert "match" not in output


@pytest.mark.parametrize(
    "fields, text_of_alert",
    [
        ({}, "HostDown web-1 firing, admitted: no rule matched"),
        ({"outcome": "rate_limited"}, "HostDown web-1 firing, rate limited: no rule matched"),
        (
            {"acknowledged_by": "anna", "ended_by": "expired"},
            "no rule matched; acknowledged by anna; incident ended by expired",
        ),
        (
            {"result": "cleared", "action": "ipmi.cycle", "target": "web-1", "message": "ok"},
            "admitted: poundcake.host_down: changed, and the alert cleared: ipmi.cycle on web-1",
        ),
        (
            {"result": "refused", "action": "ipmi.cycle", "change_reason": "a storm"},
            "admitted: poundcake.host_down: refused, nothing changed: a storm",
        ),
    ],
)
def test_a_request_shows_what_was_done_for_each_alert(fields, text_of_alert):
    output = recent(call(alerts=[alert(reason="no rule matched", **fields)]))
    assert text_of_alert in " ".join(output.split())


def test_alerts_without_an_instance_show_their_labels():
    pods = [alert(instance="", labels={"namespace": "shop", "pod": pod}) for pod in "ab"]
    output = recent(call(alerts=pods))
    assert "HostDown pod=a namespace=shop  firing" in output
    assert "HostDown pod=b namespace=shop  firing" in output
    row = execution(alert={"name": "Pod", "severity": "", "instance": "", "labels": {"pod": "a"}})
    assert "\n  for Pod pod=a\n" in executions(row)


def test_omitted_alerts_are_counted():
    assert "\n  2 more alerts\n" in recent(call(alerts_left_out=2))
    assert "\n  1 more alert\n" in recent(call(alerts_left_out=1))
    assert "more" not in recent(call())


def test_the_next_command_shows_the_first_execution_in_trouble():
    fine = execution(st2_execution_id="fine", action_execution_id="")
    bad = execution(st2_execution_id="bad", action_execution_id="", result="not_cleared")
    assert executions(fine, bad).endswith("next: st2 execution get bad")
    assert executions(fine).endswith("next: st2 execution get fine")
