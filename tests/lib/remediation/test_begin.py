"""The entry, the rule and the configuration decide what a remediation does for an alert."""

from __future__ import annotations

from dataclasses import replace

import pytest

from poundcake.config import load
from poundcake.inert import make_inert
from poundcake.remediation.begin import DEFAULT, HOST_DOWN, Alert, Request, decide
from poundcake.remediation.checks import TcpResult, TcpState
from poundcake.remediation.errors import RemediationError
from poundcake.remediation.safety import ConditionsResult
from poundcake.remediations import Mode
from poundcake.trail.limits import ChangeRequest, Situation
from poundcake.trail.pause import Pause
from tests.lib.samples import NOON, later
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
ENTRY_WITH_CHECK = {**ENTRY, "check": ["alert"]}
PERMISSIVE_CONFIG = {"dry_run": False, "allowed_hosts": ["*"], "allowed_actions": ["linux.service"]}


def decide_about(request=Request(remediation="nginx"), alert=None, config=None, **entry):
    """Return the decision about an alert, by default with an entry that permits a change."""
    labels = {**LABELS, **(alert or {})}
    status, ended_at = labels.pop("status", "firing"), labels.pop("ended_at", None)
    configuration = load(
        {**PERMISSIVE_CONFIG, "remediations": [{**ENTRY, **entry}], **(config or {})}
    )
    assert configuration.remediation_errors == ()
    return decide(configuration, Alert(labels, situation_reader(labels, status, ended_at)), request)


def test_a_live_entry_runs_its_action_with_labels_and_host():
    decision = decide_about()
    assert decision.may_change
    assert decision.as_dict() == {
        "may_reserve": True,
        "may_change": True,
        "next_task": "reserve",
        "action": "linux.service",
        "parameters": {"act": "restart", "service": "nginx"},
        "host_parameter": "hosts",
        "host": "web-1",
        "target": "web-1",
        "change": "linux.service with act=restart, service=nginx on web-1",
        "dry_run": False,
        "stage": "remediate",
        "message": "",
        "refusal": "",
        "evidence": [],
        "settle_seconds": 0,
        "reservation": {
            "remediation": "nginx",
            "needs_host": True,
            "target": [],
            "per_label": "",
            "at_once": 1,
            "storm": 0,
            "check_host": False,
        },
        "verification": {
            "check": "",
            "wait": 0,
            "delay": 0,
            "pause": 0,
            "polls": 0,
            "action": "",
            "parameters": {},
        },
        "inspections": [],
        "host_checks": [],
        "approvers": [],
        "ends_as": "",
        "report": decision.interrupted_report(),
        "canceled_report": decision.canceled_report(),
    }
    assert make_inert(decision.as_dict()) == decision.as_dict()


def test_an_action_without_the_host_is_not_described_as_if_it_got_it():
    """People approve the change by this text."""
    assert decide_about(host_parameter="").change == (
        "linux.service with act=restart, service=nginx (the action gets no host)"
    )
    passed_by_label = decide_about(
        alert={"instance": "Web-1:9100"}, host_parameter="", **{"with": {"node": "$instance"}}
    )
    assert passed_by_label.change == "linux.service with node=Web-1:9100 on web-1"
    by_label = decide_about(host_parameter="", target=["service"])
    assert by_label.change.endswith(" on service=nginx")


def test_a_workflow_that_may_change_something_does_not_claim_that_nothing_was_changed():
    """Its later tasks may be killed before they report."""
    result = decide_about().as_dict()
    report, canceled_report = result["report"], result["canceled_report"]
    assert (report["status"], report["stage"], report["mutated"]) == (
        "failed",
        "remediate",
        "unknown",
    )
    assert report["message"].endswith("the change may have been made")
    # While it waits for an approval, nothing has been changed.
    assert (canceled_report["stage"], canceled_report["message"]) == (
        "",
        "the workflow was cancelled before its report",
    )


def test_a_workflow_that_only_inspects_the_host_has_changed_nothing_if_it_is_interrupted():
    decision = decide_about(mode="evidence", evidence=["poundcake.check_memory"])
    report = decision.as_dict()["report"]
    assert decision.next_task == "inspect"
    assert (report["status"], report["stage"], report["mutated"]) == ("failed", "link", False)


