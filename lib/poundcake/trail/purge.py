"""Delete requests that were completed long ago, oldest first, in small transactions.

A request is either deleted together with its alerts, their links and executions, or kept.
"""

from __future__ import annotations

import time
from collections import Counter
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Collection, Mapping, NamedTuple, Sequence, TypedDict

from sqlalchemy import Column, Row, Select, and_, delete, exists, func, or_, select
from sqlalchemy.engine import Connection, Engine

from poundcake.config import Config
from poundcake.execution_status import TERMINAL
from poundcake.timestamps import format_timestamp
from poundcake.trail import clock, database
from poundcake.trail.audit import NOBODY, Actor, replace_details, write_entry
from poundcake.trail.changes import FAILURES, SUCCESSES, is_unfinished
from poundcake.trail.errors import PurgeError
from poundcake.trail.open_work import is_unexplained
from poundcake.trail.schema import alerts, api_calls, audit, changes, events, executions, links

MAX_DAYS = 36_500
# Maximum rows per transaction. A request with more alerts is deleted in a separate transaction.
_MAX_REQUESTS = 500
_MAX_ALERTS = 2000
# How long one transaction is retried while the database is unavailable, in seconds.
_RETRY_SECONDS = 60
# Maximum difference between the clocks of this machine and of the database server.
_MAX_SKEW = timedelta(hours=1)
# How old a request must be to prove that the clock is right. After a clock has jumped ahead, only
# new requests look recent, and all others look old.
_PROOF_AGE = timedelta(days=7)


class PurgeResult(TypedDict):
    """The result of the action poundcake.purge.

    Attributes:
        dry_run: Whether it was a dry run, which only counts the rows that would be deleted.
        before: Requests that were received and completed before this time were deleted.
        requests: The number of deleted requests.
        alerts: The number of deleted alerts.
        links: The number of deleted links.
        executions: The number of deleted executions.
        kept: The number of requests that were received before that time but kept.
    """

    dry_run: bool
    before: str
    requests: int
    alerts: int
    links: int
    executions: int
    kept: int


class _PurgeAudit:
    """The audit entry of a purge, whose counts grow with each page.

    Attributes:
        counts: The number of deleted rows and of kept requests so far.
    """

    def __init__(self, actor: Actor, days: int):
        self.counts: Counter[str] = Counter()
        self._actor = actor
        self._days = days
        self._id = 0

    def write(self, connection: Connection, page: Mapping[str, int]) -> None:
        """Write the counts so far, plus those of the page that this transaction deletes."""
        details = {**(self.counts + Counter(page)), "older_than_days": self._days}
        if not self._id or not replace_details(connection, self._id, "purge", details):
            self._id = write_entry(connection, "purge", self._actor, details=details)


class _Cursor(NamedTuple):
    """The last request of a page, after which the next page begins."""

    created_at: datetime
    id: int


def purge(
    engine: Engine,
    config: Config,
    older_than_days: int | None = None,
    dry_run: bool = False,
    actor: Actor = NOBODY,
) -> PurgeResult:
    """Delete requests that were received and completed more than a number of days ago.

    A request is kept if

    - one of its alerts is an open incident, or was one during these days,
    - one of its alerts is not explained yet,
    - one of its executions, or a change that one of them made, has not ended, or
    - one of its executions has a claim on an episode that has not ended. Without the claim, a
      workflow could work on the episode a second time.

    Audit entries and events that are older than `older_than_days` are also deleted.

    It is safe to kill a purge at any time, and to run it concurrently with other writers and
    purges.

    Args:
        engine: The tracking database.
        config: The configuration.
        older_than_days: 1 to 36500; by default the configuration's retention_days.
        dry_run: Count the rows that would be deleted, without deleting them.
        actor: Who requested the purge, for the audit.

    Raises:
        PurgeError: `older_than_days` is out of range, or a clock is wrong. Nothing was deleted.
        DatabaseError: The database was unavailable for a minute. Transactions that were committed
            before that are kept.
    """
    days = config.retention_days if older_than_days is None else older_than_days
    _check_days(config, days)
    database.prepare(engine, create=config.auto_migrate)
    before = _check_clocks(engine, timedelta(days=days))
    total: Counter[str] = Counter()
    audit_entry = _PurgeAudit(actor, days)
    cursor: _Cursor | None = None
    if not dry_run:
        database.retry_while_unavailable(
            partial(_purge_history, engine, before, audit_entry), _RETRY_SECONDS
        )
    while True:
        started_at = time.monotonic()
        page = database.retry_while_unavailable(
            partial(_purge_page, engine, before, cursor, None if dry_run else audit_entry),
            _RETRY_SECONDS,
        )
        if page is None:
            break
        counts, cursor = page
        total.update(counts)
        audit_entry.counts.update(counts)
        if not dry_run:
            # Pause, so that other writers get the lock: SQLite's lock has no queue.
            time.sleep(min(time.monotonic() - started_at, 1))
    return PurgeResult(
        dry_run=dry_run,
        before=format_timestamp(before),
        requests=total["requests"],
        alerts=total["alerts"],
        links=total["links"],
        executions=total["executions"],
        kept=total["kept"],
    )


