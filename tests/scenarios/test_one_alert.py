"""The life of one alert: it fires, is repeated, ends, and fires again."""

from __future__ import annotations

import os
import threading
import uuid

import pytest

from tests.scenarios.notifications import ago, alert, name_of, notification, resolved, unique
from tests.scenarios.stack import ActionFailed

UUID_LENGTH = 36


def only(found):
    """Return the only element of a list."""
    assert len(found) == 1, found
    return found[0]


def has_succeeded(trail):
    """Return True if the trail has one execution, and it succeeded."""
    return [e["status"] for e in trail["stackstorm_executions"]] == ["succeeded"]


def remediate(stack, firing):
    """Post a firing alert of ScenarioLinked, wait for its workflow, and return its trail."""
    request_id = stack.accepted(notification(firing))
    return stack.trail_when(request_id, has_succeeded)


def test_a_firing_alert_is_recorded_and_remediated_under_its_request_id(stack):
    """Case A1 of docs/CASES.md."""
    firing = alert(
        "ScenarioLinked", labels={"severity": "warning"}, startsAt="2026-01-14T12:00:00Z"
    )
    answer = stack.post(notification(firing, receiver="web\\.hook"))

    assert answer.status_code == 202
    request_id = answer.json()["request_id"]
    assert answer.json() == {
        "status": "accepted",
        "request_id": request_id,
        "alerts_received": 1,
        "message": "1 alert accepted",
    }
    assert answer.headers["X-Request-ID"] == request_id and len(request_id) == UUID_LENGTH

    trail = stack.trail_when(request_id, has_succeeded)
    assert trail["request_id"] == request_id
    assert trail["receiver"] == "web\\.hook"
    assert trail["received_at"].endswith("Z")
    assert trail["truncated_alerts"] == 0
    shown = only(trail["alerts"])
    assert shown.pop("id") > 0
    assert shown == {
        "fingerprint": firing["fingerprint"],
        "episode": firing["fingerprint"] + "-1768392000000",
        "alert_name": name_of(firing),
        "severity": "warning",
        "instance": firing["labels"]["instance"],
        "status": "firing",
        "outcome": "admitted",
        "reason": shown["reason"],
        "starts_at": "2026-01-14T12:00:00Z",
        "ends_at": None,
        "st2_rule": shown["st2_rule"],
        "st2_workflow": "poundcake_scenarios.linked",
    }
    # StackStorm's part of the reason is complete when the request is completed.
    assert shown["reason"].startswith("new incident")
    execution = only(trail["stackstorm_executions"])
    assert execution["st2_workflow"] == "poundcake_scenarios.linked"
    assert execution["duration_seconds"] > 0
    assert execution["started_at"] < execution["ended_at"]
    assert execution["stage"] == "done"

    trail = stack.completed(request_id)
    assert trail["status"] == "completed"
    assert only(trail["alerts"])["reason"] == "new incident"
    assert only(trail["alerts"])["st2_rule"] == "poundcake_scenarios.linked"
    assert only(trail["stackstorm_executions"])["st2_rule"] == "poundcake_scenarios.linked"

    # StackStorm itself has the same data.
    assert execution["st2_execution_id"] in stack.traced(request_id)
    original = stack.api("/executions/" + execution["st2_execution_id"])
    assert original["status"] == "succeeded"
    assert original["rule"]["ref"] == "poundcake_scenarios.linked"
    assert original["context"]["trace_context"]["trace_tag"] == request_id
    assert len(stack.done(only(trail["alerts"])["episode"])) == 1


def test_the_tables_hold_the_trail(stack):
    """Cases A1 and A21: a join of the tables returns the whole trail."""
    firing = alert("ScenarioLinked")
    trail = stack.completed(remediate(stack, firing)["request_id"])

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
        "alert_name": name_of(firing),
        "outcome": "admitted",
        "open_fingerprint": firing["fingerprint"],
        "st2_rule_ref": "poundcake_scenarios.linked",
        "st2_action_ref": "poundcake_scenarios.linked",
        "st2_execution_id": only(trail["stackstorm_executions"])["st2_execution_id"],
        "status": "succeeded",
        "action": "poundcake_scenarios.linked",
    }


