"""The writes of a trail: record what was announced, link what was started for it."""

import bisect
import functools
import hashlib
import json
import time
import uuid
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from sqlalchemy import bindparam, case, func, or_, select, update
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, SQLAlchemyError

from poundcake import admission, alertmanager, database
from poundcake.admission import Decision, Incident, Original
from poundcake.alertmanager import Alert, PayloadError, Webhook
from poundcake.announcement import Request
from poundcake.config import Config
from poundcake.database import DatabaseError
from poundcake.errors import PoundCakeError
from poundcake.schema import alerts, api_calls, cut, executions, links, meta

# Two that write the same rows at once: the database picks one, the other tries again.
_ATTEMPTS = 5
# MariaDB's codes for a deadlock, for a lock waited for in vain, and for the savepoint that went
# with the transaction that a deadlock ended.
_DEADLOCK = ((1213,), (1205,), (1305,))
_HOUR = timedelta(hours=1)
# An alert is emitted for give_up_hours at most.
_LONGEST_EMITTED = timedelta(hours=720)
# json.dumps makes a new encoder at each call.
_encode = json.JSONEncoder(ensure_ascii=False).encode
# Fates of an alert; sync.py has the others.
FATE_NONE, FATE_LOST = "none", "lost"


_LINKED = [
    alerts.c[name] for name in ("id episode instance outcome reason attempt fate closed_at").split()
]


class TrackingError(PoundCakeError):
    """What was asked for does not fit what is on record. The message says why."""


def body_sha256(body: str) -> str:
    """Names a body; the same id with another body is another request."""
    return hashlib.sha256(body.encode("utf-8", "surrogatepass")).hexdigest()


def second_id(request_id: str, sha256: str) -> str:
    """The id of a request whose own id is taken by another body: the same one at every try."""
    return str(uuid.uuid5(uuid.UUID(request_id), sha256))


def record(
    engine: Engine, config: Config, requests: Sequence[Request], database_id: str = ""
) -> Dict[str, Any]:
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
    return _despite_deadlocks(lambda: _record_all(engine, config, requests))


def replay(engine: Engine, config: Config, request_id: str, force: bool = False) -> Dict[str, Any]:
    """Records a recorded request anew, in a request of its own that names it as replay_of.

    An alert is admitted where its incident is open and no execution has claimed its episode; with
    force in any case, as a further attempt at the episode. A request whose alerts could not be
    recorded is recorded as if it came now.

    Returns {request_id: of the new request, replay_of, outcomes: {outcome: n}}. Raises
    TrackingError where request_id is not on record, or cannot be recorded this time either, and
    DatabaseError where nothing could be written.
    """
    database.prepare(engine, create=config.auto_migrate)
    return _despite_deadlocks(lambda: _replay(engine, config, request_id, force))


def _despite_deadlocks(work: Callable[[], Any]) -> Any:
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


def _record_all(engine: Engine, config: Config, requests: Sequence[Request]) -> Dict[str, Any]:
    with database.transaction(engine) as connection:
        result = _record_safely(connection, config, requests)
    return {
        "recorded": result.recorded,
        "known": result.known,
        "failed": result.failed,
        "outcomes": dict(result.outcomes),
    }


def _replay(engine: Engine, config: Config, request_id: str, force: bool) -> Dict[str, Any]:
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
        result = _record_safely(connection, config, [request], original)
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


@dataclass
class _Result:
    recorded: int = 0
    known: int = 0
    failed: int = 0
    outcomes: Counter = field(default_factory=Counter)

    def __add__(self, other: "_Result") -> "_Result":
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
    webhook: Optional[Webhook] = None

    @property
    def alerts(self) -> List[Alert]:
        return self.webhook.alerts if self.webhook else []


def _record_safely(
    connection: Connection,
    config: Config,
    requests: Sequence[Request],
    original: Optional[_Original] = None,
) -> _Result:
    """Records a list under one savepoint; where that fails, each half of it by itself, down to
    the request that is at fault."""
    for _ in range(_ATTEMPTS):
        try:
            with connection.begin_nested():
                return _record_list(connection, config, requests, original)
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
        first = _record_safely(connection, config, requests[:half])
        return first + _record_safely(connection, config, requests[half:])
    if isinstance(failure, SQLAlchemyError):
        what = database.describe(failure, connection.engine)
    else:
        what = str(failure) or type(failure).__name__
    with connection.begin_nested():
        return _record_list(connection, config, requests, original, what)


def _record_list(
    connection: Connection,
    config: Config,
    requests: Sequence[Request],
    original: Optional[_Original],
    error: str = "",
) -> _Result:
    """Records a list as its requests would be recorded one after the other.

    original: what the one request in it is a replay of. error: why the requests are recorded
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
    if original:
        book: _Book = _ReplayBook(connection, config, entries, original)
    else:
        book = _Book(connection, config, entries)
    replay_of = original.request_id if original else None
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
    ids: Dict[str, int] = {}
    for some in database.in_chunks([entry.request_id for entry in entries]):
        found = select(api_calls.c.request_id, api_calls.c.id)
        ids.update(connection.execute(found.where(api_calls.c.request_id.in_(some))).all())
    for row, request_id in zip(rows, of_call):
        row["api_call_id"] = ids[request_id]
    if rows:
        connection.execute(alerts.insert(), rows)
    return result


def _not_on_record(connection: Connection, requests: Sequence[Request]) -> List[_Entry]:
    """Those of the requests that are not on record, once each."""
    hashes = [body_sha256(request.body) for request in requests]
    ids = [(r.request_id, second_id(r.request_id, h)) for r, h in zip(requests, hashes)]
    known: Dict[str, str] = {}
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


def _decide(book: "_Book", entry: _Entry) -> List[Dict[str, Any]]:
    """The rows of a request's alerts, each with its outcome, and entered into the book."""
    rows = []
    first: Dict[Any, Decision] = {}
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


