"""Nothing is changed unless the configuration and the alert both allow it."""

from __future__ import annotations

import itertools
import socket
from dataclasses import replace

import pytest

from poundcake.config import load
from poundcake.remediation.safety import (
    ConditionsResult,
    Refusal,
    decide,
    find_entry_objection,
    preview,
    with_conditions,
)
from poundcake.remediations import read_remediations
from poundcake.trail.changes import Change, is_power_action
from poundcake.trail.limits import ChangeRequest, Situation
from poundcake.trail.pause import Pause
from tests.lib.samples import NOON, later

FIRING = Situation(
    NOON, "web-1:9100", alert_name="HostDown", episode="f-1", target="web-1", last_seen_at=NOON
)
LIVE_CONFIG = {"dry_run": False, "allowed_hosts": ["*"], "allowed_actions": ["linux.service"]}


def decide_about(alert=None, action="linux.service", needs_host=True, **config):
    """Return the decision about an alert, with a configuration that allows linux.service."""
    request = ChangeRequest(action=action, needs_host=needs_host)
    return decide(load({**LIVE_CONFIG, **config}), request, replace(FIRING, **(alert or {})))


def test_an_allowed_action_on_an_allowed_host_may_change_it():
    assert decide_about().as_dict() == {
        "host": "web-1",
        "port": 9100,
        "may_check": True,
        "may_change": True,
        "may_reserve": True,
        "settle_seconds": 0,
        "action": "linux.service",
        "dry_run": False,
        "stage": "remediate",
        "refusal": "",
        "reason": "",
        "how_to_lift": "",
        "message": "",
    }


def test_an_alert_without_a_usable_host_has_an_empty_host_and_port_0():
    decision = decide_about({"named_host": "$(reboot)"}, needs_host=False).as_dict()
    assert (decision["host"], decision["port"]) == ("", 0)


def test_an_empty_configuration_permits_no_change():
    decision = decide(load({}), ChangeRequest(action="linux.service"), FIRING)
    assert decision.may_change is False
    assert decision.dry_run is True


def test_a_dry_run_reports_what_it_would_run():
    decision = decide_about(dry_run=True)
    assert (decision.may_change, decision.stage) == (False, "dry_run")
    assert decision.message == "would run linux.service for web-1"


def test_a_dry_run_reports_that_no_host_is_allowed():
    decision = decide_about(dry_run=True, allowed_hosts=[])
    assert (decision.may_change, decision.stage) == (False, "dry_run")
    assert decision.message == (
        "would run linux.service for web-1, but allowed_hosts is empty: with dry_run: false it "
        "allows no host"
    )


def test_a_dry_run_reports_a_missing_action():
    decision = decide_about(dry_run=True, action="")
    assert (decision.may_change, decision.stage) == (False, "dry_run")
    assert "the rule names no action" in decision.message


def test_only_evidence_is_collected_without_an_action():
    for needs_host in (True, False):
        decision = decide_about(action="", needs_host=needs_host)
        assert (decision.may_change, decision.stage) == (False, "evidence")
        assert "the rule names no action" in decision.message


def test_a_workflow_that_needs_no_host_may_collect_evidence_for_any_alert():
    decision = decide_about({"named_host": ""}, "", needs_host=False, allowed_hosts=["db-*"])
    assert decision.stage == "evidence"


@pytest.mark.parametrize(
    "alert, action, config, message",
    [
        ({"status": "resolved"}, "linux.service", {}, "the alert is resolved"),
        (
            {"named_host": ""},
            "linux.service",
            {},
            "the label instance of the alert contains no host",
        ),
        (
            {"named_host": "$(reboot)"},
            "linux.service",
            {},
            "the label instance of the alert contains no host",
        ),
        (
            {},
            "linux.service",
            {"allowed_hosts": ["db-*"]},
            "allowed_hosts does not contain web-1",
        ),
        (
            {},
            "linux.service",
            {"allowed_hosts": ["web-1.example"]},
            "allowed_hosts does not contain web-1",
        ),
        ({}, "linux.other", {}, "allowed_actions does not contain linux.other"),
        (
            {},
            "linux.service",
            {"allowed_actions": []},
            "allowed_actions does not contain linux.service",
        ),
        (
            {},
            "linux.servic*",
            {"allowed_actions": ["linux.servic*"]},
            "action must be a reference of the form pack.name",
        ),
        (
            {},
            "{{x}}",
            {"allowed_actions": ["{{x}}"]},
            "action must be a reference of the form pack.name",
        ),
        (
            {},
            "no dot",
            {"allowed_actions": ["no dot"]},
            "action must be a reference of the form pack.name",
        ),
    ],
)
def test_a_refusal_states_its_reason_and_a_remedy(alert, action, config, message):
    decision = decide_about(alert, action, **config)
    assert (decision.may_change, decision.stage, decision.reason) == (False, "refused", message)
    assert decision.message == f"{message}: {decision.how_to_lift}"


