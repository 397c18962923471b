"""Acknowledge an open incident, or withdraw the acknowledgement."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.trail import search
from poundcake.trail.interventions import acknowledge
from poundcake.trail.text.confirmations import confirm_acknowledgement


class Acknowledge(PackAction):
    """Run poundcake.acknowledge."""

    def work(
        self,
        episode: str = "",
        comment: str = "",
        undo: bool = False,
        chat_user: str = "",
        st2_user: str = "",
        format: str = "json",
        **filters: Any,
    ) -> dict[str, Any] | str:
        """Change the acknowledgement, and return the incident and its state."""
        incident_filters = search.parse(**filters)
        comment = self.name_chat_user(comment, chat_user)
        change = acknowledge(
            self.engine(), self.actor(st2_user), episode.strip(), incident_filters, comment, undo
        )
        return self.confirm(change, confirm_acknowledgement(change, comment), format)
