"""Release the claims on an episode, or the breaker of a remediation."""

from __future__ import annotations

from typing import Any, Sequence

from pack_action import PackAction
from poundcake.stackstorm import StackStormError
from poundcake.trail.errors import TrackingError
from poundcake.trail.release import release_breaker, release_claims
from poundcake.trail.text.confirmations import confirm_release, confirm_release_of_breaker


class Release(PackAction):
    """Run poundcake.release."""

    def work(
        self,
        episode: str = "",
        workflow: str = "",
        force: bool = False,
        remediation: str = "",
        st2_user: str = "",
        format: str = "json",
        **filters: Any,
    ) -> dict[str, Any] | str:
        """Release the claims or the breaker, and return what was released."""
        parameters = (f"workflow={workflow}" if workflow else "", "force=true" if force else "")
        episode = self.find_episode("release", episode, *parameters, **filters)
        if bool(episode) == bool(remediation):
            raise TrackingError(
                "identify the incident by episode, or by alert_name, instance, …; or pass "
                "remediation=NAME, but not both"
            )
        actor = self.actor(st2_user)
        if remediation:
            failures = release_breaker(self.engine(), remediation, actor)
            confirmation = confirm_release_of_breaker(remediation, failures)
            result = {"released": [], "count": 0, "failures": failures}
            return self.confirm(result, confirmation, format)
        released = release_claims(
            self.engine(), episode, workflow, force, self._get_statuses, actor
        )
        result = {"released": released, "count": len(released), "failures": 0}
        return self.confirm(result, confirm_release(released, episode, workflow), format)

    def _get_statuses(self, execution_ids: Sequence[str]) -> dict[str, str]:
        """Return the statuses from StackStorm's API, or {} if the API is unavailable."""
        try:
            executions = self.stackstorm().get_executions(execution_ids)
        except StackStormError:
            return {}
        return {
            execution_id: str(execution.status) for execution_id, execution in executions.items()
        }
