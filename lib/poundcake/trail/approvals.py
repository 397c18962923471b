"""Requests for approval: StackStorm inquiries that workflows create before they change something.

If StackStorm expired an inquiry, its workflow would succeed. So the inquiries have no expiry in
StackStorm. Sync answers no to requests that are older than approval_minutes.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any, Mapping, Sequence, TypedDict

from sqlalchemy import Row, select
from sqlalchemy.engine import Connection, Engine

from poundcake.config import Config
from poundcake.execution_status import TERMINAL, ExecutionStatus
from poundcake.stackstorm import Execution, StackStormApi, action_result, noting_errors
from poundcake.timestamps import format_timestamp, parse_timestamp
from poundcake.trail import clock, commands, database, short_ids
from poundcake.trail.audit import Actor, write_entry
from poundcake.trail.change_tasks import APPROVAL_TASK, CHANGE_WORKFLOW, read_tasks
from poundcake.trail.errors import TrackingError
from poundcake.trail.open_incident import (
    CommandFor,
    command_for_episode,
    find_matching_episodes,
    identifies_incident,
    list_candidates,
)
from poundcake.trail.outbox import (
    ApprovalRequest,
    add_approval_request,
    shorten_evidence,
    unreported_approvals,
)
from poundcake.trail.pending_approval import Approval
from poundcake.trail.schema import alerts, executions, links
from poundcake.trail.search import Filters
from poundcake.trail.sync_round import SyncRound

BEGIN_ACTION = "poundcake.begin"
RESERVE_ACTION = "poundcake.reserve"
ANSWER = "approve"
"""The field of the response that contains the answer, a boolean."""
ROUTE = "poundcake.approval"
"""The route of the inquiries. Rules on `core.st2.generic.inquiry` can select them by it."""


class ApprovalAnswer(TypedDict):
    """The result of the action poundcake.approve.

    Attributes:
        episode: The episode of the incident for which the change was requested.
        alert_name: The name of its alert.
        instance: The instance of its alert.
        state: `approved` or `rejected`.
        change: The change in words.
        by: The StackStorm user who answered.
        at: When the user answered, by the database's clock.
    """

    episode: str
    alert_name: str
    instance: str
    state: str
    change: str
    by: str
    at: str


def answer_approval(
    engine: Engine,
    api: StackStormApi,
    actor: Actor,
    episode: str,
    has_approved: bool,
    comment: str = "",
    filters: Filters = Filters(),
) -> ApprovalAnswer:
    """Answer the request for approval of an incident's change, as one of its approvers.

    Args:
        engine: The tracking database.
        api: StackStorm's API, as the user who answers.
        actor: The user who answers.
        episode: The episode of the incident or the beginning of its name, or empty to find it by
            the filters.
        has_approved: Whether the change may be made.
        comment: The reason; may be empty.
        filters: Filters on the alert of the incident.

    Raises:
        TrackingError: No change of the episode, or more than one, waits for approval, or the user
            is not one of the approvers.
        StackStormError: The API is unavailable, or refuses the answer.
        DatabaseError: The database is unavailable.
    """
    filters = replace(filters, episode=episode) if episode else filters
    if not identifies_incident(filters):
        raise TrackingError("identify the change: pass episode, or alert_name, instance, …")
    if episode and len(episode) < short_ids.MIN_CHARACTERS:
        raise TrackingError(
            "episode: pass the name of the episode, as alerts_active shows it, or its first "
            f"characters, at least {short_ids.MIN_CHARACTERS}"
        )
    database.prepare(engine, create=False)
    workflow_ids = _find_workflows(api, read_pending_approvals(api))
    with database.reading(engine) as connection:
        rows = _find_alerts(connection, list(workflow_ids.values()))
        asking_episodes = sorted({row.episode for row in rows.values()})
        selected_episodes = find_matching_episodes(connection, filters, asking_episodes)
    asking = {
        inquiry_id: rows[workflow_id]
        for inquiry_id, workflow_id in workflow_ids.items()
        if workflow_id in rows and rows[workflow_id].episode in selected_episodes
    }
    if len(asking) != 1:
        answer = "" if has_approved else "reject=true"
        command_for = command_for_episode("approve", answer, comment=comment)
        raise TrackingError(_describe_asking(episode, list(asking.values()), command_for))
    ((inquiry_id, alert),) = asking.items()
    inquiry = api.get_execution(inquiry_id)
    approvers = _approvers(inquiry) if inquiry else []
    # StackStorm also accepts an answer by the service user, and would discard the request although
    # the answer does not permit the change.
    if actor.st2_user not in approvers:
        raise TrackingError(
            f"{actor.st2_user or 'somebody'} is not one of the approvers of this change "
            f"({', '.join(approvers) or 'nobody'}); the request still waits for an answer"
        )
    change = str(_read_begin_result(read_tasks(api, workflow_ids[inquiry_id])).get("change") or "")
    api.respond(inquiry_id, {ANSWER: has_approved})
    state = "approved" if has_approved else "rejected"
    with database.transaction(engine) as connection:
        now = clock.database_now(connection)
        details = {"inquiry": inquiry_id, "execution": workflow_ids[inquiry_id]}
        verb = "approve" if has_approved else "reject"
        write_entry(connection, verb, actor, alert.episode, comment, details)
    return ApprovalAnswer(
        episode=alert.episode,
        alert_name=alert.alert_name,
        instance=alert.instance,
        state=state,
        change=change,
        by=actor.st2_user,
        at=format_timestamp(now),
    )


def _describe_asking(episode: str, rows: Sequence[Row[Any]], command_for: CommandFor) -> str:
    """Return why no single request for approval was selected.

    Args:
        episode: The episode that the person passed, or ''.
        rows: The alerts whose changes match and wait for approval.
        command_for: Returns the command to answer for an episode.
    """
    if not rows:
        which = f"of episode {episode}" if episode else "of a matching alert"
        return f"no change {which} waits for approval; list what does: {commands.ACTIVE}"
    by_episode = {row.episode: row for row in rows}
    if len(by_episode) > 1:
        listed = list_candidates([by_episode[name] for name in sorted(by_episode)], command_for)
        return f"the changes of {len(by_episode)} incidents wait for approval; choose one: {listed}"
    return (
        f"{len(rows)} changes of episode {rows[0].episode} wait for approval; answer each by its "
        "inquiry: st2 inquiry list"
    )


def read_pending_approvals(api: StackStormApi) -> list[Execution]:
    """Return the requests for approval that have not been answered.

    Raises:
        StackStormError: The API is unavailable.
    """
    return [inquiry for inquiry in api.list_pending_inquiries() if is_approval(inquiry)]


def report_approvals(
    sync_round: SyncRound, api: StackStormApi, config: Config, pending: Sequence[Execution]
) -> int:
    """Add the event poundcake.approval_wanted for each request for approval that has none.

    Args:
        sync_round: The round.
        api: StackStorm's API.
        config: The configuration.
        pending: The requests that wait for an answer.

    Returns:
        The number of requests that were reported.

    Raises:
        StackStormError: The API is unavailable.
    """
    with database.reading(sync_round.engine) as connection:
        unreported_ids = unreported_approvals(connection, [inquiry.id for inquiry in pending])
    unreported = [inquiry for inquiry in pending if inquiry.id in unreported_ids]
    if not unreported:
        return 0
    workflow_ids = _find_workflows(api, unreported)
    with database.reading(sync_round.engine) as connection:
        alerts_by_execution = _find_alerts(connection, list(workflow_ids.values()))
    count = 0
    for inquiry in unreported:
        workflow_id = workflow_ids[inquiry.id]
        alert = alerts_by_execution.get(workflow_id)
        # A workflow that has no link was not started for an alert in the trail.
        if alert is None:
            continue
        tasks = None
        with noting_errors(sync_round.note, f"approval {inquiry.id} cannot be reported yet"):
            tasks = read_tasks(api, workflow_id)
        if tasks is None:
            continue
        begin_result = _read_begin_result(tasks)
        reservation = begin_result.get("reservation")
        remediation = reservation.get("remediation") if isinstance(reservation, dict) else ""
        request = ApprovalRequest(
            inquiry_id=inquiry.id,
            request_id=alert.request_id,
            episode=alert.episode,
            execution_id=workflow_id,
            remediation=str(remediation or begin_result.get("action", "")),
            change=str(begin_result.get("change") or "the change"),
            approvers=_approvers(inquiry),
            until=_format_deadline(inquiry, config.approval_minutes),
            evidence=read_evidence(tasks),
        )
        with sync_round.writing() as connection:
            add_approval_request(connection, request)
        count += 1
    return count


def _find_workflows(api: StackStormApi, inquiries: Sequence[Execution]) -> dict[str, str]:
    """Return the execution that may have a link, by the id of each inquiry.

    It is the workflow that has the task `approve` or, if that is poundcake.change, its parent.
    """
    parents = api.get_executions([inquiry.parent_id for inquiry in inquiries])
    workflow_ids = {inquiry.id: inquiry.parent_id for inquiry in inquiries}
    for inquiry in inquiries:
        parent = parents.get(inquiry.parent_id)
        if parent and parent.action == CHANGE_WORKFLOW:
            workflow_ids[inquiry.id] = parent.parent_id
    return workflow_ids


def _find_alerts(connection: Connection, execution_ids: Sequence[str]) -> dict[str, Row[Any]]:
    """Return the alert of each workflow that is running, by execution id."""
    rows: dict[str, Row[Any]] = {}
    for chunk in database.batched(sorted(set(execution_ids))):
        for row in connection.execute(
            select(
                links.c.st2_execution_id,
                links.c.request_id,
                alerts.c.episode,
                alerts.c.alert_name,
                alerts.c.instance,
            )
            .join(alerts, alerts.c.id == links.c.alert_id)
            .join(executions, executions.c.id == links.c.st2_execution_id)
            .where(links.c.st2_execution_id.in_(chunk), executions.c.status.not_in(TERMINAL))
        ):
            rows[row.st2_execution_id] = row
    return rows


def _read_begin_result(tasks: Sequence[Execution]) -> dict[str, Any]:
    """Return the result of poundcake.begin, or {} if the workflow has not run that action."""
    for task in tasks:
        if task.action == BEGIN_ACTION:
            return action_result(task)
    return {}


def read_evidence(tasks: Sequence[Execution]) -> list[str]:
    """Return what the checks of a workflow saw before it requested approval.

    Args:
        tasks: The executions of the workflow's tasks, oldest first.
    """
    results = [action_result(t) for t in tasks if t.action in (BEGIN_ACTION, RESERVE_ACTION)]
    lists = [result["evidence"] for result in results if "evidence" in result]
    return [str(line) for line in lists[-1]] if lists else []


def expire_approvals(
    sync_round: SyncRound, api: StackStormApi, config: Config, pending: Sequence[Execution]
) -> int:
    """Answer no to requests for approval that are older than approval_minutes.

    Args:
        sync_round: The round.
        api: StackStorm's API.
        config: The configuration.
        pending: The requests that wait for an answer.

    Returns:
        The number of requests that were answered.

    Raises:
        StackStormError: The API is unavailable.
    """
    started_before = api.now() - timedelta(minutes=config.approval_minutes)
    expired_inquiries = [
        inquiry
        for inquiry in pending
        if inquiry.started_at and inquiry.started_at <= started_before
    ]
    # The inquiry of a cancelled workflow stays pending, and cannot be answered.
    workflows = (
        api.get_executions([inquiry.parent_id for inquiry in expired_inquiries])
        if expired_inquiries
        else {}
    )
    count = 0
    for inquiry in expired_inquiries:
        workflow = workflows.get(inquiry.parent_id)
        if workflow is None or workflow.is_terminal or workflow.status == ExecutionStatus.CANCELING:
            continue
        problem = f"approval {inquiry.id} has expired, but sync cannot answer it"
        with noting_errors(sync_round.note, problem):
            api.respond(inquiry.id, {ANSWER: False})
            count += 1
    return count


def is_approval(inquiry: Execution) -> bool:
    """Return True if an inquiry is a request for approval."""
    return inquiry.task_name == APPROVAL_TASK and _fields(inquiry).get("route") == ROUTE


def find_pending_approval(tasks: Sequence[Execution]) -> Execution | None:
    """Return the request for approval that a workflow is waiting for, or None.

    Args:
        tasks: The executions of the workflow's tasks.
    """
    for task in tasks:
        if task.status == ExecutionStatus.PENDING and is_approval(task):
            return task
    return None


def read_approval(
    inquiry: Execution, execution_id: str, tasks: Sequence[Execution], approval_minutes: int
) -> Approval:
    """Return a request for approval, given the executions of its workflow's tasks.

    Args:
        inquiry: The request.
        execution_id: The execution that has the claim.
        tasks: The executions of the workflow's tasks, oldest first.
        approval_minutes: How long a request waits for an answer.
    """
    return Approval(
        st2_inquiry_id=inquiry.id,
        st2_execution_id=execution_id,
        approvers=tuple(_approvers(inquiry)),
        until=parse_timestamp(_format_deadline(inquiry, approval_minutes)),
        change=str(_read_begin_result(tasks).get("change") or ""),
        evidence=tuple(shorten_evidence(read_evidence(tasks))),
    )


def _approvers(inquiry: Execution) -> list[str]:
    """Return the users who may answer a request for approval."""
    users = _fields(inquiry).get("users")
    # The last user is the service user, which answers no when the request has expired.
    return [str(user) for user in users[:-1]] if isinstance(users, list) else []


def _fields(inquiry: Execution) -> Mapping[str, Any]:
    """Return the fields of an inquiry: its route and its users."""
    return inquiry.result if isinstance(inquiry.result, dict) else {}


def _format_deadline(inquiry: Execution, approval_minutes: int) -> str:
    """Format the time at which a request for approval expires, or return '' if it is unknown."""
    if not inquiry.started_at:
        return ""
    deadline = inquiry.started_at + timedelta(minutes=approval_minutes)
    return format_timestamp(deadline.replace(microsecond=0))
