"""The outbox: events about remediations, which an endpoint publishes as triggers.

The transaction that writes a fact also writes its event, so no event is lost, and no event reports
a fact that was rolled back. The id of an event is derived from its fact, so each fact has one
event, and a receiver recognizes an event that is published twice.

An endpoint claims unpublished events with a lease, and publishes them at least once. All times are
read from the database's clock.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Mapping, NamedTuple, Sequence, TypedDict, Union

from sqlalchemy import ColumnElement, Row, func, or_, select, update
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError

from poundcake.inert import one_line
from poundcake.string_enum import StringEnum
from poundcake.timestamps import format_timestamp
from poundcake.trail import clock, commands, database
from poundcake.trail.recorded_alert import find_alert
from poundcake.trail.schema import alerts, api_calls, cut, events, executions, storable

LEASE = timedelta(minutes=1)
"""How long a claim on an event lasts. Meanwhile, no other endpoint can claim the event."""
LIMIT_RESET = timedelta(hours=1)
"""A limit is not reported again until it has refused nothing for this long."""
MAX_EVIDENCE = 3
"""Maximum number of lines of evidence in an event."""
_MAX_LINE = 200  # characters of a line of evidence
MAX_EVENTS = 50
"""Maximum number of events in one claim."""
_NAMESPACE = uuid.UUID("5a3e3f0a-0d0c-4a53-9f0e-5d6f6f1b7c11")  # of the ids of events


class EventKind(StringEnum):
    """The kind of an event (column `kind`). Its trigger is `poundcake.KIND`."""

    REMEDIATION_ENDED = "remediation_ended"
    """A remediation ended. After a successful change, this is reported once it is known whether the
    alert cleared."""
    APPROVAL_WANTED = "approval_wanted"
    """A workflow is waiting for the approval of its change."""
    LIMIT_REACHED = "limit_reached"
    """A limit refused a change, after it had refused none for at least LIMIT_RESET."""


class EndResult(StringEnum):
    """How a remediation ended."""

    CLEARED = "cleared"
    """The change was made, and the incident ended within `not_cleared_minutes`."""
    NOT_CLEARED = "not_cleared"
    """The change was made, and the incident was still open after `not_cleared_minutes`."""
    FAILED = "failed"
    """The change or its verification failed, or the workflow ended without a report."""
    REFUSED = "refused"
    """A control refused the change, so nothing was changed."""
    APPROVAL_EXPIRED = "approval_expired"
    """No approver answered in time, so nothing was changed."""
    DRY_RUN = "dry_run"
    """It was a dry run, so nothing was changed."""
    EVIDENCE = "evidence"
    """The remediation only collected evidence, so nothing was changed."""


class Limit(StringEnum):
    """The limits that are reported."""

    RATE_LIMIT = "rate_limit"
    """`max_remediations_per_hour` was reached. The endpoint reports this without an event."""
    STORM = "storm"
    """More incidents with the same alert name than `storm_limit` or an entry's `storm` allows."""
    SITE_LIMIT = "site_limit"
    """All remediations together made `max_changes_per_hour` changes."""
    BREAKER = "breaker"
    """The last `breaker_failures` changes of a remediation failed."""


class EventPayload(TypedDict):
    """The fields of every event. Missing fields are empty.

    Attributes:
        event_id: The id of the event.
        time: When it happened.
        summary: What happened, in one line.
        command: The command that shows details, or that a person has to run.
        request_id: The request that contained the alert.
        episode: The alert's episode.
        alert_name: The alert's name.
        severity: Its severity.
        instance: Its instance.
        host: Its canonical host.
        remediation: The name of the remediation.
    """

    event_id: str
    time: str
    summary: str
    command: str
    request_id: str
    episode: str
    alert_name: str
    severity: str
    instance: str
    host: str
    remediation: str


class WorkflowEventPayload(EventPayload):
    """The fields of every event about one workflow.

    Attributes:
        open_incidents: The number of open incidents with this alert name.
        execution_id: The workflow's execution.
        execution_url: Its page in StackStorm's web UI.
    """

    open_incidents: int
    execution_id: str
    execution_url: str


