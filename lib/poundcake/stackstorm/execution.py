"""Interpret executions in StackStorm's API."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Mapping, Union

from poundcake.execution_status import TERMINAL
from poundcake.stackstorm import fields

_MAX_REASON = 1000  # characters


@dataclass(frozen=True)
class Execution:
    """An execution. Fields that are missing or malformed in the response are empty.

    Attributes:
        id: Its id.
        status: Its status: see ExecutionStatus.
        action: The reference of its action.
        rule: The reference of the rule that started it, or '' if no rule did.
        started_at: When it started.
        ended_at: When it ended.
        elapsed_seconds: Its duration.
        web_url: The URL of its page in StackStorm's web UI.
        task_name: The name of the task in its parent workflow, or '' if it has no parent.
        item_id: Its position among the items of its task, or None if the task has no items.
        parent_id: The id of its parent workflow, or '' if it has no parent.
        resumed_by: The user who resumed it most recently, possibly by answering an inquiry, or ''.
        parameters: The parameters of its action.
        result: Its result, of any JSON type.
    """

    id: str
    status: str = ""
    action: str = ""
    rule: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    elapsed_seconds: float | None = None
    web_url: str = ""
    task_name: str = ""
    item_id: int | None = None
    parent_id: str = ""
    resumed_by: str = ""
    parameters: Mapping[str, Any] | None = None
    result: Any = None

    @classmethod
    def parse(cls, response: Any) -> Execution | None:
        """Return the execution in a response of the API, or None if it has no id."""
        execution_id = fields.text(response, "id")
        if not execution_id:
            return None
        parameters = fields.value(response, "parameters")
        elapsed = fields.value(response, "elapsed_seconds")
        item = fields.value(response, "context", "orquesta", "item_id")
        return cls(
            id=execution_id,
            status=fields.text(response, "status"),
            action=fields.text(response, "action", "ref"),
            rule=fields.text(response, "rule", "ref"),
            started_at=fields.moment(response, "start_timestamp"),
            ended_at=fields.moment(response, "end_timestamp"),
            elapsed_seconds=float(elapsed) if isinstance(elapsed, (int, float)) else None,
            web_url=fields.text(response, "web_url"),
            task_name=fields.text(response, "context", "orquesta", "task_name"),
            item_id=item if isinstance(item, int) else None,
            parent_id=fields.text(response, "context", "parent", "execution_id"),
            resumed_by=fields.text(response, "context", "resumed_by"),
            parameters=parameters if isinstance(parameters, dict) else None,
            result=fields.value(response, "result"),
        )

    @property
    def is_terminal(self) -> bool:
        """Whether the execution has ended."""
        return self.status in TERMINAL


def failure_reason(result: Any) -> str:
    """Return why an execution failed: one line from the error of the host or service that failed.

    Args:
        result: The execution's result: {"errors": [...]} for a workflow, the runner's output for
            an action, {host: output} for an action that ran over SSH.
    """
    if not isinstance(result, dict):
        return str(result or "")[:_MAX_REASON]
    errors = result.get("errors")
    if isinstance(errors, list) and errors and isinstance(errors[0], dict):
        return _read_workflow_error(errors[0])
    for key in ("error", "stderr", "result", "message"):
        text = result.get(key)
        if isinstance(text, str) and text.strip():
            return text.strip().splitlines()[-1][:_MAX_REASON]
    # StackStorm parses output that is JSON. An SSH runner returns one result for each host.
    nested_results = [result.get("stdout"), *(r for r in result.values() if _has_failed(r))]
    return next(filter(None, map(failure_reason, filter(_is_object, nested_results))), "")


def describe_failure(execution: Execution) -> str:
    """Return how an action failed, with the reason if StackStorm knows it."""
    description = f"{execution.action} ended with status {execution.status}"
    reason = failure_reason(execution.result)
    return f"{description}: {reason}" if reason else description


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _has_failed(value: Any) -> bool:
    return isinstance(value, dict) and value.get("failed") is True


def _read_workflow_error(error: Mapping[str, Any]) -> str:
    # Orquesta's own message only says that the task failed. The task's result contains the cause.
    task, task_result = error.get("task_id"), error.get("result")
    reason = failure_reason(task_result) if isinstance(task_result, dict) else ""
    reason = reason or str(error.get("message") or "")[:_MAX_REASON]
    return f"task {task}: {reason}" if task and reason else reason


def action_result(execution: Execution) -> dict[str, Any]:
    """Return the object that a Python action returned, or {} if it returned something else."""
    returned = execution.result.get("result") if isinstance(execution.result, dict) else None
    return returned if isinstance(returned, dict) else {}


OutputValue = Union[bool, str]
_OUTPUT = {"dry_run": bool, "mutated": bool, "verified": bool, "stage": str, "message": str}


def workflow_output(result: Any) -> dict[str, OutputValue]:
    """Return the report of a workflow from its output.

    Returns:
        The values of dry_run, mutated, verified (booleans), stage and message (strings). Missing
        values and values of another type are left out.
    """
    output = result.get("output") if isinstance(result, dict) else None
    if not isinstance(output, dict):
        return {}
    return {key: output[key] for key, kind in _OUTPUT.items() if isinstance(output.get(key), kind)}
