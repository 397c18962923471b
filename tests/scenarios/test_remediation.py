"""The workflows of the pack: what they change, refuse and report."""

from __future__ import annotations

import pytest

from tests.scenarios import conftest
from tests.scenarios.notifications import alert, notification, resolved, unique

# The workflows do not depend on the kind of database, so one is enough.
pytestmark = pytest.mark.parametrize("kind", conftest.KINDS[:1], indirect=True, scope="package")
DRY_RUN = "dry run: nothing was changed"


def remediate(stack, firing_alert):
    """Post an alert, wait until its execution has ended, and return its trail."""
    request_id = stack.send(notification(firing_alert))
    trail = stack.wait_for_trail(
        request_id,
        lambda t: [e for e in t["stackstorm_executions"] if e["status"] in ("succeeded", "failed")],
    )
    assert len(trail["stackstorm_executions"]) == 1, trail
    return trail


def host_down_alert(instance):
    labels = {"alertname": "HostDown", "instance": instance, "run": unique("run")}
    return alert("HostDown", labels=labels)


@pytest.fixture(scope="module")
def dry_run_stack(stack):
    """Return a stack whose dry_run is true, which is the default."""
    if not stack.get("/health").json()["dry_run"]:
        pytest.skip("live: dry_run is off there")
    return stack


def require_stand_in(stack):
    """Skip the test on a live StackStorm, because it needs the stand-in's fake hosts."""
    if stack.is_live:
        pytest.skip("live: the behaviour of the hosts there is unknown")


def make_instance(behaviour):
    """Return a name on the stand-in's network, where the first word defines a host's behaviour."""
    return unique(behaviour) + ".test:9100"


def executed_actions(stack, execution):
    """Return the actions that the tasks of a workflow ran."""
    children = stack.api(f"/executions/{execution['st2_execution_id']}/children")
    return [child["action"]["ref"] for child in children]


def test_stackstorm_does_not_check_itself(dry_run_stack):
    trail = remediate(dry_run_stack, host_down_alert("localhost:9182"))

    execution = trail["stackstorm_executions"][0]
    assert (execution["stage"], execution["verified"]) == ("refused", False)
    assert "StackStorm" in execution["message"]
    assert executed_actions(dry_run_stack, execution) == ["poundcake.begin"]


def test_only_a_host_that_does_not_answer_is_remediated(armed_stack):
    """Case A37."""
    require_stand_in(armed_stack)
    messages = {
        "answers": "answers on port 22",
        "refuses": "is up and refuses connections on port 22, so nothing was changed",
        "missing": "could not be resolved, so nothing was changed",
    }
    alerts = [
        alert("ScenarioReboot", labels={"instance": make_instance(behaviour)})
        for behaviour in messages
    ]
    trail = armed_stack.wait_until_completed(armed_stack.send(notification(*alerts)))

    executions = {e["alert_id"]: e for e in trail["stackstorm_executions"]}
    for alert_view, (behaviour, message) in zip(trail["alerts"], messages.items()):
        execution = executions[alert_view["id"]]
        assert (execution["stage"], execution["mutated"]) == ("evidence", False)
        assert execution["status"] == ("succeeded" if behaviour == "answers" else "failed")
        assert execution["message"].endswith(message)
        assert armed_stack.work_executions(alert_view["episode"]) == []


def test_every_view_shows_that_a_dry_run_changed_nothing(dry_run_stack):
    """Case A37."""
    trail = remediate(dry_run_stack, host_down_alert(unique("host") + ".invalid"))

    execution = trail["stackstorm_executions"][0]
    assert (execution["status"], execution["stage"]) == ("succeeded", "dry_run")
    assert execution["dry_run"] is True
    assert execution["mutated"] is False
    assert execution["verified"] is False
    assert execution["message"].startswith(DRY_RUN)
    assert executed_actions(dry_run_stack, execution) == ["poundcake.begin"]
    trail = dry_run_stack.wait_until_completed(trail["request_id"])
    execution_view = trail["stackstorm_executions"][0]
    assert execution_view["message"] == execution["message"]
    for view, query in (
        ("poundcake.status", {"request_id": trail["request_id"]}),
        ("poundcake.why", {"instance": trail["alerts"][0]["instance"]}),
        ("poundcake.alerts_active", {"instance": trail["alerts"][0]["instance"]}),
    ):
        assert "dry run" in dry_run_stack.run(view, format="text", **query).lower()
    incidents = dry_run_stack.get("/alerts/active", instance=trail["alerts"][0]["instance"]).json()
    assert [a["remediation_status"] for a in incidents["active_alerts"]] == [
        f"succeeded ({DRY_RUN})"
    ]


