"""The reads: what fired, what ran for it, did it help, and why not.

Each view returns what its URL answers. Texts are verbatim here; who hands them to StackStorm makes
them inert.
"""

import json
from datetime import datetime, timedelta, timezone
from typing import Any, Dict, Iterable, List, Optional

from sqlalchemy import and_, func, select
from sqlalchemy.engine import Connection

from poundcake import admission, database
from poundcake.alertmanager import timestamp
from poundcake.journal import Entry
from poundcake.schema import alerts, api_calls, executions, links
from poundcake.stackstorm import TERMINAL, StackStorm, StackStormError, failure, report
from poundcake.sync import LOST

DRY_RUN = "dry run: nothing was changed"
MOST_ROWS = 1000
_HOW_MANY_WHY = 20
_MOST_ASKED = 100  # what one page of StackStorm's API has


def status(connection: Connection, request_id: str, web_url: str = "") -> Optional[Dict[str, Any]]:
    """The whole trail of one request; None where it is not on record."""
    call = connection.execute(
        select(api_calls).where(api_calls.c.request_id == request_id)
    ).one_or_none()
    if call is None:
        return None
    rows = connection.execute(
        select(alerts).where(alerts.c.api_call_id == call.id).order_by(alerts.c.position)
    ).all()
    linked = _links(connection, [row.id for row in rows])
    by_alert: Dict[int, List[Any]] = {}
    for link in linked:
        by_alert.setdefault(link.alert_id, []).append(link)
    answer = {
        "request_id": call.request_id,
        "received_at": timestamp(call.created_at),
        "completed_at": _time(call.completed_at),
        "status": _call_status(call, rows, linked),
        "receiver": call.receiver or "",
        "truncated_alerts": call.truncated_alerts,
        "alerts": [_alert(row, by_alert.get(row.id, [])) for row in rows],
        "stackstorm_executions": [_execution(link, web_url) for link in linked],
    }
    if call.replay_of:
        answer["replay_of"] = call.replay_of
    if call.client_request_id:
        answer["client_request_id"] = call.client_request_id
    if call.error:
        answer["error"] = call.error
    return answer


def accepted(entry: Entry, held_up_by: str = "") -> Dict[str, Any]:
    """The status of a request that is in the journal and not recorded yet."""
    answer: Dict[str, Any] = {
        "request_id": entry.request.request_id,
        "received_at": timestamp(entry.request.received_at),
        "completed_at": None,
        "status": entry.state,
        "receiver": "",
        "truncated_alerts": 0,
        "alerts": [],
        "stackstorm_executions": [],
    }
    if held_up_by:
        answer["held_up_by"] = held_up_by
    return answer


def executions_recent(connection: Connection, limit: int = 20, offset: int = 0) -> Dict[str, Any]:
    """The newest requests with their alerts."""
    total = connection.scalar(select(func.count()).select_from(api_calls))
    calls = connection.execute(
        select(api_calls)
        .order_by(api_calls.c.created_at.desc(), api_calls.c.id.desc())
        .limit(limit)
        .offset(offset)
    ).all()
    rows: List[Any] = []
    for ids in database.in_chunks([call.id for call in calls]):
        rows += connection.execute(
            select(alerts).where(alerts.c.api_call_id.in_(ids)).order_by(alerts.c.position)
        ).all()
    linked = _links(connection, [row.id for row in rows])
    answer = []
    for call in calls:
        own = [row for row in rows if row.api_call_id == call.id]
        ids = {row.id for row in own}
        started = [link for link in linked if link.alert_id in ids]
        answer.append(
            {
                "request_id": call.request_id,
                "received_at": timestamp(call.created_at),
                "status": _call_status(call, own, started),
                "alert_count": len(own),
                "st2_execution_count": len({link.st2_execution_id for link in started}),
                "alerts": [
                    {
                        "id": row.id,
                        "alert_name": row.alert_name,
                        "severity": row.severity,
                        "instance": row.instance,
                        "status": row.status,
                        "outcome": row.outcome,
                        "reason": _reason(row),
                        "st2_workflow": _workflow(started, row.id),
                    }
                    for row in own
                ],
            }
        )
    return {"executions": answer, "total": total}


