"""Record announced requests: parse them, decide about their alerts, and write the rows.

A batch of requests is recorded in one transaction and a bounded number of statements. The result is
the same as if the requests were recorded one after the other.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Callable, Sequence, TypedDict

from sqlalchemy import select
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError

from poundcake import alertmanager
from poundcake.alertmanager import Alert, Identity, PayloadError, Webhook
from poundcake.announcement import Request
from poundcake.config import Config
from poundcake.request_ids import body_sha256, collision_id
from poundcake.trail import clock, database, uncopied
from poundcake.trail.admission import Decision
from poundcake.trail.admission_state import AdmissionState, AlertBatch, ReceivedAlert
from poundcake.trail.errors import DatabaseError
from poundcake.trail.outcomes import EMITTED, Outcome
from poundcake.trail.rows import AlertRow, CallRow, alert_row, call_row
from poundcake.trail.schema import alerts, api_calls

# Maximum characters that a row needs per character of the body. A character of a nested object may
# become two escapes, whose backslashes are escaped again.
_LARGEST_EXPANSION = 32

StateFactory = Callable[[Connection, Config, AlertBatch], AdmissionState]


class RecordCounts(TypedDict):
    """The result of the action poundcake.record.

    Attributes:
        recorded: The number of requests that were recorded.
        known: The number of requests that had already been recorded.
        failed: The number of requests that were recorded with an error and without alerts.
        outcomes: The number of alerts by outcome.
    """

    recorded: int
    known: int
    failed: int
    outcomes: dict[str, int]


@dataclass
class Counts:
    """The counts for a batch of requests. See RecordCounts."""

    recorded: int = 0
    known: int = 0
    failed: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.recorded + other.recorded,
            self.known + other.known,
            self.failed + other.failed,
            self.outcomes + other.outcomes,
        )

    def as_dict(self) -> RecordCounts:
        """Return the counts as the result of the action."""
        return RecordCounts(
            recorded=self.recorded,
            known=self.known,
            failed=self.failed,
            outcomes=dict(self.outcomes),
        )


@dataclass
class NewRequest:
    """A request that is not recorded yet.

    Attributes:
        request: The announced request.
        request_id: The id under which it will be recorded, which no other request has.
        sha256: The SHA-256 of its body.
        webhook: The payload, once it is parsed.
        error: Why the request is recorded without its alerts, or empty.
    """

    request: Request
    request_id: str
    sha256: str
    webhook: Webhook | None = None
    error: str = ""

    @property
    def alerts(self) -> list[Alert]:
        """The alerts of the request; empty if its body could not be parsed."""
        return self.webhook.alerts if self.webhook else []


@dataclass
class DecidedRequest:
    """A request and the rows of its alerts, which contain the outcomes."""

    new_request: NewRequest
    rows: list[AlertRow]

    @property
    def has_alerts_to_emit(self) -> bool:
        """Whether any of the request's alerts is to be emitted."""
        return any(row.outcome in EMITTED for row in self.rows)


def record_requests(
    engine: Engine,
    config: Config,
    requests: Sequence[Request],
    database_id: str = "",
    clock_offset_seconds: float = 0.0,
) -> RecordCounts:
    """Record a batch of requests, with an outcome for each alert, in one transaction.

    Requests are recorded in the order in which they were received. Recording a request again
    changes nothing. If a request cannot be recorded, its row is written with the error and without
    alerts, and the other requests are recorded as usual.

    Args:
        engine: The tracking database.
        config: The configuration, with the limits of admission.
        requests: The announced requests.
        database_id: The id of the tracking database that the endpoint reads, or empty.
        clock_offset_seconds: How far the endpoint's clock is ahead of the database's.

    Raises:
        DatabaseError: Nothing was written, because the database is unavailable, the endpoint reads
            another database, or the trail has not been moved to this one.
    """
    own_id = database.prepare(engine, create=config.auto_migrate)
    if database_id and database_id != own_id:
        raise DatabaseError(
            f"the endpoint reads the tracking database {database_id}, but this action writes to "
            f"{own_id} ({database.public_url(engine.url)}): set database_url to "
            "one MariaDB for both, or put state_dir where both can access it"
        )
    uncopied.refuse_empty_database(config, engine)
    offset = timedelta(seconds=clock_offset_seconds)
    return database.retry_deadlocks(lambda: _record_all(engine, config, requests, offset))


