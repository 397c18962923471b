"""Decide whether a remediation may change anything.

`decide` is the only function that makes this decision. It reads neither a database nor a clock: the
situation contains everything it needs. `reserve` calls `decide` in the transaction that counts the
change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Callable, Mapping, NamedTuple, Sequence

from sqlalchemy.engine import Engine

from poundcake.alertmanager import FIRING
from poundcake.config import ANY_HOST, Config
from poundcake.host_checks import ACTION
from poundcake.hosts import HostPort, host_and_port, is_host_in, target_refusal
from poundcake.remediation.checks import TcpResult, TcpState
from poundcake.remediation.stage import Stage
from poundcake.remediations import LabelError, Mode, Remediation
from poundcake.string_enum import StringEnum
from poundcake.timestamps import format_timestamp
from poundcake.trail import changes, commands, limits
from poundcake.trail.changes import Change, is_power_action, opens_breaker
from poundcake.trail.clock import format_deadline
from poundcake.trail.errors import DatabaseError
from poundcake.trail.limits import DAY, HOUR, ChangeRequest, Situation


class Refusal(StringEnum):
    """The control that refuses a change. docs/REMEDIATION.md explains how to lift each refusal."""

    NO_ACTION = "no_action"
    """The rule contains no action, so only evidence is collected."""
    ACTION_INVALID = "action_invalid"
    """The action is not a reference of the form pack.name."""
    ACTION_NOT_ALLOWED = "action_not_allowed"
    """`allowed_actions` does not contain the action."""
    INCIDENT_ENDED = "incident_ended"
    """The incident has ended."""
    RESOLVED = "resolved"
    """The alert is resolved."""
    ACKNOWLEDGED = "acknowledged"
    """A person has acknowledged the incident."""
    SILENCED = "silenced"
    """A person has silenced the alert in Alertmanager."""
    ALERTMANAGER_UNAVAILABLE = "alertmanager_unavailable"
    """No Alertmanager answered, so a person may have silenced the alert."""
    NO_HOST = "no_host"
    """The alert contains no usable host."""
    NO_TARGET = "no_target"
    """The alert lacks a label that identifies the target."""
    HOST_NOT_ALLOWED = "host_not_allowed"
    """`allowed_hosts` does not contain the host."""
    HOST_DENIED = "host_denied"
    """`denied_hosts` contains the host."""
    STACKSTORM_HOST = "stackstorm_host"
    """The host is StackStorm's own machine, or its address does not identify one host."""
    DRY_RUN = "dry_run"
    """`dry_run` is on."""
    PAUSED = "paused"
    """Somebody has paused all changes with poundcake.pause."""
    APPROVAL_MISSING = "approval_missing"
    """The mode is ask, and no approver has approved the change."""
    NOT_CLAIMED = changes.NOT_CLAIMED
    """The execution could not claim the episode (poundcake.link)."""
    EPISODE_TAKEN = "episode_taken"
    """Another execution has made a change for this attempt at the episode."""
    STORM = "storm"
    """More than `storm_limit` incidents with this alert name are open, or were until recently."""
    SETTLING = "settling"
    """The incident was opened less than `settle_seconds` ago."""
    NOT_CONFIRMED = "not_confirmed"
    """A condition of the remediation (`check`, `only_if`) is not met or cannot be checked."""
    STALE = "stale"
    """The last notification is older than `fresh_minutes`, and no check confirms the alert."""
    IN_FLIGHT = "in_flight"
    """Another change to the same target is in progress or being verified."""
    PER_LABEL_IN_FLIGHT = "per_label_in_flight"
    """`at_once` changes are in progress or being verified for the same value of a label."""
    SITE_IN_FLIGHT = "site_in_flight"
    """`max_in_flight` changes are in progress or being verified."""
    COOLDOWN = "cooldown"
    """The last change to the target ended less than `host_cooldown_seconds` ago, or
    `power_cooldown_seconds` if it was a power action."""
    DAILY_TARGET_LIMIT = "daily_target_limit"
    """The target was changed `max_changes_per_target_per_day` times in 24 hours."""
    HOURLY_LIMIT = "hourly_limit"
    """The remediation made `max_changes_per_remediation_per_hour` changes in an hour."""
    SITE_LIMIT = "site_limit"
    """All remediations together made `max_changes_per_hour` changes in an hour."""
    BREAKER = "breaker"
    """The last `breaker_failures` changes of the remediation failed or did not clear the alert."""
    DATABASE_UNAVAILABLE = "database_unavailable"
    """The tracking database cannot be read or written, so no limit can be checked."""