def test_a_repeated_notification_starts_nothing(stack):
    """Case A2."""
    firing = alert("ScenarioLinked")
    first = remediate(stack, firing)
    again = stack.recorded(stack.accepted(notification(firing)))

    assert again["request_id"] != first["request_id"]
    assert again["status"] == "completed" and again["completed_at"]
    shown = only(again["alerts"])
    assert shown["outcome"] == "duplicate"
    assert shown["reason"] == "duplicate of " + first["request_id"]
    assert shown["episode"] == only(first["alerts"])["episode"]
    assert again["stackstorm_executions"] == []
    active = only(stack.active(name_of(firing)))
    assert active["notifications"] == 2
    assert active["request_id"] == first["request_id"]
    assert active["episode"] == shown["episode"]
    assert active["stale"] is False
    assert len(stack.done(shown["episode"])) == 1


def test_an_earlier_start_of_the_same_alert_is_the_same_incident(stack):
    """The second of two redundant Prometheus servers may have seen the alert earlier."""
    firing = alert("ScenarioUnmatched", minutes=5)
    first = stack.recorded(stack.accepted(notification(firing)))
    earlier = stack.recorded(stack.accepted(notification(dict(firing, startsAt=ago(9)))))

    assert only(earlier["alerts"])["outcome"] == "duplicate"
    assert only(earlier["alerts"])["episode"] == only(first["alerts"])["episode"]
    assert len(stack.active(name_of(firing))) == 1


def test_a_resolved_alert_starts_only_the_rule_on_resolves(stack):
    """Case A3."""
    firing = alert("ScenarioLinked")
    first = remediate(stack, firing)
    assert len(stack.active(name_of(firing))) == 1

    ended = resolved(firing)
    trail = stack.trail_when(stack.accepted(notification(ended)), has_succeeded)
    shown = only(trail["alerts"])
    assert shown["status"] == "resolved"
    assert shown["outcome"] == "resolved"
    assert shown["episode"] == only(first["alerts"])["episode"]
    assert shown["ends_at"] == ended["endsAt"].replace("Z", "000Z")
    assert only(trail["stackstorm_executions"])["st2_workflow"] == "poundcake_scenarios.cleared"
    assert stack.active(name_of(firing)) == []

    # The resolve arrives again, as if from the peer of an Alertmanager.
    again = stack.recorded(stack.accepted(notification(ended)))
    assert only(again["alerts"])["outcome"] == "duplicate"
    assert only(again["alerts"])["reason"] == "no open incident"
    assert again["stackstorm_executions"] == []

    done = stack.done(shown["episode"])
    parents = [stack.api("/executions/" + e["parent"])["action"]["ref"] for e in done]
    assert sorted(parents) == ["poundcake_scenarios.cleared", "poundcake_scenarios.linked"]


def test_an_alert_that_fires_again_after_its_resolve_is_a_new_episode(stack):
    """Case A4."""
    firing = alert("ScenarioLinked", minutes=20)
    first = remediate(stack, firing)
    ended = stack.recorded(stack.accepted(notification(resolved(firing, minutes=10))))
    second = remediate(stack, dict(firing, startsAt=ago(3)))

    episodes = [only(trail["alerts"])["episode"] for trail in (first, ended, second)]
    assert episodes[0] == episodes[1] != episodes[2]
    assert only(second["alerts"])["outcome"] == "admitted"
    executions = [only(t["stackstorm_executions"])["st2_execution_id"] for t in (first, second)]
    assert executions[0] != executions[1]
    assert only(stack.active(name_of(firing)))["episode"] == episodes[2]

    history = stack.run("poundcake.why", alert_name=name_of(firing))
    assert history["count"] == 2
    alerts = [[(a["request_id"], a["outcome"]) for a in e["alerts"]] for e in history["episodes"]]
    assert alerts == [
        [(second["request_id"], "admitted")],
        [(first["request_id"], "admitted"), (ended["request_id"], "resolved")],
    ]


