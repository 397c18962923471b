"""A plan shows what would happen for an alert, and records nothing."""

from __future__ import annotations

import pytest

from poundcake.config import load
from poundcake.endpoint.triggers import AlertPayload
from poundcake.inert import make_inert, make_lines_inert
from poundcake.remediation import plan
from poundcake.remediation.plan import PlannedAlert, as_text, check_entries, plan_alert
from poundcake.stackstorm import StackStormError
from poundcake.trail.limits import Situation
from poundcake.trail.pause import Pause
from poundcake.trail.text.layout import display_width
from tests.lib.samples import NOON
from tests.lib.situations import situation_reader

LABELS = {"alertname": "ServiceDown", "instance": "web-1:9100", "severity": "critical"}
PERMISSIVE_CONFIG = {"dry_run": False, "allowed_hosts": ["*"], "allowed_actions": ["linux.service"]}
ENTRY = {
    "name": "nginx",
    "match": ["alertname=ServiceDown"],
    "mode": "live",
    "action": "linux.service",
    "with": {"act": "restart"},
    "host_parameter": "hosts",
}
LINUX_SERVICE = {
    "enabled": True,
    "parameters": {
        "hosts": {"type": "string", "required": True},
        "act": {"type": "string", "required": True, "enum": ["restart", "stop"]},
        "service": {"type": "string"},
        "timeout": {"type": "integer", "default": 60},
        "cmd": {"type": "string", "immutable": True, "default": "x"},
    },
}


def rule(ref, action="mypack.flow", enabled=True, kind="standard", parameters=None, **criteria):
    trigger_criteria = {f"trigger.{key}": value for key, value in criteria.items()}
    return {
        "ref": ref,
        "enabled": enabled,
        "type": {"ref": kind},
        "trigger": {"type": "poundcake.alert", "ref": "poundcake.alert"},
        "action": {"ref": action, "parameters": parameters or {}},
        "criteria": trigger_criteria,
    }


def criterion(pattern, kind="eq"):
    return {"type": kind, "pattern": pattern}


SHIPPED_RULE = rule(
    "poundcake.remediate",
    "poundcake.remediate",
    parameters={"remediation": "{{ trigger.remediation }}"},
    status=criterion("firing"),
    remediation=criterion("[a-z0-9]", "matchregex"),
)


class FakeApi:
    """StackStorm's API with rules and actions. With an error, the API is unavailable."""

    def __init__(self, rules=(SHIPPED_RULE,), actions=None, error=""):
        self.rules, self.error = list(rules), error
        self.actions = {"linux.service": LINUX_SERVICE} if actions is None else actions

    def get(self, path, **params):
        if self.error:
            raise StackStormError(self.error)
        if path == "/rules":
            assert params["trigger"] == "poundcake.alert"
            return self.rules[params["offset"] : params["offset"] + params["limit"]]
        return self.actions.get(path.rpartition("/")[2])


def make_plan(labels=None, api=None, config=None, entries=(ENTRY,), ended=None, **alert):
    configuration = load({**PERMISSIVE_CONFIG, "remediations": list(entries), **(config or {})})
    labels = {**LABELS, **(labels or {})}
    reader = situation_reader(labels, alert.get("status", "firing"), ended)
    planned_alert = PlannedAlert(labels, **{"read_situation": reader, **alert})
    return plan_alert(configuration, api or FakeApi(), planned_alert)


def list_reasons_against(**overrides):
    return make_plan(**overrides)["remediation"]["stopped_by"]


def test_a_plan_for_an_alert_that_would_be_remediated():
    plan_view = make_plan()
    assert plan_view["remediation"] == {
        "name": "nginx",
        "mode": "live",
        "approvers": [],
        "inspects_first": False,
        "started_by": ["poundcake.remediate"],
        "would_change": True,
        "change": "linux.service with act=restart on web-1",
        "action": "linux.service",
        "parameters": {"act": "restart"},
        "target": "web-1",
        "host_parameter": "hosts",
        "check": [],
        "only_if": "",
        "verify": "",
        "evidence": [],
        "silence_minutes": 0,
        "stage": "remediate",
        "stopped_by": [],
    }
    assert as_text(plan_view).splitlines() == [
        "",
        "WOULD CHANGE  ServiceDown web-1:9100 critical",
        "  remediation nginx, mode live, started by poundcake.remediate",
        "  change: linux.service with act=restart on web-1",
        "  next: nothing to be done until the alert fires",
    ]