def test_a_refusal_names_the_configured_host_label():
    decision = decide_about({"named_host": ""}, host_label="node")
    assert decision.reason == "the label node of the alert contains no host"


@pytest.mark.parametrize("pattern", ["web-1", "WEB-*", "*", "web-?", "web-[12]"])
def test_allowed_hosts_are_patterns(pattern):
    assert decide_about(allowed_hosts=[pattern]).may_change is True


def test_an_address_wildcard_matches_no_name():
    decision = decide_about({"named_host": "10.0.0.attacker.net"}, allowed_hosts=["10.0.0.*"])
    assert decision.reason == "allowed_hosts does not contain 10.0.0.attacker.net"


@pytest.mark.parametrize("instance", ["WEB-1.:9100", "http://web-1:9100/metrics", "web-1:"])
def test_all_spellings_of_a_host_are_equivalent(instance):
    decision = decide_about({"named_host": instance}, allowed_hosts=["web-1"])
    assert decision.may_change is True
    assert decision.as_dict()["host"] == "web-1"


@pytest.mark.parametrize(
    "instance, expected_reason",
    [
        ("localhost:9100", "localhost is the machine on which StackStorm runs"),
        ("127.0.0.1", "127.0.0.1 is a loopback address of the machine on which StackStorm runs"),
        (
            "[::ffff:127.0.0.1]:1",
            "127.0.0.1 is a loopback address of the machine on which StackStorm runs",
        ),
        ("0.0.0.0", "0.0.0.0 is the unspecified address"),
        ("169.254.169.254", "169.254.169.254 is a link-local address"),
        (socket.gethostname(), "is the machine on which StackStorm runs"),
    ],
)
@pytest.mark.parametrize("action", ["linux.service", ""])
def test_stackstorm_itself_is_neither_changed_nor_checked(instance, expected_reason, action):
    """This holds even if allowed_hosts contains every host."""
    decision = decide_about({"named_host": instance}, action, allowed_hosts=["*"])
    assert (decision.may_change, decision.may_check, decision.stage) == (False, False, "refused")
    assert expected_reason in decision.message


def test_a_host_that_is_not_allowed_is_not_checked():
    assert decide_about(allowed_hosts=["db-*"]).may_check is False
    assert decide_about({"named_host": ""}, needs_host=False).may_check is False
    assert decide_about(action="").may_check is True
    assert decide_about({"status": "resolved"}).may_check is True


def test_an_action_that_needs_no_host_runs_for_an_alert_without_one():
    for allowed_hosts in (["*"], ["db-*", "*"]):
        decision = decide_about({"named_host": ""}, needs_host=False, allowed_hosts=allowed_hosts)
        assert decision.may_change is True
    # An unknown host is allowed only by "*".
    for allowed_hosts in (["?*"], ["db-*"], []):
        decision = decide_about({"named_host": ""}, needs_host=False, allowed_hosts=allowed_hosts)
        assert decision.may_change is False


@pytest.mark.parametrize("needs_host", [True, False])
def test_empty_allowed_hosts_permit_no_change(needs_host):
    """Before 0.3.0, an empty list allowed every host."""
    decision = decide_about(allowed_hosts=[], needs_host=needs_host)
    assert (decision.may_change, decision.stage) == (False, "refused")
    assert decision.message == (
        'allowed_hosts is empty, so no host is allowed: list the hosts in it, or "*" for any'
    )