def _record_all(
    engine: Engine, config: Config, requests: Sequence[Request], offset: timedelta
) -> RecordCounts:
    with database.transaction(engine) as connection:
        converted_requests = _convert_to_database_clock(
            requests, offset, clock.database_now(connection)
        )
        return record_safely(connection, config, converted_requests).as_dict()


def _convert_to_database_clock(
    requests: Sequence[Request], offset: timedelta, now: datetime
) -> list[Request]:
    """Convert times of receipt to the database's clock, and sort the requests by them.

    Args:
        requests: The requests.
        offset: How far the endpoint's clock is ahead of the database's.
        now: The current time by the database's clock.
    """
    converted_requests = [
        # If a clock was set back after the request was received, the time of receipt may lie in the
        # future. The request would then look newer than every request received until that time.
        replace(request, received_at=min(request.received_at - offset, now))
        for request in requests
    ]
    return sorted(converted_requests, key=lambda request: request.received_at)


def record_safely(
    connection: Connection,
    config: Config,
    requests: Sequence[Request],
    make_state: StateFactory = AdmissionState,
    replay_of: str | None = None,
) -> Counts:
    """Record a batch under one savepoint. If that fails, record each half separately.

    A single request that fails is recorded with the error and without alerts.

    Args:
        connection: A transaction.
        config: The configuration, with the limits of admission.
        requests: The requests.
        make_state: Creates the admission state for the batch.
        replay_of: The id of the replayed request, if the batch is a single replay.
    """
    for _ in range(database.ATTEMPTS):
        try:
            with connection.begin_nested():
                return _record_list(connection, config, requests, make_state, replay_of)
        except OperationalError:
            raise
        except IntegrityError as error:
            # A concurrent transaction recorded one of the requests or opened one of the incidents.
            # The next attempt sees its rows.
            failure: Exception = error
        # An error in one request must not prevent the others from being recorded.
        except Exception as error:
            failure = error
            break
    if len(requests) > 1:
        middle = len(requests) // 2
        counts = record_safely(connection, config, requests[:middle])
        return counts + record_safely(connection, config, requests[middle:])
    description = _describe(failure, connection)
    with connection.begin_nested():
        return _record_list(connection, config, requests, make_state, replay_of, description)


def _record_list(
    connection: Connection,
    config: Config,
    requests: Sequence[Request],
    make_state: StateFactory,
    replay_of: str | None,
    error: str = "",
) -> Counts:
    """Record a batch of requests. With an `error`, record it instead of the requests' alerts."""
    new_requests = _new_requests(connection, requests)
    counts = Counts(known=len(requests) - len(new_requests))
    if not new_requests:
        return counts
    identity = config_identity(config)
    for request in new_requests:
        _parse(request, error, identity)
    now = clock.database_now(connection)
    state = make_state(connection, config, _alert_batch(new_requests, now))
    decided_requests = [
        DecidedRequest(request, _decide(state, request, now, config)) for request in new_requests
    ]
    calls = [_call_row(decided_request, now, replay_of) for decided_request in decided_requests]
    for decided_request, call in zip(decided_requests, calls):
        _check_size(connection, decided_request, call)
    # Close incidents before new ones are inserted, because open_fingerprint is unique.
    state.write_changes(connection)
    _insert(connection, decided_requests, calls)
    counts.failed = sum(bool(request.error) for request in new_requests)
    counts.recorded = len(new_requests) - counts.failed
    counts.outcomes.update(
        row.outcome.value for decided_request in decided_requests for row in decided_request.rows
    )
    return counts


def config_identity(config: Config) -> Identity:
    """Return the identity of alerts that the configuration defines."""
    return Identity(frozenset(config.ignored_labels), config.identity_source == "external_url")


def _new_requests(connection: Connection, requests: Sequence[Request]) -> list[NewRequest]:
    """Return the requests that are not recorded yet, without duplicates.

    If a request's id already belongs to another request, use its collision_id() instead.
    """
    hashes = [body_sha256(request.body) for request in requests]
    candidate_ids = [
        (request.request_id, collision_id(request.request_id, sha256))
        for request, sha256 in zip(requests, hashes)
    ]
    known_hashes: dict[str, str] = {}
    for chunk in database.batched([name for names in candidate_ids for name in names]):
        statement = select(api_calls.c.request_id, api_calls.c.body_sha256)
        rows = connection.execute(statement.where(api_calls.c.request_id.in_(chunk)))
        known_hashes.update((row.request_id, row.body_sha256) for row in rows)
    new_requests = []
    for request, sha256, candidates in zip(requests, hashes, candidate_ids):
        for candidate_id in candidates:
            if candidate_id not in known_hashes:
                known_hashes[candidate_id] = sha256
                new_requests.append(NewRequest(request, candidate_id, sha256))
            if known_hashes[candidate_id] == sha256:
                break
    return new_requests


