"""The parts that the endpoint depends on: in which state each is, and since when."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from poundcake.timestamps import format_timestamp

UNKNOWN, OK, DOWN = "unknown", "ok", "down"


class Component:
    """One part: `unknown` until it was first used, then `ok` or `down`, with a sentence."""

    def __init__(self, log: Any, name: str):
        self._log = log
        self.name = name
        self.state = UNKNOWN
        self.detail = ""
        self.since = datetime.now(timezone.utc)

    def ok(self, detail: str = "") -> None:
        """It works. detail: what is still to be said of it."""
        self._become(OK, detail)

    def down(self, detail: str) -> None:
        """It does not work, because of this."""
        self._become(DOWN, detail)

    def _become(self, state: str, detail: str) -> None:
        if state != self.state:
            self.since = datetime.now(timezone.utc)
            if state == DOWN:
                self._log.warning("%s: down: %s", self.name, detail)
            elif self.state == DOWN:
                self._log.info("%s: works again", self.name)
        self.state, self.detail = state, detail

    def report(self, **more: Any) -> dict[str, Any]:
        """{state, since, detail} and what else there is to say."""
        return {
            "state": self.state,
            "since": format_timestamp(self.since),
            "detail": self.detail,
            **more,
        }