def _call_row(entry: _Entry, emitted: bool, replay_of: Optional[str]) -> Dict[str, Any]:
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


def _alert_row(received_at: datetime, alert: Alert, decision: Decision) -> Dict[str, Any]:
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
        "fate": None if decision.outcome in admission.EMITTED else FATE_NONE,
        "open_fingerprint": alert.fingerprint if decision.opens else None,
        "last_seen_at": received_at,
        "notifications": 1,
        "closed_at": None,
        "attempt": decision.attempt,
    }


class _Book:
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
        self._incidents: Dict[str, Incident] = {}
        self._holders: Dict[str, Dict[str, Any]] = {}
        # Those of the table that change.
        self._closed: List[Dict[str, Any]] = []
        self._seen: Dict[int, Dict[str, Any]] = {}
        # (ends_at, when it came) of resolves.
        self._resolves: Dict[str, List[Tuple[datetime, datetime]]] = defaultdict(list)
        # When the fingerprint was admitted last, and when the name was, in order.
        self._last: Dict[str, datetime] = {}
        self._admitted: Dict[str, List[datetime]] = defaultdict(list)
        self._read_incidents(connection, sorted({a.fingerprint for a in found}))
        self._read_resolves(connection, fingerprints, earliest - admission.LATE)
        if config.cooldown_seconds:
            self._cooldown = timedelta(seconds=config.cooldown_seconds)
            self._read_last(connection, fingerprints, earliest - self._cooldown)
        if config.max_remediations_per_hour:
            self._read_admitted(connection, names, earliest - _HOUR)

    def _read_incidents(self, connection: Connection, fingerprints: List[str]) -> None:
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
        self, connection: Connection, fingerprints: List[str], since: datetime
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

    def _read_last(self, connection: Connection, fingerprints: List[str], since: datetime) -> None:
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

    def _read_admitted(self, connection: Connection, names: List[str], since: datetime) -> None:
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

    def enter(self, request_id: str, alert: Alert, decision: Decision, row: Dict[str, Any]) -> None:
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

    def _limit(self, alert: Alert, now: datetime) -> Optional[Decision]:
        return self._cooling(alert, now) or self._too_many(alert, now)

    def _cooling(self, alert: Alert, now: datetime) -> Optional[Decision]:
        last = self._last.get(alert.fingerprint)
        if not self._config.cooldown_seconds or not last or last + self._cooldown <= now:
            return None
        until = alertmanager.timestamp(last + self._cooldown)
        return Decision(admission.COOLDOWN, f"cooldown until {until}")

    def _too_many(self, alert: Alert, now: datetime) -> Optional[Decision]:
        limit = self._config.max_remediations_per_hour
        if not limit:
            return None
        times = self._admitted[cut(alert.name, alerts.c.alert_name)]
        counted = bisect.bisect_right(times, now - _HOUR)
        if len(times) - counted < limit:
            return None
        # There may be more of them than the limit: it was higher, or replays were forced.
        until = alertmanager.timestamp(times[-limit] + _HOUR)
        return Decision(
            admission.RATE_LIMITED, f"limit of {limit} an hour for this alert name until {until}"
        )


class _ReplayBook(_Book):
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
        self._admitted_here: Set[str] = set()
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
        self._attempts: Dict[str, int] = {}
        self._claims: Dict[str, str] = {}
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


def _few(rows: Sequence[Dict[str, Any]]) -> Iterator[Sequence[Dict[str, Any]]]:
    for start in range(0, len(rows), 100):
        yield rows[start : start + 100]


def _numbered(rows: Sequence[Dict[str, Any]], *names: str) -> Dict[str, Any]:
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
) -> Dict[str, Any]:
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
) -> Dict[str, Any]:
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
            f"the incident ended at {alertmanager.timestamp(ended)}; `st2 run poundcake.replay "
            f"request_id={request_id} force=true` works on it all the same",
        )
    if host_cooldown and alert.instance:
        # Two alerts of a host that ask at once must see each other.
        connection.execute(
            select(meta.c.value).where(meta.c.name == "database_id").with_for_update()
        )
        busy = worked_on(connection, alert.instance, workflow, now - host_cooldown)
        if busy:
            until = alertmanager.timestamp(busy.created_at + host_cooldown)
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
    if alert.fate == FATE_LOST:
        # It was given up, and StackStorm had it all the same.
        its_own = alerts.c.id == alert.id
        connection.execute(update(alerts).where(its_own).values(fate=None, fate_reason=None))
        its_call = api_calls.c.request_id == request_id
        connection.execute(update(api_calls).where(its_call).values(completed_at=None))
    return {"claimed": True, "reason": "", "alert_id": alert.id}


def ended_at(connection: Connection, alert: Any) -> Optional[datetime]:
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


def _refusal(alert_id: int, reason: str) -> Dict[str, Any]:
    return {"claimed": False, "reason": reason, "alert_id": alert_id}


def release(engine: Engine, episode: str, workflow: str = "") -> List[Dict[str, Any]]:
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


def patiently(work: Callable[[], Any], seconds: float) -> Any:
    """work(), tried again while the database cannot be used, for so many seconds."""
    deadline = time.monotonic() + seconds
    pause = 0.2
    while True:
        try:
            return work()
        except DatabaseError:
            if time.monotonic() + pause > deadline:
                raise
        time.sleep(pause)
        pause = min(pause * 2, 5)


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
