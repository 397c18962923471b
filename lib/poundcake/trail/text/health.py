"""Format the health of the endpoint and its components."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from typing import Any, Mapping, NamedTuple

from poundcake.timestamps import parse_timestamp
from poundcake.trail import commands
from poundcake.trail.text.layout import (
    DEFAULT_WIDTH,
    counted,
    format_age,
    format_elapsed,
    format_sentence,
    format_time,
    join_lines,
    next_lines,
    sanitize,
    table,
    unbreakable,
)
from poundcake.trail.text.remarks import pause_lines

_VERDICTS = {
    "ok": "webhooks are accepted, and everything works",
    "unavailable": "webhooks are answered with 503; Alertmanager sends them again",
    "unknown": "the endpoint does not answer; Alertmanager sends its webhooks again",
}
# What a person does about a component that does not work. The details of the journal, the database
# and StackStorm contain the remedy if the cause is another one, such as a disabled rule.
REMEDIES = {
    "journal": "free some space, or make state_dir writable for the sensor, or do what its detail"
    " says",
    "broker": "start RabbitMQ; the waiting requests are announced without a restart",
    "database": "start the database server, or do what its detail says; the waiting requests are"
    " recorded without a restart",
    "stackstorm": "do what its detail says, or start what `st2ctl status` shows as stopped; the"
    " waiting requests are recorded without a restart",
    "monitoring": "start Alertmanager, or correct `alertmanagers` in the configuration",
}
REFUSAL_REMEDY = "correct the sender (docs/runbooks/PoundCakeRefusesWebhooks.md)"
"""What a person does about a webhook that was refused."""
_RECENT = timedelta(hours=1)
_CURRENT = timedelta(minutes=5)
# The cure that sync names if notifications contain another URL than the configuration.
_WRONG_URL = re.compile(r"set external_url to \S+(?<![,;])")
_ENDPOINT_REMEDY = "see why it does not run, then restart the sensor:"
# How the address begins if nothing answered at the endpoint's URL: see endpoint_client.Unreachable.
_NO_ANSWER = "no answer from "
_RESTART = "st2ctl restart-component st2sensorcontainer"
_LOG = "grep poundcake /var/log/st2/st2sensorcontainer.log"


def health(view: dict[str, Any], now: datetime | None = None, width: int = DEFAULT_WIDTH) -> str:
    """Format the health of the endpoint and its components.

    Args:
        view: The view, as JSON.
        now: The time to which ages are relative. The default is the current time.
        width: The number of columns of the terminal.
    """
    view, now = sanitize(view), now or datetime.now(timezone.utc)
    lines = [
        f"{view['status'].upper()}: {describe_status(view, now)}",
        *[f"  {line}" for line in _problem_lines(view, now)],
        "",
        *pause_lines(view, now),
        *_setup_lines(view, now),
        "",
        *_component_lines(view["components"], now, width),
    ]
    lines += _remark_lines(view, now)
    return join_lines([*lines, "", *_next_lines(view, now)], width)


def describe_status(view: Mapping[str, Any], now: datetime | None = None) -> str:
    """Return the state of the endpoint, in one sentence.

    Args:
        view: The view, as JSON.
        now: The time to which ages are relative. The default is the current time.
    """
    now = now or datetime.now(timezone.utc)
    refusal = _find_recent_refusal(view, now)
    if view["status"] == "ok" and refusal and is_refusing(view, now):
        return (
            f"the endpoint works, but it refuses webhooks from {refusal['sender']} with"
            f" {refusal['status']}, the last one {format_age(refusal['refused_at'], now)}"
        )
    if view["status"] == "ok" and refusal:
        return (
            f"webhooks are accepted, but one from {refusal['sender']} was refused with"
            f" {refusal['status']}, {format_age(refusal['refused_at'], now)}"
        )
    if view["status"] == "degraded":
        return f"webhooks are accepted, but {_first_problem(view)}"
    if _hides_its_health(view):
        return "the endpoint answers, but does not show its health to this action"
    return _VERDICTS.get(view["status"], "the endpoint reports an unknown status")


def _hides_its_health(view: Mapping[str, Any]) -> bool:
    """Return True if the endpoint, or another server, answered with something else."""
    return view["status"] == "unknown" and not str(view["address"]).startswith(_NO_ANSWER)


def is_refusing(view: Mapping[str, Any], now: datetime) -> bool:
    """Return True if webhooks of a sender are being refused now.

    That is the case if the last refused webhook is a few minutes old, or newer than the newest
    recorded one. Once a webhook from the same sender has been accepted, its refusal is history.
    """
    refusal = _find_open_refusal(view)
    if refusal is None:
        return False
    if now - refusal.at < _CURRENT:
        return True
    if "newest_webhook_at" not in view:  # the database cannot be read, or this is the board
        return False
    newest_at = parse_timestamp(view["newest_webhook_at"])
    return newest_at is None or refusal.at > newest_at


def _find_last_refusal(view: Mapping[str, Any]) -> Mapping[str, Any] | None:
    last: Mapping[str, Any] | None = (view.get("refused") or {}).get("last")
    return last


class _Refusal(NamedTuple):
    webhook: Mapping[str, Any]
    at: datetime


def _find_open_refusal(view: Mapping[str, Any]) -> _Refusal | None:
    """Return the last refused webhook, unless one from the same sender was accepted after it."""
    last = _find_last_refusal(view)
    if last is None or last.get("accepted_at"):
        return None
    refused_at = parse_timestamp(last["refused_at"])
    return _Refusal(last, refused_at) if refused_at else None


def _find_recent_refusal(view: Mapping[str, Any], now: datetime) -> Mapping[str, Any] | None:
    """Return the last refused webhook if the headline names it, or None.

    The headline names a webhook that was refused within an hour, and one whose sender is being
    refused now, unless a webhook from the same sender has been accepted since.
    """
    refusal = _find_open_refusal(view)
    is_recent = refusal and (now - refusal.at < _RECENT or is_refusing(view, now))
    return refusal.webhook if refusal and is_recent else None


def _first_problem(view: Mapping[str, Any]) -> str:
    """Return why the health is degraded, in a few words."""
    components = view["components"]
    down = [name for name, part in components.items() if part["state"] == "down"]
    wrong_url = _WRONG_URL.search(str(components.get("monitoring", {}).get("detail") or ""))
    if down == ["monitoring"] and wrong_url:
        return f"the URL of an Alertmanager is wrong: {wrong_url.group()}"
    if down:
        return f"{' and '.join(down)} {'is' if len(down) == 1 else 'are'} down"
    journal = components.get("journal", {})
    stuck = journal.get("stuck_requests") or []
    if stuck:
        return f"{counted(len(stuck), 'request')} cannot be recorded"
    configuration = view.get("configuration") or {}
    if configuration.get("problem") or configuration.get("remediation_errors"):
        return "the configuration has a problem, which is named below"
    if components.get("database", {}).get("pending"):
        return "the tracking database needs a migration or a copy"
    return journal.get("detail") or "something does not work, which is named below"


def _problem_lines(view: Mapping[str, Any], now: datetime) -> list[str]:
    """Return what does not work, and what a person does about it."""
    lines = []
    if _hides_its_health(view):
        remedy = "correct the credentials or endpoint_url in the configuration of the pack"
        lines.append(f"{view['address']}; {remedy}")
    elif view["status"] == "unknown":
        lines.append(f"{view['address']}; {_ENDPOINT_REMEDY} {unbreakable(_RESTART)}")
    return lines + [format_sentence(problem, now) for problem in find_problems(view, now)]


def find_problems(view: Mapping[str, Any], now: datetime) -> list[str]:
    """Return what does not work and what a person does about it, one sentence for each problem."""
    problems = []
    for name, part in view["components"].items():
        if part["state"] in ("down", "full"):
            age = f" for {format_elapsed(part['since'], now)}" if part["since"] else ""
            remedy = find_remedy(name, part) or "see its detail below"
            if part["state"] == "full":
                remedy = "repair what blocks its requests"
            problems.append(f"{name} has been {part['state']}{age}: {remedy}")
    refusal = _find_last_refusal(view)
    if refusal and is_refusing(view, now):
        problems.append(
            f"webhooks from {refusal['sender']} are refused with {refusal['status']}, so their"
            f" alerts are in no view: {REFUSAL_REMEDY}"
        )
    journal = view["components"].get("journal", {})
    is_in_verdict = _first_problem(view) == journal.get("detail")
    if journal.get("state") == "ok" and journal.get("detail") and not is_in_verdict:
        problems.append(journal["detail"])
    return problems


def find_remedy(name: str, part: Mapping[str, Any]) -> str:
    """Return what a person does about a component that does not work, or ''."""
    wrong_url = _WRONG_URL.search(str(part.get("detail") or "")) if name == "monitoring" else None
    return wrong_url.group() if wrong_url else REMEDIES.get(name, "")


def describe_mode(view: Mapping[str, Any]) -> str:
    """Return whether changes are made."""
    if view.get("paused"):
        return f"paused: no changes until `{commands.RESUME}`"
    if view["dry_run"]:
        return "dry run: nothing is changed until dry_run is false"
    return "live: remediations change hosts"


def _setup_lines(view: Mapping[str, Any], now: datetime) -> list[str]:
    """Return whether changes are made, where webhooks arrive, and when the newest one arrived."""
    lines = [f"mode      {describe_mode(view)}"]
    if view["status"] != "unknown":
        lines.append(f"endpoint  {view['address'] or 'not listening'}")
    lines += [
        f"access    authentication {view['authentication']}",
        f"version   {view['version']}, tracking database {view['database']}",
    ]
    if "newest_webhook_at" in view:
        newest = view["newest_webhook_at"]
        arrived = f"{format_time(newest, now)}, {format_age(newest, now)}" if newest else "none yet"
        lines.append(f"webhooks  newest recorded one: {arrived}")
    return lines


def _component_lines(components: Mapping[str, Any], now: datetime, width: int) -> list[str]:
    rows = [
        (
            name,
            part["state"],
            format_time(part["since"], now),
            part.get("waiting", ""),
            format_sentence(part["detail"], now),
        )
        for name, part in components.items()
    ]
    headings = ("part", "state", "since", "waiting", "detail")
    return table(headings, rows, width, fixed=headings[:-1])


def _remark_lines(view: Mapping[str, Any], now: datetime) -> list[str]:
    """Return what else a person should know."""
    journal = view["components"].get("journal", {})
    lines = [
        f"stuck: request {request_id} cannot be recorded; poundcake.status shows why"
        for request_id in journal.get("stuck_requests") or []
    ]
    lines += find_remarks(view, now)
    return ["", *[format_sentence(line, now) for line in lines]] if lines else []


def find_remarks(view: Mapping[str, Any], now: datetime) -> list[str]:
    """Return what else a person should know, besides the requests that cannot be recorded.

    Each remark is a sentence that begins with its subject and a colon.
    """
    lines = []
    pending = view["components"].get("database", {}).get("pending")
    if pending:
        lines.append(f"database: {pending}")
    last = _find_last_refusal(view)
    if last:
        lines.append(
            f"refused since the endpoint started: {counted(view['refused']['count'], 'webhook')}"
            " (Alertmanager sends what still fires again at the next group_interval; the resolve of"
            " an alert that ends before may be lost); the last at"
            f" {format_time(last['refused_at'], now)} from {last['sender']}:"
            f" {last['status']}, {last['detail']}{_describe_recovery(last, now)}"
        )
    lines += _configuration(view.get("configuration") or {})
    for key in view.get("literal_secrets", []):
        lines.append(
            f"{key} is in plain text in the configuration: use file:/path or env:NAME instead"
        )
    return lines


def _describe_recovery(refusal: Mapping[str, Any], now: datetime) -> str:
    """Return when a webhook from the sender of a refused one was accepted after it, or ''."""
    accepted_at = refusal.get("accepted_at")
    if not accepted_at:
        return ""
    return f"; one from the same address was accepted at {format_time(accepted_at, now)}"


def _configuration(configuration: Mapping[str, Any]) -> list[str]:
    """Return a line for each problem of the endpoint's configuration."""
    problems = [configuration.get("problem"), *configuration.get("warnings", [])]
    problems += configuration.get("remediation_errors", [])
    lines = [f"configuration: {problem}" for problem in problems if problem]
    for key, values in configuration.get("differences", {}).items():
        lines.append(
            f"configuration: {key} is {json.dumps(values['actions'])} for actions and"
            f" {json.dumps(values['endpoint'])} for the endpoint, which applies a change within"
            " 30 seconds"
        )
    return lines


def _next_lines(view: Mapping[str, Any], now: datetime) -> list[str]:
    """Return the command that is useful next."""
    stuck = view["components"].get("journal", {}).get("stuck_requests") or []
    if stuck:
        return next_lines(commands.show_request(stuck[0]))
    if _hides_its_health(view):
        return next_lines(commands.DOCTOR)
    if view["status"] in ("unknown", "unavailable"):
        return next_lines(_LOG)
    # If doctor finds no problem, it names this view as the next one.
    if view["status"] == "degraded" or is_refusing(view, now):
        return next_lines(commands.DOCTOR)
    return next_lines(commands.ACTIVE)
