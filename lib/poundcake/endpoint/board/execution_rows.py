"""The executions of an alert, as the pages show them."""

from __future__ import annotations

from typing import Any, Mapping

from poundcake.config import Config
from poundcake.stackstorm.web_ui import execution_url
from poundcake.timestamps import format_duration
from poundcake.trail.text.results import command_for, result_sentence


def execution_row(execution: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Return an execution with what it achieved, its links and its command."""
    seconds = execution["duration_seconds"]
    return {
        **execution,
        "description": result_sentence(execution),
        "duration": "" if seconds is None else format_duration(seconds),
        "action_url": execution_url(config.st2_web_url, execution["action_execution_id"]),
        "command": command_for(execution),
    }
