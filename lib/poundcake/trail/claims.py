"""Link executions to alerts, and claim episodes for workflows.

A claim is what makes at most one execution of a workflow work on an attempt at an episode: a
unique key of the table of links.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Callable, Mapping, NamedTuple, Protocol, Sequence, TypedDict

from sqlalchemy import Row, or_, select, update
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql import ColumnElement

from poundcake.stackstorm import TERMINAL, ExecutionStatus
from poundcake.timestamps import format_timestamp
from poundcake.trail import admission, clock, database
from poundcake.trail.clock import format_deadline
from poundcake.trail.errors import TrackingError
from poundcake.trail.outcomes import EMITTED, Explanation, Outcome
from poundcake.trail.schema import alerts, api_calls, cut, executions, links, meta

# An alert is emitted for give_up_hours at most.
_LONGEST_EMITTED = timedelta(hours=720)
_CLAIM_LENGTH = 255

_ALERT_COLUMNS = (
    alerts.c.id,
    alerts.c.episode,
    alerts.c.instance,
    alerts.c.outcome,
    alerts.c.reason,
    alerts.c.attempt,
    alerts.c.explanation,
    alerts.c.closed_at,
)


StatusLookup = Callable[[Sequence[str]], Mapping[str, str]]
"""Returns the statuses of executions by their ids, as far as they are known."""


class LinkResult(TypedDict):
    """The result of the action poundcake.link. The reason is empty if the episode is claimed."""

    claimed: bool
    reason: str
    alert_id: int


class ReleasedClaim(TypedDict):
    """A claim that was released, and the execution that held it."""

    st2_execution_id: str
    st2_workflow: str


class HostClaim(NamedTuple):
    """A claim on an alert of a host: which execution made it, and when."""

    st2_execution_id: str
    created_at: datetime


class AlertOfEpisode(Protocol):
    """What ended_at() needs of a row of poundcake_alerts."""

    @property
    def episode(self) -> str:
        """Return the id of the episode."""
        ...

    @property
    def closed_at(self) -> datetime | None:
        """Return when the episode ended; None while it is open."""
        ...


@dataclass(frozen=True)
class _Claimant:
    """An execution that asks for an episode.

    Attributes:
        host_cooldown: How long after its last claim the workflow gets no other one for the same
            host; 0 for no such limit.
    """

    request_id: str
    episode: str
    workflow: str
    execution_id: str
    host_cooldown: timedelta


def claim_key(episode: str, workflow: str, attempt: int = 1) -> str:
    """Return a workflow's claim on an attempt at an episode. Only one execution can hold it."""
    suffix = f"|{attempt}" if attempt > 1 else ""
    key = f"{episode}|{workflow}{suffix}"
    if len(key) > _CLAIM_LENGTH:
        key = f"{episode}|{hashlib.sha256(workflow.encode()).hexdigest()}{suffix}"
    return key


def link(
    engine: Engine,
    request_id: str,
    episode: str,
    workflow: str,
    execution_id: str,
    host_cooldown: int = 0,
) -> LinkResult:
    """Claim an episode for a workflow, and link the execution to the alert.

    The execution that holds the claim gets it again. Any other one is refused, and not linked.

    Args:
        engine: The tracking database.
        request_id: The request that contained the alert.
        episode: The alert's episode.
        workflow: The reference of the workflow.
        execution_id: The workflow's execution.
        host_cooldown: For how many seconds after its last claim the workflow gets no other one for
            the same host, whichever alert names it; 0 for no such limit.

    Raises:
        TrackingError: No such alert is on record.
        DatabaseError: The database is unavailable.
    """
    if not execution_id:
        raise TrackingError(
            "execution_id: empty; run link as a task of a workflow, or pass the execution's id"
        )
    database.prepare(engine, create=False)
    claimant = _Claimant(
        request_id, episode, workflow, execution_id, timedelta(seconds=host_cooldown)
    )
    for attempt in range(database.ATTEMPTS):
        try:
            with database.transaction(engine) as connection:
                return _link(connection, claimant)
        except IntegrityError:
            # Another execution was first. Its row is there now, unless it was released.
            if attempt == database.ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def release(
    engine: Engine,
    episode: str,
    workflow: str = "",
    force: bool = False,
    statuses: StatusLookup | None = None,
) -> list[ReleasedClaim]:
    """Release the claims on an episode, for one workflow or for all of them.

    An operator does that after a workflow that ended between its claim and its work. The links
    stay.

    Args:
        engine: The tracking database.
        episode: The episode.
        workflow: Only this workflow's claims; empty for all.
        force: Release the claims of executions that have not ended, too. A second execution may
            then work on the episode at the same time.
        statuses: Asks StackStorm for the statuses of executions that have not ended on record,
            which may be some time ago.

    Raises:
        TrackingError: An execution that holds one of the claims has not ended. Nothing was
            released.
        DatabaseError: The database is unavailable.
    """
    database.prepare(engine, create=False)
    with database.reading(engine) as connection:
        held = _claims_on(connection, episode, workflow)
    running = {} if force else _running(held, statuses)
    if running:
        raise TrackingError(_still_running(held, running))
    with database.transaction(engine) as connection:
        connection.execute(
            update(links)
            .where(links.c.id.in_([row.id for row in held]))
            .values(claim=None, released_at=clock.database_now(connection))
        )
    return [
        ReleasedClaim(st2_execution_id=row.st2_execution_id, st2_workflow=row.st2_action_ref)
        for row in held
    ]