@pytest.mark.parametrize(
    "overrides, expected_reasons",
    [
        ({"config": {"dry_run": True}}, ["dry_run is on; set dry_run: false"]),
        (
            {"config": {"dry_run": True, "allowed_actions": []}},
            ["allowed_actions does not contain linux.service: add it to allowed_actions"],
        ),
        ({"entries": [{**ENTRY, "mode": "dry_run"}]}, ["mode is dry_run; set mode: live"]),
        (
            {"entries": [{**ENTRY, "mode": "dry_run"}], "config": {"dry_run": True}},
            ["dry_run is on; set dry_run: false", "mode is dry_run; set mode: live"],
        ),
        ({"entries": [{**ENTRY, "mode": "evidence"}]}, ["mode is evidence; set mode: live"]),
        (
            {"labels": {"instance": ""}},
            [
                "the label instance of the alert contains no host: set host_label to the label "
                "that contains it"
            ],
        ),
        (
            {"config": {"dry_run": True, "allowed_hosts": ["db-*"]}},
            ["allowed_hosts does not contain web-1: add it to allowed_hosts"],
        ),
        (
            {"api": FakeApi(rules=[])},
            ["no enabled rule starts remediations: st2 rule enable poundcake.remediate"],
        ),
        ({"api": FakeApi(actions={})}, ["StackStorm has no action linux.service"]),
        (
            {"ended": "2026-01-14T12:00:00Z"},
            ["the incident ended at 2026-01-14T12:00:00Z"],
        ),
    ],
)
def test_a_plan_lists_the_reasons_against_a_change(overrides, expected_reasons):
    plan_view = make_plan(**overrides)
    assert plan_view["remediation"]["stopped_by"] == expected_reasons
    assert plan_view["remediation"]["would_change"] is False
    assert "WOULD CHANGE" not in as_text(plan_view)


REPLAY = "st2 run poundcake.replay request_id=r-1 force=true"


def test_a_plan_for_an_episode_that_was_handled_says_that_nothing_starts_by_itself():
    """A dry run has ended, and then dry_run is set to false."""
    lines = as_text(make_plan(episode="f-1", replay=REPLAY)).splitlines()
    assert lines[1].startswith("WOULD CHANGE")
    assert lines[-2:] == [
        "  nothing is started again by itself; to run it now:",
        f"  next: {REPLAY}",
    ]


def test_a_plan_whose_change_is_stopped_does_not_suggest_a_replay():
    config = {"dry_run": True}
    lines = as_text(make_plan(episode="f-1", replay=REPLAY, config=config)).splitlines()
    assert "  nothing is started again by itself" in lines
    assert lines[-1] == (
        "  next: nothing to be done; to allow the change, lift what is shown as stopped"
    )


@pytest.mark.parametrize(
    ("overrides", "next_step"),
    [
        ({}, "nothing to be done until the alert fires"),
        ({"episode": "f-1"}, "st2 run poundcake.why format=text episode=f-1"),
        (
            {"config": {"dry_run": True}},
            "nothing to be done; to allow the change, lift what is shown as stopped",
        ),
        (
            {"entries": []},
            "nothing to be done, or add an entry to remediations that matches the alert",
        ),
    ],
)
def test_the_next_step_of_a_plan_never_leads_back_to_a_plan(overrides, next_step):
    text = as_text(make_plan(**overrides))
    assert " ".join(text.split()).partition("next: ")[2] == next_step


