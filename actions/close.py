"""Close an open incident whose resolve never arrives."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.trail import search
from poundcake.trail.interventions import close
from poundcake.trail.text.confirmations import confirm_close


class Close(PackAction):
    """Run poundcake.close."""

    def work(
        self,
        comment: str,
        episode: str = "",
        st2_user: str = "",
        format: str = "json",
        **filters: Any,
    ) -> dict[str, Any] | str:
        """Close the incident, and return it with its state."""
        incident_filters = search.parse(**filters)
        change = close(
            self.engine(), self.actor(st2_user), comment, episode.strip(), incident_filters
        )
        return self.confirm(change, confirm_close(change, comment), format)
