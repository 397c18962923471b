"""Check StackStorm's own settings, the work that waits in it, and its open inquiries.

StackStorm's API does not show st2.conf. If the file is readable on this host, its settings are
checked. Otherwise they are unknown, and only their effects are checked.
"""

from __future__ import annotations

import configparser
import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Mapping, Protocol, Sequence

from poundcake.doctor.finding import Finding, ok, problem, unknown, warning
from poundcake.stackstorm import Execution, StackStormError
from poundcake.trail.approvals import is_approval

_SETTINGS = "docs/OPERATIONS.md, settings of StackStorm"
_DEFAULT_SLEEP = 0.1  # seconds
# PoundCake reads trigger instances to find out what became of an alert, for this many days.
_MIN_TRIGGER_DAYS = 2
_TTLS = ("action_executions_ttl", "trigger_instances_ttl", "rule_enforcements_ttl", "traces_ttl")
_OLD = timedelta(days=90)
_LATE = timedelta(minutes=5)
_WAITING = ("requested", "scheduled")


class Api(Protocol):
    """The part of StackStorm's API that this module uses. It raises StackStormError."""

    def now(self) -> datetime:
        """Return the current time by the API's clock."""

    def get(self, path: str, **params: Any) -> Any:
        """Return the JSON response for a path below /v1, or None for 404."""

    def list_pending_inquiries(self) -> list[Execution]:
        """Return the newest inquiries of core.ask that are waiting for an answer."""


@dataclass(frozen=True)
class WorkFacts:
    """The executions in StackStorm that say something about its settings.

    Attributes:
        error: Why they cannot be read, or ''.
        now: The time by StackStorm's clock.
        oldest: When the oldest execution that StackStorm still has was started.
        waiting_since: When the oldest execution that waits for a process was started.
        approvals: The requests for approval that wait for an answer.
    """

    error: str = ""
    now: datetime | None = None
    oldest: datetime | None = None
    waiting_since: datetime | None = None
    approvals: Sequence[Execution] = ()


def read_st2_conf(path: str = "") -> Mapping[str, Mapping[str, str]] | None:
    """Return the sections of st2.conf, or None if this host does not have it.

    Args:
        path: The path of the file. The default is where StackStorm's processes read it.
    """
    path = path or os.environ.get("ST2_CONFIG_PATH") or "/etc/st2/st2.conf"
    parser = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_file(file)
    except (OSError, configparser.Error, UnicodeDecodeError):
        return None
    return {name: dict(parser[name]) for name in parser.sections()}


def read_work(api: Api) -> WorkFacts:
    """Read the facts. An API that cannot be used is part of the facts."""
    try:
        oldest = _read_start(api, sort_asc="timestamp")
        starts = [_read_start(api, status=status, sort_asc="timestamp") for status in _WAITING]
        return WorkFacts(
            now=api.now(),
            oldest=oldest,
            waiting_since=min((start for start in starts if start), default=None),
            approvals=[i for i in api.list_pending_inquiries() if is_approval(i)],
        )
    except StackStormError as error:
        return WorkFacts(str(error))


def check_settings(sections: Mapping[str, Mapping[str, str]] | None) -> list[Finding]:
    """Check the sections of st2.conf, or report that they are unknown."""
    if sections is None:
        what = (
            "the API of StackStorm does not show its settings of authentication, scheduler, "
            "garbage collector and coordination, and this host has no st2.conf"
        )
        remedy = f"compare /etc/st2/st2.conf on the host of StackStorm with {_SETTINGS}"
        return [unknown("stackstorm.settings", what, remedy)]
    return [
        _check_authentication(sections.get("auth", {})),
        _check_scheduler(sections.get("scheduler", {})),
        *_check_garbage_collector(sections.get("garbagecollector", {})),
        _check_coordination(sections.get("coordination", {})),
    ]