@pytest.mark.parametrize("mode", ["live", "dry_run"])
def test_a_plan_does_not_name_the_host_if_the_action_does_not_get_it(mode):
    plan_view = make_plan(entries=[{**ENTRY, "mode": mode, "host_parameter": ""}])
    change = "linux.service with act=restart (the action gets no host)"
    assert plan_view["remediation"]["change"] == change
    assert f"  change: {change}" in as_text(plan_view).splitlines()


def test_a_plan_in_mode_ask_lists_the_approvers():
    plan_view = make_plan(entries=[{**ENTRY, "mode": "ask", "approvers": ["anna", "ben"]}])
    assert plan_view["remediation"]["would_change"] is True
    lines = as_text(plan_view).splitlines()
    assert lines[1].startswith("WOULD ASK  ServiceDown")
    assert "  asks first: anna, ben" in lines


def test_a_plan_in_mode_ask_shows_that_the_host_is_inspected_before_the_approval():
    entry = {**ENTRY, "mode": "ask", "approvers": ["anna"], "check": ["memory>90"]}
    plan_view = make_plan(entries=[entry])
    assert plan_view["remediation"]["inspects_first"] is True
    assert "  asks first: anna, after the host has been inspected" in as_text(plan_view)


def test_a_plan_shows_what_is_checked_verified_and_collected():
    entry = {
        "name": "disk",
        "match": ["alertname=ServiceDown"],
        "mode": "live",
        "action": "poundcake.disk_cleanup",
        "with": {"directories": ["/var/log/app"], "older_than_days": 7, "above": 90},
        "only_if": "up == 1",
        "evidence": ["mypack.inspect"],
    }
    config = {"allowed_actions": ["poundcake.clean_disk", "mypack.inspect"]}
    plan_view = make_plan(entries=[entry], config=config)
    assert [
        plan_view["remediation"][key] for key in ("check", "only_if", "verify", "evidence")
    ] == [
        ["disk:/var/log/app>90"],
        "up == 1",
        "disk:/var/log/app>90",
        ["mypack.inspect"],
    ]
    lines = as_text(plan_view).splitlines()
    assert "  only if: disk:/var/log/app>90 and up == 1" in lines
    assert "  verified by: disk:/var/log/app>90" in lines
    assert "  collects: mypack.inspect" in lines


def test_a_plan_shows_that_the_alert_would_be_silenced():
    lines = as_text(make_plan(entries=[{**ENTRY, "silence_minutes": 20}])).splitlines()
    assert "  silences the alert: during the change, for at most 20 min" in lines


def test_a_silence_needs_an_alertmanager():
    entry = {**ENTRY, "silence_minutes": 20}
    problem = "silence_minutes needs the key alertmanagers: list your Alertmanagers"
    for has_alertmanagers in (False, True):
        plan_view = check_entries(load({"remediations": [entry]}), FakeApi(), has_alertmanagers)
        (shown_entry,) = plan_view["remediations"]
        has_problem = any(p.startswith(problem) for p in shown_entry["problems"])
        assert has_problem is not has_alertmanagers


def test_conditions_stay_readable_and_labels_are_inert_in_the_actions_result():
    query = 'count(up{job="node"} == 0) > 3'
    entry = {**ENTRY, "check": ["memory>90"], "only_if": query}
    plan_view = make_plan(labels={"instance": '{{ x }}<% y %>"'}, entries=[entry])
    shown_entry = make_inert(plan_view)["remediation"]
    assert (shown_entry["check"], shown_entry["only_if"]) == (["memory>90"], query)
    text = make_lines_inert(as_text(plan_view))
    assert f"  only if: memory>90 and {query}" in text.splitlines()
    assert "{{" not in text and "<%" not in text and "(( x ))‹% y %›”" in text


def test_a_condition_that_stackstorm_would_evaluate_is_inert():
    entry = {**ENTRY, "only_if": 'count(up{instance=~"{{ x }}"})'}
    assert "{{" not in make_lines_inert(as_text(make_plan(entries=[entry])))


def test_a_plan_for_a_report_lists_its_checks():
    entry = {"name": "look", "match": ["alertname=ServiceDown"], "mode": "evidence"}
    lines = as_text(make_plan(entries=[{**entry, "check": ["memory>90"]}])).splitlines()
    assert "  checks: memory>90" in lines
    assert not any(line.startswith("  verified by") for line in lines)


