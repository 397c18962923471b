"""Read what the inspections of a host saw.

This module reads their results from StackStorm's API, because a workflow must not handle the output
of a host: Orquesta would evaluate expressions in it.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any, Callable, Mapping, NamedTuple, Protocol, Sequence

from poundcake.execution_status import ExecutionStatus
from poundcake.host_checks import HostCheck, is_host_check, parse_host_check
from poundcake.inert import FixedText, inert_line
from poundcake.remediation import host_facts
from poundcake.remediation.errors import RemediationError
from poundcake.remediation.host_facts import CpuFacts, DiskFacts, MemoryFacts, ServiceFacts
from poundcake.remediation.inspections import INSPECT_FIRST_TASK, INSPECT_TASK, Inspection
from poundcake.remediation.safety import ConditionsResult
from poundcake.stackstorm import Execution, StackStormError, action_result, failure_reason
from poundcake.trail.change_tasks import read_tasks

BEGIN_TASK = "begin"

_MAX_EVIDENCE = 2000  # characters
_MAX_AGE_MINUTES = 10
# The states of a service in which a restart may help. Any other state except `active`, such as
# `activating`, neither permits a change nor confirms one.
_DOWN_STATES = ("inactive", "failed")


class Api(Protocol):
    """The part of StackStorm's API that this module uses."""

    def now(self) -> datetime:
        """Return the time by the API's clock."""

    def get_children(self, execution_id: str) -> Sequence[Execution]:
        """Return the executions that a workflow's tasks started."""


class CheckResult(NamedTuple):
    """The result of a check.

    Attributes:
        holds: Whether the check holds: the disk is too full, or the service is not running.
        detail: The measured state, in words.
    """

    holds: bool
    detail: str


class Finding(NamedTuple):
    """The result of an inspection.

    Attributes:
        name: The check, or the reference of the action.
        holds: Whether the check holds; None if the check failed, or for evidence.
        detail: The measured state or the evidence, or why the inspection failed.
        ended_at: When the inspection ended, or None if it has not run.
        is_summary: Whether `detail` is short enough for the message of a report.
    """

    name: str
    holds: bool | None
    detail: str
    ended_at: datetime | None = None
    is_summary: bool = True

    @property
    def line(self) -> str:
        """The result for people: the measured state, or the action with its output."""
        return self.detail if self.is_summary else f"{self.name}: {self.detail}"

    @property
    def is_check(self) -> bool:
        """Whether the inspection is a check and not only evidence."""
        return is_host_check(self.name)


def read_conditions(
    api: Api, execution_id: str, checks: Sequence[str], before_approval: bool = False
) -> ConditionsResult:
    """Return whether the checks of a host permit a change, and what the inspections saw.

    Args:
        api: StackStorm's API.
        execution_id: The workflow's execution.
        checks: The checks of the entry, such as `disk:/var>90`. All of them must hold.
        before_approval: Whether to read the inspections before the approval instead of those
            immediately before the change.
    """
    task = INSPECT_FIRST_TASK if before_approval else INSPECT_TASK
    try:
        findings = read_findings(read_tasks(api, execution_id), task)
        parsed_checks = [parse_host_check(text) for text in checks]
        now = api.now()
    except (StackStormError, ValueError) as error:
        problem = f"the results of the checks of the host could not be read: {error}"
        return ConditionsResult(problem)
    objection = _find_objection(parsed_checks, findings, now)
    return ConditionsResult(objection, tuple(finding.line for finding in findings))


def _find_objection(checks: Sequence[HostCheck], findings: Sequence[Finding], now: datetime) -> str:
    """Return why the checks of a host do not permit a change, or '' if all of them permit it."""
    findings_by_name = {finding.name: finding for finding in findings}
    for check in checks:
        finding = findings_by_name.get(str(check))
        if finding is None:
            return f"the host was not checked for {_describe_check(check)}"
        if finding.holds is None:
            return f"the host could not be checked for {_describe_check(check)}: {finding.detail}"
        if finding.ended_at is None or now - finding.ended_at > timedelta(minutes=_MAX_AGE_MINUTES):
            age = f"more than {_MAX_AGE_MINUTES} min ago"
            return f"the host was checked for {_describe_check(check)} {age}"
        if not finding.holds:
            return finding.detail
    return ""


def read_findings(executions: Sequence[Execution], task: str = INSPECT_TASK) -> list[Finding]:
    """Return the results of the inspections of a workflow, in the order of poundcake.begin's list.

    Args:
        executions: The executions of the workflow's tasks.
        task: The task that ran the inspections.
    """
    by_item = {e.item_id: e for e in executions if e.task_name == task}
    inspections = _read_inspections(executions)
    return [
        _create_finding(inspection, by_item.get(number))
        for number, inspection in enumerate(inspections)
    ]


def read_check(check: HostCheck, execution: Execution) -> CheckResult:
    """Return the result of a check.

    Args:
        check: The check.
        execution: The execution of its action.

    Raises:
        RemediationError: The check failed, or its output is invalid.
    """
    if check.kind == "action":
        return _read_action(execution)
    result = execution.result if isinstance(execution.result, dict) else {}
    if check.kind == "service":
        check_result = _read_service(host_facts.read_service(result))
    else:
        usage = _USAGE_READERS[check.kind](result)
        holds = usage.percent > check.above
        comparison = "more than" if holds else "not more than"
        check_result = CheckResult(holds, f"{usage.summary} ({comparison} {check.above}%)")
    _require_success(execution)
    return check_result