LASTING_REFUSALS = (
    Refusal.NO_ACTION,
    Refusal.ACTION_INVALID,
    Refusal.ACTION_NOT_ALLOWED,
    Refusal.INCIDENT_ENDED,
    Refusal.RESOLVED,
    Refusal.NO_HOST,
    Refusal.NO_TARGET,
    Refusal.HOST_NOT_ALLOWED,
    Refusal.HOST_DENIED,
    Refusal.STACKSTORM_HOST,
    Refusal.DRY_RUN,
)
"""The refusals that last until the configuration or the alert changes."""
PASSING_REFUSALS = (
    Refusal.ALERTMANAGER_UNAVAILABLE,
    Refusal.STORM,
    Refusal.SETTLING,
    Refusal.STALE,
    Refusal.IN_FLIGHT,
    Refusal.PER_LABEL_IN_FLIGHT,
    Refusal.SITE_IN_FLIGHT,
    Refusal.COOLDOWN,
    Refusal.DAILY_TARGET_LIMIT,
    Refusal.HOURLY_LIMIT,
    Refusal.SITE_LIMIT,
)
"""The refusals that end by themselves, so that sync tries their changes again.

The others need a person (an approval, the breaker, a pause, an acknowledgement, a silence), say
that the change is not needed or already made (a condition, the claims), or were not recorded (the
database).
"""


@dataclass(frozen=True)
class _Reason:
    """Why a change is refused: the control, its current value, and how to lift the refusal."""

    refusal: Refusal
    text: str
    how_to_lift: str = ""


@dataclass(frozen=True)
class SafetyDecision:
    """Whether a remediation may change anything, and if not, why not.

    Attributes:
        target: The alert's host, or None.
        may_check: Whether the host may be checked: it is allowed and is not StackStorm's machine.
        action: The action that would make the change; empty if only evidence is collected.
        dry_run: Whether `dry_run` is on.
        refusal: The control that refuses the change, or None if it is allowed.
        reason: Why the change is refused, with the value that causes it; empty if it is allowed.
        how_to_lift: How to lift the refusal; empty if the change is allowed.
        settle_seconds: Seconds to wait until `settle_seconds` have passed since the incident was
            opened; 0 if they have, or if waiting would not help.
    """

    target: HostPort | None
    may_check: bool
    action: str
    dry_run: bool
    refusal: Refusal | None = None
    reason: str = ""
    how_to_lift: str = ""
    settle_seconds: int = 0

    @property
    def may_change(self) -> bool:
        """Whether the action may be run."""
        return self.refusal is None

    @property
    def may_reserve(self) -> bool:
        """Whether the change may be allowed now or later."""
        return self.refusal not in LASTING_REFUSALS

    @property
    def ends_by_itself(self) -> bool:
        """Whether the refusal ends without a person."""
        return self.refusal in PASSING_REFUSALS

    @property
    def refusal_name(self) -> str:
        """The name of the control that refuses the change; empty if it is allowed."""
        return str(self.refusal) if self.refusal else ""

    @property
    def stage(self) -> Stage:
        """REMEDIATE if the change is allowed, otherwise where the remediation ends."""
        if self.refusal is None:
            return Stage.REMEDIATE
        if self.refusal is Refusal.NO_ACTION:
            return Stage.DRY_RUN if self.dry_run else Stage.EVIDENCE
        stages = {Refusal.DRY_RUN: Stage.DRY_RUN, Refusal.INCIDENT_ENDED: Stage.ENDED}
        return stages.get(self.refusal, Stage.REFUSED)

    @property
    def message(self) -> str:
        """The reason and how to lift the refusal, in one line; empty if the change is allowed."""
        if self.stage is Stage.REFUSED and self.how_to_lift:
            return f"{self.reason}: {self.how_to_lift}"
        return self.reason

    def as_dict(self) -> dict[str, Any]:
        """Return the decision as JSON. A missing host is '', a missing port 0."""
        return {
            "host": self.target.host if self.target else "",
            "port": self.target.port if self.target else 0,
            "may_check": self.may_check,
            "may_change": self.may_change,
            "may_reserve": self.may_reserve,
            "settle_seconds": self.settle_seconds,
            "action": self.action,
            "dry_run": self.dry_run,
            "stage": str(self.stage),
            "refusal": self.refusal_name,
            "reason": self.reason,
            "how_to_lift": self.how_to_lift,
            "message": self.message,
        }


