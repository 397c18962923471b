"""Delete requests that ended long ago."""

from __future__ import annotations

from pack_action import PackAction
from poundcake.trail import purge


class Purge(PackAction):
    """Run poundcake.purge."""

    def work(self, older_than_days: int | None = None, dry_run: bool = False) -> purge.PurgeResult:
        """Return how many rows were deleted, or would be."""
        return purge.purge(self.engine(), self.settings, older_than_days, dry_run)
