"""Statistics on remediations in a time range, by workflow and by alert name."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Iterable, Mapping, Sequence

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Row,
    Select,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    null,
    or_,
    select,
)
from sqlalchemy import text as sql_text
from sqlalchemy.engine import Connection

from poundcake.execution_status import TERMINAL
from poundcake.timestamps import format_timestamp
from poundcake.trail import clock, outbox
from poundcake.trail.alert_conditions import resolve
from poundcake.trail.execution_results import (
    CHANGES,
    NOT_HELPED,
    ExecutionResult,
    execution_result,
)
from poundcake.trail.label_matchers import find_matching, has_id
from poundcake.trail.outcomes import EndedBy, Explanation, Outcome
from poundcake.trail.queries.near_misses import near_misses_of_executions
from poundcake.trail.schema import alerts, changes, executions, links, unindexed
from poundcake.trail.search import FilterError, Filters

DEFAULT_RANGE = timedelta(hours=24)
UNKNOWN_REFUSAL = "unknown"
"""The name under which a refusal is counted if it is not recorded what refused the change."""
_FAILED = ("failed", "timeout", "abandoned")
# The filters on alerts that stats supports.
_ALERT_FILTERS = ("severity", "alert_name", "instance", "fingerprint")
_MICROSECONDS = 1_000_000
# Maximum number of alerts to which matchers are applied.
_MAX_MATCHED = 20_000
_MAX_MATCHING_SECONDS = 2
_RESULTS = {str(result): result for result in ExecutionResult}


def _zeros() -> dict[Any, int]:
    """Return an empty dict of counts. A Counter is several times as slow."""
    return defaultdict(int)


@dataclass(frozen=True)
class Group:
    """Executions with the same facts.

    Attributes:
        count: Their number.
        status: Their status in StackStorm.
        cleared: Whether their alerts ended in time after them, or None if that is not known.
        refusal: The control that refused their changes, or ''.
        result: What they achieved.
        durations: The durations of those that ended, in microseconds.
        times_to_clear: The times from the receipt of their alerts until the incidents ended, in
            microseconds, if the executions may have changed something.
    """

    count: int
    status: str
    cleared: bool | None
    refusal: str
    result: ExecutionResult
    durations: Sequence[int]
    times_to_clear: Sequence[int]

    @classmethod
    def of(cls, row: Row[Any]) -> Group:
        """Return the group of a row of the statement of select_groups()."""
        return cls(
            count=row.executions,
            status=row.status,
            cleared=None if row.cleared is None else bool(row.cleared),
            refusal=row.refusal or "",
            result=result_of_row(row),
            durations=_numbers(row.durations),
            times_to_clear=_numbers(row.times_to_clear),
        )


@dataclass
class Figures:
    """Statistics on the executions of one workflow or one alert name, or on all of them.

    Attributes:
        count: All executions.
        succeeded: Executions that succeeded, whether or not they changed anything.
        failed: Executions that failed, timed out or were abandoned.
        running: Executions that have not ended.
        not_cleared: Executions that succeeded, whether or not they changed anything, but whose
            alert still fired `not_cleared_minutes` later.
        durations: The durations of executions that ended, in microseconds.
        results: The number of executions with each result.
        refusals: The number of refused executions by the control that refused them.
        times_to_clear: The times, in microseconds, from the receipt of the alert until its incident
            ended, of the executions whose change cleared the alert.
    """

    count: int = 0
    succeeded: int = 0
    failed: int = 0
    running: int = 0
    not_cleared: int = 0
    durations: list[int] = field(default_factory=list)
    results: dict[ExecutionResult, int] = field(default_factory=_zeros)
    refusals: dict[str, int] = field(default_factory=_zeros)
    times_to_clear: list[int] = field(default_factory=list)

    @property
    def other(self) -> int:
        """Executions that were cancelled, or that StackStorm no longer has."""
        return self.count - self.succeeded - self.failed - self.running

    @property
    def changed(self) -> int:
        """Executions that made a change and whose action succeeded."""
        return sum(self.results[result] for result in CHANGES)

    @property
    def success_rate(self) -> float | None:
        """The share of successes among successes and failures, or None if there are neither."""
        finished_count = self.succeeded + self.failed
        return round(self.succeeded / finished_count, 4) if finished_count else None

    @property
    def help_rate(self) -> float | None:
        """The share of changes that cleared their alert, or None if none is decided yet."""
        cleared = self.results[ExecutionResult.CLEARED]
        decided = cleared + sum(self.results[result] for result in NOT_HELPED)
        return round(cleared / decided, 4) if decided else None

    @property
    def mean_seconds(self) -> float | None:
        """The mean duration, or None if no execution has ended."""
        return _mean_seconds(self.durations)

    @property
    def p95_seconds(self) -> float | None:
        """The 95th percentile of the durations (nearest rank), or None if there are none."""
        if not self.durations:
            return None
        rank = -(-len(self.durations) * 95 // 100)
        return round(sorted(self.durations)[rank - 1] / _MICROSECONDS, 3)

    @property
    def mean_seconds_to_clear(self) -> float | None:
        """The mean time from an alert to its end if a change cleared it, or None."""
        return _mean_seconds(self.times_to_clear)

    def add(self, group: Group) -> None:
        """Add a group of executions with the same facts."""
        self.count += group.count
        self.results[group.result] += group.count
        if group.result is ExecutionResult.REFUSED and group.refusal:
            self.refusals[group.refusal] += group.count
        if group.result is ExecutionResult.CLEARED:
            self.times_to_clear += group.times_to_clear
        if group.status == "succeeded":
            self.succeeded += group.count
            self.not_cleared += group.count if group.cleared is False else 0
        elif group.status in _FAILED:
            self.failed += group.count
        elif group.status not in TERMINAL:
            self.running += group.count
            return
        self.durations += group.durations

    def as_json(self) -> dict[str, Any]:
        """Return the figures as JSON, as in the result of the action stats."""
        return {
            "count": self.count,
            "succeeded": self.succeeded,
            "failed": self.failed,
            "running": self.running,
            "other": self.other,
            "not_cleared": self.not_cleared,
            "success_rate": self.success_rate,
            "mean_seconds": self.mean_seconds,
            "p95_seconds": self.p95_seconds,
            "changed": self.changed,
            "results": {name: self.results[result] for name, result in _RESULTS.items()},
            "refusals": dict(_most_frequent(self.refusals)),
            "help_rate": self.help_rate,
            "mean_seconds_to_clear": self.mean_seconds_to_clear,
        }


@dataclass
class AdmittedAlerts:
    """The admitted alerts that were received in the time range.

    Attributes:
        count: All of them.
        open: Those whose incident is still open.
        cleared_by_themselves: Those whose incident ended although nothing was changed for it.
        no_rule: Those that no rule matched.
        not_started: Those whose rule could not start its action.
        lost: Those that StackStorm kept losing until they were given up.
    """

    count: int = 0
    open: int = 0
    cleared_by_themselves: int = 0
    no_rule: int = 0
    not_started: int = 0
    lost: int = 0

    def add(self, row: Row[Any]) -> None:
        """Add the aggregated alerts of one explanation."""
        self.count += row.alerts
        self.open += int(row.open)
        self.cleared_by_themselves += int(row.ended)
        if row.explanation == Explanation.NO_RULE:
            self.no_rule += row.alerts
        elif row.explanation == Explanation.FAILED:
            self.not_started += row.alerts
        elif row.explanation == Explanation.LOST:
            self.lost += row.alerts

    def as_json(self) -> dict[str, Any]:
        """Return the numbers as JSON, as in the totals of the action stats."""
        return {
            "admitted": self.count,
            "open": self.open,
            "cleared_by_themselves": self.cleared_by_themselves,
            "no_rule": self.no_rule,
            "not_started": self.not_started,
            "lost": self.lost,
        }


@dataclass(frozen=True)
class UnmatchedName:
    """The admitted alerts of one name that no rule matched.

    Attributes:
        alert_name: Their name.
        count: Their number.
        last_at: When the newest of them was received.
    """

    alert_name: str
    count: int
    last_at: datetime

    @classmethod
    def of(cls, row: Row[Any]) -> UnmatchedName:
        """Return the name in a row of the statement of select_unmatched()."""
        return cls(row.alert_name, row.alerts, row.last_at)

    def as_json(self) -> dict[str, Any]:
        """Return the name as JSON, as in `no_rule` of the action stats."""
        return {
            "alert_name": self.alert_name,
            "count": self.count,
            "last_at": format_timestamp(self.last_at),
        }


@dataclass(frozen=True)
class Stats:
    """The figures of a time range.

    Attributes:
        since: The start of the range.
        until: Its end.
        total: The figures of all executions that started in the range.
        by_workflow: The same by workflow, or by the action that it ran.
        by_alert_name: The same by alert name.
        admitted: The admitted alerts that were received in the range.
        unmatched_names: The names of those that no rule matched, most frequent first.
    """

    since: datetime
    until: datetime
    total: Figures
    by_workflow: Mapping[str, Figures]
    by_alert_name: Mapping[str, Figures]
    admitted: AdmittedAlerts
    unmatched_names: Sequence[UnmatchedName]

    def as_json(self) -> dict[str, Any]:
        """Return the result of the action stats, most frequent first."""
        return {
            "since": format_timestamp(self.since),
            "until": format_timestamp(self.until),
            "workflows": _as_rows("workflow", self.by_workflow),
            "alerts": _as_rows("alert_name", self.by_alert_name),
            "totals": {**self.admitted.as_json(), **self.total.as_json()},
            "no_rule": [name.as_json() for name in self.unmatched_names],
        }


def stats(connection: Connection, filters: Filters, not_cleared_minutes: int) -> dict[str, Any]:
    """Return the result of remediation_stats() as JSON, with near misses if nothing ran."""
    result = remediation_stats(connection, filters, not_cleared_minutes)
    view = result.as_json()
    if not result.by_workflow and filters.has_alert_filter:
        in_range = replace(filters, since=result.since, until=result.until)
        view["near_misses"] = near_misses_of_executions(connection, in_range)
    return view


def remediation_stats(connection: Connection, filters: Filters, not_cleared_minutes: int) -> Stats:
    """Return statistics on a time range: its executions and its admitted alerts.

    Executions are in the range if they started in it, alerts if they were received in it.

    Args:
        connection: A connection to the tracking database.
        filters: The time range, by default the last 24 hours, and the filters severity,
            alert_name, instance and fingerprint.
        not_cleared_minutes: An alert that kept firing for longer than this after an execution was
            not cleared by it.
    """
    now = clock.database_now(connection)
    until = filters.until or now
    since = filters.since or until - DEFAULT_RANGE
    parameters = time_parameters(since, until, now, not_cleared_minutes)
    conditions = filter_alerts(connection, filters, parameters) if filters.has_alert_filter else []
    total = Figures()
    by_workflow: dict[str, Figures] = defaultdict(Figures)
    by_alert_name: dict[str, Figures] = defaultdict(Figures)
    # The admitted alerts that have ended and for which something may have been changed.
    handled_ids: set[str] = set()
    statement = _figures_statement(connection.dialect.name)
    for row in connection.execute(_with_conditions(statement, conditions), parameters):
        group = Group.of(row)
        for figures in (total, by_workflow[row.workflow or ""], by_alert_name[row.alert_name]):
            figures.add(group)
        handled_ids.update(row.handled_ids.split(",") if row.handled_ids else ())
    if sum(total.refusals.values()) < total.results[ExecutionResult.REFUSED]:
        for row, refusal in _read_refusals_at_start(connection, conditions, parameters):
            for figures in (total, by_workflow[row.workflow or ""], by_alert_name[row.alert_name]):
                figures.refusals[refusal] += 1
    admitted = AdmittedAlerts()
    for row in connection.execute(_with_conditions(_ADMITTED, conditions), parameters):
        admitted.add(row)
    admitted.cleared_by_themselves -= len(handled_ids)
    unmatched_names = (
        _read_unmatched_names(connection, conditions, parameters) if admitted.no_rule else ()
    )
    return Stats(since, until, total, by_workflow, by_alert_name, admitted, unmatched_names)


def filter_alerts(
    connection: Connection, filters: Filters, parameters: Mapping[str, Any]
) -> list[ColumnElement[bool]]:
    """Return the conditions for alerts that match the filters.

    Args:
        connection: A connection to the tracking database.
        filters: The filters on alerts.
        parameters: The parameters of the statements, with the time range.

    Raises:
        FilterError: There are too many alerts to apply the matchers to.
    """
    alert_conditions = resolve(connection, filters)
    conditions = alert_conditions.on_columns(lambda name: unindexed(alerts.c[name]), _ALERT_FILTERS)
    if not alert_conditions.has_matchers:
        return conditions
    alerts_of_executions = (
        select(alerts.c.id)
        .select_from(executions)
        .join(links, links.c.st2_execution_id == executions.c.id)
        .join(alerts, alerts.c.id == links.c.alert_id)
        .where(*in_range(executions.c.start_timestamp), *conditions)
        .order_by(executions.c.start_timestamp.desc())
    )
    admitted_alerts = (
        select(alerts.c.id).where(*_IS_ADMITTED, *conditions).order_by(alerts.c.created_at.desc())
    )
    # Most admitted alerts are also alerts of executions.
    ids: dict[int, None] = {}
    for candidates in (alerts_of_executions, admitted_alerts):
        rows = connection.scalars(candidates.limit(_MAX_MATCHED + 1), parameters)
        ids.update(dict.fromkeys(rows))
    matching = find_matching(connection, list(ids), alert_conditions, _MAX_MATCHING_SECONDS)
    if len(ids) > min(_MAX_MATCHED, matching.checked_count):
        field_name = "labels" if alert_conditions.labels else "annotations"
        raise FilterError(
            field_name,
            f"there are {len(ids)} alerts to check in this time range, which is too many: pass a "
            "later since, or another filter such as alert_name",
        )
    return [*conditions, has_id(alerts.c.id, matching.ids)]


RESULT_COLUMNS: Sequence[ColumnElement[Any]] = (
    executions.c.status,
    executions.c.stage,
    executions.c.dry_run,
    executions.c.mutated,
    changes.c.result.label("change_result"),
    changes.c.refusal,
)
"""The columns from which result_of_row() derives the result of an execution."""


def result_of_row(row: Row[Any]) -> ExecutionResult:
    """Return the result of an execution, given a row with RESULT_COLUMNS and `cleared`."""
    return execution_result(
        row.status,
        row.stage or "",
        row.dry_run,
        row.mutated,
        row.change_result,
        row.refusal or "",
        None if row.cleared is None else bool(row.cleared),
    )


def select_executions(*columns: ColumnElement[Any]) -> Select[Any]:
    """Return the statement for the executions of alerts, with the changes that they requested."""
    return (
        select(*columns)
        # With outdated statistics, MariaDB would read the whole table.
        .with_hint(executions, "FORCE INDEX (ix_execution_db_start)")
        .select_from(executions)
        .join(links, links.c.st2_execution_id == executions.c.id)
        .join(alerts, alerts.c.id == links.c.alert_id)
        .outerjoin(
            changes,
            and_(
                changes.c.st2_execution_id == executions.c.id,
                changes.c.episode == alerts.c.episode,
            ),
        )
    )


def has_cleared(dialect: str) -> ColumnElement[Any]:
    """Return the expression for whether an alert ended in time after an execution.

    It is the same as execution_results.has_cleared(): NULL while that is not known. Its parameters
    are `now` and `not_cleared_after`, the time limit in microseconds.

    Args:
        dialect: The name of the database's dialect.
    """
    ended = executions.c.end_timestamp
    # A resolve opens no incident, so its row has no closed_at.
    fired_until = case(
        (alerts.c.open_fingerprint.is_not(None), bindparam("now", type_=ended.type)),
        else_=alerts.c.closed_at,
    )
    kept_firing = microseconds_between(dialect, ended, fired_until)
    has_ended = and_(alerts.c.closed_at.is_not(None), ended.is_not(None))
    return case((kept_firing > bindparam("not_cleared_after"), 0), (has_ended, 1))


def time_parameters(
    since: datetime, until: datetime, now: datetime, not_cleared_minutes: int
) -> dict[str, Any]:
    """Return the parameters of the statements of this module.

    Args:
        since: The start of the time range.
        until: Its end.
        now: The current time.
        not_cleared_minutes: As in remediation_stats().
    """
    return {
        "since": since,
        "until": until,
        "now": now,
        "not_cleared_after": timedelta(minutes=not_cleared_minutes) // timedelta(microseconds=1),
    }


def in_range(moment: ColumnElement[Any]) -> list[ColumnElement[bool]]:
    """Return the conditions for the time range. Their parameters are `since` and `until`."""
    since, until = [bindparam(name, type_=moment.type) for name in ("since", "until")]
    return [moment >= since, moment < until]


def _ended_with_alert() -> ColumnElement[bool]:
    """Return the condition for alerts whose incident ended because the alert did."""
    return alerts.c.ended_by.in_((EndedBy.RESOLVE, EndedBy.GONE))


_IS_ADMITTED = [alerts.c.outcome == Outcome.ADMITTED, *in_range(alerts.c.created_at)]
_ADMITTED = (
    select(
        alerts.c.explanation,
        func.count().label("alerts"),
        func.sum(case((alerts.c.open_fingerprint.is_not(None), 1), else_=0)).label("open"),
        func.sum(case((_ended_with_alert(), 1), else_=0)).label("ended"),
    )
    .where(*_IS_ADMITTED)
    .group_by(alerts.c.explanation)
)


def _with_conditions(
    statement: Select[Any], conditions: Sequence[ColumnElement[bool]]
) -> Select[Any]:
    """Return the statement with more conditions. Without any, it need not be prepared again."""
    return statement.where(*conditions) if conditions else statement


@lru_cache(maxsize=None)
def _figures_statement(dialect: str) -> Select[Any]:
    """Return the statement that aggregates executions by workflow, alert name and facts.

    The column handled_ids contains the alerts of the time range that have ended, if the executions
    may have changed something. The parameters are those of has_cleared() and in_range().
    """
    is_handled = and_(
        or_(executions.c.mutated.is_(None), executions.c.mutated),
        _ended_with_alert(),
        *_IS_ADMITTED,
    )
    return select_groups(dialect, WORKFLOW, alerts.c.alert_name).add_columns(
        func.group_concat(case((is_handled, alerts.c.id))).label("handled_ids")
    )


WORKFLOW = links.c.st2_action_ref.label("workflow")
"""The workflow of an execution, or the action that it runs."""


def select_groups(dialect: str, *groups: ColumnElement[Any]) -> Select[Any]:
    """Return the statement that aggregates the executions of a time range.

    It aggregates in the database, because fetching a row per execution would take longer. Each row
    is for executions with the same facts, for Group.of(). The parameters are those of
    has_cleared() and in_range().

    Args:
        dialect: The name of the database's dialect.
        groups: More columns by which the executions are grouped.
    """
    duration = microseconds_between(
        dialect, executions.c.start_timestamp, executions.c.end_timestamp
    )
    # Only a change can clear an alert, and most executions make none.
    may_have_cleared = or_(executions.c.mutated, changes.c.id.is_not(None))
    time_to_clear = case(
        (
            may_have_cleared,
            microseconds_between(dialect, alerts.c.created_at, alerts.c.closed_at),
        )
    )
    return (
        select_executions(
            *groups,
            *RESULT_COLUMNS,
            has_cleared(dialect).label("cleared"),
            func.count().label("executions"),
            func.group_concat(time_to_clear).label("times_to_clear"),
            func.group_concat(duration).label("durations"),
        )
        .where(*in_range(executions.c.start_timestamp))
        .group_by(*groups, *RESULT_COLUMNS, sql_text("cleared"))
    )


def _read_refusals_at_start(
    connection: Connection,
    conditions: Sequence[ColumnElement[bool]],
    parameters: Mapping[str, Any],
) -> Iterable[tuple[Row[Any], str]]:
    """Yield the refused executions that have no row in poundcake_changes, with their refusals.

    The first task of a workflow refuses a change that the configuration does not allow. The event
    about the end of the remediation contains that refusal.
    """
    statement = select_executions(
        executions.c.id,
        alerts.c.episode,
        WORKFLOW,
        alerts.c.alert_name,
        *RESULT_COLUMNS,
        null().label("cleared"),
    ).where(
        *in_range(executions.c.start_timestamp),
        *conditions,
        changes.c.id.is_(None),
        executions.c.mutated.is_not(True),
    )
    rows = [
        row
        for row in connection.execute(statement, parameters)
        if result_of_row(row) is ExecutionResult.REFUSED
    ]
    endings = outbox.find_endings(connection, [(row.id, row.episode) for row in rows])
    for row in rows:
        ending = endings.get((row.id, row.episode), {})
        yield row, str(ending.get("refusal") or UNKNOWN_REFUSAL)


def _read_unmatched_names(
    connection: Connection,
    conditions: Sequence[ColumnElement[bool]],
    parameters: Mapping[str, Any],
) -> list[UnmatchedName]:
    """Return the names of the alerts that no rule matched, most frequent first."""
    rows = connection.execute(select_unmatched().where(*conditions), parameters)
    return sort_names(UnmatchedName.of(row) for row in rows)


def select_unmatched(*groups: ColumnElement[Any]) -> Select[Any]:
    """Return the statement for the alerts that no rule matched, by name, for UnmatchedName.of().

    Its parameters are those of in_range().

    Args:
        groups: More columns by which the alerts are grouped.
    """
    return (
        select(
            *groups,
            alerts.c.alert_name,
            func.count().label("alerts"),
            func.max(alerts.c.created_at).label("last_at"),
        )
        # Aggregating only these alerts is faster than aggregating all admitted ones by name.
        .where(*_IS_ADMITTED, unindexed(alerts.c.explanation) == Explanation.NO_RULE)
        .group_by(*groups, alerts.c.alert_name)
    )


def sort_names(names: Iterable[UnmatchedName]) -> list[UnmatchedName]:
    """Return names of alerts that no rule matched, most frequent first."""
    return sorted(names, key=lambda name: (-name.count, name.alert_name))


def microseconds_between(
    dialect: str, start: ColumnElement[Any], end: ColumnElement[Any]
) -> ColumnElement[Any]:
    """Return the expression for the time between two columns. It is NULL if either of them is."""
    if dialect != "sqlite":
        return func.timestampdiff(sql_text("MICROSECOND"), start, end)

    def since_epoch(moment: ColumnElement[Any]) -> ColumnElement[int]:
        # SQLite stores times as text: "2026-01-14 12:00:00.000000"
        microseconds = cast(func.substr(moment, 21, 6), BigInteger)
        return seconds_since_epoch(dialect, moment) * _MICROSECONDS + microseconds

    return since_epoch(end) - since_epoch(start)


def seconds_since_epoch(dialect: str, moment: ColumnElement[Any]) -> ColumnElement[int]:
    """Return the expression for the whole seconds from 1970 until a column."""
    if dialect != "sqlite":
        epoch: ColumnElement[datetime] = literal_column("'1970-01-01'")
        return func.timestampdiff(sql_text("SECOND"), epoch, moment, type_=BigInteger())
    return cast(func.strftime("%s", moment), BigInteger)


def _numbers(text: str | None) -> list[int]:
    """Return the numbers of a column that GROUP_CONCAT aggregated."""
    return list(map(int, text.split(","))) if text else []


def _mean_seconds(microseconds: Sequence[int]) -> float | None:
    if not microseconds:
        return None
    return round(sum(microseconds) / len(microseconds) / _MICROSECONDS, 3)


def _most_frequent(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return names with their counts, most frequent first, then by name."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _as_rows(key: str, figures_by_name: Mapping[str, Figures]) -> list[dict[str, Any]]:
    sorted_figures = sorted(figures_by_name.items(), key=lambda item: (-item[1].count, item[0]))
    return [{key: name, **figures.as_json()} for name, figures in sorted_figures]
