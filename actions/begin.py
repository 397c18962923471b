"""Decide what a remediation does for an alert, and claim the episode if it makes a change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pack_action import PackAction
from poundcake.remediation import begin
from poundcake.remediation.stage import Stage
from poundcake.remediations import Mode, Remediation
from poundcake.trail import claims, database, limits, queries
from poundcake.trail.errors import TrackingError
from poundcake.trail.limits import ChangeRequest, Situation

# Seconds to retry while the database is unavailable: less than the action's own timeout.
_RETRY_SECONDS = 45


class Begin(PackAction):
    """Run poundcake.begin."""

    def work(
        self, request_id: str, episode: str, st2_user: str = "", **given: Any
    ) -> dict[str, Any]:
        """Return what the workflow may do, and if it changes nothing, its report."""
        found = database.retry_while_unavailable(
            lambda: self._begin(request_id, episode, **given), _RETRY_SECONDS
        )
        # The service user answers no when the approval has expired. It is the last one.
        users = [*found["approvers"], st2_user] if found["approvers"] else []
        return {**found, "asks": bool(users), "users": users}

    def _begin(
        self,
        request_id: str,
        episode: str,
        execution_id: str,
        remediation: str = "",
        action: str = "",
        parameters: dict[str, Any] | None = None,
        mode: str = "live",
    ) -> dict[str, Any]:
        found = self.view(queries.alert_of, request_id=request_id, episode=episode)
        if found is None:
            raise TrackingError(f"no alert of episode {episode} in request {request_id}")

        def read_situation(change: ChangeRequest) -> Situation:
            asked = replace(
                change, request_id=request_id, episode=episode, execution_id=execution_id
            )
            situation: Situation = self.view(
                limits.read_situation, config=self.settings, request=asked
            )
            return situation

        def find_objection(entry: Remediation) -> str:
            from poundcake.remediation.conditions import find_objection as find
            from poundcake.remediation.polls import Subject

            subject = Subject.of(found["labels"], self.settings.host_label)
            return find(entry, subject, self.prometheus)

        alert = begin.Alert(
            found["labels"],
            found["status"],
            found["incident_ended_at"],
            read_situation,
            find_objection,
        )
        request = begin.Request(remediation, action, parameters or {}, Mode(mode))
        decision = begin.decide(self.settings, alert, request)
        linked = claims.link(
            self.engine(),
            request_id,
            episode,
            decision.action or begin.REMEDIATE,
            execution_id,
            claims.HostCooldown.of(
                self.settings.host_cooldown_seconds, self.settings.power_cooldown_seconds
            ),
            decision.may_reserve,
        )
        if not linked["claimed"]:
            decision = decision.ended(Stage.NOT_CLAIMED, linked["reason"])
        return {**linked, **decision.as_dict()}
