"""An execution as StackStorm's API describes it, and what its status and result mean."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Mapping, Union

from poundcake.stackstorm import fields

_LONGEST_REASON = 1000  # characters


class ExecutionStatus(str, Enum):
    """The status of an execution: StackStorm's fourteen, and `gone`, which is the pack's own.

    The names are those of LIVEACTION_STATUSES in st2common/constants/action.py. A later release
    may have others: Execution.status is a plain string, which counts as open if it is unknown.
    """

    REQUESTED = "requested"
    """Created, and waits for st2scheduler."""
    SCHEDULED = "scheduled"
    """Waits for an action runner."""
    DELAYED = "delayed"
    """A policy holds it back; StackStorm goes on with it by itself."""
    RUNNING = "running"
    """It runs. StackStorm leaves it so for ever if its runner was killed."""
    CANCELING = "canceling"
    """Somebody cancelled it; tasks that run may still end their work."""
    PENDING = "pending"
    """An inquiry waits for an answer."""
    PAUSING = "pausing"
    """Somebody paused it, and a task of it still runs or waits for an answer."""
    PAUSED = "paused"
    """Somebody paused it; it goes on when it is resumed."""
    RESUMING = "resuming"
    """Somebody resumed it."""
    SUCCEEDED = "succeeded"
    """It ended without an error."""
    FAILED = "failed"
    """It ended with an error."""
    TIMEOUT = "timeout"
    """It took longer than its time limit and was killed."""
    ABANDONED = "abandoned"
    """Its runner was shut down before it ended."""
    CANCELED = "canceled"
    """Somebody cancelled it, and it has ended."""
    GONE = "gone"
    """StackStorm does not have it any more, for instance after its garbage collection."""

    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, spec: str) -> str:
        return format(str(self.value), spec)

    @property
    def is_terminal(self) -> bool:
        """Return True if the status never changes again."""
        return self.value in TERMINAL

    @property
    def needs_a_person(self) -> bool:
        """Return True if the status lasts until somebody does something."""
        return self.value in WAITING


TERMINAL = ("succeeded", "failed", "timeout", "abandoned", "canceled", "gone")
"""The statuses that never change again, as strings for SQL and JSON."""
WAITING = ("pending", "paused", "pausing")
"""The statuses that last until a person does something."""
STATUSES = tuple(status.value for status in ExecutionStatus)
"""All statuses, the open ones first."""


@dataclass(frozen=True)
class Execution:
    """An execution. Fields that the answer lacks, or has in another form, are empty."""

    id: str
    status: str = ""
    action: str = ""
    rule: str = ""
    """Reference of the rule that started it; empty if something else did."""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    elapsed_seconds: float | None = None
    web_url: str = ""
    task_name: str = ""
    """Name of the task of its parent workflow that it runs; empty if it has none."""
    parameters: Mapping[str, Any] | None = None
    result: Any = None

    @classmethod
    def parse(cls, answer: Any) -> Execution | None:
        """Return the execution that an answer of the API describes; None if it has no id."""
        execution_id = fields.text(answer, "id")
        if not execution_id:
            return None
        parameters = fields.value(answer, "parameters")
        elapsed = fields.value(answer, "elapsed_seconds")
        return cls(
            id=execution_id,
            status=fields.text(answer, "status"),
            action=fields.text(answer, "action", "ref"),
            rule=fields.text(answer, "rule", "ref"),
            started_at=fields.moment(answer, "start_timestamp"),
            ended_at=fields.moment(answer, "end_timestamp"),
            elapsed_seconds=float(elapsed) if isinstance(elapsed, (int, float)) else None,
            web_url=fields.text(answer, "web_url"),
            task_name=fields.text(answer, "context", "orquesta", "task_name"),
            parameters=parameters if isinstance(parameters, dict) else None,
            result=fields.value(answer, "result"),
        )

    @property
    def is_terminal(self) -> bool:
        """Return True if it has ended."""
        return self.status in TERMINAL


def failure_reason(result: Any) -> str:
    """Return why an execution failed, in one line, as the host or service said it.

    Args:
        result: The execution's result: for a workflow {"errors": [...]}, for an action the output
            of its runner.
    """
    if not isinstance(result, dict):
        return str(result or "")[:_LONGEST_REASON]
    errors = result.get("errors")
    if isinstance(errors, list) and errors and isinstance(errors[0], dict):
        return _workflow_error(errors[0])
    for key in ("error", "stderr", "result", "message"):
        text = result.get(key)
        if isinstance(text, str) and text.strip():
            return text.strip().splitlines()[-1][:_LONGEST_REASON]
    return ""


def _workflow_error(error: Mapping[str, Any]) -> str:
    # Orquesta's own message for any failed task is that it failed; the task's result says why.
    task, inner = error.get("task_id"), error.get("result")
    reason = failure_reason(inner) if isinstance(inner, dict) else ""
    reason = reason or str(error.get("message") or "")[:_LONGEST_REASON]
    return f"task {task}: {reason}" if task and reason else reason


OutputValue = Union[bool, str]
_OUTPUT = {"dry_run": bool, "mutated": bool, "verified": bool, "stage": str, "message": str}


def workflow_output(result: Any) -> dict[str, OutputValue]:
    """Return what a workflow reported of itself in its output.

    Returns:
        Those of dry_run, mutated, verified (booleans), stage and message (strings) that the
        output has. What has another type is left out.
    """
    output = result.get("output") if isinstance(result, dict) else None
    if not isinstance(output, dict):
        return {}
    return {key: output[key] for key, kind in _OUTPUT.items() if isinstance(output.get(key), kind)}