def test_an_alert_that_fires_shortly_after_its_resolve_is_unconfirmed(stack):
    """Case A24: it may be a stale copy from another Alertmanager."""
    firing = alert("ScenarioLinked")
    first = remediate(stack, firing)
    stack.completed(stack.accepted(notification(resolved(firing))))
    for _ in range(2):
        again = stack.recorded(stack.accepted(notification(firing)))
        assert only(again["alerts"])["outcome"] == "unconfirmed"
        assert only(again["alerts"])["reason"].startswith("fires ")
        assert again["stackstorm_executions"] == []
    active = only(stack.active(name_of(firing)))
    assert (active["outcome"], active["notifications"]) == ("unconfirmed", 2)
    assert active["episode"] != only(first["alerts"])["episode"]
    text = stack.run("poundcake.why", alert_name=name_of(firing), format="text")
    assert "firing (unconfirmed) since" in text

    # The resolve from the other Alertmanager closes it, and no rule is notified.
    ended = stack.recorded(stack.accepted(notification(resolved(firing))))
    assert only(ended["alerts"])["outcome"] == "unconfirmed"
    assert ended["status"] == "completed" and ended["stackstorm_executions"] == []
    assert stack.active(name_of(firing)) == []


def test_an_unconfirmed_alert_is_admitted_after_six_minutes(stack):
    """Case A24."""
    if not stack.live and not os.environ.get("POUNDCAKE_SLOW"):
        pytest.skip("takes six minutes (POUNDCAKE_SLOW=1); see tests/lib/trail/test_confirm.py")
    firing = alert("ScenarioLinked")
    stack.completed(stack.accepted(notification(firing)))
    stack.completed(stack.accepted(notification(resolved(firing))))
    unconfirmed = stack.recorded(stack.accepted(notification(firing)))
    episode = only(unconfirmed["alerts"])["episode"]
    active = only(
        stack.wait_until(
            lambda: stack.active(name_of(firing)), lambda found: "outcome" not in found[0], 500
        )
    )
    trail = stack.completed(active["request_id"])
    assert trail["replay_of"] == unconfirmed["request_id"]
    assert (active["episode"], len(stack.done(episode))) == (episode, 1)


def test_alerts_are_distinguished_by_their_labels(stack):
    """Case A25: a relay gives three instances the same fingerprint."""
    name = unique("ScenarioUnmatched")
    several = [
        dict(alert("any", labels={"alertname": name}), fingerprint="3f1dc6a0b7e94d52")
        for _ in range(3)
    ]
    trail = stack.recorded(stack.accepted(notification(*several)))
    assert [a["outcome"] for a in trail["alerts"]] == ["admitted"] * 3
    ended = stack.recorded(stack.accepted(notification(resolved(several[2]))))
    assert only(ended["alerts"])["outcome"] == "resolved"
    open_ones = {a["instance"] for a in stack.active(name)}
    assert open_ones == {one["labels"]["instance"] for one in several[:2]}


def test_clocks_of_different_machines_are_not_compared(stack):
    """Case A25: without a start, and with an end from a clock that is behind."""
    firing = alert("ScenarioUnmatched", startsAt=None)
    stack.recorded(stack.accepted(notification(firing)))
    ended = stack.recorded(stack.accepted(notification(resolved(firing, minutes=60))))
    assert only(ended["alerts"])["outcome"] == "resolved"
    ahead = alert("ScenarioUnmatched", startsAt="2999-01-01T00:00:00Z")
    trail = stack.recorded(stack.accepted(notification(ahead)))
    assert only(trail["alerts"])["starts_at"] == trail["received_at"]
    assert "in the future" in only(trail["alerts"])["notes"]
    ended = stack.recorded(stack.accepted(notification(dict(ahead, status="resolved"))))
    assert only(ended["alerts"])["outcome"] == "resolved"


