"""Read one alert, and decide whether a remediation may change anything for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy.engine import Connection

from pack_action import PackAction
from poundcake.remediation import safety
from poundcake.trail import queries, short_ids
from poundcake.trail.limits import ChangeRequest, read_situation
from poundcake.trail.outbox import newest_evidence


class GetAlert(PackAction):
    """Run poundcake.get_alert."""

    def work(self, **values: Any) -> dict[str, Any]:
        """Return the alert with its labels and host, and the decision."""
        alert: dict[str, Any] = self.view(self._read_alert, request=ChangeRequest(**values))
        return alert

    def _read_alert(self, connection: Connection, request: ChangeRequest) -> dict[str, Any]:
        request = replace(
            request,
            request_id=short_ids.expand_request_id(connection, request.request_id),
            episode=short_ids.expand_episode(connection, request.episode),
        )
        alert = queries.recorded_alert(connection, request.request_id, request.episode)
        situation = read_situation(connection, self.settings, request)
        return {
            **alert,
            **safety.preview(self.settings, request, situation).as_dict(),
            "evidence": newest_evidence(connection, alert["episode"]),
        }
