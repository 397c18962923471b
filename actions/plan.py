"""Show what would happen for an alert, or check the configured remediations."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pack_action import PackAction
from poundcake.errors import PoundCakeError
from poundcake.remediation import plan
from poundcake.remediation.plan import PlannedAlert
from poundcake.trail.errors import NoIncidentError

if TYPE_CHECKING:
    from poundcake.trail.limits import ChangeRequest, Situation

_HOW_TO_PLAN_AHEAD = (
    "for an alert that does not fire yet, pass its labels: "
    "st2 run poundcake.plan format=text labels=alertname=HostDown,instance=web-1.example.org:9100"
)


class Plan(PackAction):
    """Run poundcake.plan."""

    def work(
        self,
        labels: dict[str, Any] | None = None,
        episode: str = "",
        format: str = "json",
        **filters: Any,
    ) -> dict[str, Any] | str:
        """Return the plan as JSON, or as text for a terminal."""
        api = self.stackstorm()
        try:
            episode = self.find_episode("plan", episode, **filters)
        except NoIncidentError as error:
            raise PoundCakeError(f"{error}; {_HOW_TO_PLAN_AHEAD}") from None
        if labels and episode:
            raise PoundCakeError(
                "pass either labels, or episode, alert_name, instance, …, but not both"
            )
        if labels or episode:
            alert = self._recorded_alert(episode) if episode else self._possible_alert(labels or {})
            result = plan.plan_alert(self.settings, api, alert)
        else:
            has_alertmanagers = bool(self.config.get("alertmanagers"))
            result = plan.check_entries(self.settings, api, has_alertmanagers)
        return plan.as_text(result) if format == "text" else result

    def _recorded_alert(self, episode: str) -> PlannedAlert:
        from poundcake.trail import commands, queries

        recorded = self.view(queries.alert_of_episode, episode=episode)
        if recorded is None:
            raise PoundCakeError(
                f"no alert of episode {episode} is recorded; list the open incidents: "
                f"{commands.ACTIVE}"
            )

        def read_situation(change: ChangeRequest) -> Situation:
            return self.read_situation(
                replace(change, request_id=recorded["request_id"], episode=recorded["episode"])
            )

        return PlannedAlert(
            recorded["labels"],
            read_situation,
            recorded["episode"],
            recorded["status"],
            commands.replay(recorded["request_id"]) if recorded["has_ended_work"] else "",
        )

    def _possible_alert(self, labels: dict[str, Any]) -> PlannedAlert:
        from poundcake.trail import limits

        string_labels = {str(name): str(value) for name, value in labels.items()}

        def read_situation(change: ChangeRequest) -> Situation:
            situation: Situation = self.view(
                limits.read_hypothetical_situation,
                config=self.settings,
                request=change,
                labels=string_labels,
            )
            return situation

        return PlannedAlert(string_labels, read_situation)
