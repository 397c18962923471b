"""What a remediation does for an alert: its entry, its rule and the configuration decide."""

from __future__ import annotations

import pytest

from poundcake.config import load
from poundcake.inert import make_inert
from poundcake.remediation.begin import Alert, Request, decide
from poundcake.remediation.errors import RemediationError
from poundcake.remediations import Mode
from poundcake.trail.limits import Situation
from poundcake.trail.pause import Pause
from tests.lib.samples import NOON
from tests.lib.situations import situation_reader

LABELS = {"alertname": "ServiceDown", "instance": "web-1:9100", "service": "nginx"}
ENTRY = {
    "name": "nginx",
    "match": ["alertname=ServiceDown"],
    "mode": "live",
    "action": "linux.service",
    "with": {"act": "restart", "service": "$service"},
    "host_parameter": "hosts",
}
OPEN = {"dry_run": False, "allowed_hosts": ["*"], "allowed_actions": ["linux.service"]}


def decision(request=Request(remediation="nginx"), alert=None, config=None, **entry):
    """Return the decision about an alert, by default for an entry that may change something."""
    labels = {**LABELS, **(alert or {})}
    status, ended = labels.pop("status", "firing"), labels.pop("ended", None)
    configuration = load({**OPEN, "remediations": [{**ENTRY, **entry}], **(config or {})})
    assert configuration.remediation_errors == ()
    return decide(configuration, Alert(labels, situation_reader(labels, status, ended)), request)


def test_a_live_entry_runs_its_action_with_labels_and_host():
    found = decision()
    assert found.may_change
    assert found.as_dict() == {
        "may_reserve": True,
        "may_change": True,
        "action": "linux.service",
        "parameters": {"act": "restart", "service": "nginx"},
        "host_parameter": "hosts",
        "host": "web-1",
        "target": "web-1",
        "dry_run": False,
        "stage": "remediate",
        "message": "",
        "refusal": "",
        "settle_seconds": 0,
        "reservation": {
            "remediation": "nginx",
            "needs_host": True,
            "target": [],
            "per_label": "",
            "at_once": 1,
            "storm": 0,
        },
        "verification": {"check": "", "wait": 0, "pause": 0, "polls": 0},
        "approvers": [],
        "report": found.report().as_dict(),
    }
    assert make_inert(found.as_dict()) == found.as_dict()


@pytest.mark.parametrize("how", [{"mode": "dry_run"}, {"config": {"dry_run": True}}])
def test_a_dry_run_says_literally_what_would_run(how):
    found = decision(**how)
    assert (found.may_change, found.stage, found.dry_run) == (False, "dry_run", True)
    assert found.message == "would run linux.service with act=restart, service=nginx on web-1"
    assert found.report().as_dict() == {
        "status": "succeeded",
        "mutated": False,
        "dry_run": True,
        "verified": False,
        "stage": "dry_run",
        "message": found.message,
        "evidence": {},
    }


@pytest.mark.parametrize("name", ["password", "sudo_password", "api_key", "Token", "private_key"])
def test_a_secret_parameter_reaches_the_action_but_no_text(name):
    outcome = decision(**{"with": {name: "hunter2", "act": "restart"}, "mode": "dry_run"})
    assert outcome.message == f"would run linux.service with {name}=***, act=restart on web-1"
    assert outcome.parameters[name] == "hunter2"


def test_a_dry_run_names_parameters_of_other_types_and_the_labels_of_the_target():
    found = decision(
        mode="dry_run",
        target=["service"],
        **{"with": {"max": 12, "now": True, "paths": ["/var"]}, "host_parameter": ""},
    )
    assert found.message == (
        'would run linux.service with max=12, now=true, paths=["/var"] on service=nginx'
    )


def test_evidence_changes_nothing_and_needs_neither_host_nor_label():
    found = decision(mode="evidence", alert={"instance": "", "service": ""})
    assert (found.stage, found.report().status) == ("evidence", "succeeded")
    assert found.message == "the remediation nginx is in mode evidence, so nothing is changed"


@pytest.mark.parametrize(
    "configured, of_rule, dry_run, stage",
    [
        ("live", "live", False, "remediate"),
        ("live", "dry_run", False, "dry_run"),
        ("live", "evidence", False, "evidence"),
        ("dry_run", "live", False, "dry_run"),
        ("evidence", "dry_run", False, "evidence"),
        ("live", "live", True, "dry_run"),
        ("evidence", "live", True, "evidence"),
    ],
)
def test_the_strictest_mode_of_entry_rule_and_configuration_wins(
    configured, of_rule, dry_run, stage
):
    request = Request(remediation="nginx", mode=Mode(of_rule))
    found = decision(request, mode=configured, config={"dry_run": dry_run})
    assert found.stage == stage


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"alert": {"service": "nginx; reboot"}}, "the label service has a value that is not pass"),
        ({"alert": {"service": ""}}, "the alert has no label service"),
        ({"alert": {"instance": "$(reboot)"}}, "the label instance of the alert contains no host"),
        ({"alert": {"alertname": "Other"}}, "the remediation does not match the alert: nginx ("),
        ({"alert": {"status": "resolved"}}, "the alert is resolved"),
        ({"config": {"allowed_actions": []}}, "allowed_actions does not contain linux.service"),
        ({"config": {"allowed_hosts": ["db-*"]}}, "allowed_hosts does not contain web-1"),
        ({"check": ["alert", "disk:/var"]}, "check: disk is not available in this release"),
        ({"verify": "disk:/var"}, "verify: disk is not available in this release"),
    ],
)
def test_a_refusal_says_why_and_fails(changed, message):
    found = decision(**changed)
    assert (found.may_change, found.stage) == (False, "refused")
    assert found.message.startswith(message)
    assert found.report().status == "failed"


