"""The endpoint's queries on the tracking database."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Sequence

from sqlalchemy import and_, case, exists, func, or_, select
from sqlalchemy.engine import Connection, Row

from poundcake.alertmanager import RESOLVED
from poundcake.announcement import Request
from poundcake.endpoint.journal import Entry
from poundcake.endpoint.recorded import (
    LimitedAlert,
    RecordedAlert,
    RecordedRequest,
    Summary,
    UnexplainedAlert,
)
from poundcake.request_ids import collision_id
from poundcake.trail import clock, database, emissions
from poundcake.trail.open_work import is_unexplained
from poundcake.trail.outcomes import EMITTED, Explanation, Outcome
from poundcake.trail.schema import alerts, api_calls

# If no alert is held back for this long, the next one counts as reaching the limit again.
_LIMIT_RESET = timedelta(hours=1)


def find_recorded_ids(connection: Connection, entries: Sequence[Entry]) -> dict[int, str]:
    """Return {entry id: the request_id under which it is recorded} for the recorded requests."""
    entries_by_id = {entry.request_id: entry for entry in entries}
    hashes = _body_hashes(connection, list(entries_by_id))
    # Another endpoint may already have recorded a different body under the same X-Request-ID.
    collisions = {
        collision_id(request_id, entry.body_sha256): entry
        for request_id, entry in entries_by_id.items()
        if hashes.get(request_id, entry.body_sha256) != entry.body_sha256
    }
    hashes.update(_body_hashes(connection, list(collisions)))
    return {
        entry.id: request_id
        for request_id, entry in [*entries_by_id.items(), *collisions.items()]
        if hashes.get(request_id) == entry.body_sha256
    }


def _body_hashes(connection: Connection, request_ids: Sequence[str]) -> dict[str, str]:
    """Return {request_id: body_sha256} for the recorded requests."""
    hashes: dict[str, str] = {}
    for chunk in database.batched(request_ids):
        rows = connection.execute(
            select(api_calls.c.request_id, api_calls.c.body_sha256).where(
                api_calls.c.request_id.in_(chunk)
            )
        )
        hashes.update({request_id: sha256 for request_id, sha256 in rows})
    return hashes


def load_recorded_requests(
    connection: Connection, request_ids: Sequence[str]
) -> dict[str, RecordedRequest]:
    """Return recorded requests by request_id, each with its unexplained alerts in row order."""
    requests: dict[int, RecordedRequest] = {}
    for chunk in database.batched(request_ids):
        calls = connection.execute(
            select(
                api_calls.c.id,
                api_calls.c.request_id,
                api_calls.c.receiver,
                api_calls.c.group_status,
                api_calls.c.emitter,
            ).where(api_calls.c.request_id.in_(chunk))
        )
        for call in calls:
            requests[call.id] = RecordedRequest(
                call_id=call.id,
                request_id=call.request_id,
                receiver=call.receiver or "",
                group_status=call.group_status or "",
                emitter=call.emitter or "",
            )
    for ids in database.batched(list(requests)):
        rows = connection.execute(
            select(
                alerts.c.api_call_id,
                alerts.c.id,
                func.length(alerts.c.labels),
                alerts.c.explanation,
            )
            .where(alerts.c.api_call_id.in_(ids), alerts.c.outcome.in_(EMITTED), is_unexplained())
            .order_by(alerts.c.id)
        )
        for call_id, alert_id, size, explanation in rows:
            is_lost = explanation == Explanation.RETRY
            requests[call_id].unexplained_alerts.append(UnexplainedAlert(alert_id, size, is_lost))
    return {request.request_id: request for request in requests.values()}


def load_summaries(connection: Connection, call_ids: Sequence[int]) -> dict[int, Summary]:
    """Return a summary of each request by the row id of the request."""
    summaries_by_call = {call_id: Summary() for call_id in call_ids}
    for ids in database.batched(call_ids):
        counts = connection.execute(
            select(alerts.c.api_call_id, alerts.c.outcome, func.count())
            .where(alerts.c.api_call_id.in_(ids))
            .group_by(alerts.c.api_call_id, alerts.c.outcome)
        )
        for call_id, outcome, count in counts:
            summaries_by_call[call_id].outcomes[outcome] = count
        for call_id, limited in _limits_reached(connection, ids):
            summaries_by_call[call_id].limited_alerts.append(limited)
    return summaries_by_call


def _limits_reached(
    connection: Connection, call_ids: Sequence[int]
) -> list[tuple[int, LimitedAlert]]:
    """Return (row id of the request, first limited alert) for each name that reached its limit."""
    rows = connection.execute(
        select(
            alerts.c.api_call_id,
            alerts.c.id,
            alerts.c.alert_name,
            alerts.c.severity,
            alerts.c.instance,
            alerts.c.episode,
            alerts.c.reason,
            alerts.c.held_until,
            alerts.c.host,
            alerts.c.created_at,
        )
        .where(alerts.c.api_call_id.in_(call_ids), alerts.c.outcome == Outcome.RATE_LIMITED)
        .order_by(alerts.c.id)
    )
    first_rows: dict[tuple[int, str], Row[tuple[object, ...]]] = {}
    for row in rows:
        first_rows.setdefault((row.api_call_id, row.alert_name), row)
    return [
        (
            row.api_call_id,
            LimitedAlert(
                id=row.id,
                alert_name=row.alert_name,
                severity=row.severity,
                instance=row.instance,
                episode=row.episode or "",
                reason=row.reason,
                held_until=row.held_until,
                host=row.host,
                created_at=row.created_at,
            ),
        )
        for row in first_rows.values()
        if not _was_limited_before(connection, row)
    ]


def _was_limited_before(connection: Connection, row: Row[tuple[object, ...]]) -> bool:
    """Return True if the trigger was already emitted, for an earlier alert."""
    return bool(
        connection.scalar(
            select(
                exists().where(
                    alerts.c.alert_name == row.alert_name,
                    alerts.c.outcome == Outcome.RATE_LIMITED,
                    alerts.c.created_at > row.created_at - _LIMIT_RESET,
                    alerts.c.id < row.id,
                )
            )
        )
    )


def load_alerts(connection: Connection, ids: Sequence[int]) -> dict[int, RecordedAlert]:
    """Return alerts by id, with everything that their triggers contain."""
    loaded: dict[int, RecordedAlert] = {}
    for chunk in database.batched(ids):
        rows = connection.execute(
            select(
                alerts.c.id,
                alerts.c.alert_name,
                alerts.c.severity,
                alerts.c.instance,
                alerts.c.host,
                alerts.c.status,
                alerts.c.episode,
                alerts.c.labels,
                alerts.c.starts_at,
                # A resolved alert without an endsAt ended when it was received.
                func.coalesce(
                    alerts.c.ends_at,
                    case((alerts.c.status == RESOLVED, alerts.c.created_at)),
                    type_=alerts.c.ends_at.type,
                ),
            ).where(alerts.c.id.in_(chunk))
        )
        loaded.update({row[0]: RecordedAlert(*row) for row in rows})
    return loaded


def find_requests_to_import(connection: Connection) -> list[str]:
    """Return the request_ids of recorded requests that any endpoint may have to emit.

    These are replays that are not explained yet, and requests with an alert that has not reached
    StackStorm while no endpoint has held the request's claim for emissions.LEASE: the endpoint that
    accepted the request is down, or has lost its journal.
    """
    now = clock.database_now(connection)
    is_expired = or_(
        api_calls.c.emitter_until <= now,
        and_(api_calls.c.emitter_until.is_(None), alerts.c.recorded_at <= now - emissions.LEASE),
    )
    is_abandoned = and_(alerts.c.explanation == Explanation.RETRY, is_expired)
    statement = select(api_calls.c.request_id).where(
        api_calls.c.completed_at.is_(None),
        exists().where(
            alerts.c.api_call_id == api_calls.c.id,
            or_(and_(api_calls.c.replay_of.is_not(None), is_unexplained()), is_abandoned),
        ),
    )
    return list(connection.scalars(statement))


def load_request(connection: Connection, request_id: str) -> tuple[Request, str, int] | None:
    """Return (request, body_sha256, number of alerts) for a recorded request, or None."""
    row = connection.execute(
        select(api_calls).where(api_calls.c.request_id == request_id)
    ).one_or_none()
    if row is None:
        return None
    count = connection.scalar(select(func.count()).where(alerts.c.api_call_id == row.id))
    request = Request(
        request_id=row.request_id,
        received_at=row.created_at,
        client_host=row.client_host or "",
        client_request_id="",
        method=row.method,
        path=row.path,
        headers=json.loads(row.headers),
        body=row.body,
    )
    return request, row.body_sha256, count or 0
