"""The trail shows the results of operators' rules and workflows.

One notification has an alert for each rule, so that all scenarios wait for StackStorm only once.
"""

from __future__ import annotations

import pytest

from tests.scenarios.notifications import alert, name_of, notification, unique

ALERT_NAMES = (
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
def trail(stack):
    """Return the trail of the notification, once it is complete."""
    alerts = [alert(name) for name in ALERT_NAMES]
    receiver = unique("scenario-webhook")
    request_id = stack.send(notification(*alerts, receiver=receiver))

    def running_ids():
        executions = [
            stack.api("/executions/" + id_) for id_ in stack.traced_execution_ids(request_id)
        ]
        return [
            e["id"]
            for e in executions
            if e["status"] == "running" and e.get("rule", {}).get("name") == "canceled"
        ]

    stack.api("/executions/" + stack.wait_until(running_ids)[0], "DELETE")
    return stack.wait_until_completed(request_id)


def find_alert_and_executions(trail, name):
    """Return the only alert whose name starts with `name`, and its executions."""
    matching = [a for a in trail["alerts"] if a["alert_name"].startswith(name)]
    assert len(matching) == 1 and matching[0]["outcome"] == "admitted"
    executions = trail["stackstorm_executions"]
    return matching[0], [e for e in executions if e["alert_id"] == matching[0]["id"]]


def test_a_workflow_without_a_link_task_is_in_the_trail(stack, trail):
    alert_view, executions = find_alert_and_executions(trail, "ScenarioPlain")

    assert len(executions) == 1
    execution = executions[0]
    assert execution["st2_workflow"] == "poundcake_scenarios.plain"
    assert execution["st2_rule"] == "poundcake_scenarios.plain"
    assert execution["status"] == "succeeded"
    assert execution["duration_seconds"] > 0
    assert alert_view["st2_rule"] == "poundcake_scenarios.plain"
    assert alert_view["st2_workflow"] == "poundcake_scenarios.plain"
    assert alert_view["reason"] == "new incident"
    execution_document = stack.api("/executions/" + execution["st2_execution_id"])
    assert execution_document["action"]["ref"] == "poundcake_scenarios.plain"
    assert execution_document["parameters"]["host"] == alert_view["instance"]


def test_a_failed_workflow_is_shown_with_its_reason(trail):
    """Case A10 of docs/CASES.md."""
    _, executions = find_alert_and_executions(trail, "ScenarioFailing")

    assert len(executions) == 1
    assert executions[0]["st2_workflow"] == "poundcake_scenarios.failing"
    assert executions[0]["status"] == "failed"
    assert executions[0]["duration_seconds"] > 0
    assert "the spare disk is missing" in executions[0]["message"]


@pytest.mark.parametrize(
    "name, status", [("ScenarioSlow", "timeout"), ("ScenarioCanceled", "canceled")]
)
def test_timeout_and_cancellation_are_distinguished_from_failure(trail, name, status):
    """Case A10."""
    _, executions = find_alert_and_executions(trail, name)

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
def test_the_reason_names_a_rule_that_cannot_start_its_action(stack, trail, name, rule, reason):
    """Case A9: the alert is not emitted again."""
    alert_view, executions = find_alert_and_executions(trail, name)

    assert "poundcake_scenarios." + rule in alert_view["reason"]
    assert reason in alert_view["reason"]
    assert alert_view["st2_rule"] == "poundcake_scenarios." + rule
    assert [e for e in executions if e["status"] != "failed"] == []
    instances = stack.list_all(
        "/triggerinstances", trigger="poundcake.alert", timestamp_gt=trail["received_at"]
    )
    emitted = [i for i in instances if i["payload"]["episode"] == alert_view["episode"]]
    assert len(emitted) == 1


def test_an_alert_without_a_matching_rule_is_explained(trail):
    """Case A12."""
    alert_view, executions = find_alert_and_executions(trail, "ScenarioUnmatched")

    assert alert_view["reason"] == "new incident; no rule matched"
    assert alert_view["st2_rule"] == "" and alert_view["st2_workflow"] == ""
    assert executions == []


def test_the_trigger_webhook_is_emitted_once_for_a_notification(stack, trail):
    def work_executions():
        return stack.work_executions(trail["request_id"])

    executions = stack.wait_until(
        work_executions, lambda executions: executions and executions[0]["status"] == "succeeded"
    )
    assert len(executions) == 1
    assert executions[0]["rule"]["ref"] == "poundcake_scenarios.webhook"
    details = executions[0]["result"]["result"]["details"]
    assert details["group_status"] == "firing"
    assert int(details["alerts_received"]) == len(ALERT_NAMES)
    assert "admitted" in str(details["outcomes"])


def test_why_explains_each_alert(stack, trail):
    for name, explanation in (
        ("ScenarioPlain", "poundcake_scenarios.plain ("),
        ("ScenarioFailing", ") failed after "),
    ):
        alert_view, _ = find_alert_and_executions(trail, name)
        text = stack.run("poundcake.why", alert_name=alert_view["alert_name"], format="text")
        assert explanation in " ".join(text.split())
        assert trail["request_id"] in text


def test_an_alert_that_never_fired_has_no_history(stack):
    unused_name = name_of(alert("ScenarioNever"))
    answer = stack.run("poundcake.why", alert_name=unused_name)
    assert (answer["episodes"], answer["count"]) == ([], 0)
    text = stack.run("poundcake.why", alert_name=unused_name, format="text")
    assert text.strip().startswith("no matching alert is recorded")


def test_a_workflow_with_an_inquiry_is_paused_until_it_is_answered(stack):
    firing_alert = alert("ScenarioAsks")
    request_id = stack.send(notification(firing_alert))

    def shown_executions():
        trail = stack.run("poundcake.status", request_id=request_id, format="json")
        return trail["stackstorm_executions"]

    [paused_execution] = stack.wait_until(
        shown_executions, lambda executions: [e["status"] for e in executions] == ["paused"]
    )
    assert paused_execution["st2_workflow"] == "poundcake_scenarios.asks"
    why = stack.run("poundcake.why", fingerprint=firing_alert["fingerprint"], format="json")
    assert why["episodes"][0]["stackstorm_executions"][0]["status"] == "paused"
    assert not stack.get_trail(request_id)["completed_at"]

    children = stack.list_all("/executions", parent=paused_execution["st2_execution_id"])
    [inquiry_id] = [e["id"] for e in children if e["action"]["ref"] == "core.ask"]
    body = {"id": inquiry_id, "response": {"go_on": True}}
    stack.api("/inquiries/" + inquiry_id, "PUT", body)
    # The view queries StackStorm. The tables are updated later: sync rarely polls waiting work.
    stack.wait_until(
        shown_executions, lambda executions: [e["status"] for e in executions] == ["succeeded"]
    )
    assert len(stack.work_executions(why["episodes"][0]["episode"])) == 1
