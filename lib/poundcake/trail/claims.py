"""Links between executions and alerts, and the claims of workflows on episodes."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta, timezone
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError

from poundcake.timestamps import format_timestamp
from poundcake.trail import admission, database
from poundcake.trail.record import _ATTEMPTS, FATE_LOST, TrackingError
from poundcake.trail.schema import alerts, api_calls, cut, executions, links, meta

# An alert is emitted for give_up_hours at most.
_LONGEST_EMITTED = timedelta(hours=720)

_LINKED = [
    alerts.c[name]
    for name in ("id episode instance outcome reason attempt explanation closed_at").split()
]


def claim_key(episode: str, workflow: str, attempt: int = 1) -> str:
    """What only one execution can hold: the workflow's claim on an attempt at the episode."""
    suffix = f"|{attempt}" if attempt > 1 else ""
    key = f"{episode}|{workflow}{suffix}"
    if len(key) > links.c.claim.type.length:
        key = f"{episode}|{hashlib.sha256(workflow.encode()).hexdigest()}{suffix}"
    return key


def link(
    engine: Engine,
    request_id: str,
    episode: str,
    workflow: str,
    execution_id: str,
    host_cooldown: int = 0,
) -> dict[str, Any]:
    """Claims the episode for the workflow and links the execution to the alert.

    host_cooldown: for how many seconds after its last claim the workflow gets no other for the
    same host, whichever alert names it; 0: no such limit.
    Returns {claimed, reason, alert_id}. The execution that holds the claim gets it again; any
    other gets ``claimed: False`` with the reason, and no link. Raises TrackingError where no such
    alert is on record.
    """
    if not execution_id:
        raise TrackingError(
            "execution_id: empty; link is a task of a workflow, or is given the execution's id"
        )
    database.prepare(engine, create=False)
    asked = (request_id, episode, workflow, execution_id, timedelta(seconds=host_cooldown))
    for attempt in range(_ATTEMPTS):
        try:
            with database.transaction(engine) as connection:
                return _link(connection, *asked)
        except IntegrityError:
            # Another execution was first; its row is there now, unless it was released.
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def _link(
    connection: Connection,
    request_id: str,
    episode: str,
    workflow: str,
    execution_id: str,
    host_cooldown: timedelta = timedelta(0),
) -> dict[str, Any]:
    alert = connection.execute(
        select(*_LINKED)
        .join(api_calls, api_calls.c.id == alerts.c.api_call_id)
        .where(api_calls.c.request_id == request_id, alerts.c.episode == episode)
        # One payload may name an episode twice; the alert that was emitted is the one meant.
        .order_by(alerts.c.outcome.in_(admission.EMITTED).desc(), alerts.c.id)
        .limit(1)
    ).one_or_none()
    if alert is None:
        raise TrackingError(f"no alert of episode {episode} in request {request_id} is on record")
    if alert.outcome not in admission.EMITTED:
        return _refusal(alert.id, f"the alert was not admitted: {alert.outcome}, {alert.reason}")
    key = claim_key(episode, workflow, alert.attempt)
    holder = connection.scalar(select(links.c.st2_execution_id).where(links.c.claim == key))
    if holder == execution_id:
        return {"claimed": True, "reason": "", "alert_id": alert.id}
    if holder:
        return _refusal(
            alert.id,
            f"execution {holder} of {workflow} has this episode; if it ended without doing its "
            f"work, `st2 run poundcake.release episode={episode}` gives it free",
        )
    now = datetime.now(timezone.utc)
    ended = ended_at(connection, alert)
    if ended and now - ended > admission.LATE:
        return _refusal(
            alert.id,
            f"the incident ended at {format_timestamp(ended)}; `st2 run poundcake.replay "
            f"request_id={request_id} force=true` works on it all the same",
        )
    if host_cooldown and alert.instance:
        # Two alerts of a host that ask at once must see each other.
        connection.execute(
            select(meta.c.value).where(meta.c.name == "database_id").with_for_update()
        )
        busy = worked_on(connection, alert.instance, workflow, now - host_cooldown)
        if busy:
            until = format_timestamp(busy.created_at + host_cooldown)
            return _refusal(
                alert.id,
                f"cooldown of this host until {until}: execution {busy.st2_execution_id} of "
                f"{workflow} was started for it",
            )
    mirror(connection, execution_id, workflow, "running", now)
    unclaimed = connection.execute(
        update(links)
        .where(
            links.c.st2_execution_id == execution_id,
            links.c.alert_id == alert.id,
            links.c.claim.is_(None),
        )
        .values(claim=key)
    )
    if not unclaimed.rowcount:
        connection.execute(
            links.insert().values(
                request_id=request_id,
                alert_id=alert.id,
                st2_execution_id=execution_id,
                st2_action_ref=cut(workflow, links.c.st2_action_ref),
                created_at=now,
                claim=key,
            )
        )
    if alert.explanation == FATE_LOST:
        # It was given up, and StackStorm had it all the same.
        its_own = alerts.c.id == alert.id
        connection.execute(
            update(alerts).where(its_own).values(explanation=None, explanation_reason=None)
        )
        its_call = api_calls.c.request_id == request_id
        connection.execute(update(api_calls).where(its_call).values(completed_at=None))
    return {"claimed": True, "reason": "", "alert_id": alert.id}