def decide(config: Config, request: ChangeRequest, situation: Situation) -> SafetyDecision:
    """Decide whether a remediation may change anything for an alert.

    Args:
        config: The pack's configuration.
        request: The change that a workflow requests.
        situation: The alert, its incident, and the other changes.
    """
    host = host_and_port(situation.named_host)
    host_reason = _check_host_is_allowed(config, host)
    reason = _find_lasting_refusal(config, request, situation, host, host_reason)
    if reason is None:
        reason = _find_temporary_refusal(config, request, situation)
        if config.dry_run:
            reason = _describe_dry_run(config, request, situation, host, reason)
    decision = SafetyDecision(
        target=host,
        may_check=host is not None and host_reason is None,
        action=request.action,
        dry_run=config.dry_run,
    )
    if reason:
        decision = replace(
            decision,
            refusal=reason.refusal,
            reason=reason.text,
            how_to_lift=reason.how_to_lift,
        )
    wait = _remaining_settle_seconds(config, situation) if decision.may_reserve else 0
    return replace(decision, settle_seconds=wait)


def preview(config: Config, request: ChangeRequest, situation: Situation) -> SafetyDecision:
    """Decide as if `settle_seconds` had passed, and return how many seconds actually remain."""
    decision = decide(replace(config, settle_seconds=0), request, situation)
    wait = _remaining_settle_seconds(config, situation) if decision.may_reserve else 0
    return replace(decision, settle_seconds=wait)


def may_check_conditions(decision: SafetyDecision) -> bool:
    """Return True if no other control refuses the change, so that the conditions decide."""
    # A check can lift STALE. A dry run also reports what the conditions would permit.
    return decision.refusal in (None, Refusal.STALE, Refusal.DRY_RUN)


def find_entry_objection(
    entry: Remediation, labels: Mapping[str, str], action: str, host_checks: Sequence[str] = ()
) -> str:
    """Return why an entry, in its current configuration, does not permit a change, or ''.

    Args:
        entry: The entry.
        labels: The alert's labels.
        action: The action that makes the change.
        host_checks: The checks that were run on the host.
    """
    if not entry.matches(labels):
        return f"the remediation {entry.name} no longer matches the alert"
    if entry.mode not in (Mode.ASK, Mode.LIVE):
        return f"the remediation {entry.name} is now in mode {entry.mode}"
    if entry.action != action:
        return f"the remediation {entry.name} now names the action {entry.action}"
    try:
        checks = entry.host_checks(labels)
    except LabelError as error:
        return str(error)
    if any(str(check) not in host_checks for check in checks):
        return f"the host was not checked as the remediation {entry.name} now requires"
    return ""


class ConditionsResult(NamedTuple):
    """The result of checking conditions.

    Attributes:
        objection: Why a condition does not permit the change, or '' if all of them do.
        evidence: What the checks saw, one line each.
    """

    objection: str = ""
    evidence: tuple[str, ...] = ()


def with_conditions(
    request: ChangeRequest, entry: Remediation, result: ConditionsResult
) -> ChangeRequest:
    """Return a request with the result of checking the conditions of its entry."""
    # The checks confirm the alert, and are more recent than its last notification.
    is_confirmed = bool(entry.check) and not result.objection
    return replace(
        request,
        objection=result.objection,
        evidence=(*result.evidence, *request.evidence),
        check_failed=is_confirmed or request.check_failed,
    )


