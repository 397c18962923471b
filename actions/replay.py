"""Record a request again under a new request_id, so that rules receive its alerts again."""

from __future__ import annotations

from pack_action import PackAction
from poundcake.trail.replay import ReplayResult, replay_request


class Replay(PackAction):
    """Run poundcake.replay."""

    def work(
        self, request_id: str, force: bool = False, execution_id: str = "", st2_user: str = ""
    ) -> ReplayResult:
        """Replay the request, and return the new request_id and the number of alerts by outcome."""
        # If the connection breaks during a commit, the replay may or may not be recorded. The next
        # attempt derives the same id from the execution's id, and so finds a recorded replay.
        actor = self.actor(st2_user)
        replaying_execution = execution_id or actor.execution_id
        return self.retry_while_unavailable(
            lambda: replay_request(
                self.engine(), self.settings, request_id, force, replaying_execution, actor
            )
        )
