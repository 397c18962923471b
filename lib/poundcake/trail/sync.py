"""What became of what was emitted: asked of StackStorm, written to the tracking database.

Between its acknowledgement and its work StackStorm is at-most-once. What it lost is found here,
because nothing is taken for done that StackStorm does not say.
"""

from __future__ import annotations

import functools
from datetime import datetime, timedelta, timezone
from typing import Any, Callable

from sqlalchemy import and_, exists, or_, select, update
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import IntegrityError

from poundcake.config import Config
from poundcake.stackstorm import TERMINAL, WAITING, StackStorm, StackStormError, failure, report
from poundcake.timestamps import format_timestamp, parse_timestamp
from poundcake.trail import database
from poundcake.trail.admission import LATE
from poundcake.trail.claims import ended_at, mirror, worked_on
from poundcake.trail.outcomes import Explanation
from poundcake.trail.schema import alerts, api_calls, cut, executions, links, meta

ALERT_TRIGGER = "poundcake.alert"
REMEDIATE = "poundcake.remediate"
# A workflow with a link task that has not linked itself by then has another task before it.
_LINK_GRACE = timedelta(seconds=60)
_LINK_LATE = timedelta(minutes=10)
_ALERTS_AT_ONCE = 200
_EXECUTIONS_AT_ONCE = 1000
_STARTED, _FINISHED = "sync_started_at", "synced_at"
# A round that has not finished by then was killed.
_ROUND_TIME = timedelta(minutes=2)
# Of an alert that is emitted again and again, the newest triggers tell what became of it.
_INSTANCES = 3

# Fates of an alert that was emitted. None and RETRY are open: StackStorm has not told yet, or has
# told that it will never run, so that the relay emits the alert again.
EXECUTION, NO_RULE, FAILED, ENDED, RETRY = "execution", "no_rule", "failed", "ended", "retry"
# How long a trigger may be on its way to the rules engine, and in it.
_ARRIVAL_GRACE = timedelta(seconds=60)
_RULES_GRACE = timedelta(minutes=5)


def sync(engine: Engine, config: Config, stackstorm: StackStorm) -> dict[str, Any]:
    """One round: mirrors open executions, explains emitted alerts, completes requests.

    Returns {executions, explained, unexplained, completed}: how many of each; nothing where
    another round is under way. Raises StackStormError where the API is away; what was learnt
    before stays.
    """
    database.prepare(engine, create=config.auto_migrate)
    if not _begin(engine):
        return {"executions": 0, "explained": 0, "unexplained": 0, "completed": 0}
    try:
        explained, unexplained = _explain(engine, config, stackstorm)
        mirrored = _mirror_open(engine, stackstorm)
        completed = _complete(engine)
    except BaseException:
        with database.transaction(engine) as connection:
            connection.execute(meta.delete().where(meta.c.name == _STARTED))
        raise
    _mark(engine, _FINISHED)
    return {
        "executions": mirrored,
        "explained": explained,
        "unexplained": unexplained,
        "completed": completed,
    }


def last_synced(connection: Connection) -> datetime | None:
    """When a round was last finished."""
    return _marked(connection, _FINISHED)


def _marked(connection: Connection, name: str) -> datetime | None:
    value = connection.scalar(select(meta.c.value).where(meta.c.name == name))
    return parse_timestamp(value) if value else None


def still_open(connection: Connection) -> tuple[int, bool]:
    """How many requests or executions wait for StackStorm, up to 1000, and whether any of them
    moves by itself (is neither pending nor paused)."""
    waiting = connection.scalars(
        select(executions.c.status).where(executions.c.status.not_in(TERMINAL)).limit(1000)
    ).all()
    requests = connection.scalars(
        select(api_calls.c.id).where(api_calls.c.completed_at.is_(None)).limit(1000)
    ).all()
    unexplained = connection.scalars(select(alerts.c.id).where(open_alerts()).limit(1)).all()
    moving = unexplained or any(s not in WAITING for s in waiting) or not waiting
    return max(len(waiting), len(requests)), bool(moving)


def open_alerts() -> Any:
    """The condition of alerts of which it is not known yet what became of them."""
    return or_(alerts.c.explanation.is_(None), alerts.c.explanation == RETRY)


def _begin(engine: Engine) -> bool:
    """Marks the start of a round; False while another one is under way."""
    with database.reading(engine) as connection:
        started, finished = _marked(connection, _STARTED), last_synced(connection)
    now = datetime.now(timezone.utc)
    if started and now - started < _ROUND_TIME and (finished is None or finished < started):
        return False
    _mark(engine, _STARTED)
    return True


