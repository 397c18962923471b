"""The page of an episode: its verdict, what to do next, and everything that happened in it."""

from __future__ import annotations

import json
import re
from typing import Any, Mapping, Sequence
from urllib.parse import quote

from poundcake.config import Config
from poundcake.endpoint.app_service import Service
from poundcake.endpoint.board.alert_rows import approvals, safe_url
from poundcake.endpoint.board.execution_rows import execution_row
from poundcake.stackstorm.web_ui import execution_url
from poundcake.timestamps import parse_timestamp
from poundcake.trail import commands, queries, search
from poundcake.trail.execution_results import ExecutionResult
from poundcake.trail.outcomes import EMITTED
from poundcake.trail.queries.episode import FIRING
from poundcake.trail.silences import SilenceTarget, read_silence_target
from poundcake.trail.text.episodes import remarks
from poundcake.trail.text.layout import format_elapsed

# Alertmanager's form reads no label whose name contains one of these (ui/app/src/Utils/Filter.elm).
_NOT_IN_FORM = re.compile(r"[\s{}!=~,\\\"'`]")
_MAX_FORM_URL = 8000  # characters
_AT_WORK = (ExecutionResult.RUNNING, ExecutionResult.WAITING)


def read_episode(config: Config, service: Service, name: str) -> dict[str, Any] | None:
    """Return what the page shows, or None if there is no such episode.

    Args:
        config: The configuration.
        service: The endpoint.
        name: The name of the episode, or the beginning of it.

    Raises:
        FilterError: Episodes of several alerts begin with `name`.
        DatabaseError: The tracking database cannot be read.
    """
    view = service.read(
        queries.read_episodes,
        filters=search.parse(None, episode=name),
        limit=1,
        web_url=config.st2_web_url,
        config=config,
    )
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
    return {
        "episode": {**episode, "runbook_url": safe_url(episode["runbook_url"])},
        "runbook_text": episode["runbook_url"],
        "approvals": approvals(episode, config),
        "timeline": list_events(episode),
        "executions": [
            execution_row(execution, config) for execution in episode["stackstorm_executions"]
        ],
        "changes": [
            {
                **change,
                "action_url": execution_url(
                    config.st2_web_url, change.get("action_execution_id", "")
                ),
            }
            for change in episode.get("changes", ())
        ],
        "remarks": remarks(episode),
        "commands": list_commands(episode, bool(config.alertmanagers)),
        "silence_forms": silence_forms(config, target) if target else [],
        "stackstorm": view.get("stackstorm", ""),
    }


def list_events(episode: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what happened, oldest first, each with the time since the previous event."""
    urls = {row["st2_execution_id"]: row["url"] for row in episode["stackstorm_executions"]}
    events = []
    previous = ""
    for event in episode["timeline"]:
        moment = parse_timestamp(event["at"])
        elapsed = format_elapsed(previous, moment) if previous and moment else "0 s"
        execution_id = event.get("st2_execution_id", "")
        events.append(
            {
                **event,
                "elapsed": "" if elapsed == "0 s" else elapsed,
                "request_id": event.get("request_id", ""),
                "execution_url": urls.get(execution_id, ""),
            }
        )
        previous = event["at"]
    return events


def list_commands(episode: Mapping[str, Any], has_alertmanagers: bool) -> list[dict[str, str]]:
    """Return the commands that make sense for an episode in its state, each with its effect.

    Args:
        episode: The episode, as the view why shows it.
        has_alertmanagers: Whether alerts can be silenced.
    """
    name = episode["episode"]
    found: list[tuple[str, str]] = []
    if episode["state"] == FIRING:
        found += _commands_for_incident(episode, has_alertmanagers)
    found.append(("Show this page in a terminal", commands.show_episode(name)))
    return [{"effect": effect, "text": text} for effect, text in found]


def _commands_for_incident(
    episode: Mapping[str, Any], has_alertmanagers: bool
) -> list[tuple[str, str]]:
    """Return the commands for an episode whose incident is open."""
    name = episode["episode"]
    at_work = any(row["result"] in _AT_WORK for row in episode["stackstorm_executions"])
    is_acknowledged = bool(episode.get("acknowledged_by") or episode.get("acknowledged_at"))
    is_silenced = bool(episode.get("silence_id"))
    found = [
        (
            f"Approve or reject {approval['change'] or 'the change'}",
            commands.answer_inquiry(approval["st2_inquiry_id"]),
        )
        for approval in episode.get("approvals", ())
    ]
    found.append(("Show what would be done now", commands.plan(name)))
    if is_acknowledged:
        undo = commands.for_episode("acknowledge", name, "undo=true")
        found.append(("Withdraw the acknowledgement", undo))
    else:
        acknowledge = commands.for_episode("acknowledge", name)
        found.append(("Acknowledge it, so that nothing new is started for it", acknowledge))
    if is_silenced:
        found.append(("End the silence", commands.for_episode("unsilence", name)))
    elif has_alertmanagers:
        silence = commands.for_episode("silence", name, "minutes=60", "comment=by-hand")
        found.append(("Silence it in Alertmanager for an hour", silence))
    if not at_work:
        if any(claim["result"] == "claimed" for claim in episode.get("claims", ())):
            release = commands.for_episode("release", name)
            found.append(("Release it, so that another workflow may work on it", release))
        if not (is_acknowledged or is_silenced):
            replay = commands.replay(_deciding_request(episode["alerts"]))
            found.append(("Replay it: rules and remediations get the alert again", replay))
    close = commands.for_episode("close", name, "comment=ended")
    found.append(("Close it, if the alert has ended unnoticed", close))
    return found


def _deciding_request(notifications: Sequence[Mapping[str, Any]]) -> str:
    """Return the request of the newest firing notification, preferably one that was emitted."""
    firing = [row for row in notifications if row["status"] == FIRING] or notifications
    emitted = [row for row in firing if row["outcome"] in EMITTED]
    return str((emitted or firing)[-1]["request_id"])


def silence_forms(config: Config, target: SilenceTarget) -> list[dict[str, str]]:
    """Return Alertmanager's forms for a new silence, with a matcher for each label.

    The form is that of the Alertmanager that sent the alert or, if that one is not configured, of
    each configured one. The list is empty if the form cannot read the labels.
    """
    if any(_NOT_IN_FORM.search(name) for name in target.labels):
        return []
    matchers = ", ".join(
        f"{name}={json.dumps(value, ensure_ascii=False)}"
        for name, value in sorted(target.labels.items())
    )
    urls = [server.external_url for server in config.alertmanagers]
    if target.external_url in urls:
        urls = [target.external_url]
    form = f"/#/silences/new?filter={quote(f'{{{matchers}}}', safe='')}"
    if len(form) > _MAX_FORM_URL:
        return []
    return [{"server": url, "url": url + form} for url in dict.fromkeys(urls)]
