"""Reserve changes: read everything that a decision depends on, decide, and record the decision.

One transaction does all of this, and only one such transaction runs at a time. So no limit is
exceeded, even if many workflows on several machines ask at the same time. The caller passes the
deciding function, `poundcake.remediation.safety.decide`.

All times are by the database's clock.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Callable, Mapping, NamedTuple, Protocol, Sequence, TypeVar

from sqlalchemy import ColumnElement, Row, func, or_, select
from sqlalchemy.engine import Connection, Engine

from poundcake.alertmanager import FIRING
from poundcake.config import Config
from poundcake.hosts import host_from_labels
from poundcake.trail import clock, database
from poundcake.trail.changes import (
    COLUMNS,
    FAILURES,
    LEASE,
    SUCCESSES,
    Change,
    ChangeResult,
    dump_evidence,
    find_changes,
    is_granted,
    is_in_flight,
    opens_breaker,
    plan_retry,
    write_decision,
)
from poundcake.trail.claims import EpisodeAlert, find_incident_end
from poundcake.trail.errors import TrackingError
from poundcake.trail.execution_results import end_result, result_of_refusal
from poundcake.trail.open_work import is_open
from poundcake.trail.outbox import Ending, EndResult, add_ending
from poundcake.trail.outcomes import Outcome
from poundcake.trail.pause import Pause, lock_decisions, read_pause
from poundcake.trail.recorded_alert import read_alert
from poundcake.trail.schema import alerts, changes, cut, to_json, unindexed

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


@dataclass(frozen=True)
class ChangeRequest:
    """A change that a workflow requests.

    Attributes:
        request_id: The request that contained the alert.
        episode: The alert's episode.
        action: The reference of the action that makes the change; empty to only collect evidence.
        execution_id: The workflow's execution.
        remediation: The name under which the limits count the change; empty to use `action`.
        needs_host: Whether to refuse an alert without a usable host.
        check_failed: Whether a check has just failed, which confirms that the problem exists.
        approval_problem: Why the change is not approved, or empty.
        approval_expired: Whether it is not approved because nobody answered in time.
        objection: Why a condition of the entry in `remediations` forbids the change, or empty.
        silenced_by: Who has silenced the alert, as Alertmanager answered just now, or empty.
        alertmanager_problem: Why no Alertmanager answered, or empty.
        target_labels: The labels that identify the target; empty if the target is the host.
        per_label: A label whose values have limits of their own, at_once and storm; or empty.
        at_once: How many changes may be in flight for one value of per_label; 0 for any number.
        storm: Refuse the change if more incidents than this have the same value of per_label; 0 if
            only the configured storm_limit applies.
        change: A description of the change for the report of a dry run; empty to use the action
            and the target.
        evidence: What the checks saw, one line each.
        preview: Whether this request only finds out if an approver may be asked. In that case, a
            change that may be made is neither recorded nor counted.
        retry: Whether sync may start the workflow again if the refusal ends by itself.
    """

    request_id: str = ""
    episode: str = ""
    action: str = ""
    execution_id: str = ""
    remediation: str = ""
    needs_host: bool = True
    check_failed: bool = False
    approval_problem: str = ""
    approval_expired: bool = False
    objection: str = ""
    silenced_by: str = ""
    alertmanager_problem: str = ""
    target_labels: tuple[str, ...] = ()
    per_label: str = ""
    at_once: int = 1
    storm: int = 0
    change: str = ""
    evidence: tuple[str, ...] = ()
    preview: bool = False
    retry: bool = False

    @property
    def remediation_name(self) -> str:
        """The name under which limits and the breaker count the change."""
        return self.remediation or self.action


@dataclass(frozen=True)
class Situation:
    """Everything that the decision about a change depends on, apart from the configuration.

    Attributes:
        now: The current time by the database's clock.
        named_host: The value of the alert's host label, unchanged; empty if it has none.
        status: The alert's status, `firing` or `resolved`.
        alert_name: The alert's name.
        episode: The alert's episode.
        opened_at: When the first notification of the incident was received.
        last_seen_at: When its last notification was received.
        incident_ended_at: When the incident ended, or None while it is open.
        acknowledged_by: Who acknowledged the incident, or empty.
        silenced_by: Who silenced its alert in Alertmanager, or empty.
        target: The target of the change: a canonical host, `label=value,…` or
            `fingerprint=value`.
        missing_label: The first of target_labels that the alert lacks, or empty.
        per_value: `label=value` for per_label, or empty.
        pause: The current pause, or None.
        similar_count: The number of label sets with the same alert name whose incidents are open,
            or were resolved in the last storm_quiet_minutes.
        similar_count_per_value: The part of similar_count with the same per_value; 0 if the request
            has no `storm`.
        claiming_change: The change that holds the claim on the attempt at the episode, or None.
        own_change: The change that this execution was granted earlier, or None.
        in_flight: The changes of other executions that are being made or verified, oldest first.
        changes_last_hour: The changes in the last hour, newest first, at most max_changes_per_hour.
        remediation_changes_last_hour: The remediation's changes in the last hour, newest first, at
            most max_changes_per_remediation_per_hour.
        target_changes_last_day: The target's changes in the last 24 hours, newest first, at most
            max_changes_per_target_per_day.
        last_target_change: The target's most recently ended change, except released ones, or None.
        breaker_changes: The remediation's changes whose results the breaker considers, newest
            first, at most breaker_failures.
    """

    now: datetime
    named_host: str = ""
    status: str = FIRING
    alert_name: str = ""
    episode: str = ""
    opened_at: datetime | None = None
    last_seen_at: datetime | None = None
    incident_ended_at: datetime | None = None
    acknowledged_by: str = ""
    silenced_by: str = ""
    target: str = ""
    missing_label: str = ""
    per_value: str = ""
    pause: Pause | None = None
    similar_count: int = 0
    similar_count_per_value: int = 0
    claiming_change: Change | None = None
    own_change: Change | None = None
    in_flight: Sequence[Change] = ()
    changes_last_hour: Sequence[Change] = ()
    remediation_changes_last_hour: Sequence[Change] = ()
    target_changes_last_day: Sequence[Change] = ()
    last_target_change: Change | None = None
    breaker_changes: Sequence[Change] = ()


class Decision(Protocol):
    """The properties of a decision that are recorded."""

    @property
    def may_change(self) -> bool:
        """Whether the change may be made."""

    @property
    def refusal_name(self) -> str:
        """The name of the control that refuses the change, or empty."""

    @property
    def message(self) -> str:
        """Why the change is refused, or empty."""

    @property
    def ends_by_itself(self) -> bool:
        """Whether the refusal ends without a person's intervention."""