def test_a_plan_for_a_dry_run_also_lists_the_reasons_against_a_live_change():
    entry = {**ENTRY, "mode": "dry_run", "check": ["alert", "action:mypack.inspect"]}
    assert list_reasons_against(entries=[entry]) == [
        "mode is dry_run; set mode: live",
        "allowed_actions does not contain mypack.inspect, so nothing is changed: add the actions"
        " that inspect hosts to it",
        "StackStorm has no action mypack.inspect",
    ]


def test_a_plan_for_an_unmatched_alert_shows_the_nearest_entries():
    entry = {**ENTRY, "match": ["alertname=ServiceDown", "instance=~db-.*"]}
    plan_view = make_plan(
        entries=[{**ENTRY, "name": "other", "match": ["alertname=X", "a=b"]}, entry]
    )
    assert (plan_view["remediation"], plan_view["rules"]) == (None, [])
    assert as_text(plan_view).splitlines()[1:] == [
        "NOTHING WOULD RUN  ServiceDown web-1:9100 critical",
        "  nearest: nginx (instance is web-1:9100, wants =~db-.*)",
        "  also near: other (alertname is ServiceDown, wants X; a is missing, wants b)",
        "  next: nothing to be done, or add an entry to remediations that matches the",
        "    alert",
    ]


def test_a_plan_lists_matching_disabled_and_failing_rules():
    rules = [
        SHIPPED_RULE,
        rule("mypack.own", alert_name=criterion("ServiceDown"), host=criterion("web-1")),
        rule("mypack.other", alert_name=criterion("HostDown")),
        rule("mypack.off", enabled=False, alert_name=criterion("ServiceDown")),
        rule("mypack.template", alert_name=criterion("{{ st2kv.system.name }}")),
        rule("mypack.searches", labels=criterion([], "search")),
        rule("mypack.missing", **{"labels.rack": criterion("r", "startswith")}),
        rule("mypack.last", kind="backstop"),
    ]
    plan_view = make_plan(api=FakeApi(rules))
    assert [(r["rule"], r["doubt"]) for r in plan_view["rules"]] == [
        ("mypack.own", ""),
        ("mypack.template", "trigger.alert_name: only StackStorm renders its pattern"),
        ("mypack.searches", "trigger.labels: only StackStorm evaluates search"),
    ]
    assert plan_view["disabled_rules"] == ["mypack.off"]
    (explanation,) = plan_view["failing_rules"]
    assert explanation.startswith("mypack.missing: trigger.labels.rack: ")


def test_a_backstop_rule_matches_if_no_other_rule_does():
    rules = [rule("mypack.last", kind="backstop"), SHIPPED_RULE]
    assert [r["rule"] for r in make_plan(api=FakeApi(rules), entries=[])["rules"]] == [
        "mypack.last"
    ]
    assert make_plan(api=FakeApi(rules))["rules"] == []


def test_a_plan_during_a_pause_shows_the_pause():
    def read_paused_situation(request):
        return Situation(now=NOON, named_host="web-1", pause=Pause(NOON, "anna", "maintenance"))

    plan_view = make_plan(read_situation=read_paused_situation)
    assert as_text(plan_view).splitlines()[1].startswith("WOULD BE REFUSED")
    assert "paused by anna (maintenance)" in " ".join(plan_view["remediation"]["stopped_by"])


def test_a_plan_shows_the_change_of_a_rule_with_its_own_action():
    own_rule = rule(
        "mypack.own",
        "poundcake.remediate",
        parameters={"action": "linux.service", "parameters": {"act": "stop"}},
    )
    (rule_view,) = make_plan(api=FakeApi([own_rule]), entries=[])["rules"]
    assert rule_view["note"] == "would run linux.service with act=stop (the action gets no host)"
    (rule_view,) = make_plan(api=FakeApi([own_rule]), entries=[], config={"allowed_actions": []})[
        "rules"
    ]
    assert rule_view["note"] == (
        "allowed_actions does not contain linux.service: add it to allowed_actions"
    )


