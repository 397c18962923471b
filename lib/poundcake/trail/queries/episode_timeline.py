"""List what happened in an episode, oldest first, each event in one line."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Iterator, NamedTuple, Sequence

from poundcake.alertmanager import RESOLVED
from poundcake.execution_status import STATUSES, TERMINAL, ExecutionStatus
from poundcake.timestamps import format_duration, format_timestamp
from poundcake.trail.audit import AuditEntry
from poundcake.trail.changes import NOT_CLAIMED, Change, ChangeResult
from poundcake.trail.clock import format_deadline
from poundcake.trail.execution_results import ExecutionResult
from poundcake.trail.outcomes import Explanation
from poundcake.trail.queries.episode import Episode, Notification
from poundcake.trail.queries.episode_verdict import Run

# What is said about a change when it ends, if its workflow says nothing.
_ENDINGS = {
    ChangeResult.VERIFIED: "succeeded, and a check confirmed that it helped",
    ChangeResult.SUCCEEDED: "succeeded",
    ChangeResult.CLEARED: "succeeded",
    ChangeResult.NOT_CLEARED: "succeeded",
    ChangeResult.NOT_VERIFIED: "succeeded, but the check that followed failed",
    ChangeResult.FAILED: "failed",
    ChangeResult.RELEASED: "was released, although it may still have been running",
    ChangeResult.UNKNOWN: "ended without a report, and may have changed something",
}
# What is said about an execution, by its result. The message of the execution follows.
_RESULTS = {
    ExecutionResult.DRY_RUN: "ended as a dry run",
    ExecutionResult.EVIDENCE: "changed nothing",
    ExecutionResult.REFUSED: "was refused",
    ExecutionResult.NOT_CLAIMED: "did nothing",
    ExecutionResult.CANCELED: "was canceled",
    ExecutionResult.FAILED: "failed",
    ExecutionResult.NOT_VERIFIED: "ran, but the check that followed failed",
    ExecutionResult.UNKNOWN: "ended without a report",
}
# The statuses that add nothing to a result. An execution whose result is recorded ends in a moment,
# even if it was last seen running.
_EVIDENT_STATUSES = ("succeeded", "failed", *(s for s in STATUSES if s not in TERMINAL))
_AUDIT_VERBS = {
    "acknowledge": "acknowledged it",
    "close": "closed it",
    "approve": "approved the change",
    "reject": "rejected the change",
    "silence": "silenced the alert",
    "unsilence": "ended the silence",
    "release": "released the claim",
    "replay": "replayed the request",
    "purge": "purged old data",
    "pause": "paused all changes",
    "resume": "allowed changes again",
    "migrate": "moved the trail",
}


class Event(NamedTuple):
    """Something that happened in an episode.

    Attributes:
        at: When it happened.
        text: What happened, in one line.
        request_id: The request that contained the notification, or ''.
        st2_execution_id: The execution that the event is about, or ''.
    """

    at: datetime
    text: str
    request_id: str = ""
    st2_execution_id: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the event as JSON. Empty ids are left out."""
        ids = {"request_id": self.request_id, "st2_execution_id": self.st2_execution_id}
        return {
            "at": format_timestamp(self.at),
            "text": self.text,
            **{name: value for name, value in ids.items() if value},
        }


def list_events(episode: Episode, runs: Sequence[Run], not_cleared_minutes: int) -> list[Event]:
    """Return what happened in an episode, oldest first.

    Args:
        episode: The episode.
        runs: Its executions, and what they achieved.
        not_cleared_minutes: The configured value: how long after a change its alert must have
            ended.
    """
    events = [_describe_notification(notification) for notification in episode.notifications]
    # The refusal of its change says what an execution did.
    shown_runs = [run for run in runs if not (run.result is ExecutionResult.REFUSED and run.change)]
    asking_ids = {approval.st2_execution_id for approval in episode.approvals}
    for run in shown_runs:
        events.append(_describe_run(run, run.execution.st2_execution_id in asking_ids))
    reporting_ids = {run.execution.st2_execution_id for run in shown_runs if run.execution.message}
    ids_without_host = {run.execution.st2_execution_id for run in runs if not run.gets_host}
    for change in episode.changes:
        name = f"{change.action} on {change.target}"
        if change.st2_execution_id in ids_without_host:
            name = change.action
        has_report = change.st2_execution_id in reporting_ids
        events += _describe_change(change, name, has_report, not_cleared_minutes)
    events += [_describe_audit_entry(entry) for entry in episode.audit]
    return sorted(events, key=lambda event: event.at)


