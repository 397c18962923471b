"""Configured remediations: each mode, the plan, and users' rules for the same alert."""

from __future__ import annotations

import pytest

from tests.scenarios import conftest
from tests.scenarios.notifications import alert, notification, unique

# The workflows do not depend on the kind of database, so one is enough.
pytestmark = pytest.mark.parametrize("kind", conftest.KINDS[:1], indirect=True, scope="package")
WORK = "poundcake_scenarios.work"
QUOTED = 'it\'s "quoted" \\ text'
ENTRIES = [
    {"name": "broken", "match": ["alertname=ScenarioConfigured"], "mode": "live"},
    {
        "name": "scenario-live",
        "match": ["alertname=ScenarioConfigured"],
        "mode": "live",
        "action": WORK,
        "with": {"note": "$note", "details": {"fixed": QUOTED, "unit": "$note"}},
    },
    {
        "name": "scenario-dry-run",
        "match": ["alertname=ScenarioConfiguredDryRun"],
        "mode": "dry_run",
        "action": WORK,
        "with": {"note": "$note"},
    },
    {
        "name": "scenario-evidence",
        "match": ["alertname=ScenarioWrappedEvidence"],
        "mode": "evidence",
        "action": WORK,
        "host_parameter": "",
    },
    {
        "name": "scenario-twice",
        "match": ["alertname=ScenarioWrappedTwice"],
        "mode": "live",
        "action": WORK,
        "with": {"note": "$note"},
        "host_parameter": "",
    },
]


@pytest.fixture(scope="module")
def configured_stack(armed_stack):
    """Return a stack that may change hosts, with these remediations."""
    with armed_stack.configured_remediations(ENTRIES, valid_count=len(ENTRIES) - 1):
        yield armed_stack


def new_alert(name, **labels):
    """Return an alert and its label `note`, which identifies the work for the alert."""
    note = unique("note")
    labels = {"alertname": name, "instance": unique("web") + ".test:9100", "note": note, **labels}
    return alert(name, labels=labels), labels["note"]


def send_and_complete(stack, sent_alert):
    return stack.wait_until_completed(stack.send(notification(sent_alert)))


def only_execution(trail):
    (execution,) = trail["stackstorm_executions"]
    return execution


def test_a_live_remediation_runs_its_action_once(configured_stack):
    """Case A30: in mode live."""
    sent_alert, note = new_alert("ScenarioConfigured")
    trail = send_and_complete(configured_stack, sent_alert)
    send_and_complete(configured_stack, sent_alert)  # a repeat
    execution = only_execution(trail)
    assert (execution["st2_workflow"], execution["st2_rule"]) == (WORK, "poundcake.remediate")
    assert (execution["status"], execution["stage"]) == ("succeeded", "done")
    assert (execution["mutated"], execution["dry_run"]) == (True, False)
    (work,) = configured_stack.work_executions(note)
    host = sent_alert["labels"]["instance"].partition(":")[0]
    assert work["parameters"]["host"] == host
    assert work["result"]["result"]["details"] == {"fixed": QUOTED, "unit": note}

    second_execution = configured_stack.execute(
        "poundcake.remediate",
        request_id=trail["request_id"],
        episode=trail["alerts"][0]["episode"],
        remediation="scenario-live",
    )
    assert second_execution["result"]["output"]["stage"] == "not_claimed"
    assert len(configured_stack.work_executions(note)) == 1


def test_a_dry_run_reports_what_would_run_and_takes_no_claim(configured_stack):
    """Case A30: in mode dry_run."""
    sent_alert, note = new_alert("ScenarioConfiguredDryRun")
    trail = send_and_complete(configured_stack, sent_alert)
    execution = only_execution(trail)
    assert (execution["status"], execution["stage"]) == ("succeeded", "dry_run")
    assert (execution["mutated"], execution["dry_run"]) == (False, True)
    host = sent_alert["labels"]["instance"].partition(":")[0]
    assert f"would run {WORK} with note={note} on {host}" in execution["message"]
    assert configured_stack.work_executions(note) == []

    second_execution = configured_stack.execute(
        "poundcake.remediate",
        request_id=trail["request_id"],
        episode=trail["alerts"][0]["episode"],
        action=WORK,
        parameters={"note": note},
    )
    assert second_execution["result"]["output"]["stage"] == "done"
    assert len(configured_stack.work_executions(note)) == 1