def test_empty_allowed_hosts_permit_evidence():
    assert decide_about(action="", allowed_hosts=[]).stage == "evidence"


def test_nothing_is_changed_for_an_ended_incident():
    decision = decide_about({"incident_ended_at": NOON})
    assert (decision.may_change, decision.stage) == (False, "ended")
    assert decision.message == "the incident ended at 2026-01-14T12:00:00Z"


def test_a_change_needs_every_condition():
    for dry_run, status, host, action, allowed_hosts in itertools.product(
        (True, False),
        ("firing", "resolved"),
        ("web-1", "a b", ""),
        ("linux.service", "linux.other", ""),
        ([], ["*"], ["web-*"], ["db-*"]),
    ):
        decision = decide_about(
            {"status": status, "named_host": host},
            action,
            dry_run=dry_run,
            allowed_hosts=allowed_hosts,
        )
        may_change = (
            not dry_run
            and status == "firing"
            and host == "web-1"
            and action == "linux.service"
            and allowed_hosts in (["*"], ["web-*"])
        )
        assert decision.may_change is may_change
        assert (decision.stage == "remediate") is may_change
        assert bool(decision.message) is not may_change


# -- controls that depend on other incidents, other changes and people


def change(execution="e1", target="web-1", ended=None, result="", **fields):
    """Return a change that was granted 5 minutes before noon."""
    values = {
        "id": 1,
        "st2_execution_id": execution,
        "request_id": "r",
        "episode": "g-1",
        "attempt": 1,
        "remediation": "linux.service",
        "action": "linux.service",
        "target": target,
        "per_value": "",
        "decided_at": later(-300),
        "lease_until": later(3600),
        "ended_at": ended,
        "result": result,
        "refusal": "",
        "reason": "",
    }
    return Change(**{**values, **fields})


FAILED_CHANGES = [change(f"e{i}", ended=later(-7200), result="failed") for i in range(3)]