def ended_at(connection: Connection, alert: AlertOfEpisode) -> datetime | None:
    """Return when the incident ended that an alert opened; None while it is open."""
    if alert.closed_at is None:
        return None
    # What closed the row may have taken the incident over, as a replay does.
    last = (
        select(alerts.c.closed_at)
        .where(
            alerts.c.episode == alert.episode,
            alerts.c.outcome != Outcome.DUPLICATE,
            or_(alerts.c.open_fingerprint.is_not(None), alerts.c.closed_at.is_not(None)),
        )
        .order_by(alerts.c.id.desc())
        .limit(1)
    )
    return connection.scalar(last)


def worked_on(
    connection: Connection, instance: str, workflow: str, since: datetime
) -> HostClaim | None:
    """Return the workflow's last claim on an alert of a host, if it made one.

    The claim of an execution that succeeded and reported that it changed nothing does not count.

    Args:
        connection: A transaction.
        instance: The instance that an alert names; any instance of the same host counts.
        workflow: The reference of the workflow.
        since: The claim was made after this moment, by the database's clock.
    """
    found = connection.execute(
        select(links.c.st2_execution_id, links.c.created_at)
        .join(alerts, alerts.c.id == links.c.alert_id)
        .join(executions, executions.c.id == links.c.st2_execution_id)
        .where(
            _is_of_host(instance),
            # The index of instances has these; nothing older is emitted any more.
            alerts.c.created_at > since - _LONGEST_EMITTED,
            alerts.c.outcome.in_(EMITTED),
            links.c.st2_action_ref == cut(workflow, links.c.st2_action_ref),
            links.c.claim.is_not(None),
            links.c.created_at > since,
            # One that has not ended, was canceled or failed may have changed something all the
            # same: the output of a workflow that was cut short is what it had published before.
            or_(
                executions.c.mutated.is_not(False),
                executions.c.status != ExecutionStatus.SUCCEEDED,
            ),
        )
        .order_by(links.c.created_at.desc())
        .limit(1)
    ).one_or_none()
    return HostClaim(*found) if found else None


def mirror(
    connection: Connection, execution_id: str, action: str, status: str, started_at: datetime
) -> None:
    """Insert the row of an execution if there is none, so that every link has its execution."""
    known = connection.scalar(select(executions.c.id).where(executions.c.id == execution_id))
    if known is None:
        connection.execute(
            executions.insert().values(
                id=execution_id,
                action=cut(action, executions.c.action),
                status=status,
                start_timestamp=started_at,
            )
        )


def _link(connection: Connection, claimant: _Claimant) -> LinkResult:
    alert = _find_alert(connection, claimant)
    key = claim_key(claimant.episode, claimant.workflow, alert.attempt)
    holder = connection.scalar(select(links.c.st2_execution_id).where(links.c.claim == key))
    now = clock.database_now(connection)
    reason = ""
    if alert.outcome not in EMITTED:
        reason = f"the alert was not admitted: {alert.outcome}, {alert.reason}"
    elif holder != claimant.execution_id:
        reason = _why_not(connection, claimant, alert, holder, now)
        if not reason:
            _write_link(connection, claimant, alert, key, now)
    return LinkResult(claimed=not reason, reason=reason, alert_id=alert.id)


def _find_alert(connection: Connection, claimant: _Claimant) -> Row[Any]:
    """Return the _ALERT_COLUMNS of the alert that the execution was started for."""
    alert = connection.execute(
        select(*_ALERT_COLUMNS)
        .join(api_calls, api_calls.c.id == alerts.c.api_call_id)
        .where(api_calls.c.request_id == claimant.request_id, alerts.c.episode == claimant.episode)
        # One payload may contain an episode twice. The alert that was emitted is the one.
        .order_by(alerts.c.outcome.in_(EMITTED).desc(), alerts.c.id)
        .limit(1)
    ).one_or_none()
    if alert is None:
        raise TrackingError(
            f"no alert of episode {claimant.episode} in request {claimant.request_id} is on record"
        )
    return alert