def _mark(engine: Engine, name: str) -> None:
    values = {"value": format_timestamp(datetime.now(timezone.utc))}
    for _ in range(2):
        try:
            with database.transaction(engine) as connection:
                done = connection.execute(update(meta).where(meta.c.name == name).values(values))
                if not done.rowcount and _marked(connection, name) is None:
                    connection.execute(meta.insert().values(name=name, **values))
            return
        except IntegrityError:
            pass  # another round made the row at this moment


def _mirror_open(engine: Engine, stackstorm: StackStorm) -> int:
    with database.reading(engine) as connection:
        ids = list(
            connection.scalars(
                select(executions.c.id)
                .where(executions.c.status.not_in(TERMINAL))
                .order_by(executions.c.synced_at, executions.c.id)
                .limit(_EXECUTIONS_AT_ONCE)
            )
        )
    if not ids:
        return 0
    found = stackstorm.executions(ids)
    # A list that lacks an id may have been cut short; only a 404 says that it is gone.
    gone = [i for i, e in found.items() if e is None and stackstorm.execution(i) is None]
    with database.transaction(engine) as connection:
        for execution_id, execution in found.items():
            if execution:
                write_execution(connection, execution)
        if gone:
            connection.execute(
                update(executions)
                .where(executions.c.id.in_(gone), executions.c.status.not_in(TERMINAL))
                .values(
                    status="gone",
                    error="StackStorm no longer has this execution",
                    synced_at=datetime.now(timezone.utc),
                )
            )
    return len(ids)


def write_execution(connection: Connection, execution: dict[str, Any]) -> None:
    """Writes what StackStorm says of an execution; an ended one is never opened again."""
    rule = (execution.get("rule") or {}).get("ref")
    values = {
        "status": cut(str(execution.get("status") or ""), executions.c.status),
        "end_timestamp": parse_timestamp(execution.get("end_timestamp")),
        "rule": cut(rule, executions.c.rule) if rule else None,
        "web_url": cut(execution.get("web_url") or "", executions.c.web_url) or None,
        "synced_at": datetime.now(timezone.utc),
    }
    started = parse_timestamp(execution.get("start_timestamp"))
    if started:
        values["start_timestamp"] = started
    if execution.get("status") in TERMINAL:
        for name, value in report(execution).items():
            if isinstance(value, str):
                value = value.encode("utf-8", "replace").decode()
                value = value[: executions.c[name].type.length or 4000]
            values[name] = value
        if execution["status"] != "succeeded":
            values["error"] = failure(execution).encode("utf-8", "replace").decode() or None
    connection.execute(
        update(executions)
        .where(executions.c.id == execution["id"], executions.c.status.not_in(TERMINAL))
        .values(values)
    )
    if rule:
        connection.execute(
            update(links)
            .where(links.c.st2_execution_id == execution["id"], links.c.st2_rule_ref.is_(None))
            .values(st2_rule_ref=cut(rule, links.c.st2_rule_ref))
        )


def _explain(engine: Engine, config: Config, stackstorm: StackStorm) -> tuple[int, int]:
    """Finds out what became of emitted alerts. Returns how many it explained and not."""
    with database.reading(engine) as connection:
        waiting = connection.execute(
            select(
                alerts.c.id,
                alerts.c.episode,
                alerts.c.attempt,
                alerts.c.status,
                alerts.c.instance,
                alerts.c.recorded_at,
                alerts.c.closed_at,
                api_calls.c.request_id,
            )
            .join(api_calls, api_calls.c.id == alerts.c.api_call_id)
            .where(open_alerts())
            # The longest not looked at first: many that wait must not hold up the others.
            .order_by(alerts.c.checked_at, alerts.c.id)
            .limit(_ALERTS_AT_ONCE)
        ).all()
    if not waiting:
        return 0, 0
    wanted = {(w.request_id, w.episode, w.status): [] for w in waiting}
    since = min(w.recorded_at for w in waiting)  # the trigger comes after the record
    for instance in stackstorm.trigger_instances(ALERT_TRIGGER, since):
        payload = instance.get("payload") or {}
        key = (payload.get("request_id"), payload.get("episode"), payload.get("status"))
        if key in wanted and len(wanted[key]) < _INSTANCES:
            wanted[key].append(instance)
    links_itself = functools.lru_cache(maxsize=None)(stackstorm.links_itself)
    explained = 0
    for alert in waiting:
        instances = wanted[alert.request_id, alert.episode, alert.status]
        try:
            explanation, reason, rule = _explanation(
                engine, config, stackstorm, links_itself, alert, instances
            )
        except StackStormError as error:
            if error.status in (0, 401):
                raise
            # What is wrong with one alert's trail must not hold up the others.
            explanation, reason, rule = None, f"StackStorm cannot tell: {error}", ""
        now = datetime.now(timezone.utc)
        with database.reading(engine) as connection:
            ended = ended_at(connection, alert) if explanation == RETRY else None
        if ended and now - ended > LATE:
            # Nothing may begin to work on it any more.
            explanation, reason = (
                ENDED,
                f"the incident ended at {format_timestamp(ended)}; {reason}",
            )
        elif explanation in (None, RETRY) and now - alert.recorded_at > timedelta(
            hours=config.give_up_hours
        ):
            explanation = Explanation.LOST
            reason = f"StackStorm lost it: given up after {config.give_up_hours} h. {reason}"
        with database.transaction(engine) as connection:
            values: dict[str, Any] = {
                "explanation": explanation,
                "explanation_reason": cut(reason, alerts.c.explanation_reason),
                "checked_at": now,
            }
            if rule:
                values["st2_rule_matched"] = cut(rule, alerts.c.st2_rule_matched)
            connection.execute(
                update(alerts).where(alerts.c.id == alert.id, open_alerts()).values(values)
            )
        explained += explanation not in (None, RETRY)
    return explained, len(waiting) - explained


