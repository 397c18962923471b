"""Release the claims on an episode, so that it can be remediated again."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake.trail import claims


class Release(PackAction):
    """Run poundcake.release."""

    def work(self, episode: str, workflow: str = "", force: bool = False) -> dict[str, Any]:
        """Return the claims that were released."""
        released = claims.release(self.engine(), episode, workflow, force)
        return {"released": released, "count": len(released)}
