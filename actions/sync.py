"""Ask StackStorm what became of emitted alerts and open executions, and store it."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.trail import sync


class Sync(PackAction):
    """Run poundcake.sync."""

    def work(self, open: int = 0) -> dict[str, Any]:
        """Return how much was learned. ``open`` is for people who read the execution."""
        return sync.sync(self.engine(), self.settings, self.stackstorm())
