"""The reads: what fired, what ran for it, did it help, and why not.

Each view returns what its URL answers. Texts are verbatim here; who hands them to StackStorm makes
them inert.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any, Iterable, Sequence

from sqlalchemy import and_, case, distinct, false, func, or_, select
from sqlalchemy.engine import Connection

from poundcake.alertmanager import FIRING, RESOLVED
from poundcake.stackstorm import STATUSES
from poundcake.timestamps import format_timestamp
from poundcake.trail import database, search
from poundcake.trail.claims import ended_at
from poundcake.trail.outcomes import EMITTED, Explanation, Outcome
from poundcake.trail.schema import alerts, api_calls, executions, links
from poundcake.trail.search import Filters

DRY_RUN = "dry run: nothing was changed"
_HOW_MANY_WHY = 10
# Notifications that one answer of `why` is made of.
_LOOKED_AT_WHY = 40
_ALL = (1 << 63) - 1
# Of one episode's notifications: the newest, and the newest of those that changed something.
_SHOWN = 3
_NOTABLE = tuple(o for o in search.OUTCOMES if o not in (Outcome.DUPLICATE, Outcome.MALFORMED))
_LINE = [
    alerts.c[name]
    for name in (
        "id api_call_id alert_name severity instance status outcome reason explanation explanation_reason"
    ).split()
]
# What a list needs not, and a sender can make a megabyte long.
_BRIEF = [c for c in alerts.c if c.name not in ("labels", "annotations", "generator_url")]
_CALL = [api_calls.c[n] for n in ("id", "request_id", "created_at", "completed_at", "error")]


def status(connection: Connection, request_id: str, web_url: str = "") -> dict[str, Any] | None:
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
    by_alert: dict[int, list[Any]] = {}
    for link in linked:
        by_alert.setdefault(link.alert_id, []).append(link)
    answer = {
        "request_id": call.request_id,
        "received_at": format_timestamp(call.created_at),
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


def executions_recent(
    connection: Connection, filters: Filters = Filters(), limit: int = 20, offset: int = 0
) -> dict[str, Any]:
    """The newest requests with their alerts; with filters, those with an alert that matches.

    ``at_least`` stands beside total where the search ended before the history did, ``next`` where
    there is another page.
    """
    ids, total, at_least, further = _requests(connection, filters, limit, offset)
    calls: list[Any] = []
    rows: list[Any] = []
    for some in database.batched(ids):
        calls += connection.execute(select(*_CALL).where(api_calls.c.id.in_(some)))
        rows += connection.execute(
            select(*_LINE).where(alerts.c.api_call_id.in_(some)).order_by(alerts.c.position)
        )
    calls.sort(key=lambda call: (call.created_at, call.id), reverse=True)
    by_call: dict[int, list[Any]] = {}
    for row in rows:
        by_call.setdefault(row.api_call_id, []).append(row)
    by_alert: dict[int, list[Any]] = {}
    for link in _links(connection, [row.id for row in rows]):
        by_alert.setdefault(link.alert_id, []).append(link)
    answer = []
    for call in calls:
        own = by_call.get(call.id, [])
        started = [link for row in own for link in by_alert.get(row.id, [])]
        answer.append(
            {
                "request_id": call.request_id,
                "received_at": format_timestamp(call.created_at),
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
                        "st2_workflow": _first(by_alert.get(row.id, []), "st2_action_ref"),
                    }
                    for row in own
                ],
            }
        )
    return _page({"executions": answer, "total": total}, at_least, further)


def _requests(
    connection: Connection, filters: Filters, limit: int, offset: int
) -> tuple[list[int], int, bool, str]:
    """(ids of the page, how many there are, or at least, where the next page begins)."""
    if filters.of_alerts:
        # A request stands where the newest of its alerts that match does.
        looked, matches = search.look(connection, filters)
        if filters.before:
            matches = and_(matches, looked.c.api_call_id.not_in(_begun(connection, filters)))
        seen, total = connection.execute(
            select(
                func.count(), func.count(distinct(case((matches, looked.c.api_call_id))))
            ).select_from(looked)
        ).one()
        moment = func.max(looked.c.created_at, type_=alerts.c.created_at.type).label("moment")
        row_id = func.max(looked.c.id).label("row_id")
        page = (
            select(looked.c.api_call_id, moment, row_id)
            .where(matches)
            .group_by(looked.c.api_call_id)
            .order_by(moment.desc(), row_id.desc())
        )
    else:
        looked = None
        of = search.within(filters, api_calls.c.created_at, api_calls.c.id)
        some = select(api_calls.c.id).where(*of).limit(search.DEPTH + 1).subquery()
        seen = connection.scalar(select(func.count()).select_from(some))
        total = min(seen, search.DEPTH)
        page = (
            select(api_calls.c.id, api_calls.c.created_at, api_calls.c.id)
            .where(*of)
            .order_by(api_calls.c.created_at.desc(), api_calls.c.id.desc())
        )
    rows = connection.execute(page.limit(limit + 1).offset(offset)).all()
    more = seen > search.DEPTH
    further = ""
    if len(rows) > limit:
        further = search.place(*rows[limit - 1][1:])
    elif more and looked is not None:
        further = search.place(*_last(connection, looked))
    return [row[0] for row in rows[:limit]], total, more, further


def _begun(connection: Connection, filters: Filters) -> list[int]:
    """The requests that an earlier page had: of their alerts that match, some were before it."""
    moment, (row_id,) = filters.before[0], search.last_ids(filters, alerts.c.id)
    found = search.by_index(
        connection, select(distinct(alerts.c.api_call_id)), alerts, search.BY_TIME
    ).where(
        # All alerts of a request are of one moment.
        alerts.c.created_at == moment,
        alerts.c.id >= row_id,
        *[
            alerts.c[name] == getattr(filters, name)
            for name in search.TEXTS
            if getattr(filters, name)
        ],
    )
    return connection.scalars(found).all()


def alerts_active(
    connection: Connection,
    stale_after_hours: int,
    filters: Filters = Filters(),
    limit: int = 100,
    offset: int = 0,
) -> dict[str, Any]:
    """The open incidents, newest first."""
    names = [
        name for name in ("severity", "alert_name", "instance", "outcome") if getattr(filters, name)
    ]
    incidents = search.by_index(
        connection,
        select(*[alerts.c[name] for name in ("id", "created_at", *names)]),
        alerts,
        "ix_poundcake_alerts_by_open",
    ).where(
        alerts.c.open_fingerprint > ""  # SQLite enters no index by IS NOT NULL
    )
    if filters.fingerprint:
        incidents = incidents.where(alerts.c.open_fingerprint == filters.fingerprint)
    # With a limit it is a table of its own: SQLite would enter the whole history by a time or a
    # severity, to find the few that are open.
    opened = incidents.limit(_ALL).subquery("opened")
    of = search.within(filters, opened.c.created_at, opened.c.id)
    of += [opened.c[name] == getattr(filters, name) for name in names]
    if filters.status == RESOLVED:
        of.append(false())
    count = connection.scalar(select(func.count()).select_from(opened).where(*of))
    page = connection.execute(
        select(opened.c.id, opened.c.created_at)
        .where(*of)
        .order_by(opened.c.created_at.desc(), opened.c.id.desc())
        .limit(limit + 1)
        .offset(offset)
    ).all()
    rows = _alerts(connection, [row.id for row in page[:limit]])
    newest = {link.alert_id: link for link in _links(connection, [row.id for row in rows])}
    stale = datetime.now(timezone.utc) - timedelta(hours=stale_after_hours)
    answer = {
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
    further = search.place(rows[-1].created_at, rows[-1].id) if len(page) > limit else ""
    return _page(answer, False, further)


def st2_executions(
    connection: Connection,
    status: str = "",
    filters: Filters = Filters(),
    limit: int = 20,
    offset: int = 0,
    web_url: str = "",
) -> dict[str, Any]:
    """The StackStorm executions that alerts led to, newest first.

    status: of the execution; filters: of its alert, and when it started or, with a filter of the
    alert, when that was received. An execution that was linked to several alerts has a row for
    each. Raises FilterError for a status that no execution can have.
    """
    search.one_of("status", status, STATUSES)
    found = _of_alerts if filters.of_alerts else _of_executions
    ids, total, at_least, further = found(connection, status, filters, limit, offset)
    rows: list[Any] = []
    for some in database.batched(ids):
        rows += connection.execute(_link_columns().where(links.c.id.in_(some)))
    rows.sort(key=lambda row: ids.index(row.id))
    answer = {
        "st2_executions": [
            {
                "request_id": row.request_id,
                "st2_execution_id": row.st2_execution_id,
                "st2_workflow": row.st2_action_ref or row.action or "",
                "st2_rule": row.st2_rule_ref or row.rule or "",
                "status": row.status or "unknown",
                "triggered_at": format_timestamp(row.created_at),
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
        "count": total,
    }
    return _page(answer, at_least, further)


def _of_executions(
    connection: Connection, status: str, filters: Filters, limit: int, offset: int
) -> tuple[list[int], int, bool, str]:
    moment, row_id = executions.c.start_timestamp, executions.c.id
    begin = filters
    if filters.before:
        # Of the execution that the last page ended with there may be more links.
        last_id, _ = search.last_ids(filters, row_id, links.c.id)
        begin = replace(filters, before=(filters.before[0], (last_id + "\0",)))
    index = "ix_execution_db_by_status" if status else "ix_execution_db_start"
    started = search.by_index(connection, select(moment, row_id), executions, index).where(
        *search.within(begin, moment, row_id)
    )
    if status:
        started = started.where(executions.c.status == status)
    # Each has a link, so that as many as rows are wanted are enough; and what is sorted by both
    # tables is a few rows.
    most = search.MOST_ROWS
    newest = started.order_by(moment.desc(), row_id.desc())

    def linked(count: int) -> Any:
        some = newest.limit(count).subquery("started")
        return (
            select(links.c.id, some.c.start_timestamp, some.c.id)
            .join(some, links.c.st2_execution_id == some.c.id)
            .where(*search.within(filters, some.c.start_timestamp, some.c.id, links.c.id))
        )

    counted = linked(most + 1).with_only_columns(links.c.id).limit(most + 1).subquery("counted")
    seen = connection.scalar(select(func.count()).select_from(counted))
    found = linked(offset + limit + 2)
    link_id, started_at, execution_id = found.selected_columns
    rows = connection.execute(
        found.order_by(started_at.desc(), execution_id.desc(), link_id.desc())
        .limit(limit + 1)
        .offset(offset)
    ).all()
    further = ""
    if len(rows) > limit:
        further = search.place(rows[limit - 1][1], rows[limit - 1][2], rows[limit - 1][0])
    return [row[0] for row in rows[:limit]], min(seen, most), seen > most, further


def _of_alerts(
    connection: Connection, status: str, filters: Filters, limit: int, offset: int
) -> tuple[list[int], int, bool, str]:
    begin = filters
    if filters.before:
        # Of the alert that the last page ended with there may be more links.
        alert_id, _ = search.last_ids(filters, alerts.c.id, links.c.id)
        begin = replace(filters, before=(filters.before[0], (str(alert_id + 1),)))
    looked, matches = search.look(connection, begin)
    emitted = and_(matches, looked.c.outcome.in_(EMITTED))
    found = (
        select(links.c.id, looked.c.created_at, looked.c.id)
        .select_from(looked)
        .join(links, links.c.alert_id == looked.c.id)
        .where(emitted, *search.within(filters, looked.c.created_at, looked.c.id, links.c.id))
    )
    if status:
        found = found.join(executions, executions.c.id == links.c.st2_execution_id)
        # SQLite would read all executions of a status, once for each alert, to find the one that
        # the link names.
        found = found.where(search.unindexed(executions.c.status) == status)
    seen = connection.scalar(select(func.count()).select_from(looked))
    some = found.with_only_columns(links.c.id).limit(search.MOST_ROWS + 1).subquery("some")
    total = connection.scalar(select(func.count()).select_from(some))
    rows = connection.execute(
        found.order_by(looked.c.created_at.desc(), looked.c.id.desc(), links.c.id.desc())
        .limit(limit + 1)
        .offset(offset)
    ).all()
    further = ""
    if len(rows) > limit:
        further = search.place(rows[limit - 1][1], rows[limit - 1][2], rows[limit - 1][0])
    elif seen > search.DEPTH:
        further = search.place(*_last(connection, looked), 0)
    at_least = seen > search.DEPTH or total > search.MOST_ROWS
    return [row[0] for row in rows[:limit]], min(total, search.MOST_ROWS), at_least, further


def why(
    connection: Connection,
    filters: Filters,
    limit: int = _HOW_MANY_WHY,
    offset: int = 0,
    web_url: str = "",
) -> dict[str, Any]:
    """From an alert to what was done for it: episode by episode, the one heard of last first.

    Each episode has its notifications, oldest first, each with its request, outcome and reason:
    all that were more than a repetition, and the newest of the repetitions. ``count`` counts
    episodes among the newest _LOOKED_AT_WHY notifications that match.
    """
    begin = filters
    if filters.before:
        row_id, newest = search.last_ids(filters, alerts.c.id, alerts.c.id)
        begin = replace(filters, before=(filters.before[0], (str(row_id),)))
    else:
        # An episode that is heard of again while someone turns pages keeps its place.
        newest = connection.scalar(select(func.max(alerts.c.id))) or 0
    looked, matches = search.look(connection, begin)
    seen = connection.scalar(select(func.count()).select_from(looked))
    some = (
        select(looked.c.id)
        .where(matches, looked.c.id <= newest)
        .order_by(looked.c.created_at.desc(), looked.c.id.desc())
        .limit(_LOOKED_AT_WHY + 1)
        .subquery("some")
    )
    rows = connection.execute(
        select(alerts.c.id, alerts.c.created_at, alerts.c.episode, alerts.c.fingerprint)
        .join(some, some.c.id == alerts.c.id)
        .order_by(alerts.c.created_at.desc(), alerts.c.id.desc())
    ).all()
    not_all = len(rows) > _LOOKED_AT_WHY
    rows = rows[:_LOOKED_AT_WHY]
    groups: dict[Any, list[Any]] = {}
    for row in rows:
        # What belongs to no episode, a malformed alert for one, stands for itself.
        groups.setdefault(row.episode or row.id, []).append(row)
    if filters.before:
        named = [group[0] for group in groups.values() if group[0].episode]
        for name in _shown_before(connection, begin, named, newest):
            del groups[name]
    page = list(groups.values())[offset : offset + limit]
    at_least = seen > search.DEPTH or not_all
    further = ""
    if len(groups) > offset + limit:
        further = search.place(page[-1][0].created_at, page[-1][0].id, newest)
    elif not_all:
        further = search.place(rows[-1].created_at, rows[-1].id, newest)
    elif seen > search.DEPTH:
        further = search.place(*_last(connection, looked), newest)
    answer = {"episodes": _episodes(connection, page, web_url), "count": len(groups)}
    return _page(answer, at_least, further)


def _shown_before(
    connection: Connection, filters: Filters, rows: list[Any], newest: int
) -> set[str]:
    """The episodes of the rows that an earlier page had: those with a newer alert that matches.

    Only the next alert of the same fingerprint is looked at: another episode has begun with it,
    or the same goes on. One that comes late may lie between; its episode is shown once more.
    """
    moment, row_id = filters.before[0], int(filters.before[1][0])
    later = alerts.alias("later")
    of = search.within(replace(filters, since=None, before=None), later.c.created_at, later.c.id)
    for name in ("severity", "status", "outcome"):
        if getattr(filters, name):
            of.append(later.c[name] == getattr(filters, name))
    following = (
        search.by_index(connection, select(later.c.id), later, "ix_poundcake_alerts_by_fingerprint")
        .where(
            later.c.fingerprint == alerts.c.fingerprint,
            later.c.created_at >= moment,
            or_(later.c.created_at > moment, later.c.id >= row_id),
            later.c.id <= newest,
            *of,
        )
        .order_by(later.c.created_at, later.c.id)
        .limit(1)
        .scalar_subquery()
    )
    found: set[str] = set()
    for some in database.batched(rows):
        ids = connection.scalars(select(following).where(alerts.c.id.in_([r.id for r in some])))
        known = [row_id for row_id in ids if row_id is not None]
        found.update(connection.scalars(select(alerts.c.episode).where(alerts.c.id.in_(known))))
    return found & {row.episode for row in rows}


def _episodes(connection: Connection, page: list[list[Any]], web_url: str) -> list[dict[str, Any]]:
    names = [group[0].episode for group in page if group[0].episode]
    whole = {
        row.id: row
        for row in _alerts(connection, [row.id for group in page for row in group[:_SHOWN]])
    }
    notable: dict[str, list[Any]] = {}
    for some in database.batched(names):
        # A cooldown that is said again changes nothing, and its incident counts it.
        changed = or_(
            alerts.c.outcome.in_(EMITTED),
            alerts.c.open_fingerprint.is_not(None),
            alerts.c.closed_at.is_not(None),
        )
        ids = connection.scalars(
            select(alerts.c.id).where(
                alerts.c.episode.in_(some), alerts.c.outcome.in_(_NOTABLE), changed
            )
        ).all()
        for row in _alerts(connection, ids):
            notable.setdefault(row.episode, []).append(row)
    shown = []
    for group in page:
        some = notable.get(group[0].episode, [])
        newest = [whole[row.id] for row in group[:_SHOWN] if row.id in whole]
        rows = {row.id: row for row in some[:_SHOWN] + newest + some[-1:]}
        shown.append(sorted(rows.values(), key=lambda row: (row.created_at, row.id)))
    linked = _links(connection, [row.id for rows in shown for row in rows])
    return [
        _episode(rows, notable.get(rows[0].episode, rows), linked, web_url)
        for rows in shown
        if rows
    ]


def _episode(
    shown: list[Any], notable: list[Any], linked: list[Any], web_url: str
) -> dict[str, Any]:
    first = shown[0]
    ids = {row.id for row in shown}
    own = [link for link in linked if link.alert_id in ids]
    opened = [row for row in notable if row.status == FIRING]
    ended = [row for row in notable if row.outcome == Outcome.RESOLVED]
    if any(row.open_fingerprint for row in notable):
        state = "firing"
    elif ended:
        state = "resolved"
    else:
        # A later one took its place, or it never was an incident.
        state = "superseded" if any(row.closed_at for row in notable) else ""
    return {
        "episode": first.episode or "",
        "fingerprint": first.fingerprint,
        "alert_name": first.alert_name,
        "severity": first.severity,
        "instance": first.instance,
        "state": state,
        "starts_at": _time((opened or shown)[-1].starts_at),
        "ends_at": _time(ended[0].ends_at if ended else None),
        "last_seen_at": format_timestamp(max(row.last_seen_at for row in shown)),
        "notifications": sum(row.notifications for row in opened) or len(shown),
        "alerts": [
            {
                "request_id": row.request_id,
                "received_at": format_timestamp(row.created_at),
                "id": row.id,
                "status": row.status,
                "outcome": row.outcome,
                "reason": _reason(row),
                "st2_rule": row.st2_rule_matched
                or _first([link for link in own if link.alert_id == row.id], "st2_rule_ref"),
            }
            for row in shown
        ],
        "stackstorm_executions": [_execution(link, web_url) for link in own],
    }


def _alerts(connection: Connection, ids: Sequence[int]) -> list[Any]:
    """Alerts with their request_id, newest first."""
    rows: list[Any] = []
    for some in database.batched(ids):
        rows += connection.execute(
            select(*_BRIEF, api_calls.c.request_id)
            .join(api_calls, api_calls.c.id == alerts.c.api_call_id)
            .where(alerts.c.id.in_(some))
        )
    return sorted(rows, key=lambda row: (row.created_at, row.id), reverse=True)


def _last(connection: Connection, looked: Any) -> Any:
    """(moment, id) of the row that a search ended with."""
    moment, last = looked.c.created_at, looked.c.id
    return connection.execute(select(moment, last).order_by(moment, last).limit(1)).one()


def _page(answer: dict[str, Any], at_least: bool, further: str) -> dict[str, Any]:
    if at_least:
        answer["at_least"] = True
    if further:
        answer["next"] = further
    return answer


def alert_of(connection: Connection, request_id: str, episode: str) -> dict[str, Any] | None:
    """One alert, verbatim, with its labels and annotations; None where it is not on record."""
    row = connection.execute(
        select(alerts, api_calls.c.request_id, api_calls.c.receiver)
        .join(api_calls, api_calls.c.id == alerts.c.api_call_id)
        .where(api_calls.c.request_id == request_id, alerts.c.episode == episode)
        .order_by(alerts.c.outcome.in_(EMITTED).desc(), alerts.c.id)
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
        "incident_ended_at": _time(ended_at(connection, row)),
    }


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


def _links(connection: Connection, alert_ids: Iterable[int]) -> list[Any]:
    found: list[Any] = []
    for ids in database.batched(list(alert_ids)):
        found += connection.execute(_link_columns().where(links.c.alert_id.in_(ids))).all()
    return sorted(found, key=lambda link: link.id)


def _alert(row: Any, linked: list[Any]) -> dict[str, Any]:
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


def _execution(row: Any, web_url: str) -> dict[str, Any]:
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
        "message": said(row.dry_run, row.mutated, row.message or row.error or ""),
        "url": _url(web_url, row),
    }


def said(dry_run: bool | None, mutated: bool | None, message: str) -> str:
    """A workflow's message, after the note that it changed nothing where that is so."""
    if dry_run and not mutated:
        return f"{DRY_RUN}. {message}" if message else DRY_RUN
    return message