@pytest.mark.parametrize(
    "overrides, ends_as",
    [({"mode": "dry_run"}, "succeeded"), ({"config": {"allowed_actions": []}}, "failed")],
)
def test_a_workflow_that_ends_at_once_has_its_final_report(overrides, ends_as):
    decision = decide_about(**overrides)
    result = decision.as_dict()
    assert (result["ends_as"], result["report"]) == (ends_as, decision.report().as_dict())


@pytest.mark.parametrize("overrides", [{"mode": "dry_run"}, {"config": {"dry_run": True}}])
def test_a_dry_run_shows_the_exact_change(overrides):
    decision = decide_about(**overrides)
    assert (decision.may_change, decision.stage, decision.dry_run) == (False, "dry_run", True)
    assert decision.message == "would run linux.service with act=restart, service=nginx on web-1"
    assert decision.report().as_dict() == {
        "status": "succeeded",
        "mutated": False,
        "dry_run": True,
        "verified": False,
        "stage": "dry_run",
        "message": decision.message,
        "evidence": {},
    }


@pytest.mark.parametrize("name", ["password", "sudo_password", "api_key", "Token", "private_key"])
def test_a_secret_parameter_is_passed_to_the_action_and_masked_in_text(name):
    decision = decide_about(**{"with": {name: "hunter2", "act": "restart"}, "mode": "dry_run"})
    assert decision.message == f"would run linux.service with {name}=***, act=restart on web-1"
    assert decision.parameters[name] == "hunter2"


def test_a_dry_run_shows_parameters_of_other_types_and_the_labels_of_the_target():
    decision = decide_about(
        mode="dry_run",
        target=["service"],
        **{"with": {"max": 12, "now": True, "paths": ["/var"]}, "host_parameter": ""},
    )
    assert decision.message == (
        'would run linux.service with max=12, now=true, paths=["/var"] on service=nginx'
    )


def test_the_mode_evidence_changes_nothing_and_needs_neither_host_nor_label():
    decision = decide_about(mode="evidence", alert={"instance": "", "service": ""})
    assert (decision.stage, decision.report().status) == ("evidence", "succeeded")
    assert decision.message == "the remediation nginx is in mode evidence, so nothing is changed"


@pytest.mark.parametrize(
    "entry_mode, rule_mode, dry_run, stage",
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
    entry_mode, rule_mode, dry_run, stage
):
    request = Request(remediation="nginx", mode=Mode(rule_mode))
    decision = decide_about(request, mode=entry_mode, config={"dry_run": dry_run})
    assert decision.stage == stage


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"alert": {"service": "nginx; reboot"}}, "the label service has a value that is not pass"),
        ({"alert": {"service": ""}}, "the alert has no label service"),
        ({"alert": {"instance": "$(reboot)"}}, "the label instance of the alert contains no host"),
        ({"alert": {"alertname": "Other"}}, "the remediation does not match the alert: nginx ("),
        ({"alert": {"status": "resolved"}}, "the alert is resolved"),
        ({"config": {"allowed_actions": []}}, "allowed_actions does not contain linux.service"),
        ({"config": {"allowed_hosts": ["db-*"]}}, "allowed_hosts does not contain web-1"),
        ({"check": ["action:mypack.inspect"]}, "allowed_actions does not contain mypack.inspect"),
        ({"verify": "action:mypack.inspect"}, "allowed_actions does not contain mypack.inspect"),
        ({"evidence": ["mypack.snapshot"]}, "allowed_actions does not contain mypack.snapshot"),
        (
            {"check": ["disk:$mountpoint>90"], "alert": {"mountpoint": "/var log"}},
            "the label mountpoint has a value that is not passed to actions",
        ),
        (
            {"check": ["disk:$mountpoint>90"], "alert": {"mountpoint": "var"}},
            "the label mountpoint: disk:var>90 must have the form disk:/var>90",
        ),
        (
            {
                "check": ["memory>90"],
                "target": ["service"],
                "host_parameter": "",
                "alert": {"instance": ""},
            },
            "the alert names no host that may be checked",
        ),
    ],
)
def test_a_refusal_has_a_reason_and_fails_the_workflow(overrides, message):
    decision = decide_about(**overrides)
    assert (decision.may_change, decision.stage) == (False, "refused")
    assert decision.message.startswith(message)
    assert decision.report().status == "failed"