def _describe_notification(notification: Notification) -> Event:
    row = notification.row
    outcome = "" if row.outcome == row.status or row.reason.startswith(row.outcome) else row.outcome
    # Most rules match only firing alerts, so a resolve that no rule matched is not worth a remark.
    is_unmatched_resolve = row.status == RESOLVED and row.explanation == Explanation.NO_RULE
    reason = row.reason if is_unmatched_resolve else row.full_reason
    description = ", ".join(filter(None, (outcome.replace("_", " "), reason)))
    notes = f"; not read: {row.notes}" if row.notes else ""
    text = f"{row.status}: {description or row.outcome}{notes}"
    return Event(row.received_at, text, request_id=row.request_id)


def _describe_run(run: Run, asks: bool) -> Event:
    execution = run.execution
    name = f"{execution.st2_workflow} ({execution.st2_execution_id})"
    started_at = execution.started_at or execution.linked_at
    if run.result in (ExecutionResult.RUNNING, ExecutionResult.WAITING) and not execution.ended_at:
        state = "waits for approval" if asks else f"is {execution.status}"
        if execution.is_remediation and execution.status == ExecutionStatus.RUNNING:
            name, state = f"{execution.action} ({execution.st2_execution_id})", "is at work"
        return Event(started_at, f"{name} {state}", st2_execution_id=execution.st2_execution_id)
    result = _RESULTS.get(run.result, "succeeded")
    if execution.status not in _EVIDENT_STATUSES and execution.status not in result:
        result += f" ({execution.status})"
    seconds = execution.duration_seconds
    duration = "" if seconds is None else f" after {format_duration(seconds)}"
    message = f": {execution.message}" if execution.message else ""
    return Event(
        execution.ended_at or started_at,
        f"{name} {result}{duration}{message}",
        st2_execution_id=execution.st2_execution_id,
    )


def _describe_change(
    change: Change, name: str, has_report: bool, not_cleared_minutes: int
) -> Iterator[Event]:
    """Yield what happened to a change.

    Args:
        change: The change.
        name: The action and, if it gets the target, the target.
        has_report: Whether the execution of its workflow says how it ended.
        not_cleared_minutes: How long after the change its alert must have ended.
    """
    execution_id = change.st2_execution_id
    if change.refusal == NOT_CLAIMED:
        text = f"{change.action} ({execution_id}) did nothing: {change.reason}"
        yield Event(change.decided_at, text, st2_execution_id=execution_id)
        return
    if change.result == ChangeResult.REFUSED:
        retry = ""
        if change.retry_at:
            retry = f"; it is tried again after {format_deadline(change.retry_at)}"
        elif change.retried_at:
            retry = f"; it was tried again at {format_timestamp(change.retried_at)}"
        refusal = change.refusal.replace("_", " ")
        text = f"{name} ({execution_id}) refused, {refusal}: {change.reason}{retry}"
        yield Event(change.decided_at, text, st2_execution_id=execution_id)
        return
    yield Event(change.decided_at, f"{name} started", st2_execution_id=execution_id)
    if change.ended_at is None:
        return
    if not has_report:
        text = f"{name} {_ENDINGS[ChangeResult(change.result)]}"
        yield Event(change.ended_at, text, st2_execution_id=execution_id)
    if change.result == ChangeResult.NOT_CLEARED:
        moment = change.ended_at + timedelta(minutes=not_cleared_minutes)
        yield Event(moment, f"the alert still fires {not_cleared_minutes} min after the change")


def _describe_audit_entry(entry: AuditEntry) -> Event:
    user = entry.st2_user or "somebody"
    comment = f": {entry.comment}" if entry.comment else ""
    details = entry.details
    if entry.action == "retry":
        result = "its new execution is unknown"
        if details.get("started_execution_id"):
            result = f"as {details['started_execution_id']}"
        elif details.get("problem"):
            result = str(details["problem"])
        refusal = str(details.get("refusal", "")).replace("_", " ")
        text = f"{user} tried {details.get('execution_id')} ({refusal}) again: {result}"
        return Event(entry.at, text + comment)
    verb = _AUDIT_VERBS.get(entry.action, entry.action)
    if details.get("undo"):
        verb = "withdrew the acknowledgement"
    return Event(entry.at, f"{user} {verb}{comment}")
