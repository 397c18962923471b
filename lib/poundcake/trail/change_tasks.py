"""The tasks of a workflow that make its change, and the execution of the action that they run."""

from __future__ import annotations

from typing import Protocol, Sequence

from poundcake.stackstorm import Execution

CHANGE_TASKS = ("remediate", "remediate_host")
"""The tasks of the pack's workflow that make its change."""
_ON_HOST = "poundcake.on_host"  # the workflow of remediate_host, which runs the action on a host


class Executions(Protocol):
    """The source of the executions of a workflow's tasks."""

    def get_children(self, execution_id: str) -> Sequence[Execution]:
        """Return the executions that a workflow's tasks started."""


def find_change(api: Executions, children: Sequence[Execution]) -> Execution | None:
    """Return the execution of the action that makes a change.

    Args:
        api: StackStorm's API.
        children: The executions of the workflow's tasks.

    Returns:
        The execution; None if no task that makes a change has started. If StackStorm refused to
        start the action on a host, it is the execution of poundcake.on_host, which has the reason.

    Raises:
        StackStormError: The API is unavailable.
    """
    tasks = {child.task_name: child for child in children}
    change = next((tasks[task] for task in CHANGE_TASKS if task in tasks), None)
    if change and change.action == _ON_HOST:
        return next(iter(api.get_children(change.id)), change)
    return change
