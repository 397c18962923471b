"""Acknowledge an open incident, or withdraw the acknowledgement."""

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
        chat_user: str = "",
        st2_user: str = "",
        **filters: Any,
    ) -> IncidentChange:
        """Change the acknowledgement, and return the incident and its state."""
        incident_filters = search.parse(**filters)
        comment = self.name_chat_user(comment, chat_user)
        return acknowledge(
            self.engine(), self.actor(st2_user), episode.strip(), incident_filters, comment, undo
        )