class _Facts(Protocol):
    @property
    def summary(self) -> str:
        """Return the measured state, in words."""


class _Usage(NamedTuple):
    percent: float
    summary: str


def _read_disk_usage(result: Mapping[str, Any]) -> _Usage:
    facts: DiskFacts = host_facts.read_disk(result)
    return _Usage(facts.used_percent, facts.summary)


def _read_memory_usage(result: Mapping[str, Any]) -> _Usage:
    facts: MemoryFacts = host_facts.read_memory(result)
    if not facts.total_bytes:
        raise RemediationError("the host printed no valid total_bytes")
    percent = 100 * (1 - facts.available_bytes / facts.total_bytes)
    return _Usage(percent, f"{percent:.0f}% of memory used, {facts.summary}")


def _read_cpu_usage(result: Mapping[str, Any]) -> _Usage:
    facts: CpuFacts = host_facts.read_cpu(result)
    return _Usage(facts.busy_percent, facts.summary)


_USAGE_READERS: dict[str, Callable[[Mapping[str, Any]], _Usage]] = {
    "disk": _read_disk_usage,
    "memory": _read_memory_usage,
    "cpu": _read_cpu_usage,
}


def _read_service(facts: ServiceFacts) -> CheckResult:
    if not facts.is_active and facts.state not in _DOWN_STATES:
        raise RemediationError(facts.summary)
    return CheckResult(not facts.is_active, facts.summary)


def _read_action(execution: Execution) -> CheckResult:
    """Return the result of an operator's action, whose output contains `holds`."""
    _require_success(execution)
    output = _find_output(execution.result)
    holds = output.get("holds") if isinstance(output, dict) else None
    if not isinstance(holds, bool):
        raise RemediationError(f"{execution.action} did not return holds: true or holds: false")
    detail = output.get("detail")
    text = f"{execution.action}: {detail if isinstance(detail, str) and detail else holds}"
    return CheckResult(holds, inert_line(text))


def _require_success(execution: Execution) -> None:
    if execution.status != ExecutionStatus.SUCCEEDED:
        reason = failure_reason(execution.result)
        status = f"{execution.action} has the status {execution.status}"
        raise RemediationError(inert_line(f"{status}: {reason}" if reason else status))


def _find_output(result: Any) -> Any:
    """Return the output in the result of a Python action, a workflow or a command on one machine.

    StackStorm parses the output of a command if it is JSON. For a command on a host, the result
    contains the output under the host's name.
    """
    if not isinstance(result, dict):
        return None
    for key in ("result", "output"):
        if result.get(key) is not None:
            return result[key]
    if "stdout" not in result:
        hosts = [entry for entry in result.values() if isinstance(entry, dict)]
        result = hosts[0] if len(hosts) == 1 else {}
    printed = result.get("stdout")
    if isinstance(printed, str):
        try:
            return json.loads(printed)
        except (ValueError, RecursionError):
            return printed
    return printed


def _create_finding(inspection: Inspection, execution: Execution | None) -> Finding:
    name = inspection.name
    if execution is None:
        return Finding(name, None, "it has not run")
    try:
        if inspection.check:
            # A parsed check contains nothing that StackStorm would evaluate.
            check, name = parse_host_check(inspection.check), FixedText(inspection.check)
            return Finding(name, *read_check(check, execution), execution.ended_at)
        read_facts = _FACT_READERS.get(inspection.action)
        if read_facts and isinstance(execution.result, dict):
            return Finding(name, None, read_facts(execution.result).summary, execution.ended_at)
    except RemediationError as error:
        return Finding(name, None, str(error), execution.ended_at)
    evidence = _format_evidence(execution)
    return Finding(name, None, evidence, execution.ended_at, is_summary=False)


_FACT_READERS: Mapping[str, Callable[[Mapping[str, Any]], _Facts]] = {
    "poundcake.check_disk": host_facts.read_disk,
    "poundcake.check_memory": host_facts.read_memory,
    "poundcake.check_cpu": host_facts.read_cpu,
    "poundcake.check_service": host_facts.read_service,
}


def _format_evidence(execution: Execution) -> str:
    """Return the result of another pack's action as inert text of limited length."""
    if execution.status != ExecutionStatus.SUCCEEDED:
        reason = failure_reason(execution.result)
        return inert_line(f"status {execution.status}: {reason}" if reason else execution.status)
    output = _find_output(execution.result)
    text = output if isinstance(output, str) else json.dumps(output)
    return inert_line(text if len(text) <= _MAX_EVIDENCE else f"{text[:_MAX_EVIDENCE]} …")


def _read_inspections(executions: Sequence[Execution]) -> list[Inspection]:
    """Return the inspections that poundcake.begin listed."""
    for execution in executions:
        if execution.task_name == BEGIN_TASK:
            inspections = action_result(execution).get("inspections", [])
            return [Inspection(**item) for item in inspections]
    return []


def _describe_check(check: HostCheck) -> str:
    """Return a check in words, without `>`, because reports would show another character."""
    return str(check).replace(">", " above ") + ("%" if check.has_threshold else "")
