"""End a silence in Alertmanager."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.config import CREDENTIAL_KEYS
from poundcake.monitoring import alertmanagers
from poundcake.trail.silences import Target, unsilence
from poundcake.trail.text.confirmations import confirm_end_of_silence


class Unsilence(PackAction):
    """Run poundcake.unsilence."""

    unneeded_keys = CREDENTIAL_KEYS

    def work(
        self,
        silence_id: str = "",
        episode: str = "",
        force: bool = False,
        st2_user: str = "",
        format: str = "json",
        **filters: Any,
    ) -> dict[str, Any] | str:
        """End the silence, and return it."""
        config = self.settings
        parameters = ("force=true",) if force else ()
        episode = self.find_episode("unsilence", episode, *parameters, **filters)
        target = Target(episode, None, config.ignored_labels)
        servers, actor = alertmanagers(config), self.actor(st2_user)
        change = unsilence(self.engine(), servers, actor, target, silence_id.strip(), force)
        return self.confirm(change, confirm_end_of_silence(change, episode), format)