def alerts_active(
    connection: Connection,
    stale_after_hours: int,
    severity: str = "",
    alert_name: str = "",
    instance: str = "",
    limit: int = 100,
    offset: int = 0,
) -> Dict[str, Any]:
    """The open incidents, newest first."""
    conditions = [alerts.c.open_fingerprint.is_not(None)]
    for column, wanted in (
        (alerts.c.severity, severity),
        (alerts.c.alert_name, alert_name),
        (alerts.c.instance, instance),
    ):
        if wanted:
            conditions.append(column == wanted)
    count = connection.scalar(select(func.count()).select_from(alerts).where(and_(*conditions)))
    rows = connection.execute(
        select(alerts, api_calls.c.request_id)
        .join(api_calls, api_calls.c.id == alerts.c.api_call_id)
        .where(and_(*conditions))
        .order_by(alerts.c.created_at.desc(), alerts.c.id.desc())
        .limit(limit)
        .offset(offset)
    ).all()
    newest = {link.alert_id: link for link in _links(connection, [row.id for row in rows])}
    stale = datetime.now(timezone.utc) - timedelta(hours=stale_after_hours)
    return {
        "active_alerts": [
            {
                "fingerprint": row.fingerprint,
                "episode": row.episode,
                "alert_name": row.alert_name,
                "severity": row.severity,
                "instance": row.instance,
                "starts_at": _time(row.starts_at),
                "last_seen_at": _time(row.last_seen_at),
                "notifications": row.notifications,
                "stale": row.last_seen_at < stale,
                "request_id": row.request_id,
                "st2_workflow": getattr(newest.get(row.id), "st2_action_ref", None) or "",
                "st2_execution_id": getattr(newest.get(row.id), "st2_execution_id", None) or "",
                "remediation_status": _remediation(row, newest.get(row.id)),
            }
            for row in rows
        ],
        "count": count,
    }


def st2_executions(
    connection: Connection,
    status: str = "",
    limit: int = 20,
    offset: int = 0,
    web_url: str = "",
) -> Dict[str, Any]:
    """The StackStorm executions that alerts led to, newest first."""
    where = [executions.c.status == status] if status else []
    joined = links.join(executions, executions.c.id == links.c.st2_execution_id)
    count = connection.scalar(select(func.count()).select_from(joined).where(*where))
    rows = connection.execute(
        _link_columns().where(*where).order_by(links.c.id.desc()).limit(limit).offset(offset)
    ).all()
    return {
        "st2_executions": [
            {
                "request_id": row.request_id,
                "st2_execution_id": row.st2_execution_id,
                "st2_workflow": row.st2_action_ref or row.action or "",
                "st2_rule": row.st2_rule_ref or row.rule or "",
                "status": row.status or "unknown",
                "triggered_at": timestamp(row.created_at),
                "duration_seconds": _duration(row),
                "url": _url(web_url, row),
                "alert": {
                    "name": row.alert_name,
                    "severity": row.severity,
                    "instance": row.instance,
                },
            }
            for row in rows
        ],
        "count": count,
    }


def why(
    connection: Connection,
    alert_name: str = "",
    instance: str = "",
    fingerprint: str = "",
    limit: int = _HOW_MANY_WHY,
    web_url: str = "",
) -> Dict[str, Any]:
    """From an alert to its requests, outcomes and reasons, newest first.

    At least one of alert_name, instance and fingerprint says which.
    """
    conditions = [
        column == wanted
        for column, wanted in (
            (alerts.c.alert_name, alert_name),
            (alerts.c.instance, instance),
            (alerts.c.fingerprint, fingerprint),
        )
        if wanted
    ]
    rows = connection.execute(
        select(alerts, api_calls.c.request_id)
        .join(api_calls, api_calls.c.id == alerts.c.api_call_id)
        .where(and_(*conditions))
        .order_by(alerts.c.id.desc())
        .limit(limit)
    ).all()
    linked = _links(connection, [row.id for row in rows])
    return {
        "alerts": [
            {
                "request_id": row.request_id,
                "received_at": timestamp(row.created_at),
                **_alert(row, [link for link in linked if link.alert_id == row.id]),
                "stackstorm_executions": [
                    _execution(link, web_url) for link in linked if link.alert_id == row.id
                ],
            }
            for row in rows
        ],
        "count": len(rows),
    }


