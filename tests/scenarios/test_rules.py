"""Operators' own rules and workflows, and how the trail shows them.

One notification has an alert for each rule, so that all scenarios wait only once for the results
from StackStorm.
"""

from __future__ import annotations

import pytest

from tests.scenarios.notifications import alert, name_of, notification, unique

CASES = (
    "ScenarioPlain",
    "ScenarioFailing",
    "ScenarioMissing",
    "ScenarioSwitchedOff",
    "ScenarioRefused",
    "ScenarioUnrendered",
    "ScenarioUnmatched",
    "ScenarioSlow",
    "ScenarioCanceled",
)


@pytest.fixture(scope="module")
def ran(stack):
    """Return the trail of the notification, once it is complete."""
    alerts = [alert(name) for name in CASES]
    receiver = unique("scenario-webhook")
    request_id = stack.accepted(notification(*alerts, receiver=receiver))

    def to_cancel():
        executions = [stack.api("/executions/" + id_) for id_ in stack.traced(request_id)]
        return [
            e["id"]
            for e in executions
            if e["status"] == "running" and e.get("rule", {}).get("name") == "canceled"
        ]

    stack.api("/executions/" + stack.wait_until(to_cancel)[0], "DELETE")
    return stack.completed(request_id)


def shown_for(trail, name):
    """Return the alert with a name, and its executions."""
    matching = [a for a in trail["alerts"] if a["alert_name"].startswith(name)]
    assert len(matching) == 1 and matching[0]["outcome"] == "admitted"
    executions = trail["stackstorm_executions"]
    return matching[0], [e for e in executions if e["alert_id"] == matching[0]["id"]]


def test_a_workflow_without_a_link_task_is_in_the_trail(stack, ran):
    shown, executions = shown_for(ran, "ScenarioPlain")

    assert len(executions) == 1
    execution = executions[0]
    assert execution["st2_workflow"] == "poundcake_scenarios.plain"
    assert execution["st2_rule"] == "poundcake_scenarios.plain"
    assert execution["status"] == "succeeded"
    assert execution["duration_seconds"] > 0
    assert shown["st2_rule"] == "poundcake_scenarios.plain"
    assert shown["st2_workflow"] == "poundcake_scenarios.plain"
    assert shown["reason"] == "new incident"
    original = stack.api("/executions/" + execution["st2_execution_id"])
    assert original["action"]["ref"] == "poundcake_scenarios.plain"
    assert original["parameters"]["host"] == shown["instance"]


def test_a_failed_workflow_is_shown_with_its_reason(ran):
    """Case A10 of docs/CASES.md."""
    _, executions = shown_for(ran, "ScenarioFailing")

    assert len(executions) == 1
    assert executions[0]["st2_workflow"] == "poundcake_scenarios.failing"
    assert executions[0]["status"] == "failed"
    assert executions[0]["duration_seconds"] > 0
    assert "the spare disk is missing" in executions[0]["message"]


@pytest.mark.parametrize(
    "name, status", [("ScenarioSlow", "timeout"), ("ScenarioCanceled", "canceled")]
)
def test_timeout_and_cancellation_are_distinguished_from_failure(ran, name, status):
    """Case A10."""
    _, executions = shown_for(ran, name)

    assert [(e["st2_workflow"], e["status"]) for e in executions] == [
        ("poundcake_scenarios.slow", status)
    ]


@pytest.mark.parametrize(
    "name, rule, reason",
    [
        ("ScenarioMissing", "missing", "nowhere"),
        ("ScenarioSwitchedOff", "switched_off", "disabled"),
        ("ScenarioRefused", "refused", "rack"),
        ("ScenarioUnrendered", "unrendered", "rack"),
    ],
)
def test_a_rule_that_cannot_start_its_action_is_named_with_the_reason(
    stack, ran, name, rule, reason
):
    """Case A9: the alert is not emitted again."""
    shown, executions = shown_for(ran, name)

    assert "poundcake_scenarios." + rule in shown["reason"]
    assert reason in shown["reason"]
    assert shown["st2_rule"] == "poundcake_scenarios." + rule
    assert [e for e in executions if e["status"] != "failed"] == []
    instances = stack.listed(
        "/triggerinstances", trigger="poundcake.alert", timestamp_gt=ran["received_at"]
    )
    emitted = [i for i in instances if i["payload"]["episode"] == shown["episode"]]
    assert len(emitted) == 1


def test_an_alert_without_a_matching_rule_is_explained(ran):
    """Case A12."""
    shown, executions = shown_for(ran, "ScenarioUnmatched")

    assert shown["reason"] == "new incident; no rule matched"
    assert shown["st2_rule"] == "" and shown["st2_workflow"] == ""
    assert executions == []


def test_the_trigger_webhook_is_emitted_once_for_a_notification(stack, ran):
    def done():
        return stack.done(ran["request_id"])

    executions = stack.wait_until(done, lambda found: found and found[0]["status"] == "succeeded")
    assert len(executions) == 1
    assert executions[0]["rule"]["ref"] == "poundcake_scenarios.webhook"
    details = executions[0]["result"]["result"]["details"]
    assert details["group_status"] == "firing"
    assert int(details["alerts_received"]) == len(CASES)
    assert "admitted" in str(details["outcomes"])


def test_why_explains_each_alert(stack, ran):
    for name, explanation in (
        ("ScenarioPlain", "poundcake_scenarios.plain ("),
        ("ScenarioFailing", "): failed after "),
        ("ScenarioMissing", "firing: admitted, new incident; rule poundcake_scenarios.missing"),
        ("ScenarioUnmatched", "no rule matched\n    request"),
    ):
        shown, _ = shown_for(ran, name)
        text = stack.run("poundcake.why", alert_name=shown["alert_name"], format="text")
        assert explanation in text
        assert ran["request_id"] in text


def test_an_alert_that_never_fired_has_no_history(stack):
    never = name_of(alert("ScenarioNever"))
    assert stack.run("poundcake.why", alert_name=never) == {"episodes": [], "count": 0}
    text = stack.run("poundcake.why", alert_name=never, format="text")
    assert text.strip() == "no matching alert is recorded"


def test_a_workflow_with_an_inquiry_is_paused_until_it_is_answered(stack):
    firing = alert("ScenarioAsks")
    request_id = stack.accepted(notification(firing))

    def shown():
        trail = stack.run("poundcake.status", request_id=request_id, format="json")
        return trail["stackstorm_executions"]

    [waits] = stack.wait_until(shown, lambda found: [e["status"] for e in found] == ["paused"])
    assert waits["st2_workflow"] == "poundcake_scenarios.asks"
    why = stack.run("poundcake.why", fingerprint=firing["fingerprint"], format="json")
    assert why["episodes"][0]["stackstorm_executions"][0]["status"] == "paused"
    assert not stack.trail(request_id)["completed_at"]

    children = stack.listed("/executions", parent=waits["st2_execution_id"])
    [inquiry] = [e["id"] for e in children if e["action"]["ref"] == "core.ask"]
    answer = {"id": inquiry, "response": {"go_on": True}}
    stack.api("/inquiries/" + inquiry, "PUT", answer)
    # The view queries StackStorm. The tables follow later, because pending work is polled rarely.
    stack.wait_until(shown, lambda found: [e["status"] for e in found] == ["succeeded"])
    assert len(stack.done(why["episodes"][0]["episode"])) == 1
