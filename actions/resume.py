"""Allow changes again after poundcake.pause."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.trail.pause import resume


class Resume(PackAction):
    """Run poundcake.resume."""

    def work(self, st2_user: str = "") -> dict[str, Any]:
        """Allow changes again, and return the pause that was in effect, or None."""
        ended_pause = resume(self.engine(), self.actor(st2_user))
        return {
            "resumed": ended_pause is not None,
            "paused": ended_pause.as_json() if ended_pause else None,
        }
