"""Read the answer to a request for approval, immediately before the change."""

from __future__ import annotations

from typing import NamedTuple, Protocol, Sequence

from poundcake.execution_status import ExecutionStatus
from poundcake.stackstorm import Execution, StackStormError
from poundcake.trail.approvals import ANSWER
from poundcake.trail.change_tasks import APPROVAL_TASK, read_tasks


class Api(Protocol):
    """The part of StackStorm's API that this module uses."""

    def get_execution(self, execution_id: str) -> Execution | None:
        """Return an execution, or None if StackStorm does not have it."""

    def get_children(self, execution_id: str) -> Sequence[Execution]:
        """Return the executions that a workflow's tasks started."""


class Approval(NamedTuple):
    """The answer to a request for approval.

    Attributes:
        problem: Why it does not permit the change, or ''.
        by: The user who approved, or ''.
        has_expired: Whether the request expired because nobody answered in time.
    """

    problem: str
    by: str = ""
    has_expired: bool = False


def read_approval(api: Api, execution_id: str, approvers: Sequence[str]) -> Approval:
    """Return whether an approver has approved the change of a workflow.

    StackStorm records which user answered in the execution of the workflow that has the task
    `approve`. If another user resumes that workflow later, StackStorm overwrites the name.

    Args:
        api: StackStorm's API.
        execution_id: The execution that has the claim.
        approvers: The users who may approve.
    """
    names = ", ".join(approvers) or "nobody"
    try:
        requests = [t for t in read_tasks(api, execution_id) if t.task_name == APPROVAL_TASK]
        workflow = api.get_execution(requests[-1].parent_id) if requests else None
    except StackStormError as error:
        return Approval(f"the answer to the request for approval could not be read: {error}")
    if not requests or workflow is None:
        return Approval(f"nobody was asked for approval ({names})")
    result = requests[-1].result if isinstance(requests[-1].result, dict) else {}
    response = result.get("response")
    if requests[-1].status != ExecutionStatus.SUCCEEDED or not isinstance(response, dict):
        return Approval(f"the request for approval was not answered ({names})")
    answered_by, has_approved = workflow.resumed_by, response.get(ANSWER) is True
    if answered_by in approvers:
        problem = "" if has_approved else f"{answered_by} rejected the change"
        return Approval(problem, answered_by if has_approved else "")
    if not has_approved:
        problem = f"the approval expired, because none of the approvers answered ({names})"
        return Approval(problem, has_expired=True)
    return Approval(
        f"{answered_by or 'somebody'} approved, but is not one of the approvers ({names}); without "
        "authentication, StackStorm does not know who answers"
    )