@pytest.mark.parametrize(
    "parameters, note",
    [
        ({}, "the rule names no action, so nothing would be changed"),
        ({"action": "linux.service"}, "would run linux.service on web-1"),
        (
            {"action": "linux.service", "mode": "evidence"},
            "the mode evidence changes nothing",
        ),
        (
            {"action": "ipmi.power_cycle"},
            "allowed_actions does not contain ipmi.power_cycle: add it to allowed_actions",
        ),
    ],
)
def test_a_plan_shows_what_a_rule_for_host_down_would_do(parameters, note):
    own_rule = rule("mypack.own", "poundcake.host_down", parameters=parameters)
    (rule_view,) = make_plan(api=FakeApi([own_rule]), entries=[])["rules"]
    assert rule_view["note"] == note


def test_a_plan_reads_every_page_of_rules():
    rules = [rule(f"mypack.r{n}", alert_name=criterion("X")) for n in range(150)]
    assert make_plan(api=FakeApi([*rules, SHIPPED_RULE]))["remediation"]["started_by"] == [
        "poundcake.remediate"
    ]


def test_a_plan_without_stackstorm_contains_the_remediation_but_no_rules():
    plan_view = make_plan(api=FakeApi(error="no route"))
    assert (plan_view["remediation"]["name"], plan_view["stackstorm"]) == ("nginx", "no route")
    assert "rules unknown: StackStorm cannot be queried: no route" in as_text(plan_view)


def test_the_payload_of_a_plan_has_the_fields_of_the_trigger():
    payload = plan._build_payload(
        load({}), PlannedAlert({"alertname": "{{ x }}"}, pytest.fail), None
    )
    assert list(payload) == list(AlertPayload.__annotations__)
    assert payload["alert_name"] == "(( x ))"


def test_no_line_of_a_plan_is_wider_than_80_columns_or_forged():
    labels = {"alertname": "Some words " * 20, "instance": "web-1\nFORGED", "service": "x"}
    text = as_text(make_plan(labels=labels))
    assert max(map(len, text.splitlines())) <= 80
    assert not any(line.startswith("FORGED") for line in text.splitlines())


def test_wide_characters_take_two_columns_and_right_to_left_text_stays_in_its_place():
    wide = as_text(make_plan(labels={"alertname": "磁盘空间不足 " * 20, "service": "x"}))
    assert max(map(display_width, wide.splitlines())) <= 80
    hebrew = "\u05d0\u05d1\u05d2"
    plan_view = make_plan(labels={"alertname": hebrew, "instance": "web-1", "severity": "7"})
    assert f"  \u200e{hebrew}\u200e web-1 7" in make_lines_inert(as_text(plan_view))


