"""The writes of a trail: record what was announced, link what was started for it."""

import hashlib
import json
import time
import uuid
from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import Any, Callable, Dict, List, Optional, Sequence

from sqlalchemy import func, select, update
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, SQLAlchemyError

from poundcake import admission, alertmanager, database
from poundcake.admission import Decision, Incident
from poundcake.alertmanager import Alert, PayloadError, Webhook
from poundcake.announcement import Request
from poundcake.config import Config
from poundcake.database import DatabaseError
from poundcake.errors import PoundCakeError
from poundcake.schema import alerts, api_calls, cut, executions, links

# Two that write the same rows at once: the database picks one, the other tries again.
_ATTEMPTS = 5
# MariaDB's codes for a deadlock, for a lock waited for in vain, and for the savepoint that went
# with the transaction that a deadlock ended.
_DEADLOCK = ((1213,), (1205,), (1305,))
FATE_NONE = "none"


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
    for attempt in range(_ATTEMPTS):
        try:
            return _record_all(engine, config, requests)
        except DatabaseError as error:
            if not _is_deadlock(error) or attempt == _ATTEMPTS - 1:
                raise
            time.sleep(0.05 * 2**attempt)
    raise AssertionError("unreachable")


def _is_deadlock(error: DatabaseError) -> bool:
    cause = error.__cause__
    return isinstance(cause, DBAPIError) and cause.orig.args[:1] in _DEADLOCK


def _record_all(engine: Engine, config: Config, requests: Sequence[Request]) -> Dict[str, Any]:
    result: Counter = Counter()
    outcomes: Counter = Counter()
    with database.transaction(engine) as connection:
        for request in requests:
            try:
                counted = _record_safely(connection, config, request)
                if counted is None:
                    result["known"] += 1
                else:
                    outcomes.update(counted)
                    result["recorded"] += 1
            except OperationalError:
                raise
            # Whatever is wrong with one request, the others go on.
            except Exception as error:
                what = (
                    database.describe(error, engine)
                    if isinstance(error, SQLAlchemyError)
                    else str(error)
                )
                request_id = _free_id(connection, request)
                if request_id:
                    with connection.begin_nested():
                        _insert_call(connection, request, request_id, None, error=what)
                    result["failed"] += 1
    return {
        "recorded": result["recorded"],
        "known": result["known"],
        "failed": result["failed"],
        "outcomes": dict(outcomes),
    }


def _record_safely(connection: Connection, config: Config, request: Request) -> Optional[Counter]:
    """Records one request under a savepoint; None where it is on record already."""
    for attempt in range(_ATTEMPTS):
        request_id = _free_id(connection, request)
        if request_id is None:
            return None
        try:
            with connection.begin_nested():
                return _record_one(connection, config, request, request_id)
        except IntegrityError:
            # Another endpoint's record had the same request, or opened the same incident, at this
            # moment: now it can be seen.
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def _free_id(connection: Connection, request: Request) -> Optional[str]:
    """The id to record the request under; None where it is on record."""
    sha256 = body_sha256(request.body)
    request_id = request.request_id
    for candidate in (request_id, second_id(request_id, sha256)):
        found = connection.scalar(
            select(api_calls.c.body_sha256).where(api_calls.c.request_id == candidate)
        )
        if found is None:
            return candidate
        if found == sha256:
            return None
    return None


def _insert_call(
    connection: Connection,
    request: Request,
    request_id: str,
    webhook: Optional[Webhook],
    error: str = "",
) -> int:
    client_id = request.client_request_id
    if request_id != request.request_id:
        client_id = client_id or request.request_id
    result = connection.execute(
        api_calls.insert().values(
            request_id=request_id,
            method=cut(request.method, api_calls.c.method),
            path=cut(request.path, api_calls.c.path),
            headers=_json(request.headers),
            body=request.body,
            status_code=202,
            created_at=request.received_at,
            completed_at=request.received_at if error else None,
            client_request_id=cut(client_id, api_calls.c.client_request_id) or None,
            client_host=cut(request.client_host, api_calls.c.client_host),
            receiver=cut(webhook.receiver, api_calls.c.receiver) if webhook else None,
            group_key=_storable(webhook.group_key) if webhook else None,
            group_status=webhook.group_status if webhook else None,
            truncated_alerts=webhook.truncated_alerts if webhook else 0,
            delivery_key=webhook.delivery_key if webhook else None,
            body_sha256=body_sha256(request.body),
            error=_storable(error)[:4000] or None,
        )
    )
    return result.inserted_primary_key[0]


