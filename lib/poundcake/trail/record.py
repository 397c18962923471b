"""The writes of a trail: record what was announced, link what was started for it."""

from __future__ import annotations

import bisect
import functools
import json
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, Callable, Iterator, Sequence

from sqlalchemy import bindparam, case, func, select, update
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, SQLAlchemyError

from poundcake import alertmanager, timestamps
from poundcake.alertmanager import Alert, PayloadError, Webhook
from poundcake.announcement import Request
from poundcake.config import Config
from poundcake.errors import PoundCakeError
from poundcake.request_ids import body_sha256, collision_id
from poundcake.trail import admission, database
from poundcake.trail.admission import Decision, Incident
from poundcake.trail.database import DatabaseError
from poundcake.trail.schema import alerts, api_calls, cut

# Two that write the same rows at once: the database picks one, the other tries again.
_ATTEMPTS = 5
# MariaDB's codes for a deadlock, for a lock waited for in vain, and for the savepoint that went
# with the transaction that a deadlock ended.
_DEADLOCK = ((1213,), (1205,), (1305,))
_HOUR = timedelta(hours=1)
# json.dumps makes a new encoder at each call.
_encode = json.JSONEncoder(ensure_ascii=False).encode
# Fates of an alert; sync.py has the others.
FATE_NONE, FATE_LOST = "none", "lost"


class TrackingError(PoundCakeError):
    """What was asked for does not fit what is on record. The message says why."""


def record_requests(
    engine: Engine, config: Config, requests: Sequence[Request], database_id: str = ""
) -> dict[str, Any]:
    """Writes a list of requests with an outcome for each of their alerts, in one transaction.

    Recording the same request again changes nothing. A request that fails gets its row with the
    error and no alerts, and the others go on.

    Returns counts: {recorded, known, failed, outcomes: {outcome: n}}. Raises DatabaseError where
    nothing could be written, and where database_id says that the endpoint reads another database.
    """
    own_id = database.prepare(engine, create=config.auto_migrate)
    if database_id and database_id != own_id:
        raise DatabaseError(
            f"the endpoint reads the tracking database {database_id}, this action writes "
            f"{own_id} ({engine.url.render_as_string(hide_password=True)}): set database_url to "
            "one MariaDB for both, or put state_dir where both see it"
        )
    return despite_deadlocks(lambda: _record_all(engine, config, requests))


def despite_deadlocks(work: Callable[[], Any]) -> Any:
    for attempt in range(_ATTEMPTS):
        try:
            return work()
        except DatabaseError as error:
            if not _is_deadlock(error) or attempt == _ATTEMPTS - 1:
                raise
            time.sleep(0.05 * 2**attempt)
    raise AssertionError("unreachable")


def _is_deadlock(error: DatabaseError) -> bool:
    cause = error.__cause__
    return isinstance(cause, DBAPIError) and cause.orig.args[:1] in _DEADLOCK


def _record_all(engine: Engine, config: Config, requests: Sequence[Request]) -> dict[str, Any]:
    with database.transaction(engine) as connection:
        result = record_safely(connection, config, requests)
    return {
        "recorded": result.recorded,
        "known": result.known,
        "failed": result.failed,
        "outcomes": dict(result.outcomes),
    }


@dataclass
class _Result:
    recorded: int = 0
    known: int = 0
    failed: int = 0
    outcomes: Counter = field(default_factory=Counter)

    def __add__(self, other: _Result) -> _Result:
        return _Result(
            self.recorded + other.recorded,
            self.known + other.known,
            self.failed + other.failed,
            self.outcomes + other.outcomes,
        )


@dataclass
class _Entry:
    """A request that is not on record, under the id that is free for it. ``error`` says why it
    cannot be recorded, and is empty else."""

    request: Request
    request_id: str
    sha256: str
    error: str = ""
    webhook: Webhook | None = None

    @property
    def alerts(self) -> list[Alert]:
        return self.webhook.alerts if self.webhook else []


