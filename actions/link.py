"""Claim an episode for a workflow, and link the workflow's execution to the alert."""

from __future__ import annotations

from pack_action import PackAction
from poundcake.trail import claims, database

# Seconds to retry while the database is unavailable: less than the action's own timeout of 60.
_RETRY_SECONDS = 45


class Link(PackAction):
    """Run poundcake.link."""

    def work(
        self,
        request_id: str,
        episode: str,
        workflow: str,
        execution_id: str,
        changes: bool = True,
    ) -> claims.LinkResult:
        """Return whether the execution may continue, and if not, why not."""
        return database.retry_while_unavailable(
            lambda: claims.link(
                self.engine(),
                request_id,
                episode,
                workflow,
                execution_id,
                self.settings.host_cooldown_seconds,
                changes,
            ),
            _RETRY_SECONDS,
        )
