"""Decide whether a workflow may make its change now, and count the change if it may."""

from __future__ import annotations

from typing import Any, Sequence

from pack_action import PackAction
from poundcake.remediation import safety
from poundcake.trail import database
from poundcake.trail.limits import ChangeRequest

# Seconds to retry while the database is unavailable: less than the action's own timeout of 60.
_RETRY_SECONDS = 45


class Reserve(PackAction):
    """Run poundcake.reserve."""

    def work(self, target: Sequence[str] = (), **asked: Any) -> dict[str, Any]:
        """Return the decision. Without the tracking database, nothing may be changed."""
        request = ChangeRequest(target_labels=tuple(target), **asked)
        try:
            decision = database.retry_while_unavailable(
                lambda: safety.reserve(self.engine(), self.settings, request), _RETRY_SECONDS
            )
        except database.DatabaseError as error:
            decision = safety.without_database(self.settings, request, error)
        return decision.as_dict()
