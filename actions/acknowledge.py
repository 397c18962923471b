"""Note that somebody takes care of an open incident, or take that back."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.trail import search
from poundcake.trail.interventions import IncidentChange, acknowledge


class Acknowledge(PackAction):
    """Run poundcake.acknowledge."""

    def work(
        self,
        episode: str = "",
        comment: str = "",
        undo: bool = False,
        st2_user: str = "",
        **filters: Any,
    ) -> IncidentChange:
        """Return the incident and its state."""
        found = search.parse(**filters)
        return acknowledge(
            self.engine(), self.actor(st2_user), episode.strip(), found, comment, undo
        )
