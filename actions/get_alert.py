"""Read one alert, and decide whether a remediation may change anything for it."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.remediation.safety import AlertState, permit
from poundcake.trail import queries
from poundcake.trail.errors import TrackingError


class GetAlert(PackAction):
    """Run poundcake.get_alert."""

    def work(
        self, request_id: str, episode: str, action: str = "", needs_host: bool = True
    ) -> dict[str, Any]:
        """Return the alert with its labels and host, and the decision."""
        alert = self.view(queries.alert_of, request_id=request_id, episode=episode)
        if alert is None:
            raise TrackingError(f"no alert of episode {episode} in request {request_id}")
        named_host = alert["labels"].get(self.settings.host_label, "")
        state = AlertState(named_host, alert["status"], alert["incident_ended_at"])
        return {**alert, **permit(self.settings, state, action, needs_host).as_dict()}