def record_safely(
    connection: Connection,
    config: Config,
    requests: Sequence[Request],
    make_state: Callable[..., AdmissionState] | None = None,
    replay_of: str | None = None,
) -> _Result:
    """Records a list under one savepoint; where that fails, each half of it by itself, down to
    the request that is at fault."""
    for _ in range(_ATTEMPTS):
        try:
            with connection.begin_nested():
                return _record_list(connection, config, requests, make_state, replay_of)
        except OperationalError:
            raise
        except IntegrityError as error:
            # Another endpoint's record had one of the requests, or opened one of the incidents,
            # at this moment: now it can be seen.
            failure: Exception = error
        # Whatever is wrong with one request, the others go on.
        except Exception as error:
            failure = error
            break
    if len(requests) > 1:
        half = len(requests) // 2
        first = record_safely(connection, config, requests[:half])
        return first + record_safely(connection, config, requests[half:])
    if isinstance(failure, SQLAlchemyError):
        what = database.describe(failure, connection.engine)
    else:
        what = str(failure) or type(failure).__name__
    with connection.begin_nested():
        return _record_list(connection, config, requests, make_state, replay_of, what)


def _record_list(
    connection: Connection,
    config: Config,
    requests: Sequence[Request],
    make_state: Callable[..., AdmissionState] | None,
    replay_of: str | None,
    error: str = "",
) -> _Result:
    """Records a list as its requests would be recorded one after the other.

    make_state: makes what the alerts are decided by. replay_of: the request_id of the request that
    the one in the list is a replay of. error: why the requests are recorded
    without their alerts.
    """
    entries = _not_on_record(connection, requests)
    for entry in entries:
        if error:
            entry.error = error
        else:
            _read(entry)
    result = _Result(known=len(requests) - len(entries))
    if not entries:
        return result
    book = (make_state or AdmissionState)(connection, config, entries)
    calls = []
    rows = []
    of_call = []
    for entry in entries:
        decided = _decide(book, entry)
        outcomes = Counter(row["outcome"] for row in decided)
        emitted = any(outcomes[outcome] for outcome in admission.EMITTED)
        calls.append(_call_row(entry, emitted, replay_of))
        rows += decided
        of_call += [entry.request_id] * len(decided)
        result.outcomes += outcomes
        result.failed += bool(entry.error)
    result.recorded = len(entries) - result.failed
    # What is closed makes room for what is opened: open_fingerprint is unique.
    book.write(connection)
    connection.execute(api_calls.insert(), calls)
    ids: dict[str, int] = {}
    for some in database.in_chunks([entry.request_id for entry in entries]):
        found = select(api_calls.c.request_id, api_calls.c.id)
        ids.update(connection.execute(found.where(api_calls.c.request_id.in_(some))).all())
    for row, request_id in zip(rows, of_call):
        row["api_call_id"] = ids[request_id]
    if rows:
        connection.execute(alerts.insert(), rows)
    return result


def _not_on_record(connection: Connection, requests: Sequence[Request]) -> list[_Entry]:
    """Those of the requests that are not on record, once each."""
    hashes = [body_sha256(request.body) for request in requests]
    ids = [(r.request_id, collision_id(r.request_id, h)) for r, h in zip(requests, hashes)]
    known: dict[str, str] = {}
    for some in database.in_chunks(sorted({i for pair in ids for i in pair})):
        found = select(api_calls.c.request_id, api_calls.c.body_sha256)
        known.update(connection.execute(found.where(api_calls.c.request_id.in_(some))).all())
    entries = []
    for request, sha256, candidates in zip(requests, hashes, ids):
        for candidate in candidates:
            if candidate not in known:
                known[candidate] = sha256
                entries.append(_Entry(request, candidate, sha256))
            if known[candidate] == sha256:
                break
    return entries


def _read(entry: _Entry) -> None:
    try:
        entry.webhook = alertmanager.parse(entry.request.body.encode("utf-8", "surrogatepass"))
    except PayloadError as error:
        entry.error = f"the payload cannot be read: {error}"


