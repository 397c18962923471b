"""Replay a recorded request by recording it again as a new request."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Sequence, TypedDict

from sqlalchemy import Row, func, select
from sqlalchemy.engine import Connection, Engine

from poundcake.alertmanager import FIRING, RESOLVED, Alert
from poundcake.announcement import Request
from poundcake.config import Config
from poundcake.request_ids import replay_id
from poundcake.trail import admission, clock, commands, database, short_ids
from poundcake.trail.admission import Decision, Original, PreviousWork
from poundcake.trail.admission_state import AdmissionState, AlertBatch
from poundcake.trail.audit import NOBODY, Actor, write_entry
from poundcake.trail.errors import TrackingError
from poundcake.trail.outcomes import Outcome
from poundcake.trail.record import record_safely
from poundcake.trail.schema import alerts, api_calls, changes, links

_MAX_REASONS = 3


class ReplayResult(TypedDict):
    """The result of the action poundcake.replay.

    Attributes:
        request_id: The id of the new request.
        replay_of: The id of the request that was replayed.
        outcomes: The number of its alerts by outcome.
        reasons: Up to _MAX_REASONS different reasons for each outcome.
        next_command: The command that also admits the other alerts, or '' if there are none or
            force would not admit them.
    """

    request_id: str
    replay_of: str
    outcomes: dict[str, int]
    reasons: dict[str, list[str]]
    next_command: str


@dataclass(frozen=True)
class _Replay:
    """The parameters of a replay.

    Attributes:
        request_id: The request to replay.
        force: Also admit alerts whose episodes were claimed or have ended.
        execution_id: The execution that requested the replay, or '' if it is not known.
        actor: Who requested the replay, for the audit.
    """

    request_id: str
    force: bool
    execution_id: str
    actor: Actor

    def new_id(self) -> str:
        """Return the id of the new request, derived from the execution's id if that is known."""
        if self.execution_id:
            return replay_id(self.request_id, self.execution_id)
        return str(uuid.uuid4())


def replay_request(
    engine: Engine,
    config: Config,
    request_id: str,
    force: bool = False,
    execution_id: str = "",
    actor: Actor = NOBODY,
) -> ReplayResult:
    """Record a request again, as a new request whose replay_of is the original's id.

    An alert is admitted if its incident is open and no execution has claimed its episode. With
    force, it is always admitted, as a new attempt at the episode. If the original was recorded
    without its alerts, the new request is recorded as if it had just been received.

    Args:
        engine: The tracking database.
        config: The configuration, with the limits of admission.
        request_id: The request to replay, or a unique prefix of its id.
        force: Also admit alerts whose episodes were claimed or have ended, and ignore limits.
        execution_id: The execution that requested the replay. Repeated calls by the same execution
            record one replay, because the execution cannot know whether an interrupted transaction
            was committed.
        actor: Who requested the replay, for the audit.

    Raises:
        TrackingError: The request is not recorded, or its alerts cannot be recorded.
        DatabaseError: The database is unavailable.
    """
    database.prepare(engine, create=config.auto_migrate)
    with database.reading(engine) as connection:
        whole_id = short_ids.find_request_id(connection, request_id) or request_id
    replay = _Replay(whole_id, force, execution_id, actor)
    return database.retry_deadlocks(lambda: _record_replay(engine, config, replay))


def _record_replay(engine: Engine, config: Config, replay: _Replay) -> ReplayResult:
    with database.transaction(engine) as connection:
        original = _read_original(connection, replay.request_id)
        request = _new_request(original, replay.new_id(), clock.database_now(connection))
        counts = record_safely(
            connection,
            config,
            [request],
            lambda connection, config, batch: ReplayState(
                connection, config, batch, original, request.request_id, replay.force
            ),
            replay.request_id,
        )
        error, result = _read_result(connection, request.request_id, original, replay.force)
        if not counts.known:
            details = {"request_id": request.request_id, "force": replay.force}
            write_entry(connection, "replay", replay.actor, replay.request_id, details=details)
    if error:
        raise TrackingError(
            f"request_id: {replay.request_id} cannot be recorded: {error} (its replay is recorded "
            f"as {request.request_id})"
        )
    return result


def _read_original(connection: Connection, request_id: str) -> Row[Any]:
    """Return the row of poundcake_api_calls of the request to replay."""
    call = connection.execute(
        select(api_calls).where(api_calls.c.request_id == request_id)
    ).one_or_none()
    if call is None:
        raise TrackingError(
            f"request_id: {request_id} is not recorded; find out whether it waits in the journal: "
            f"st2 run poundcake.status request_id={request_id} format=text"
        )
    return call


def _new_request(original: Row[Any], request_id: str, now: datetime) -> Request:
    return Request(
        request_id=request_id,
        received_at=now,
        client_host="",
        client_request_id="",
        method=original.method,
        path=original.path,
        headers=json.loads(original.headers),
        body=original.body,
    )