def test_an_ended_incident_permits_no_change():
    decision = decide_about(alert={"ended_at": "2026-01-14T12:00:00Z"})
    assert (decision.stage, decision.report().status) == ("ended", "succeeded")


def test_a_removed_entry_is_refused():
    decision = decide_about(Request(remediation="other"))
    assert (decision.stage, decision.message) == (
        "refused",
        "the configuration has no valid remediation other",
    )


def test_an_action_chosen_by_a_rule_needs_no_host():
    request = Request(action="linux.service", parameters={"note": "{{ x }}"})
    decision = decide_about(request, alert={"instance": ""})
    assert (decision.may_change, decision.action, decision.host_parameter) == (
        True,
        "linux.service",
        "",
    )
    dry_run_decision = decide_about(request, config={"dry_run": True})
    assert (
        dry_run_decision.message
        == "would run linux.service with note={{ x }} (the action gets no host)"
    )


@pytest.mark.parametrize("request_", [Request(), Request(remediation="nginx", action="a.b")])
def test_a_rule_names_either_an_entry_or_an_action(request_):
    with pytest.raises(RemediationError, match="name either a remediation or an action"):
        decide_about(request_)


def read_paused_situation(request):
    return Situation(now=NOON, named_host="web-1", pause=Pause(NOON, "anna", "maintenance"))


def test_a_temporary_refusal_is_left_to_the_reservation():
    configuration = load({**PERMISSIVE_CONFIG, "remediations": [ENTRY]})
    alert = Alert(LABELS, read_paused_situation)
    decision = decide(configuration, alert, Request(remediation="nginx"))
    assert (decision.may_reserve, decision.may_change, decision.refusal) == (True, False, "paused")
    assert "paused by anna" in decision.message


def test_the_limits_of_an_entry_are_passed_to_the_reservation():
    requests = []

    def read_situation(request):
        requests.append(request)
        return Situation(now=NOON, named_host="web-1")

    entry = {**ENTRY, "per": {"label": "rack", "at_once": 2, "storm": 3}}
    configuration = load({**PERMISSIVE_CONFIG, "remediations": [entry]})
    decision = decide(configuration, Alert(LABELS, read_situation), Request("nginx"))
    limits = {"per_label": "rack", "at_once": 2, "storm": 3}
    assert limits.items() <= decision.as_dict()["reservation"].items()
    assert (requests[0].per_label, requests[0].at_once, requests[0].storm) == ("rack", 2, 3)


@pytest.mark.parametrize(
    "mode, stage, message",
    [
        ("live", "refused", "web-1 answers: see `check` and `only_if` of nginx"),
        ("dry_run", "dry_run", "would run linux.service with act=restart, service=nginx on web-1"),
        ("evidence", "evidence", "the remediation nginx is in mode evidence, so nothing is cha"),
    ],
)
def test_an_unmet_condition_ends_the_workflow_without_failing_it(mode, stage, message):
    checked_entries = []

    def check_conditions(entry):
        checked_entries.append(entry.name)
        return ConditionsResult("web-1 answers", ("the alert is firing", "web-1 answers"))

    entry = {**ENTRY, "mode": mode, "check": ["tcp:22"]}
    configuration = load({**PERMISSIVE_CONFIG, "remediations": [entry]})
    alert = Alert(LABELS, situation_reader(LABELS), check_conditions)
    decision = decide(configuration, alert, Request(remediation="nginx"))
    assert (decision.may_reserve, decision.stage) == (False, stage)
    assert decision.message.startswith(message)
    assert decision.report().status == "succeeded"
    assert checked_entries == ([] if mode == "evidence" else ["nginx"])
    assert ("but not now: web-1 answers" in decision.message) == (mode == "dry_run")
    ending = decision.build_ending(Request(remediation="nginx"), ChangeRequest())
    evidence = [] if mode == "evidence" else ["the alert is firing", "web-1 answers"]
    assert ending.evidence == decision.as_dict()["evidence"] == evidence


