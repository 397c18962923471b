"""How remediations went over a time range: by workflow, and by alert name."""

from collections import defaultdict
from datetime import datetime, timedelta, timezone
from typing import Any, Dict, List

from sqlalchemy import select
from sqlalchemy.engine import Connection

from poundcake import search
from poundcake.alertmanager import timestamp
from poundcake.schema import alerts, executions, links
from poundcake.search import Filters
from poundcake.stackstorm import TERMINAL

DEFAULT_RANGE = timedelta(hours=24)
_FAILED = ("failed", "timeout", "abandoned")


def stats(connection: Connection, filters: Filters, not_cleared_minutes: int) -> Dict[str, Any]:
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
    wanted = [
        alerts.c[name] == getattr(filters, name)
        for name in ("severity", "alert_name", "instance", "fingerprint")
        if getattr(filters, name)
    ]
    rows = connection.execute(
        search.by_index(
            connection,
            select(
                links.c.st2_action_ref.label("workflow"),
                alerts.c.alert_name,
                alerts.c.open_fingerprint,
                alerts.c.closed_at,
                executions.c.status,
                executions.c.start_timestamp,
                executions.c.end_timestamp,
            ),
            executions,
            "ix_execution_db_start",
        )
        .select_from(executions)
        .join(links, links.c.st2_execution_id == executions.c.id)
        .join(alerts, alerts.c.id == links.c.alert_id)
        .where(
            executions.c.start_timestamp >= since, executions.c.start_timestamp < until, *wanted
        ),
        # A year of them need not stand in memory at once.
        execution_options={"yield_per": 5000},
    )
    by_workflow: Dict[str, _Sum] = defaultdict(_Sum)
    by_name: Dict[str, _Sum] = defaultdict(_Sum)
    patience = timedelta(minutes=not_cleared_minutes)
    for row in rows:
        seconds = None
        if row.status in TERMINAL and row.end_timestamp:
            seconds = (row.end_timestamp - row.start_timestamp).total_seconds()
        # What ran for a resolve has no incident of its own to clear.
        fired_until = now if row.open_fingerprint else row.closed_at
        not_cleared = (
            row.status == "succeeded"
            and row.end_timestamp is not None
            and fired_until is not None
            and fired_until > row.end_timestamp + patience
        )
        for found in (by_workflow[row.workflow or ""], by_name[row.alert_name]):
            found.add(row.status, seconds, not_cleared)
    return {
        "since": timestamp(since),
        "until": timestamp(until),
        "workflows": _rows("workflow", by_workflow),
        "alerts": _rows("alert_name", by_name),
    }


class _Sum:
    def __init__(self) -> None:
        self.count = self.succeeded = self.failed = self.running = self.not_cleared = 0
        self.seconds: List[float] = []

    def add(self, status: str, seconds: Any, not_cleared: bool) -> None:
        self.count += 1
        self.succeeded += status == "succeeded"
        self.failed += status in _FAILED
        self.running += status not in TERMINAL
        self.not_cleared += not_cleared
        if seconds is not None:
            self.seconds.append(seconds)

    def report(self) -> Dict[str, Any]:
        known = self.succeeded + self.failed
        seconds = sorted(self.seconds)
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


def _rows(key: str, found: Dict[str, _Sum]) -> List[Dict[str, Any]]:
    frequent_first = sorted(found.items(), key=lambda item: (-item[1].count, item[0]))
    return [{key: name, **sums.report()} for name, sums in frequent_first]
