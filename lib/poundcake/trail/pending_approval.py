"""A request for approval that a workflow is waiting for, as the views show it.

Sync uses it too, and does not load the queries of the views.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from poundcake.timestamps import format_timestamp
from poundcake.trail import commands


@dataclass(frozen=True)
class Approval:
    """A request for approval that nobody has answered yet.

    Attributes:
        st2_inquiry_id: The inquiry to answer.
        st2_execution_id: The workflow that waits for the answer.
        approvers: The users who may answer.
        until: When it expires, or None if that is not known.
        change: The change in words, or ''.
        evidence: What the checks saw, one line each.
    """

    st2_inquiry_id: str
    st2_execution_id: str
    approvers: tuple[str, ...] = ()
    until: datetime | None = None
    change: str = ""
    evidence: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return who may answer, until when, how, and what the checks saw."""
        approvers = ", ".join(self.approvers) or "nobody"
        deadline = f" until {format_timestamp(self.until)}" if self.until else ""
        seen = f"; seen: {'; '.join(self.evidence)}" if self.evidence else ""
        command = commands.answer_inquiry(self.st2_inquiry_id)
        return f"waits for the approval of {approvers}{deadline}: {command}{seen}"

    def as_json(self) -> dict[str, Any]:
        """Return the request for approval as JSON."""
        return {
            "st2_inquiry_id": self.st2_inquiry_id,
            "st2_execution_id": self.st2_execution_id,
            "approvers": list(self.approvers),
            "until": format_timestamp(self.until) if self.until else None,
            "change": self.change,
            "evidence": list(self.evidence),
        }
