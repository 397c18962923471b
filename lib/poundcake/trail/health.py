"""The health of the installation as an action sees it when it cannot reach the endpoint."""

from __future__ import annotations

from typing import Any

from poundcake import __version__
from poundcake.stackstorm import StackStormError
from poundcake.trail import database
from poundcake.trail.database import DatabaseError

UNKNOWN, OK, DOWN = "unknown", "ok", "down"


def from_elsewhere(
    config: Any, engine: Any, stackstorm: Any, endpoint_problem: str
) -> dict[str, Any]:
    """The health as an action sees it that cannot reach the endpoint: what only the endpoint
    knows is unknown from this host, the rest is tried.
    """
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
        "address": endpoint_problem,
        "authentication": ", ".join(config.authentication) or "none",
        "database": database.kind(engine),
        "dry_run": config.dry_run,
        "literal_secrets": list(config.literal_secrets),
        "components": parts,
    }


def _tables(engine: Any) -> dict[str, str]:
    database.prepare(engine, create=False)
    pending = database.pending(engine)
    return {"pending": pending} if pending else {}