def test_an_alert_without_a_usable_host_is_refused(dry_run_stack):
    trail = remediate(dry_run_stack, host_down_alert("web-1; reboot"))

    execution = trail["stackstorm_executions"][0]
    assert (execution["status"], execution["stage"]) == ("succeeded", "refused")
    assert execution["mutated"] is False
    assert execution["message"].startswith(DRY_RUN)
    assert "the label instance of the alert contains no host" in execution["message"]
    assert executed_actions(dry_run_stack, execution) == ["poundcake.begin"]


def test_another_label_may_contain_the_host(dry_run_stack):
    """The label `instance` may name an exporter on another machine."""
    stack = dry_run_stack
    exporter_labels = {"alertname": "HostDown", "instance": unique("silent") + ".test:8080"}
    node = unique("answers") + ".test"
    with stack.configured(host_label="node"):
        trail = remediate(stack, alert("HostDown", labels={**exporter_labels, "node": node}))
        result = stack.run(
            "poundcake.get_alert",
            request_id=trail["request_id"],
            episode=trail["alerts"][0]["episode"],
        )
        trail_without_node = remediate(stack, alert("HostDown", labels=exporter_labels))
    execution = trail["stackstorm_executions"][0]
    assert execution["st2_workflow"] == "poundcake.host_down"
    assert (execution["dry_run"], execution["mutated"]) == (True, False)
    assert execution["message"].startswith(DRY_RUN)
    if not stack.is_live:  # no host has this name there
        assert (execution["status"], execution["stage"]) == ("succeeded", "evidence")
        assert execution["verified"] is True
        assert execution["message"].endswith(f"{node} answers on port 22")
    assert (result["host"], result["port"], result["instance"]) == (
        node,
        0,
        exporter_labels["instance"],
    )
    execution = trail_without_node["stackstorm_executions"][0]
    assert execution["stage"] == "refused"
    assert "the label node of the alert contains no host" in execution["message"]


def test_a_dry_run_runs_no_action_of_another_pack(dry_run_stack):
    trail = remediate(dry_run_stack, alert("ScenarioWrapped"))

    execution = trail["stackstorm_executions"][0]
    assert execution["status"] == "succeeded"
    assert execution["stage"] == "refused"
    assert execution["mutated"] is False
    assert "allowed_actions does not contain poundcake_scenarios.work" in execution["message"]
    assert dry_run_stack.work_executions(trail["alerts"][0]["episode"]) == []


def test_an_allowed_action_of_another_pack_runs(armed_stack):
    trail = remediate(armed_stack, alert("ScenarioWrapped"))

    execution = trail["stackstorm_executions"][0]
    assert (execution["status"], execution["stage"]) == ("succeeded", "done")
    assert execution["dry_run"] is False
    assert execution["mutated"] is True
    assert execution["message"] == "the action succeeded"
    # The claim has the action's name, although the action does not use this pack.
    assert execution["st2_workflow"] == "poundcake_scenarios.work"
    assert len(armed_stack.work_executions(trail["alerts"][0]["episode"])) == 1


def test_nothing_is_changed_for_an_ended_incident(armed_stack):
    firing_alert = alert("ScenarioUnmatched")
    trail = armed_stack.wait_until_recorded(armed_stack.send(notification(firing_alert)))
    armed_stack.wait_until_recorded(armed_stack.send(notification(resolved(firing_alert))))
    episode = trail["alerts"][0]["episode"]
    execution = armed_stack.execute(
        "poundcake.remediate",
        request_id=trail["request_id"],
        episode=episode,
        action="poundcake_scenarios.work",
        parameters={"note": episode},
    )
    assert execution["status"] == "succeeded"
    output = execution["result"]["output"]
    assert (output["stage"], output["mutated"]) == ("ended", False)
    assert output["message"].startswith("the incident ended at 20")
    assert armed_stack.work_executions(episode) == []


def test_an_action_that_is_not_allowed_is_refused(armed_stack):
    trail = armed_stack.wait_until_recorded(
        armed_stack.send(notification(alert("ScenarioUnmatched")))
    )
    execution = armed_stack.execute(
        "poundcake.remediate",
        request_id=trail["request_id"],
        episode=trail["alerts"][0]["episode"],
        action="core.local",
        parameters={"cmd": "true"},
    )
    assert execution["status"] == "failed"
    output = execution["result"]["output"]
    assert (output["stage"], output["mutated"]) == ("refused", False)
    assert output["message"] == (
        "allowed_actions does not contain core.local: add it to allowed_actions"
    )


