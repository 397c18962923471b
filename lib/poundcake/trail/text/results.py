"""Describe what an execution achieved, in plain words."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Mapping

from poundcake.trail.execution_results import CHANGES, NOT_HELPED, ExecutionResult
from poundcake.trail.outbox import MAX_EVIDENCE
from poundcake.trail.queries.rows import DRY_RUN_NOTE
from poundcake.trail.text.layout import format_deadline_time, format_sentence, format_time

RESULT_WORDS = {
    ExecutionResult.CLEARED: "changed, and the alert cleared",
    ExecutionResult.NOT_CLEARED: "changed, but the alert did not clear",
    ExecutionResult.NOT_VERIFIED: "changed, but the check afterwards failed",
    ExecutionResult.CHANGED: "changed",
    ExecutionResult.DRY_RUN: DRY_RUN_NOTE,
    ExecutionResult.EVIDENCE: "evidence only, nothing changed",
    ExecutionResult.REFUSED: "refused, nothing changed",
    ExecutionResult.FAILED: "failed",
    ExecutionResult.CANCELED: "cancelled before it changed anything",
    ExecutionResult.NOT_CLAIMED: "did nothing, because another execution has the claim",
    ExecutionResult.RUNNING: "running",
    ExecutionResult.WAITING: "waits for a person",
    ExecutionResult.OTHER: "succeeded",
    ExecutionResult.UNKNOWN: "ended without a report, and may have changed something",
}
"""What an execution achieved, by its result."""
NEEDS_ATTENTION = (
    ExecutionResult.WAITING,
    ExecutionResult.FAILED,
    ExecutionResult.UNKNOWN,
    *NOT_HELPED,
)
"""The results that a person looks at first."""
_NEED_NO_REASON = (
    ExecutionResult.CLEARED,
    ExecutionResult.NOT_CLEARED,
    ExecutionResult.CHANGED,
)
# A fingerprint that needs no quotes in a shell.
_PLAIN = re.compile(r"[\w.:-]{1,64}\Z", re.ASCII)
_NAMES_ACTION = (*CHANGES, ExecutionResult.FAILED, ExecutionResult.RUNNING, ExecutionResult.UNKNOWN)


def describe_result(row: Mapping[str, Any], now: datetime) -> str:
    """Return the result_sentence(), with times as the text output shows them.

    Args:
        row: The row of an execution, or of an alert with the fields of its execution.
        now: The time to which times are relative.
    """
    return format_sentence(result_sentence(row), now)


def result_sentence(row: Mapping[str, Any]) -> str:
    """Return what an execution achieved, with its action and, if nothing was changed, the reason.

    Args:
        row: The row of an execution, or of an alert with the fields of its execution.
    """
    result = ExecutionResult(row["result"])
    reason = _reason(row)
    if result is ExecutionResult.WAITING and reason:
        return reason  # it says who may answer, and how
    parts = [RESULT_WORDS[result]]
    if row.get("action") and result in _NAMES_ACTION:
        parts.append(f"{row['action']} on {row['target']}")
    if result not in _NEED_NO_REASON:
        parts.append(reason)
    return ": ".join(filter(None, parts))


def _reason(row: Mapping[str, Any]) -> str:
    """Return why an execution failed or changed nothing, or ''."""
    reason = str(row.get("change_reason") or row.get("message") or "")
    if reason.startswith(DRY_RUN_NOTE):
        reason = reason[len(DRY_RUN_NOTE) :].lstrip(". ")
    # The line already names the action.
    prefix = re.escape(str(row.get("action") or "")) + r" ended with status \w+: "
    return re.sub(rf"\A{prefix}", "", reason)


def command_for(row: Mapping[str, Any]) -> str:
    """Return the command that shows the action that made the change, or else the workflow.

    If the workflow waits for an approval, return the command that answers it.
    """
    answer = re.search("st2 inquiry respond [0-9a-f]{24}", str(row.get("message") or ""))
    if row["result"] == ExecutionResult.WAITING and answer:
        return answer[0]
    return f"st2 execution get {row.get('action_execution_id') or row['st2_execution_id']}"


def why_commands(row: Mapping[str, Any]) -> list[str]:
    """Return the command that shows everything about the alert of a row.

    The list is empty if the row has no fingerprint that a shell would read as one word.
    """
    if not _PLAIN.match(row["fingerprint"]):
        return []
    return [f"st2 run poundcake.why format=text fingerprint={row['fingerprint']}"]


def evidence_lines(execution: Mapping[str, Any]) -> list[str]:
    """Return what a remediation that ended without a change saw, at most three lines.

    Lines that its message contains are left out.
    """
    lines = execution.get("evidence", ())[:MAX_EVIDENCE]
    return [f"seen: {line}" for line in lines if line not in execution["message"]]


def retry_lines(change: Mapping[str, Any], now: datetime) -> list[str]:
    """Return when a refused change is or was tried again."""
    lines = []
    if change.get("retry_at"):
        lines.append(f"it is tried again after {format_deadline_time(change['retry_at'], now)}")
    if change.get("retried_at"):
        lines.append(f"it was tried again at {format_time(change['retried_at'], now)}")
    return lines
