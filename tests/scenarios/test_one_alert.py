"""One alert, from its first notification: it fires, is repeated, ends, and fires again."""

from __future__ import annotations

import os
import threading
import uuid

import pytest

from tests.scenarios.notifications import ago, alert, name_of, notification, resolved, unique
from tests.scenarios.stack import ActionFailed

UUID_LENGTH = 36


def only(elements):
    """Return the only element of a list."""
    assert len(elements) == 1, elements
    return elements[0]


def has_succeeded(trail):
    """Return True if the trail has one execution, and it succeeded."""
    return [e["status"] for e in trail["stackstorm_executions"]] == ["succeeded"]


def remediate(stack, firing_alert):
    """Post an alert, wait until its only workflow succeeds, and return the trail."""
    request_id = stack.send(notification(firing_alert))
    return stack.wait_for_trail(request_id, has_succeeded)


def test_a_firing_alert_is_recorded_and_remediated_under_its_request_id(stack):
    """Cases A1 and A21 of docs/CASES.md: a join of the tables returns the whole trail."""
    firing_alert = alert(
        "ScenarioLinked", labels={"severity": "warning"}, startsAt="2026-01-14T12:00:00Z"
    )
    response = stack.post(notification(firing_alert, receiver="web\\.hook"))

    assert response.status_code == 202
    request_id = response.json()["request_id"]
    assert response.json() == {
        "status": "accepted",
        "request_id": request_id,
        "alerts_received": 1,
        "message": "1 alert accepted",
    }
    assert response.headers["X-Request-ID"] == request_id and len(request_id) == UUID_LENGTH

    trail = stack.wait_for_trail(request_id, has_succeeded)
    assert trail["request_id"] == request_id
    assert trail["receiver"] == "web\\.hook"
    assert trail["received_at"].endswith("Z")
    assert trail["truncated_alerts"] == 0
    alert_view = only(trail["alerts"])
    assert alert_view.pop("id") > 0
    assert alert_view == {
        "fingerprint": firing_alert["fingerprint"],
        "episode": firing_alert["fingerprint"] + "-1768392000000",
        "alert_name": name_of(firing_alert),
        "severity": "warning",
        "instance": firing_alert["labels"]["instance"],
        "labels": {"job": firing_alert["labels"]["job"]},
        "summary": firing_alert["annotations"]["summary"],
        "runbook_url": "",
        "status": "firing",
        "outcome": "admitted",
        "reason": alert_view["reason"],
        "starts_at": "2026-01-14T12:00:00Z",
        "ends_at": None,
        "st2_rule": alert_view["st2_rule"],
        "st2_workflow": "poundcake_scenarios.linked",
    }
    # StackStorm's part of the reason is complete when the request is completed.
    assert alert_view["reason"].startswith("new incident")
    execution = only(trail["stackstorm_executions"])
    assert execution["st2_workflow"] == "poundcake_scenarios.linked"
    assert execution["duration_seconds"] > 0
    assert execution["started_at"] < execution["ended_at"]
    assert execution["stage"] == "done"

    # The endpoint starts the rounds of sync.
    trail = stack.wait_for_trail(request_id, lambda t: t["completed_at"])
    assert trail["status"] == "completed"
    assert only(trail["alerts"])["reason"] == "new incident"
    assert only(trail["alerts"])["st2_rule"] == "poundcake_scenarios.linked"
    assert only(trail["stackstorm_executions"])["st2_rule"] == "poundcake_scenarios.linked"

    # StackStorm has the same data.
    assert execution["st2_execution_id"] in stack.traced_execution_ids(request_id)
    execution_document = stack.api("/executions/" + execution["st2_execution_id"])
    assert execution_document["status"] == "succeeded"
    assert execution_document["rule"]["ref"] == "poundcake_scenarios.linked"
    assert execution_document["context"]["trace_context"]["trace_tag"] == request_id
    assert len(stack.work_executions(only(trail["alerts"])["episode"])) == 1

    row = only(
        stack.rows(
            """SELECT c.method, c.path, c.status_code, c.headers, a.alert_name, a.outcome,
                   a.open_fingerprint, l.st2_rule_ref, l.st2_action_ref, l.st2_execution_id,
                   e.status, e.action
               FROM poundcake_api_calls c
               JOIN poundcake_alerts a ON a.api_call_id = c.id
               JOIN poundcake_st2_execution_link l ON l.alert_id = a.id
               JOIN execution_db e ON e.id = l.st2_execution_id
               WHERE c.request_id = :id""",
            id=trail["request_id"],
        )
    )
    headers = row.pop("headers")
    assert "application/json" in headers
    assert row == {
        "method": "POST",
        "path": "/api/v1/webhook",
        "status_code": 202,
        "alert_name": name_of(firing_alert),
        "outcome": "admitted",
        "open_fingerprint": firing_alert["fingerprint"],
        "st2_rule_ref": "poundcake_scenarios.linked",
        "st2_action_ref": "poundcake_scenarios.linked",
        "st2_execution_id": only(trail["stackstorm_executions"])["st2_execution_id"],
        "status": "succeeded",
        "action": "poundcake_scenarios.linked",
    }


