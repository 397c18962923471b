"""Nothing is changed beyond the limits or during a pause, and every refusal is explained."""

from __future__ import annotations

import pytest

from poundcake.timestamps import parse_timestamp
from tests.scenarios import conftest
from tests.scenarios.notifications import alert, notification, resolved, unique

# The decisions do not depend on the kind of database, so one is enough.
pytestmark = pytest.mark.parametrize("kind", conftest.KINDS[:1], indirect=True, scope="package")
WORK = "poundcake_scenarios.work"
LIVE = {"dry_run": False, "allowed_hosts": ["*"], "allowed_actions": [WORK], "settle_seconds": 0}
MANY = 50
STORM = 8
PATIENCE = 400  # seconds, for fifty workflows on a busy machine


@pytest.fixture
def limited(request, kind):
    """Return a function that returns a stack which may change hosts, with the given limits."""
    restored = []

    def start(**limits):
        if kind != "live":
            return request.getfixturevalue("new_stack")({**LIVE, **limits})
        stack = request.getfixturevalue("stack")
        if stack.get("/health").json()["dry_run"]:
            pytest.skip("live: dry_run is true there, and is not changed")
        values = (stack.api("/configs/poundcake", show_secrets="true") or {"values": {}})["values"]
        restored.append((stack, values))
        stack.api("/configs/poundcake", "PUT", {**values, **LIVE, **limits})
        return stack

    yield start
    for stack, values in restored:
        stack.api("/configs/poundcake", "PUT", values)


def fire(stack, name, count, **labels):
    """Post one notification about several hosts that are down, and return its request_id."""
    named = unique(name)
    return stack.accepted(
        notification(
            *(
                alert(
                    name,
                    labels={
                        "alertname": named,
                        "instance": unique("silent") + ".test:9100",
                        "run": named,
                        **labels,
                    },
                )
                for _ in range(count)
            )
        )
    )


def decisions(stack, request_id, count, timeout=PATIENCE):
    """Return the decisions about all changes of a request, once its workflows have ended."""
    trail = stack.trail_when(
        request_id,
        lambda t: (
            len(t.get("changes", [])) == count
            and not [c for c in t["changes"] if c["result"] == "in_flight"]
        ),
        timeout,
    )
    return trail, trail["changes"]


def done(stack, trail):
    """Return the executions of the changing action for the alerts of a request."""
    return [e for shown in trail["alerts"] for e in stack.done(shown["episode"])]


def test_nothing_is_changed_during_a_storm(limited):
    stack = limited(storm_limit=5)
    request_id = fire(stack, "ScenarioWrapped", STORM)
    trail, changes = decisions(stack, request_id, STORM)
    assert {change["refusal"] for change in changes} == {"storm"}
    assert "storm_limit is 5" in changes[0]["reason"]
    assert done(stack, trail) == []
    ran = stack.completed(request_id)["stackstorm_executions"]
    assert {(e["status"], e["stage"], e["mutated"]) for e in ran} == {
        ("succeeded", "refused", False)
    }
    assert all("storm_limit is 5" in e["message"] for e in ran)


def test_fifty_hosts_down_at_once_are_changed_up_to_the_limits(limited):
    stack = limited(max_in_flight=3, max_changes_per_remediation_per_hour=5)
    request_id = fire(stack, "ScenarioWrapped", MANY)
    trail, changes = decisions(stack, request_id, MANY)
    changed = [change for change in changes if "refusal" not in change]
    refused = [change for change in changes if "refusal" in change]
    assert 1 <= len(changed) <= 5
    assert len(done(stack, trail)) == len(changed)
    assert {change["refusal"] for change in refused} <= {"site_in_flight", "hourly_limit"}
    shown = stack.run("poundcake.status", request_id=request_id, format="text")
    assert shown.count(": refused, ") == len(refused)
    # Each episode says why.
    first = refused[0]
    instance = next(a["instance"] for a in trail["alerts"] if a["episode"] == first["episode"])
    why = stack.run("poundcake.why", instance=instance, format="text")
    assert f": refused, {first['refusal']}: {first['reason']}" in why


def test_nothing_is_changed_while_changes_are_paused(limited):
    stack = limited()
    stack.run("poundcake.pause", reason="maintenance of rack 12", minutes=30)
    try:
        request_id = fire(stack, "ScenarioWrapped", 1)
        trail, (change,) = decisions(stack, request_id, 1)
        assert (change["result"], change["refusal"]) == ("refused", "paused")
        assert "maintenance of rack 12" in change["reason"]
        assert done(stack, trail) == []
        instance = trail["alerts"][0]["instance"]
        for shown in (
            stack.run("poundcake.why", instance=instance, format="text"),
            stack.run("poundcake.alerts_active", format="text"),
            stack.run("poundcake.health", format="text"),
        ):
            assert shown.lstrip().startswith("PAUSED by ")
            assert "maintenance of rack 12" in shown
        assert stack.get("/alerts/active").json()["paused"]["reason"] == "maintenance of rack 12"
        stack.wait_until(lambda: stack.get("/health").json()["paused"])
        metrics = stack._endpoint.get(stack.url + "/metrics", timeout=30).text
        assert "\npoundcake_paused 1" in metrics
    finally:
        assert stack.run("poundcake.resume")["resumed"] is True
    request_id = fire(stack, "ScenarioWrapped", 1)
    trail, (change,) = decisions(stack, request_id, 1)
    assert change["result"] == "succeeded"
    assert len(done(stack, trail)) == 1
    assert "PAUSED" not in stack.run("poundcake.alerts_active", format="text")


def test_an_incident_is_changed_only_after_it_has_settled(limited):
    stack = limited(settle_seconds=8)
    request_id = fire(stack, "ScenarioWrapped", 1)
    trail, (change,) = decisions(stack, request_id, 1)
    assert change["result"] == "succeeded"
    received_at, decided_at = trail["received_at"], change["decided_at"]
    waited = parse_timestamp(decided_at) - parse_timestamp(received_at)
    assert waited.total_seconds() >= 8
    assert len(done(stack, trail)) == 1


def test_an_alert_that_is_resolved_while_it_settles_is_not_changed(limited):
    stack = limited(settle_seconds=15)
    labels = {"instance": unique("silent") + ".test:9100"}
    firing = alert("ScenarioWrapped", labels=labels)
    request_id = stack.accepted(notification(firing))
    stack.trail_when(request_id, lambda t: t["stackstorm_executions"])
    stack.recorded(stack.accepted(notification(resolved(firing))))
    trail, (change,) = decisions(stack, request_id, 1)
    assert change["refusal"] == "incident_ended"
    assert done(stack, trail) == []


def test_a_failing_remediation_stops_until_it_is_released(limited):
    stack = limited(breaker_failures=2)
    if stack.live:
        pytest.skip("live: no known host there is silent")
    for _ in range(2):
        _, (change,) = decisions(stack, fire(stack, "ScenarioReboot", 1), 1)
        assert change["result"] == "not_verified"
    _, (change,) = decisions(stack, fire(stack, "ScenarioReboot", 1), 1)
    assert change["refusal"] == "breaker"
    assert f"poundcake.release remediation={WORK}" in change["reason"]
    assert stack.run("poundcake.release", remediation=WORK)["failures"] == 2
    _, (change,) = decisions(stack, fire(stack, "ScenarioReboot", 1), 1)
    assert change["result"] == "not_verified"