def with_host_check(request: ChangeRequest, result: TcpResult | None) -> ChangeRequest:
    """Return a request with the result of a TCP check of the host: it must not answer.

    Args:
        request: The request.
        result: The result, or None if the host may not be checked.
    """
    if result is None:
        return replace(request, objection="the host was not checked")
    request = replace(request, evidence=(*request.evidence, result.detail))
    if result.state is TcpState.NO_ANSWER:
        return replace(request, check_failed=True)
    return replace(request, objection=result.detail)


def reserve(engine: Engine, config: Config, request: ChangeRequest) -> SafetyDecision:
    """Decide on a change, and count it if it is allowed, in one transaction.

    Raises:
        TrackingError: No such alert is recorded, or the request has no execution.
        DatabaseError: The database is unavailable, so nothing may be changed.
    """
    return limits.reserve(
        engine, config, request, lambda situation: decide(config, request, situation)
    )


def refuse_without_database(
    config: Config, request: ChangeRequest, error: DatabaseError
) -> SafetyDecision:
    """Return the decision that refuses a change because the tracking database is unavailable."""
    return SafetyDecision(
        target=None,
        may_check=False,
        action=request.action,
        dry_run=config.dry_run,
        refusal=Refusal.DATABASE_UNAVAILABLE,
        reason=f"the tracking database is unavailable, so no limit can be checked ({error})",
        how_to_lift="see `st2 run poundcake.health`",
    )


# -- refusals that last until the configuration or the alert changes


def _find_lasting_refusal(
    config: Config,
    request: ChangeRequest,
    situation: Situation,
    host: HostPort | None,
    host_reason: _Reason | None,
) -> _Reason | None:
    if request.action and situation.incident_ended_at:
        return _Reason(
            Refusal.INCIDENT_ENDED,
            f"the incident ended at {format_timestamp(situation.incident_ended_at)}",
            "nothing to do; to work on it anyway, replay its request with force=true",
        )
    reason: _Reason | None = None
    if request.action or request.needs_host:
        reason = _check_alert(config, request, situation, host) or host_reason
    if request.action:
        action_reason = _check_action(config, request.action)
        return reason or action_reason or _check_allowed_hosts(config)
    return reason or _Reason(
        Refusal.NO_ACTION,
        "the rule names no action, so nothing would be changed",
        "name an action in the rule",
    )


def _check_alert(
    config: Config, request: ChangeRequest, situation: Situation, host: HostPort | None
) -> _Reason | None:
    if situation.status != FIRING:
        return _Reason(Refusal.RESOLVED, "the alert is resolved", "nothing to do")
    if situation.missing_label:
        return _Reason(
            Refusal.NO_TARGET,
            f"the alert lacks the label {situation.missing_label}, which names the target",
            "add the label to the alert, or change `target`",
        )
    if host is None and (request.needs_host or _restricts_hosts(config)):
        return _Reason(
            Refusal.NO_HOST,
            f"the label {config.host_label} of the alert contains no host",
            "set host_label to the label that contains it",
        )
    return None


def _check_host_is_allowed(config: Config, host: HostPort | None) -> _Reason | None:
    """Return why the alert's host may be neither changed nor checked, or None."""
    if host is None:
        return None
    # First, because no configuration allows such a host: do not advise anybody to change the lists.
    problem = target_refusal(host.host)
    if problem:
        return _Reason(Refusal.STACKSTORM_HOST, problem, "handle it by hand")
    if is_host_in(host.host, config.denied_hosts):
        return _Reason(
            Refusal.HOST_DENIED,
            f"denied_hosts contains {host.host}",
            "handle it by hand, or remove it from denied_hosts",
        )
    if config.allowed_hosts and not is_host_in(host.host, config.allowed_hosts):
        return _Reason(
            Refusal.HOST_NOT_ALLOWED,
            f"allowed_hosts does not contain {host.host}",
            "add it to allowed_hosts",
        )
    return None