def _call_status(call: Any, rows: list[Any], linked: list[Any]) -> str:
    if call.error:
        return "failed"
    if any(row.explanation == Explanation.LOST for row in rows):
        return "lost"
    if call.completed_at:
        return "completed"
    return "running" if linked else "recorded"


def _remediation(row: Any, link: Any) -> str:
    if link is None:
        return _reason(row) or row.outcome
    return state(link.status or "unknown", link.dry_run, link.mutated)


def state(status: str, dry_run: bool | None, mutated: bool | None) -> str:
    """The status of a remediation, with the note that it changed nothing where that is so."""
    return f"{status} ({DRY_RUN})" if dry_run and not mutated else status


def _reason(row: Any) -> str:
    return "; ".join(filter(None, (row.reason, row.explanation_reason)))


def _first(linked: list[Any], name: str) -> str:
    return next((getattr(link, name) for link in linked if getattr(link, name)), "")


def _duration(row: Any) -> float | None:
    if not row.start_timestamp or not row.end_timestamp:
        return None
    return round((row.end_timestamp - row.start_timestamp).total_seconds(), 3)


def _url(web_url: str, row: Any) -> str:
    if web_url:
        return f"{web_url.rstrip('/')}/#/history/{row.st2_execution_id}"
    return row.web_url or ""


def _time(moment: datetime | None) -> str | None:
    return format_timestamp(moment) if moment else None
