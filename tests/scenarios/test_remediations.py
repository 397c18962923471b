"""Remediations of the configuration: started by the shipped rule, in each mode, and planned."""

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
def configured(armed):
    """Return a stack that may change hosts, with these remediations."""
    values = (armed.api("/configs/poundcake", show_secrets="true") or {"values": {}})["values"]
    try:
        armed.api("/configs/poundcake", "PUT", {**values, "remediations": ENTRIES})
    except AssertionError as error:  # the API may not be able to write the file
        if not armed.live:
            raise
        pytest.skip(f"live: the configuration cannot be changed through the API ({error})")
    armed.wait_until(
        lambda: armed.get("/health").json()["configuration"],
        lambda c: len(c["in_force"].get("remediations", [])) == len(ENTRIES) - 1,
    )
    yield armed
    armed.api("/configs/poundcake", "PUT", values)
    armed.wait_until(
        lambda: armed.get("/health").json()["configuration"],
        lambda c: c["in_force"]["remediations"] == values.get("remediations", []),
    )


def firing(name, **labels):
    """Return an alert, and its label `note`, by which its work is counted."""
    note = unique("note")
    labels = {"alertname": name, "instance": unique("web") + ".test:9100", "note": note, **labels}
    return alert(name, labels=labels), labels["note"]


def completed(stack, sent):
    return stack.completed(stack.accepted(notification(sent)))


def only_execution(trail):
    (execution,) = trail["stackstorm_executions"]
    return execution


def test_a_live_remediation_runs_its_action_once(configured):
    """A30: in mode live."""
    sent, note = firing("ScenarioConfigured")
    trail = completed(configured, sent)
    completed(configured, sent)  # a repeat
    execution = only_execution(trail)
    assert (execution["st2_workflow"], execution["st2_rule"]) == (WORK, "poundcake.remediate")
    assert (execution["status"], execution["stage"]) == ("succeeded", "done")
    assert (execution["mutated"], execution["dry_run"]) == (True, False)
    (done,) = configured.done(note)
    host = sent["labels"]["instance"].partition(":")[0]
    assert done["parameters"]["host"] == host
    assert done["result"]["result"]["details"] == {"fixed": QUOTED, "unit": note}

    again = configured.execute(
        "poundcake.remediate",
        request_id=trail["request_id"],
        episode=trail["alerts"][0]["episode"],
        remediation="scenario-live",
    )
    assert again["result"]["output"]["stage"] == "not_claimed"
    assert len(configured.done(note)) == 1


def test_a_dry_run_says_what_would_run_and_leaves_the_claim_to_others(configured):
    """A30: in mode dry_run."""
    sent, note = firing("ScenarioConfiguredDryRun")
    trail = completed(configured, sent)
    execution = only_execution(trail)
    assert (execution["status"], execution["stage"]) == ("succeeded", "dry_run")
    assert (execution["mutated"], execution["dry_run"]) == (False, True)
    host = sent["labels"]["instance"].partition(":")[0]
    assert f"would run {WORK} with note={note} on {host}" in execution["message"]
    assert configured.done(note) == []

    changed = configured.execute(
        "poundcake.remediate",
        request_id=trail["request_id"],
        episode=trail["alerts"][0]["episode"],
        action=WORK,
        parameters={"note": note},
    )
    assert changed["result"]["output"]["stage"] == "done"
    assert len(configured.done(note)) == 1


def test_an_alert_that_nothing_matches_costs_no_execution(configured):
    """A31."""
    sent, _ = firing("ScenarioUnmatched")
    trail = completed(configured, sent)
    assert trail["stackstorm_executions"] == []
    assert "no rule matched" in trail["alerts"][0]["reason"]
    assert configured.traced(trail["request_id"]) == set()


@pytest.mark.parametrize("note", ["web-1; reboot", "{{ 7 * 7 }}", "../etc"])
def test_a_label_that_is_not_safe_is_refused(configured, note):
    """A30: a label that is not safe to pass on."""
    sent, note = firing("ScenarioConfigured", note=note)
    execution = only_execution(completed(configured, sent))
    assert (execution["status"], execution["stage"]) == ("failed", "refused")
    assert execution["mutated"] is False
    assert "the label note has a value that is not passed to actions" in execution["message"]
    assert configured.done(note) == []


def test_an_evidence_entry_does_not_block_the_rule_of_a_user(configured):
    """A32: an entry in mode evidence."""
    sent, _ = firing("ScenarioWrappedEvidence")
    trail = completed(configured, sent)
    stages = {e["st2_rule"]: e["stage"] for e in trail["stackstorm_executions"]}
    assert stages == {"poundcake.remediate": "evidence", "poundcake_scenarios.wrapped": "done"}
    assert len(configured.done(trail["alerts"][0]["episode"])) == 1
    why = configured.run("poundcake.why", format="text", instance=sent["labels"]["instance"])
    assert "is in mode evidence, so nothing is changed" in why
    assert "the action succeeded" in why


def test_the_same_action_of_an_entry_and_of_a_users_rule_runs_once(configured):
    """A32: both run the same action."""
    sent, note = firing("ScenarioWrappedTwice")
    trail = completed(configured, sent)
    done = configured.done(trail["alerts"][0]["episode"]) + configured.done(note)
    assert len(done) == 1
    assert [e["stage"] for e in trail["stackstorm_executions"]] == ["done"]


def test_a_plan_says_what_would_happen_and_records_nothing(configured):
    sent, note = firing("ScenarioConfigured")
    planned = configured.run("poundcake.plan", labels=sent["labels"])
    entry = planned["remediation"]
    host = sent["labels"]["instance"].partition(":")[0]
    assert (entry["name"], entry["would_change"]) == ("scenario-live", True)
    assert entry["started_by"] == ["poundcake.remediate"]
    assert entry["change"].startswith(f"{WORK} with note={note}, details=")
    assert entry["change"].endswith(f" on {host}")
    assert configured.active("ScenarioConfigured") == [
        a for a in configured.active("ScenarioConfigured") if a["instance"] != host
    ]
    assert configured.done(note) == []

    trail = completed(configured, firing("ScenarioWrappedEvidence")[0])
    text = configured.run("poundcake.plan", episode=trail["alerts"][0]["episode"], format="text")
    assert "WOULD REPORT  ScenarioWrappedEvidence" in text
    assert "stopped: mode is evidence; set mode: live" in text
    assert "rule poundcake_scenarios.wrapped starts poundcake.remediate" in text


def test_a_plan_checks_every_entry(configured):
    """A33: the plan without an alert."""
    checked = configured.run("poundcake.plan")
    assert {e["name"]: e["problems"] for e in checked["remediations"]} == {
        "scenario-live": [],
        "scenario-dry-run": [],
        "scenario-evidence": [],
        "scenario-twice": [],
    }
    assert checked["errors"] == [
        "remediations, entry 1 (broken): action: is missing; the mode live needs the action to run"
    ]


def test_health_shows_an_invalid_entry(configured):
    """A33."""
    health = configured.get("/health").json()
    assert health["status"] == "degraded"
    (error,) = health["configuration"]["remediation_errors"]
    assert "entry 1 (broken)" in error
    assert error in configured.run("poundcake.health")["configuration"]["remediation_errors"]
