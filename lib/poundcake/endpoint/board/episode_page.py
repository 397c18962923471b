"""The page of an episode: its verdict, what to do next, and everything that happened in it."""

from __future__ import annotations

from typing import Any, Mapping

from poundcake.config import Config
from poundcake.endpoint.board.alert_rows import approvals, safe_url
from poundcake.endpoint.board.board_service import BoardService
from poundcake.endpoint.board.episode_commands import list_commands
from poundcake.endpoint.board.execution_rows import execution_row
from poundcake.endpoint.board.silence_forms import silence_forms
from poundcake.endpoint.board.stackstorm_state import stackstorm_problem
from poundcake.endpoint.board.timeline_rows import build_timeline
from poundcake.stackstorm.web_ui import execution_url
from poundcake.timestamps import parse_timestamp
from poundcake.trail import queries, search
from poundcake.trail.clock import format_deadline
from poundcake.trail.queries.episode import FIRING
from poundcake.trail.silences import read_silence_target
from poundcake.trail.text.episodes import remarks

MAX_COMMANDS = 2
"""How many commands the page shows, the most useful ones. The others are folded."""


def read_episode(config: Config, service: BoardService, name: str) -> dict[str, Any] | None:
    """Return what the page shows, or None if there is no such episode.

    Args:
        config: The configuration.
        service: The endpoint.
        name: The name of the episode, or the beginning of it.

    Raises:
        FilterError: Episodes of several alerts begin with `name`.
        DatabaseError: The tracking database cannot be read.
    """
    view = _read_view(config, service, name)
    if not view["episodes"]:
        return None
    (episode,) = view["episodes"]
    target = None
    if config.alertmanagers and episode["state"] == FIRING:
        target = service.read_recorded(
            read_silence_target,
            episode=episode["episode"],
            ignored_labels=config.ignored_labels,
        )
    commands = list_commands(episode, bool(config.alertmanagers))
    return {
        "episode": {**episode, "runbook_url": safe_url(episode["runbook_url"])},
        "runbook_text": episode["runbook_url"],
        "approvals": approvals(episode, config),
        "timeline": build_timeline(episode),
        "executions": [
            execution_row(execution, config) for execution in episode["stackstorm_executions"]
        ],
        "changes": [_change_row(change, config) for change in episode.get("changes", ())],
        "remarks": remarks(episode),
        "commands": commands[:MAX_COMMANDS],
        "more_commands": commands[MAX_COMMANDS:],
        "silence_forms": silence_forms(config, target) if target else [],
        "stackstorm": view.get("stackstorm", ""),
    }


def _read_view(config: Config, service: BoardService, name: str) -> dict[str, Any]:
    """Return the view why of an episode, with its open executions as they are now.

    While StackStorm is down, they are as of the last sync, because others wait for their pages.
    """
    query = {
        "filters": search.parse(None, episode=name),
        "limit": 1,
        "web_url": config.st2_web_url,
        "config": config,
    }
    problem = stackstorm_problem(service)
    if not problem:
        return service.read(queries.read_episodes, **query)
    view = service.read_recorded(queries.read_episodes, **query).as_json()
    return {**view, "stackstorm": problem}


def _change_row(change: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Return a change that was made or refused, with its link, and when it is tried again."""
    retry_at = parse_timestamp(change.get("retry_at"))
    action_id = change.get("action_execution_id", "")
    return {
        **change,
        "reason": change.get("reason") or change.get("error", ""),
        "retry": f"it is tried again after {format_deadline(retry_at)}" if retry_at else "",
        "action_url": execution_url(config.st2_web_url, action_id),
    }