def test_a_repeated_notification_starts_nothing(stack):
    """Case A2."""
    firing_alert = alert("ScenarioLinked")
    first_trail = remediate(stack, firing_alert)
    repeat_trail = stack.wait_until_recorded(stack.send(notification(firing_alert)))

    assert repeat_trail["request_id"] != first_trail["request_id"]
    assert repeat_trail["status"] == "completed" and repeat_trail["completed_at"]
    alert_view = only(repeat_trail["alerts"])
    assert alert_view["outcome"] == "duplicate"
    assert alert_view["reason"] == "duplicate of " + first_trail["request_id"]
    assert alert_view["episode"] == only(first_trail["alerts"])["episode"]
    assert repeat_trail["stackstorm_executions"] == []
    incident = only(stack.active_alerts(name_of(firing_alert)))
    assert incident["notifications"] == 2
    assert incident["request_id"] == first_trail["request_id"]
    assert incident["episode"] == alert_view["episode"]
    assert incident["stale"] is False
    assert len(stack.work_executions(alert_view["episode"])) == 1


def test_a_resolved_alert_starts_only_the_rule_for_resolved_alerts(stack):
    """Case A3."""
    firing_alert = alert("ScenarioLinked")
    first_trail = remediate(stack, firing_alert)
    assert len(stack.active_alerts(name_of(firing_alert))) == 1

    resolved_alert = resolved(firing_alert)
    trail = stack.wait_for_trail(stack.send(notification(resolved_alert)), has_succeeded)
    alert_view = only(trail["alerts"])
    assert alert_view["status"] == "resolved"
    assert alert_view["outcome"] == "resolved"
    assert alert_view["episode"] == only(first_trail["alerts"])["episode"]
    assert alert_view["ends_at"] == resolved_alert["endsAt"].replace("Z", "000Z")
    assert only(trail["stackstorm_executions"])["st2_workflow"] == "poundcake_scenarios.cleared"
    assert stack.active_alerts(name_of(firing_alert)) == []

    # The resolve arrives again, as if from another Alertmanager of the cluster.
    repeat_trail = stack.wait_until_recorded(stack.send(notification(resolved_alert)))
    assert only(repeat_trail["alerts"])["outcome"] == "duplicate"
    assert only(repeat_trail["alerts"])["reason"] == "no open incident"
    assert repeat_trail["stackstorm_executions"] == []

    work = stack.work_executions(alert_view["episode"])
    workflows = [stack.api("/executions/" + e["parent"])["action"]["ref"] for e in work]
    assert sorted(workflows) == ["poundcake_scenarios.cleared", "poundcake_scenarios.linked"]


def test_an_alert_that_fires_again_after_its_resolve_is_a_new_episode(stack):
    """Case A4."""
    firing_alert = alert("ScenarioLinked", minutes=20)
    first_trail = remediate(stack, firing_alert)
    resolve_trail = stack.wait_until_recorded(
        stack.send(notification(resolved(firing_alert, minutes=10)))
    )
    second_trail = remediate(stack, dict(firing_alert, startsAt=ago(3)))

    episodes = [
        only(trail["alerts"])["episode"] for trail in (first_trail, resolve_trail, second_trail)
    ]
    assert episodes[0] == episodes[1] != episodes[2]
    assert only(second_trail["alerts"])["outcome"] == "admitted"
    executions = [
        only(t["stackstorm_executions"])["st2_execution_id"] for t in (first_trail, second_trail)
    ]
    assert executions[0] != executions[1]
    assert only(stack.active_alerts(name_of(firing_alert)))["episode"] == episodes[2]

    history = stack.run("poundcake.why", alert_name=name_of(firing_alert))
    assert history["count"] == 2
    alerts = [[(a["request_id"], a["outcome"]) for a in e["alerts"]] for e in history["episodes"]]
    assert alerts == [
        [(second_trail["request_id"], "admitted")],
        [(first_trail["request_id"], "admitted"), (resolve_trail["request_id"], "resolved")],
    ]