def ended_at(connection: Connection, alert: Any) -> datetime | None:
    """When the incident ended that an alert opened; None while it is open.

    alert: a row with closed_at and episode.
    """
    if alert.closed_at is None:
        return None
    # What closed the row may have taken the incident over, as a replay does.
    last = (
        select(alerts.c.closed_at)
        .where(
            alerts.c.episode == alert.episode,
            alerts.c.outcome != admission.DUPLICATE,
            or_(alerts.c.open_fingerprint.is_not(None), alerts.c.closed_at.is_not(None)),
        )
        .order_by(alerts.c.id.desc())
        .limit(1)
    )
    return connection.scalar(last)


def worked_on(connection: Connection, instance: str, workflow: str, since: datetime) -> Any:
    """The last claim of the workflow, made since then, on an alert of the instance's host: a row
    with st2_execution_id and created_at, or None."""
    return connection.execute(
        select(links.c.st2_execution_id, links.c.created_at)
        .join(alerts, alerts.c.id == links.c.alert_id)
        .where(
            _of_host(instance),
            # The index of instances has these; nothing older is emitted any more.
            alerts.c.created_at > since - _LONGEST_EMITTED,
            alerts.c.outcome.in_(admission.EMITTED),
            links.c.st2_action_ref == cut(workflow, links.c.st2_action_ref),
            links.c.claim.is_not(None),
            links.c.created_at > since,
        )
        .order_by(links.c.created_at.desc())
        .limit(1)
    ).one_or_none()


def _of_host(instance: str) -> Any:
    """The condition of alerts whose instance is of the same host, with any port or none."""
    host, colon, port = instance.rpartition(":")
    # In an IPv6 address that has no brackets, what follows the last colon is no port.
    if not colon or not port.isdigit() or (":" in host and not host.endswith("]")):
        host = instance
    bare = host.strip("[]")
    with_port = f"[{bare}]" if ":" in bare else bare
    return or_(
        alerts.c.instance.in_({bare, with_port}),
        # ";" is what comes after ":". LIKE would find no use for SQLite's index.
        alerts.c.instance.between(with_port + ":", with_port + ";"),
    )


def _refusal(alert_id: int, reason: str) -> dict[str, Any]:
    return {"claimed": False, "reason": reason, "alert_id": alert_id}


def release(engine: Engine, episode: str, workflow: str = "") -> list[dict[str, Any]]:
    """Gives claims on an episode free, of one workflow or of all.

    For an operator, after a workflow that ended between its claim and its work: never done by
    itself. The links stay. Returns [{st2_execution_id, st2_workflow}] of those released.
    """
    database.prepare(engine, create=False)
    with database.transaction(engine) as connection:
        held = select(links.c.id, links.c.st2_execution_id, links.c.st2_action_ref).join(
            alerts, alerts.c.id == links.c.alert_id
        )
        held = held.where(alerts.c.episode == episode, links.c.claim.is_not(None))
        if workflow:
            held = held.where(links.c.st2_action_ref == workflow)
        rows = connection.execute(held).all()
        connection.execute(
            update(links)
            .where(links.c.id.in_([row.id for row in rows]))
            .values(claim=None, released_at=datetime.now(timezone.utc))
        )
    return [
        {"st2_execution_id": row.st2_execution_id, "st2_workflow": row.st2_action_ref}
        for row in rows
    ]


def mirror(
    connection: Connection, execution_id: str, action: str, status: str, started_at: datetime
) -> None:
    """Makes the row of execution_db where there is none, so that the trail never misses it."""
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