class TestChecks:
    def check(self, *entries, api=None, **config):
        configuration = load({**PERMISSIVE_CONFIG, "remediations": list(entries), **config})
        return check_entries(configuration, api or FakeApi(), has_alertmanagers=False)

    def list_problems(self, **fields):
        (entry_view,) = self.check({**ENTRY, **fields})["remediations"]
        return entry_view["problems"]

    def test_a_valid_entry_has_no_problems(self):
        check_view = self.check(ENTRY)
        assert check_view == {
            "remediations": [
                {
                    "name": "nginx",
                    "mode": "live",
                    "action": "linux.service",
                    "match": ['alertname="ServiceDown"'],
                    "problems": [],
                    "stopped_by": [],
                }
            ],
            "errors": [],
            "warnings": [],
        }
        assert as_text(check_view).splitlines() == [
            "",
            "ok     nginx  live, linux.service",
            '       matches alertname="ServiceDown"',
            "  next: st2 run poundcake.plan format=text labels=alertname=NAME,instance=HOST",
        ]

    @pytest.mark.parametrize(
        "fields, problem",
        [
            ({"action": "linux.no_such"}, "StackStorm has no action linux.no_such"),
            (
                {"host_parameter": "host"},
                "linux.service takes no parameter host; did you mean hosts",
            ),
            ({"with": {"act": "start"}}, "linux.service: act must be one of restart, stop, but is"),
            (
                {"with": {"act": "stop", "timeout": "1m"}},
                "linux.service: timeout must be of type int",
            ),
            (
                {"with": {"act": "stop", "service": ["a"]}},
                "linux.service: service must be of type st",
            ),
            ({"with": {}}, "linux.service needs the parameter act"),
            ({"with": {"act": "stop", "cmd": "x"}}, "linux.service does not accept cmd"),
            ({"evidence": ["mypack.inspect"]}, "StackStorm has no action mypack.inspect"),
            ({"check": ["action:mypack.inspect"]}, "StackStorm has no action mypack.inspect"),
        ],
    )
    def test_a_parameter_that_stackstorm_would_refuse_is_a_problem(self, fields, problem):
        assert [text[: len(problem)] for text in self.list_problems(**fields)][:1] == [problem]

    @pytest.mark.parametrize(
        "values", [{"act": "$action"}, {"act": "stop", "timeout": "30"}, {"act": "stop"}]
    )
    def test_values_that_stackstorm_accepts_cause_no_problem(self, values):
        assert self.list_problems(**{"with": values}) == []

    def test_a_disabled_action_is_a_problem(self):
        api = FakeApi(actions={"linux.service": {**LINUX_SERVICE, "enabled": False}})
        (entry_view,) = self.check(ENTRY, api=api)["remediations"]
        assert entry_view["problems"] == ["linux.service is disabled"]

    def test_a_check_lists_the_reasons_against_every_change_of_an_entry(self):
        (entry_view,) = self.check(ENTRY, dry_run=True, allowed_hosts=[], allowed_actions=[])[
            "remediations"
        ]
        assert entry_view["stopped_by"] == [
            "dry_run is on; set dry_run: false",
            "allowed_actions does not contain linux.service",
            'allowed_hosts is empty, so no host is allowed: list the hosts, or "*"',
        ]

    def test_invalid_entries_and_a_disabled_rule_are_errors(self):
        disabled_rule = {**SHIPPED_RULE, "enabled": False}
        check_view = self.check(ENTRY, {"name": "x"}, api=FakeApi([disabled_rule]))
        assert check_view["errors"] == [
            "remediations, entry 2 (x): match: is missing; write match: ['alertname=\"DiskFull\"']",
            "no enabled rule starts remediations: st2 rule enable poundcake.remediate",
        ]

    def test_an_unlisted_evidence_action_says_that_it_prevents_the_change(self):
        api = FakeApi(actions={"linux.service": LINUX_SERVICE, "mypack.look": LINUX_SERVICE})
        check_view = self.check({**ENTRY, "evidence": ["mypack.look"]}, api=api)
        assert check_view["remediations"][0]["stopped_by"] == [
            "allowed_actions does not contain mypack.look, so nothing is changed: add the actions"
            " that inspect hosts to it"
        ]

    def test_an_allowed_action_that_stackstorm_does_not_have_is_reported(self):
        check_view = self.check(ENTRY, allowed_actions=["linux.service", "linux.servce"])
        warning = (
            "allowed_actions contains linux.servce, but StackStorm has no such action: correct the"
            " name, or install its pack"
        )
        assert check_view["warnings"] == [warning]
        assert f"WARNING  {warning}" in " ".join(as_text(check_view).split(" ")).replace(
            "\n  ", " "
        )

    @pytest.mark.parametrize("entry", [{"name": "x"}, {**ENTRY, "action": "linux.no_such"}])
    def test_an_error_is_followed_by_what_to_do(self, entry):
        text = as_text(self.check(entry))
        assert "ERROR" in text
        *_, first, second = text.splitlines()
        assert f"{first} {second.strip()}" == (
            "  next: correct the entry, run `st2ctl reload --register-configs`, then plan again"
        )

    def test_a_configuration_without_entries_is_reported(self):
        assert "no remediation is configured" in as_text(self.check())