def _record_one(
    connection: Connection, config: Config, request: Request, request_id: str
) -> Counter:
    try:
        webhook = alertmanager.parse(request.body.encode("utf-8", "surrogatepass"))
    except PayloadError as error:
        raise ValueError(f"the payload cannot be read: {error}") from None
    call_id = _insert_call(connection, request, request_id, webhook)
    counted: Counter = Counter()
    limits = _Limits(connection, config, request.received_at)
    first: Dict[Any, Decision] = {}
    repeated: List[Alert] = []
    for batch in _rounds(_apart(webhook.alerts, repeated)):
        rows = []
        seen = []
        closed = []
        incidents = _incidents(connection, [a.fingerprint for a in batch])
        for alert in batch:
            incident = incidents.get(alert.fingerprint)
            decision = admission.decide(
                alert,
                request.received_at,
                incident,
                timedelta(seconds=config.episode_skew_seconds),
                lambda start, a=alert: _resolved_since(
                    connection, a.fingerprint, start, request.received_at
                ),
                lambda a=alert: limits.refuse(a),
            )
            if decision.outcome == admission.ADMITTED:
                limits.admitted(alert)
            if decision.closes:
                closed.append(incident.alert_id)
            elif incident and decision.episode == incident.episode:
                seen.append(incident.alert_id)
            rows.append(_alert_row(call_id, request.received_at, alert, decision))
            first[_sameness(alert)] = decision
            counted[decision.outcome] += 1
        for ids in database.in_chunks(closed):
            connection.execute(
                update(alerts).where(alerts.c.id.in_(ids)).values(open_fingerprint=None)
            )
        for ids in database.in_chunks(seen):
            connection.execute(
                update(alerts)
                .where(alerts.c.id.in_(ids))
                .values(last_seen_at=request.received_at, notifications=alerts.c.notifications + 1)
            )
        connection.execute(alerts.insert(), rows)
        limits.written()
    if repeated:
        rows = []
        for alert in repeated:
            name = first[_sameness(alert)].episode
            decision = Decision(admission.DUPLICATE, f"duplicate of {request_id}", name)
            rows.append(_alert_row(call_id, request.received_at, alert, decision))
        connection.execute(alerts.insert(), rows)
        counted[admission.DUPLICATE] += len(repeated)
        again = Counter(a.fingerprint for a in repeated if a.status == alertmanager.FIRING)
        for fingerprint, times in again.items():
            connection.execute(
                update(alerts)
                .where(alerts.c.open_fingerprint == fingerprint)
                .values(notifications=alerts.c.notifications + times)
            )
    if not any(counted[outcome] for outcome in admission.EMITTED):
        connection.execute(
            update(api_calls)
            .where(api_calls.c.id == call_id)
            .values(completed_at=datetime.now(timezone.utc))
        )
    return counted


def _sameness(alert: Alert) -> Any:
    return alert.fingerprint, alert.status, alert.starts_at


def _apart(found: List[Alert], repeated: List[Alert]) -> List[Alert]:
    """The alerts without those that stand in the same payload already, which go to repeated."""
    seen = set()
    kept = []
    for alert in found:
        known = not alert.problem and _sameness(alert) in seen
        (repeated if known else kept).append(alert)
        if not alert.problem:
            seen.add(_sameness(alert))
    return kept


def _rounds(found: List[Alert]) -> List[List[Alert]]:
    """The alerts in lists in which no fingerprint occurs twice, in the order they came.

    What is malformed asks for no incident, and goes with the first.
    """
    rounds: List[List[Alert]] = []
    occurrences: Counter = Counter()
    for alert in found:
        nth = 0 if alert.problem else occurrences[alert.fingerprint]
        occurrences[alert.fingerprint] += not alert.problem
        if nth == len(rounds):
            rounds.append([])
        rounds[nth].append(alert)
    return rounds


def _alert_row(
    call_id: int, received_at: datetime, alert: Alert, decision: Decision
) -> Dict[str, Any]:
    ends_at = alert.ends_at
    if alert.status != alertmanager.FIRING and ends_at is None:
        ends_at = received_at
    return {
        "api_call_id": call_id,
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
    }


def _incidents(connection: Connection, fingerprints: List[str]) -> Dict[str, Incident]:
    found = {}
    for some in database.in_chunks(sorted(set(fingerprints))):
        rows = connection.execute(
            select(
                alerts.c.open_fingerprint,
                alerts.c.id,
                api_calls.c.request_id,
                alerts.c.episode,
                alerts.c.starts_at,
                alerts.c.outcome,
            )
            .join(api_calls, api_calls.c.id == alerts.c.api_call_id)
            .where(alerts.c.open_fingerprint.in_(some))
            .with_for_update()
        )
        found.update({row[0]: Incident(*row[1:]) for row in rows})
    return found


