"""Stop all changes immediately."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.trail.pause import pause
from poundcake.trail.text.confirmations import confirm_pause


class Pause(PackAction):
    """Run poundcake.pause."""

    def work(
        self, reason: str, minutes: int = 0, st2_user: str = "", format: str = "json"
    ) -> dict[str, Any] | str:
        """Pause all changes, and return the current pause."""
        actor, create = self.actor(st2_user), self.settings.auto_migrate
        current_pause = pause(self.engine(), actor, reason, minutes, create)
        paused = current_pause.as_json()
        confirmation = confirm_pause(paused, current_pause.has_later_end)
        return self.confirm({"paused": paused}, confirmation, format)