def _why_not(
    connection: Connection,
    claimant: _Claimant,
    alert: Row[Any],
    holder: str | None,
    now: datetime,
) -> str:
    """Return why the execution does not get the claim; empty if it does."""
    if holder:
        return (
            f"execution {holder} of {claimant.workflow} holds the claim on this episode; if it "
            "ended without doing its work, release the claim with `st2 run poundcake.release "
            f"episode={claimant.episode}`"
        )
    ended = ended_at(connection, alert)
    if ended and now - ended > admission.LATE:
        return (
            f"the incident ended at {format_timestamp(ended)}; to work on it anyway, run `st2 run "
            f"poundcake.replay request_id={claimant.request_id} force=true`"
        )
    if claimant.host_cooldown and alert.instance:
        return _host_cooldown(connection, claimant, alert.instance, now)
    return ""


def _host_cooldown(
    connection: Connection, claimant: _Claimant, instance: str, now: datetime
) -> str:
    # Two alerts of a host that ask at the same time must see each other.
    connection.execute(select(meta.c.value).where(meta.c.name == "database_id").with_for_update())
    busy = worked_on(connection, instance, claimant.workflow, now - claimant.host_cooldown)
    if not busy:
        return ""
    until = format_deadline(busy.created_at + claimant.host_cooldown)
    return (
        f"cooldown of this host until {until}: execution {busy.st2_execution_id} of "
        f"{claimant.workflow} was started for it"
    )


def _write_link(
    connection: Connection, claimant: _Claimant, alert: Row[Any], key: str, now: datetime
) -> None:
    mirror(connection, claimant.execution_id, claimant.workflow, "running", now)
    claimed = connection.execute(
        update(links)
        .where(
            links.c.st2_execution_id == claimant.execution_id,
            links.c.alert_id == alert.id,
            links.c.claim.is_(None),
        )
        .values(claim=key)
    )
    if not claimed.rowcount:
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


def _reopen(connection: Connection, alert_id: int, request_id: str) -> None:
    """Forget that an alert was given up: StackStorm had it after all."""
    connection.execute(
        update(alerts)
        .where(alerts.c.id == alert_id)
        .values(explanation=None, explanation_reason=None)
    )
    connection.execute(
        update(api_calls).where(api_calls.c.request_id == request_id).values(completed_at=None)
    )


def _claims_on(connection: Connection, episode: str, workflow: str) -> Sequence[Row[Any]]:
    """Return the claims on an episode, with the status of their executions."""
    held = (
        select(links.c.id, links.c.st2_execution_id, links.c.st2_action_ref, executions.c.status)
        .join(alerts, alerts.c.id == links.c.alert_id)
        .outerjoin(executions, executions.c.id == links.c.st2_execution_id)
        .where(alerts.c.episode == episode, links.c.claim.is_not(None))
        .order_by(links.c.id)
    )
    if workflow:
        held = held.where(links.c.st2_action_ref == workflow)
    return connection.execute(held).all()


def _running(held: Sequence[Row[Any]], statuses: StatusLookup | None) -> dict[str, str]:
    """Return the status of each execution that holds one of the claims and has not ended."""
    recorded = {row.st2_execution_id: row.status for row in held}
    running = {key: value for key, value in recorded.items() if value and value not in TERMINAL}
    if running and statuses:
        running.update(statuses(sorted(running)))
    return {key: value for key, value in running.items() if value not in TERMINAL}


def _still_running(held: Sequence[Row[Any]], running: Mapping[str, str]) -> str:
    named = ", ".join(
        f"execution {row.st2_execution_id} of {row.st2_action_ref} is "
        f"{running[row.st2_execution_id]}"
        for row in held
        if row.st2_execution_id in running
    )
    return (
        f"nothing was released, because {named}: a second execution would work on the episode at "
        "the same time; wait until it has ended, or cancel it, or pass force=true"
    )


def _is_of_host(instance: str) -> ColumnElement[bool]:
    """Return the condition of alerts whose instance is of the same host, with any port or none."""
    host, colon, port = instance.rpartition(":")
    # In an IPv6 address without brackets, what follows the last colon is no port.
    if not colon or not port.isdigit() or (":" in host and not host.endswith("]")):
        host = instance
    bare = host.strip("[]")
    with_port = f"[{bare}]" if ":" in bare else bare
    return or_(
        alerts.c.instance.in_({bare, with_port}),
        # ";" is what comes after ":". SQLite would not use its index for a LIKE.
        alerts.c.instance.between(with_port + ":", with_port + ";"),
    )