def _decide(book: AdmissionState, entry: _Entry) -> list[dict[str, Any]]:
    """The rows of a request's alerts, each with its outcome, and entered into the book."""
    rows = []
    first: dict[Any, Decision] = {}
    for alert in entry.alerts:
        same = (alert.fingerprint, alert.status, alert.starts_at)
        if same in first and not alert.problem:
            decision = Decision(
                admission.DUPLICATE, f"duplicate of {entry.request_id}", first[same].episode
            )
        else:
            decision = book.decide(alert, entry.request.received_at)
            if not alert.problem:
                first[same] = decision
        row = _alert_row(entry.request.received_at, alert, decision)
        book.enter(entry.request_id, alert, decision, row)
        rows.append(row)
    return rows


def _call_row(entry: _Entry, emitted: bool, replay_of: str | None) -> dict[str, Any]:
    request, webhook = entry.request, entry.webhook
    client_id = request.client_request_id
    if entry.request_id != request.request_id:
        client_id = client_id or request.request_id
    completed_at = None if emitted else datetime.now(timezone.utc)
    return {
        "request_id": entry.request_id,
        "method": cut(request.method, api_calls.c.method),
        "path": cut(request.path, api_calls.c.path),
        "headers": _json(request.headers),
        "body": request.body,
        "status_code": 202,
        "created_at": request.received_at,
        "completed_at": request.received_at if entry.error else completed_at,
        "client_request_id": cut(client_id, api_calls.c.client_request_id) or None,
        "client_host": cut(request.client_host, api_calls.c.client_host),
        "receiver": cut(webhook.receiver, api_calls.c.receiver) if webhook else None,
        "group_key": _storable(webhook.group_key) if webhook else None,
        "group_status": webhook.group_status if webhook else None,
        "truncated_alerts": webhook.truncated_alerts if webhook else 0,
        "delivery_key": webhook.delivery_key if webhook else None,
        "body_sha256": entry.sha256,
        "replay_of": replay_of,
        "error": _storable(entry.error)[:4000] or None,
    }


def _alert_row(received_at: datetime, alert: Alert, decision: Decision) -> dict[str, Any]:
    ends_at = alert.ends_at
    if alert.status != alertmanager.FIRING and ends_at is None:
        ends_at = received_at
    return {
        "position": alert.position,
        "fingerprint": alert.fingerprint,
        "alert_name": cut(alert.name, alerts.c.alert_name),
        "severity": cut(alert.severity, alerts.c.severity),
        "instance": cut(alert.instance, alerts.c.instance),
        "labels": _json(alert.labels),
        "annotations": _json(alert.annotations),
        "generator_url": _storable(alert.generator_url)[:16000],
        "status": cut(alert.status, alerts.c.status),
        "starts_at": decision.starts_at or alert.starts_at,
        "ends_at": ends_at,
        "created_at": received_at,
        "recorded_at": datetime.now(timezone.utc),
        "episode": decision.episode or None,
        "outcome": decision.outcome,
        "reason": cut(decision.reason, alerts.c.reason),
        "explanation": None if decision.outcome in admission.EMITTED else FATE_NONE,
        "open_fingerprint": alert.fingerprint if decision.opens else None,
        "last_seen_at": received_at,
        "notifications": 1,
        "closed_at": None,
        "attempt": decision.attempt,
    }


