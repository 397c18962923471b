"""Delete requests that ended long ago."""

from __future__ import annotations

from pack_action import PackAction
from poundcake.trail import purge


class Purge(PackAction):
    """Run poundcake.purge."""

    def work(
        self, older_than_days: int | None = None, dry_run: bool = False, st2_user: str = ""
    ) -> purge.PurgeResult:
        """Purge old requests, and return how many rows were, or in a dry run would be, deleted."""
        actor = self.actor(st2_user)
        return purge.purge(self.engine(), self.settings, older_than_days, dry_run, actor)
