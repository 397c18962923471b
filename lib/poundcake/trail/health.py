"""Check the health of the installation from an action, with or without the endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.engine import Connection, Engine

from poundcake import __version__
from poundcake.config import Config
from poundcake.stackstorm import StackStorm, StackStormError
from poundcake.string_enum import StringEnum
from poundcake.timestamps import format_timestamp
from poundcake.trail import database, uncopied
from poundcake.trail.database import DatabaseError
from poundcake.trail.pause import read_pause
from poundcake.trail.schema import api_calls


class State(StringEnum):
    """The state of a component, as seen from this host."""

    UNKNOWN = "unknown"
    """Only the endpoint can check the component."""
    OK = "ok"
    """The check succeeded."""
    DOWN = "down"
    """The check failed."""


@dataclass(frozen=True)
class Component:
    """A component that PoundCake depends on.

    Attributes:
        state: Whether the component works.
        detail: Why it does not work, or why its state is unknown.
        pending: What the operator still has to do, for example a migration, or ''.
    """

    state: State
    detail: str = ""
    pending: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the component, ready for JSON.

        `since` is empty, because only the endpoint knows when the state last changed.
        """
        fields = {"state": self.state.value, "since": "", "detail": self.detail}
        return {**fields, "pending": self.pending} if self.pending else fields


def view_without_endpoint(
    config: Config, engine: Engine, stackstorm: StackStorm, endpoint_problem: str = ""
) -> dict[str, Any]:
    """Return the health view, ready for JSON, for an endpoint that does not answer.

    Components that only the endpoint can check are `unknown`.

    Args:
        config: The configuration.
        engine: The tracking database.
        stackstorm: StackStorm's API.
        endpoint_problem: Why the endpoint did not answer, to show in the field `address`.
    """
    unknown = Component(State.UNKNOWN, "only the endpoint can check this")
    components = {
        "journal": unknown,
        "broker": unknown,
        "database": _check_database(config, engine),
        "stackstorm": _check_stackstorm(stackstorm),
    }
    return {
        "status": State.UNKNOWN.value,
        "version": __version__,
        "address": endpoint_problem or f"no answer from {config.endpoint} (endpoint_url)",
        "authentication": ", ".join(config.authentication) or "none",
        "database": database.kind(engine),
        "dry_run": config.dry_run,
        "literal_secrets": list(config.literal_secrets),
        "configuration": {"remediation_errors": list(config.remediation_errors)},
        "components": {name: component.as_json() for name, component in components.items()},
    }


def add_differences(view: dict[str, Any], config: Config) -> dict[str, Any]:
    """Return the endpoint's health view, with the keys whose values differ for actions.

    StackStorm passes an action the configuration that is registered when the action starts. The
    endpoint applies a change up to 30 seconds later. If it cannot apply the change, it keeps its
    current configuration. Secrets are not compared, because no view shows them.

    Args:
        view: The endpoint's health view, as read from JSON.
        config: The configuration of the running action.
    """
    configuration = view.get("configuration")
    if not isinstance(configuration, dict):  # the endpoint still runs release 0.2.0
        return view
    # Actions may already use a newer configuration than the endpoint.
    errors = list(dict.fromkeys([*_remediation_errors(configuration), *config.remediation_errors]))
    if config.remediation_errors and view.get("status") == "ok":
        view = {**view, "status": "degraded"}
    endpoint_settings = configuration.get("in_force") or {}
    differences = {
        name: {"endpoint": endpoint_settings[name], "actions": value}
        for name, value in config.settings.items()
        if name in endpoint_settings and endpoint_settings[name] != value
    }
    configuration_view = {**configuration, "differences": differences, "remediation_errors": errors}
    return {**view, "configuration": configuration_view}


def _remediation_errors(configuration: dict[str, Any]) -> list[str]:
    errors = configuration.get("remediation_errors")
    return errors if isinstance(errors, list) else []


def add_pause(view: dict[str, Any], engine: Engine) -> dict[str, Any]:
    """Return the health view with the current pause from the database, and the newest webhook.

    The endpoint shows a new pause only after a few seconds. If the database cannot be read, return
    the view unchanged.
    """
    try:
        with database.reading(engine) as connection:
            pause = read_pause(connection)
            newest = newest_webhook_at(connection)
    except DatabaseError:
        return view
    return {
        **view,
        "paused": pause.as_json() if pause else None,
        "newest_webhook_at": format_timestamp(newest) if newest else None,
    }


def newest_webhook_at(connection: Connection) -> datetime | None:
    """Return when the newest recorded webhook was received, or None if there is none.

    Replays are left out: they do not show that a sender reaches the endpoint.
    """
    received_at = api_calls.c.created_at
    is_webhook = api_calls.c.replay_of.is_(None)
    return connection.scalar(
        select(received_at).where(is_webhook).order_by(received_at.desc()).limit(1)
    )


def _check_database(config: Config, engine: Engine) -> Component:
    try:
        database.prepare(engine, create=False)
        request_ids = uncopied.find_open_requests_in_default_file(config, engine)
        with database.reading(engine) as connection:
            pending = uncopied.read_pending(connection, config, request_ids)
        return Component(State.OK, pending=str(pending))
    except DatabaseError as error:
        return Component(State.DOWN, str(error))


def _check_stackstorm(stackstorm: StackStorm) -> Component:
    try:
        stackstorm.get("/actions/poundcake.record")
    except StackStormError as error:
        return Component(State.DOWN, str(error))
    return Component(State.OK)
