"""Link executions to alerts, and claim episodes for workflows.

A claim ensures that at most one execution of a workflow handles an attempt at an episode. A unique
key of the links table enforces this.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Mapping, NamedTuple, Protocol, TypedDict

from sqlalchemy import Row, and_, func, or_, select, update
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError

from poundcake.config import Config
from poundcake.execution_status import TERMINAL, ExecutionStatus
from poundcake.timestamps import format_timestamp
from poundcake.trail import changes, clock, commands, database
from poundcake.trail.clock import format_deadline
from poundcake.trail.errors import TrackingError
from poundcake.trail.outbox import Ending, add_ending
from poundcake.trail.outcomes import EMITTED, Explanation, Outcome
from poundcake.trail.recorded_alert import read_alert
from poundcake.trail.schema import alerts, api_calls, cut, executions, links, meta, truncate
from poundcake.trail.schema import changes as change_rows

CLAIM_GRACE = timedelta(minutes=10)
"""How long after the end of an incident a workflow may still claim its episode."""
# The maximum of give_up_hours: older alerts are no longer emitted.
_MAX_EMISSION_TIME = timedelta(hours=720)
_MAX_KEY_LENGTH = 255
# How many of a workflow's claims on one host are read to compute the host's cooldown.
_MAX_HOST_CLAIMS = 50

_ALERT_COLUMNS = (
    alerts.c.id,
    alerts.c.episode,
    alerts.c.host,
    alerts.c.fingerprint,
    alerts.c.outcome,
    alerts.c.reason,
    alerts.c.attempt,
    alerts.c.explanation,
    alerts.c.closed_at,
)


class LinkResult(TypedDict):
    """The result of the action poundcake.link.

    `claimed` is true if the workflow may continue: it has the claim, or needs none because it
    changes nothing. Otherwise `reason` says why not.
    """

    claimed: bool
    reason: str
    alert_id: int


class HostClaim(NamedTuple):
    """An execution that claimed an alert of a host, and the end of the cooldown that follows."""

    st2_execution_id: str
    until: datetime


class HostCooldown(NamedTuple):
    """How long a workflow has to wait between two claims on the same host.

    Attributes:
        duration: Counts from the workflow's last claim and, if it made a change, from the end of
            that change.
        power_duration: Replaces `duration` after the end of a change that a power action made.
    """

    duration: timedelta = timedelta(0)
    power_duration: timedelta = timedelta(0)

    @classmethod
    def from_seconds(cls, host_seconds: int, power_seconds: int = 0) -> HostCooldown:
        """Return the cooldown with these durations, or NO_COOLDOWN if `host_seconds` is 0."""
        if not host_seconds:
            return cls()
        return cls(timedelta(seconds=host_seconds), timedelta(seconds=power_seconds))

    @classmethod
    def from_config(cls, config: Config) -> HostCooldown:
        """Return the cooldown that the configuration sets."""
        return cls.from_seconds(config.host_cooldown_seconds, config.power_cooldown_seconds)


NO_COOLDOWN = HostCooldown()
"""The cooldown that never refuses a claim."""


class EpisodeAlert(Protocol):
    """The columns of poundcake_alerts that find_incident_end() needs."""

    @property
    def episode(self) -> str:
        """The alert's episode."""
        ...

    @property
    def closed_at(self) -> datetime | None:
        """When the row was closed, or None while it is the open incident."""
        ...


class EndReport(NamedTuple):
    """The report of an execution that ends without a change, as execution_db stores it.

    Attributes:
        stage: The stage at which it ends.
        message: Why nothing was changed.
        dry_run: Whether it is a dry run.
        verified: Whether its check confirmed that the alert is cleared, or that the host answers.
    """

    stage: str
    message: str
    dry_run: bool
    verified: bool


