"""Answer the request for approval of a change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pack_action import PackAction
from poundcake.stackstorm import client_for_action
from poundcake.trail import search
from poundcake.trail.approvals import answer_approval
from poundcake.trail.text.confirmations import confirm_answer


class Approve(PackAction):
    """Run poundcake.approve."""

    def work(
        self,
        episode: str = "",
        reject: bool = False,
        comment: str = "",
        chat_user: str = "",
        st2_user: str = "",
        format: str = "json",
        **filters: Any,
    ) -> dict[str, Any] | str:
        """Answer the request, and return the answer."""
        # The answer must come from the user who runs this action, not from the owner of the key.
        api = client_for_action(replace(self.settings, st2_api_key=""))
        alert_filters = search.parse(None, **filters)
        comment = self.name_chat_user(comment, chat_user)
        actor = self.actor(st2_user)
        answer = answer_approval(
            self.engine(), api, actor, episode.strip(), not reject, comment, alert_filters
        )
        return self.confirm(answer, confirm_answer(answer, comment), format)