# {refusal: (situation, request, configuration, part of the reason, part of the remedy)}
TEMPORARY_REFUSALS = {
    "paused": (
        {"pause": Pause(NOON, "anna", "maintenance")},
        {},
        {},
        "all changes are paused by anna (maintenance)",
        "poundcake.resume",
    ),
    "acknowledged": ({"acknowledged_by": "ben"}, {}, {}, "acknowledged by ben", "undo=true"),
    "silenced": (
        {"silenced_by": "ben"},
        {},
        {},
        "silenced in Alertmanager by ben",
        "expire the silence",
    ),
    "alertmanager_unavailable": (
        {},
        {"alertmanager_problem": "alertmanagers, http://am: refused"},
        {},
        "no Alertmanager answered, so a person may have silenced the alert (alertmanagers, http://am",
        "start Alertmanager",
    ),
    "episode_taken": (
        {"claiming_change": change("e7", ended=NOON)},
        {},
        {"host_cooldown_seconds": 0},
        "execution e7 made a change for this episode with linux.service",
        "poundcake.release format=text episode=f-1",
    ),
    "storm": (
        {"similar_count": 6},
        {},
        {},
        "6 incidents of HostDown are open or were resolved in the last 10 min, and storm_limit is",
        "10 min",
    ),
    "settling": (
        {"opened_at": later(-20)},
        {},
        {},
        "known for 60 s (settle_seconds) before anything is changed; 40 s remain",
        "wait",
    ),
    "approval_missing": (
        {},
        {"approval_problem": "anna rejected the change"},
        {},
        "anna rejected the change",
        "force=true",
    ),
    "not_confirmed": (
        {},
        {"objection": "web-1 answers on port 22", "remediation": "dead-host"},
        {},
        "web-1 answers on port 22",
        "see `check` and `only_if` of dead-host",
    ),
    "stale": (
        {"last_seen_at": later(-16 * 60)},
        {},
        {},
        "received 16 min ago, and fresh_minutes is 15",
        "next notification",
    ),
    "in_flight": (
        {"in_flight": [change("e7")]},
        {},
        {},
        "another change to web-1 is in flight: linux.service of execution e7",
        "force=true",
    ),
    "per_label_in_flight": (
        {"in_flight": [change("e7", "web-2", per_value="rack=r12")], "per_value": "rack=r12"},
        {"per_label": "rack"},
        {},
        "1 change is in flight for rack=r12, and at_once is 1",
        "force=true",
    ),
    "site_in_flight": (
        {"in_flight": [change(f"e{i}", f"web-{i}") for i in (2, 3, 4)]},
        {},
        {},
        "3 changes are in flight, and max_in_flight is 3",
        "force=true",
    ),
    "cooldown": (
        {"last_target_change": change("e7", ended=later(-1790), result="verified")},
        {},
        {},
        "cooldown of web-1 until 2026-01-14T12:00:10Z (host_cooldown_seconds)",
        "poundcake.release format=text episode=g-1",
    ),
    "daily_target_limit": (
        {
            "target_changes_last_day": [
                change(f"e{i}", decided_at=later(-3600 * i)) for i in (2, 3, 4)
            ]
        },
        {},
        {},
        "3 changes to web-1 in 24 hours, and max_changes_per_target_per_day is 3",
        "2026-01-15T08:00:00Z",
    ),
    "hourly_limit": (
        {"remediation_changes_last_hour": [change(f"e{i}", f"web-{i}") for i in range(5)]},
        {},
        {},
        "5 changes of linux.service in an hour, and max_changes_per_remediation_per_hour is 5",
        "2026-01-14T12:55:00Z",
    ),
    "site_limit": (
        {"changes_last_hour": [change(f"e{i}", f"web-{i}") for i in range(10)]},
        {},
        {},
        "10 changes of all remediations in an hour, and max_changes_per_hour is 10",
        "2026-01-14T12:55:00Z",
    ),
    "breaker": (
        {"breaker_changes": FAILED_CHANGES},
        {},
        {},
        "the last 3 changes of linux.service failed or did not clear the alert",
        "poundcake.release format=text remediation=linux.service",
    ),
}
DISABLED_CONTROLS = {
    "storm": {"storm_limit": 0},
    "settling": {"settle_seconds": 0},
    "stale": {"fresh_minutes": 0},
    "site_in_flight": {"max_in_flight": 0},
    "cooldown": {"host_cooldown_seconds": 0},
    "daily_target_limit": {"max_changes_per_target_per_day": 0},
    "hourly_limit": {"max_changes_per_remediation_per_hour": 0},
    "site_limit": {"max_changes_per_hour": 0},
    "breaker": {"breaker_failures": 0},
}


def decide_in(situation, request=None, **config):
    request = ChangeRequest(action="linux.service", **(request or {}))
    return decide(load({**LIVE_CONFIG, **config}), request, replace(FIRING, **situation))


@pytest.mark.parametrize("refusal", sorted(TEMPORARY_REFUSALS))
def test_each_control_refuses_with_its_value_and_a_remedy(refusal):
    situation, request, config, expected_reason, expected_remedy = TEMPORARY_REFUSALS[refusal]
    decision = decide_in(situation, request, **config)
    assert (decision.may_change, decision.refusal) == (False, refusal)
    assert (decision.stage, decision.may_reserve) == ("refused", True)
    assert expected_reason in decision.reason
    assert expected_remedy in decision.how_to_lift
    assert decision.message == f"{decision.reason}: {decision.how_to_lift}"


def test_a_silence_since_the_last_sync_refuses_the_change():
    decision = decide_in({}, {"silenced_by": "anna"})
    assert (decision.refusal, decision.reason) == ("silenced", "silenced in Alertmanager by anna")


@pytest.mark.parametrize("refusal", sorted(DISABLED_CONTROLS))
def test_a_limit_of_zero_turns_the_control_off(refusal):
    situation, request, config, _, _ = TEMPORARY_REFUSALS[refusal]
    assert (
        decide_in(situation, request, **{**config, **DISABLED_CONTROLS[refusal]}).may_change is True
    )


