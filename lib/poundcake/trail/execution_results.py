"""Classify what an execution of a remediation achieved, given what is recorded about it.

These are pure functions, which all views and the events about remediations share. The arguments are
columns of execution_db and, if the execution requested a change, of its row in poundcake_changes.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import lru_cache
from typing import Mapping

from poundcake.execution_status import TERMINAL, WAITING, ExecutionStatus
from poundcake.string_enum import StringEnum
from poundcake.trail.changes import NOT_CLAIMED, UNDECIDED, ChangeResult
from poundcake.trail.outbox import EndResult


class ExecutionResult(StringEnum):
    """What an execution achieved. Each execution has exactly one of these results."""

    CLEARED = "cleared"
    """It made a change, and the alert ended within `not_cleared_minutes`."""
    NOT_CLEARED = "not_cleared"
    """It made a change, and the alert was still firing after `not_cleared_minutes`."""
    NOT_VERIFIED = "not_verified"
    """It made a change, but the check that followed did not confirm that it helped."""
    CHANGED = "changed"
    """It made a change, and it is not known yet whether the alert will end in time."""
    DRY_RUN = "dry_run"
    """It was a dry run, so nothing was changed."""
    EVIDENCE = "evidence"
    """It only collected evidence, so nothing was changed."""
    REFUSED = "refused"
    """Its change was refused, or its incident had ended, so nothing was changed."""
    FAILED = "failed"
    """It or its action failed. The action may have changed something before it failed."""
    CANCELED = "canceled"
    """A person cancelled it before it made a change."""
    NOT_CLAIMED = "not_claimed"
    """It did not get the claim on the episode, so it did nothing."""
    RUNNING = "running"
    """It or its change has not ended."""
    WAITING = "waiting"
    """It waits for a person: for an approval or, if somebody paused it, until it is resumed."""
    OTHER = "other"
    """It succeeded and reported nothing, as most actions of users do."""
    UNKNOWN = "unknown"
    """It ended, or StackStorm deleted it, before it reported a result. It may have made a
    change."""


CHANGES = (
    ExecutionResult.CLEARED,
    ExecutionResult.NOT_CLEARED,
    ExecutionResult.NOT_VERIFIED,
    ExecutionResult.CHANGED,
)
"""The results of executions that made a change and whose action succeeded."""
NOT_HELPED = (ExecutionResult.NOT_CLEARED, ExecutionResult.NOT_VERIFIED)
"""The results of changes that did not help."""

WITHOUT_CHANGE = (ExecutionResult.DRY_RUN, ExecutionResult.EVIDENCE, ExecutionResult.REFUSED)
"""The results of remediations that ended without a change. What they saw is all they show."""

_RESULTS_BY_STAGE = {
    "evidence": ExecutionResult.EVIDENCE,
    "dry_run": ExecutionResult.DRY_RUN,
    "refused": ExecutionResult.REFUSED,
    "ended": ExecutionResult.REFUSED,
    NOT_CLAIMED: ExecutionResult.NOT_CLAIMED,
}
_RESULTS_BY_STATUS = {
    "failed": ExecutionResult.FAILED,
    "timeout": ExecutionResult.FAILED,
    "abandoned": ExecutionResult.FAILED,
    "canceled": ExecutionResult.CANCELED,
}
_VERIFY_STAGE = "verify"
_RESULTS_BY_REFUSAL = {
    "dry_run": ExecutionResult.DRY_RUN,
    "no_action": ExecutionResult.EVIDENCE,
    NOT_CLAIMED: ExecutionResult.NOT_CLAIMED,
}
_RESULTS_BY_CHANGE_RESULT: Mapping[str, ExecutionResult] = {
    ChangeResult.CLEARED: ExecutionResult.CLEARED,
    ChangeResult.NOT_CLEARED: ExecutionResult.NOT_CLEARED,
    ChangeResult.NOT_VERIFIED: ExecutionResult.NOT_VERIFIED,
    ChangeResult.FAILED: ExecutionResult.FAILED,
}
_END_RESULTS = {
    ExecutionResult.CLEARED: EndResult.CLEARED,
    ExecutionResult.NOT_CLEARED: EndResult.NOT_CLEARED,
    ExecutionResult.NOT_VERIFIED: EndResult.FAILED,
    ExecutionResult.DRY_RUN: EndResult.DRY_RUN,
    ExecutionResult.EVIDENCE: EndResult.EVIDENCE,
    ExecutionResult.REFUSED: EndResult.REFUSED,
    ExecutionResult.FAILED: EndResult.FAILED,
    ExecutionResult.CANCELED: EndResult.FAILED,
    ExecutionResult.UNKNOWN: EndResult.FAILED,
}


@lru_cache(maxsize=4096)
def execution_result(
    status: str,
    stage: str = "",
    dry_run: bool | None = None,
    mutated: bool | None = None,
    change_result: str | None = None,
    refusal: str = "",
    cleared: bool | None = None,
) -> ExecutionResult:
    """Return what an execution achieved.

    Args:
        status: Its status in StackStorm, or '' or `unknown` if it was never read.
        stage: The stage in its report, or ''.
        dry_run: Whether it reported a dry run; None if it reported nothing.
        mutated: Whether it reported a change; None if it reported nothing.
        change_result: The `result` of the change that it requested: '' while the change is in
            flight, None if it requested none.
        refusal: The control that refused its change, or ''.
        cleared: Whether the alert ended in time after the execution (see has_cleared()). Used only
            until it is recorded whether the change cleared the alert.
    """
    if status in WAITING:
        return ExecutionResult.WAITING
    is_known = status not in ("", "unknown")
    has_ended = status in TERMINAL or not is_known or _has_recorded_report(stage, mutated)
    if change_result == "" or not has_ended:
        return ExecutionResult.RUNNING
    recorded_result = _result_of_recorded_change(change_result, mutated, cleared)
    if recorded_result:
        return recorded_result
    if mutated:
        return _result_of_reported_change(status, stage, cleared)
    if refusal:
        return result_of_refusal(refusal)
    return _result_without_change(status, stage, dry_run, mutated)


def _has_recorded_report(stage: str, mutated: bool | None) -> bool:
    """Return True if poundcake.begin recorded that the remediation ends without a change.

    StackStorm ends the workflow a moment later, but sync reads its status only in the next round.
    """
    return mutated is False and result_of_stage(stage) is not None


def _result_of_recorded_change(
    change_result: str | None, mutated: bool | None, cleared: bool | None
) -> ExecutionResult | None:
    """Derive the result of an ended execution from its recorded change.

    Return None if that is not possible: the execution requested no change, its change was refused,
    or the change ended without a result and the execution reported that nothing was changed.
    """
    if change_result in UNDECIDED:
        return _result_of_change(cleared)
    is_unreported = change_result in (ChangeResult.UNKNOWN, ChangeResult.RELEASED)
    if is_unreported and mutated is not False:
        return ExecutionResult.UNKNOWN
    return _RESULTS_BY_CHANGE_RESULT.get(change_result or "")


def _result_of_reported_change(status: str, stage: str, cleared: bool | None) -> ExecutionResult:
    """Return the result of an ended execution that reported a change that is not recorded."""
    if status in (ExecutionStatus.SUCCEEDED, ExecutionStatus.CANCELED):
        return _result_of_change(cleared)
    return ExecutionResult.NOT_VERIFIED if stage == _VERIFY_STAGE else ExecutionResult.FAILED


def _result_of_change(cleared: bool | None) -> ExecutionResult:
    if cleared is None:
        return ExecutionResult.CHANGED
    return ExecutionResult.CLEARED if cleared else ExecutionResult.NOT_CLEARED


def _result_without_change(
    status: str, stage: str, dry_run: bool | None, mutated: bool | None
) -> ExecutionResult:
    """Return the result of an ended execution that requested and reported no change."""
    result = result_of_stage(stage)
    if status == ExecutionStatus.SUCCEEDED:
        if result or dry_run:
            return result or ExecutionResult.DRY_RUN
        return ExecutionResult.OTHER if mutated is None else ExecutionResult.EVIDENCE
    # A workflow that could not collect its evidence has failed.
    is_failed_check = result is ExecutionResult.EVIDENCE and status in _RESULTS_BY_STATUS
    if result and not is_failed_check:
        return result
    return _RESULTS_BY_STATUS.get(status, ExecutionResult.UNKNOWN)


def result_of_stage(stage: str) -> ExecutionResult | None:
    """Return the result of a workflow that ended at a stage without a change.

    Returns:
        None if the stage alone does not determine the result.
    """
    return _RESULTS_BY_STAGE.get(stage)


def result_of_refusal(refusal: str) -> ExecutionResult:
    """Return the result of an execution whose change was refused.

    Args:
        refusal: The name of the control that refused it, one of remediation.safety.Refusal.
    """
    return _RESULTS_BY_REFUSAL.get(refusal, ExecutionResult.REFUSED)


def end_result(result: ExecutionResult) -> EndResult | None:
    """Return how the events about remediations name a result.

    Returns:
        None if the result is not reported: the execution has not ended, did nothing, or it is not
        known yet whether its change helped.
    """
    return _END_RESULTS.get(result)


def has_cleared(
    changed_at: datetime | None,
    closed_at: datetime | None,
    is_open: bool,
    now: datetime,
    not_cleared_minutes: int,
) -> bool | None:
    """Return whether an alert ended in time after a change.

    Args:
        changed_at: When the change ended, or None if it has not.
        closed_at: When the incident was closed, or None if it was not.
        is_open: Whether the incident is open.
        now: The current time by the database's clock.
        not_cleared_minutes: The configured time limit.

    Returns:
        None if that is not known yet, or if the alert opened no incident.
    """
    fired_until = now if is_open else closed_at
    if changed_at is None or fired_until is None:
        return None
    if fired_until - changed_at > timedelta(minutes=not_cleared_minutes):
        return False
    return None if is_open else True
