"""Limits and pauses prevent changes, and every refusal is explained."""

from __future__ import annotations

import contextlib

import pytest

from poundcake.timestamps import parse_timestamp
from tests.lib.samples import as_inert
from tests.scenarios import conftest
from tests.scenarios.notifications import alert, notification, resolved, unique

# The limits do not depend on the kind of database, so one is enough.
pytestmark = pytest.mark.parametrize("kind", conftest.KINDS[:1], indirect=True, scope="package")
WORK = "poundcake_scenarios.work"
SLOW = "poundcake_scenarios.slow"
LIVE = {"dry_run": False, "allowed_hosts": ["*"], "allowed_actions": [WORK], "settle_seconds": 0}
MANY_HOSTS = 50
STORM_SIZE = 3
MAX_WAIT = 900  # seconds, for fifty workflows on a busy machine


@pytest.fixture
def stack_with_limits(armed_stack):
    """Return a function that registers limits on a stack that may change hosts."""
    with contextlib.ExitStack() as registrations:

        def register(**limits):
            registrations.enter_context(armed_stack.configured(**{**LIVE, **limits}))
            return armed_stack

        yield register


def make_host():
    return unique("silent") + ".test"


def fire(stack, name, count, make_host=make_host):
    """Post one notification about several hosts, and return its request_id."""
    alert_name = unique(name)
    return stack.send(
        notification(
            *(
                alert(
                    name,
                    labels={
                        "alertname": alert_name,
                        "instance": make_host() + ":9100",
                        "run": alert_name,
                    },
                )
                for _ in range(count)
            )
        )
    )


def wait_for_decisions(stack, request_id, count):
    """Wait until all changes of a request have ended, and return its trail and the changes."""
    trail = stack.wait_for_trail(
        request_id,
        lambda t: (
            len(t.get("changes", [])) == count
            and not [c for c in t["changes"] if c["result"] == "in_flight"]
        ),
        MAX_WAIT,
    )
    return trail, trail["changes"]


def work_executions(stack, trail):
    """Return the executions of the action `work` for the alerts of a request."""
    return [
        e for alert_view in trail["alerts"] for e in stack.work_executions(alert_view["episode"])
    ]


def test_nothing_is_changed_during_a_storm(stack_with_limits):
    stack = stack_with_limits(storm_limit=2)
    request_id = fire(stack, "ScenarioWrapped", STORM_SIZE)
    trail, changes = wait_for_decisions(stack, request_id, STORM_SIZE)
    assert {change["refusal"] for change in changes} == {"storm"}
    assert "storm_limit is 2" in changes[0]["reason"]
    assert work_executions(stack, trail) == []
    executions = stack.wait_until_completed(request_id)["stackstorm_executions"]
    assert {(e["status"], e["stage"], e["mutated"]) for e in executions} == {
        ("succeeded", "refused", False)
    }
    assert all("storm_limit is 2" in e["message"] for e in executions)


def test_fifty_hosts_down_at_once_are_changed_up_to_the_limits(stack_with_limits):
    stack = stack_with_limits(max_in_flight=3, max_changes_per_remediation_per_hour=5)
    request_id = fire(stack, "ScenarioWrapped", MANY_HOSTS)
    trail, changes = wait_for_decisions(stack, request_id, MANY_HOSTS)
    granted = [change for change in changes if "refusal" not in change]
    refusals = [change for change in changes if "refusal" in change]
    assert 1 <= len(granted) <= 5
    assert len(work_executions(stack, trail)) == len(granted)
    assert {change["refusal"] for change in refusals} <= {"site_in_flight", "hourly_limit"}
    stack.wait_until_completed(request_id)  # until then, some workflows have not reported a result
    status_text = stack.run("poundcake.status", request_id=request_id, format="text")
    assert status_text.count("    refused, nothing changed: ") == len(refusals)
    # The history of each episode gives the reason.
    first_refusal = refusals[0]
    instance = next(
        a["instance"] for a in trail["alerts"] if a["episode"] == first_refusal["episode"]
    )
    why = stack.run("poundcake.why", instance=instance, format="text")
    title = f"NOT TOUCHED: {first_refusal['refusal'].replace('_', ' ').upper()}"
    assert title in why and as_inert(first_refusal["reason"][:40]) in " ".join(why.split())


