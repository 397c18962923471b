"""Report what a remediation workflow did, based on the executions of its tasks.

A task must not receive the results of previous tasks, because Orquesta would evaluate expressions
in them. So the last task reads the executions from StackStorm's API, and uses only the results of
this pack's actions. For any other action, it only reports whether it succeeded.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, Protocol, Sequence

from poundcake.remediation.checks import TcpState, describe_state
from poundcake.remediation.inspections import INSPECT_TASK, Finding, read_findings
from poundcake.remediation.stage import Stage
from poundcake.remediation.verification import CHANGE_TASKS, VERIFY_TASK
from poundcake.stackstorm import Execution, action_result
from poundcake.trail.approvals import APPROVAL_TASK
from poundcake.trail.changes import ChangeResult

_OWN_ACTIONS = "poundcake."
_SUCCEEDED = "succeeded"
_FAILED = "failed"


class Executions(Protocol):
    """The source of the executions of a workflow's tasks."""

    def get_children(self, execution_id: str) -> Sequence[Execution]:
        """Return the executions that a workflow's tasks started."""


@dataclass(frozen=True)
class Report:
    """The output of a remediation workflow."""

    status: str
    """``succeeded`` or ``failed``."""
    mutated: bool
    """Whether an action that makes a change was started."""
    dry_run: bool
    verified: bool
    """Whether the last check confirmed that the alert is cleared, or that the host answers."""
    stage: str
    message: str
    evidence: dict[str, Any]
    """The results of the checks before and after the change (``before``, ``after``), and of each
    inspection of the host."""
    change_result: ChangeResult | None = field(default=None)
    """How the granted change ended, or None if none was granted. It is not part of the output."""

    def as_dict(self) -> dict[str, Any]:
        """Return the result of poundcake.report."""
        output = asdict(self)
        del output["change_result"]
        return output


def build_report(stackstorm: Executions, execution_id: str) -> Report:
    """Return the report of a remediation workflow.

    Args:
        stackstorm: StackStorm's API.
        execution_id: The id of the workflow's execution.
    """
    executions = stackstorm.get_children(execution_id)
    tasks, findings = _Tasks(executions), read_findings(executions)
    checks = {"before": tasks.result("evidence"), "after": tasks.result("verify")}
    ending = _determine_ending(tasks, findings)
    return Report(
        status=_SUCCEEDED if ending.succeeded else _FAILED,
        mutated=ending.mutated,
        dry_run=bool((tasks.result("alert") or tasks.result("begin")).get("dry_run", True)),
        verified=ending.verified,
        stage=str(ending.stage),
        message=ending.message,
        evidence={
            **{name: result for name, result in checks.items() if result},
            **{finding.name: finding.detail for finding in findings},
        },
        change_result=_determine_change_result(tasks, ending),
    )


class _Tasks:
    """The executions of a workflow's tasks, by the task's name."""

    def __init__(self, executions: Sequence[Execution]):
        self._by_name = {execution.task_name: execution for execution in executions}

    def execution(self, task: str) -> Execution | None:
        """Return a task's execution, or None if the task did not run."""
        return self._by_name.get(task)

    def result(self, task: str) -> dict[str, Any]:
        """Return the result of a task's action.

        The result is empty if the task did not run or failed, or if its action belongs to another
        pack.
        """
        execution = self._by_name.get(task)
        if not execution or execution.status != _SUCCEEDED:
            return {}
        if not execution.action.startswith(_OWN_ACTIONS):
            return {}
        return action_result(execution)


class _Ending(NamedTuple):
    """How a workflow ended."""

    succeeded: bool
    stage: Stage
    message: str
    mutated: bool = False
    verified: bool = False


def _determine_ending(tasks: _Tasks, findings: Sequence[Finding]) -> _Ending:
    begin = tasks.result("begin")
    link = tasks.result("link") or begin
    if not link.get("claimed"):
        return _Ending(True, Stage.NOT_CLAIMED, str(link.get("reason", "")))
    permission = tasks.result("alert") or begin
    if not permission:
        return _Ending(False, Stage.ALERT, "the alert could not be read; the task alert says why")
    change = next(filter(None, map(tasks.execution, CHANGE_TASKS)), None)
    if change is None and tasks.execution("reserve"):
        return _ending_without_reservation(permission, tasks)
    if change is None and tasks.execution(APPROVAL_TASK):
        message = (
            "nobody could be asked for approval, so nothing was changed; the task approve says why"
        )
        return _Ending(False, Stage.REFUSED, message)
    if change is None and tasks.execution(INSPECT_TASK):
        return _ending_with_inspections(permission, findings)
    if change is None:
        return _ending_without_change(permission, tasks.result("evidence"))
    ending = _ending_after_change(permission, change, tasks)
    approved_by = tasks.result("reserve").get("approved_by")
    if approved_by:
        ending = ending._replace(message=f"approved by {approved_by}; {ending.message}")
    return ending