def test_an_ended_incident_is_not_changed():
    found = decision(alert={"ended": "2026-01-14T12:00:00Z"})
    assert (found.stage, found.report().status) == ("ended", "succeeded")


def test_an_entry_that_was_removed_is_refused():
    found = decision(Request(remediation="other"))
    assert (found.stage, found.message) == (
        "refused",
        "the configuration has no valid remediation other",
    )


def test_an_action_of_a_rule_needs_no_host():
    request = Request(action="linux.service", parameters={"note": "{{ x }}"})
    found = decision(request, alert={"instance": ""})
    assert (found.may_change, found.action, found.host_parameter) == (True, "linux.service", "")
    dry = decision(request, config={"dry_run": True})
    assert dry.message == "would run linux.service with note={{ x }} on web-1"


@pytest.mark.parametrize("request_", [Request(), Request(remediation="nginx", action="a.b")])
def test_a_rule_names_either_an_entry_or_an_action(request_):
    with pytest.raises(RemediationError, match="name either a remediation or an action"):
        decision(request_)


def paused(request):
    return Situation(now=NOON, named_host="web-1", pause=Pause(NOON, "anna", "maintenance"))


def test_a_refusal_that_may_pass_is_left_to_the_reservation():
    configuration = load({**OPEN, "remediations": [ENTRY]})
    alert = Alert(LABELS, paused)
    found = decide(configuration, alert, Request(remediation="nginx"))
    assert (found.may_reserve, found.may_change, found.refusal) == (True, False, "paused")
    assert "paused by anna" in found.message


def test_the_limits_of_an_entry_reach_the_reservation():
    asked = []

    def read(request):
        asked.append(request)
        return Situation(now=NOON, named_host="web-1")

    entry = {**ENTRY, "per": {"label": "rack", "at_once": 2, "storm": 3}}
    configuration = load({**OPEN, "remediations": [entry]})
    found = decide(configuration, Alert(LABELS, read), Request("nginx"))
    expected = {"per_label": "rack", "at_once": 2, "storm": 3}
    assert expected.items() <= found.as_dict()["reservation"].items()
    assert (asked[0].per_label, asked[0].at_once, asked[0].storm) == ("rack", 2, 3)


@pytest.mark.parametrize(
    "mode, stage, message",
    [
        ("live", "refused", "web-1 answers: see `check` and `only_if` of nginx"),
        ("dry_run", "dry_run", "would run linux.service with act=restart, service=nginx on web-1"),
        ("evidence", "evidence", "the remediation nginx is in mode evidence, so nothing is cha"),
    ],
)
def test_a_condition_that_is_not_fulfilled_ends_the_workflow_without_failing_it(
    mode, stage, message
):
    checked = []

    def find_objection(entry):
        checked.append(entry.name)
        return "web-1 answers"

    entry = {**ENTRY, "mode": mode, "check": ["tcp:22"]}
    configuration = load({**OPEN, "remediations": [entry]})
    alert = Alert(LABELS, situation_reader(LABELS), find_objection)
    found = decide(configuration, alert, Request(remediation="nginx"))
    assert (found.may_reserve, found.stage) == (False, stage)
    assert found.message.startswith(message)
    assert found.report().status == "succeeded"
    assert checked == ([] if mode == "evidence" else ["nginx"])
    assert ("but not now: web-1 answers" in found.message) == (mode == "dry_run")


def test_the_conditions_of_a_host_that_may_not_be_changed_are_not_checked():
    configuration = load({**OPEN, "denied_hosts": ["web-1"], "remediations": [CHECKED]})
    alert = Alert(LABELS, situation_reader(LABELS), pytest.fail)
    found = decide(configuration, alert, Request(remediation="nginx"))
    assert (found.stage, found.refusal) == ("refused", "host_denied")


def test_conditions_that_agree_permit_a_change():
    configuration = load({**OPEN, "remediations": [CHECKED]})
    alert = Alert(LABELS, situation_reader(LABELS), lambda entry: "")
    assert decide(configuration, alert, Request(remediation="nginx")).may_change


def test_the_verification_of_an_entry_reaches_the_workflow():
    found = decision(verify="tcp:22", wait=60).as_dict()["verification"]
    assert found == {"check": "tcp:22", "wait": 60, "pause": 3, "polls": 22}


CHECKED = {**ENTRY, "check": ["alert"]}


def test_the_mode_ask_names_the_approvers():
    found = decision(mode="ask", approvers=["anna", "ben"])
    assert (found.may_reserve, found.approvers) == (True, ("anna", "ben"))
    assert decision().approvers == ()
    strict = decision(Request("nginx", mode=Mode.ASK), approvers=["anna"])
    assert strict.approvers == ("anna",)


@pytest.mark.parametrize(
    "request_", [Request("nginx", mode=Mode.ASK), Request(action="linux.service", mode=Mode.ASK)]
)
def test_the_mode_ask_of_a_rule_needs_approvers(request_):
    found = decision(request_)
    assert (found.may_reserve, found.stage) == (False, "refused")
    assert "the mode ask needs approvers" in found.message


def test_nobody_is_asked_during_a_pause():
    entry = {**ENTRY, "mode": "ask", "approvers": ["anna"]}
    configuration = load({**OPEN, "remediations": [entry]})
    alert = Alert(LABELS, paused)
    found = decide(configuration, alert, Request(remediation="nginx"))
    assert (found.may_reserve, found.refusal) == (False, "paused")
    assert found.report().status == "succeeded"