def test_nothing_is_changed_while_changes_are_paused(stack_with_limits):
    stack = stack_with_limits()
    stack.run("poundcake.pause", reason="maintenance of rack 12", minutes=30)
    try:
        request_id = fire(stack, "ScenarioWrapped", 1)
        trail, (change,) = wait_for_decisions(stack, request_id, 1)
        assert (change["result"], change["refusal"]) == ("refused", "paused")
        assert "maintenance of rack 12" in change["reason"]
        assert work_executions(stack, trail) == []
        instance = trail["alerts"][0]["instance"]
        for text in (
            stack.run("poundcake.why", instance=instance, format="text"),
            stack.run("poundcake.alerts_active", format="text"),
        ):
            assert "\nPAUSED by " in text
            assert "maintenance of rack 12" in " ".join(text.split())
        health = stack.run("poundcake.health", format="text")
        assert "\nPAUSED by " in health and "\nmode      paused: no changes until `" in health
        assert stack.get("/alerts/active").json()["paused"]["reason"] == "maintenance of rack 12"
        stack.wait_until(lambda: stack.get("/health").json()["paused"])
        metrics = stack._endpoint.get(stack.url + "/metrics", timeout=30).text
        assert "\npoundcake_paused 1" in metrics
    finally:
        assert stack.run("poundcake.resume")["resumed"] is True
    request_id = fire(stack, "ScenarioWrapped", 1)
    trail, (change,) = wait_for_decisions(stack, request_id, 1)
    assert change["result"] == "succeeded"
    assert len(work_executions(stack, trail)) == 1
    assert "PAUSED by" not in stack.run("poundcake.alerts_active", format="text")


def test_a_change_waits_until_the_incident_has_settled(stack_with_limits):
    stack = stack_with_limits(settle_seconds=15)
    firing_id = fire(stack, "ScenarioWrapped", 1)
    labels = {"instance": make_host() + ":9100"}
    ending_alert = alert("ScenarioWrapped", labels=labels)
    ended_id = stack.send(notification(ending_alert))
    stack.wait_for_trail(ended_id, lambda t: t["stackstorm_executions"])
    stack.wait_until_recorded(stack.send(notification(resolved(ending_alert))))

    trail, (change,) = wait_for_decisions(stack, firing_id, 1)
    assert change["result"] == "succeeded"
    received_at, decided_at = trail["received_at"], change["decided_at"]
    waiting_time = parse_timestamp(decided_at) - parse_timestamp(received_at)
    assert waiting_time.total_seconds() >= 15
    assert len(work_executions(stack, trail)) == 1

    trail, (change,) = wait_for_decisions(stack, ended_id, 1)
    assert change["refusal"] == "incident_ended"
    assert work_executions(stack, trail) == []


def test_a_failing_remediation_stops_until_it_is_released(stack_with_limits):
    stack = stack_with_limits(breaker_failures=1)
    stack.run("poundcake.release", remediation=WORK)  # forget the failures of other scenarios
    _, (change,) = wait_for_decisions(stack, fire(stack, "ScenarioReboot", 1, stack.silent_host), 1)
    assert change["result"] == "not_verified"
    _, (change,) = wait_for_decisions(stack, fire(stack, "ScenarioReboot", 1, stack.silent_host), 1)
    assert change["refusal"] == "breaker"
    assert f"poundcake.release format=text remediation={WORK}" in change["reason"]
    assert stack.run("poundcake.release", remediation=WORK)["failures"] == 1
    _, (change,) = wait_for_decisions(stack, fire(stack, "ScenarioReboot", 1, stack.silent_host), 1)
    assert change["result"] == "not_verified"