class RemediationEndedPayload(WorkflowEventPayload):
    """The payload of poundcake.remediation_ended.

    Attributes:
        result: The value of an EndResult.
        action: The action that made the change, or would have made it.
        target: What was changed, or would have been changed.
        refusal: The name of the control that refused the change.
        message: What was done, or why nothing was done.
        evidence: What the checks before the change and its verification saw, one line each.
        retry_at: When a refused change is tried again if its incident is still open; empty if it
            is not tried again.
        seconds_to_clear: The time from the receipt of the alert until its incident ended, if the
            change cleared it; otherwise 0.
    """

    result: str
    action: str
    target: str
    refusal: str
    message: str
    evidence: list[str]
    retry_at: str
    seconds_to_clear: float


class ApprovalWantedPayload(WorkflowEventPayload):
    """The payload of poundcake.approval_wanted.

    Attributes:
        change: The change in words: action, parameters and target.
        evidence: What the checks saw, one line each.
        approvers: The users who may approve it.
        until: When the request expires.
        inquiry_id: The inquiry to answer.
    """

    change: str
    evidence: list[str]
    approvers: list[str]
    until: str
    inquiry_id: str


class LimitReachedPayload(EventPayload):
    """The payload of poundcake.limit_reached.

    Attributes:
        limit: The value of a Limit.
        reason: The limit, its current value and, if possible, how to lift it.
        until: When it ends, if that is known.
    """

    limit: str
    reason: str
    until: str


_Payload = Union[RemediationEndedPayload, ApprovalWantedPayload, LimitReachedPayload]


@dataclass(frozen=True)
class Ending:
    """The end of a remediation.

    Attributes:
        result: How it ended.
        request_id: The request that contained the alert.
        episode: The alert's episode.
        execution_id: The workflow's execution.
        remediation: The name of the remediation.
        action: The action that made the change, or would have made it; '' if there is none.
        target: What was changed, or would have been changed.
        refusal: The name of the control that refused the change, or ''.
        message: What was done, or why nothing was done.
        evidence: What the checks before the change and its verification saw.
        retry_at: When sync will retry the refused change, or None.
        follows_change: Whether a change was granted. A workflow may first be refused a change and
            later be granted one; each of these endings has its own event.
    """

    result: EndResult
    request_id: str
    episode: str
    execution_id: str
    remediation: str
    action: str = ""
    target: str = ""
    refusal: str = ""
    message: str = ""
    evidence: Sequence[str] = ()
    retry_at: datetime | None = None
    follows_change: bool = False


@dataclass(frozen=True)
class ApprovalRequest:
    """A request for approval.

    Attributes:
        inquiry_id: The inquiry to answer.
        request_id: The request that contained the alert.
        episode: The alert's episode.
        execution_id: The workflow's execution.
        remediation: The name of the remediation.
        change: The change in words.
        approvers: The users who may approve it.
        until: When it expires.
        evidence: What the checks saw.
    """

    inquiry_id: str
    request_id: str
    episode: str
    execution_id: str
    remediation: str
    change: str
    approvers: Sequence[str]
    until: str
    evidence: Sequence[str] = ()


class Event(NamedTuple):
    """An event that an endpoint has claimed."""

    id: str
    kind: str
    payload: Mapping[str, Any]


# -- writing events, in the transaction that writes the fact


