"""How remediations went over a time range: by workflow, and by alert name."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta, timezone
from typing import Any

from sqlalchemy import BigInteger, case, cast, func, literal, select, text
from sqlalchemy.engine import Connection

from poundcake.stackstorm import TERMINAL
from poundcake.timestamps import format_timestamp
from poundcake.trail import search
from poundcake.trail.schema import alerts, executions, links
from poundcake.trail.search import Filters

DEFAULT_RANGE = timedelta(hours=24)
_FAILED = ("failed", "timeout", "abandoned")


def stats(connection: Connection, filters: Filters, not_cleared_minutes: int) -> dict[str, Any]:
    """Executions that started within filters.since (a day ago where it is None) and until.

    Returns {since, until, workflows: [...], alerts: [...]}, each row {workflow | alert_name,
    count, succeeded, failed (failed, timeout, abandoned), running (not ended), other (canceled,
    gone), not_cleared, success_rate (of those that succeeded or failed; None without any),
    mean_seconds, p95_seconds (nearest rank; None while none has ended)}, the most frequent first.
    not_cleared: of the succeeded, those whose alert went on firing for more than
    not_cleared_minutes after their end. The filters of alerts narrow it further.
    """
    now = datetime.now(timezone.utc)
    until = filters.until or now
    since = filters.since or until - DEFAULT_RANGE
    # SQLite would read the whole history of an alert name.
    wanted = [
        search.unindexed(alerts.c[name]) == getattr(filters, name)
        for name in ("severity", "alert_name", "instance", "fingerprint")
        if getattr(filters, name)
    ]
    status, ended = executions.c.status, executions.c.end_timestamp
    took = _microseconds(connection, executions.c.start_timestamp, ended)
    # What ran for a resolve has no incident of its own to clear: it was closed at no time.
    fired_until = case(
        (alerts.c.open_fingerprint.is_not(None), literal(now, ended.type)),
        else_=alerts.c.closed_at,
    )
    fired_on = _microseconds(connection, ended, fired_until)
    # Added up where they are: a row for each execution takes longer to fetch than to find.
    rows = connection.execute(
        search.by_index(
            connection,
            select(
                links.c.st2_action_ref.label("workflow"),
                alerts.c.alert_name,
                status,
                func.count().label("count"),
                func.sum(case((fired_on > not_cleared_minutes * 60_000_000, 1), else_=0)).label(
                    "not_cleared"
                ),
                func.group_concat(took).label("took"),
            ),
            executions,
            "ix_execution_db_start",
        )
        .select_from(executions)
        .join(links, links.c.st2_execution_id == executions.c.id)
        .join(alerts, alerts.c.id == links.c.alert_id)
        .where(executions.c.start_timestamp >= since, executions.c.start_timestamp < until, *wanted)
        .group_by(links.c.st2_action_ref, alerts.c.alert_name, status)
    )
    by_workflow: dict[str, _Sum] = defaultdict(_Sum)
    by_name: dict[str, _Sum] = defaultdict(_Sum)
    for row in rows:
        for found in (by_workflow[row.workflow or ""], by_name[row.alert_name]):
            found.add(row)
    return {
        "since": format_timestamp(since),
        "until": format_timestamp(until),
        "workflows": _rows("workflow", by_workflow),
        "alerts": _rows("alert_name", by_name),
    }


def _microseconds(connection: Connection, start: Any, end: Any) -> Any:
    """How long after start the end is; NULL where one is."""
    if connection.dialect.name != "sqlite":
        return func.timestampdiff(text("MICROSECOND"), start, end)

    def since_epoch(moment: Any) -> Any:
        # "2026-01-14 12:00:00.000000"
        seconds = cast(func.strftime("%s", moment), BigInteger)
        return seconds * 1_000_000 + cast(func.substr(moment, 21, 6), BigInteger)

    return since_epoch(end) - since_epoch(start)


class _Sum:
    def __init__(self) -> None:
        self.count = self.succeeded = self.failed = self.running = self.not_cleared = 0
        self.took: list[int] = []

    def add(self, row: Any) -> None:
        self.count += row.count
        if row.status == "succeeded":
            self.succeeded += row.count
            self.not_cleared += int(row.not_cleared)
        elif row.status in _FAILED:
            self.failed += row.count
        elif row.status not in TERMINAL:
            self.running += row.count
            return
        self.took += map(int, row.took.split(",") if row.took else ())

    def report(self) -> dict[str, Any]:
        known = self.succeeded + self.failed
        seconds = [micro / 1_000_000 for micro in sorted(self.took)]
        return {
            "count": self.count,
            "succeeded": self.succeeded,
            "failed": self.failed,
            "running": self.running,
            "other": self.count - known - self.running,
            "not_cleared": self.not_cleared,
            "success_rate": round(self.succeeded / known, 4) if known else None,
            "mean_seconds": round(sum(seconds) / len(seconds), 3) if seconds else None,
            "p95_seconds": round(seconds[-(-len(seconds) * 95 // 100) - 1], 3) if seconds else None,
        }


def _rows(key: str, found: dict[str, _Sum]) -> list[dict[str, Any]]:
    frequent_first = sorted(found.items(), key=lambda item: (-item[1].count, item[0]))
    return [{key: name, **sums.report()} for name, sums in frequent_first]
