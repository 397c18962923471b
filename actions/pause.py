"""Stop all changes at once."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.trail.pause import pause


class Pause(PackAction):
    """Run poundcake.pause."""

    def work(self, reason: str, minutes: int = 0, st2_user: str = "") -> dict[str, Any]:
        """Pause, and return the pause that is in force."""
        actor, create = self.actor(st2_user), self.settings.auto_migrate
        return {"paused": pause(self.engine(), actor, reason, minutes, create).as_json()}
