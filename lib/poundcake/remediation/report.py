"""The report of a remediation workflow, which is the workflow's output."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from poundcake.trail.changes import ChangeResult


@dataclass(frozen=True)
class Report:
    """The output of a remediation workflow."""

    status: str
    """``succeeded`` or ``failed``."""
    mutated: bool
    """Whether an action that makes a change was started."""
    dry_run: bool
    verified: bool
    """Whether the last check confirmed that the alert is cleared, or that the host answers."""
    stage: str
    message: str
    evidence: dict[str, Any]
    """The results of the checks before and after the change (``before``, ``after``), and of each
    inspection of the host."""
    change_result: ChangeResult | None = field(default=None)
    """How the granted change ended, or None if none was granted. It is not part of the output."""
    seen: tuple[str, ...] = ()
    """The evidence as lines for events. They are not part of the output."""
    silenced: bool = False
    """Whether the alert was silenced during the change. It is not part of the output."""
    action_execution_id: str = ""
    """The execution of the action that made the change, or ''. It is not part of the output."""

    def as_dict(self) -> dict[str, Any]:
        """Return the result of poundcake.report."""
        output = asdict(self)
        for name in ("change_result", "seen", "silenced", "action_execution_id"):
            del output[name]
        return output