def test_an_alert_that_no_entry_or_rule_matches_starts_no_execution(configured_stack):
    """Case A31."""
    sent_alert, _ = new_alert("ScenarioUnmatched")
    trail = send_and_complete(configured_stack, sent_alert)
    assert trail["stackstorm_executions"] == []
    assert "no rule matched" in trail["alerts"][0]["reason"]
    assert configured_stack.traced_execution_ids(trail["request_id"]) == set()


def test_an_unsafe_label_value_is_refused(configured_stack):
    """Case A30: the value of a label is not safe to pass to an action."""
    sent_alert, note = new_alert("ScenarioConfigured", note="web-1; reboot")
    execution = only_execution(send_and_complete(configured_stack, sent_alert))
    assert (execution["status"], execution["stage"]) == ("failed", "refused")
    assert execution["mutated"] is False
    assert "the label note has a value that is not passed to actions" in execution["message"]
    assert configured_stack.work_executions(note) == []


@pytest.fixture(scope="module")
def evidence_trail(configured_stack):
    """Return the trail of an alert that matches an entry in mode evidence and a user's rule."""
    return send_and_complete(configured_stack, new_alert("ScenarioWrappedEvidence")[0])


def test_an_evidence_entry_does_not_block_a_users_rule(configured_stack, evidence_trail):
    """Case A32: an entry in mode evidence."""
    trail = evidence_trail
    stages = {e["st2_rule"]: e["stage"] for e in trail["stackstorm_executions"]}
    assert stages == {"poundcake.remediate": "evidence", "poundcake_scenarios.wrapped": "done"}
    assert len(configured_stack.work_executions(trail["alerts"][0]["episode"])) == 1
    why = configured_stack.run(
        "poundcake.why", format="text", instance=trail["alerts"][0]["instance"]
    )
    words = " ".join(why.split())
    assert "is in mode evidence, so nothing is changed" in words
    assert "the action succeeded" in words


def test_the_same_action_of_an_entry_and_of_a_users_rule_runs_once(configured_stack):
    """Case A32: the entry and the rule name the same action."""
    sent_alert, note = new_alert("ScenarioWrappedTwice")
    trail = send_and_complete(configured_stack, sent_alert)
    work = configured_stack.work_executions(
        trail["alerts"][0]["episode"]
    ) + configured_stack.work_executions(note)
    assert len(work) == 1
    assert [e["stage"] for e in trail["stackstorm_executions"]] == ["done"]


def test_a_plan_shows_what_would_happen_and_records_nothing(configured_stack, evidence_trail):
    sent_alert, note = new_alert("ScenarioConfigured")
    plan = configured_stack.run("poundcake.plan", labels=sent_alert["labels"])
    entry = plan["remediation"]
    host = sent_alert["labels"]["instance"].partition(":")[0]
    assert (entry["name"], entry["would_change"]) == ("scenario-live", True)
    assert entry["started_by"] == ["poundcake.remediate"]
    assert entry["change"].startswith(f"{WORK} with note={note}, details=")
    assert entry["change"].endswith(f" on {host}")
    incidents = configured_stack.active_alerts("ScenarioConfigured")
    assert sent_alert["labels"]["instance"] not in [a["instance"] for a in incidents]
    assert configured_stack.work_executions(note) == []

    text = configured_stack.run(
        "poundcake.plan", episode=evidence_trail["alerts"][0]["episode"], format="text"
    )
    assert "WOULD REPORT  ScenarioWrappedEvidence" in text
    assert "nothing is started again by itself" in text  # its execution has ended
    assert "stopped: mode is evidence; set mode: live" in text
    assert "rule poundcake_scenarios.wrapped starts poundcake.remediate" in text


def test_the_plan_and_health_show_an_invalid_entry(configured_stack):
    """Case A33: the plan without an alert checks every entry."""
    plan = configured_stack.run("poundcake.plan")
    assert {e["name"]: e["problems"] for e in plan["remediations"]} == {
        "scenario-live": [],
        "scenario-dry-run": [],
        "scenario-evidence": [],
        "scenario-twice": [],
    }
    assert plan["errors"] == [
        "remediations, entry 1 (broken): action: is missing; the mode live needs the action to run"
    ]
    health = configured_stack.get("/health").json()
    assert health["status"] == "degraded"
    (error,) = health["configuration"]["remediation_errors"]
    assert "entry 1 (broken)" in error
    assert error in configured_stack.run("poundcake.health")["configuration"]["remediation_errors"]