def test_an_alert_that_fires_shortly_after_its_resolve_is_unconfirmed(stack):
    """Case A24: the alert may be a stale copy from another Alertmanager."""
    firing_alert = alert("ScenarioLinked")
    first_trail = remediate(stack, firing_alert)
    stack.wait_until_completed(stack.send(notification(resolved(firing_alert))))
    for _ in range(2):
        repeat_trail = stack.wait_until_recorded(stack.send(notification(firing_alert)))
        assert only(repeat_trail["alerts"])["outcome"] == "unconfirmed"
        assert only(repeat_trail["alerts"])["reason"].startswith("fires ")
        assert repeat_trail["stackstorm_executions"] == []
    incident = only(stack.active_alerts(name_of(firing_alert)))
    assert (incident["outcome"], incident["notifications"]) == ("unconfirmed", 2)
    assert incident["episode"] != only(first_trail["alerts"])["episode"]
    text = stack.run("poundcake.why", alert_name=name_of(firing_alert), format="text")
    assert "HELD BACK: UNCONFIRMED" in text

    # The resolve from the other Alertmanager closes the incident, and no rule is notified.
    resolve_trail = stack.wait_until_recorded(stack.send(notification(resolved(firing_alert))))
    assert only(resolve_trail["alerts"])["outcome"] == "unconfirmed"
    assert resolve_trail["status"] == "completed" and resolve_trail["stackstorm_executions"] == []
    assert stack.active_alerts(name_of(firing_alert)) == []


def test_an_unconfirmed_alert_is_admitted_after_six_minutes(stack):
    """Case A24."""
    if not stack.is_live and not os.environ.get("POUNDCAKE_SLOW"):
        pytest.skip("takes six minutes (POUNDCAKE_SLOW=1); see tests/lib/trail/test_confirm.py")
    firing_alert = alert("ScenarioLinked")
    stack.wait_until_completed(stack.send(notification(firing_alert)))
    stack.wait_until_completed(stack.send(notification(resolved(firing_alert))))
    unconfirmed_trail = stack.wait_until_recorded(stack.send(notification(firing_alert)))
    episode = only(unconfirmed_trail["alerts"])["episode"]
    incident = only(
        stack.wait_until(
            lambda: stack.active_alerts(name_of(firing_alert)),
            lambda incidents: "outcome" not in incidents[0],
            500,
        )
    )
    trail = stack.wait_until_completed(incident["request_id"])
    assert trail["replay_of"] == unconfirmed_trail["request_id"]
    assert (incident["episode"], len(stack.work_executions(episode))) == (episode, 1)


def test_only_labels_identify_an_alert(stack):
    """Case A25: fingerprints and clocks do not.

    A relay sends three instances with the same fingerprint. One of two redundant Prometheus servers
    reports an earlier start than the other. One start is missing, another is in the future, and one
    end comes from a clock that is behind.
    """
    name = unique("ScenarioUnmatched")
    relayed_alerts = [
        dict(alert("any", labels={"alertname": name}), fingerprint="3f1dc6a0b7e94d52")
        for _ in range(3)
    ]
    redundant_alert = alert("ScenarioUnmatched", minutes=5)
    undated_alert = alert("ScenarioUnmatched", startsAt=None)
    future_alert = alert("ScenarioUnmatched", startsAt="2999-01-01T00:00:00Z")
    trail = stack.wait_until_recorded(
        stack.send(notification(*relayed_alerts, redundant_alert, undated_alert, future_alert))
    )
    assert [a["outcome"] for a in trail["alerts"]] == ["admitted"] * 6
    assert trail["alerts"][5]["starts_at"] == trail["received_at"]
    assert "in the future" in trail["alerts"][5]["notes"]

    second_trail = stack.wait_until_recorded(
        stack.send(
            notification(
                resolved(relayed_alerts[2]),
                dict(redundant_alert, startsAt=ago(9)),
                resolved(undated_alert, minutes=60),
                dict(future_alert, status="resolved"),
            )
        )
    )
    outcomes = [a["outcome"] for a in second_trail["alerts"]]
    assert outcomes == ["resolved", "duplicate", "resolved", "resolved"]
    open_instances = {a["instance"] for a in stack.active_alerts(name)}
    assert open_instances == {a["labels"]["instance"] for a in relayed_alerts[:2]}
    assert second_trail["alerts"][1]["episode"] == trail["alerts"][3]["episode"]
    assert len(stack.active_alerts(name_of(redundant_alert))) == 1


