"""Build the report of a remediation workflow from the executions of its tasks.

A task must not receive the results of previous tasks, because Orquesta would evaluate expressions
in them. So the last task reads the executions from StackStorm's API, and uses only the results of
this pack's actions. For any other action, it only reports whether it succeeded, and why it failed.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Sequence

from poundcake.remediation.checks import TcpState
from poundcake.remediation.findings import Finding, read_findings
from poundcake.remediation.inspections import INSPECT_FIRST_TASK, INSPECT_TASK
from poundcake.remediation.report import Report
from poundcake.remediation.safety import Refusal
from poundcake.remediation.stage import Stage
from poundcake.remediation.verification import VERIFY_TASK
from poundcake.stackstorm import Execution, action_result, describe_failure
from poundcake.trail.change_tasks import APPROVAL_TASK, Executions, find_change, read_tasks
from poundcake.trail.changes import ChangeResult
from poundcake.trail.outbox import MAX_EVIDENCE

_OWN_ACTIONS = "poundcake."
_PREVIEW_TASK = "preview"  # it decides whether a person is asked for approval
_SUCCEEDED = "succeeded"
_FAILED = "failed"


def build_report(stackstorm: Executions, execution_id: str) -> Report:
    """Return the report of a remediation workflow.

    Args:
        stackstorm: StackStorm's API.
        execution_id: The id of the workflow's execution.
    """
    executions = read_tasks(stackstorm, execution_id)
    tasks = _Tasks(executions)
    # Before an approval, only the first inspections have run.
    is_before_approval = tasks.execution(INSPECT_TASK) is None
    inspect_task = INSPECT_FIRST_TASK if is_before_approval else INSPECT_TASK
    findings = read_findings(executions, inspect_task)
    checks = {"before": tasks.host_check, "after": tasks.verification}
    change = find_change(stackstorm, executions)
    ending = _determine_ending(tasks, change, findings)
    return Report(
        status=_SUCCEEDED if ending.succeeded else _FAILED,
        mutated=ending.mutated,
        dry_run=bool((tasks.permission or tasks.result("reserve")).get("dry_run", True)),
        verified=ending.verified,
        stage=str(ending.stage),
        message=ending.message,
        evidence={
            **{name: result for name, result in checks.items() if result},
            **{finding.name: finding.detail for finding in findings},
        },
        change_result=_determine_change_result(tasks, ending),
        seen=_list_evidence(tasks, findings),
        silenced=bool(tasks.result("reserve").get("silenced")),
        action_execution_id=change.id if change else "",
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

    @property
    def permission(self) -> dict[str, Any]:
        """The result of poundcake.begin or, in a workflow without it, of poundcake.get_alert."""
        return self.result("begin") or self.result("alert")

    @property
    def host_check(self) -> dict[str, Any]:
        """The result of the TCP check before the change.

        poundcake.reserve makes the check or, in a workflow without poundcake.begin, the task
        `evidence` does.
        """
        check = self.result("reserve").get("host_check") or self.result("evidence")
        return _with_state(check)

    @property
    def verification(self) -> dict[str, Any]:
        """The result of the check after the change.

        The task runs poundcake.verify or, in a workflow without poundcake.begin,
        poundcake.check_host.
        """
        return _with_state(self.result(VERIFY_TASK))


def _with_state(check: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a check with its state, also if release 0.2.0 made the check.

    That release returned `reachable` instead. A workflow that is running during the upgrade has
    such results.
    """
    if "reachable" not in check or "state" in check:
        return check
    if check["reachable"]:
        state, detail = TcpState.ANSWERS, f"the host answers on port {check['port']}"
    else:
        state, detail = TcpState.NO_ANSWER, "the host does not answer"
    return {**check, "state": str(state), "detail": detail}


class _Ending(NamedTuple):
    """How a workflow ended."""

    succeeded: bool
    stage: Stage
    message: str
    mutated: bool = False
    verified: bool = False


def _determine_ending(
    tasks: _Tasks, change: Execution | None, findings: Sequence[Finding]
) -> _Ending:
    link = tasks.result("begin") or tasks.result("link")
    if not link.get("claimed"):
        return _Ending(True, Stage.NOT_CLAIMED, str(link.get("reason", "")))
    if change:
        ending = _ending_after_change(change, tasks)
        approved_by = tasks.result("reserve").get("approved_by")
        if approved_by:
            ending = ending._replace(message=f"approved by {approved_by}; {ending.message}")
        silence_problem = tasks.result("reserve").get("silence_problem")
        if silence_problem:
            message = f"{ending.message}; the alert could not be silenced: {silence_problem}"
            ending = ending._replace(message=message)
        return ending
    if tasks.execution("reserve"):
        return _ending_without_reservation(tasks, "reserve")
    if tasks.execution(APPROVAL_TASK) or tasks.execution(_PREVIEW_TASK):
        return _ending_without_approval(tasks)
    if not tasks.permission:
        return _Ending(False, Stage.ALERT, "the alert could not be read; the task alert says why")
    if tasks.execution(INSPECT_TASK):
        return _ending_with_inspections(tasks.permission, findings)
    return _ending_without_begin(tasks)


