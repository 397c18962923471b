"""Check the conditions of an entry before its change: the keys `check` and `only_if`.

All conditions have to hold. A condition that cannot be checked does not permit a change.
"""

from __future__ import annotations

import math
from typing import Callable, NamedTuple, Sequence

from poundcake.errors import PoundCakeError
from poundcake.monitoring import AlertState, PrometheusApi
from poundcake.remediation.checks import TcpState, check_host, ports_to_check
from poundcake.remediation.polls import CheckedAlert, is_expression_true
from poundcake.remediation.safety import ConditionsResult
from poundcake.remediations import Remediation

ServerLister = Callable[[], Sequence[PrometheusApi]]
"""Returns the configured Prometheus servers."""


def check_conditions(
    entry: Remediation, alert: CheckedAlert, servers: ServerLister
) -> ConditionsResult:
    """Check the conditions of an entry, up to the first one that does not permit the change.

    Args:
        entry: The entry.
        alert: The alert.
        servers: Returns the configured Prometheus servers.
    """
    conditions = [
        *entry.built_in_checks,
        *([f"expression:{entry.only_if}"] if entry.only_if else []),
    ]
    seen: list[str] = []
    for condition in conditions:
        try:
            state = _check_condition(condition, alert, servers)
        except PoundCakeError as error:
            state = _State(False, str(error))
        seen.append(state.detail)
        if not state.permits_change:
            return ConditionsResult(state.detail, tuple(seen))
    return ConditionsResult("", tuple(seen))


class _State(NamedTuple):
    """The state of one condition.

    Attributes:
        permits_change: Whether the condition permits the change.
        detail: The observed state, in words.
    """

    permits_change: bool
    detail: str


def _check_condition(condition: str, alert: CheckedAlert, servers: ServerLister) -> _State:
    kind, _, argument = condition.partition(":")
    if kind == "tcp":
        return _check_tcp(alert, argument)
    prometheus_servers = servers()
    if not prometheus_servers:
        problem = f"{kind} needs a Prometheus, and none is configured (`prometheus`)"
        return _State(False, problem)
    if kind == "alert":
        return _check_alert(alert, prometheus_servers)
    if argument:
        return _check_expression(argument, prometheus_servers)
    return _check_rule_expression(alert, prometheus_servers)


def _check_tcp(alert: CheckedAlert, port: str) -> _State:
    """Check whether the alert's host is down: it must not answer on any port."""
    ports = [int(port)] if port else ports_to_check(alert.port)
    result = check_host(alert.host, ports, 0)
    if result.state is not TcpState.NO_ANSWER:
        return _State(False, result.detail)
    if len(ports) == 1:
        return _State(True, f"port {ports[0]} does not answer")
    return _State(True, f"ports {' and '.join(map(str, ports))} do not answer")


def _check_alert(alert: CheckedAlert, servers: Sequence[PrometheusApi]) -> _State:
    """Check whether the alert is firing in at least one Prometheus."""
    states = []
    for server in servers:
        reading = server.alert_state(alert.labels)
        if reading.state is AlertState.FIRING:
            return _State(True, f"the alert is firing in {server.url}")
        states.append(f"{reading.state} in {server.url}")
    return _State(False, f"the alert is not firing in Prometheus: {', '.join(states)}")


def _check_rule_expression(alert: CheckedAlert, servers: Sequence[PrometheusApi]) -> _State:
    for server in servers:
        rules = server.alert_state(alert.labels).rules
        if is_expression_true(server, rules, alert.labels, accept_extra_labels=False):
            return _State(True, f"the expression of the alert is true in {server.url}")
    return _State(False, "the expression of the alert is not true in any Prometheus")


def _check_expression(expression: str, servers: Sequence[PrometheusApi]) -> _State:
    """Check whether an expression is true in every Prometheus.

    It is true if it has a value other than 0 and NaN.
    """
    actual = ""
    for server in servers:
        values = [sample.value for sample in server.query(expression)]
        actual = ", ".join(f"{value:g}" for value in values[:3]) or "no value"
        if not any(value and not math.isnan(value) for value in values):
            detail = f"the expression {expression} is not true in {server.url}: {actual}"
            return _State(False, detail)
    return _State(True, f"the expression {expression} is true: {actual}")
