"""Read many executions, so that one that cannot be read does not hide the others."""

from __future__ import annotations

from typing import Callable, Sequence

from poundcake.stackstorm import Execution, StackStormApi, StackStormError
from poundcake.trail.sync_round import Deadline


def read_executions(
    api: StackStormApi, ids: Sequence[str], deadline: Deadline, note: Callable[[str], None]
) -> dict[str, Execution | None]:
    """Ask StackStorm for executions.

    Args:
        ids: At most 100, so that one list holds them.
        deadline: When to stop asking for single ones.
        note: Called with a sentence for each that cannot be read.

    Returns:
        The executions by id; None for one that StackStorm does not have. What could not be read
        is missing.

    Raises:
        StackStormError: The API is away.
    """
    found: dict[str, Execution | None] = {}
    try:
        found.update(api.get_executions(ids))
    except StackStormError as error:
        if error.is_outage:
            raise
        note(f"executions could not be listed: {error}")
    for execution_id in ids:
        if execution_id in found:
            continue
        if deadline.has_passed:
            note("there was no time to ask for each execution that the list lacks")
            break
        # A list that lacks an id may have been cut short; only a 404 says that it is gone.
        try:
            found[execution_id] = api.get_execution(execution_id)
        except StackStormError as error:
            if error.is_outage:
                raise
            note(f"execution {execution_id} could not be read: {error}")
    return found
