"""Decide what became of an emitted alert, from what StackStorm and the trail say.

Pure functions: they read neither a database nor StackStorm, and take the time as an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import NamedTuple, Sequence

from poundcake.config import Config
from poundcake.stackstorm import (
    Execution,
    ExecutionStatus,
    TriggerInstance,
    TriggerStatus,
    failure_reason,
    workflow_output,
)
from poundcake.timestamps import format_timestamp
from poundcake.trail.admission import LATE
from poundcake.trail.outcomes import Explanation

# How long a trigger may be on its way to the rules engine, and in it.
ARRIVAL_GRACE = timedelta(seconds=60)
RULES_GRACE = timedelta(minutes=5)
# A workflow with a link task that has not linked itself by then has another task before it.
LINK_GRACE = timedelta(seconds=60)
# One that has not claimed the episode by then never will: StackStorm goes on calling an execution
# running for ever if its runner was killed.
LINK_LATE = timedelta(minutes=10)
NOT_CLAIMED = "not_claimed"
"""The stage of a workflow that was refused the claim on its episode."""


class Clocks(NamedTuple):
    """The time, by the two clocks that a decision compares with."""

    database: datetime
    """For what the trail says."""
    stackstorm: datetime
    """For what StackStorm says."""


@dataclass(frozen=True)
class OpenAlert:
    """An emitted alert that is not explained yet."""

    id: int
    request_id: str
    episode: str
    attempt: int
    instance: str
    recorded_at: datetime
    closed_at: datetime | None = None
    is_acknowledged: bool = False
    checked_at: datetime | None = None
    explanation: Explanation | None = None
    """None or Explanation.RETRY."""
    reason: str = ""
    trigger_ids: Sequence[str] = ()
    """Newest first."""


class Verdict(NamedTuple):
    """What became of an alert."""

    explanation: Explanation | None
    """None: not known yet."""
    reason: str = ""
    rules: str = ""
    """References of the rules that matched; empty if that is not known."""


class OwnLink(Enum):
    """What the trail has of an execution and the alert that it was started for."""

    NONE = "none"
    UNCLAIMED = "unclaimed"
    """A link without a claim, which sync wrote."""
    CLAIMED = "claimed"
    """The execution claimed the episode; the claim may have been released since."""


@dataclass(frozen=True)
class StartedExecution:
    """An execution that a rule started for an alert, and what is known about it."""

    id: str
    execution: Execution | None
    """None: StackStorm does not have it any more."""
    link: OwnLink = OwnLink.NONE
    runs_link_task: bool = False
    episode_claimed: bool = False
    """An execution of its workflow has, or had, the alert's attempt at its episode."""
    claimed_for_alert: bool = False
    """... and is linked to this very alert."""
    cooldown_until: datetime | None = None
    """When the cooldown of the alert's host ends, by the database's clock; None if there is
    none."""


@dataclass(frozen=True)
class RuleResult:
    """What a rule made of the newest trigger of the alert that it matched."""

    rule: str
    started: StartedExecution | None = None
    """None: it could not start its action."""
    failure: str = ""


class Judgement(NamedTuple):
    """What an execution says about its alert."""

    explanation: Explanation | None
    """EXECUTION, RETRY, or None while it may still claim the episode."""
    reason: str = ""
    needs_link: bool = False
    """The trail has to link it to the alert, because it does not do so itself."""


def judge_execution(
    alert: OpenAlert, started: StartedExecution, config: Config, clocks: Clocks
) -> Judgement:
    """Decide whether an execution explains its alert."""
    execution = started.execution
    # If StackStorm has collected it already, its link says the rest.
    if started.link is OwnLink.CLAIMED or execution is None:
        return Judgement(Explanation.EXECUTION)
    since_start = clocks.stackstorm - execution.started_at if execution.started_at else None
    waiting = f"{execution.action} was started ({execution.id}) and has not linked itself yet"
    if started.runs_link_task:
        is_young = since_start is not None and since_start < LINK_GRACE
        if is_young and not execution.is_terminal:
            return Judgement(None, waiting)
        output = workflow_output(execution.result)
        if output.get("stage") == NOT_CLAIMED:
            reason = f"{execution.action} did nothing: {output.get('message')}"
            return _judge_refused(alert, started, reason, config)
    needs_link = started.link is OwnLink.NONE
    # One that succeeded took another way than past its link task, as its author meant it to.
    succeeded = execution.status == ExecutionStatus.SUCCEEDED
    if not started.runs_link_task or succeeded or started.episode_claimed:
        return Judgement(Explanation.EXECUTION, needs_link=needs_link)
    if execution.is_terminal:
        reason = (
            f"execution {execution.id} of {execution.action} ended before it claimed the episode: "
            f"{execution.status}, {failure_reason(execution.result)}"
        )
        return Judgement(Explanation.RETRY, reason, needs_link)
    if since_start is not None and since_start > LINK_LATE:
        reason = (
            f"execution {execution.id} of {execution.action} runs and has not claimed the episode"
        )
        return Judgement(Explanation.RETRY, reason, needs_link)
    return Judgement(None, waiting, needs_link)


