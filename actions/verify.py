"""Check once whether a workflow's change helped."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.remediation import polls
from poundcake.trail.recorded_alert import read_labels


class Verify(PackAction):
    """Run poundcake.verify."""

    def work(
        self, request_id: str, episode: str, check: str, wait: int, execution_id: str
    ) -> dict[str, Any]:
        """Return whether the verification is done, whether the change helped, and what was seen."""
        labels = self.view(read_labels, request_id=request_id, episode=episode)
        change = polls.read_change(self.stackstorm(), execution_id)
        alert = polls.CheckedAlert.of(labels, self.settings.host_label)
        return polls.poll(check, wait, alert, self.prometheus_clients(), change).as_dict()
