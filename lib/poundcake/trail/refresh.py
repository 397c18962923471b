"""Update the open executions in a view."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Mapping, Protocol, Sequence

from poundcake.execution_status import TERMINAL, WAITING
from poundcake.stackstorm import Execution, StackStormError, failure_reason, workflow_output
from poundcake.timestamps import format_timestamp
from poundcake.trail.approvals import find_pending_approval, read_approval
from poundcake.trail.change_tasks import read_tasks
from poundcake.trail.execution_results import WITHOUT_CHANGE, execution_result
from poundcake.trail.mirror import read_evidence
from poundcake.trail.outbox import shorten_evidence
from poundcake.trail.pending_approval import Approval
from poundcake.trail.queries.episode import Episode
from poundcake.trail.queries.rows import Execution as RecordedExecution
from poundcake.trail.queries.rows import message_with_note
from poundcake.trail.queries.why import EpisodesView

_PAGE = 100  # maximum entries in a list of StackStorm's API
# A person is waiting for the view, so no page is requested from StackStorm after this time.
_MAX_SECONDS = 5.0
_MAX_APPROVALS = 5  # each costs a request to StackStorm


class ExecutionReader(Protocol):
    """Reads executions from StackStorm. Each method raises StackStormError if it cannot."""

    def get_executions(self, ids: Sequence[str]) -> Mapping[str, Execution]:
        """Return executions by id."""

    def get_children(self, execution_id: str) -> Sequence[Execution]:
        """Return the executions that a workflow's tasks started."""


def refresh_open_executions(
    stackstorm: ExecutionReader, view: dict[str, Any] | EpisodesView, approval_minutes: int = 0
) -> dict[str, Any]:
    """Update the open executions in a view from the StackStorm API.

    If the API is unavailable or slow, leave them as recorded, and report that in the view's
    `stackstorm`. Executions that are shown first are updated first.

    Args:
        stackstorm: StackStorm's API.
        view: The view as JSON, which is changed in place; or a view of episodes.
        approval_minutes: The configured value.

    Returns:
        The view as JSON; the same object if it was passed as JSON.
    """
    if isinstance(view, EpisodesView):
        return _refresh_episodes(stackstorm, view, approval_minutes).as_json()
    executions = [row for row in _executions_in(view) if row["status"] not in TERMINAL]
    ids = list(dict.fromkeys(row["st2_execution_id"] for row in executions))
    executions_by_id, problem = _read_executions(stackstorm, ids)
    if problem:
        view["stackstorm"] = problem
    for row in executions:
        _update_execution(row, executions_by_id.get(row["st2_execution_id"]))
    _show_approvals(stackstorm, executions, approval_minutes)
    return view


def _show_approvals(
    stackstorm: ExecutionReader, rows: Sequence[dict[str, Any]], approval_minutes: int
) -> None:
    """Describe the pending approval in the message of each execution that waits for one."""
    waiting_rows = [row for row in rows if row["status"] in WAITING and "message" in row]
    ids = [row["st2_execution_id"] for row in waiting_rows]
    approvals = _read_approvals(stackstorm, ids, approval_minutes)
    for row in waiting_rows:
        approval = approvals.get(row["st2_execution_id"])
        if approval:
            row["message"] = approval.describe()


def _executions_in(view: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*view.get("stackstorm_executions", []), *view.get("st2_executions", [])]


def _read_executions(
    stackstorm: ExecutionReader, ids: Sequence[str]
) -> tuple[dict[str, Execution], str]:
    """Read executions, in the order of `ids`.

    Returns:
        The executions by id, and a sentence that explains why some were not read, or ''.
    """
    executions_by_id: dict[str, Execution] = {}
    read_count = 0
    deadline = time.monotonic() + _MAX_SECONDS
    problem = ""
    for start in range(0, len(ids), _PAGE):
        if start and time.monotonic() > deadline:
            problem = f"its API took longer than {_MAX_SECONDS:g} s"
            break
        try:
            page = ids[start : start + _PAGE]
            executions_by_id.update(stackstorm.get_executions(page))
            read_count += len(page)
        except StackStormError as error:
            problem = str(error)
            break
    if not problem:
        return executions_by_id, ""
    unread_count = len(ids) - read_count
    affected = f"{unread_count} of {len(ids)} open executions" if read_count else "open executions"
    return executions_by_id, f"{affected} are shown as of the last sync: {problem}"