@pytest.mark.parametrize(
    "situation",
    [
        {"similar_count": 5},
        {"opened_at": later(-60)},
        {"last_seen_at": later(-15 * 60)},
        {"in_flight": [change("e2", "web-2"), change("e3", "web-3")]},
        {"in_flight": [change("e2", "web-2", per_value="rack=r12")], "per_value": "rack=r13"},
        {"last_target_change": change(ended=later(-1800), result="failed")},
        {"target_changes_last_day": [change("e1"), change("e2")]},
        {"remediation_changes_last_hour": [change(f"e{i}") for i in range(4)]},
        {"changes_last_hour": [change(f"e{i}") for i in range(9)]},
        {"breaker_changes": FAILED_CHANGES[:2]},
        {"breaker_changes": [change(ended=later(-7200), result="verified"), *FAILED_CHANGES[:2]]},
    ],
)
def test_a_change_below_each_limit_is_allowed(situation):
    assert decide_in(situation).may_change is True


def test_every_refusal_is_tested():
    """Other tests check the refusals that depend only on the configuration or the alert."""
    tested_refusals = {
        *TEMPORARY_REFUSALS,
        "no_action",
        "action_invalid",
        "action_not_allowed",
        "incident_ended",
    }
    tested_refusals |= {"resolved", "no_host", "no_target", "host_not_allowed", "host_denied"}
    tested_refusals |= {"stackstorm_host", "dry_run", "database_unavailable", "not_claimed"}
    assert tested_refusals == {str(refusal) for refusal in Refusal}


def test_a_denied_host_is_refused_even_if_it_is_allowed():
    decision = decide_about(allowed_hosts=["*"], denied_hosts=["web-*"])
    assert (decision.refusal, decision.may_check, decision.may_reserve) == (
        "host_denied",
        False,
        False,
    )
    assert decision.reason == "denied_hosts contains web-1"
    assert decide_about(denied_hosts=["db-*"]).may_change is True
    assert decide_about(action="", denied_hosts=["web-*"]).may_check is False


@pytest.mark.parametrize("lists", [{"allowed_hosts": ["db-*"]}, {"denied_hosts": ["localhost"]}])
def test_a_host_that_no_configuration_allows_is_refused_for_that_reason(lists):
    """Otherwise, the advice would be to change a list, and the next refusal would follow."""
    decision = decide_about({"named_host": "localhost:9100"}, **lists)
    assert decision.refusal == "stackstorm_host"
    assert decision.how_to_lift == "handle it by hand"


def test_a_target_needs_each_of_its_labels():
    decision = decide_in({"missing_label": "deployment"}, {"target_labels": ("deployment",)})
    assert (decision.refusal, decision.may_reserve) == ("no_target", False)
    assert "lacks the label deployment" in decision.reason


def test_a_check_that_confirms_the_problem_replaces_a_recent_notification():
    old_notification = {"last_seen_at": later(-86_400)}
    assert decide_in(old_notification).refusal == "stale"
    assert decide_in(old_notification, {"check_failed": True}).may_change is True


@pytest.mark.parametrize(
    "action", ["ipmi.power_cycle", "mypack.Reboot", "aws.reset_instance", "powerdns.x"]
)
def test_a_power_action_has_a_longer_cooldown(action):
    assert is_power_action(action)
    last_change = change(ended=later(-2000), result="verified", action=action)
    decision = decide_in({"last_target_change": last_change})
    assert decision.refusal == "cooldown"
    assert "until 2026-01-14T12:26:40Z (power_cooldown_seconds)" in decision.reason
    decision = decide_in({"last_target_change": last_change}, power_cooldown_seconds=1999)
    assert decision.may_change is True


def test_other_actions_are_not_power_actions():
    assert not is_power_action("linux.service")


def test_the_storm_limit_of_a_remediation_counts_alerts_with_the_same_label():
    situation = {"similar_count": 3, "similar_count_per_value": 3, "per_value": "rack=r12"}
    decision = decide_in(situation, {"per_label": "rack", "storm": 2, "remediation": "dead-host"})
    assert decision.refusal == "storm"
    assert "3 incidents of HostDown with rack=r12" in decision.reason
    assert "`storm` of dead-host is 2" in decision.reason
    assert decide_in(situation, {"per_label": "rack", "storm": 3}).may_change is True


def test_at_once_allows_several_changes_for_one_label():
    situation = {
        "in_flight": [change("e2", "web-2", per_value="rack=r12")],
        "per_value": "rack=r12",
    }
    assert decide_in(situation, {"per_label": "rack", "at_once": 2}).may_change is True
    assert decide_in(situation, {"per_label": "rack", "at_once": 0}).may_change is True


