"""The text of a request says what became of it, what ran for each alert, and what to do."""

from __future__ import annotations

import pytest

from poundcake.trail import text
from tests.lib.samples import later
from tests.lib.trail.text.rows import alert, execution, status

NOW = later(3600)


def render(**overrides):
    return text.status(status(**overrides), NOW)


def first_sentence(output):
    return " ".join(output.split("received ")[0].split())


@pytest.mark.parametrize(
    "overrides, sentence",
    [
        ({}, "request r is running: 1 alert, 1 execution: changed"),
        (
            {"stackstorm_executions": []},
            "request r is running: 1 alert, and nothing has run yet",
        ),
        (
            {"stackstorm_executions": [], "completed_at": "x", "status": "completed"},
            "request r is completed: 1 alert, and nothing ran",
        ),
        (
            {"stackstorm_executions": [execution(), execution(), execution(result="failed")]},
            "request r is running: 1 alert, 3 executions: 2 changed; 1 failed",
        ),
        (
            {"status": "failed", "error": "no database"},
            "request r is failed: its alerts could not be recorded: no database",
        ),
        (
            {"status": "accepted", "blocked_by": "broker is down", "alerts": []},
            "request r is accepted: it waits in the endpoint's journal: broker is down",
        ),
        (
            {"status": "accepted", "alerts": []},
            "request r is accepted: it is in the endpoint's journal, and not recorded yet",
        ),
    ],
)
def test_the_first_line_says_what_became_of_the_request(overrides, sentence):
    assert first_sentence(render(**overrides)) == sentence


def test_the_times_of_a_request_are_shown():
    lines = render(completed_at="2026-01-14T12:01:00.5Z").split("\n")
    assert "received 12:00:00Z (59 min ago) by poundcake, completed 12:01:00Z" in lines


@pytest.mark.parametrize(
    "overrides, command",
    [
        ({}, "st2 run poundcake.why format=text fingerprint=f"),
        ({"alerts": [], "status": "accepted"}, "st2 run poundcake.health format=text"),
        ({"status": "failed", "error": "x"}, "st2 run poundcake.health format=text"),
        ({"alerts": [alert(status="resolved")]}, "st2 run poundcake.alerts_active format=text"),
        ({"alerts": [alert(fingerprint="a; rm")]}, "st2 run poundcake.alerts_active format=text"),
        ({"stackstorm_executions": [execution(result="failed")]}, "st2 execution get a"),
        (
            {"stackstorm_executions": [execution(result="unknown", action_execution_id="")]},
            "st2 execution get e",
        ),
    ],
)
def test_the_last_line_is_the_next_command(overrides, command):
    assert render(**overrides).split("\n")[-1] == f"next: {command}"


def test_an_alert_shows_what_it_says_about_itself():
    described = alert(
        summary="web-1 is down",
        labels={"team": "infra"},
        labels_left_out=3,
        runbook_url="https://r.example",
        st2_rule="pack.rule",
    )
    assert (
        "HostDown web-1  critical, firing\n"
        "  web-1 is down\n"
        "  team=infra, 3 more labels\n"
        "  runbook https://r.example\n"
        "  admitted; rule pack.rule\n"
    ) in render(alerts=[described])


def test_with_many_alerts_only_their_outcomes_are_shown():
    output = render(alerts=[alert(summary="web-1 is down", id=n) for n in range(21)])
    assert output.count("HostDown web-1") == 21 and "web-1 is down" not in output


def test_only_alerts_that_were_emitted_may_have_run_nothing():
    assert "nothing has run for it yet" in render(stackstorm_executions=[]).split("web-1")[1]
    repeat = alert(outcome="duplicate", reason="duplicate of q")
    output = render(alerts=[repeat], stackstorm_executions=[], completed_at="x")
    assert "nothing" not in output.split("HostDown")[1]
    assert "  duplicate, duplicate of q\n" in output


def test_each_alert_shows_its_own_executions():
    rows = [execution(st2_execution_id="one"), execution(st2_execution_id="two", alert_id=2)]
    output = render(alerts=[alert(), alert(id=2, alert_name="Other")], stackstorm_executions=rows)
    first, second = output.split("Other web-1")
    assert "(one)" in first and "(two)" not in first
    assert "(two)" in second and "(one)" not in second


def test_a_refused_change_says_why_and_when_it_is_tried_again():
    refused = execution(result="refused", change_reason="max_changes_per_hour is 1")
    change = {"st2_execution_id": "e", "retry_at": "2026-01-14T13:10:00Z"}
    output = render(stackstorm_executions=[refused], changes=[change])
    assert "    refused, nothing changed: max_changes_per_hour is 1\n" in output
    assert "    it is tried again after 13:10:00Z\n" in output


def test_a_failed_action_is_named_once():
    reason = "ipmi.power_cycle ended with status failed: no route to host"
    failed = execution(result="failed", change_reason=reason)
    output = render(stackstorm_executions=[failed])
    assert "    failed: ipmi.power_cycle on web-1: no route to host\n" in output


def test_a_dry_run_is_noted_once():
    message = "dry run: nothing was changed. would run x"
    row = execution(result="dry_run", message=message, action="", target="")
    assert "    dry run: nothing was changed: would run x\n" in render(stackstorm_executions=[row])


def test_an_approval_is_answered_with_the_next_command():
    command = "st2 inquiry respond 6b07571f6f1ddeba7bba81d1"
    waiting = execution(result="waiting", message=f"waits for the approval of anna: {command}")
    output = render(stackstorm_executions=[waiting])
    assert output.split("\n")[-1] == f"next: {command}"


def test_people_and_other_requests_are_named():
    entry = {
        "at": "2026-01-14T12:00:00.5Z",
        "action": "acknowledge",
        "st2_user": "anna",
        "execution_id": "e",
        "target": "f-1",
        "comment": "the disk\nis on order",
        "details": {},
    }
    output = render(
        audit=[entry],
        alerts=[alert(acknowledged_by="anna", acknowledged_comment="on order")],
        replay_of="q",
        credential="prometheus",
    )
    assert "\n12:00:00Z  acknowledge by anna: the disk is on order\n" in output
    assert "\n  acknowledged by anna: on order\n" in output
    assert "\nreplay of: q\n" in output and "\ncredential: prometheus\n" in output
    assert "replay" not in render()


@pytest.mark.parametrize("count, alerts", [(1, "1 alert"), (2, "2 alerts")])
def test_left_out_alerts_are_counted(count, alerts):
    lines = render(truncated_alerts=count).split("\n")
    assert f"Alertmanager left out {alerts} of this group" in lines