def add_ending(connection: Connection, ending: Ending) -> None:
    """Add the event for the end of a remediation and, if a limit refused its change, for the limit.

    Repeated calls for the same end add only one event.
    """
    alert = _find_alert(connection, ending.request_id, ending.episode)
    if alert is None:
        return  # it was purged
    now = clock.database_now(connection)
    execution = _find_execution(connection, ending.execution_id)
    suffix = "|change" if ending.follows_change else ""
    fact = _ending_fact(ending.execution_id, ending.episode) + suffix
    message = ending.message or execution.message
    payload: RemediationEndedPayload = {
        **_common_fields(fact, now, alert, ending.remediation),
        "summary": f"{_title(alert)}: {_describe_result(ending)}",
        "command": show_command(ending.episode),
        "result": str(ending.result),
        "action": ending.action,
        "target": ending.target,
        "refusal": ending.refusal,
        "message": message,
        "evidence": shorten_evidence(ending.evidence),
        "retry_at": format_timestamp(ending.retry_at) if ending.retry_at else "",
        "seconds_to_clear": _seconds_to_clear(ending, alert, now),
        "open_incidents": _count_open(connection, alert.alert_name),
        "execution_id": ending.execution_id,
        "execution_url": execution.web_url,
    }
    is_new = _insert(connection, EventKind.REMEDIATION_ENDED, ending.episode, now, payload)
    if is_new and ending.refusal in _REPORTED_LIMITS:
        _add_limit_event(connection, Limit(ending.refusal), ending, alert, now)


def add_approval_request(connection: Connection, request: ApprovalRequest) -> None:
    """Add the event for a request for approval. Repeated calls add only one event."""
    alert = _find_alert(connection, request.request_id, request.episode)
    if alert is None:
        return  # it was purged
    now = clock.database_now(connection)
    approvers = ", ".join(request.approvers)
    summary = f"{request.change} waits for approval until {request.until} (by {approvers})"
    payload: ApprovalWantedPayload = {
        **_common_fields(_approval_fact(request.inquiry_id), now, alert, request.remediation),
        "summary": f"{_title(alert)}: {summary}",
        "command": commands.answer_inquiry(request.inquiry_id),
        "change": request.change,
        "evidence": shorten_evidence(request.evidence),
        "approvers": list(request.approvers),
        "until": request.until,
        "inquiry_id": request.inquiry_id,
        "open_incidents": _count_open(connection, alert.alert_name),
        "execution_id": request.execution_id,
        "execution_url": _find_execution(connection, request.execution_id).web_url,
    }
    _insert(connection, EventKind.APPROVAL_WANTED, request.episode, now, payload)


def newest_evidence(connection: Connection, episode: str) -> list[str]:
    """Return the evidence in the newest event of an episode, or [] if it has none."""
    payload = connection.scalar(
        select(events.c.payload)
        .where(
            events.c.subject == cut(episode, events.c.subject),
            events.c.kind.in_((EventKind.APPROVAL_WANTED, EventKind.REMEDIATION_ENDED)),
        )
        .order_by(events.c.at.desc())
        .limit(1)
    )
    evidence = json.loads(payload).get("evidence", []) if payload else []
    return [str(line) for line in evidence]


