"""What remediations achieved over time: the figures of stats by workflow, for each hour or day.

Reading a month takes longer than a page may take. So the figures of hours and days that have ended
are kept for some minutes, and each call reads a limited number of rows, the newest first.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from time import monotonic
from typing import Any, Iterator, Mapping, Sequence, Tuple

from sqlalchemy import BigInteger, ColumnElement, Select, func, literal_column, select
from sqlalchemy.engine import Connection

from poundcake.trail import clock
from poundcake.trail.execution_results import CHANGES, NOT_HELPED, ExecutionResult
from poundcake.trail.outcomes import Outcome
from poundcake.trail.schema import alerts, executions
from poundcake.trail.search import FilterError, Filters
from poundcake.trail.stats import (
    DEFAULT_RANGE,
    WORKFLOW,
    Figures,
    Group,
    UnmatchedName,
    filter_alerts,
    in_range,
    seconds_since_epoch,
    select_groups,
    select_unmatched,
    sort_names,
    time_parameters,
)

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
MAX_HOURLY = timedelta(days=2)
"""Longest time range that is divided into hours. Longer ones are divided into days."""
MAX_BUCKETS = 100
"""Maximum number of days in a time range."""
SETTLING = timedelta(hours=1)
"""The results of an hour or a day often change until it has ended this long ago."""
KEEP_SECONDS = 600.0
"""Seconds after which kept figures are read again."""
MAX_ROWS = 6000
"""Maximum number of executions and admitted alerts that one call reads."""
MAX_KEPT = 20_000
"""Maximum number of workflows and alert names in the kept figures."""
_MICROSECONDS = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_FAILED = (ExecutionResult.FAILED, ExecutionResult.UNKNOWN, ExecutionResult.CANCELED)


@dataclass(frozen=True)
class Times:
    """The mean and the median of times. Both are None if there are no times.

    Attributes:
        count: The number of times.
        total: Their sum, in microseconds.
        median_seconds: Their median.
    """

    count: int = 0
    total: int = 0
    median_seconds: float | None = None

    @classmethod
    def of(cls, microseconds: Sequence[int]) -> Times:
        """Return the figures of times in microseconds."""
        if not microseconds:
            return cls()
        median = round(statistics.median(microseconds) / _MICROSECONDS, 3)
        return cls(len(microseconds), sum(microseconds), median)

    @property
    def mean_seconds(self) -> float | None:
        """The mean."""
        return round(self.total / self.count / _MICROSECONDS, 3) if self.count else None


@dataclass(frozen=True)
class WorkflowFigures:
    """What the executions of a workflow achieved that started in a time range.

    Attributes:
        results: The number of executions with each result.
        durations: How long those took that have ended.
        times_to_clear: The times from the receipt of the alert until its incident ended, of those
            whose change cleared the alert.
    """

    results: Mapping[ExecutionResult, int] = field(default_factory=dict)
    durations: Times = Times()
    times_to_clear: Times = Times()

    @property
    def started(self) -> int:
        """All executions."""
        return sum(self.results.values())

    @property
    def changed(self) -> int:
        """Executions that made a change and whose action succeeded."""
        return self._count(*CHANGES)

    @property
    def cleared(self) -> int:
        """Changes that cleared the alert."""
        return self._count(ExecutionResult.CLEARED)

    @property
    def not_cleared(self) -> int:
        """Changes that did not help: the alert kept firing, or the verification failed."""
        return self._count(*NOT_HELPED)

    @property
    def undecided(self) -> int:
        """Changes of which it is not known yet whether they cleared the alert."""
        return self._count(ExecutionResult.CHANGED)

    @property
    def failed(self) -> int:
        """Executions that failed, were cancelled or ended without a result."""
        return self._count(*_FAILED)

    @property
    def refused(self) -> int:
        """Executions whose change was refused."""
        return self._count(ExecutionResult.REFUSED)

    @property
    def dry_run(self) -> int:
        """Dry runs."""
        return self._count(ExecutionResult.DRY_RUN)

    @property
    def other(self) -> int:
        """All other executions that made no change, or have not ended."""
        return self.started - self.changed - self.failed - self.refused - self.dry_run

    def _count(self, *results: ExecutionResult) -> int:
        return sum(self.results.get(result, 0) for result in results)


@dataclass(frozen=True)
class Bucket:
    """An hour or a day, in UTC.

    Attributes:
        start: When it begins.
        end: When it ends.
        workflows: The figures of each workflow of which an execution started in it.
        unmatched: The admitted alerts that were received in it and that no rule matched, by name.
        is_read: Whether the figures have been read.
    """

    start: datetime
    end: datetime
    workflows: Mapping[str, WorkflowFigures] = field(default_factory=dict)
    unmatched: Mapping[str, UnmatchedName] = field(default_factory=dict)
    is_read: bool = False


@dataclass(frozen=True)
class RemediationHistory:
    """The figures of a time range.

    Attributes:
        buckets: The hours or the days of the range, oldest first. At least one.
    """

    buckets: Sequence[Bucket]

    @property
    def since(self) -> datetime:
        """The start of the range."""
        return self.buckets[0].start

    @property
    def until(self) -> datetime:
        """The end of the range."""
        return self.buckets[-1].end

    @property
    def is_hourly(self) -> bool:
        """Whether the buckets are hours."""
        return self.buckets[0].end - self.buckets[0].start == HOUR

    @property
    def unread_until(self) -> datetime | None:
        """The end of the last bucket that the next calls will read, or None if all are read."""
        unread = [bucket.end for bucket in self.buckets if not bucket.is_read]
        return unread[-1] if unread else None

    def by_workflow(self) -> dict[str, list[WorkflowFigures]]:
        """Return the figures of each workflow in each bucket, the most active workflow first."""
        started: dict[str, int] = defaultdict(int)
        for bucket in self.buckets:
            for workflow, figures in bucket.workflows.items():
                started[workflow] += figures.started
        none = WorkflowFigures()
        return {
            workflow: [bucket.workflows.get(workflow, none) for bucket in self.buckets]
            for workflow in sorted(started, key=lambda name: (-started[name], name))
        }

    def unmatched_names(self) -> list[UnmatchedName]:
        """Return the names of the alerts that no rule matched, most frequent first."""
        names: dict[str, UnmatchedName] = {}
        for bucket in self.buckets:
            for name, newer in bucket.unmatched.items():
                count = names[name].count if name in names else 0
                names[name] = replace(newer, count=newer.count + count)
        return sort_names(names.values())


def add_figures(figures: Sequence[WorkflowFigures]) -> WorkflowFigures:
    """Return the sum of figures, without medians."""
    results: dict[ExecutionResult, int] = defaultdict(int)
    for each in figures:
        for result, count in each.results.items():
            results[result] += count
    return WorkflowFigures(
        results,
        _add_times([each.durations for each in figures]),
        _add_times([each.times_to_clear for each in figures]),
    )


def _add_times(times: Sequence[Times]) -> Times:
    return Times(sum(each.count for each in times), sum(each.total for each in times))


# The filters without a time range, not_cleared_minutes, and the start and the end of a bucket.
_Key = Tuple[Filters, int, datetime, datetime]


class HistoryReader:
    """Read histories, and keep the figures of buckets that have ended.

    Args:
        max_rows: The maximum number of executions and admitted alerts that one call reads, unless
            a single bucket has more.
    """

    def __init__(self, max_rows: int = MAX_ROWS) -> None:
        self._max_rows = max_rows
        # Each bucket with the reading of the monotonic clock when it was read, oldest first.
        # Threads share it, so each statement leaves it complete.
        self._kept: dict[_Key, tuple[Bucket, float]] = {}

    def read(
        self, connection: Connection, filters: Filters, not_cleared_minutes: int
    ) -> RemediationHistory:
        """Return the history of a time range.

        Args:
            connection: A connection to the tracking database.
            filters: As in stats.remediation_stats(). The time range, by default the last 24 hours,
                is extended to whole hours or days.
            not_cleared_minutes: As in stats.remediation_stats().

        Raises:
            FilterError: The time range is too long, or there are too many alerts to apply the
                matchers to.
        """
        now = clock.database_now(connection)
        buckets = divide(filters, now)
        view = replace(filters, since=None, until=None)
        keys = [(view, not_cleared_minutes, bucket.start, bucket.end) for bucket in buckets]
        kept = {key: self._kept[key] for key in keys if key in self._kept}
        selected = self._select(connection, keys, kept, now)
        found = {key: bucket for key, (bucket, _) in kept.items()}
        for run in _consecutive(selected):
            read_buckets = _read(connection, filters, not_cleared_minutes, now, run)
            found.update(zip(run, read_buckets))
        for key in selected:
            self._kept.pop(key, None)
            if not _is_settling(key, now):
                self._kept[key] = (found[key], monotonic())
        self._forget_oldest()
        return RemediationHistory([found.get(key, bucket) for key, bucket in zip(keys, buckets)])

    def _select(
        self,
        connection: Connection,
        keys: Sequence[_Key],
        kept: Mapping[_Key, tuple[Bucket, float]],
        now: datetime,
    ) -> list[_Key]:
        """Return the buckets to read: those whose results still change, and a limited number more.

        Prefer buckets that are not kept, newest first, to those that were kept for too long.
        """
        settling = [key for key in keys if _is_settling(key, now)]
        missing = [key for key in reversed(keys) if key not in kept and key not in settling]
        expired_at = monotonic() - KEEP_SECONDS
        expired = [key for key, (_, read_at) in kept.items() if read_at <= expired_at]
        expired.sort(key=lambda key: kept[key][1])
        selected = list(settling)
        row_count = sum(_count_rows(connection, key) for key in settling)
        for number, key in enumerate(missing + expired):
            row_count += _count_rows(connection, key)
            # At least one, so that all of them are read at last.
            if number and row_count > self._max_rows:
                break
            selected.append(key)
        return selected

    def _forget_oldest(self) -> None:
        sizes = {
            key: 1 + len(bucket.workflows) + len(bucket.unmatched)
            for key, (bucket, _) in list(self._kept.items())
        }
        total = sum(sizes.values())
        for key, size in sizes.items():
            if total <= MAX_KEPT:
                break
            self._kept.pop(key, None)
            total -= size


def divide(filters: Filters, now: datetime) -> list[Bucket]:
    """Divide a time range into hours or days, oldest first.

    Args:
        filters: The time range, by default the last 24 hours.
        now: The current time.

    Raises:
        FilterError: The range is longer than MAX_BUCKETS days.
    """
    until = filters.until or now
    since = filters.since or until - DEFAULT_RANGE
    if since >= until:
        raise FilterError("since", "must be earlier than until, which is now by default")
    if until - since > MAX_BUCKETS * DAY:
        raise FilterError("since", f"must be at most {MAX_BUCKETS} days before until")
    width = HOUR if until - since <= MAX_HOURLY else DAY
    start = _EPOCH + (since - _EPOCH) // width * width
    buckets = []
    while start < until:
        buckets.append(Bucket(start, start + width))
        start += width
    return buckets


def _is_settling(key: _Key, now: datetime) -> bool:
    """Return True if the results of a bucket still change."""
    *_, end = key
    return end > now - SETTLING


def _consecutive(keys: Sequence[_Key]) -> Iterator[list[_Key]]:
    """Yield runs of adjacent buckets, each of which one statement can read."""
    run: list[_Key] = []
    for key in sorted(keys, key=lambda key: key[2]):
        if run and run[-1][3] != key[2]:
            yield run
            run = []
        run.append(key)
    if run:
        yield run


def _count_rows(connection: Connection, key: _Key) -> int:
    """Return the number of executions and admitted alerts of a bucket. It reads only indexes."""
    *_, since, until = key
    parameters = {"since": since, "until": until}
    return sum(connection.scalar(statement, parameters) or 0 for statement in _COUNTS)


_COUNTS = (
    select(func.count()).select_from(executions).where(*in_range(executions.c.start_timestamp)),
    select(func.count())
    .select_from(alerts)
    .where(alerts.c.outcome == Outcome.ADMITTED, *in_range(alerts.c.created_at)),
)


def _read(
    connection: Connection,
    filters: Filters,
    not_cleared_minutes: int,
    now: datetime,
    run: Sequence[_Key],
) -> list[Bucket]:
    """Return adjacent buckets with their figures."""
    since, until = run[0][2], run[-1][3]
    width = run[0][3] - since
    parameters = time_parameters(since, until, now, not_cleared_minutes)
    conditions = filter_alerts(connection, filters, parameters) if filters.has_alert_filter else []
    of_executions, of_alerts = _statements(connection.dialect.name, width)
    figures: list[dict[str, Figures]] = [defaultdict(Figures) for _ in run]
    names: list[dict[str, UnmatchedName]] = [{} for _ in run]
    first = (since - _EPOCH) // width
    for row in connection.execute(of_executions.where(*conditions), parameters):
        figures[int(row.bucket) - first][row.workflow or ""].add(Group.of(row))
    for row in connection.execute(of_alerts.where(*conditions), parameters):
        names[int(row.bucket) - first][row.alert_name] = UnmatchedName.of(row)
    return [
        Bucket(
            start=key[2],
            end=key[3],
            workflows={
                workflow: WorkflowFigures(
                    dict(found.results), Times.of(found.durations), Times.of(found.times_to_clear)
                )
                for workflow, found in figures[number].items()
            },
            unmatched=names[number],
            is_read=True,
        )
        for number, key in enumerate(run)
    ]


@lru_cache(maxsize=None)
def _statements(dialect: str, width: timedelta) -> tuple[Select[Any], Select[Any]]:
    """Return the statements for the executions and for the unmatched alerts, by bucket.

    A bucket is the number of widths since 1970.
    """

    def bucket(moment: ColumnElement[Any]) -> ColumnElement[int]:
        seconds = literal_column(str(int(width.total_seconds())), BigInteger())
        return (seconds_since_epoch(dialect, moment) // seconds).label("bucket")

    return (
        select_groups(dialect, WORKFLOW, bucket(executions.c.start_timestamp)),
        select_unmatched(bucket(alerts.c.created_at)),
    )