def alert_of(connection: Connection, request_id: str, episode: str) -> Optional[Dict[str, Any]]:
    """One alert, verbatim, with its labels and annotations; None where it is not on record."""
    row = connection.execute(
        select(alerts, api_calls.c.request_id, api_calls.c.receiver)
        .join(api_calls, api_calls.c.id == alerts.c.api_call_id)
        .where(api_calls.c.request_id == request_id, alerts.c.episode == episode)
        .order_by(alerts.c.outcome.in_(admission.EMITTED).desc(), alerts.c.id)
        .limit(1)
    ).one_or_none()
    if row is None:
        return None
    return {
        "request_id": row.request_id,
        "episode": row.episode,
        "fingerprint": row.fingerprint,
        "status": row.status,
        "outcome": row.outcome,
        "alert_name": row.alert_name,
        "severity": row.severity,
        "instance": row.instance,
        "labels": json.loads(row.labels),
        "annotations": json.loads(row.annotations),
        "generator_url": row.generator_url or "",
        "receiver": row.receiver or "",
        "starts_at": _time(row.starts_at),
        "ends_at": _time(row.ends_at),
    }


def ask_live(stackstorm: StackStorm, answer: Dict[str, Any]) -> Dict[str, Any]:
    """The view with what StackStorm says now of executions that are open on record; where it
    cannot be asked, the view says so."""
    shown = [e for e in _executions_in(answer) if e["status"] not in TERMINAL]
    active = [a for a in answer.get("active_alerts", []) if _is_open(a)]
    ids = sorted({row["st2_execution_id"] for row in shown + active})[:_MOST_ASKED]
    if not ids:
        return answer
    try:
        live = stackstorm.executions(ids)
    except StackStormError as error:
        answer["stackstorm"] = f"cannot be asked now, the state is as of the last sync: {error}"
        return answer
    for execution in shown:
        found = live.get(execution["st2_execution_id"])
        if found:
            _merge(execution, found)
    for alert in active:
        found = live.get(alert["st2_execution_id"])
        if found:
            said = report(found)
            alert["remediation_status"] = _state(
                found["status"], said.get("dry_run"), said.get("mutated")
            )
    return answer


def _executions_in(answer: Dict[str, Any]) -> List[Dict[str, Any]]:
    listed = list(answer.get("stackstorm_executions", [])) + answer.get("st2_executions", [])
    for alert in answer.get("alerts", []):
        listed += alert.get("stackstorm_executions", [])
    return listed


def _is_open(alert: Dict[str, Any]) -> bool:
    return bool(alert["st2_execution_id"]) and (
        alert["remediation_status"].partition(" ")[0] not in TERMINAL
    )


def _merge(execution: Dict[str, Any], found: Dict[str, Any]) -> None:
    """Writes into an execution of a view what StackStorm says of it now."""
    execution["status"] = found.get("status") or execution["status"]
    rule = (found.get("rule") or {}).get("ref")
    execution["st2_rule"] = execution["st2_rule"] or rule or ""
    execution["url"] = execution["url"] or found.get("web_url") or ""
    if execution["status"] not in TERMINAL:
        return
    seconds = found.get("elapsed_seconds")
    if isinstance(seconds, (int, float)):
        execution["duration_seconds"] = round(seconds, 3)
    if "message" not in execution:
        return
    execution["ended_at"] = found.get("end_timestamp") or execution["ended_at"]
    said = report(found)
    message = said.pop("message", "")
    execution.update(said)
    if execution["status"] != "succeeded":
        message = message or failure(found)
    execution["message"] = _said(execution["dry_run"], execution["mutated"], message)