def _explanation(
    engine: Engine,
    config: Config,
    stackstorm: StackStorm,
    links_itself: Callable[[str], bool],
    alert: Any,
    instances: list[dict[str, Any]],
) -> tuple[str | None, str, str]:
    """(explanation, reason, rule) of one alert, from its trigger instances, newest first; the explanation is
    None while StackStorm has not told."""
    now = datetime.now(timezone.utc)
    if not instances:
        late = now - alert.recorded_at > _ARRIVAL_GRACE
        return RETRY if late else None, "waiting for StackStorm's rules engine", ""
    # What a rule made of a newer trigger replaces what it made of an older one.
    by_rule: dict[str, dict[str, Any]] = {}
    for instance in instances:
        for enforcement in stackstorm.enforcements(instance["id"]) or []:
            by_rule.setdefault(enforcement.get("rule", {}).get("ref", ""), enforcement)
    failures: list[str] = []
    refusals: list[str] = []
    waiting: list[str] = []
    ended: list[str] = []
    for rule, enforcement in by_rule.items():
        execution_id = enforcement.get("execution_id")
        if execution_id:
            state, reason = _link_found(
                engine, config, stackstorm, links_itself, alert, execution_id
            )
            if state == EXECUTION:
                refusals.extend(filter(None, [reason]))
            else:
                (ended if state == RETRY else waiting).append(reason)
        else:
            reason = enforcement.get("failure_reason") or "no reason given"
            failures.append(f"rule {rule} could not start its action: {reason}")
    matched = ", ".join(sorted(filter(None, by_rule)))
    newest = instances[0]
    status = newest.get("status")
    came = parse_timestamp(newest.get("occurrence_time"))
    stuck = status == "processing_failed" or bool(came and now - came > _RULES_GRACE)
    if status != "processed" and not stuck:
        # Another rule may still be on its way.
        return None, f"StackStorm's rules engine has it: {status}", matched
    if waiting:
        return None, waiting[-1], matched
    if ended:
        return RETRY, ended[-1], matched
    if len(by_rule) > len(failures):
        return EXECUTION, "; ".join(failures + refusals), matched
    if status != "processed":
        return RETRY, f"StackStorm's rules engine has it: {status}", matched
    if failures:
        return FAILED, "; ".join(failures), matched
    return NO_RULE, "no rule matched", ""


