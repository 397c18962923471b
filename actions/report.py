"""Report what a remediation workflow did, as its last task."""

from __future__ import annotations

import contextlib
from typing import Any

from pack_action import PackAction
from poundcake.errors import PoundCakeError
from poundcake.remediation.build_report import build_report
from poundcake.trail import database
from poundcake.trail.changes import finish_changes


class Report(PackAction):
    """Run poundcake.report."""

    def work(self, execution_id: str) -> dict[str, Any]:
        """Return the report, which becomes the workflow's output."""
        report = build_report(self.stackstorm(), execution_id)
        if report.change_result:
            try:
                finish_changes(
                    self.engine(),
                    execution_id,
                    report.change_result,
                    report.message,
                    report.seen,
                    report.action_execution_id,
                )
            except database.DatabaseError:
                pass  # sync ends the change once it sees that the workflow has ended
        if report.silenced:
            self._end_silence(execution_id)
        return report.as_dict()

    def _end_silence(self, execution_id: str) -> None:
        """End the silence of the change. If that fails, the silence expires by itself."""
        from poundcake.trail.silences import end_silence_during_change

        with contextlib.suppress(PoundCakeError):
            end_silence_during_change(self.alertmanager_clients(), execution_id)