def check_work(facts: WorkFacts, approval_minutes: int) -> list[Finding]:
    """Check the executions in StackStorm.

    Args:
        facts: The executions.
        approval_minutes: How long a request for approval waits for an answer.
    """
    if facts.error or facts.now is None:
        what = f"the executions in StackStorm could not be read: {facts.error}"
        return [unknown("stackstorm.work", what, "start st2api, then run doctor again")]
    findings = [_check_waiting(facts.now, facts.waiting_since)]
    if facts.oldest and facts.now - facts.oldest > _OLD:
        days = (facts.now - facts.oldest).days
        what = f"StackStorm still has executions of {days} days ago, and its lists become slow"
        remedy = f"set action_executions_ttl under [garbagecollector] ({_SETTINGS})"
        findings.append(warning("stackstorm.history", what, remedy))
    return [*findings, *_check_approvals(facts.now, facts.approvals, approval_minutes)]


def _check_authentication(section: Mapping[str, str]) -> Finding:
    check = "stackstorm.authentication"
    if section.get("enable", "True").strip().lower() in ("true", "1", "yes"):
        return ok(check, "StackStorm authenticates its users")
    what = "StackStorm does not authenticate its users, so that everybody can approve a change"
    return warning(check, what, "set enable = True under [auth] in st2.conf, then st2ctl restart")


def _check_scheduler(section: Mapping[str, str]) -> Finding:
    check = "stackstorm.scheduler"
    seconds = _read_number(section.get("sleep_interval"), _DEFAULT_SLEEP)
    if seconds <= 0:
        return warning(
            check, "[scheduler] sleep_interval is not a number of seconds above 0", _SETTINGS
        )
    rate = 1 / seconds
    return ok(check, f"each st2scheduler starts fewer than {rate:.0f} executions in a second")


def _check_garbage_collector(section: Mapping[str, str]) -> list[Finding]:
    check = "stackstorm.garbage_collector"
    days = _read_number(section.get("trigger_instances_ttl"), 0)
    if 0 < days < _MIN_TRIGGER_DAYS:
        what = f"[garbagecollector] trigger_instances_ttl is {days:g}, so results are lost"
        return [problem(check, what, f"set it to {_MIN_TRIGGER_DAYS} days or more")]
    unset = [name for name in _TTLS if _read_number(section.get(name), 0) <= 0]
    if unset:
        what = f"StackStorm never deletes its records: {', '.join(unset)} not set"
        remedy = f"set them under [garbagecollector] ({_SETTINGS})"
        return [warning(check, what, remedy)]
    return [ok(check, "the garbage collector deletes old records")]


def _check_coordination(section: Mapping[str, str]) -> Finding:
    check = "stackstorm.coordination"
    if section.get("url"):
        return ok(check, "StackStorm has a coordination server")
    what = "StackStorm has no coordination server, so its policies do not lock"
    return warning(
        check, what, "set url under [coordination] to a Redis server, then st2ctl restart"
    )


def _check_waiting(now: datetime, since: datetime | None) -> Finding:
    check = "stackstorm.work"
    if since is None or now - since < _LATE:
        return ok(check, "no execution waits for st2scheduler or st2actionrunner")
    minutes = (now - since).total_seconds() / 60
    what = f"an execution has waited for {minutes:.0f} min for st2scheduler or st2actionrunner"
    remedy = "run: st2ctl status, and start more of them if all are running"
    return warning(check, what, remedy)


def _check_approvals(
    now: datetime, approvals: Sequence[Execution], approval_minutes: int
) -> list[Finding]:
    check = "stackstorm.approvals"
    limit = timedelta(minutes=approval_minutes) + _LATE
    late = [i for i in approvals if i.started_at and now - i.started_at > limit]
    if late:
        what = f"poundcake.sync did not end {len(late)} expired requests for approval"
        remedy = f"run: st2 execution list --action=poundcake.sync; the oldest is {late[-1].id}"
        return [warning(check, what, remedy)]
    if approvals:
        verb = "request waits" if len(approvals) == 1 else "requests wait"
        return [ok(check, f"{len(approvals)} {verb} for an approval (st2 inquiry list)")]
    return [ok(check, "no request waits for an approval")]


def _read_start(api: Api, **query: str) -> datetime | None:
    items = api.get("/executions", limit=1, **query)
    first = Execution.parse(items[0]) if isinstance(items, list) and items else None
    return first.started_at if first else None


def _read_number(text: str | None, default: float) -> float:
    try:
        return float(text) if text else default
    except ValueError:
        return -1