def _ending_without_reservation(permission: dict[str, Any], tasks: _Tasks) -> _Ending:
    """Return the ending of a workflow whose change was refused."""
    decision = tasks.result("reserve")
    if not decision:
        message = (
            "the change could not be reserved, so nothing was changed; the task reserve says why"
        )
        return _Ending(False, Stage.REFUSED, message)
    check_text = _describe_check(permission, tasks.result("evidence"))
    message = f"{check_text}; {decision['message']}" if check_text else str(decision["message"])
    # A refusal by a limit is not a failure of the workflow.
    return _Ending(True, Stage(decision["stage"]), message)


def _ending_without_change(permission: dict[str, Any], check: dict[str, Any]) -> _Ending:
    check_text = _describe_check(permission, check)
    if check.get("state") == TcpState.ANSWERS:
        return _Ending(True, Stage.EVIDENCE, check_text, verified=True)
    if permission["may_reserve"]:
        if not check:
            message = "the host could not be checked; the task evidence says why"
            return _Ending(False, Stage.EVIDENCE, message)
        # The workflow continues only if the host does not answer. A host that refuses connections
        # is up, and a host whose name does not resolve may be up.
        return _Ending(False, Stage.EVIDENCE, f"{check_text}, so nothing was changed")
    stage = Stage(permission["stage"])
    is_expected = permission["dry_run"] or stage in (Stage.EVIDENCE, Stage.ENDED)
    message = f"{check_text}; {permission['message']}" if check_text else permission["message"]
    is_down = check.get("state") == TcpState.NO_ANSWER
    if stage is Stage.DRY_RUN and permission["action"] and check and not is_down:
        message = f"{check_text}, so nothing would be changed"
    return _Ending(is_expected, stage, message)


def _ending_with_inspections(permission: dict[str, Any], findings: Sequence[Finding]) -> _Ending:
    """Return the ending of a workflow that only inspected the host."""
    summary = "; ".join(finding.detail for finding in findings if finding.is_summary)
    message = f"{summary}; {permission['message']}" if summary else str(permission["message"])
    if any(finding.is_check and finding.holds is not True for finding in findings):
        message = f"{summary}, so nothing would be changed"
    return _Ending(True, Stage(permission["stage"]), message)


def _ending_after_change(permission: dict[str, Any], change: Execution, tasks: _Tasks) -> _Ending:
    if change.status != _SUCCEEDED:
        message = f"{change.action} ended with status {change.status}"
        return _Ending(False, Stage.REMEDIATE, message, mutated=True)
    check = tasks.result(VERIFY_TASK)
    if not check and tasks.execution(VERIFY_TASK):
        message = "the action succeeded but could not be verified; the task verify says why"
        return _Ending(False, Stage.VERIFY, message, mutated=True)
    if not check:
        return _Ending(True, Stage.DONE, "the action succeeded", mutated=True)
    if "cleared" in check:
        is_cleared = check["cleared"] is True
        stage = Stage.DONE if is_cleared else Stage.VERIFY
        return _Ending(is_cleared, stage, str(check["detail"]), mutated=True, verified=is_cleared)
    host, seconds = permission.get("host", ""), check.get("seconds", 0)
    if check.get("state") == TcpState.ANSWERS:
        message = f"{host} answers again after {seconds} s"
        return _Ending(True, Stage.DONE, message, mutated=True, verified=True)
    if check.get("state") == TcpState.NO_ANSWER:
        message = f"{host} still does not answer after {seconds} s"
    else:
        message = f"{_describe_check(permission, check)} after {seconds} s"
    return _Ending(False, Stage.VERIFY, message, mutated=True)


def _determine_change_result(tasks: _Tasks, ending: _Ending) -> ChangeResult | None:
    """Return how the granted change ended, or None if none was granted."""
    if not tasks.execution("reserve") or not ending.mutated:
        # The change was granted but not made. Record its end without counting it as a failure.
        return ChangeResult.UNKNOWN if tasks.result("reserve").get("may_change") else None
    if ending.stage is Stage.REMEDIATE:
        return ChangeResult.FAILED
    if ending.stage is Stage.VERIFY:
        return ChangeResult.NOT_VERIFIED
    return ChangeResult.VERIFIED if ending.verified else ChangeResult.SUCCEEDED


def _describe_check(permission: dict[str, Any], check: dict[str, Any]) -> str:
    """Return the result of a check in words, or an empty string if the host was not checked."""
    host, port, state = permission.get("host", ""), check.get("port", 0), check.get("state")
    return describe_state(host, TcpState(state), port) if state else ""
