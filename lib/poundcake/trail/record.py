"""Record announced requests: parse them, decide about their alerts, and write both.

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
    """A request that is not recorded yet, and an unused id for it.

    Attributes:
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
        """Return the alerts of the request; empty if its body could not be parsed."""
        return self.webhook.alerts if self.webhook else []


@dataclass
class DecidedRequest:
    """A request and the rows of its alerts, which contain the outcomes."""

    new: NewRequest
    rows: list[AlertRow]

    @property
    def is_emitted(self) -> bool:
        """Return True if an alert of the request is emitted."""
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
            f"the endpoint reads the tracking database {database_id}, this action writes "
            f"{own_id} ({database.public_url(engine.url)}): set database_url to "
            "one MariaDB for both, or put state_dir where both see it"
        )
    uncopied.refuse_empty_database(config, engine)
    offset = timedelta(seconds=clock_offset_seconds)
    return database.retry_deadlocks(lambda: _record_all(engine, config, requests, offset))


def _record_all(
    engine: Engine, config: Config, requests: Sequence[Request], offset: timedelta
) -> RecordCounts:
    with database.transaction(engine) as connection:
        dated = _by_database_clock(requests, offset, clock.database_now(connection))
        return record_safely(connection, config, dated).as_dict()


def _by_database_clock(
    requests: Sequence[Request], offset: timedelta, now: datetime
) -> list[Request]:
    """Convert times of receipt to the database's clock, and sort the requests by them.

    Args:
        requests: The requests.
        offset: How far the endpoint's clock is ahead of the database's.
        now: The current time by the database's clock.
    """
    dated = [
        # If the clock was set back since, the time of receipt is in the future. The request would
        # then look newer than every request that is received until that time.
        replace(request, received_at=min(request.received_at - offset, now))
        for request in requests
    ]
    return sorted(dated, key=lambda request: request.received_at)


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
        half = len(requests) // 2
        first = record_safely(connection, config, requests[:half])
        return first + record_safely(connection, config, requests[half:])
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
    """Record a batch, as record_safely() does. With an `error`, record it without alerts."""
    new = _new_requests(connection, requests)
    counts = Counts(known=len(requests) - len(new))
    if not new:
        return counts
    identity = config_identity(config)
    for request in new:
        _parse(request, error, identity)
    now = clock.database_now(connection)
    state = make_state(connection, config, _batch(new, now))
    decided = [DecidedRequest(request, _decide(state, request, now, config)) for request in new]
    calls = [_call_row(item, now, replay_of) for item in decided]
    for item, call in zip(decided, calls):
        _check_size(connection, item, call)
    # Close incidents before new ones are inserted, because open_fingerprint is unique.
    state.write_changes(connection)
    _insert(connection, decided, calls)
    counts.failed = sum(bool(request.error) for request in new)
    counts.recorded = len(new) - counts.failed
    counts.outcomes.update(row.outcome.value for item in decided for row in item.rows)
    return counts


def config_identity(config: Config) -> Identity:
    """Return what identifies an alert according to the configuration."""
    return Identity(frozenset(config.ignored_labels), config.identity_source == "external_url")


def _new_requests(connection: Connection, requests: Sequence[Request]) -> list[NewRequest]:
    """Return the requests that are not recorded yet, without duplicates."""
    hashes = [body_sha256(request.body) for request in requests]
    ids = [(r.request_id, collision_id(r.request_id, h)) for r, h in zip(requests, hashes)]
    known: dict[str, str] = {}
    for chunk in database.batched([name for candidates in ids for name in candidates]):
        statement = select(api_calls.c.request_id, api_calls.c.body_sha256)
        rows = connection.execute(statement.where(api_calls.c.request_id.in_(chunk)))
        known.update((row.request_id, row.body_sha256) for row in rows)
    new = []
    for request, sha256, candidates in zip(requests, hashes, ids):
        for candidate in candidates:
            if candidate not in known:
                known[candidate] = sha256
                new.append(NewRequest(request, candidate, sha256))
            if known[candidate] == sha256:
                break
    return new


def _parse(new: NewRequest, error: str, identity: Identity) -> None:
    """Parse the payload of a request, unless `error` is why it is recorded without alerts."""
    if error:
        new.error = error
        return
    try:
        new.webhook = alertmanager.parse(
            new.request.body.encode("utf-8", "surrogatepass"), identity
        )
    except PayloadError as problem:
        new.error = f"the payload cannot be read: {problem}"


def _batch(new: Sequence[NewRequest], now: datetime) -> AlertBatch:
    readable = [
        ReceivedAlert(alert, item.request.received_at)
        for item in new
        for alert in item.alerts
        if not alert.problem
    ]
    return AlertBatch(readable, min(item.request.received_at for item in new), now)


def _decide(
    state: AdmissionState, new: NewRequest, now: datetime, config: Config
) -> list[AlertRow]:
    """Decide about each alert of a request, and return the rows."""
    rows = []
    episodes: dict[tuple[str, str, datetime | None], str] = {}
    receiver = new.webhook.receiver if new.webhook else ""
    external_url = new.webhook.external_url if new.webhook else ""
    for alert in new.alerts:
        key = (alert.fingerprint, alert.status, alert.starts_at)
        if key in episodes and not alert.problem:
            decision = Decision(Outcome.DUPLICATE, f"duplicate of {new.request_id}", episodes[key])
        else:
            decision = state.decide(alert, new.request.received_at, receiver)
            if not alert.problem:
                episodes[key] = decision.episode
        received_at = new.request.received_at
        row = alert_row(alert, decision, received_at, now, config.host_label, external_url)
        state.apply(new.request_id, alert, decision, row)
        rows.append(row)
    return rows


def _call_row(decided: DecidedRequest, now: datetime, replay_of: str | None) -> CallRow:
    new = decided.new
    completed_at = None if decided.is_emitted else now
    return call_row(
        new.request,
        new.request_id,
        new.sha256,
        new.webhook,
        new.request.received_at if new.error else completed_at,
        replay_of,
        new.error,
    )


def _check_size(connection: Connection, decided: DecidedRequest, call: CallRow) -> None:
    """Raise ValueError if a request's rows are too large for the database server.

    If the request is already being recorded with an error, truncate its body instead.
    """
    longest = database.longest_text(connection)
    if longest is None or _LARGEST_EXPANSION * len(call.body) <= longest:
        return
    if decided.new.error:
        call.body = call.body[: longest - len(call.error or "") - len(call.headers)]
        return
    database.check_size(connection, "the request", vars(call))
    for row in decided.rows:
        database.check_size(connection, f"alerts[{row.position}]", vars(row))


def _insert(
    connection: Connection, decided: Sequence[DecidedRequest], calls: Sequence[CallRow]
) -> None:
    connection.execute(api_calls.insert(), [vars(call) for call in calls])
    ids: dict[str, int] = {}
    for chunk in database.batched([call.request_id for call in calls]):
        statement = select(api_calls.c.request_id, api_calls.c.id)
        rows = connection.execute(statement.where(api_calls.c.request_id.in_(chunk)))
        ids.update((row.request_id, row.id) for row in rows)
    for item in decided:
        for row in item.rows:
            row.api_call_id = ids[item.new.request_id]
    inserted = [vars(row) for item in decided for row in item.rows]
    if inserted:
        connection.execute(alerts.insert(), inserted)


def _describe(failure: Exception, connection: Connection) -> str:
    if isinstance(failure, SQLAlchemyError):
        return database.describe(failure, connection.engine)
    return str(failure) or type(failure).__name__