def test_the_workflow_fails_if_the_host_does_not_come_back(armed_stack):
    """Case A37."""
    instance = armed_stack.silent_host() + ":9100"
    # The action gets the canonical host.
    noncanonical_instance = "HTTP://" + instance.upper() + "/metrics"
    trail = remediate(
        armed_stack, alert("ScenarioReboot", labels={"instance": noncanonical_instance})
    )

    execution = trail["stackstorm_executions"][0]
    assert execution["st2_workflow"] == "poundcake.host_down"
    assert (execution["status"], execution["stage"]) == ("failed", "verify")
    assert execution["dry_run"] is False
    assert execution["mutated"] is True
    assert execution["verified"] is False
    host = instance.split(":")[0]
    assert execution["message"] == f"not verified within 0 s: {host} does not answer"
    work = armed_stack.work_executions(trail["alerts"][0]["episode"])
    assert [e["parameters"]["host"] for e in work] == [host]
    actions = executed_actions(armed_stack, execution)
    actions.remove("poundcake_scenarios.work")  # a task of on_host
    assert actions == [
        "poundcake.begin",
        "poundcake.change",
        "poundcake.reserve",
        "poundcake.on_host",
        "poundcake.verify",
        "poundcake.report",
    ]


def test_a_host_that_answers_after_the_incident_has_settled_is_not_changed(armed_stack):
    """Case A37."""
    require_stand_in(armed_stack)
    with armed_stack.configured(settle_seconds=10):
        trail = remediate(
            armed_stack, alert("ScenarioReboot", labels={"instance": make_instance("answers")})
        )
    execution = trail["stackstorm_executions"][0]
    assert (execution["status"], execution["stage"]) == ("succeeded", "evidence")
    assert (execution["mutated"], execution["verified"]) == (False, True)
    assert execution["message"].endswith(" answers on port 22")
    assert executed_actions(armed_stack, execution) == [
        "poundcake.begin",
        "poundcake.change",
        "poundcake.reserve",
        "poundcake.report",
    ]
    assert armed_stack.work_executions(trail["alerts"][0]["episode"]) == []


def test_the_default_workflow_reports_any_alert_with_one_task(dry_run_stack):
    trail = dry_run_stack.wait_until_recorded(
        dry_run_stack.send(notification(alert("ScenarioUnmatched", labels={"instance": "a; b"})))
    )
    ids = {"request_id": trail["request_id"], "episode": trail["alerts"][0]["episode"]}
    execution = dry_run_stack.execute("poundcake.default", **ids)
    assert execution["status"] == "succeeded"
    output = execution["result"]["output"]
    assert (output["stage"], output["mutated"], output["verified"]) == ("dry_run", False, False)
    assert output["message"] == "the rule names no action, so nothing would be changed"
    children = dry_run_stack.api(f"/executions/{execution['id']}/children")
    assert [child["action"]["ref"] for child in children] == ["poundcake.begin"]
    trail = dry_run_stack.wait_for_trail(ids["request_id"], lambda t: t["stackstorm_executions"])
    (linked_execution,) = trail["stackstorm_executions"]
    assert linked_execution["st2_workflow"] == "poundcake.default"


def test_a_users_rule_beside_the_shipped_rule_runs_its_action_once_per_alert(armed_stack):
    """Case A32: both rules start the same workflow, but the shipped one only collects evidence."""
    count = 50 if armed_stack.is_live else 2
    labels = {"alertname": "HostDown", "owner": "scenario"}
    firing_alerts = [
        alert("HostDown", labels={**labels, "instance": armed_stack.silent_host() + ":9100"})
        for _ in range(count)
    ]
    request_id = armed_stack.send(notification(*firing_alerts))
    trail = armed_stack.wait_until_completed(request_id, timeout=900)
    assert [
        len(armed_stack.work_executions(alert_view["episode"])) for alert_view in trail["alerts"]
    ] == [1] * count
    stages = sorted((e["st2_rule"], e["stage"]) for e in trail["stackstorm_executions"])
    assert (
        stages
        == [("poundcake.host_down", "evidence")] * count
        + [("poundcake_scenarios.own_host_down", "verify")] * count
    )
