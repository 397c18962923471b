"""Requests for approval: the inquiries with which workflows ask people before a change.

If StackStorm expired an inquiry, its workflow would succeed. So the inquiries have no expiry in
StackStorm, and sync answers no when a request has expired.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Sequence

from poundcake.config import Config
from poundcake.stackstorm import Execution, ExecutionStatus, StackStormApi, StackStormError
from poundcake.timestamps import format_timestamp
from poundcake.trail.sync_round import SyncRound

TASK = "approve"
"""The name of the task that asks."""
ANSWER = "approve"
"""The field of the answer, a boolean."""
ROUTE = "poundcake.approval"
"""The route of the inquiries, by which a rule on `core.st2.generic.inquiry` can find them."""


def expire_approvals(sync_round: SyncRound, api: StackStormApi, config: Config) -> int:
    """Answer no to requests for approval that are older than approval_minutes.

    Returns:
        The number of requests that were answered.

    Raises:
        StackStormError: The API is unavailable.
    """
    started_before = api.now() - timedelta(minutes=config.approval_minutes)
    expired_inquiries = [
        inquiry
        for inquiry in api.pending_inquiries()
        if is_approval(inquiry) and inquiry.started_at and inquiry.started_at <= started_before
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
        try:
            api.respond(inquiry.id, {ANSWER: False})
            count += 1
        except StackStormError as error:
            if error.is_outage:
                raise
            sync_round.note(f"the approval {inquiry.id} has expired and cannot be ended: {error}")
    return count


def is_approval(inquiry: Execution) -> bool:
    """Return True if an inquiry is a request for approval."""
    result = inquiry.result if isinstance(inquiry.result, dict) else {}
    return inquiry.task_name == TASK and result.get("route") == ROUTE


def open_approval(children: Sequence[Execution]) -> Execution | None:
    """Return the request for approval for which a workflow waits, or None."""
    for child in children:
        if child.status == ExecutionStatus.PENDING and is_approval(child):
            return child
    return None


def describe(inquiry: Execution, approval_minutes: int) -> str:
    """Return who may answer a request for approval, until when, and how.

    Args:
        inquiry: The request.
        approval_minutes: The configuration key.
    """
    result = inquiry.result if isinstance(inquiry.result, dict) else {}
    users = result.get("users")
    # The last user is the service user, which answers no when the request has expired.
    approvers = ", ".join(map(str, users[:-1])) if isinstance(users, list) else ""
    until = ""
    if inquiry.started_at:
        deadline = inquiry.started_at + timedelta(minutes=approval_minutes)
        until = f" until {format_timestamp(deadline.replace(microsecond=0))}"
    approvers = approvers or "nobody"
    return f"waits for the approval of {approvers}{until}: st2 inquiry respond {inquiry.id}"