def _resolved_since(
    connection: Connection, fingerprint: str, start: datetime, now: datetime
) -> bool:
    # A resolve that claims to end in the future counts up to the moment it came. One that came
    # long ago did not overtake this notification: Alertmanager resolves what it hears nothing of,
    # and the same alert, with the same start, fires again once Prometheus is heard again.
    found = connection.scalar(
        select(alerts.c.id)
        .where(
            alerts.c.fingerprint == fingerprint,
            alerts.c.status == alertmanager.RESOLVED,
            alerts.c.ends_at >= start,
            alerts.c.created_at >= max(start, now - admission.LATE),
        )
        .limit(1)
    )
    return found is not None


class _Limits:
    """Cooldown per fingerprint and the limit per alert name and hour, as of one request."""

    def __init__(self, connection: Connection, config: Config, now: datetime):
        self._connection = connection
        self._config = config
        self._now = now
        self._here: Counter = Counter()

    def admitted(self, alert: Alert) -> None:
        self._here[alert.name] += 1

    def written(self) -> None:
        """What was admitted is in the table now, and counted there."""
        self._here.clear()

    def refuse(self, alert: Alert) -> Optional[Decision]:
        return self._cooldown(alert) or self._rate(alert)

    def _cooldown(self, alert: Alert) -> Optional[Decision]:
        if not self._config.cooldown_seconds:
            return None
        last = self._connection.scalar(
            select(func.max(alerts.c.created_at)).where(
                alerts.c.fingerprint == alert.fingerprint,
                alerts.c.outcome == admission.ADMITTED,
            )
        )
        until = last and last + timedelta(seconds=self._config.cooldown_seconds)
        if not until or until <= self._now:
            return None
        return Decision(admission.COOLDOWN, f"cooldown until {alertmanager.timestamp(until)}")

    def _rate(self, alert: Alert) -> Optional[Decision]:
        limit = self._config.max_remediations_per_hour
        if not limit:
            return None
        hour = timedelta(hours=1)
        count, oldest = self._connection.execute(
            select(func.count(), func.min(alerts.c.created_at)).where(
                alerts.c.alert_name == cut(alert.name, alerts.c.alert_name),
                alerts.c.outcome == admission.ADMITTED,
                alerts.c.created_at > self._now - hour,
            )
        ).one()
        if count + self._here[alert.name] < limit:
            return None
        until = alertmanager.timestamp((oldest or self._now) + hour)
        return Decision(
            admission.RATE_LIMITED, f"limit of {limit} an hour for this alert name until {until}"
        )


def claim_key(episode: str, workflow: str) -> str:
    """What only one execution can hold: the workflow's claim on the episode."""
    key = f"{episode}|{workflow}"
    if len(key) > links.c.claim.type.length:
        key = f"{episode}|{hashlib.sha256(workflow.encode()).hexdigest()}"
    return key


def link(
    engine: Engine, request_id: str, episode: str, workflow: str, execution_id: str
) -> Dict[str, Any]:
    """Claims the episode for the workflow and links the execution to the alert.

    Returns {claimed, reason, alert_id}. The execution that holds the claim gets it again; any
    other gets ``claimed: False`` with the reason, and no link. Raises TrackingError where no such
    alert is on record.
    """
    if not execution_id:
        raise TrackingError(
            "execution_id: empty; link is a task of a workflow, or is given the execution's id"
        )
    try:
        with database.transaction(engine) as connection:
            return _link(connection, request_id, episode, workflow, execution_id)
    except IntegrityError:
        # Another execution was first; its row is there now.
        with database.transaction(engine) as connection:
            return _link(connection, request_id, episode, workflow, execution_id)


def _link(
    connection: Connection, request_id: str, episode: str, workflow: str, execution_id: str
) -> Dict[str, Any]:
    alert = connection.execute(
        select(alerts.c.id, alerts.c.outcome, alerts.c.reason)
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
    key = claim_key(episode, workflow)
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
    return {"claimed": True, "reason": "", "alert_id": alert.id}


def _refusal(alert_id: int, reason: str) -> Dict[str, Any]:
    return {"claimed": False, "reason": reason, "alert_id": alert_id}


def release(engine: Engine, episode: str, workflow: str = "") -> List[Dict[str, Any]]:
    """Gives claims on an episode free, of one workflow or of all.

    For an operator, after a workflow that ended between its claim and its work: never done by
    itself. The links stay. Returns [{st2_execution_id, st2_workflow}] of those released.
    """
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
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        # Lone surrogates stay as the escapes they came in.
        return json.dumps(value)
    return text


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
