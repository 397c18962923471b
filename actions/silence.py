"""Silence an alert in Alertmanager."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.config import CREDENTIAL_KEYS
from poundcake.monitoring import alertmanagers
from poundcake.trail.silences import Target, silence
from poundcake.trail.text.confirmations import confirm_silence


class Silence(PackAction):
    """Run poundcake.silence."""

    unneeded_keys = CREDENTIAL_KEYS

    def work(
        self,
        comment: str,
        episode: str = "",
        labels: dict[str, Any] | None = None,
        minutes: int = 60,
        chat_user: str = "",
        st2_user: str = "",
        format: str = "json",
        **filters: Any,
    ) -> dict[str, Any] | str:
        """Silence the alert, and return the silences."""
        config = self.settings
        parameters = (f"minutes={minutes}", "comment=…")
        episode = self.find_episode("silence", episode, *parameters, **filters)
        target = Target(episode, labels, config.ignored_labels)
        actor = self.actor(st2_user)
        comment = self.name_chat_user(comment, chat_user)
        change = silence(self.engine(), alertmanagers(config), actor, target, minutes, comment)
        return self.confirm(change, confirm_silence(change, episode), format)
