"""The tasks of a workflow, and the execution of the action that makes its change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Sequence

if TYPE_CHECKING:  # poundcake.begin, which runs for each alert, does not use StackStorm's API
    from poundcake.stackstorm import Execution

CHANGE_TASKS = ("remediate", "remediate_host")
"""The tasks of the pack's workflow that make its change."""
APPROVAL_TASK = "approve"
"""The task that asks for approval."""
CHANGE_WORKFLOW = "poundcake.change"
"""The workflow that the pack's workflow runs as its second task. It has the other tasks."""
_ON_HOST = "poundcake.on_host"  # the workflow of remediate_host, which runs the action on a host


class Executions(Protocol):
    """The source of the executions of a workflow's tasks."""

    def get_children(self, execution_id: str) -> Sequence[Execution]:
        """Return the executions that a workflow's tasks started."""


def read_tasks(api: Executions, execution_id: str) -> Sequence[Execution]:
    """Return the executions of a workflow's tasks, with those of poundcake.change, oldest first.

    Args:
        api: StackStorm's API.
        execution_id: The execution that has the claim.

    Raises:
        StackStormError: The API is unavailable.
    """
    tasks = list(api.get_children(execution_id))
    for workflow in [task for task in tasks if task.action == CHANGE_WORKFLOW]:
        tasks += api.get_children(workflow.id)
    return tasks


def find_change(api: Executions, tasks: Sequence[Execution]) -> Execution | None:
    """Return the execution of the action that makes a change.

    Args:
        api: StackStorm's API.
        tasks: The executions of the workflow's tasks, from read_tasks().

    Returns:
        The execution; None if no task that makes a change has started. If StackStorm refused to
        start the action on a host, it is the execution of poundcake.on_host, which has the reason.

    Raises:
        StackStormError: The API is unavailable.
    """
    tasks_by_name = {task.task_name: task for task in tasks}
    change = next((tasks_by_name[name] for name in CHANGE_TASKS if name in tasks_by_name), None)
    if change and change.action == _ON_HOST:
        return next(iter(api.get_children(change.id)), change)
    return change
