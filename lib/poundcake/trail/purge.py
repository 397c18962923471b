"""Retention: what has ended long ago is deleted, oldest first, in small transactions.

A request goes whole, with its alerts, their links and their executions, or it stays whole.
"""

from __future__ import annotations

import time
from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import Any, Collection, Tuple

from sqlalchemy import delete, func, or_, select
from sqlalchemy.engine import Connection, Engine

from poundcake.config import Config
from poundcake.errors import PoundCakeError
from poundcake.stackstorm import TERMINAL
from poundcake.timestamps import format_timestamp
from poundcake.trail import database
from poundcake.trail.schema import alerts, api_calls, executions, links
from poundcake.trail.sync import open_alerts

MOST_DAYS = 36_500
# In one transaction; a request with more alerts than that goes alone, as it was recorded.
_REQUESTS = 500
_ALERTS = 2000
# Seconds that one transaction is tried for while the database cannot be used.
_PATIENCE = 60

_Place = Tuple[datetime, int]


class PurgeError(PoundCakeError):
    """What is to be purged cannot be. The message names the field."""


def purge(
    engine: Engine, config: Config, older_than_days: int | None = None, dry_run: bool = False
) -> dict[str, Any]:
    """Deletes requests that came, and were completed, more than so many days ago.

    older_than_days: 1 to 36500; None: retention_days. dry_run: counts by the same conditions and
    deletes nothing. A request is kept while
    - one of its alerts is an open incident, or was one less than so many days ago,
    - it is not known yet what became of one of its alerts,
    - one of its executions has not ended, or
    - it holds a claim on an episode that is not over: without it a workflow would run twice.

    May be killed at any moment, and run at the same time as the other writers and as another
    purge. Returns {dry_run, before, requests, alerts, links, executions, kept}: the moment before
    which all has to have ended, the rows deleted, and how many requests that came before it were
    kept. Raises PurgeError, or DatabaseError where the database cannot be used for a minute; what
    was deleted before stays so.
    """
    days = config.retention_days if older_than_days is None else older_than_days
    _check(config, days)
    database.prepare(engine, create=config.auto_migrate)
    before = datetime.now(timezone.utc) - timedelta(days=days)
    total: Counter = Counter()
    place: _Place | None = None
    while True:
        started = time.monotonic()
        counts, place = database.retry_while_unavailable(
            lambda at=place: _purge_some(engine, before, at, dry_run), _PATIENCE
        )
        if place is None:
            break
        total.update(counts)
        if not dry_run:
            # Whoever waits to write has its turn: SQLite's lock knows no queue.
            time.sleep(min(time.monotonic() - started, 1))
    names = ("requests", "alerts", "links", "executions", "kept")
    return {"dry_run": dry_run, "before": format_timestamp(before), **{n: total[n] for n in names}}