class _AlertRow(EpisodeAlert, Protocol):
    """The columns of poundcake_alerts that a situation depends on."""

    @property
    def attempt(self) -> int: ...
    @property
    def alert_name(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def labels(self) -> str: ...
    @property
    def status(self) -> str: ...


class _HypotheticalAlert(NamedTuple):
    """An alert that was not received, to find out what would happen to it."""

    alert_name: str
    fingerprint: str
    labels: str
    episode: str = ""
    attempt: int = 1
    status: str = FIRING
    closed_at: datetime | None = None


DecisionT = TypeVar("DecisionT", bound=Decision)


def reserve(
    engine: Engine,
    config: Config,
    request: ChangeRequest,
    decide: Callable[[Situation], DecisionT],
) -> DecisionT:
    """Decide about a change, and record the decision.

    A granted change counts towards the limits immediately, and is in flight until its workflow
    ends. The same execution may ask again: it is granted the same change, which counts only once.

    Args:
        engine: The tracking database.
        config: The configuration, with the limits.
        request: The change.
        decide: Decides about the change, given the situation.

    Returns:
        The decision.

    Raises:
        TrackingError: No such alert is recorded, or the request has no execution.
        DatabaseError: The database is unavailable, so nothing may be changed.
    """
    if not request.execution_id:
        raise TrackingError(
            "execution_id: empty; run reserve as a task of a workflow, or pass the execution's id"
        )
    database.prepare(engine, create=False)

    def decide_and_record() -> DecisionT:
        with database.transaction(engine) as connection:
            lock_decisions(connection)
            alert = _find_alert(connection, request)
            situation = _read_situation(connection, config, request, alert)
            decision = decide(situation)
            _write_decision(connection, config, request, alert, situation, decision)
            return decision

    return database.retry_deadlocks(decide_and_record)


def read_situation(connection: Connection, config: Config, request: ChangeRequest) -> Situation:
    """Return the situation that a decision about a change would depend on now.

    Raises:
        TrackingError: No such alert is recorded.
    """
    return _read_situation(connection, config, request, _find_alert(connection, request))


def read_hypothetical_situation(
    connection: Connection, config: Config, request: ChangeRequest, labels: Mapping[str, str]
) -> Situation:
    """Return the situation for an alert with these labels, as if it were received now."""
    from poundcake.trail.record import config_identity  # only poundcake.plan loads it

    identity = config_identity(config)
    return _read_situation(
        connection,
        config,
        request,
        _HypotheticalAlert(
            alert_name=labels.get("alertname", ""),
            fingerprint=identity.fingerprint(labels, ""),
            labels=to_json(dict(labels)),
        ),
    )


def find_open_breakers(connection: Connection, breaker_failures: int) -> list[Change]:
    """Return the newest failure of each remediation that its breaker currently stops.

    Args:
        connection: A connection to the tracking database.
        breaker_failures: The configured value; 0 if there is no breaker.
    """
    remediations = connection.scalars(
        select(changes.c.remediation)
        .where(changes.c.result.in_(FAILURES), changes.c.released_at.is_(None))
        .distinct()
    ).all()
    breaker_changes = [
        _find_breaker_changes(connection, remediation, breaker_failures)
        for remediation in sorted(remediations)
    ]
    return [found[0] for found in breaker_changes if opens_breaker(found, breaker_failures)]


def change_claim(episode: str, attempt: int) -> str:
    """Return the unique key of the only change that an attempt at an episode may make."""
    return f"{episode}|{attempt}"


def _find_alert(connection: Connection, request: ChangeRequest) -> Row[Any]:
    columns = [alerts.c[name] for name in _HypotheticalAlert._fields]
    return read_alert(connection, request.request_id, request.episode, *columns)


def _read_situation(
    connection: Connection, config: Config, request: ChangeRequest, alert: _AlertRow
) -> Situation:
    now = clock.database_now(connection)
    labels: dict[str, str] = json.loads(alert.labels)
    target, missing_label = _derive_target(labels, request, config.host_label, alert.fingerprint)
    situation = Situation(
        now=now,
        named_host=labels.get(config.host_label, ""),
        status=alert.status,
        alert_name=alert.alert_name,
        episode=alert.episode,
        target=target,
        missing_label=missing_label,
    )
    if not request.action:
        # Nothing can be changed, so no limit and no other change matters.
        return situation
    incident = _read_incident(connection, alert.episode)
    changes_in_flight = find_changes(connection, *is_in_flight(now))
    is_granted_change = is_granted()
    has_remediation = changes.c.remediation == _stored_remediation_name(request)
    has_target = changes.c.target == target
    quiet_since = now - timedelta(minutes=config.storm_quiet_minutes)
    per_value = f"{request.per_label}={labels.get(request.per_label, '')}"
    similar_count_per_value = 0
    if request.per_label and request.storm:
        similar_count_per_value = _count_similar(
            connection, alert.alert_name, quiet_since, request, labels
        )
    return replace(
        situation,
        opened_at=incident.opened_at,
        last_seen_at=incident.last_seen_at,
        incident_ended_at=find_incident_end(connection, alert),
        acknowledged_by=incident.acknowledged_by or "",
        silenced_by=incident.silenced_by or "",
        per_value=cut(per_value, changes.c.per_value) if request.per_label else "",
        pause=read_pause(connection),
        similar_count=_count_similar(connection, alert.alert_name, quiet_since),
        similar_count_per_value=similar_count_per_value,
        claiming_change=_find_claiming_change(connection, alert),
        own_change=_find_own_change(connection, request),
        in_flight=[
            change
            for change in changes_in_flight
            if change.st2_execution_id != request.execution_id
        ],
        changes_last_hour=_find_newest_changes(
            connection, config.max_changes_per_hour, is_granted_change, _decided_after(now - HOUR)
        ),
        remediation_changes_last_hour=_find_newest_changes(
            connection,
            config.max_changes_per_remediation_per_hour,
            is_granted_change,
            has_remediation,
            _decided_after(now - HOUR),
        ),
        target_changes_last_day=_find_newest_changes(
            connection,
            config.max_changes_per_target_per_day,
            is_granted_change,
            has_target,
            _decided_after(now - DAY),
        ),
        last_target_change=_find_last_ended_change(connection, has_target),
        breaker_changes=_find_breaker_changes(
            connection, _stored_remediation_name(request), config.breaker_failures
        ),
    )


def _derive_target(
    labels: Mapping[str, str], request: ChangeRequest, host_label: str, fingerprint: str
) -> tuple[str, str]:
    """Return the target of the change, and the first target label that the alert lacks, or ''."""
    if request.target_labels:
        missing_label = next((name for name in request.target_labels if not labels.get(name)), "")
        target = ",".join(f"{name}={labels.get(name, '')}" for name in request.target_labels)
        return cut(target, changes.c.target), missing_label
    # An alert without a host is its own target.
    host = host_from_labels(labels, host_label)
    return cut(host or f"fingerprint={fingerprint}", changes.c.target), ""


def _read_incident(connection: Connection, episode: str) -> Row[Any]:
    """Return an incident's first and last notification, and who acknowledged or silenced it."""
    is_firing = alerts.c.status == FIRING
    acknowledged_by = (
        select(func.max(alerts.c.acknowledged_by))
        .where(alerts.c.episode == episode, is_open(), alerts.c.acknowledged_at.is_not(None))
        .scalar_subquery()
    )
    now = clock.database_now(connection)
    silenced_by = (
        select(func.max(func.coalesce(func.nullif(alerts.c.silenced_by, ""), "somebody")))
        .where(
            alerts.c.episode == episode,
            is_open(),
            alerts.c.silence_id.is_not(None),
            or_(alerts.c.silenced_until.is_(None), alerts.c.silenced_until > now),
        )
        .scalar_subquery()
    )
    return connection.execute(
        select(
            func.min(alerts.c.created_at).label("opened_at"),
            func.max(alerts.c.last_seen_at).label("last_seen_at"),
            acknowledged_by.label("acknowledged_by"),
            silenced_by.label("silenced_by"),
        ).where(alerts.c.episode == episode, is_firing)
    ).one()


def _count_similar(
    connection: Connection,
    alert_name: str,
    since: datetime,
    request: ChangeRequest | None = None,
    labels: Mapping[str, str] | None = None,
) -> int:
    """Count the label sets with an incident of this alert name that is open or recently resolved.

    Args:
        connection: A connection.
        alert_name: The alert's name.
        since: Ignore incidents that were resolved before this time.
        request: If given, count only alerts that have the same value of its per_label. A missing
            label is an empty string.
        labels: The labels of the alert.
    """
    conditions: list[ColumnElement[bool]] = []
    if request and labels is not None:
        conditions.append(_has_label(request.per_label, labels.get(request.per_label, "")))
    # Search the index of open incidents, not the whole history of the alert name.
    has_name = unindexed(alerts.c.alert_name) == alert_name
    open_incidents = select(alerts.c.open_fingerprint).where(is_open(), has_name, *conditions)
    resolved_incidents = select(alerts.c.fingerprint).where(
        alerts.c.alert_name == alert_name,
        alerts.c.created_at > since,
        alerts.c.outcome == Outcome.RESOLVED,
        *conditions,
    )
    fingerprints = open_incidents.union(resolved_incidents).subquery("similar")
    return connection.scalar(select(func.count()).select_from(fingerprints)) or 0


def _has_label(name: str, value: str) -> ColumnElement[bool]:
    """Return the condition that an alert has this value of a label, which '' means it may lack."""
    # Search for the label as to_json() writes it. Quotes within values are escaped, so this text
    # matches only the label itself.
    label_json = to_json({name: value})[1:-1]
    has_value = func.instr(alerts.c.labels, label_json) > 0
    if value:
        return has_value
    name_json = label_json[: -len('""')]
    return or_(has_value, func.instr(alerts.c.labels, name_json) == 0)


def _find_claiming_change(connection: Connection, alert: _AlertRow) -> Change | None:
    has_claim = changes.c.claim == change_claim(alert.episode, alert.attempt)
    return next(iter(find_changes(connection, has_claim)), None)


def _find_own_change(connection: Connection, request: ChangeRequest) -> Change | None:
    own_changes = find_changes(
        connection,
        changes.c.st2_execution_id == request.execution_id,
        changes.c.episode == request.episode,
        is_granted(),
    )
    return next(iter(own_changes), None)


def _find_newest_changes(
    connection: Connection, limit: int, *conditions: ColumnElement[bool]
) -> Sequence[Change]:
    if not limit:
        return ()
    rows = connection.execute(
        select(*COLUMNS)
        .where(*conditions)
        .order_by(changes.c.decided_at.desc(), changes.c.id.desc())
        .limit(limit)
    )
    return [Change(*row) for row in rows]


def _find_breaker_changes(connection: Connection, remediation: str, limit: int) -> Sequence[Change]:
    """Return the changes of a remediation whose results its breaker considers, newest first."""
    return _find_newest_changes(
        connection,
        limit,
        changes.c.remediation == remediation,
        changes.c.result.in_((*FAILURES, *SUCCESSES)),
        changes.c.released_at.is_(None),
    )


def _decided_after(moment: datetime) -> ColumnElement[bool]:
    return changes.c.decided_at > moment


def _find_last_ended_change(
    connection: Connection, has_target: ColumnElement[bool]
) -> Change | None:
    row = connection.execute(
        select(*COLUMNS)
        .where(
            has_target,
            is_granted(),
            changes.c.ended_at.is_not(None),
            changes.c.released_at.is_(None),
        )
        .order_by(changes.c.ended_at.desc())
        .limit(1)
    ).one_or_none()
    return Change(*row) if row else None


def _stored_remediation_name(request: ChangeRequest) -> str:
    return cut(request.remediation_name, changes.c.remediation)


def _write_decision(
    connection: Connection,
    config: Config,
    request: ChangeRequest,
    alert: _AlertRow,
    situation: Situation,
    decision: Decision,
) -> None:
    """Write the decision, unless the change was granted earlier or only in a preview.

    If a person has released the change that was granted earlier, the execution may be granted
    another one. It replaces the released one, because an execution has one row for an episode.
    """
    if request.preview and decision.may_change:
        return
    is_granted_now, now = decision.may_change, situation.now
    own_change = situation.own_change
    if own_change and not (is_granted_now and own_change.ended_at):
        return
    retry_at = None
    if request.retry and decision.ends_by_itself:
        minutes = config.retry_refused_minutes
        retry_at = plan_retry(connection, request.execution_id, alert.episode, minutes)
    values = {
        "request_id": request.request_id,
        "attempt": alert.attempt,
        "claim": change_claim(alert.episode, alert.attempt) if is_granted_now else None,
        "remediation": _stored_remediation_name(request),
        "action": cut(request.action, changes.c.action),
        "target": situation.target,
        "per_value": situation.per_value,
        "decided_at": now,
        "lease_until": now + LEASE if is_granted_now else None,
        "ended_at": None if is_granted_now else now,
        "result": "" if is_granted_now else ChangeResult.REFUSED,
        "refusal": cut(decision.refusal_name, changes.c.refusal),
        "reason": cut(decision.message, changes.c.reason),
        "evidence": dump_evidence(request.evidence),
        "retry_at": retry_at,
        "released_at": None,
        "action_execution_id": None,
    }
    # A refused execution may ask again. The new decision then replaces the earlier one.
    write_decision(connection, request.execution_id, alert.episode, values)
    if not is_granted_now:
        ending = _make_ending(request, alert.episode, situation, decision, retry_at)
        add_ending(connection, ending)


def _make_ending(
    request: ChangeRequest,
    episode: str,
    situation: Situation,
    decision: Decision,
    retry_at: datetime | None,
) -> Ending:
    """Return an Ending for a remediation whose change is refused."""
    result = end_result(result_of_refusal(decision.refusal_name)) or EndResult.REFUSED
    if request.approval_expired and decision.refusal_name == "approval_missing":
        result = EndResult.APPROVAL_EXPIRED
    return Ending(
        result=result,
        request_id=request.request_id,
        episode=episode,
        execution_id=request.execution_id,
        remediation=request.remediation_name,
        action=request.action,
        target=situation.target,
        refusal=decision.refusal_name,
        message=decision.message,
        evidence=request.evidence,
        retry_at=retry_at,
    )
