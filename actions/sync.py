"""Ask StackStorm about open executions and emitted alerts, and store the answers."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.trail.sync import sync


class Sync(PackAction):
    """Run poundcake.sync."""

    def work(self, open: int = 0) -> dict[str, Any]:
        """Return how much was learned. ``open`` is for people who read the execution."""
        return sync(self.engine(), self.settings, self.stackstorm()).as_dict()