def _check_days(config: Config, days: int) -> None:
    if not 1 <= days <= MAX_DAYS:
        raise PurgeError(f"older_than_days: must be 1 to {MAX_DAYS}")
    cooldown = timedelta(seconds=config.cooldown_seconds)
    if timedelta(days=days) < cooldown:
        minimum_days = -(-cooldown // timedelta(days=1))
        raise PurgeError(
            f"older_than_days: must be {minimum_days} or more, because a cooldown of "
            f"{config.cooldown_seconds} seconds (cooldown_seconds) looks back that far"
        )


def _check_clocks(engine: Engine, age: timedelta) -> datetime:
    """Check the clocks, and return the time before which requests are deleted.

    If a clock has jumped months ahead, the whole history looks old, and only requests that were
    received after the jump look recent. So the newest request that is older than `proof_age` must
    be too recent to be deleted.

    Raises:
        PurgeError: A clock seems to be wrong.
    """
    proof_age = min(_PROOF_AGE, age / 2)
    with database.reading(engine) as connection:
        now, local_now = clock.database_now(connection), clock.local_now()
        newest_received_at = connection.scalar(
            select(func.max(api_calls.c.created_at)).where(
                api_calls.c.created_at <= now - proof_age
            )
        )
    if abs(now - local_now) > _MAX_SKEW:
        raise PurgeError(
            f"nothing was deleted, because the clocks disagree: the database's says "
            f"{clock.format_deadline(now)}, this machine's says "
            f"{clock.format_deadline(local_now)}; correct them and purge again"
        )
    if newest_received_at is not None and newest_received_at < now - age:
        raise PurgeError(
            f"nothing was deleted, because no request older than {_format_age(proof_age)} would "
            f"remain: the newest of them was received at "
            f"{clock.format_deadline(newest_received_at)}, and the database's clock says "
            f"{clock.format_deadline(now)}; if that is right, purge again once a newer request is "
            f"{_format_age(proof_age)} old"
        )
    return now - age


def _format_age(age: timedelta) -> str:
    return f"{age.days} days" if age.days > 1 else f"{age // timedelta(hours=1)} hours"


def _purge_history(engine: Engine, before: datetime, audit_entry: _PurgeAudit) -> None:
    """Delete old audit entries and events, which need not belong to an old request."""
    with database.transaction(engine) as connection:
        statements = (delete(table).where(table.c.at < before) for table in (audit, events))
        if sum(connection.execute(statement).rowcount for statement in statements):
            audit_entry.write(connection, {})


def _purge_page(
    engine: Engine, before: datetime, after: _Cursor | None, audit_entry: _PurgeAudit | None
) -> tuple[dict[str, int], _Cursor] | None:
    """Purge the next page of requests.

    Args:
        engine: The tracking database.
        before: Requests older than this are purged.
        after: The cursor of the previous page, or None for the first page.
        audit_entry: The audit entry to update, or None for a dry run.

    Returns:
        The counts of the page and its cursor, or None if there are no more requests.
    """
    dry_run = audit_entry is None
    open_connection = database.reading if dry_run else database.transaction
    with open_connection(engine) as connection:
        page = _read_page(connection, before, after, lock=not dry_run)
        if not page:
            return None
        cursor = _Cursor(page[-1].created_at, page[-1].id)
        ids = {call.id for call in page}
        if not dry_run:
            _lock_alerts(connection, ids)
        kept_ids = _find_ids_to_keep(connection, ids, before)
        old_ids = ids - kept_ids
        old_links = _read_links(connection, old_ids)
        execution_ids = {link.st2_execution_id for link in old_links}
        execution_ids -= _find_linked_elsewhere(connection, execution_ids, old_ids, cursor, before)
        counts = {
            "requests": len(old_ids),
            "alerts": _count_alerts(connection, old_ids),
            "links": len(old_links),
            "executions": len(execution_ids),
            "kept": len(kept_ids),
        }
        if not dry_run:
            _delete(connection, links.c.id, {link.id for link in old_links})
            _delete(connection, executions.c.id, execution_ids)
            _delete_changes(connection, old_ids)
            _delete(connection, alerts.c.api_call_id, old_ids)
            _delete(connection, api_calls.c.id, old_ids)
        if audit_entry:
            audit_entry.write(connection, counts)
    return counts, cursor


def _read_page(
    connection: Connection, before: datetime, after: _Cursor | None, lock: bool
) -> list[Row[Any]]:
    """Return the oldest requests after the cursor, up to the limits of a page."""
    # Positions count the alerts of a request from 0, and max() is faster than count().
    last_position = (
        select(func.max(alerts.c.position))
        .where(alerts.c.api_call_id == api_calls.c.id)
        .scalar_subquery()
    )
    statement = (
        select(api_calls.c.id, api_calls.c.created_at, last_position.label("last_position"))
        .where(api_calls.c.created_at < before)
        .order_by(api_calls.c.created_at, api_calls.c.id)
        .limit(_MAX_REQUESTS)
    )
    if after:
        # MariaDB cannot derive an index range from OR, so the first condition provides one.
        statement = statement.where(
            api_calls.c.created_at >= after.created_at,
            or_(api_calls.c.created_at > after.created_at, api_calls.c.id > after.id),
        )
    if lock:  # keep another purge from taking the same requests
        statement = statement.with_for_update()
    page: list[Row[Any]] = []
    alert_count = 0
    for call in connection.execute(statement):
        alert_count += 0 if call.last_position is None else call.last_position + 1
        if page and alert_count > _MAX_ALERTS:
            break
        page.append(call)
    return page


def _lock_alerts(connection: Connection, call_ids: Collection[int]) -> None:
    """Lock the alerts of requests, so that no execution can be linked to them.

    Open incidents are not locked, so that recording can update them. Their requests are kept.
    """
    connection.execute(
        select(alerts.c.id)
        .where(alerts.c.api_call_id.in_(call_ids), alerts.c.open_fingerprint.is_(None))
        .with_for_update()
    )


def _read_links(connection: Connection, call_ids: Collection[int]) -> Sequence[Row[Any]]:
    return connection.execute(
        select(links.c.id, links.c.st2_execution_id)
        .join(alerts, alerts.c.id == links.c.alert_id)
        .where(alerts.c.api_call_id.in_(call_ids))
    ).all()


def _count_alerts(connection: Connection, call_ids: Collection[int]) -> int:
    return connection.execute(
        select(func.count()).where(alerts.c.api_call_id.in_(call_ids))
    ).scalar_one()


def _delete(connection: Connection, column: Column[Any], values: Collection[Any]) -> None:
    for chunk in database.batched(sorted(values)):
        connection.execute(delete(column.table).where(column.in_(chunk)))


def _delete_changes(connection: Connection, call_ids: Collection[int]) -> None:
    """Delete the changes of requests, except failures that a breaker still counts.

    A breaker counts the failures since the last success, so there are only a few.
    """
    later_changes = changes.alias("later")
    is_counted = and_(
        changes.c.result.in_(FAILURES),
        changes.c.released_at.is_(None),
        ~exists(
            select(later_changes.c.id).where(
                later_changes.c.remediation == changes.c.remediation,
                later_changes.c.result.in_(SUCCESSES),
                later_changes.c.decided_at > changes.c.decided_at,
            )
        ),
    )
    for chunk in database.batched(sorted(call_ids)):
        request_ids = select(api_calls.c.request_id).where(api_calls.c.id.in_(chunk))
        # MariaDB cannot delete from a table that a subquery reads.
        ids = connection.scalars(
            select(changes.c.id).where(
                changes.c.request_id.in_(request_ids), ~is_unfinished(), ~is_counted
            )
        ).all()
        _delete(connection, changes.c.id, ids)


def _find_ids_to_keep(
    connection: Connection, call_ids: Collection[int], before: datetime
) -> set[int]:
    """Return the ids of the requests to keep."""
    kept_ids: set[int] = set()
    for chunk in database.batched(sorted(call_ids)):
        for statement in (
            _select_recent(chunk, before),
            _select_unfinished(chunk, before),
            _select_running(chunk),
            _select_changing(chunk),
            _select_claiming(chunk, before),
        ):
            kept_ids.update(connection.scalars(statement.distinct()))
    return kept_ids


def _select_recent(call_ids: Sequence[int], before: datetime) -> Select[tuple[int]]:
    return select(api_calls.c.id).where(
        api_calls.c.id.in_(call_ids),
        or_(
            api_calls.c.created_at >= before,
            api_calls.c.completed_at >= before,
            api_calls.c.completed_at.is_(None),
        ),
    )


def _select_unfinished(call_ids: Sequence[int], before: datetime) -> Select[tuple[int]]:
    return select(alerts.c.api_call_id).where(
        alerts.c.api_call_id.in_(call_ids),
        or_(alerts.c.open_fingerprint.is_not(None), alerts.c.closed_at >= before, is_unexplained()),
    )


def _select_running(call_ids: Sequence[int]) -> Select[tuple[int]]:
    return (
        select(alerts.c.api_call_id)
        .join(links, links.c.alert_id == alerts.c.id)
        .join(executions, executions.c.id == links.c.st2_execution_id)
        .where(alerts.c.api_call_id.in_(call_ids), executions.c.status.not_in(TERMINAL))
    )


def _select_changing(call_ids: Sequence[int]) -> Select[tuple[int]]:
    return (
        select(api_calls.c.id)
        .join(changes, changes.c.request_id == api_calls.c.request_id)
        .where(api_calls.c.id.in_(call_ids), is_unfinished())
    )


def _select_claiming(call_ids: Sequence[int], before: datetime) -> Select[tuple[int]]:
    """Select requests with a claim on an episode that has not ended."""
    claimed_alerts = alerts.alias()
    # The claim also counts for later requests about the same episode.
    return (
        select(claimed_alerts.c.api_call_id)
        .join(links, links.c.alert_id == claimed_alerts.c.id)
        .join(alerts, alerts.c.episode == claimed_alerts.c.episode)
        .where(
            claimed_alerts.c.api_call_id.in_(call_ids),
            links.c.claim.is_not(None),
            or_(
                alerts.c.created_at >= before,
                alerts.c.open_fingerprint.is_not(None),
                is_unexplained(),
            ),
        )
    )


def _find_linked_elsewhere(
    connection: Connection,
    execution_ids: set[str],
    old_ids: set[int],
    cursor: _Cursor,
    before: datetime,
) -> set[str]:
    """Return the executions that are also linked to a remaining request.

    A request remains if it is kept or follows the cursor. All other requests have already been
    deleted, or counted as deleted by a dry run.
    """
    other_links: list[Row[Any]] = []
    for chunk in database.batched(sorted(execution_ids)):
        rows = connection.execute(
            select(links.c.st2_execution_id, api_calls.c.id, api_calls.c.created_at)
            .join(alerts, alerts.c.id == links.c.alert_id)
            .join(api_calls, api_calls.c.id == alerts.c.api_call_id)
            .where(links.c.st2_execution_id.in_(chunk))
        )
        other_links += [row for row in rows if row.id not in old_ids]
    kept_ids = _find_ids_to_keep(connection, {row.id for row in other_links}, before)
    return {
        row.st2_execution_id
        for row in other_links
        if row.id in kept_ids or _Cursor(row.created_at, row.id) > cursor
    }