class AdmissionState:
    """What admission decides by, of all fingerprints and alert names in a list of requests.

    Read once, with the open incidents locked, and kept up to date in memory while the list is
    decided upon.
    """

    def __init__(self, connection: Connection, config: Config, entries: Sequence[_Entry]):
        self._config = config
        self._skew = timedelta(seconds=config.episode_skew_seconds)
        found = [a for entry in entries for a in entry.alerts if not a.problem]
        firing = [a for a in found if a.status == alertmanager.FIRING]
        fingerprints = sorted({a.fingerprint for a in firing})
        names = sorted({cut(a.name, alerts.c.alert_name) for a in firing})
        earliest = min(entry.request.received_at for entry in entries)
        # The incident of each fingerprint, and the row that holds it: one of the table, or one
        # that is going to be inserted.
        self._incidents: dict[str, Incident] = {}
        self._holders: dict[str, dict[str, Any]] = {}
        # Those of the table that change.
        self._closed: list[dict[str, Any]] = []
        self._seen: dict[int, dict[str, Any]] = {}
        # (ends_at, when it came) of resolves.
        self._resolves: dict[str, list[tuple[datetime, datetime]]] = defaultdict(list)
        # When the fingerprint was admitted last, and when the name was, in order.
        self._last: dict[str, datetime] = {}
        self._admitted: dict[str, list[datetime]] = defaultdict(list)
        self._read_incidents(connection, sorted({a.fingerprint for a in found}))
        self._read_resolves(connection, fingerprints, earliest - admission.LATE)
        if config.cooldown_seconds:
            self._cooldown = timedelta(seconds=config.cooldown_seconds)
            self._read_last(connection, fingerprints, earliest - self._cooldown)
        if config.max_remediations_per_hour:
            self._read_admitted(connection, names, earliest - _HOUR)

    def _read_incidents(self, connection: Connection, fingerprints: list[str]) -> None:
        for some in database.in_chunks(fingerprints):
            rows = connection.execute(
                select(
                    alerts.c.open_fingerprint,
                    alerts.c.id,
                    api_calls.c.request_id,
                    alerts.c.episode,
                    alerts.c.starts_at,
                    alerts.c.outcome,
                    alerts.c.last_seen_at,
                )
                .join(api_calls, api_calls.c.id == alerts.c.api_call_id)
                .where(alerts.c.open_fingerprint.in_(some))
                .with_for_update()
            )
            for row in rows:
                self._incidents[row.open_fingerprint] = Incident(*row[2:6])
                # Its notifications are those that come to what the table has.
                self._holders[row.open_fingerprint] = {
                    "id": row.id,
                    "last_seen_at": row.last_seen_at,
                    "notifications": 0,
                }

    def _read_resolves(
        self, connection: Connection, fingerprints: list[str], since: datetime
    ) -> None:
        for some in database.in_chunks(fingerprints):
            rows = connection.execute(
                select(alerts.c.fingerprint, alerts.c.ends_at, alerts.c.created_at)
                .join(api_calls, api_calls.c.id == alerts.c.api_call_id)
                .where(
                    alerts.c.fingerprint.in_(some),
                    alerts.c.status == alertmanager.RESOLVED,
                    alerts.c.created_at >= since,
                    # A replay overtakes nothing: it came long before it was recorded.
                    api_calls.c.replay_of.is_(None),
                )
            )
            for fingerprint, ends_at, came_at in rows:
                self._resolves[fingerprint].append((ends_at, came_at))

    def _read_last(self, connection: Connection, fingerprints: list[str], since: datetime) -> None:
        for some in database.in_chunks(fingerprints):
            rows = connection.execute(
                select(alerts.c.fingerprint, func.max(alerts.c.created_at))
                .where(
                    alerts.c.fingerprint.in_(some),
                    alerts.c.outcome == admission.ADMITTED,
                    alerts.c.created_at > since,
                )
                .group_by(alerts.c.fingerprint)
            )
            self._last.update(rows.all())

    def _read_admitted(self, connection: Connection, names: list[str], since: datetime) -> None:
        for some in database.in_chunks(names):
            rows = connection.execute(
                select(alerts.c.alert_name, alerts.c.created_at)
                .where(
                    alerts.c.alert_name.in_(some),
                    alerts.c.outcome == admission.ADMITTED,
                    alerts.c.created_at > since,
                )
                .order_by(alerts.c.created_at)
            )
            for name, admitted_at in rows:
                self._admitted[name].append(admitted_at)

    def decide(self, alert: Alert, received_at: datetime) -> Decision:
        """The outcome of an alert that comes next."""
        return admission.decide(
            alert,
            received_at,
            self._incidents.get(alert.fingerprint),
            self._skew,
            lambda start: self._resolved_since(alert.fingerprint, start, received_at),
            lambda: self._limit(alert, received_at),
        )

    def enter(self, request_id: str, alert: Alert, decision: Decision, row: dict[str, Any]) -> None:
        """Notes what was decided. row: what is going to be inserted for the alert."""
        key, now = alert.fingerprint, row["created_at"]
        held = self._incidents.get(key)
        if decision.closes:
            holder = self._holders.pop(key)
            holder.update(open_fingerprint=None, closed_at=now)
            if "id" in holder:
                self._closed.append(holder)
            del self._incidents[key]
        elif held and alert.status == alertmanager.FIRING and decision.episode == held.episode:
            holder = self._holders[key]
            # What was held up comes after what was received later.
            seen = max(now, holder["last_seen_at"])
            holder.update(last_seen_at=seen, notifications=holder["notifications"] + 1)
            if "id" in holder:
                self._seen[holder["id"]] = holder
        if decision.opens:
            self._incidents[key] = Incident(
                request_id, decision.episode, row["starts_at"], decision.outcome
            )
            self._holders[key] = row
        if decision.outcome == admission.ADMITTED:
            self._last[key] = max(now, self._last.get(key, now))
            bisect.insort(self._admitted[row["alert_name"]], now)
        if alert.status == alertmanager.RESOLVED:
            self._resolves[key].append((row["ends_at"], now))

    def write(self, connection: Connection) -> None:
        """Writes what has changed in rows of the table."""
        for some in _few(self._closed):
            connection.execute(_closing(len(some)), _numbered(some, "id", "closed_at"))
        for some in _few(list(self._seen.values())):
            connection.execute(
                _counting(len(some)), _numbered(some, "id", "last_seen_at", "notifications")
            )

    def _resolved_since(self, fingerprint: str, start: datetime, now: datetime) -> bool:
        # A resolve that claims to end in the future counts up to the moment it came. One that
        # came long ago did not overtake this notification: Alertmanager resolves what it hears
        # nothing of, and the same alert, with the same start, fires again once Prometheus is
        # heard again.
        oldest = max(start, now - admission.LATE)
        return any(
            ends_at >= start and came_at >= oldest
            for ends_at, came_at in self._resolves[fingerprint]
        )

    def _limit(self, alert: Alert, now: datetime) -> Decision | None:
        return self._cooling(alert, now) or self._too_many(alert, now)

    def _cooling(self, alert: Alert, now: datetime) -> Decision | None:
        last = self._last.get(alert.fingerprint)
        if not self._config.cooldown_seconds or not last or last + self._cooldown <= now:
            return None
        until = timestamps.format_timestamp(last + self._cooldown)
        return Decision(admission.COOLDOWN, f"cooldown until {until}")

    def _too_many(self, alert: Alert, now: datetime) -> Decision | None:
        limit = self._config.max_remediations_per_hour
        if not limit:
            return None
        times = self._admitted[cut(alert.name, alerts.c.alert_name)]
        counted = bisect.bisect_right(times, now - _HOUR)
        if len(times) - counted < limit:
            return None
        # There may be more of them than the limit: it was higher, or replays were forced.
        until = timestamps.format_timestamp(times[-limit] + _HOUR)
        return Decision(
            admission.RATE_LIMITED, f"limit of {limit} an hour for this alert name until {until}"
        )


