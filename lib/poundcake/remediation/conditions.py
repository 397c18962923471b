"""Check the conditions of an entry before its change: the keys `check` and `only_if`.

All conditions have to hold. A condition that cannot be checked does not permit a change.
"""

from __future__ import annotations

import math
from typing import Callable, Sequence

from poundcake.errors import PoundCakeError
from poundcake.monitoring import AlertState, PrometheusApi
from poundcake.remediation.checks import TcpState, check_host, ports_to_check
from poundcake.remediation.polls import CheckedAlert, is_expression_true
from poundcake.remediations import Remediation

ServerLister = Callable[[], Sequence[PrometheusApi]]
"""Returns the configured Prometheus servers."""


def find_objection(entry: Remediation, alert: CheckedAlert, servers: ServerLister) -> str:
    """Return why a condition of an entry does not permit its change, or '' if all do.

    Args:
        entry: The entry.
        alert: The alert.
        servers: Returns the configured Prometheus servers.
    """
    conditions = [
        *entry.built_in_checks,
        *([f"expression:{entry.only_if}"] if entry.only_if else []),
    ]
    for condition in conditions:
        try:
            objection = _condition_objection(condition, alert, servers)
        except PoundCakeError as error:
            objection = str(error)
        if objection:
            return objection
    return ""


def _condition_objection(condition: str, alert: CheckedAlert, servers: ServerLister) -> str:
    kind, _, argument = condition.partition(":")
    if kind == "tcp":
        return _tcp_objection(alert, argument)
    prometheus_servers = servers()
    if not prometheus_servers:
        return f"{kind} needs a Prometheus, and none is configured (`prometheus`)"
    if kind == "alert":
        return _alert_objection(alert, prometheus_servers)
    if argument:
        return _expression_objection(argument, prometheus_servers)
    return _rule_expression_objection(alert, prometheus_servers)


def _tcp_objection(alert: CheckedAlert, port: str) -> str:
    """Return why the alert's host is or may be up, or '' if it does not answer."""
    ports = [int(port)] if port else ports_to_check(alert.port)
    result = check_host(alert.host, ports, 0)
    return "" if result.state is TcpState.NO_ANSWER else result.detail


def _alert_objection(alert: CheckedAlert, servers: Sequence[PrometheusApi]) -> str:
    """Return why the alert is not firing, or '' if it is firing in at least one Prometheus."""
    states = []
    for server in servers:
        reading = server.alert_state(alert.labels)
        if reading.state is AlertState.FIRING:
            return ""
        states.append(f"{reading.state} in {server.url}")
    return f"the alert is not firing in Prometheus: {', '.join(states)}"


def _rule_expression_objection(alert: CheckedAlert, servers: Sequence[PrometheusApi]) -> str:
    for server in servers:
        rules = server.alert_state(alert.labels).rules
        if is_expression_true(server, rules, alert.labels, accept_extra_labels=False):
            return ""
    return "the expression of the alert is not true in any Prometheus"


def _expression_objection(expression: str, servers: Sequence[PrometheusApi]) -> str:
    """Return why an expression is not true, or '' if it is true in every Prometheus.

    It is true if it has a value other than 0 and NaN.
    """
    for server in servers:
        values = [sample.value for sample in server.query(expression)]
        if not any(value and not math.isnan(value) for value in values):
            actual = ", ".join(f"{value:g}" for value in values[:3]) or "no value"
            return f"the expression {expression} is not true in {server.url}: {actual}"
    return ""
