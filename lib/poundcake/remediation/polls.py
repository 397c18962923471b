"""Check whether a change helped, one poll at a time.

Orquesta repeats the task `verify` until a poll is done, so no process has to wait. A poll that
finds the alert gone counts only if the previous poll found the same in an earlier evaluation.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, Mapping, NamedTuple, Protocol, Sequence

from poundcake.host_checks import HostCheck, is_host_check, parse_host_check
from poundcake.hosts import host_and_port
from poundcake.monitoring import AlertReading, AlertRule, AlertState, MonitoringError, PrometheusApi
from poundcake.remediation.checks import TcpState, check_host, ports_to_check
from poundcake.remediation.errors import RemediationError
from poundcake.remediation.findings import read_check
from poundcake.remediation.verification import VERIFY_HOST_TASK, VERIFY_TASK
from poundcake.stackstorm import Execution, action_result
from poundcake.timestamps import format_timestamp
from poundcake.trail.change_tasks import CHANGE_TASKS, read_tasks

# The times of StackStorm and Prometheus come from HTTP headers, which are precise to a second.
_CLOCK_ERROR = timedelta(seconds=2)
_TARGET_LABELS = ("job", "instance")


class CheckedAlert(NamedTuple):
    """An alert whose state is checked.

    Attributes:
        labels: Its labels, as they were sent.
        host: Its canonical host, or ''.
        port: The port of its host, or 0.
    """

    labels: Mapping[str, str]
    host: str = ""
    port: int = 0

    @classmethod
    def of(cls, labels: Mapping[str, str], host_label: str) -> CheckedAlert:
        """Return the alert with these labels, and the host in the label `host_label`."""
        parsed = host_and_port(labels.get(host_label, ""))
        return cls(labels, parsed.host, parsed.port) if parsed else cls(labels)


class Change(NamedTuple):
    """The change of a workflow.

    Attributes:
        age: How long ago it ended, by StackStorm's clock.
        evaluations: From the previous poll: the time at which each Prometheus first evaluated the
            alert as gone, in the order of the configuration; empty if it was not gone.
        host_check: The newest check of the host after the change, or None.
    """

    age: timedelta
    evaluations: Sequence[str] = ()
    host_check: Execution | None = None


@dataclass(frozen=True)
class Poll:
    """The result of one poll.

    Attributes:
        done: Whether the verification has ended.
        cleared: Whether the change helped.
        detail: The observed state, in words.
        seconds: Seconds since the end of the change.
        evaluations: See Change.
    """

    done: bool
    cleared: bool
    detail: str
    seconds: int
    evaluations: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the result of poundcake.verify."""
        return {**asdict(self), "evaluations": list(self.evaluations)}


class Api(Protocol):
    """The part of StackStorm's API that this module uses."""

    def now(self) -> Any:
        """Return the time by the API's clock."""

    def get_children(self, execution_id: str) -> Sequence[Execution]:
        """Return the executions that a workflow's tasks started."""


def read_change(api: Api, execution_id: str) -> Change:
    """Return the change that a workflow made.

    Raises:
        RemediationError: The workflow has made no change, or its change has not ended.
    """
    tasks = read_tasks(api, execution_id)
    ended = [t.ended_at for t in tasks if t.task_name in CHANGE_TASKS and t.ended_at]
    if not ended:
        raise RemediationError("the workflow has made no change, or its change has not ended")
    polls = [t for t in tasks if t.task_name == VERIFY_TASK and t.is_terminal]
    age: timedelta = api.now() - ended[-1]
    host_checks = [t for t in tasks if t.task_name == VERIFY_HOST_TASK]
    return Change(
        max(age, timedelta(0)),
        _read_evaluations(polls[-1]) if polls else (),
        host_checks[-1] if host_checks else None,
    )


def _read_evaluations(execution: Execution) -> Sequence[str]:
    evaluations = action_result(execution).get("evaluations")
    return [str(text) for text in evaluations] if isinstance(evaluations, list) else ()


def poll(
    check: str,
    wait: int,
    alert: CheckedAlert,
    servers: Sequence[PrometheusApi],
    change: Change,
) -> Poll:
    """Check once whether a change helped.

    Args:
        check: `alert`, `expression`, `tcp`, `tcp:PORT`, or a check of the host (`disk:/var>90`).
        wait: Seconds after which the change counts as not verified.
        alert: The alert.
        servers: The configured Prometheus servers.
        change: The change.
    """
    kind, _, argument = check.partition(":")
    try:
        if kind == "tcp":
            observation = _check_tcp(alert, argument)
        elif is_host_check(check):
            observation = _read_host_check(parse_host_check(check), change)
        else:
            observation = _query_servers(kind, alert, servers, change)
    except (MonitoringError, RemediationError) as error:
        observation = _Observation(False, str(error))
    seconds = int(change.age.total_seconds())
    if not observation.confirmed and seconds >= wait:
        return Poll(True, False, f"not verified within {wait} s: {observation.detail}", seconds)
    is_confirmed = observation.confirmed
    return Poll(is_confirmed, is_confirmed, observation.detail, seconds, observation.evaluations)