def _restricts_hosts(config: Config) -> bool:
    """Return True if only some hosts are allowed, so that an alert without a host is refused."""
    return bool(config.allowed_hosts) and ANY_HOST not in config.allowed_hosts


def _check_allowed_hosts(config: Config) -> _Reason | None:
    """Return why no host may be changed, or None."""
    if config.allowed_hosts or config.dry_run:
        return None
    return _Reason(
        Refusal.HOST_NOT_ALLOWED,
        "allowed_hosts is empty, so no host is allowed",
        'list the hosts in it, or "*" for any',
    )


def _check_action(config: Config, action: str) -> _Reason | None:
    if not ACTION.match(action):
        return _Reason(
            Refusal.ACTION_INVALID,
            "action must be a reference of the form pack.name",
            "correct it in the rule",
        )
    if action not in config.allowed_actions:
        return _Reason(
            Refusal.ACTION_NOT_ALLOWED,
            f"allowed_actions does not contain {action}",
            "add it to allowed_actions",
        )
    return None


def _describe_dry_run(
    config: Config,
    request: ChangeRequest,
    situation: Situation,
    host: HostPort | None,
    temporary_reason: _Reason | None,
) -> _Reason:
    """Return the refusal in a dry run: what would run, and what would refuse it now."""
    target = host.host if host else "the alert"
    if request.target_labels:
        target = situation.target
    description = "would run " + (request.change or f"{request.action} for {target}")
    if not config.allowed_hosts:
        description += ", but allowed_hosts is empty: with dry_run: false it allows no host"
    elif temporary_reason:
        description += f", but not now: {temporary_reason.text}"
    return _Reason(Refusal.DRY_RUN, description, "set dry_run to false")


# -- refusals that end with time, or when a person lifts them

_Control = Callable[[Config, ChangeRequest, Situation], "_Reason | None"]


def _find_temporary_refusal(
    config: Config, request: ChangeRequest, situation: Situation
) -> _Reason | None:
    if situation.own_change and not situation.own_change.ended_at and not situation.pause:
        return None  # the execution repeats its request for a change that was granted
    for control in _CONTROLS:
        reason = control(config, request, situation)
        if reason:
            return reason
    return None


def _check_pause(config: Config, request: ChangeRequest, situation: Situation) -> _Reason | None:
    pause = situation.pause
    if pause is None:
        return None
    until = f" until {format_deadline(pause.until)}" if pause.until else ""
    return _Reason(
        Refusal.PAUSED,
        f"all changes are paused{until} by {pause.by} ({pause.reason})",
        f"`{commands.RESUME}`",
    )


def _check_approval(config: Config, request: ChangeRequest, situation: Situation) -> _Reason | None:
    if not request.approval_problem:
        return None
    return _Reason(
        Refusal.APPROVAL_MISSING,
        request.approval_problem,
        "replay its request with force=true, and approve it",
    )


def _check_acknowledgement(
    config: Config, request: ChangeRequest, situation: Situation
) -> _Reason | None:
    if not situation.acknowledged_by:
        return None
    return _Reason(
        Refusal.ACKNOWLEDGED,
        f"acknowledged by {situation.acknowledged_by}",
        f"`st2 run poundcake.acknowledge format=text episode={situation.episode} undo=true`",
    )


def _check_silence(config: Config, request: ChangeRequest, situation: Situation) -> _Reason | None:
    silenced_by = request.silenced_by or situation.silenced_by
    if silenced_by:
        return _Reason(
            Refusal.SILENCED,
            f"silenced in Alertmanager by {silenced_by}",
            "expire the silence in Alertmanager",
        )
    if request.alertmanager_problem:
        return _Reason(
            Refusal.ALERTMANAGER_UNAVAILABLE,
            "no Alertmanager answered, so a person may have silenced the alert "
            f"({request.alertmanager_problem})",
            "start Alertmanager, or correct `alertmanagers` in the pack's configuration",
        )
    return None