@dataclass(frozen=True)
class Claimant:
    """An execution that requests the claim on an episode.

    Attributes:
        request_id: The request that contained the alert.
        episode: The alert's episode.
        workflow: The reference of the workflow.
        execution_id: The id of the execution.
        cooldown: How long the workflow may not claim an alert of the same host again.
        may_change: Whether the execution may change anything. Otherwise it needs no claim.
        ending: How the remediation ended, if the execution ends without a change, or None.
        report: Its report, if it ends without a change, or None. The views show it until sync has
            read the execution from StackStorm.
        retry_minutes: The wait before the first retry, if sync may try the refused change again;
            otherwise 0.
        action: The action that the execution runs, or '' if that is the workflow.
    """

    request_id: str
    episode: str
    workflow: str
    execution_id: str
    cooldown: HostCooldown
    may_change: bool = True
    ending: Ending | None = None
    report: EndReport | None = None
    retry_minutes: int = 0
    action: str = ""


def claim_key(episode: str, workflow: str, attempt: int = 1) -> str:
    """Return the unique key of a workflow's claim on an attempt at an episode."""
    suffix = f"|{attempt}" if attempt > 1 else ""
    key = f"{episode}|{workflow}{suffix}"
    if len(key) > _MAX_KEY_LENGTH:
        key = f"{episode}|{hashlib.sha256(workflow.encode()).hexdigest()}{suffix}"
    return key


def link(
    engine: Engine,
    request_id: str,
    episode: str,
    workflow: str,
    execution_id: str,
    cooldown: HostCooldown = NO_COOLDOWN,
    may_change: bool = True,
) -> LinkResult:
    """Claim an episode for a workflow, and link the execution to the alert.

    An execution that already holds the claim is granted it again. While it holds the claim, any
    other execution that may change something is refused and not linked. An execution that changes
    nothing is linked without a claim, so that it never takes the claim from one that does.

    Args:
        engine: The tracking database.
        request_id: The request that contained the alert.
        episode: The alert's episode.
        workflow: The reference of the workflow.
        execution_id: The workflow's execution.
        cooldown: How long the workflow has to wait between two claims on the same host.
        may_change: Whether the execution may change anything.

    Raises:
        TrackingError: No such alert is recorded, or execution_id is empty.
        DatabaseError: The database is unavailable.
    """
    claimant = Claimant(request_id, episode, workflow, execution_id, cooldown, may_change)
    return link_claimant(engine, claimant)


def link_ended(
    engine: Engine,
    workflow: str,
    ending: Ending,
    report: EndReport | None = None,
    retry_minutes: int = 0,
    action: str = "",
) -> LinkResult:
    """Link an execution that ends without a change, and add the event that reports its end.

    If the execution is refused, neither the link nor the event is written.

    Args:
        engine: The tracking database.
        workflow: The reference of the workflow.
        ending: How the remediation ended.
        report: Its report, or None to leave it to sync.
        retry_minutes: The configured retry_refused_minutes if the refusal in the ending ends by
            itself, so that it is recorded like a refusal by poundcake.reserve; otherwise 0.
        action: The action that the execution runs, or '' if that is the workflow.

    Raises:
        TrackingError: No such alert is recorded, or the ending has no execution.
        DatabaseError: The database is unavailable.
    """
    claimant = Claimant(
        ending.request_id,
        ending.episode,
        workflow,
        ending.execution_id,
        NO_COOLDOWN,
        may_change=False,
        ending=ending,
        report=report,
        retry_minutes=retry_minutes,
        action=action,
    )
    return link_claimant(engine, claimant)