def test_an_incident_is_acknowledged_and_closed_by_hand(stack):
    """Case A26."""
    firing = alert("ScenarioLinked")
    trail = remediate(stack, firing)
    episode = only(trail["alerts"])["episode"]
    done = stack.run("poundcake.acknowledge", episode=episode, comment="the disk is on order")
    assert (done["state"], done["episode"]) == ("acknowledged", episode)
    assert done["by"]
    active = only(stack.active(name_of(firing)))
    assert active["acknowledged_comment"] == "the disk is on order"

    # No workflow begins until the acknowledgement is withdrawn.
    stack.run("poundcake.release", episode=episode)
    ids = {"request_id": trail["request_id"], "episode": episode}
    refused = stack.execute("poundcake_scenarios.linked", **ids)
    assert refused["result"]["output"]["message"] == f"acknowledged by {done['by']}"
    stack.run("poundcake.acknowledge", alert_name=name_of(firing), undo=True)
    assert "acknowledged_by" not in only(stack.active(name_of(firing)))

    closed = stack.run("poundcake.close", alert_name=name_of(firing), comment="it is gone")
    assert (closed["state"], closed["by"]) == ("closed", done["by"])
    assert stack.active(name_of(firing)) == []
    (shown,) = stack.run("poundcake.why", alert_name=name_of(firing))["episodes"]
    assert (shown["state"], shown["ended_by"]) == ("closed", "closed")
    actions = [entry["action"] for entry in shown["audit"]]
    assert actions == ["acknowledge", "release", "acknowledge", "close"]
    assert {entry["st2_user"] for entry in shown["audit"]} == {done["by"]}
    ids = {entry["execution_id"] for entry in shown["audit"]}
    assert len(ids) == 4 and all(stack.api("/executions/" + one) for one in ids)
    assert stack.trail(trail["request_id"])["audit"] == shown["audit"]
    for wrong in ({"episode": episode}, {"alert_name": name_of(firing)}):
        with pytest.raises(ActionFailed, match="no open incident matches"):
            stack.run("poundcake.close", comment="again", **wrong)


def test_a_resolve_of_an_unknown_alert_is_recorded_and_starts_nothing(stack):
    """Case A5."""
    ended = resolved(alert("ScenarioLinked"))
    trail = stack.recorded(stack.accepted(notification(ended)))

    assert trail["status"] == "completed"
    shown = only(trail["alerts"])
    assert shown["outcome"] == "duplicate"
    assert shown["reason"] == "no open incident"
    assert trail["stackstorm_executions"] == []
    assert stack.active(name_of(ended)) == []


def test_each_alert_of_a_payload_gets_its_own_outcome(stack):
    """Case A6."""
    before = alert("ScenarioLinked")
    stack.recorded(stack.accepted(notification(before)))
    firing, unmatched = alert("ScenarioLinked"), alert("ScenarioUnmatched")
    nameless = alert("ScenarioLinked")
    nameless["labels"] = {"alertname": None}
    request_id = stack.accepted(
        notification("no alert at all", firing, resolved(before), nameless, unmatched)
    )
    trail = stack.completed(request_id)

    assert [a["outcome"] for a in trail["alerts"]] == [
        "malformed",
        "admitted",
        "resolved",
        "malformed",
        "admitted",
    ]
    reasons = [a["reason"] for a in trail["alerts"]]
    assert reasons[0] == "alerts[0]: must be an object, not a string"
    assert reasons[1] == "new incident"
    assert reasons[3] == "alerts[3].labels: no label has a value"
    assert reasons[4] == "new incident; no rule matched"
    ran = {e["alert_id"]: e["st2_workflow"] for e in trail["stackstorm_executions"]}
    assert ran == {
        trail["alerts"][1]["id"]: "poundcake_scenarios.linked",
        trail["alerts"][2]["id"]: "poundcake_scenarios.cleared",
    }