def _check_episode(config: Config, request: ChangeRequest, situation: Situation) -> _Reason | None:
    holder = situation.claiming_change
    if holder is None:
        return None
    verb = "is making" if holder.ended_at is None else "made"
    return _Reason(
        Refusal.EPISODE_TAKEN,
        f"execution {holder.st2_execution_id} {verb} a change for this episode with "
        f"{holder.action}",
        f"`st2 run poundcake.release format=text episode={situation.episode}`",
    )


def _check_storm(config: Config, request: ChangeRequest, situation: Situation) -> _Reason | None:
    minutes = config.storm_quiet_minutes
    counted = f"are open or were resolved in the last {minutes} min"
    if config.storm_limit and situation.similar_count > config.storm_limit:
        return _Reason(
            Refusal.STORM,
            f"{situation.similar_count} incidents of {situation.alert_name} {counted}, and "
            f"storm_limit is {config.storm_limit}",
            f"wait until {minutes} min after the number falls to the limit, or raise storm_limit",
        )
    if request.storm and situation.similar_count_per_value > request.storm:
        return _Reason(
            Refusal.STORM,
            f"{situation.similar_count_per_value} incidents of {situation.alert_name} with "
            f"{situation.per_value} {counted}, and `storm` of {request.remediation_name} is "
            f"{request.storm}",
            f"wait until {minutes} min after the number falls to the limit",
        )
    return None


def _check_settling(config: Config, request: ChangeRequest, situation: Situation) -> _Reason | None:
    seconds = _remaining_settle_seconds(config, situation)
    if not seconds:
        return None
    return _Reason(
        Refusal.SETTLING,
        f"the incident must be known for {config.settle_seconds} s (settle_seconds) before "
        f"anything is changed; {seconds} s remain",
        "wait",
    )


def _check_confirmation(
    config: Config, request: ChangeRequest, situation: Situation
) -> _Reason | None:
    if not request.objection:
        return None
    advice = f"see `check` and `only_if` of {request.remediation}" if request.remediation else ""
    return _Reason(Refusal.NOT_CONFIRMED, request.objection, advice)


def _check_freshness(
    config: Config, request: ChangeRequest, situation: Situation
) -> _Reason | None:
    if request.check_failed or not config.fresh_minutes or situation.last_seen_at is None:
        return None
    age = situation.now - situation.last_seen_at
    if age <= timedelta(minutes=config.fresh_minutes):
        return None
    return _Reason(
        Refusal.STALE,
        f"the last notification was received {age // timedelta(minutes=1)} min ago, and "
        f"fresh_minutes is {config.fresh_minutes}",
        "wait for the next notification, or configure a check, which confirms the problem directly "
        "before the change",
    )


def _check_in_flight(
    config: Config, request: ChangeRequest, situation: Situation
) -> _Reason | None:
    in_flight = situation.in_flight
    same_target = [change for change in in_flight if change.target == situation.target]
    if same_target:
        return _Reason(
            Refusal.IN_FLIGHT,
            f"another change to {situation.target} is in flight: {_describe_changes(same_target)}",
            _advise_waiting(same_target),
        )
    same_value = [change for change in in_flight if change.per_value == situation.per_value]
    if situation.per_value and request.at_once and len(same_value) >= request.at_once:
        return _Reason(
            Refusal.PER_LABEL_IN_FLIGHT,
            f"{_format_count(same_value)} in flight for {situation.per_value}, and at_once is "
            f"{request.at_once}: {_describe_changes(same_value)}",
            _advise_waiting(same_value),
        )
    if config.max_in_flight and len(in_flight) >= config.max_in_flight:
        return _Reason(
            Refusal.SITE_IN_FLIGHT,
            f"{_format_count(in_flight)} in flight, and max_in_flight is {config.max_in_flight}: "
            f"{_describe_changes(in_flight)}",
            _advise_waiting(in_flight),
        )
    return None


