"""The parts that the endpoint depends on: in which state each is, and since when."""

from datetime import datetime, timezone
from typing import Any, Dict

from poundcake import __version__, database
from poundcake.alertmanager import timestamp
from poundcake.database import DatabaseError
from poundcake.stackstorm import StackStormError

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

    def report(self, **more: Any) -> Dict[str, Any]:
        """{state, since, detail} and what else there is to say."""
        return {
            "state": self.state,
            "since": timestamp(self.since),
            "detail": self.detail,
            **more,
        }


def from_elsewhere(config: Any, engine: Any, stackstorm: Any) -> Dict[str, Any]:
    """The health as an action sees it that cannot reach the endpoint: what only the endpoint
    knows is unknown from this host, the rest is tried."""
    unknown = {"state": UNKNOWN, "since": "", "detail": "unknown from this host"}
    parts = {"journal": dict(unknown), "broker": dict(unknown)}
    for name, check in (
        ("database", lambda: _tables(engine)),
        ("stackstorm", lambda: stackstorm.get("/actions/poundcake.record") and {}),
    ):
        try:
            parts[name] = {"state": OK, "since": "", "detail": "", **(check() or {})}
        except (DatabaseError, StackStormError) as error:
            parts[name] = {"state": DOWN, "since": "", "detail": str(error)}
    return {
        "status": UNKNOWN,
        "version": __version__,
        "address": f"no answer from {config.endpoint} (endpoint_url)",
        "authentication": ", ".join(config.authentication) or "none",
        "database": database.kind(engine),
        "dry_run": config.dry_run,
        "literal_secrets": list(config.literal_secrets),
        "components": parts,
    }


def _tables(engine: Any) -> Dict[str, str]:
    database.prepare(engine, create=False)
    pending = database.pending(engine)
    return {"pending": pending} if pending else {}