def test_simultaneous_notifications_run_one_execution(stack):
    """Case A7."""
    firing = alert("ScenarioLinked")
    payload = notification(firing)
    request_ids = []
    senders = [
        threading.Thread(target=lambda: request_ids.append(stack.accepted(payload)))
        for _ in range(8)
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()

    assert len(set(request_ids)) == 8
    trails = [stack.recorded(request_id) for request_id in request_ids]
    outcomes = sorted(only(trail["alerts"])["outcome"] for trail in trails)
    assert outcomes == ["admitted"] + ["duplicate"] * 7
    assert only(stack.active(name_of(firing)))["notifications"] == 8
    for trail in trails:
        stack.completed(trail["request_id"])
    assert len(stack.done(only(trails[0]["alerts"])["episode"])) == 1


def test_a_workflow_handles_an_episode_once_until_its_claim_is_released(stack):
    trail = remediate(stack, alert("ScenarioLinked"))
    episode = only(trail["alerts"])["episode"]
    ids = {"request_id": trail["request_id"], "episode": episode}
    holder = only(trail["stackstorm_executions"])["st2_execution_id"]

    again = stack.execute("poundcake_scenarios.linked", **ids)
    assert again["status"] == "succeeded"
    assert again["result"]["output"]["stage"] == "not_claimed"
    assert again["result"]["output"]["message"] == (
        f"execution {holder} of poundcake_scenarios.linked holds the claim on this episode; if it "
        "ended without doing its work, release the claim with `st2 run poundcake.release "
        f"episode={episode}`"
    )
    assert len(stack.done(episode)) == 1
    assert len(stack.trail(trail["request_id"])["stackstorm_executions"]) == 1

    assert stack.run("poundcake.release", episode=episode) == {
        "released": [{"st2_execution_id": holder, "st2_workflow": "poundcake_scenarios.linked"}],
        "count": 1,
        "failures": 0,
    }
    released = stack.execute("poundcake_scenarios.linked", **ids)
    assert released["result"]["output"]["stage"] == "done"
    assert len(stack.done(episode)) == 2
    assert len(stack.trail(trail["request_id"])["stackstorm_executions"]) == 2


def test_a_retry_with_the_same_request_id_is_harmless(stack):
    """Case A15."""
    own = str(uuid.uuid4())
    payload = notification(alert("ScenarioUnmatched"))
    answers = [stack.post(payload, {"X-Request-ID": own}) for _ in range(3)]

    assert [a.status_code for a in answers] == [202] * 3
    assert [a.json() for a in answers] == [answers[0].json()] * 3
    assert answers[0].json()["request_id"] == own
    assert answers[0].headers["X-Request-ID"] == own
    trail = stack.recorded(own)
    assert trail["request_id"] == own
    assert "client_request_id" not in trail
    assert stack.post(payload, {"X-Request-ID": own}).json() == answers[0].json()
    seen = stack.run("poundcake.why", alert_name=only(trail["alerts"])["alert_name"])
    alerts = only(seen["episodes"])["alerts"]
    assert [(a["request_id"], a["outcome"]) for a in alerts] == [(own, "admitted")]
    assert only(stack.active(only(trail["alerts"])["alert_name"]))["notifications"] == 1


def test_no_request_is_lost_if_a_proxy_sends_a_fixed_request_id(stack):
    """Case A15: the same id with a different body is a different request."""
    fixed = str(uuid.uuid4())
    first = stack.accepted(notification(alert("ScenarioUnmatched")), {"X-Request-ID": fixed})
    second = stack.accepted(notification(alert("ScenarioUnmatched")), {"X-Request-ID": fixed})

    assert first == fixed != second
    trail = stack.recorded(second)
    assert trail["client_request_id"] == fixed
    assert only(trail["alerts"])["outcome"] == "admitted"


def test_an_invalid_request_id_is_ignored(stack):
    """Case A15."""
    payload = notification()
    given = str(uuid.uuid4())
    for invalid in (
        "",
        "1",
        given.upper(),
        given.replace("-", ""),
        f"{{{given}}}",
        given + "0" * 4000,
        "{{ st2kv.system.poundcake_scenario_secret }}",
        "'; DROP TABLE poundcake_api_calls; --",
        "../../etc/passwd",
    ):
        answer = stack.post(payload, {"X-Request-ID": invalid})
        assert answer.status_code == 202, invalid
        request_id = answer.json()["request_id"]
        assert str(uuid.UUID(request_id)) == request_id
        assert request_id != given
