"""Show what would happen for an alert, or check the configured remediations."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.errors import PoundCakeError
from poundcake.remediation import plan
from poundcake.remediation.plan import PlannedAlert


class Plan(PackAction):
    """Run poundcake.plan."""

    def work(
        self, labels: dict[str, Any] | None = None, episode: str = "", format: str = "json"
    ) -> dict[str, Any] | str:
        """Return the plan as JSON, or as text for a terminal."""
        api = self.stackstorm()
        if labels and episode:
            raise PoundCakeError("name either labels or an episode")
        if labels or episode:
            alert = self._recorded(episode) if episode else _imagined(labels or {})
            answer = plan.plan_alert(self.settings, api, alert)
        else:
            answer = plan.check_entries(self.settings, api)
        return plan.as_text(answer) if format == "text" else answer

    def _recorded(self, episode: str) -> PlannedAlert:
        from poundcake.trail import queries

        found = self.view(queries.alert_of_episode, episode=episode)
        if found is None:
            raise PoundCakeError(f"no alert of episode {episode} is on record")
        return PlannedAlert(
            found["labels"], found["episode"], found["status"], found["incident_ended_at"]
        )


def _imagined(labels: dict[str, Any]) -> PlannedAlert:
    return PlannedAlert({str(name): str(value) for name, value in labels.items()})