def find_endings(
    connection: Connection, remediations: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Return how remediations ended without a change.

    Args:
        connection: A connection to the tracking database.
        remediations: The execution and the episode of each remediation.

    Returns:
        The payloads of the events poundcake.remediation_ended by execution and episode, for the
        remediations that have one.
    """
    keys_by_event = {event_id(_ending_fact(*key)): key for key in remediations}
    endings: dict[tuple[str, str], Mapping[str, Any]] = {}
    for chunk in database.batched(list(keys_by_event)):
        for row in connection.execute(
            select(events.c.id, events.c.payload).where(events.c.id.in_(chunk))
        ):
            endings[keys_by_event[row.id]] = json.loads(row.payload)
    return endings


def unreported_approvals(connection: Connection, inquiry_ids: Sequence[str]) -> set[str]:
    """Return the inquiries whose requests for approval have no event yet."""
    inquiries_by_event = {
        event_id(_approval_fact(inquiry_id)): inquiry_id for inquiry_id in inquiry_ids
    }
    unreported = dict(inquiries_by_event)
    for chunk in database.batched(list(inquiries_by_event)):
        for reported_id in connection.scalars(select(events.c.id).where(events.c.id.in_(chunk))):
            unreported.pop(reported_id, None)
    return set(unreported.values())


def _add_limit_event(
    connection: Connection, limit: Limit, ending: Ending, alert: Row[Any], now: datetime
) -> None:
    """Add the event for a reached limit, unless the limit already refused a change recently."""
    subjects = {Limit.STORM: alert.alert_name, Limit.BREAKER: ending.remediation}
    subject = cut(f"{limit}|{subjects.get(limit, '')}", events.c.subject)
    last_event = connection.execute(
        select(events.c.id, events.c.at, events.c.repeated_at)
        .where(events.c.kind == EventKind.LIMIT_REACHED, events.c.subject == subject)
        .order_by(events.c.at.desc())
        .limit(1)
    ).one_or_none()
    if last_event and (last_event.repeated_at or last_event.at) > now - LIMIT_RESET:
        connection.execute(
            update(events).where(events.c.id == last_event.id).values(repeated_at=now)
        )
        return
    # Simultaneous refusals derive the same id, so only one of them adds the event.
    fact = f"{EventKind.LIMIT_REACHED}|{subject}|{last_event.id if last_event else ''}"
    payload: LimitReachedPayload = {
        **_common_fields(fact, now, alert, ending.remediation),
        "summary": describe_limit(limit, alert.alert_name, ending.remediation),
        "command": show_command(ending.episode),
        "limit": str(limit),
        "reason": ending.message,
        "until": "",
    }
    _insert(connection, EventKind.LIMIT_REACHED, subject, now, payload)


def describe_limit(limit: Limit, alert_name: str, remediation: str = "") -> str:
    """Return a one-line summary of a limit that was reached."""
    texts = {
        Limit.RATE_LIMIT: f"{alert_name}: too many remediations in an hour",
        Limit.STORM: f"{alert_name}: storm",
        Limit.SITE_LIMIT: "too many changes in an hour",
        Limit.BREAKER: f"{remediation}: too many failures in a row",
    }
    return f"{texts[limit]}, so nothing is changed"


def shorten_evidence(lines: Sequence[str]) -> list[str]:
    """Return the first MAX_EVIDENCE lines of evidence, each as one line of limited length."""
    return [one_line(line)[:_MAX_LINE] for line in lines[:MAX_EVIDENCE]]


def show_command(episode: str) -> str:
    """Return the command that shows what happened to the alert of an episode."""
    fingerprint = episode.rpartition("-")[0]
    return f"st2 run poundcake.why format=text fingerprint={fingerprint}"


_REPORTED_LIMITS = (Limit.STORM, Limit.SITE_LIMIT, Limit.BREAKER)


def _describe_result(ending: Ending) -> str:
    """Return how a remediation ended, in a few words."""
    change = f"{ending.action} on {ending.target}" if ending.target else ending.action
    return {
        EndResult.CLEARED: f"cleared after {change}",
        EndResult.NOT_CLEARED: f"still open after {change}",
        EndResult.FAILED: "the remediation failed",
        EndResult.REFUSED: "nothing was changed",
        EndResult.APPROVAL_EXPIRED: "nothing was changed, because nobody approved it in time",
        EndResult.DRY_RUN: "dry run: nothing was changed",
        EndResult.EVIDENCE: "nothing was changed",
    }[ending.result]


def _title(alert: Row[Any]) -> str:
    return f"{alert.alert_name} {alert.instance}".strip()


def _common_fields(fact: str, now: datetime, alert: Row[Any], remediation: str) -> EventPayload:
    return EventPayload(
        event_id=event_id(fact),
        time=format_timestamp(now),
        summary="",
        command="",
        request_id=alert.request_id,
        episode=alert.episode,
        alert_name=alert.alert_name,
        severity=alert.severity,
        instance=alert.instance,
        host=alert.host,
        remediation=remediation,
    )


def event_id(fact: str) -> str:
    """Return the id of the event for a fact. `fact` must be unique to that fact."""
    return str(uuid.uuid5(_NAMESPACE, fact))


def _ending_fact(execution_id: str, episode: str) -> str:
    return f"{EventKind.REMEDIATION_ENDED}|{execution_id}|{episode}"


def _approval_fact(inquiry_id: str) -> str:
    return f"{EventKind.APPROVAL_WANTED}|{inquiry_id}"


def _insert(
    connection: Connection, kind: EventKind, subject: str, now: datetime, payload: _Payload
) -> bool:
    """Insert an event. Return False if its fact already has one."""
    try:
        with connection.begin_nested():
            connection.execute(
                events.insert().values(
                    id=payload["event_id"],
                    kind=kind,
                    subject=cut(subject, events.c.subject),
                    at=now,
                    payload=storable(json.dumps(payload)),
                )
            )
    except IntegrityError:
        return False
    return True


class _ExecutionTexts(NamedTuple):
    message: str = ""
    web_url: str = ""


def _find_execution(connection: Connection, execution_id: str) -> _ExecutionTexts:
    row = connection.execute(
        select(executions.c.message, executions.c.web_url).where(executions.c.id == execution_id)
    ).one_or_none()
    return _ExecutionTexts(row.message or "", row.web_url or "") if row else _ExecutionTexts()


def _find_alert(connection: Connection, request_id: str, episode: str) -> Row[Any] | None:
    return find_alert(
        connection,
        request_id,
        episode,
        api_calls.c.request_id,
        alerts.c.episode,
        alerts.c.alert_name,
        alerts.c.severity,
        alerts.c.instance,
        alerts.c.host,
        alerts.c.created_at,
        alerts.c.closed_at,
    )


def _seconds_to_clear(ending: Ending, alert: Row[Any], now: datetime) -> float:
    if ending.result is not EndResult.CLEARED:
        return 0.0
    lasted: timedelta = (alert.closed_at or now) - alert.created_at
    return round(max(0.0, lasted.total_seconds()), 3)


def _count_open(connection: Connection, alert_name: str) -> int:
    """Return the number of open incidents with this alert name."""
    # Search the index of open incidents, not the whole history of the name.
    has_name = func.coalesce(alerts.c.alert_name, "") == alert_name
    is_open = alerts.c.open_fingerprint > ""
    return connection.scalar(select(func.count()).where(is_open, has_name)) or 0


# -- publishing events, by the endpoint


def has_claimable_events(connection: Connection) -> bool:
    """Return True if an event can be claimed and published now."""
    now = clock.database_now(connection)
    return connection.scalar(select(events.c.id).where(*_is_claimable(now)).limit(1)) is not None


def claim(engine: Engine, endpoint_id: str) -> list[Event]:
    """Claim the oldest unpublished events for an endpoint. The claim expires after LEASE.

    Raises:
        DatabaseError: The database is unavailable.
    """
    return database.retry_deadlocks(lambda: _claim(engine, endpoint_id))


def mark_published(engine: Engine, event_ids: Sequence[str]) -> None:
    """Mark events as published.

    Raises:
        DatabaseError: The database is unavailable. The events are published again later.
    """

    def mark() -> None:
        with database.transaction(engine) as connection:
            now = clock.database_now(connection)
            connection.execute(
                update(events).where(events.c.id.in_(event_ids)).values(published_at=now)
            )

    database.retry_deadlocks(mark)


def _claim(engine: Engine, endpoint_id: str) -> list[Event]:
    with database.transaction(engine) as connection:
        now = clock.database_now(connection)
        rows = connection.execute(
            select(events.c.id, events.c.kind, events.c.payload)
            .where(*_is_claimable(now))
            .order_by(events.c.at, events.c.id)
            .limit(MAX_EVENTS)
            .with_for_update()
        ).all()
        connection.execute(
            update(events)
            .where(events.c.id.in_([row.id for row in rows]))
            .values(publisher=endpoint_id, publisher_until=now + LEASE)
        )
    return [Event(row.id, row.kind, json.loads(row.payload)) for row in rows]


def _is_claimable(now: datetime) -> tuple[ColumnElement[bool], ...]:
    return (
        events.c.published_at.is_(None),
        or_(events.c.publisher_until.is_(None), events.c.publisher_until <= now),
    )