def _few(rows: Sequence[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    for start in range(0, len(rows), 100):
        yield rows[start : start + 100]


def _numbered(rows: Sequence[dict[str, Any]], *names: str) -> dict[str, Any]:
    return {f"{name}_{i}": row[name] for i, row in enumerate(rows) for name in names}


# One statement for many rows, each with values of its own. They are kept because SQLAlchemy takes
# longer to put one together than the database to execute it.
@functools.lru_cache(maxsize=None)
def _closing(count: int) -> Any:
    return _of_each(count).values(open_fingerprint=None, closed_at=_each(count, "closed_at"))


@functools.lru_cache(maxsize=None)
def _counting(count: int) -> Any:
    return _of_each(count).values(
        last_seen_at=_each(count, "last_seen_at"),
        notifications=alerts.c.notifications + _each(count, "notifications"),
    )


def _of_each(count: int) -> Any:
    return update(alerts).where(alerts.c.id.in_([bindparam(f"id_{i}") for i in range(count)]))


def _each(count: int, name: str) -> Any:
    column = alerts.c[name]
    values = [bindparam(f"{name}_{i}", type_=column.type) for i in range(count)]
    return case(*((alerts.c.id == bindparam(f"id_{i}"), v) for i, v in enumerate(values)))


def _json(value: Any) -> str:
    text = _encode(value)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        # Lone surrogates stay as the escapes they came in.
        return json.dumps(value)
    return text


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
