"""Report what a remediation workflow did, as its last task."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.remediation.report import build_report


class Report(PackAction):
    """Run poundcake.report."""

    def work(self, execution_id: str) -> dict[str, Any]:
        """Return the workflow's output."""
        return build_report(self.stackstorm(), execution_id).as_dict()