def test_the_conditions_of_a_host_that_may_not_be_changed_are_not_checked():
    configuration = load(
        {**PERMISSIVE_CONFIG, "denied_hosts": ["web-1"], "remediations": [ENTRY_WITH_CHECK]}
    )
    alert = Alert(LABELS, situation_reader(LABELS), pytest.fail)
    decision = decide(configuration, alert, Request(remediation="nginx"))
    assert (decision.stage, decision.refusal) == ("refused", "host_denied")


def test_a_change_is_permitted_if_its_conditions_are_met():
    configuration = load({**PERMISSIVE_CONFIG, "remediations": [ENTRY_WITH_CHECK]})
    alert = Alert(LABELS, situation_reader(LABELS), lambda _: ConditionsResult())
    assert decide(configuration, alert, Request(remediation="nginx")).may_change


def test_the_verification_of_an_entry_is_passed_to_the_workflow():
    verification = decide_about(verify="tcp:22", wait=60).as_dict()["verification"]
    assert verification == {
        "check": "tcp:22",
        "wait": 60,
        "delay": 3,
        "pause": 3,
        "polls": 22,
        "action": "",
        "parameters": {},
    }


def test_a_decision_in_mode_ask_contains_the_approvers():
    decision = decide_about(mode="ask", approvers=["anna", "ben"])
    assert (decision.may_reserve, decision.approvers) == (True, ("anna", "ben"))
    assert decide_about().approvers == ()
    decision_for_ask_rule = decide_about(Request("nginx", mode=Mode.ASK), approvers=["anna"])
    assert decision_for_ask_rule.approvers == ("anna",)


@pytest.mark.parametrize(
    "request_", [Request("nginx", mode=Mode.ASK), Request(action="linux.service", mode=Mode.ASK)]
)
def test_the_mode_ask_of_a_rule_needs_approvers(request_):
    decision = decide_about(request_)
    assert (decision.may_reserve, decision.stage) == (False, "refused")
    assert "mode `ask` needs approvers" in decision.message


def test_no_approval_is_requested_during_a_pause():
    entry = {**ENTRY, "mode": "ask", "approvers": ["anna"]}
    configuration = load({**PERMISSIVE_CONFIG, "remediations": [entry]})
    alert = Alert(LABELS, read_paused_situation)
    decision = decide(configuration, alert, Request(remediation="nginx"))
    assert (decision.may_reserve, decision.refusal) == (False, "paused")
    assert decision.report().status == "succeeded"


@pytest.mark.parametrize(
    "situation, mode, ends_by_itself",
    [
        ({"similar_count": 6}, "ask", True),
        ({"pause": Pause(NOON, "anna", "maintenance")}, "ask", False),
        ({"similar_count": 6}, "live", False),
        ({}, "ask", False),
    ],
)
def test_begin_records_a_passing_refusal_only_if_it_comes_before_an_approval(
    situation, mode, ends_by_itself
):
    """In mode live, poundcake.reserve records such a refusal."""
    entry = {**ENTRY, "mode": mode, "approvers": ["anna"]}
    configuration = load({**PERMISSIVE_CONFIG, "remediations": [entry]})
    alert = Alert(LABELS, lambda request: Situation(now=NOON, named_host="web-1", **situation))
    decision = decide(configuration, alert, Request(remediation="nginx"))
    assert decision.ends_by_itself is ends_by_itself


SSH = {"ssh_user": "stanley", "ssh_key_file": "/etc/poundcake/key", "ssh_port": 2222}
SSH_PARAMETERS = {"username": "stanley", "private_key": "/etc/poundcake/key", "port": 2222}


