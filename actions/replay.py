"""Record a request again under a new request_id, so that rules see its alerts again."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.trail.replay import replay_request


class Replay(PackAction):
    """Run poundcake.replay."""

    def work(self, request_id: str, force: bool = False) -> dict[str, Any]:
        """Return the new request_id, and how many alerts got which outcome."""
        return replay_request(self.engine(), self.settings, request_id, force)
