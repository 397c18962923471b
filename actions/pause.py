"""Stop all changes immediately."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.trail.pause import pause


class Pause(PackAction):
    """Run poundcake.pause."""

    def work(self, reason: str, minutes: int = 0, st2_user: str = "") -> dict[str, Any]:
        """Pause all changes, and return the current pause."""
        actor, create = self.actor(st2_user), self.settings.auto_migrate
        return {"paused": pause(self.engine(), actor, reason, minutes, create).as_json()}
