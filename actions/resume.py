"""Allow changes again after poundcake.pause."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.trail.pause import resume
from poundcake.trail.text.confirmations import confirm_resume


class Resume(PackAction):
    """Run poundcake.resume."""

    def work(self, st2_user: str = "", format: str = "json") -> dict[str, Any] | str:
        """Allow changes again, and return the pause that was in effect, or None."""
        ended_pause = resume(self.engine(), self.actor(st2_user))
        paused = ended_pause.as_json() if ended_pause else None
        result = {"resumed": ended_pause is not None, "paused": paused}
        return self.confirm(result, confirm_resume(paused, self.settings.dry_run), format)