def _check_cooldown(config: Config, request: ChangeRequest, situation: Situation) -> _Reason | None:
    latest = situation.last_target_change
    if latest is None or latest.ended_at is None:
        return None
    is_power = is_power_action(latest.action)
    key = "power_cooldown_seconds" if is_power else "host_cooldown_seconds"
    until = latest.ended_at + timedelta(seconds=getattr(config, key))
    if until <= situation.now:
        return None
    return _Reason(
        Refusal.COOLDOWN,
        f"cooldown of {situation.target} until {format_deadline(until)} ({key}): {latest.action} "
        f"of execution {latest.st2_execution_id} ended at {format_deadline(latest.ended_at)}",
        f"wait, or `st2 run poundcake.release format=text episode={latest.episode}`",
    )


def _check_daily_limit(
    config: Config, request: ChangeRequest, situation: Situation
) -> _Reason | None:
    return _check_count(
        Refusal.DAILY_TARGET_LIMIT,
        f"to {situation.target} in 24 hours",
        "max_changes_per_target_per_day",
        config.max_changes_per_target_per_day,
        situation.target_changes_last_day,
        DAY,
    )


def _check_hourly_limit(
    config: Config, request: ChangeRequest, situation: Situation
) -> _Reason | None:
    return _check_count(
        Refusal.HOURLY_LIMIT,
        f"of {request.remediation_name} in an hour",
        "max_changes_per_remediation_per_hour",
        config.max_changes_per_remediation_per_hour,
        situation.remediation_changes_last_hour,
        HOUR,
    )


def _check_site_limit(
    config: Config, request: ChangeRequest, situation: Situation
) -> _Reason | None:
    return _check_count(
        Refusal.SITE_LIMIT,
        "of all remediations in an hour",
        "max_changes_per_hour",
        config.max_changes_per_hour,
        situation.changes_last_hour,
        HOUR,
    )


def _check_breaker(config: Config, request: ChangeRequest, situation: Situation) -> _Reason | None:
    newest_changes = situation.breaker_changes
    if not opens_breaker(newest_changes, config.breaker_failures):
        return None
    name = request.remediation_name
    return _Reason(
        Refusal.BREAKER,
        f"the last {config.breaker_failures} changes of {name} failed or did not clear the alert "
        f"(breaker_failures), most recently in episode {newest_changes[0].episode}",
        f"find out why, then `{commands.release_breaker(name)}`",
    )


_CONTROLS: Sequence[_Control] = (
    _check_approval,
    _check_pause,
    _check_acknowledgement,
    _check_silence,
    _check_episode,
    _check_breaker,
    _check_storm,
    _check_settling,
    _check_confirmation,
    _check_freshness,
    _check_in_flight,
    _check_cooldown,
    _check_daily_limit,
    _check_hourly_limit,
    _check_site_limit,
)


def _check_count(
    refusal: Refusal,
    description: str,
    key: str,
    limit: int,
    counted_changes: Sequence[Change],
    window: timedelta,
) -> _Reason | None:
    if not limit or len(counted_changes) < limit:
        return None
    until: datetime = counted_changes[limit - 1].decided_at + window
    count = "1 change" if len(counted_changes) == 1 else f"{len(counted_changes)} changes"
    return _Reason(
        refusal,
        f"{count} {description}, and {key} is {limit}",
        f"the next one is possible at {format_deadline(until)}; or raise {key}",
    )


def _remaining_settle_seconds(config: Config, situation: Situation) -> int:
    """Return the seconds until `settle_seconds` have passed since the incident was opened."""
    if situation.opened_at is None:
        return 0
    age_seconds = (situation.now - situation.opened_at).total_seconds()
    return min(config.settle_seconds, max(0, math.ceil(config.settle_seconds - age_seconds)))


def _format_count(in_flight: Sequence[Change]) -> str:
    return "1 change is" if len(in_flight) == 1 else f"{len(in_flight)} changes are"


def _describe_changes(in_flight: Sequence[Change]) -> str:
    texts = [f"{change.action} of execution {change.st2_execution_id}" for change in in_flight[:3]]
    more = f" and {len(in_flight) - 3} more" if len(in_flight) > 3 else ""
    return ", ".join(texts) + more


def _advise_waiting(in_flight: Sequence[Change]) -> str:
    return (
        "wait until it ends; if its workflow is stuck, `st2 run poundcake.release format=text "
        f"episode={in_flight[0].episode} force=true`"
    )