class _Observation(NamedTuple):
    """The state that one poll observed.

    Attributes:
        confirmed: Whether the change helped.
        detail: The observed state, in words.
        evaluations: See Change.
    """

    confirmed: bool
    detail: str
    evaluations: Sequence[str] = ()


def _check_tcp(alert: CheckedAlert, port: str) -> _Observation:
    ports = [int(port)] if port else ports_to_check(alert.port)
    result = check_host(alert.host, ports, 0)
    return _Observation(result.state is TcpState.ANSWERS, result.detail)


def _read_host_check(check: HostCheck, change: Change) -> _Observation:
    if change.host_check is None:
        raise RemediationError("the host was not checked after the change")
    result = read_check(check, change.host_check)
    return _Observation(not result.holds, result.detail)


def _query_servers(
    kind: str, alert: CheckedAlert, servers: Sequence[PrometheusApi], change: Change
) -> _Observation:
    """Query every Prometheus. All must answer, and at least one must have a rule for the alert."""
    if not servers:
        return _Observation(False, "no Prometheus is configured (`prometheus`)")
    evaluations = []
    for server in servers:
        reading = server.alert_state(alert.labels)
        problem = _find_problem(kind, server, reading, alert, change.age)
        if problem:
            return _Observation(False, f"{server.url}: {problem}")
        evaluated_at = reading.evaluated_at if reading.state is not AlertState.ABSENT else None
        evaluations.append(format_timestamp(evaluated_at) if evaluated_at else "")
    if not any(evaluations):
        name = alert.labels.get("alertname", "")
        return _Observation(False, f"no Prometheus has an alerting rule {name}")
    return _compare_polls(kind, evaluations, change.evaluations)


def _compare_polls(kind: str, current: Sequence[str], previous: Sequence[str]) -> _Observation:
    """Compare this poll with the previous one: two evaluations must agree to confirm the change."""
    conclusion = "the alert is cleared" if kind == "alert" else "its expression is false"
    latest = max(current)
    if len(previous) != len(current):
        return _Observation(False, f"{conclusion} in one evaluation, at {latest}", current)
    if all(new != old for new, old in zip(current, previous) if new):
        return _Observation(True, f"{conclusion} in two evaluations, the last at {latest}", current)
    return _Observation(False, f"{conclusion} in one evaluation, at {latest}", previous)


def _find_problem(
    kind: str, server: PrometheusApi, reading: AlertReading, alert: CheckedAlert, age: timedelta
) -> str:
    """Return why one Prometheus does not confirm that the alert is gone, or ''."""
    if reading.state is AlertState.ABSENT:
        return ""
    if reading.state is AlertState.UNKNOWN:
        return f"the state of the alert is unknown: {reading.detail}"
    if kind == "alert" and reading.state is not AlertState.CLEARED:
        return f"the alert is {reading.state}"
    if not _was_evaluated_since_change(reading, age):
        return "its rule has not been evaluated since the change"
    if kind == "expression" and is_expression_true(
        server, reading.rules, alert.labels, accept_extra_labels=True
    ):
        return "the expression of the alert is still true"
    return _find_scrape_problem(server, alert.labels)


def _was_evaluated_since_change(reading: AlertReading, age: timedelta) -> bool:
    """Return True if the rule was evaluated after the change.

    Only ages are compared, because Prometheus and StackStorm may have different clocks.
    """
    if reading.evaluated_at is None or reading.now is None:
        return False
    return reading.now - reading.evaluated_at < age - _CLOCK_ERROR


def _find_scrape_problem(server: PrometheusApi, labels: Mapping[str, str]) -> str:
    """Return an error if the target of an alert is not scraped, or ''.

    Without scrapes, the alert's series disappear, so the alert appears to have cleared.
    """
    if not labels.get("instance"):
        return ""
    selector = ",".join(
        # PromQL uses Go's string syntax. json.dumps escapes in the same way, except surrogates.
        f"{name}={json.dumps(labels[name], ensure_ascii=False)}"
        for name in _TARGET_LABELS
        if labels.get(name)
    )
    failed_samples = [sample for sample in server.query(f"up{{{selector}}}") if sample.value != 1]
    return (
        "Prometheus cannot scrape the alert's target: its `up` is not 1" if failed_samples else ""
    )


def is_expression_true(
    server: PrometheusApi,
    rules: Sequence[AlertRule],
    labels: Mapping[str, str],
    accept_extra_labels: bool,
) -> bool:
    """Return True if the expression of one of the rules is true for an alert.

    Args:
        server: The Prometheus with these rules.
        rules: The rules.
        labels: The alert's labels.
        accept_extra_labels: Whether a series may have a label that the alert lacks.

    Raises:
        MonitoringError: Prometheus does not answer, or cannot evaluate the expression.
    """
    return any(
        _is_series_of_alert(labels, sample.labels, rule.labels, accept_extra_labels)
        for rule in rules
        for sample in server.query(rule.expression)
    )


def _is_series_of_alert(
    labels: Mapping[str, str],
    series: Mapping[str, str],
    replaced_labels: frozenset[str],
    accept_extra_labels: bool,
) -> bool:
    ignored = {"__name__", *replaced_labels}
    return all(
        labels.get(name, value if accept_extra_labels else "") == value
        for name, value in series.items()
        if name not in ignored
    )
