"""Release the claims on an episode, so that it can be remediated again."""

from __future__ import annotations

from typing import Any, Sequence

from pack_action import PackAction
from poundcake.stackstorm import StackStormError
from poundcake.trail import claims


class Release(PackAction):
    """Run poundcake.release."""

    def work(
        self, episode: str, workflow: str = "", force: bool = False, st2_user: str = ""
    ) -> dict[str, Any]:
        """Release the claims, and return them."""
        released = claims.release(
            self.engine(), episode, workflow, force, self._statuses, self.actor(st2_user)
        )
        return {"released": released, "count": len(released)}

    def _statuses(self, execution_ids: Sequence[str]) -> dict[str, str]:
        """Return the statuses from StackStorm's API, or {} if the API is unavailable."""
        try:
            found = self.stackstorm().get_executions(execution_ids)
        except StackStormError:
            return {}
        return {key: str(execution.status) for key, execution in found.items()}
