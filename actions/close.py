"""Close an open incident whose resolve never arrives."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.trail import search
from poundcake.trail.interventions import IncidentChange, close


class Close(PackAction):
    """Run poundcake.close."""

    def work(
        self, comment: str, episode: str = "", st2_user: str = "", **filters: Any
    ) -> IncidentChange:
        """Close the incident, and return it with its state."""
        incident_filters = search.parse(**filters)
        return close(
            self.engine(), self.actor(st2_user), comment, episode.strip(), incident_filters
        )