def _update_execution(row: dict[str, Any], execution: Execution | None) -> None:
    """Update the row of an execution in a view.

    Args:
        row: The row. It is changed in place.
        execution: The current state of the execution, or None if it could not be read.
    """
    if execution is None:
        return
    row["status"] = execution.status or row["status"]
    row["st2_rule"] = row["st2_rule"] or execution.rule
    row["url"] = row["url"] or execution.web_url
    has_ended = row["status"] in TERMINAL
    report = _read_report(execution) if has_ended else {}
    dry_run, mutated = report.get("dry_run"), report.get("mutated")
    # The result of a workflow that is about to end without a change is already recorded.
    is_recorded = row["result"] in WITHOUT_CHANGE and row["status"] not in WAITING
    # A workflow that has ended has also ended its change, which was read before.
    if has_ended or not is_recorded:
        row["result"] = execution_result(row["status"], report.get("stage", ""), dry_run, mutated)
    if not has_ended:
        return
    if execution.elapsed_seconds is not None:
        row["duration_seconds"] = round(execution.elapsed_seconds, 3)
    row["message"] = message_with_note(report["message"], dry_run, mutated)
    if "stage" not in row:
        return  # rows of st2_executions have no other fields to update
    if execution.ended_at:
        row["ended_at"] = format_timestamp(execution.ended_at)
    row.update({**report, "message": row["message"]})
    evidence = shorten_evidence(read_evidence(execution))
    if evidence and row["result"] in WITHOUT_CHANGE:
        row["evidence"] = evidence


def _read_report(execution: Execution) -> dict[str, Any]:
    """Return the report of an execution that has ended, and its message, which may be ''."""
    report: dict[str, Any] = {"message": "", **workflow_output(execution.result)}
    if execution.status != "succeeded" and not report["message"]:
        report["message"] = failure_reason(execution.result)
    return report


def _refresh_episodes(
    stackstorm: ExecutionReader, view: EpisodesView, approval_minutes: int
) -> EpisodesView:
    """Return episodes with the current state of their open executions and approvals."""
    open_ids = [
        execution.st2_execution_id
        for episode in view.page.rows
        for execution in episode.executions
        if execution.status not in TERMINAL
    ]
    executions_by_id, problem = _read_executions(stackstorm, list(dict.fromkeys(open_ids)))
    episodes = [
        replace(
            episode,
            executions=[
                _refresh_execution(execution, executions_by_id.get(execution.st2_execution_id))
                for execution in episode.executions
            ],
        )
        for episode in view.page.rows
    ]
    waiting_ids = [
        execution.st2_execution_id
        for episode in episodes
        for execution in episode.executions
        if execution.status in WAITING
    ]
    approvals = _read_approvals(stackstorm, waiting_ids, approval_minutes)
    episodes = [_refresh_approvals(episode, approvals) for episode in episodes]
    return view.with_episodes(episodes, problem)


def _refresh_execution(
    recorded: RecordedExecution, execution: Execution | None
) -> RecordedExecution:
    """Return an execution as it is now, or as recorded if it has ended or could not be read."""
    if execution is None or recorded.status in TERMINAL:
        return recorded
    refreshed = replace(
        recorded,
        status=execution.status or recorded.status,
        st2_rule=recorded.st2_rule or execution.rule,
        url=recorded.url or execution.web_url,
    )
    if refreshed.status not in TERMINAL:
        return refreshed
    ended = replace(
        refreshed,
        started_at=execution.started_at or recorded.started_at,
        ended_at=execution.ended_at,
        elapsed_seconds=execution.elapsed_seconds,
        **_read_report(execution),
    )
    if ended.result in WITHOUT_CHANGE and not ended.evidence:
        ended = replace(ended, evidence=tuple(shorten_evidence(read_evidence(execution))))
    return ended


def _read_approvals(
    stackstorm: ExecutionReader, execution_ids: Sequence[str], approval_minutes: int
) -> dict[str, Approval | None]:
    """Return the request for approval that each workflow waits for, or None, by its execution.

    A workflow whose tasks could not be read is left out.
    """
    approvals: dict[str, Approval | None] = {}
    for execution_id in list(dict.fromkeys(execution_ids))[:_MAX_APPROVALS]:
        try:
            tasks = read_tasks(stackstorm, execution_id)
        except StackStormError:
            break  # the view already says that the API is unavailable
        inquiry = find_pending_approval(tasks)
        approvals[execution_id] = (
            read_approval(inquiry, execution_id, tasks, approval_minutes) if inquiry else None
        )
    return approvals


def _refresh_approvals(episode: Episode, approvals: Mapping[str, Approval | None]) -> Episode:
    """Return an episode with its current requests for approval.

    Args:
        episode: The episode. Its requests are those that were reported, if its workflow waits.
        approvals: The current requests, by the execution of the workflow.
    """
    reported = {approval.st2_execution_id: approval for approval in episode.approvals}
    current = {
        execution.st2_execution_id: approvals.get(
            execution.st2_execution_id, reported.get(execution.st2_execution_id)
        )
        for execution in episode.executions
        if execution.status in WAITING
    }
    pending = {row_id: approval for row_id, approval in current.items() if approval}
    executions = [
        replace(execution, message=pending[execution.st2_execution_id].describe())
        if execution.st2_execution_id in pending
        else execution
        for execution in episode.executions
    ]
    return replace(episode, executions=executions, approvals=list(pending.values()))