def _link_columns() -> Any:
    return (
        select(
            links.c.id,
            links.c.request_id,
            links.c.alert_id,
            links.c.st2_execution_id,
            links.c.st2_rule_ref,
            links.c.st2_action_ref,
            links.c.created_at,
            links.c.claim,
            executions.c.action,
            executions.c.status,
            executions.c.start_timestamp,
            executions.c.end_timestamp,
            executions.c.rule,
            executions.c.error,
            executions.c.dry_run,
            executions.c.mutated,
            executions.c.verified,
            executions.c.stage,
            executions.c.message,
            executions.c.web_url,
            alerts.c.alert_name,
            alerts.c.severity,
            alerts.c.instance,
        )
        .join(alerts, alerts.c.id == links.c.alert_id)
        .outerjoin(executions, executions.c.id == links.c.st2_execution_id)
    )


def _links(connection: Connection, alert_ids: Iterable[int]) -> List[Any]:
    found: List[Any] = []
    for ids in database.in_chunks(list(alert_ids)):
        found += connection.execute(_link_columns().where(links.c.alert_id.in_(ids))).all()
    return sorted(found, key=lambda link: link.id)


def _alert(row: Any, linked: List[Any]) -> Dict[str, Any]:
    return {
        "id": row.id,
        "fingerprint": row.fingerprint,
        "episode": row.episode or "",
        "alert_name": row.alert_name,
        "severity": row.severity,
        "instance": row.instance,
        "status": row.status,
        "outcome": row.outcome,
        "reason": _reason(row),
        "starts_at": _time(row.starts_at),
        "ends_at": _time(row.ends_at),
        "st2_rule": row.st2_rule_matched or _first(linked, "st2_rule_ref"),
        "st2_workflow": _first(linked, "st2_action_ref"),
    }


def _execution(row: Any, web_url: str) -> Dict[str, Any]:
    return {
        "st2_execution_id": row.st2_execution_id,
        "st2_workflow": row.st2_action_ref or row.action or "",
        "st2_rule": row.st2_rule_ref or row.rule or "",
        "alert_id": row.alert_id,
        "status": row.status or "unknown",
        "started_at": _time(row.start_timestamp),
        "ended_at": _time(row.end_timestamp),
        "duration_seconds": _duration(row),
        "dry_run": row.dry_run,
        "mutated": row.mutated,
        "verified": row.verified,
        "stage": row.stage or "",
        "message": _said(row.dry_run, row.mutated, row.message or row.error or ""),
        "url": _url(web_url, row),
    }


def _said(dry_run: Optional[bool], mutated: Optional[bool], message: str) -> str:
    if dry_run and not mutated:
        return f"{DRY_RUN}. {message}" if message else DRY_RUN
    return message


def _call_status(call: Any, rows: List[Any], linked: List[Any]) -> str:
    if call.error:
        return "failed"
    if any(row.fate == LOST for row in rows):
        return "lost"
    if call.completed_at:
        return "completed"
    return "running" if linked else "recorded"


def _remediation(row: Any, link: Any) -> str:
    if link is None:
        return _reason(row) or row.outcome
    return _state(link.status or "unknown", link.dry_run, link.mutated)


def _state(status: str, dry_run: Optional[bool], mutated: Optional[bool]) -> str:
    return f"{status} ({DRY_RUN})" if dry_run and not mutated else status


def _reason(row: Any) -> str:
    return "; ".join(filter(None, (row.reason, row.fate_reason)))


def _workflow(linked: List[Any], alert_id: int) -> str:
    return _first([link for link in linked if link.alert_id == alert_id], "st2_action_ref")


def _first(linked: List[Any], name: str) -> str:
    return next((getattr(link, name) for link in linked if getattr(link, name)), "")


def _duration(row: Any) -> Optional[float]:
    if not row.start_timestamp or not row.end_timestamp:
        return None
    return round((row.end_timestamp - row.start_timestamp).total_seconds(), 3)


def _url(web_url: str, row: Any) -> str:
    if web_url:
        return f"{web_url.rstrip('/')}/#/history/{row.st2_execution_id}"
    return row.web_url or ""


def _time(moment: Optional[datetime]) -> Optional[str]:
    return timestamp(moment) if moment else None