def test_an_execution_may_reserve_its_own_change_again():
    own_change = change("e1")
    changes_in_flight = [change(f"e{i}", f"web-{i}") for i in range(2, 9)]
    assert (
        decide_in(
            {
                "own_change": own_change,
                "claiming_change": own_change,
                "in_flight": changes_in_flight,
            }
        ).may_change
        is True
    )
    paused_situation = {
        "own_change": own_change,
        "claiming_change": own_change,
        "pause": Pause(NOON, "anna", "stop"),
    }
    assert decide_in(paused_situation).refusal == "paused"
    ended_change = change("e1", ended=NOON, result="verified")
    ended_situation = {"own_change": ended_change, "claiming_change": ended_change}
    assert decide_in(ended_situation).refusal == "episode_taken"


def test_a_dry_run_reports_what_would_stop_the_change_now():
    decision = decide_in({"similar_count": 6}, dry_run=True)
    assert (decision.refusal, decision.stage, decision.may_reserve) == ("dry_run", "dry_run", False)
    assert decision.message.startswith(
        "would run linux.service for web-1, but not now: 6 incidents"
    )


def test_a_preview_contains_the_seconds_until_the_incident_has_settled():
    situation = replace(FIRING, opened_at=later(-20))
    request = ChangeRequest(action="linux.service")
    decision = preview(load(LIVE_CONFIG), request, situation)
    assert (decision.may_change, decision.settle_seconds) == (True, 40)
    assert decide(load(LIVE_CONFIG), request, situation).settle_seconds == 40
    assert preview(load({**LIVE_CONFIG, "dry_run": True}), request, situation).settle_seconds == 0
    storm_preview = preview(load(LIVE_CONFIG), request, replace(situation, similar_count=6))
    assert (storm_preview.refusal, storm_preview.may_reserve, storm_preview.settle_seconds) == (
        "storm",
        True,
        40,
    )


def test_a_refusal_during_a_pause_shows_when_it_ends():
    pause = Pause(NOON, "anna", "maintenance", later(600))
    assert "until 2026-01-14T12:10:00Z" in decide_in({"pause": pause}).reason


def read_entry(**overrides):
    fields = {"name": "nginx", "match": ["alertname=HostDown"], "mode": "live", "action": "a.b"}
    (remediation,), errors = read_remediations([{**fields, **overrides}])
    assert not errors
    return remediation


def test_checks_that_permit_the_change_replace_a_recent_notification():
    request = ChangeRequest(action="linux.service")
    entry_with_check = read_entry(check=["alert"])
    met, unmet = ConditionsResult(), ConditionsResult("no")
    assert with_conditions(request, entry_with_check, met).check_failed is True
    assert with_conditions(request, entry_with_check, unmet).check_failed is False
    # The expression of only_if says nothing about the alert itself.
    assert with_conditions(request, read_entry(only_if="up"), met).check_failed is False


@pytest.mark.parametrize(
    "overrides, objection",
    [
        ({}, ""),
        ({"mode": "ask", "approvers": ["anna"]}, ""),
        ({"mode": "dry_run"}, "the remediation nginx is now in mode dry_run"),
        ({"match": ["alertname=Other"]}, "the remediation nginx no longer matches the alert"),
        ({"action": "a.c"}, "the remediation nginx now names the action a.c"),
    ],
)
def test_an_entry_changed_since_the_start_prevents_the_change(overrides, objection):
    assert (
        find_entry_objection(read_entry(**overrides), {"alertname": "HostDown"}, "a.b") == objection
    )


def test_a_check_added_since_the_start_must_run_before_the_change():
    entry_with_checks = read_entry(check=["cpu>95", "disk:/var>90"])
    objection = "the host was not checked as the remediation nginx now requires"
    labels = {"alertname": "HostDown"}
    assert find_entry_objection(entry_with_checks, labels, "a.b", ["cpu>95"]) == objection
    assert find_entry_objection(entry_with_checks, labels, "a.b", ["cpu>95", "disk:/var>90"]) == ""