def _ending_without_reservation(tasks: _Tasks, task: str) -> _Ending:
    """Return the ending of a workflow whose change a task refused or could not decide on."""
    decision = tasks.result(task)
    if not decision:
        message = (
            f"the change could not be reserved, so nothing was changed; the task {task} says why"
        )
        return _Ending(False, Stage.REFUSED, message)
    if decision.get("host_check") and decision.get("refusal") == Refusal.NOT_CONFIRMED:
        return _ending_of_unconfirmed_host(tasks.host_check)
    # A refusal by a limit is not a failure of the workflow.
    message = _with_host_check(tasks, str(decision["message"]))
    return _Ending(True, Stage(decision["stage"]), message)


def _ending_without_approval(tasks: _Tasks) -> _Ending:
    """Return the ending of a workflow that ended before its approval was answered."""
    if not tasks.execution(APPROVAL_TASK):
        return _ending_without_reservation(tasks, _PREVIEW_TASK)
    message = (
        "nobody could be asked for approval, so nothing was changed; the task approve says why"
    )
    return _Ending(False, Stage.REFUSED, message)


def _ending_of_unconfirmed_host(check: dict[str, Any]) -> _Ending:
    """Return the ending of a workflow that changed nothing because its host may be up."""
    detail = _describe_check(check) or "the host was not checked"
    if check.get("state") == TcpState.ANSWERS:
        return _Ending(True, Stage.EVIDENCE, detail, verified=True)
    return _Ending(False, Stage.EVIDENCE, f"{detail}, so nothing was changed")


def _ending_without_begin(tasks: _Tasks) -> _Ending:
    """Return the ending of a workflow that starts with poundcake.link and changed nothing.

    Users' own workflows do this, as did poundcake.host_down and poundcake.default in 0.2.0.
    """
    permission = tasks.permission
    # Release 0.2.0 had no limits, so it returned only `may_change`.
    may_reserve = permission.get("may_reserve", permission["may_change"])
    if may_reserve or tasks.host_check.get("state") == TcpState.ANSWERS:
        return _ending_of_unconfirmed_host(tasks.host_check)
    stage = Stage(permission["stage"])
    is_expected = permission["dry_run"] or stage in (Stage.EVIDENCE, Stage.ENDED)
    return _Ending(is_expected, stage, _with_host_check(tasks, str(permission["message"])))


def _ending_with_inspections(permission: dict[str, Any], findings: Sequence[Finding]) -> _Ending:
    """Return the ending of a workflow that only inspected the host."""
    summary = "; ".join(finding.detail for finding in findings if finding.is_summary)
    message = f"{summary}; {permission['message']}" if summary else str(permission["message"])
    if any(finding.is_check and finding.holds is not True for finding in findings):
        message = f"{summary}, so nothing would be changed"
    return _Ending(True, Stage(permission["stage"]), message)


def _ending_after_change(change: Execution, tasks: _Tasks) -> _Ending:
    if change.status != _SUCCEEDED:
        return _Ending(False, Stage.REMEDIATE, describe_failure(change), mutated=True)
    check = tasks.verification
    if not check and tasks.execution(VERIFY_TASK):
        message = "the action succeeded but could not be verified; the task verify says why"
        return _Ending(False, Stage.VERIFY, message, mutated=True)
    if not check:
        return _Ending(True, Stage.DONE, "the action succeeded", mutated=True)
    is_cleared = check.get("cleared") is True or check.get("state") == TcpState.ANSWERS
    stage = Stage.DONE if is_cleared else Stage.VERIFY
    return _Ending(is_cleared, stage, _describe_check(check), mutated=True, verified=is_cleared)


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


def _list_evidence(tasks: _Tasks, findings: Sequence[Finding]) -> tuple[str, ...]:
    """Return what the checks before the change saw, and as the last line, what verified it."""
    before = [*tasks.result("reserve").get("evidence", []), *(f.line for f in findings)]
    after = [detail for detail in [_describe_check(tasks.result(VERIFY_TASK))] if detail]
    return (*list(dict.fromkeys(before))[: MAX_EVIDENCE - len(after)], *after)


def _with_host_check(tasks: _Tasks, message: str) -> str:
    """Return a message, preceded by the result of the TCP check of the host."""
    return "; ".join(filter(None, [_describe_check(tasks.host_check), message]))


def _describe_check(check: dict[str, Any]) -> str:
    """Return the result of a check in words."""
    return str(check.get("detail") or check.get("state", ""))