def _parse(new_request: NewRequest, error: str, identity: Identity) -> None:
    """Parse the payload of a request. With an `error`, store it instead."""
    if error:
        new_request.error = error
        return
    try:
        new_request.webhook = alertmanager.parse(
            new_request.request.body.encode("utf-8", "surrogatepass"), identity
        )
    except PayloadError as problem:
        new_request.error = f"the payload cannot be read: {problem}"


def _alert_batch(new_requests: Sequence[NewRequest], now: datetime) -> AlertBatch:
    received_alerts = [
        ReceivedAlert(alert, new_request.request.received_at)
        for new_request in new_requests
        for alert in new_request.alerts
        if not alert.problem
    ]
    return AlertBatch(
        received_alerts, min(new_request.request.received_at for new_request in new_requests), now
    )


def _decide(
    state: AdmissionState, new_request: NewRequest, now: datetime, config: Config
) -> list[AlertRow]:
    """Decide about each alert of a request, and return the rows."""
    rows = []
    episodes: dict[tuple[str, str, datetime | None], str] = {}
    received_at = new_request.request.received_at
    receiver = new_request.webhook.receiver if new_request.webhook else ""
    external_url = new_request.webhook.external_url if new_request.webhook else ""
    for alert in new_request.alerts:
        key = (alert.fingerprint, alert.status, alert.starts_at)
        if key in episodes and not alert.problem:
            decision = Decision(
                Outcome.DUPLICATE, f"duplicate of {new_request.request_id}", episodes[key]
            )
        else:
            decision = state.decide(alert, received_at, receiver)
            if not alert.problem:
                episodes[key] = decision.episode
        row = alert_row(alert, decision, received_at, now, config.host_label, external_url)
        state.apply(new_request.request_id, alert, decision, row)
        rows.append(row)
    return rows


def _call_row(decided_request: DecidedRequest, now: datetime, replay_of: str | None) -> CallRow:
    new_request = decided_request.new_request
    completed_at = None if decided_request.has_alerts_to_emit else now
    return call_row(
        new_request.request,
        new_request.request_id,
        new_request.sha256,
        new_request.webhook,
        new_request.request.received_at if new_request.error else completed_at,
        replay_of,
        new_request.error,
    )


def _check_size(connection: Connection, decided_request: DecidedRequest, call: CallRow) -> None:
    """Raise ValueError if a request's rows are too large for the database server.

    If the request is already being recorded with an error, truncate its body instead.
    """
    max_length = database.longest_text(connection)
    if max_length is None or _LARGEST_EXPANSION * len(call.body) <= max_length:
        return
    if decided_request.new_request.error:
        call.body = call.body[: max_length - len(call.error or "") - len(call.headers)]
        return
    database.check_size(connection, "the request", vars(call))
    for row in decided_request.rows:
        database.check_size(connection, f"alerts[{row.position}]", vars(row))


def _insert(
    connection: Connection, decided_requests: Sequence[DecidedRequest], calls: Sequence[CallRow]
) -> None:
    connection.execute(api_calls.insert(), [vars(call) for call in calls])
    ids: dict[str, int] = {}
    for chunk in database.batched([call.request_id for call in calls]):
        statement = select(api_calls.c.request_id, api_calls.c.id)
        rows = connection.execute(statement.where(api_calls.c.request_id.in_(chunk)))
        ids.update((row.request_id, row.id) for row in rows)
    for decided_request in decided_requests:
        for row in decided_request.rows:
            row.api_call_id = ids[decided_request.new_request.request_id]
    alert_rows = [vars(row) for decided_request in decided_requests for row in decided_request.rows]
    if alert_rows:
        connection.execute(alerts.insert(), alert_rows)


def _describe(failure: Exception, connection: Connection) -> str:
    if isinstance(failure, SQLAlchemyError):
        return database.describe(failure, connection.engine)
    return str(failure) or type(failure).__name__