def link_claimant(engine: Engine, claimant: Claimant) -> LinkResult:
    """Do the same as link() for a claimant.

    Raises:
        TrackingError: No such alert is recorded, or the claimant has no execution_id.
        DatabaseError: The database is unavailable.
    """
    if not claimant.execution_id:
        raise TrackingError(
            "execution_id: empty; run link as a task of a workflow, or pass the execution's id"
        )
    database.prepare(engine, create=False)

    def link_once() -> LinkResult:
        with database.transaction(engine) as connection:
            return _link(connection, claimant)

    for attempt in range(database.ATTEMPTS):
        try:
            return database.retry_deadlocks(link_once)
        except IntegrityError:
            # Another execution claimed the episode first. The next attempt reads that claim, unless
            # it was released in the meantime.
            if attempt == database.ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def find_incident_end(connection: Connection, alert: EpisodeAlert) -> datetime | None:
    """Return the end of the incident that an alert opened, or None while the incident is open."""
    if alert.closed_at is None:
        return None
    # The alert that closed the row may have taken over its incident, as happens in a replay. So use
    # the last row of the episode that opened an incident.
    last_closed_at = (
        select(alerts.c.closed_at)
        .where(
            alerts.c.episode == alert.episode,
            alerts.c.outcome != Outcome.DUPLICATE,
            or_(alerts.c.open_fingerprint.is_not(None), alerts.c.closed_at.is_not(None)),
        )
        # An incident that was copied from another database may have a higher id than its successor.
        .order_by(alerts.c.open_fingerprint.is_(None), alerts.c.id.desc())
        .limit(1)
    )
    return connection.scalar(last_closed_at)


def find_blocking_claim(
    connection: Connection, host: str, workflow: str, cooldown: HostCooldown, now: datetime
) -> HostClaim | None:
    """Return the claim whose cooldown blocks a workflow on a host the longest, or None.

    Ignore the claims of executions that succeeded and reported that they changed nothing.

    Args:
        connection: A transaction.
        host: The canonical host. Claims on all its alerts count, however their labels spell it.
        workflow: The reference of the workflow.
        cooldown: How long the workflow may not claim an alert of the host again.
        now: The current time by the database's clock.
    """
    since = now - max(cooldown)
    rows = connection.execute(
        select(
            links.c.st2_execution_id,
            links.c.created_at,
            change_rows.c.id,
            change_rows.c.action,
            change_rows.c.ended_at,
        )
        .join(alerts, alerts.c.id == links.c.alert_id)
        .join(executions, executions.c.id == links.c.st2_execution_id)
        .outerjoin(
            change_rows,
            and_(
                change_rows.c.st2_execution_id == links.c.st2_execution_id,
                changes.is_granted(),
                change_rows.c.released_at.is_(None),
            ),
        )
        .where(
            alerts.c.host == host,
            # Limit the scan of the index: older alerts are no longer emitted.
            alerts.c.created_at > since - _MAX_EMISSION_TIME,
            alerts.c.outcome.in_(EMITTED),
            links.c.st2_action_ref == cut(workflow, links.c.st2_action_ref),
            links.c.claim.is_not(None),
            or_(
                links.c.created_at > since,
                change_rows.c.ended_at > since,
                and_(change_rows.c.id.is_not(None), changes.is_unfinished()),
            ),
            # An execution that is running, was cancelled or failed may have changed the host even
            # if it reports mutated=false: its output contains only what it had published by then.
            or_(
                executions.c.mutated.is_not(False),
                executions.c.status != ExecutionStatus.SUCCEEDED,
            ),
        )
        .order_by(links.c.created_at.desc())
        .limit(_MAX_HOST_CLAIMS)
    )
    host_claims = [
        HostClaim(row.st2_execution_id, _cooldown_end(row, cooldown, now)) for row in rows
    ]
    last_claim = max(host_claims, key=lambda claim: claim.until, default=None)
    return last_claim if last_claim and last_claim.until > now else None


def _cooldown_end(row: Row[Any], cooldown: HostCooldown, now: datetime) -> datetime:
    """Return the end of the cooldown that follows a claim and its change, if it made one."""
    claim_cooldown_end: datetime = row.created_at + cooldown.duration
    if row.id is None:
        return claim_cooldown_end
    duration = cooldown.power_duration if changes.is_power_action(row.action) else cooldown.duration
    # A change that is in flight has no end yet.
    change_ended_at = row.ended_at or now
    return max(claim_cooldown_end, change_ended_at + duration)


def add_execution(
    connection: Connection, execution_id: str, action: str, status: str, started_at: datetime
) -> None:
    """Insert the row of an execution if it is missing. A link can refer only to an existing row."""
    existing_id = connection.scalar(select(executions.c.id).where(executions.c.id == execution_id))
    if existing_id is None:
        connection.execute(
            executions.insert().values(
                id=execution_id,
                action=cut(action, executions.c.action),
                status=status,
                start_timestamp=started_at,
            )
        )


