"""Check the alerting rules of Prometheus."""

from __future__ import annotations

from typing import Sequence

from poundcake.doctor.finding import Finding, ok, problem, warning
from poundcake.monitoring import AlertingRule
from poundcake.trail.text.layout import counted

_SEVERITY = "severity"
_MAX_LISTED = 5
_OWN_ALERTS = "PoundCake"


def check_rules(rules: Sequence[AlertingRule], url: str) -> list[Finding]:
    """Check the rules.

    Args:
        rules: The alerting rules.
        url: The URL of the Prometheus, for the findings.
    """
    check = "prometheus.rules"
    if not rules:
        remedy = "load some, for example etc/alert-rules.yml (docs/METRICS.md)"
        return [warning(check, f"{url} has no alerting rules", remedy)]
    findings = []
    failing = [rule for rule in rules if rule.error]
    if failing:
        what = f"rules of {url} that cannot be evaluated: {_list_names(failing)}"
        findings.append(problem(check, what, f"correct the first one: {failing[0].error}"))
    without_severity = [rule for rule in rules if not rule.labels.get(_SEVERITY)]
    if without_severity:
        what = f"rules of {url} without the label {_SEVERITY}: {_list_names(without_severity)}"
        remedy = "add it to the labels of each rule; views and escalation use it"
        findings.append(warning(check, what, remedy))
    count = counted(len(rules), "alerting rule")
    return findings or [ok(check, f"{url} evaluates {count}, each with a {_SEVERITY}")]


def check_own_alerts(rules: Sequence[AlertingRule]) -> list[Finding]:
    """Check that some server has the alerts about PoundCake itself.

    Args:
        rules: The alerting rules of all servers that answered.
    """
    check = "prometheus.own_alerts"
    count = sum(rule.name.startswith(_OWN_ALERTS) for rule in rules)
    if count:
        return [ok(check, f"Prometheus has {counted(count, 'alert')} about PoundCake itself")]
    what = "Prometheus has no alerts about PoundCake itself, so nobody is told when it is down"
    return [warning(check, what, "load etc/poundcake.rules.yml (docs/METRICS.md, Alerts)")]


def _list_names(rules: Sequence[AlertingRule]) -> str:
    names = list(dict.fromkeys(rule.name for rule in rules))
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more
