"""Nothing is changed unless the configuration and the alert both allow it."""

from __future__ import annotations

import itertools
import socket

import pytest

from poundcake.config import load
from poundcake.remediation.safety import AlertState, permit

FIRING = AlertState(named_host="web-1:9100", status="firing", incident_ended_at=None)


def decide_about(alert=None, action="linux.service", needs_host=True, **config):
    """Return the decision about an alert, with a configuration that allows linux.service."""
    given = {"dry_run": False, "allowed_hosts": ["*"], "allowed_actions": ["linux.service"]}
    given.update(config)
    return permit(load(given), FIRING._replace(**(alert or {})), action, needs_host)


def test_an_allowed_action_on_an_allowed_host_may_change_it():
    assert decide_about().as_dict() == {
        "host": "web-1",
        "port": 9100,
        "may_check": True,
        "may_change": True,
        "action": "linux.service",
        "dry_run": False,
        "stage": "remediate",
        "message": "",
    }


def test_an_alert_without_a_usable_host_has_an_empty_host_and_port_0():
    found = decide_about({"named_host": "$(reboot)"}, needs_host=False).as_dict()
    assert (found["host"], found["port"]) == ("", 0)


def test_without_any_configuration_nothing_may_be_changed():
    found = permit(load({}), FIRING, "linux.service")
    assert found.may_change is False
    assert found.dry_run is True


def test_a_dry_run_reports_what_it_would_run():
    found = decide_about(dry_run=True)
    assert (found.may_change, found.stage) == (False, "dry_run")
    assert found.message == "would run linux.service for web-1"


def test_a_dry_run_reports_that_no_host_is_allowed():
    found = decide_about(dry_run=True, allowed_hosts=[])
    assert (found.may_change, found.stage) == (False, "dry_run")
    assert found.message == (
        "would run linux.service for web-1, but allowed_hosts is empty: with dry_run: false it "
        "allows no host"
    )


def test_a_dry_run_reports_a_missing_action():
    found = decide_about(dry_run=True, action="")
    assert (found.may_change, found.stage) == (False, "dry_run")
    assert "the rule names no action" in found.message


def test_without_an_action_only_evidence_is_collected():
    for needs_host in (True, False):
        found = decide_about(action="", needs_host=needs_host)
        assert (found.may_change, found.stage) == (False, "evidence")
        assert "the rule names no action" in found.message


def test_a_workflow_that_needs_no_host_may_collect_evidence_for_any_alert():
    found = decide_about({"named_host": ""}, "", needs_host=False, allowed_hosts=["db-*"])
    assert found.stage == "evidence"


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
def test_a_refusal_explains_itself(alert, action, config, message):
    found = decide_about(alert, action, **config)
    assert (found.may_change, found.stage, found.message) == (False, "refused", message)


def test_a_refusal_names_the_label_that_should_name_the_host():
    found = decide_about({"named_host": ""}, host_label="node")
    assert found.message == "the label node of the alert contains no host"


@pytest.mark.parametrize("pattern", ["web-1", "WEB-*", "*", "web-?", "web-[12]"])
def test_allowed_hosts_are_patterns(pattern):
    assert decide_about(allowed_hosts=[pattern]).may_change is True


def test_an_address_wildcard_matches_no_name():
    found = decide_about({"named_host": "10.0.0.attacker.net"}, allowed_hosts=["10.0.0.*"])
    assert found.message == "allowed_hosts does not contain 10.0.0.attacker.net"


@pytest.mark.parametrize("instance", ["WEB-1.:9100", "http://web-1:9100/metrics", "web-1:"])
def test_a_host_is_the_same_in_each_spelling(instance):
    found = decide_about({"named_host": instance}, allowed_hosts=["web-1"])
    assert found.may_change is True
    assert found.as_dict()["host"] == "web-1"


@pytest.mark.parametrize(
    "instance, why",
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
def test_stackstorm_itself_is_neither_changed_nor_checked(instance, why, action):
    """Even if allowed_hosts contains every host."""
    found = decide_about({"named_host": instance}, action, allowed_hosts=["*"])
    assert (found.may_change, found.may_check, found.stage) == (False, False, "refused")
    assert why in found.message


def test_a_host_that_is_not_allowed_is_not_checked():
    assert decide_about(allowed_hosts=["db-*"]).may_check is False
    assert decide_about({"named_host": ""}, needs_host=False).may_check is False
    assert decide_about(action="").may_check is True
    assert decide_about({"status": "resolved"}).may_check is True


def test_an_action_that_needs_no_host_runs_for_an_alert_without_one():
    for allowed in (["*"], ["db-*", "*"]):
        found = decide_about({"named_host": ""}, needs_host=False, allowed_hosts=allowed)
        assert found.may_change is True
    # A list of allowed hosts cannot contain an unknown host.
    for allowed in (["?*"], ["db-*"], []):
        found = decide_about({"named_host": ""}, needs_host=False, allowed_hosts=allowed)
        assert found.may_change is False


@pytest.mark.parametrize("needs_host", [True, False])
def test_without_allowed_hosts_no_host_may_be_changed(needs_host):
    """Before 0.3.0, an empty list allowed every host."""
    found = decide_about(allowed_hosts=[], needs_host=needs_host)
    assert (found.may_change, found.stage) == (False, "refused")
    assert found.message == (
        'allowed_hosts is empty, which allows no host: list the hosts in it, or "*" for any'
    )


def test_without_allowed_hosts_evidence_is_still_collected():
    assert decide_about(action="", allowed_hosts=[]).stage == "evidence"


def test_nothing_is_changed_for_an_ended_incident():
    found = decide_about({"incident_ended_at": "2026-01-14T12:00:00Z"})
    assert (found.may_change, found.stage) == (False, "ended")
    assert found.message == "the incident ended at 2026-01-14T12:00:00Z"


def test_a_change_needs_every_condition():
    for dry_run, status, host, action, allowed in itertools.product(
        (True, False),
        ("firing", "resolved"),
        ("web-1", "a b", ""),
        ("linux.service", "linux.other", ""),
        ([], ["*"], ["web-*"], ["db-*"]),
    ):
        found = decide_about(
            {"status": status, "named_host": host}, action, dry_run=dry_run, allowed_hosts=allowed
        )
        may_change = (
            not dry_run
            and status == "firing"
            and host == "web-1"
            and action == "linux.service"
            and allowed in (["*"], ["web-*"])
        )
        assert found.may_change is may_change
        assert (found.stage == "remediate") is may_change
        assert bool(found.message) is not may_change