def _check(config: Config, days: int) -> None:
    if not 1 <= days <= MOST_DAYS:
        raise PurgeError(f"older_than_days: 1 to {MOST_DAYS} is expected")
    cooldown = timedelta(seconds=config.cooldown_seconds)
    if timedelta(days=days) < cooldown:
        least = -(-cooldown // timedelta(days=1))
        raise PurgeError(
            f"older_than_days: {least} or more is expected, because a cooldown of "
            f"{config.cooldown_seconds} seconds (cooldown_seconds) looks back so far"
        )


def _purge_some(
    engine: Engine, before: datetime, place: _Place | None, dry_run: bool
) -> tuple[dict[str, int], _Place | None]:
    """The next requests after a place: (what was deleted, where it ended), or ({}, None)."""
    with (database.reading if dry_run else database.transaction)(engine) as connection:
        page = _page(connection, before, place, lock=not dry_run)
        if not page:
            return {}, None
        place = (page[-1].created_at, page[-1].id)
        ids = {call.id for call in page}
        if not dry_run:
            # From here on nothing can be linked to these. Open incidents, which stay, are left to
            # those that record.
            connection.execute(
                select(alerts.c.id)
                .where(alerts.c.api_call_id.in_(ids), alerts.c.open_fingerprint.is_(None))
                .with_for_update()
            )
        kept = _kept(connection, ids, before)
        old = ids - kept
        linked = connection.execute(
            select(links.c.id, links.c.st2_execution_id)
            .join(alerts, alerts.c.id == links.c.alert_id)
            .where(alerts.c.api_call_id.in_(old))
        ).all()
        named = {link.st2_execution_id for link in linked}
        named -= _named_by_others(connection, named, old, place, before)
        counts = {
            "requests": len(old),
            "alerts": connection.scalar(select(func.count()).where(alerts.c.api_call_id.in_(old))),
            "links": len(linked),
            "executions": len(named),
            "kept": len(kept),
        }
        if not dry_run:
            _delete(connection, links.c.id, {link.id for link in linked})
            _delete(connection, executions.c.id, named)
            _delete(connection, alerts.c.api_call_id, old)
            _delete(connection, api_calls.c.id, old)
    return counts, place


def _delete(connection: Connection, column: Any, values: Collection[Any]) -> None:
    for some in database.in_chunks(sorted(values)):
        connection.execute(delete(column.table).where(column.in_(some)))


def _page(connection: Connection, before: datetime, place: _Place | None, lock: bool) -> list[Any]:
    """The oldest requests after a place, no more than go together: rows of (id, created_at)."""
    # Quicker than counting, where there are many.
    last_position = select(func.max(alerts.c.position)).where(
        alerts.c.api_call_id == api_calls.c.id
    )
    statement = (
        select(api_calls.c.id, api_calls.c.created_at, last_position.scalar_subquery())
        .where(api_calls.c.created_at < before)
        .order_by(api_calls.c.created_at, api_calls.c.id)
        .limit(_REQUESTS)
    )
    if place:
        moment, last = place
        # The first condition is for the index: MariaDB does not find its range in an OR.
        statement = statement.where(
            api_calls.c.created_at >= moment,
            or_(api_calls.c.created_at > moment, api_calls.c.id > last),
        )
    if lock:  # against another purge
        statement = statement.with_for_update()
    page: list[Any] = []
    count = 0
    for call in connection.execute(statement):
        count += 0 if call[2] is None else call[2] + 1
        if page and count > _ALERTS:
            break
        page.append(call)
    return page


def _kept(connection: Connection, ids: Collection[int], before: datetime) -> set[int]:
    """Those of the requests that stay."""
    held = alerts.alias()
    found: set[int] = set()
    for some in database.in_chunks(sorted(ids)):
        own = alerts.c.api_call_id.in_(some)
        recent = select(api_calls.c.id).where(
            api_calls.c.id.in_(some),
            or_(
                api_calls.c.created_at >= before,
                api_calls.c.completed_at >= before,
                api_calls.c.completed_at.is_(None),
            ),
        )
        unfinished = select(alerts.c.api_call_id).where(
            own,
            or_(
                alerts.c.open_fingerprint.is_not(None), alerts.c.closed_at >= before, open_alerts()
            ),
        )
        running = (
            select(alerts.c.api_call_id)
            .join(links, links.c.alert_id == alerts.c.id)
            .join(executions, executions.c.id == links.c.st2_execution_id)
            .where(own, executions.c.status.not_in(TERMINAL))
        )
        # A later request may have brought the same episode anew: it is that one's claim, too.
        claiming = (
            select(held.c.api_call_id)
            .join(links, links.c.alert_id == held.c.id)
            .join(alerts, alerts.c.episode == held.c.episode)
            .where(
                held.c.api_call_id.in_(some),
                links.c.claim.is_not(None),
                or_(
                    alerts.c.created_at >= before,
                    alerts.c.open_fingerprint.is_not(None),
                    open_alerts(),
                ),
            )
        )
        for statement in (recent, unfinished, running, claiming):
            found.update(connection.scalars(statement.distinct()))
    return found


def _named_by_others(
    connection: Connection,
    named: set[str],
    old: set[int],
    place: _Place,
    before: datetime,
) -> set[str]:
    """Those of the executions that a link of another request names, which stays or comes later.

    One that came earlier and does not stay is gone by now, or is counted as gone by a dry run.
    """
    others = []
    for some in database.in_chunks(sorted(named)):
        rows = connection.execute(
            select(links.c.st2_execution_id, api_calls.c.id, api_calls.c.created_at)
            .join(alerts, alerts.c.id == links.c.alert_id)
            .join(api_calls, api_calls.c.id == alerts.c.api_call_id)
            .where(links.c.st2_execution_id.in_(some))
        )
        others += [row for row in rows if row.id not in old]
    kept = _kept(connection, {row.id for row in others}, before)
    return {
        row.st2_execution_id for row in others if row.id in kept or (row.created_at, row.id) > place
    }