def _link(connection: Connection, claimant: Claimant) -> LinkResult:
    alert = _find_alert(connection, claimant)
    key = claim_key(claimant.episode, claimant.workflow, alert.attempt)
    holder = connection.scalar(select(links.c.st2_execution_id).where(links.c.claim == key))
    now = clock.database_now(connection)
    reason = ""
    if alert.outcome not in EMITTED:
        reason = f"the alert was not admitted: {alert.outcome}, {alert.reason}"
    elif holder != claimant.execution_id:
        reason = _refusal_reason(connection, claimant, alert, holder, now)
        if not reason:
            _write_link(connection, claimant, alert, key if claimant.may_change else None, now)
        elif holder:
            _write_refused_claim(connection, claimant, alert, reason, now)
    if claimant.ending and not reason:
        ending = claimant.ending
        if claimant.retry_minutes and not holder:
            ending = _write_temporary_refusal(connection, claimant, alert, ending, now)
        add_ending(connection, ending)
    return LinkResult(claimed=not reason, reason=reason, alert_id=alert.id)


def _find_alert(connection: Connection, claimant: Claimant) -> Row[Any]:
    """Return _ALERT_COLUMNS of the alert for which the claimant was started."""
    return read_alert(connection, claimant.request_id, claimant.episode, *_ALERT_COLUMNS)


def _refusal_reason(
    connection: Connection,
    claimant: Claimant,
    alert: Row[Any],
    holder: str | None,
    now: datetime,
) -> str:
    """Return why the execution is refused the claim, or '' if the claim is granted."""
    if holder and claimant.may_change:
        return (
            f"execution {holder} of {claimant.workflow} holds the claim on this episode; if it "
            "ended without doing its work, release the claim with "
            f"`{commands.for_episode('release', claimant.episode)}`"
        )
    acknowledged_by = _acknowledged_by(connection, claimant.episode)
    if acknowledged_by:
        return f"acknowledged by {acknowledged_by}"
    incident_ended_at = find_incident_end(connection, alert)
    if incident_ended_at and now - incident_ended_at > CLAIM_GRACE:
        return (
            f"the incident ended at {format_timestamp(incident_ended_at)}; to work on it anyway, "
            f"run `st2 run poundcake.replay request_id={claimant.request_id} force=true`"
        )
    newest_attempt = _find_newest_attempt(connection, claimant.episode)
    if claimant.may_change and alert.attempt < newest_attempt:
        return f"a replay has started attempt {newest_attempt} at this episode"
    if claimant.may_change and claimant.cooldown.duration and alert.host:
        return _cooldown_refusal(connection, claimant, alert.host, now)
    return ""


def _acknowledged_by(connection: Connection, episode: str) -> str:
    """Return who acknowledged the open incident of an episode, or '' if nobody did."""
    user = connection.scalar(
        select(alerts.c.acknowledged_by).where(
            alerts.c.episode == episode,
            alerts.c.open_fingerprint.is_not(None),
            alerts.c.acknowledged_at.is_not(None),
        )
    )
    return user or ""


def _find_newest_attempt(connection: Connection, episode: str) -> int:
    attempts = select(func.max(alerts.c.attempt)).where(alerts.c.episode == episode)
    return int(connection.scalar(attempts) or 1)


def _cooldown_refusal(connection: Connection, claimant: Claimant, host: str, now: datetime) -> str:
    # Take a lock, so that the second of two concurrent claims for a host sees the first.
    connection.execute(select(meta.c.value).where(meta.c.name == "database_id").with_for_update())
    blocking_claim = find_blocking_claim(
        connection, host, claimant.workflow, claimant.cooldown, now
    )
    if not blocking_claim:
        return ""
    return (
        f"this host is in cooldown until {format_deadline(blocking_claim.until)}: execution "
        f"{blocking_claim.st2_execution_id} of {claimant.workflow} was started for it"
    )


