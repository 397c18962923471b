"""Read many executions from StackStorm, even if some of them are unreadable."""

from __future__ import annotations

from typing import Callable, Sequence

from poundcake.stackstorm import Execution, StackStormApi, noting_errors
from poundcake.trail.sync_round import Deadline


def read_executions(
    api: StackStormApi, ids: Sequence[str], deadline: Deadline, note: Callable[[str], None]
) -> dict[str, Execution | None]:
    """Read executions from StackStorm.

    Args:
        api: StackStorm's API.
        ids: At most 100 ids, the maximum for one list of the API.
        deadline: When to stop reading executions one by one.
        note: Called with a sentence for each execution that cannot be read.

    Returns:
        The executions by id. The value is None if StackStorm no longer has the execution.
        Executions that could not be read are left out.

    Raises:
        StackStormError: The API is unavailable.
    """
    executions: dict[str, Execution | None] = {}
    with noting_errors(note, "executions could not be listed"):
        executions.update(api.get_executions(ids))
    for execution_id in ids:
        if execution_id in executions:
            continue
        if deadline.has_passed:
            note("there was no time to read the executions that the list did not contain")
            break
        # The list may have been truncated; only a 404 means that the execution is gone.
        with noting_errors(note, f"execution {execution_id} could not be read"):
            executions[execution_id] = api.get_execution(execution_id)
    return executions
