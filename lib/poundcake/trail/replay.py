"""Replays: a recorded request is recorded anew."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Sequence

from sqlalchemy import func, select
from sqlalchemy.engine import Connection, Engine

from poundcake.alertmanager import Alert
from poundcake.announcement import Request
from poundcake.config import Config
from poundcake.trail import admission, database
from poundcake.trail.admission import Decision, Original
from poundcake.trail.record import (
    AdmissionState,
    TrackingError,
    _Entry,
    despite_deadlocks,
    record_safely,
)
from poundcake.trail.schema import alerts, api_calls, links


def replay_request(
    engine: Engine, config: Config, request_id: str, force: bool = False
) -> dict[str, Any]:
    """Records a recorded request anew, in a request of its own that names it as replay_of.

    An alert is admitted where its incident is open and no execution has claimed its episode; with
    force in any case, as a further attempt at the episode. A request whose alerts could not be
    recorded is recorded as if it came now.

    Returns {request_id: of the new request, replay_of, outcomes: {outcome: n}}. Raises
    TrackingError where request_id is not on record, or cannot be recorded this time either, and
    DatabaseError where nothing could be written.
    """
    database.prepare(engine, create=config.auto_migrate)
    return despite_deadlocks(lambda: _replay(engine, config, request_id, force))


def _replay(engine: Engine, config: Config, request_id: str, force: bool) -> dict[str, Any]:
    with database.transaction(engine) as connection:
        call = connection.execute(
            select(api_calls).where(api_calls.c.request_id == request_id)
        ).one_or_none()
        if call is None:
            raise TrackingError(f"request_id: {request_id} is not on record")
        request = Request(
            request_id=str(uuid.uuid4()),
            received_at=datetime.now(timezone.utc),
            client_host="",
            client_request_id="",
            method=call.method,
            path=call.path,
            headers=json.loads(call.headers),
            body=call.body,
        )
        original = _Original(call.id, request_id, call.created_at, force)
        result = record_safely(
            connection,
            config,
            [request],
            lambda *given: _ReplayState(*given, original),
            request_id,
        )
        error = connection.scalar(
            select(api_calls.c.error).where(api_calls.c.request_id == request.request_id)
        )
    if error:
        raise TrackingError(
            f"request_id: {request_id} cannot be recorded: {error} (its replay is on record as "
            f"{request.request_id})"
        )
    return {
        "request_id": request.request_id,
        "replay_of": request_id,
        "outcomes": dict(result.outcomes),
    }


@dataclass(frozen=True)
class _Original:
    """The request that a replay records anew."""

    call_id: int
    request_id: str
    received_at: datetime
    force: bool


class _ReplayState(AdmissionState):
    """The book of one request that is a replay: what was done for its episodes stands in it too."""

    def __init__(
        self,
        connection: Connection,
        config: Config,
        entries: Sequence[_Entry],
        original: _Original,
    ):
        super().__init__(connection, config, entries)
        self._request_id = entries[0].request_id
        self._force = original.force
        self._admitted_here: set[str] = set()
        rows = connection.execute(
            select(alerts.c.position, alerts.c.outcome, alerts.c.episode, alerts.c.starts_at).where(
                alerts.c.api_call_id == original.call_id
            )
        )
        self._originals = {
            row.position: Original(original.request_id, original.received_at, *row[1:])
            for row in rows
        }
        episodes = {o.episode for o in self._originals.values() if o.episode}
        episodes |= {incident.episode for incident in self._incidents.values()}
        self._attempts: dict[str, int] = {}
        self._claims: dict[str, str] = {}
        for some in database.in_chunks(sorted(episodes)):
            self._read_work(connection, some)

    def _read_work(self, connection: Connection, episodes: Sequence[str]) -> None:
        highest = (
            select(alerts.c.episode, func.max(alerts.c.attempt))
            .where(alerts.c.episode.in_(episodes))
            .group_by(alerts.c.episode)
        )
        self._attempts.update(connection.execute(highest).all())
        claims = (
            select(alerts.c.episode, links.c.st2_action_ref, links.c.st2_execution_id)
            .join(alerts, alerts.c.id == links.c.alert_id)
            .where(alerts.c.episode.in_(episodes), links.c.claim.is_not(None))
            .order_by(links.c.id)
        )
        for episode, workflow, execution_id in connection.execute(claims):
            self._claims[episode] = f"{workflow} ({execution_id})"

    def decide(self, alert: Alert, received_at: datetime) -> Decision:
        original = self._originals.get(alert.position)
        if alert.problem or original is None or original.outcome == admission.MALFORMED:
            return super().decide(alert, received_at)
        decision = admission.replay(
            alert,
            original,
            self._incidents.get(alert.fingerprint),
            self._skew,
            lambda episode: (self._attempts[episode], self._claims.get(episode, "")),
            lambda: self._limit(alert, received_at),
            self._force,
        )
        if decision.outcome == admission.ADMITTED:
            if decision.episode in self._admitted_here:
                return Decision(
                    admission.DUPLICATE,
                    f"duplicate of {self._request_id}",
                    decision.episode,
                    decision.starts_at,
                )
            self._admitted_here.add(decision.episode)
        return decision
