"""Alerting rules that cannot work are found."""

from __future__ import annotations

from poundcake.doctor.finding import Status
from poundcake.doctor.rules import check_own_alerts, check_rules
from poundcake.monitoring import AlertingRule

URL = "http://prometheus.example"
GOOD = AlertingRule("HostDown", {"severity": "critical"})


def test_rules_with_a_severity_are_ok():
    (finding,) = check_rules([GOOD], URL)
    assert finding.status is Status.OK
    assert "1 alerting rule," in finding.what


def test_no_rules_are_a_warning():
    (finding,) = check_rules([], URL)
    assert finding.status is Status.WARNING
    assert "no alerting rules" in finding.what


def test_rules_without_a_severity_are_listed():
    rules = [GOOD, *[AlertingRule(f"R{number}", {"team": "x"}) for number in range(7)]]
    (finding,) = check_rules(rules, URL)
    assert finding.status is Status.WARNING
    assert finding.what.endswith("R0, R1, R2, R3, R4 and 2 more")


def test_a_rule_that_cannot_be_evaluated_is_a_problem():
    (finding,) = check_rules([GOOD, AlertingRule("Bad", {"severity": "x"}, "no such metric")], URL)
    assert finding.status is Status.PROBLEM
    assert "Bad" in finding.what and "no such metric" in finding.remedy


def test_a_prometheus_without_alerts_about_the_pack_is_found():
    (finding,) = check_own_alerts([GOOD])
    assert finding.status is Status.WARNING
    assert "etc/poundcake.rules.yml" in finding.remedy
    (finding,) = check_own_alerts([GOOD, AlertingRule("PoundCakeDown", {"severity": "critical"})])
    assert finding.status is Status.OK