def test_a_cancelled_workflow_shows_how_its_change_ended(armed_stack):
    """Case A39: somebody cancels a workflow while its action runs for 20 seconds."""
    name = unique("ScenarioCancelledChange")
    entry = {"name": "slow", "match": [f"alertname={name}"], "mode": "live", "action": SLOW}
    entry["host_parameter"] = ""
    limits = {**LIVE, "allowed_actions": [SLOW]}
    with armed_stack.configured_remediations([entry], **limits):
        sent_alert = alert(name, labels={"alertname": name})
        request_id = armed_stack.send(notification(sent_alert))
        trail = armed_stack.wait_for_trail(request_id, lambda t: t.get("changes"))
        (execution,) = trail["stackstorm_executions"]
        workflow_id = execution["st2_execution_id"]
        armed_stack.wait_until(
            lambda: armed_stack.api(f"/executions/{workflow_id}/children"),
            lambda children: SLOW in [child["action"]["ref"] for child in children],
        )
        armed_stack.api("/executions/" + workflow_id, "PUT", {"status": "canceled"})
        trail = armed_stack.wait_for_trail(
            request_id, lambda t: t["stackstorm_executions"][0]["status"] == "canceling"
        )
        (change,) = trail["changes"]
        assert change["result"] == "in_flight"
        trail, (change,) = wait_for_decisions(armed_stack, request_id, 1)
    (execution,) = trail["stackstorm_executions"]
    assert (execution["status"], change["result"]) == ("canceled", "succeeded")
    assert (execution["mutated"], execution["dry_run"]) == (True, False)
    assert execution["message"] == (
        f"the workflow was cancelled; {SLOW} succeeded, and nothing verified it"
    )


def test_refused_changes_are_made_when_the_storm_has_ended(stack_with_limits):
    """Case A38: two of four hosts are still down when the storm ends."""
    stack = stack_with_limits(storm_limit=2, storm_quiet_minutes=0, retry_refused_minutes=1)
    alert_name = unique("ScenarioWrapped")
    instances = [make_host() + ":9100" for _ in range(4)]
    alerts = [
        alert("ScenarioWrapped", labels={"alertname": alert_name, "instance": instance})
        for instance in instances
    ]
    request_id = stack.send(notification(*alerts))
    trail, changes = wait_for_decisions(stack, request_id, len(alerts))
    assert {change["refusal"] for change in changes} == {"storm"}
    assert all(change["retry_at"] > change["decided_at"] for change in changes)
    assert work_executions(stack, trail) == []
    why = stack.wait_until(
        lambda: stack.run("poundcake.why", instance=instances[0], format="text"),
        lambda text: "RUNNING" not in text,  # a decision is known before its workflow has ended
    )
    assert "NOT TOUCHED: STORM" in why and "it is tried again after " in " ".join(why.split())
    stack.send(notification(*map(resolved, alerts[2:])))

    def count_changes(trail):
        return sum(change["result"] == "succeeded" for change in trail["changes"])

    trail = stack.wait_for_trail(request_id, lambda t: count_changes(t) == 2, MAX_WAIT)
    counts = {a["instance"]: len(stack.work_executions(a["episode"])) for a in trail["alerts"]}
    assert counts == dict(zip(instances, (1, 1, 0, 0)))
    why = stack.run("poundcake.why", instance=instances[0], format="text")
    words = " ".join(why.split())
    assert "; it was tried again at " in words and "(storm) again: as " in words
    ended = stack.list_all("/triggerinstances", trigger="poundcake.remediation_ended")
    refused = [e["payload"] for e in ended if e["payload"]["request_id"] == request_id]
    assert [bool(payload["retry_at"]) for payload in refused] == [True] * len(alerts)
    # The next round after the retries starts nothing else.
    assert stack.run("poundcake.sync")["retried"] == 0
    assert len(work_executions(stack, trail)) == 2
