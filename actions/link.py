"""Claim an episode for a workflow, and link the workflow's execution to the alert."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Engine

from pack_action import PackAction
from poundcake.remediation import safety
from poundcake.trail import claims, database
from poundcake.trail.limits import ChangeRequest, read_situation


class Link(PackAction):
    """Run poundcake.link."""

    def work(
        self,
        request_id: str,
        episode: str,
        workflow: str,
        execution_id: str,
        action: str = "",
        needs_host: bool = True,
        changes: bool = True,
    ) -> dict[str, Any]:
        """Return whether the execution has the claim and may change anything, or why not."""
        engine = self.engine()
        claim = self.retry_while_unavailable(
            lambda: claims.link(
                engine,
                request_id,
                episode,
                workflow,
                execution_id,
                claims.HostCooldown.from_config(self.settings),
                changes,
            )
        )
        if not claim["claimed"] or not action:
            refusal = safety.Refusal.NO_ACTION if claim["claimed"] else safety.Refusal.NOT_CLAIMED
            return {**claim, "may_change": False, "refusal": str(refusal)}
        decision = self._decide(
            engine, ChangeRequest(request_id, episode, action, execution_id, needs_host=needs_host)
        )
        return {
            **claim,
            "reason": decision.message,
            "may_change": decision.may_change,
            "refusal": decision.refusal_name,
        }

    def _decide(self, engine: Engine, request: ChangeRequest) -> safety.SafetyDecision:
        try:
            with database.reading(engine) as connection:
                situation = read_situation(connection, self.settings, request)
        except database.DatabaseError as error:
            return safety.refuse_without_database(self.settings, request, error)
        return safety.preview(self.settings, request, situation)
