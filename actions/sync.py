"""Poll StackStorm for open executions and emitted alerts, and store the results."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.config import CREDENTIAL_KEYS
from poundcake.monitoring import alertmanagers
from poundcake.trail.sync import sync


class Sync(PackAction):
    """Run poundcake.sync."""

    unneeded_keys = CREDENTIAL_KEYS

    def work(self, open: int = 0) -> dict[str, Any]:
        """Run a round of sync, and return its counts. ``open`` is informational."""
        servers = alertmanagers(self.settings)
        return sync(self.engine(), self.settings, self.stackstorm(), servers).as_dict()