class TestInspections:
    """The host checks and evidence actions that the workflow runs as tasks."""

    def test_the_checks_of_a_live_entry_run_before_its_change(self):
        labels = {"mountpoint": "/var"}
        check = ["alert", "disk:$mountpoint > 90", "service:nginx"]
        decision = decide_about(check=check, verify="disk:$mountpoint>80", alert=labels, config=SSH)
        result = make_inert(decision.as_dict())
        assert result["next_task"] == "inspect"
        assert result["host_checks"] == ["disk:/var>90", "service:nginx"]
        assert result["inspections"] == [
            {
                "action": "poundcake.check_disk",
                "parameters": {**SSH_PARAMETERS, "host": "web-1", "path": "/var"},
                "check": "disk:/var>90",
            },
            {
                "action": "poundcake.check_service",
                "parameters": {**SSH_PARAMETERS, "host": "web-1", "service": "nginx"},
                "check": "service:nginx",
            },
        ]
        verification = result["verification"]
        assert (verification["check"], verification["delay"]) == ("disk:/var>80", 0)
        assert verification["action"] == "poundcake.check_disk"
        assert verification["parameters"] == {
            **SSH_PARAMETERS,
            "host": "web-1",
            "path": "/var",
            "top": 0,
        }

    def test_an_action_of_the_operator_receives_only_the_host(self):
        config = {"allowed_actions": ["linux.service", "mypack.inspect", "mypack.snapshot"], **SSH}
        entry = {"check": ["action:mypack.inspect"], "evidence": ["mypack.snapshot"]}
        result = decide_about(config=config, **entry).as_dict()
        assert result["inspections"] == [
            {
                "action": "mypack.inspect",
                "parameters": {"host": "web-1"},
                "check": "action:mypack.inspect",
            },
            {"action": "mypack.snapshot", "parameters": {"host": "web-1"}, "check": ""},
        ]

    def test_the_approval_is_the_next_task_even_if_there_are_inspections(self):
        decision = decide_about(check=["cpu>95"], mode="ask", approvers=["anna"])
        assert (decision.next_task, len(decision.inspections)) == ("approve", 1)

    @pytest.mark.parametrize("mode, checks", [("dry_run", ["cpu>95"]), ("evidence", [])])
    def test_evidence_is_collected_if_nothing_is_changed(self, mode, checks):
        entry = {"check": ["cpu>95"], "evidence": ["poundcake.check_memory"], "mode": mode}
        decision = decide_about(**entry)
        assert (decision.may_reserve, decision.next_task) == (False, "inspect")
        assert [i.name for i in decision.inspections] == [*checks, "poundcake.check_memory"]

    @pytest.mark.parametrize(
        "overrides, reason",
        [
            ({"config": {"denied_hosts": ["web-1"]}}, "names no host that may be checked"),
            ({"alert": {"instance": ""}}, "names no host that may be checked"),
            ({"evidence": ["mypack.snapshot"]}, "allowed_actions does not contain mypack.snapshot"),
        ],
    )
    def test_evidence_that_may_not_be_collected_starts_no_task(self, overrides, reason):
        entry = {"evidence": ["poundcake.check_memory"], "mode": "evidence", **overrides}
        decision = decide_about(**entry)
        assert (decision.next_task, decision.report().status) == ("", "succeeded")
        assert reason in decision.message

    def test_nothing_is_inspected_for_a_change_that_is_refused(self):
        decision = decide_about(check=["cpu>95"], config={"allowed_actions": []})
        assert (decision.stage, decision.next_task) == ("refused", "")