def _link_found(
    engine: Engine,
    config: Config,
    stackstorm: StackStorm,
    links_itself: Callable[[str], bool],
    alert: Any,
    execution_id: str,
) -> tuple[str | None, str]:
    """Links an execution that a rule started and that did not link itself.

    Returns (EXECUTION, why it did nothing or '') where the alert is explained by it, (RETRY,
    reason) where it ended before its claim or the cooldown of its host is over, (None, reason)
    while it may still claim or the cooldown lasts.
    """
    with database.reading(engine) as connection:
        linked = connection.execute(
            select(links.c.claim, links.c.released_at).where(
                links.c.st2_execution_id == execution_id, links.c.alert_id == alert.id
            )
        ).one_or_none()
    if linked and (linked.claim or linked.released_at):
        return EXECUTION, ""
    execution = stackstorm.execution(execution_id)
    if execution is None:
        return EXECUTION, ""  # collected already; its link, where there is one, says the rest
    action = execution["action"]["ref"]
    workflow = action
    if action == REMEDIATE:
        # It claims under the name of the action that it is given.
        workflow = str((execution.get("parameters") or {}).get("action") or action)
    ended = execution.get("status") in TERMINAL
    started = parse_timestamp(execution.get("start_timestamp"))
    waiting = f"{action} was started ({execution_id}) and has not linked itself yet"
    linking = links_itself(action)
    if linking and not ended and started and datetime.now(timezone.utc) - started < _LINK_GRACE:
        return None, waiting
    told = report(execution)
    if linking and told.get("stage") == "not_claimed":
        reason = f"{action} did nothing: {told.get('message')}"
        return _not_claimed(engine, config, alert, workflow, reason)
    if not linked:
        try:
            with database.transaction(engine) as connection:
                mirror(
                    connection,
                    execution_id,
                    action,
                    "requested",
                    started or datetime.now(timezone.utc),
                )
                connection.execute(
                    links.insert().values(
                        request_id=alert.request_id,
                        alert_id=alert.id,
                        st2_execution_id=execution_id,
                        st2_action_ref=cut(action, links.c.st2_action_ref),
                        created_at=datetime.now(timezone.utc),
                    )
                )
                write_execution(connection, execution)
        except IntegrityError:
            # It linked itself at this very moment, or another sync did it.
            return None, waiting
    # One that succeeded took another way than past its link task, as its author meant it to.
    done = execution.get("status") == "succeeded"
    if not linking or done or _claimed(engine, alert, workflow):
        return EXECUTION, ""
    if ended:
        return RETRY, (
            f"execution {execution_id} of {action} ended before it claimed the episode: "
            f"{execution['status']}, {failure(execution)}"
        )
    # Where a runner was killed, StackStorm goes on calling it running for ever.
    if started and datetime.now(timezone.utc) - started > _LINK_LATE:
        return RETRY, f"execution {execution_id} of {action} runs and has not claimed the episode"
    return None, waiting


def _not_claimed(
    engine: Engine, config: Config, alert: Any, workflow: str, reason: str
) -> tuple[str | None, str]:
    """As _link_found(), of an execution that was refused its claim."""
    if _claimed(engine, alert, workflow, links.c.alert_id == alert.id):
        return EXECUTION, ""  # its link says what became of the alert
    cooldown = timedelta(seconds=config.host_cooldown_seconds)
    if not cooldown or alert.closed_at or _claimed(engine, alert, workflow):
        return EXECUTION, reason
    now = datetime.now(timezone.utc)
    with database.reading(engine) as connection:
        busy = worked_on(connection, alert.instance, workflow, now - cooldown)
    if not busy:
        return RETRY, reason
    given_up = alert.recorded_at + timedelta(hours=config.give_up_hours)
    return None if busy.created_at + cooldown < given_up else EXECUTION, reason


def _claimed(engine: Engine, alert: Any, workflow: str, *conditions: Any) -> bool:
    """Whether an execution of the workflow has, or had, the alert's attempt at its episode."""
    with database.reading(engine) as connection:
        return connection.scalar(
            select(
                exists().where(
                    and_(
                        links.c.alert_id == alerts.c.id,
                        alerts.c.episode == alert.episode,
                        # A claim on an earlier attempt says nothing of what a replay was to do.
                        alerts.c.attempt >= alert.attempt,
                        links.c.st2_action_ref == workflow,
                        or_(links.c.claim.is_not(None), links.c.released_at.is_not(None)),
                        *conditions,
                    )
                )
            )
        )


def _complete(engine: Engine) -> int:
    """Requests whose alerts are explained and whose executions have ended are completed."""
    unexplained = exists().where(alerts.c.api_call_id == api_calls.c.id, open_alerts())
    running = exists().where(
        links.c.request_id == api_calls.c.request_id,
        executions.c.id == links.c.st2_execution_id,
        executions.c.status.not_in(TERMINAL),
    )
    done = select(api_calls.c.id).where(api_calls.c.completed_at.is_(None), ~unexplained, ~running)
    # Read first: an UPDATE with these conditions takes the row of a request whose record ends at
    # this moment, and on MariaDB does not see its alerts, because its subqueries read as of before.
    with database.reading(engine) as connection:
        ids = connection.scalars(done).all()
    for some in database.batched(ids):
        with database.transaction(engine) as connection:
            connection.execute(
                update(api_calls)
                .where(api_calls.c.id.in_(some), api_calls.c.completed_at.is_(None))
                .values(completed_at=datetime.now(timezone.utc))
            )
    return len(ids)
