"""Decide what a remediation does for an alert, and claim the episode if it makes a change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pack_action import PackAction
from poundcake.hosts import host_and_port
from poundcake.remediation import begin
from poundcake.remediation.checks import TcpResult, try_check_host
from poundcake.remediation.safety import ConditionsResult
from poundcake.remediation.stage import Stage
from poundcake.remediations import Mode, Remediation
from poundcake.trail import claims
from poundcake.trail.limits import ChangeRequest, Situation
from poundcake.trail.recorded_alert import read_labels


class Begin(PackAction):
    """Run poundcake.begin."""

    def work(
        self, request_id: str, episode: str, st2_user: str = "", **options: Any
    ) -> dict[str, Any]:
        """Return what the workflow may do and, if it changes nothing, its report."""
        result = self.retry_while_unavailable(lambda: self._begin(request_id, episode, **options))
        # The last user is the service user, who rejects expired approvals through sync.
        users = [*result["approvers"], st2_user] if result["approvers"] else []
        return {**result, "asks": bool(users), "users": users}

    def _begin(
        self,
        request_id: str,
        episode: str,
        execution_id: str,
        mode: str = "live",
        **rule: Any,
    ) -> dict[str, Any]:
        labels = self.view(read_labels, request_id=request_id, episode=episode)

        def read_situation(change: ChangeRequest) -> Situation:
            return self.read_situation(
                replace(change, request_id=request_id, episode=episode, execution_id=execution_id)
            )

        def check_conditions(entry: Remediation) -> ConditionsResult:
            return self.check_conditions(entry, labels)

        def check_host() -> TcpResult:
            return try_check_host(host_and_port(labels.get(self.settings.host_label, "")))

        alert = begin.Alert(labels, read_situation, check_conditions, check_host)
        request = begin.Request(mode=Mode(mode), **rule)
        decision = begin.decide(self.settings, alert, request)
        workflow = request.claim_name(decision.action)
        ending = decision.build_ending(
            request, ChangeRequest(request_id, episode, "", execution_id)
        )
        claim = (
            claims.link_ended(
                self.engine(),
                workflow,
                ending,
                decision.end_report(),
                self.settings.retry_refused_minutes if decision.ends_by_itself else 0,
                request.workflow,
            )
            if ending
            else claims.link_claimant(
                self.engine(),
                claims.Claimant(
                    request_id,
                    episode,
                    workflow,
                    execution_id,
                    claims.HostCooldown.from_config(self.settings),
                    decision.may_reserve,
                    action=request.workflow,
                ),
            )
        )
        if not claim["claimed"]:
            decision = decision.end_at(Stage.NOT_CLAIMED, claim["reason"])
        return {**claim, **decision.as_dict()}