def _judge_refused(
    alert: OpenAlert, started: StartedExecution, reason: str, config: Config
) -> Judgement:
    """Decide about an execution that was refused the claim on the episode."""
    if started.claimed_for_alert:
        return Judgement(Explanation.EXECUTION)  # the link says what became of the alert
    is_over = bool(alert.closed_at) or alert.is_acknowledged
    if not config.host_cooldown_seconds or is_over or started.episode_claimed:
        return Judgement(Explanation.EXECUTION, reason)
    if started.cooldown_until is None:
        return Judgement(Explanation.RETRY, reason)
    given_up_at = alert.recorded_at + timedelta(hours=config.give_up_hours)
    ends_in_time = started.cooldown_until < given_up_at
    return Judgement(None if ends_in_time else Explanation.EXECUTION, reason)


def judge_alert(
    instances: Sequence[TriggerInstance],
    results: Sequence[RuleResult],
    judgements: Sequence[Judgement],
    clocks: Clocks,
) -> Verdict:
    """Decide what became of an alert whose triggers arrived.

    Args:
        instances: Its trigger instances, newest first; at least one.
        results: What the rules made of them.
        judgements: What each execution among the results says.
    """
    rules = ", ".join(sorted(filter(None, (result.rule for result in results))))
    newest = instances[0]
    in_engine = f"StackStorm's rules engine has it: {newest.status}"
    if not is_decided(newest, clocks):
        return Verdict(None, in_engine, rules)  # another rule may still be on its way
    waiting = [j.reason for j in judgements if j.explanation is None]
    if waiting:
        return Verdict(None, waiting[-1], rules)
    failed = [j.reason for j in judgements if j.explanation is Explanation.RETRY]
    if failed:
        return Verdict(Explanation.RETRY, failed[-1], rules)
    failures = [
        f"rule {result.rule} could not start its action: {result.failure}"
        for result in results
        if result.started is None
    ]
    if judgements:
        refusals = [j.reason for j in judgements if j.reason]
        return Verdict(Explanation.EXECUTION, "; ".join(failures + refusals), rules)
    if newest.status != TriggerStatus.PROCESSED:
        return Verdict(Explanation.RETRY, in_engine, rules)
    if failures:
        return Verdict(Explanation.FAILED, "; ".join(failures), rules)
    return Verdict(Explanation.NO_RULE, "no rule matched")


def is_decided(newest: TriggerInstance, clocks: Clocks) -> bool:
    """Return True if the rules engine is done with a trigger, or will never be."""
    if newest.status in (TriggerStatus.PROCESSED, TriggerStatus.PROCESSING_FAILED):
        return True
    return clocks.stackstorm - newest.occurred_at > RULES_GRACE


def judge_missing_trigger(alert: OpenAlert, may_be_unread: bool, clocks: Clocks) -> Verdict:
    """Decide about an alert none of whose triggers has been seen.

    Args:
        may_be_unread: Not all triggers were read that may be its own.
    """
    if may_be_unread:
        return Verdict(alert.explanation, "StackStorm's triggers have not all been read yet")
    is_late = clocks.database - alert.recorded_at > ARRIVAL_GRACE
    reason = "waiting for StackStorm's rules engine"
    return Verdict(Explanation.RETRY if is_late else None, reason)


def apply_time_limits(
    verdict: Verdict,
    alert: OpenAlert,
    ended_at: datetime | None,
    give_up_hours: int,
    now: datetime,
) -> Verdict:
    """End what must not be tried any more.

    Args:
        ended_at: When the incident ended, for an alert that would be emitted again.
        now: The time by the database's clock.
    """
    explanation, reason, rules = verdict
    if explanation is Explanation.RETRY and ended_at and now - ended_at > LATE:
        # Nothing may begin to work on it any more.
        reason = f"the incident ended at {format_timestamp(ended_at)}; {reason}"
        return Verdict(Explanation.ENDED, reason, rules)
    is_open = explanation in (None, Explanation.RETRY)
    if is_open and now - alert.recorded_at > timedelta(hours=give_up_hours):
        reason = f"StackStorm lost it: given up after {give_up_hours} h. {reason}"
        return Verdict(Explanation.LOST, reason, rules)
    return verdict