class TestRules:
    """A rule may name an action instead of an entry."""

    REQUEST = Request(
        action="linux.service", parameters={"act": 'it\'s "x"'}, host_parameter="hosts"
    )

    def test_the_action_receives_the_canonical_host(self):
        result = make_inert(decide_about(self.REQUEST, alert={"instance": "WEB-1:9100"}).as_dict())
        assert (result["host_parameter"], result["host"]) == ("hosts", "web-1")
        assert result["parameters"] == {"act": 'it\'s "x"'}
        assert result["reservation"]["needs_host"] is True

    def test_an_alert_without_a_host_is_refused(self):
        decision = decide_about(self.REQUEST, alert={"instance": ""})
        assert (decision.may_reserve, decision.refusal) == (False, "no_host")

    def test_text_that_would_be_evaluated_is_inert(self):
        request = Request(action="linux.service", parameters={"a{{b}}": ["<% ctx() %>", "{"]})
        result = make_inert(decide_about(request).as_dict())
        assert result["parameters"] == {"a((b))": ["\u2039% ctx() %\u203a", "{"]}

    @pytest.mark.parametrize(
        "request_, message",
        [
            (Request("nginx", host_parameter="host"), "host_parameter: belongs to the entry"),
            (
                Request("", "a.b", {"host": "web-2"}, "host"),
                "parameters.host: is the parameter for the host; remove it",
            ),
        ],
    )
    def test_a_contradictory_host_parameter_is_an_error(self, request_, message):
        with pytest.raises(RemediationError, match=message):
            decide_about(request_)

    def test_actions_of_the_pack_use_the_configured_account(self):
        request = Request(action="poundcake.clean_disk", parameters={"port": 22})
        decision = decide_about(request, config=SSH)
        assert decision.parameters == {**SSH_PARAMETERS, "port": 22}

    def test_a_shipped_remediation_checks_changes_and_verifies(self):
        parameters = {"directories": ["/var/log/app"], "older_than_days": 7}
        request = Request(action="poundcake.disk_cleanup", parameters=parameters)
        decision = decide_about(request, config={"allowed_actions": ["poundcake.clean_disk"]})
        result = make_inert(decision.as_dict())
        assert (result["action"], result["parameters"]) == ("poundcake.clean_disk", parameters)
        assert (result["host_parameter"], result["host"]) == ("host", "web-1")
        assert (result["next_task"], result["host_checks"]) == ("inspect", ["disk:/var/log/app>80"])
        assert result["verification"]["check"] == "disk:/var/log/app>80"
        assert result["reservation"]["remediation"] == "poundcake.disk_cleanup"

    @pytest.mark.parametrize("dry_run", [False, True])
    def test_memory_check_collects_evidence(self, dry_run):
        request = Request(action="poundcake.memory_check")
        decision = decide_about(request, config={"dry_run": dry_run, "allowed_actions": []})
        assert (decision.action, decision.next_task) == ("", "inspect")
        assert [i.name for i in decision.inspections] == ["poundcake.check_memory"]

    @pytest.mark.parametrize(
        "parameters, message",
        [
            ({}, "parameters.service: is missing"),
            ({"service": "a; b"}, "parameters.service: a; b must be the name of a service"),
            ({"service": "{{ x }}"}, "parameters.service: {{ x }} contains an expression"),
        ],
    )
    def test_invalid_parameters_of_a_shipped_remediation_are_refused(self, parameters, message):
        request = Request(action="poundcake.service_restart", parameters=parameters)
        decision = decide_about(request)
        assert (decision.stage, decision.report().status) == ("refused", "failed")
        assert decision.message.startswith(message)


DETAILS = {
    "answers": "web-1 answers on port 22",
    "refused": "web-1 is up and refuses connections on port 22",
    "no_answer": "web-1 does not answer",
    "unresolvable": "the name web-1 could not be resolved",
    "unknown": "web-1 could not be checked from this machine: no route",
}