def _write_link(
    connection: Connection, claimant: Claimant, alert: Row[Any], key: str | None, now: datetime
) -> None:
    action = claimant.action or claimant.workflow
    add_execution(connection, claimant.execution_id, action, "running", now)
    if claimant.report:
        _write_report(connection, claimant.execution_id, claimant.report)
    is_own_link = (links.c.st2_execution_id == claimant.execution_id, links.c.alert_id == alert.id)
    if key is None:
        is_linked = connection.scalar(select(links.c.id).where(*is_own_link)) is not None
    else:
        is_unclaimed = links.c.claim.is_(None)
        updated = connection.execute(
            update(links).where(*is_own_link, is_unclaimed).values(claim=key)
        )
        is_linked = bool(updated.rowcount)
    if not is_linked:
        connection.execute(
            links.insert().values(
                request_id=claimant.request_id,
                alert_id=alert.id,
                st2_execution_id=claimant.execution_id,
                st2_action_ref=cut(claimant.workflow, links.c.st2_action_ref),
                created_at=now,
                claim=key,
            )
        )
    if alert.explanation == Explanation.LOST:
        _reopen(connection, alert.id, claimant.request_id)


def _write_report(connection: Connection, execution_id: str, report: EndReport) -> None:
    values = {
        **report._asdict(),
        "stage": cut(report.stage, executions.c.stage),
        "message": truncate(report.message, executions.c.message),
        "mutated": False,
    }
    connection.execute(
        update(executions)
        .where(executions.c.id == execution_id, executions.c.status.not_in(TERMINAL))
        .values(values)
    )


def _write_refused_claim(
    connection: Connection, claimant: Claimant, alert: Row[Any], reason: str, now: datetime
) -> None:
    """Record that another execution holds the claim, so that the views show the refusal."""
    values = {
        "remediation": cut(claimant.workflow, change_rows.c.remediation),
        "action": cut(claimant.workflow, change_rows.c.action),
        "target": alert.host or f"fingerprint={alert.fingerprint}",
        "refusal": changes.NOT_CLAIMED,
        "reason": cut(reason, change_rows.c.reason),
    }
    _write_refusal(connection, claimant, alert, now, values)


def _write_temporary_refusal(
    connection: Connection, claimant: Claimant, alert: Row[Any], ending: Ending, now: datetime
) -> Ending:
    """Record a refusal that ends by itself, and return the ending with the time of its retry."""
    retry_at = changes.plan_retry(
        connection, claimant.execution_id, claimant.episode, claimant.retry_minutes
    )
    values = {
        "remediation": cut(ending.remediation, change_rows.c.remediation),
        "action": cut(ending.action, change_rows.c.action),
        "target": cut(ending.target, change_rows.c.target),
        "refusal": cut(ending.refusal, change_rows.c.refusal),
        "reason": cut(ending.message, change_rows.c.reason),
        "retry_at": retry_at,
    }
    _write_refusal(connection, claimant, alert, now, values)
    return replace(ending, retry_at=retry_at)


def _write_refusal(
    connection: Connection,
    claimant: Claimant,
    alert: Row[Any],
    now: datetime,
    values: Mapping[str, Any],
) -> None:
    common_values = {
        "request_id": claimant.request_id,
        "attempt": alert.attempt,
        "claim": None,
        "per_value": "",
        "decided_at": now,
        "lease_until": None,
        "ended_at": now,
        "result": changes.ChangeResult.REFUSED,
    }
    changes.write_decision(
        connection, claimant.execution_id, claimant.episode, {**common_values, **values}
    )


def _reopen(connection: Connection, alert_id: int, request_id: str) -> None:
    """Clear the explanation of an alert that sync gave up on, but that was not lost after all."""
    connection.execute(
        update(alerts)
        .where(alerts.c.id == alert_id)
        .values(explanation=None, explanation_reason=None)
    )
    connection.execute(
        update(api_calls).where(api_calls.c.request_id == request_id).values(completed_at=None)
    )