def test_an_incident_is_acknowledged_and_closed_manually(stack):
    """Case A26."""
    firing_alert = alert("ScenarioLinked")
    trail = remediate(stack, firing_alert)
    episode = only(trail["alerts"])["episode"]
    acknowledgement = stack.run(
        "poundcake.acknowledge", episode=episode, comment="the disk is on order"
    )
    assert (acknowledgement["state"], acknowledgement["episode"]) == ("acknowledged", episode)
    assert acknowledgement["by"]
    incident = only(stack.active_alerts(name_of(firing_alert)))
    assert incident["acknowledged_comment"] == "the disk is on order"

    # No workflow gets a claim until the acknowledgement is withdrawn.
    stack.run("poundcake.release", alert_name=name_of(firing_alert))
    assert stack.run("poundcake.plan", alert_name=name_of(firing_alert))["episode"] == episode
    parameters = {"request_id": trail["request_id"], "episode": episode}
    execution = stack.execute("poundcake_scenarios.linked", **parameters)
    assert execution["result"]["output"]["message"] == f"acknowledged by {acknowledgement['by']}"
    stack.run("poundcake.acknowledge", alert_name=name_of(firing_alert), undo=True)
    assert "acknowledged_by" not in only(stack.active_alerts(name_of(firing_alert)))

    closed_incident = stack.run(
        "poundcake.close", alert_name=name_of(firing_alert), comment="the host is gone"
    )
    assert (closed_incident["state"], closed_incident["by"]) == ("closed", acknowledgement["by"])
    assert stack.active_alerts(name_of(firing_alert)) == []
    (history_entry,) = stack.run("poundcake.why", alert_name=name_of(firing_alert))["episodes"]
    assert (history_entry["state"], history_entry["ended_by"]) == ("closed", "closed")
    actions = [entry["action"] for entry in history_entry["audit"]]
    assert actions == ["acknowledge", "release", "acknowledge", "close"]
    assert {entry["st2_user"] for entry in history_entry["audit"]} == {acknowledgement["by"]}
    execution_ids = {entry["execution_id"] for entry in history_entry["audit"]}
    assert len(execution_ids) == 4 and all(stack.api("/executions/" + id_) for id_ in execution_ids)
    assert stack.get_trail(trail["request_id"])["audit"] == history_entry["audit"]
    for filters in ({"episode": episode}, {"alert_name": name_of(firing_alert)}):
        with pytest.raises(ActionFailed, match="no open incident matches"):
            stack.run("poundcake.close", comment="again", **filters)


def test_each_alert_of_a_payload_gets_its_own_outcome(stack):
    """Cases A5 and A6."""
    open_alert = alert("ScenarioLinked")
    stack.wait_until_recorded(stack.send(notification(open_alert)))
    firing_alert, unmatched_alert = alert("ScenarioLinked"), alert("ScenarioUnmatched")
    unknown_alert, nameless_alert = alert("ScenarioLinked"), alert("ScenarioLinked")
    nameless_alert["labels"] = {"alertname": None}
    request_id = stack.send(
        notification(
            "not an object",
            firing_alert,
            resolved(open_alert),
            nameless_alert,
            unmatched_alert,
            resolved(unknown_alert),
        )
    )
    trail = stack.wait_until_completed(request_id)

    assert [a["outcome"] for a in trail["alerts"]] == [
        "malformed",
        "admitted",
        "resolved",
        "malformed",
        "admitted",
        "duplicate",
    ]
    reasons = [a["reason"] for a in trail["alerts"]]
    assert reasons[0] == "alerts[0]: must be an object, not a string"
    assert reasons[1] == "new incident"
    assert reasons[3] == "alerts[3].labels: no label has a value"
    assert reasons[4] == "new incident; no rule matched"
    assert reasons[5] == "no open incident"
    assert stack.active_alerts(name_of(unknown_alert)) == []
    started_workflows = {e["alert_id"]: e["st2_workflow"] for e in trail["stackstorm_executions"]}
    assert started_workflows == {
        trail["alerts"][1]["id"]: "poundcake_scenarios.linked",
        trail["alerts"][2]["id"]: "poundcake_scenarios.cleared",
    }