def _read_result(
    connection: Connection, request_id: str, original: Row[Any], force: bool
) -> tuple[str, ReplayResult]:
    """Return the error of a recorded replay, or '', and its result."""
    call_id, error = connection.execute(
        select(api_calls.c.id, api_calls.c.error).where(api_calls.c.request_id == request_id)
    ).one()
    rows = connection.execute(
        select(alerts.c.outcome, alerts.c.reason, func.count())
        .where(alerts.c.api_call_id == call_id)
        .group_by(alerts.c.outcome, alerts.c.reason)
        .order_by(alerts.c.outcome, func.count().desc(), alerts.c.reason)
    )
    outcomes: dict[str, int] = {}
    reasons: dict[str, list[str]] = {}
    for outcome, reason, count in rows:
        outcomes[outcome] = outcomes.get(outcome, 0) + count
        shown = reasons.setdefault(outcome, [])
        if reason and len(shown) < _MAX_REASONS:
            shown.append(reason)
    helps = not force and _may_force(connection, call_id, original.id)
    return error or "", ReplayResult(
        request_id=request_id,
        replay_of=original.request_id,
        outcomes=outcomes,
        reasons=reasons,
        next_command=commands.replay(original.request_id) if helps else "",
    )


def _may_force(connection: Connection, call_id: int, original_id: int) -> bool:
    """Return True if force would admit an alert of a replay that was not admitted.

    It admits only firing alerts that the original request recorded.
    """
    original_alerts = alerts.alias()
    refused_id = connection.scalar(
        select(alerts.c.id)
        .join(original_alerts, original_alerts.c.position == alerts.c.position)
        .where(
            alerts.c.api_call_id == call_id,
            alerts.c.status == FIRING,
            alerts.c.outcome.not_in((Outcome.ADMITTED, Outcome.MALFORMED)),
            original_alerts.c.api_call_id == original_id,
            original_alerts.c.outcome != Outcome.MALFORMED,
        )
        .limit(1)
    )
    return refused_id is not None


class ReplayState(AdmissionState):
    """The admission state for a batch whose only request is a replay.

    It also contains the alerts of the original request and the previous work on their episodes.
    """

    def __init__(
        self,
        connection: Connection,
        config: Config,
        batch: AlertBatch,
        original: Row[Any],
        request_id: str,
        force: bool,
    ):
        super().__init__(connection, config, batch)
        self._request_id = request_id
        self._force = force
        self._originals_by_position = _read_alerts(connection, original)
        episodes = {
            alert.episode for alert in self._originals_by_position.values() if alert.episode
        }
        self._work_by_episode = _read_previous_work(
            connection, sorted(episodes | self.open_episodes())
        )
        self._admitted_episodes: set[str] = set()
        self._originally_received_at: datetime = original.created_at

    def decide(self, alert: Alert, received_at: datetime, receiver: str) -> Decision:
        """Return the decision about the next alert of the replay."""
        original = self._originals_by_position.get(alert.position)
        if alert.problem or original is None or original.outcome == Outcome.MALFORMED:
            # A resolve can only end an incident that it could have ended when first received.
            is_resolve = alert.status == RESOLVED
            return super().decide(
                alert, self._originally_received_at if is_resolve else received_at, receiver
            )
        decision = admission.decide_replay(
            alert, original, self.situation(alert, receiver), self._work_by_episode, self._force
        )
        if decision.outcome != Outcome.ADMITTED:
            return decision
        if decision.episode in self._admitted_episodes:
            return Decision(
                Outcome.DUPLICATE,
                f"duplicate of {self._request_id}",
                decision.episode,
                decision.starts_at,
            )
        self._admitted_episodes.add(decision.episode)
        return decision

    def _notified_at(self, alert: Alert, received_at: datetime) -> datetime:
        return (
            self._originally_received_at
            if alert.position in self._originals_by_position
            else received_at
        )


def _read_alerts(connection: Connection, call: Row[Any]) -> dict[int, Original]:
    """Return the alerts of a recorded request by position."""
    rows = connection.execute(
        select(alerts.c.position, alerts.c.outcome, alerts.c.episode, alerts.c.starts_at).where(
            alerts.c.api_call_id == call.id
        )
    )
    return {
        row.position: Original(
            call.request_id, call.created_at, row.outcome, row.episode or "", row.starts_at
        )
        for row in rows
    }


def _read_previous_work(connection: Connection, episodes: Sequence[str]) -> dict[str, PreviousWork]:
    """Return the previous work on these episodes, by episode."""
    attempts: dict[str, int] = {}
    claimants: dict[str, str] = {}
    for chunk in database.batched(episodes):
        last_attempts = connection.execute(
            select(alerts.c.episode, func.max(alerts.c.attempt))
            .where(alerts.c.episode.in_(chunk))
            .group_by(alerts.c.episode)
        )
        attempts.update((row[0], row[1]) for row in last_attempts)
        link_claims = connection.execute(
            select(alerts.c.episode, links.c.st2_action_ref, links.c.st2_execution_id)
            .join(alerts, alerts.c.id == links.c.alert_id)
            .where(alerts.c.episode.in_(chunk), links.c.claim.is_not(None))
            .order_by(links.c.id)
        )
        for episode, workflow, execution_id in link_claims:
            claimants[episode] = f"{workflow} ({execution_id})"
        change_claims = connection.execute(
            select(changes.c.episode, changes.c.action, changes.c.st2_execution_id)
            .where(changes.c.episode.in_(chunk), changes.c.claim.is_not(None))
            .order_by(changes.c.id)
        )
        for episode, action, execution_id in change_claims:
            claimants.setdefault(episode, f"{action} ({execution_id})")
    return {
        episode: PreviousWork(attempt, claimants.get(episode, ""))
        for episode, attempt in attempts.items()
    }
