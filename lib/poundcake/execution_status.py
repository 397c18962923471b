"""The statuses of executions in StackStorm."""

from __future__ import annotations

from poundcake.string_enum import StringEnum


class ExecutionStatus(StringEnum):
    """The status of an execution: StackStorm's fourteen statuses, and the pack's own `gone`.

    StackStorm defines its statuses in LIVEACTION_STATUSES (st2common/constants/action.py). Later
    releases may add some, so Execution.status is a plain string, and an unknown status counts as
    open.
    """

    REQUESTED = "requested"
    """The execution waits for st2scheduler."""
    SCHEDULED = "scheduled"
    """The execution waits for an action runner."""
    DELAYED = "delayed"
    """A policy delays the execution; StackStorm continues it automatically."""
    RUNNING = "running"
    """The execution is running. If its runner is killed, it stays `running` forever."""
    CANCELING = "canceling"
    """Somebody canceled the execution; running tasks may still finish."""
    PENDING = "pending"
    """An inquiry waits for an answer."""
    PAUSING = "pausing"
    """Somebody paused the execution; a task is still running or waiting for an answer."""
    PAUSED = "paused"
    """Somebody paused the execution; it continues when somebody resumes it."""
    RESUMING = "resuming"
    """Somebody resumed the execution."""
    SUCCEEDED = "succeeded"
    """The execution ended without an error."""
    FAILED = "failed"
    """The execution ended with an error."""
    TIMEOUT = "timeout"
    """The execution exceeded its time limit and was killed."""
    ABANDONED = "abandoned"
    """The runner was shut down before the execution ended."""
    CANCELED = "canceled"
    """Somebody canceled the execution, and it has ended."""
    GONE = "gone"
    """StackStorm no longer has the execution, for example after garbage collection."""

    def __format__(self, spec: str) -> str:
        return format(str(self.value), spec)

    @property
    def is_terminal(self) -> bool:
        """Whether the status never changes again."""
        return self.value in TERMINAL

    @property
    def needs_a_person(self) -> bool:
        """Whether the status lasts until a person acts."""
        return self.value in WAITING


TERMINAL = ("succeeded", "failed", "timeout", "abandoned", "canceled", "gone")
"""The statuses that never change again, as strings for SQL and JSON."""
WAITING = ("pending", "paused", "pausing")
"""The statuses that last until a person acts."""
STATUSES = tuple(status.value for status in ExecutionStatus)
"""All statuses, the open ones first."""