def test_simultaneous_notifications_run_one_execution(stack):
    """Case A7."""
    firing_alert = alert("ScenarioLinked")
    payload = notification(firing_alert)
    request_ids = []
    senders = [
        threading.Thread(target=lambda: request_ids.append(stack.send(payload))) for _ in range(8)
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()

    assert len(set(request_ids)) == 8
    trails = [stack.wait_until_recorded(request_id) for request_id in request_ids]
    outcomes = sorted(only(trail["alerts"])["outcome"] for trail in trails)
    assert outcomes == ["admitted"] + ["duplicate"] * 7
    assert only(stack.active_alerts(name_of(firing_alert)))["notifications"] == 8
    for trail in trails:
        stack.wait_until_completed(trail["request_id"])
    assert len(stack.work_executions(only(trails[0]["alerts"])["episode"])) == 1


def test_a_workflow_handles_an_episode_once_until_its_claim_is_released(stack):
    trail = remediate(stack, alert("ScenarioLinked"))
    episode = only(trail["alerts"])["episode"]
    parameters = {"request_id": trail["request_id"], "episode": episode}
    holder = only(trail["stackstorm_executions"])["st2_execution_id"]

    second_execution = stack.execute("poundcake_scenarios.linked", **parameters)
    assert second_execution["status"] == "succeeded"
    assert second_execution["result"]["output"]["stage"] == "not_claimed"
    assert second_execution["result"]["output"]["message"] == (
        f"execution {holder} of poundcake_scenarios.linked holds the claim on this episode; if it "
        "ended without doing its work, release the claim with `st2 run poundcake.release "
        f"format=text episode={episode}`"
    )
    assert len(stack.work_executions(episode)) == 1
    assert len(stack.get_trail(trail["request_id"])["stackstorm_executions"]) == 1

    result = stack.run("poundcake.release", episode=episode)
    assert (result["count"], result["failures"]) == (1, 0)
    assert result["released"] == [
        {"st2_execution_id": holder, "st2_workflow": "poundcake_scenarios.linked"}
    ]
    third_execution = stack.execute("poundcake_scenarios.linked", **parameters)
    assert third_execution["result"]["output"]["stage"] == "done"
    assert len(stack.work_executions(episode)) == 2
    assert len(stack.get_trail(trail["request_id"])["stackstorm_executions"]) == 2


def test_a_retry_with_the_same_request_id_is_harmless(stack):
    """Case A15."""
    client_request_id = str(uuid.uuid4())
    payload = notification(alert("ScenarioUnmatched"))
    responses = [stack.post(payload, {"X-Request-ID": client_request_id}) for _ in range(3)]

    assert [r.status_code for r in responses] == [202] * 3
    assert [r.json() for r in responses] == [responses[0].json()] * 3
    assert responses[0].json()["request_id"] == client_request_id
    assert responses[0].headers["X-Request-ID"] == client_request_id
    trail = stack.wait_until_recorded(client_request_id)
    assert trail["request_id"] == client_request_id
    assert "client_request_id" not in trail
    assert stack.post(payload, {"X-Request-ID": client_request_id}).json() == responses[0].json()
    history = stack.run("poundcake.why", alert_name=only(trail["alerts"])["alert_name"])
    alerts = only(history["episodes"])["alerts"]
    assert [(a["request_id"], a["outcome"]) for a in alerts] == [(client_request_id, "admitted")]
    assert only(stack.active_alerts(only(trail["alerts"])["alert_name"]))["notifications"] == 1


def test_no_request_is_lost_if_a_proxy_sends_a_fixed_request_id(stack):
    """Case A15: the same id with a different body is a different request."""
    fixed_id = str(uuid.uuid4())
    first_id = stack.send(notification(alert("ScenarioUnmatched")), {"X-Request-ID": fixed_id})
    second_id = stack.send(notification(alert("ScenarioUnmatched")), {"X-Request-ID": fixed_id})

    assert first_id == fixed_id != second_id
    trail = stack.wait_until_recorded(second_id)
    assert trail["client_request_id"] == fixed_id
    assert only(trail["alerts"])["outcome"] == "admitted"
