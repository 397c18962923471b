"""The health of the installation as an action sees it if it cannot reach the endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from sqlalchemy.engine import Engine

from poundcake import __version__
from poundcake.config import Config
from poundcake.stackstorm import StackStorm, StackStormError
from poundcake.trail import database
from poundcake.trail.database import DatabaseError


class State(str, Enum):
    """What is known of a part."""

    UNKNOWN = "unknown"
    """Only the endpoint knows."""
    OK = "ok"
    """It was tried from this host, and works."""
    DOWN = "down"
    """It was tried from this host, and does not work."""


@dataclass(frozen=True)
class Part:
    """One part that PoundCake depends on.

    Attributes:
        detail: Why it does not work, or is not known.
        pending: What waits for an operator, for instance a migration; empty if nothing does.
    """

    state: State
    detail: str = ""
    pending: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as the view health shows it. Since when is known to the endpoint only."""
        answer = {"state": self.state.value, "since": "", "detail": self.detail}
        return {**answer, "pending": self.pending} if self.pending else answer


def from_elsewhere(
    config: Config, engine: Engine, stackstorm: StackStorm, endpoint_problem: str = ""
) -> dict[str, Any]:
    """Return the health, ready for JSON, of what can be tried without the endpoint.

    What only the endpoint knows is unknown.

    Args:
        endpoint_problem: Why the endpoint could not be asked, which is shown as its address.
    """
    unknown = Part(State.UNKNOWN, "unknown from this host")
    components = {
        "journal": unknown,
        "broker": unknown,
        "database": _database(engine),
        "stackstorm": _stackstorm(stackstorm),
    }
    return {
        "status": State.UNKNOWN.value,
        "version": __version__,
        "address": endpoint_problem or f"no answer from {config.endpoint} (endpoint_url)",
        "authentication": ", ".join(config.authentication) or "none",
        "database": database.kind(engine),
        "dry_run": config.dry_run,
        "literal_secrets": list(config.literal_secrets),
        "components": {name: part.as_json() for name, part in components.items()},
    }


def with_differences(answer: dict[str, Any], config: Config) -> dict[str, Any]:
    """Return the endpoint's health with the keys that actions have another value of.

    StackStorm hands an action the configuration that is registered when it starts. The endpoint
    applies a change up to 30 seconds later, and keeps what it has if it cannot. Secrets are not
    compared, because no view shows them.

    Args:
        answer: The endpoint's health, as JSON.
        config: The configuration of the action that asks.
    """
    configuration = answer.get("configuration")
    if not isinstance(configuration, dict):  # an endpoint of 0.2.0
        return answer
    in_force = configuration.get("in_force") or {}
    differences = {
        name: {"endpoint": in_force[name], "actions": value}
        for name, value in config.settings.items()
        if name in in_force and in_force[name] != value
    }
    return {**answer, "configuration": {**configuration, "differences": differences}}


def _database(engine: Engine) -> Part:
    try:
        database.prepare(engine, create=False)
        return Part(State.OK, pending=database.pending(engine))
    except DatabaseError as error:
        return Part(State.DOWN, str(error))


def _stackstorm(stackstorm: StackStorm) -> Part:
    try:
        stackstorm.get("/actions/poundcake.record")
    except StackStormError as error:
        return Part(State.DOWN, str(error))
    return Part(State.OK)