class TestHostDown:
    """The rule's action runs only if the host does not answer over TCP."""

    REQUEST = Request(
        action="linux.service", host_parameter="host", workflow=HOST_DOWN, wait=300, parameters={}
    )
    EVIDENCE_ONLY = Request(host_parameter="host", workflow=HOST_DOWN)
    EXECUTION = ChangeRequest("r1", "e-1", "", "e1")

    def decide(self, state="no_answer", request=REQUEST, alert=None, situation=None, **config):
        """Return the decision about a host in this state. If it is None, no check may run."""
        labels = {**LABELS, **(alert or {})}
        status, ended_at = labels.pop("status", "firing"), labels.pop("ended_at", None)
        result = TcpResult(TcpState(state), 22, 0.1, DETAILS[state]) if state else None
        check_host = (lambda: result) if result else pytest.fail
        read_situation = (
            (lambda _: situation) if situation else situation_reader(labels, status, ended_at)
        )
        planned_alert = Alert(labels, read_situation, pytest.fail, check_host)
        return decide(load({**PERMISSIVE_CONFIG, **config}), planned_alert, request)

    def test_a_host_that_does_not_answer_may_be_changed(self):
        decision = self.decide("no_answer")
        result = make_inert(decision.as_dict())
        assert (decision.may_change, decision.next_task) == (True, "reserve")
        assert (result["action"], result["host"]) == ("linux.service", "web-1")
        assert result["reservation"]["check_host"] and result["reservation"]["needs_host"]
        # Limits count by the action, and the claim has the name of the workflow.
        assert result["reservation"]["remediation"] == ""
        assert self.REQUEST.claim_name(decision.action) == "poundcake.host_down"
        assert decision.build_ending(self.REQUEST, self.EXECUTION) is None
        verification = result["verification"]
        assert (verification["check"], verification["wait"]) == ("tcp", 300)
        assert (verification["pause"], verification["polls"]) == (15, 22)

    @pytest.mark.parametrize("state", ["answers", "refused", "unresolvable", "unknown"])
    def test_any_other_host_is_not_changed(self, state):
        decision = self.decide(state)
        report = decision.report()
        assert (decision.may_reserve, decision.next_task) == (False, "")
        assert (report.stage, report.mutated) == ("evidence", False)
        answers = state == "answers"
        assert (report.status, report.verified) == ("succeeded" if answers else "failed", answers)
        suffix = "" if answers else ", so nothing was changed"
        assert report.message == DETAILS[state] + suffix
        assert report.evidence["before"]["state"] == state
        ending = decision.build_ending(self.REQUEST, self.EXECUTION)
        assert (ending.result, ending.refusal) == ("refused", "not_confirmed")

    @pytest.mark.parametrize(
        "state, stage, message",
        [
            ("answers", "evidence", DETAILS["answers"]),
            ("refused", "dry_run", DETAILS["refused"] + ", so nothing would be changed"),
            ("unknown", "dry_run", DETAILS["unknown"] + ", so nothing would be changed"),
            ("no_answer", "dry_run", "web-1 does not answer; would run linux.service on web-1"),
        ],
    )
    @pytest.mark.parametrize("source", ["configuration", "rule"])
    def test_a_dry_run_checks_the_host_and_shows_the_change(self, state, stage, message, source):
        if source == "rule":
            decision = self.decide(state, replace(self.REQUEST, mode=Mode.DRY_RUN))
        else:
            decision = self.decide(state, dry_run=True)
        report = decision.report()
        assert (report.status, report.stage, report.message) == ("succeeded", stage, message)
        assert (report.dry_run, report.verified) == (True, state == "answers")
        ending = decision.build_ending(self.REQUEST, self.EXECUTION)
        assert (ending.result, ending.remediation) == (stage, "linux.service")

    @pytest.mark.parametrize("dry_run, stage", [(False, "evidence"), (True, "dry_run")])
    @pytest.mark.parametrize("state", ["no_answer", "refused", "unresolvable", "unknown"])
    def test_a_rule_without_an_action_reports_the_state_of_the_host(self, state, dry_run, stage):
        decision = self.decide(state, self.EVIDENCE_ONLY, dry_run=dry_run, allowed_hosts=[])
        report = decision.report()
        assert (report.status, report.stage, report.verified) == ("succeeded", stage, False)
        assert report.message == (
            DETAILS[state] + "; the rule names no action, so nothing would be changed"
        )
        ending = decision.build_ending(self.EVIDENCE_ONLY, self.EXECUTION)
        assert (ending.result, ending.remediation) == (stage, "poundcake.host_down")

    def test_a_host_that_answers_needs_no_action(self):
        report = self.decide("answers", self.EVIDENCE_ONLY).report()
        assert (report.status, report.stage, report.verified) == ("succeeded", "evidence", True)
        assert report.message == "web-1 answers on port 22"

    def test_the_incident_settles_before_the_host_is_checked(self):
        """poundcake.reserve checks the host, after the delay."""
        situation = Situation(now=NOON, named_host="web-1", opened_at=later(-20), target="web-1")
        decision = self.decide(None, situation=situation, settle_seconds=60)
        assert (decision.next_task, decision.settle_seconds) == ("reserve", 40)

    def test_a_report_does_not_wait_until_the_incident_has_settled(self):
        situation = Situation(now=NOON, named_host="web-1", opened_at=NOON, target="web-1")
        for request in (self.EVIDENCE_ONLY, replace(self.REQUEST, mode=Mode.DRY_RUN)):
            decision = self.decide("no_answer", request, situation=situation, settle_seconds=60)
            assert (decision.next_task, decision.settle_seconds) == ("", 0)
            assert decision.message.startswith("web-1 does not answer; ")

    @pytest.mark.parametrize("request_", [REQUEST, EVIDENCE_ONLY])
    @pytest.mark.parametrize(
        "overrides, refusal",
        [
            ({"alert": {"instance": "web-1; reboot"}}, "no_host"),
            ({"alert": {"instance": "localhost:9100"}}, "stackstorm_host"),
            ({"denied_hosts": ["web-1"]}, "host_denied"),
            ({"allowed_hosts": ["db-*"]}, "host_not_allowed"),
        ],
    )
    def test_a_host_that_may_not_be_changed_is_not_checked(self, request_, overrides, refusal):
        decision = self.decide(None, request_, **overrides)
        report = decision.report()
        assert (report.status, report.stage, report.evidence) == ("failed", "refused", {})
        ending = decision.build_ending(request_, self.EXECUTION)
        assert (ending.result, ending.refusal) == ("refused", refusal)
        assert self.decide(None, request_, dry_run=True, **overrides).report().status == "succeeded"

    @pytest.mark.parametrize(
        "overrides, status, stage, message",
        [
            ({"allowed_actions": []}, "failed", "refused", "allowed_actions does not contain linu"),
            ({"alert": {"status": "resolved"}}, "failed", "refused", "the alert is resolved"),
            ({"alert": {"ended_at": "2026-01-14T11:59:00Z"}}, "succeeded", "ended", "the incident"),
        ],
    )
    def test_a_refusal_shows_whether_the_host_is_down(self, overrides, status, stage, message):
        report = self.decide("no_answer", **overrides).report()
        assert (report.status, report.stage) == (status, stage)
        assert report.message.startswith(f"web-1 does not answer; {message}")
        assert self.decide("answers", **overrides).report().message == "web-1 answers on port 22"

    def test_a_pause_is_left_to_the_reservation(self):
        situation = read_paused_situation(None)
        decision = self.decide("no_answer", situation=situation)
        assert (decision.next_task, decision.refusal) == ("reserve", "paused")
        assert self.decide("answers", situation=situation).next_task == ""

    def test_the_mode_evidence_changes_nothing(self):
        report = self.decide("no_answer", replace(self.REQUEST, mode=Mode.EVIDENCE)).report()
        assert (report.status, report.stage) == ("succeeded", "evidence")
        assert report.message == "web-1 does not answer; the mode evidence changes nothing"

    def test_the_mode_ask_needs_approvers_only_for_a_change(self):
        decision = self.decide(None, replace(self.REQUEST, mode=Mode.ASK))
        assert (decision.stage, decision.report().status) == ("refused", "failed")
        decision = self.decide("answers", replace(self.EVIDENCE_ONLY, mode=Mode.ASK))
        assert decision.report().status == "succeeded"

    def test_the_host_replaces_a_value_in_the_parameters(self):
        request = replace(self.REQUEST, parameters={"host": "web-2", "act": "stop"})
        decision = self.decide("no_answer", request)
        assert decision.parameters == {"act": "stop"}
        assert (decision.host_parameter, decision.host) == ("host", "web-1")

    def test_a_workflow_without_a_claim_is_not_verified(self):
        decision = self.decide("answers").end_at("not_claimed", "acknowledged by anna")
        report = decision.report()
        assert (report.status, report.verified) == ("succeeded", False)


@pytest.mark.parametrize("dry_run, stage", [(False, "evidence"), (True, "dry_run")])
@pytest.mark.parametrize("instance", ["", "web-1; reboot", "localhost:9100"])
def test_the_default_workflow_reports_any_alert(dry_run, stage, instance):
    request = Request(workflow=DEFAULT)
    decision = decide_about(request, {"instance": instance}, {"dry_run": dry_run})
    report = decision.report()
    assert (decision.next_task, report.status, report.stage) == ("", "succeeded", stage)
    assert report.message == "the rule names no action, so nothing would be changed"
    assert request.claim_name(decision.action) == "poundcake.default"
    ending = decision.build_ending(request, TestHostDown.EXECUTION)
    assert (ending.result, ending.remediation) == (stage, "poundcake.default")
