"""Measure how long every view takes on a short and on a long history.

    python -m bench.views [--directory DIRECTORY] [--mariadb] [--small 10000] [--large 1000000]

Each view is called with each of its filters on an open connection. The calls alternate between the
short and the long history, so that other work on the machine slows down both. The values of the
filters are drawn from the history, and every page has the view's default size.

The exit code is 1 if a p99 on the long history reaches the limit, or if the p99 of all calls to a
view is more than twice as long there as on the short history.

In the table, `other_severity` is the severity of another alert, so these filters mostly match
nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Callable, Dict, Sequence

from sqlalchemy import Connection, Row, Select, func, select

from bench import history, incidents
from poundcake.trail import database, queries, search, stats
from poundcake.trail.schema import alerts, api_calls, executions, links
from poundcake.trail.search import ALERT_FILTERS, Cursor, Filters

LIMIT_MS = 50
MAX_RATIO = 2
SAMPLES = 300
WARM_UP = 20
# A case that takes longer is cut short, because it is over the limit anyway.
MAX_SECONDS_PER_CASE = 60

SINGLE_FILTERS = [(name,) for name in ALERT_FILTERS]
TIME_FILTERS = [("since",), ("until",), ("since", "until")]
COMBINATIONS = [
    ("alert_name", "instance"),
    ("alert_name", "severity"),
    ("alert_name", "outcome"),
    ("alert_name", "status", "outcome"),
    ("alert_name", "other_severity"),
    ("alert_name", "since", "until"),
    ("alert_name", "before"),
    ("instance", "outcome"),
    ("severity", "status"),
    ("severity", "outcome"),
    ("severity", "since", "until"),
    ("outcome", "since"),
]
RARE_FILTER = {"severity": "page"}
# Filters that are not columns; see Sample.asked_filters().
ASKED_FILTERS = [
    ("team",),
    ("alert_name", "cluster"),
    ("cluster_regex",),
    ("no_cluster",),
    ("alert_name", "no_cluster"),
    ("annotation",),
    ("host",),
    ("name_pattern",),
    ("name_suffix",),
    ("fingerprint_prefix",),
    ("misspelled_name",),
]
# Not compared, because the short history covers less than a day.
NOT_COMPARED = ("stats, a day",)

# A view as JSON.
View = Dict[str, Any]
Call = Callable[[], Any]
# The milliseconds of each call, on the short history and on the long one.
Times = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Sample:
    """The parameters of one call.

    Attributes:
        alert: A row of poundcake_alerts, with request_id.
        other: Another row.
        link: A link, with the episode of its alert, and the status and start of its execution.
        end: The end of the history.
        offset: The number of rows to skip.
    """

    alert: Row[Any]
    other: Row[Any]
    link: Row[Any]
    end: datetime
    offset: int

    def filters(
        self, names: Sequence[str], before: Cursor | None = None, severity: str = ""
    ) -> Filters:
        """Return filters with these names that match the alert, with a cursor and a severity."""
        values: dict[str, Any] = {"before": before, "severity": severity}
        for name in names:
            if name == "since":
                values[name] = self.alert.created_at - timedelta(hours=1)
            elif name == "until":
                values[name] = self.alert.created_at + timedelta(minutes=1)
            elif name == "other_severity":
                values["severity"] = self.other.severity
            else:
                values[name] = getattr(self.alert, name)
        return Filters(**values)

    def asked_filters(self, names: Sequence[str]) -> Filters:
        """Return filters as a person may write them, with matchers, patterns and prefixes."""
        alert, labels = self.alert, json.loads(self.alert.labels)
        texts = {
            "alert_name": {"alert_name": alert.alert_name},
            "team": {"labels": f'team="{labels["team"]}"'},
            "cluster": {"labels": f'cluster="{labels["cluster"]}"'},
            "cluster_regex": {"labels": 'cluster=~"fra[12]"'},
            "no_cluster": {"labels": 'cluster=~"nowhere.*"'},
            "annotation": {"annotations": 'description=~".*value is 9.*"'},
            "host": {"instance": alert.instance.partition(":")[0]},
            "name_pattern": {"alert_name": alert.alert_name[:5] + "*"},
            "name_suffix": {"alert_name": "*" + alert.alert_name[-5:]},
            "fingerprint_prefix": {"fingerprint": alert.fingerprint[:12]},
            "misspelled_name": {"alert_name": alert.alert_name.lower()},
        }
        parameters: dict[str, str] = {}
        for name in names:
            parameters.update(texts[name])
        return search.parse(**parameters)


Prepare = Callable[[Connection, Sample], Call]
"""A function that prepares a call to a view, and returns the call."""

LISTS: dict[str, Callable[[Connection, Filters], View]] = {
    "executions_recent": queries.executions_recent,
    "why": queries.why,
    "alerts_active": lambda connection, filters: queries.alerts_active(connection, 24, filters),
    "st2_executions": lambda connection, filters: queries.st2_executions(connection, "", filters),
}


def cases() -> dict[str, Prepare]:
    """Return the cases by name: functions that prepare a call to a view."""
    cases_by_name: dict[str, Prepare] = {
        "status": lambda connection, sample: partial(
            queries.status, connection, sample.alert.request_id
        ),
        "get_alert": lambda connection, sample: partial(
            queries.alert_of_request, connection, sample.link.request_id, sample.link.episode
        ),
        "executions_recent offset": lambda connection, sample: partial(
            queries.executions_recent, connection, offset=sample.offset
        ),
        "st2_executions offset": lambda connection, sample: partial(
            queries.st2_executions, connection, offset=sample.offset // 4
        ),
        "st2_executions STATUS": lambda connection, sample: partial(
            queries.st2_executions, connection, sample.link.status
        ),
        "st2_executions STATUS=timeout": lambda connection, sample: partial(
            queries.st2_executions, connection, "timeout"
        ),
        "st2_executions STATUS alert_name": lambda connection, sample: partial(
            queries.st2_executions,
            connection,
            sample.link.status,
            Filters(alert_name=sample.alert.alert_name),
        ),
        "stats, an hour": lambda connection, sample: _prepare_stats(
            connection, sample, timedelta(hours=1)
        ),
        "stats, a day": lambda connection, sample: _prepare_stats(
            connection, sample, stats.DEFAULT_RANGE
        ),
        "stats, a day alert_name": lambda connection, sample: _prepare_stats(
            connection, sample, stats.DEFAULT_RANGE, sample.alert.alert_name
        ),
    }
    for view in ("executions_recent", "st2_executions"):
        for names in [(), ("before",), *TIME_FILTERS, *SINGLE_FILTERS, *COMBINATIONS]:
            cases_by_name[" ".join((view, *names))] = _prepare_list(view, names)
    for names in [*TIME_FILTERS[2:], *SINGLE_FILTERS, *COMBINATIONS]:
        cases_by_name[" ".join(("why", *names))] = _prepare_list("why", names)
    few_filters: list[tuple[str, ...]] = [(), ("before",), ("since",), ("severity", "since")]
    for names in [*few_filters, *SINGLE_FILTERS, *COMBINATIONS[:2]]:
        cases_by_name[" ".join(("alerts_active", *names))] = _prepare_list("alerts_active", names)
    for view in LISTS:
        for names in ASKED_FILTERS:
            cases_by_name[" ".join((view, *names))] = _prepare_asked(view, names)
    cases_by_name["stats, a day labels"] = lambda connection, sample: partial(
        stats.stats,
        connection,
        replace(
            sample.asked_filters(("cluster",)),
            since=sample.end - stats.DEFAULT_RANGE,
            until=sample.end,
        ),
        15,
    )
    cases_by_name["why episode"] = lambda connection, sample: partial(
        queries.why, connection, Filters(episode=sample.link.episode[:20])
    )
    cases_by_name["why request_id"] = lambda connection, sample: partial(
        queries.why, connection, Filters(request_id=sample.alert.request_id[:13])
    )
    for view in ("executions_recent", "st2_executions", "why"):
        cases_by_name[f"{view} severity={RARE_FILTER['severity']}"] = _prepare_list(
            view, (), **RARE_FILTER
        )
    return cases_by_name


def _prepare_list(view: str, names: Sequence[str], severity: str = "") -> Prepare:
    """Return a function that prepares a call to a list. With `before`, it reads a later page."""
    others = [name for name in names if name != "before"]

    def prepare(connection: Connection, sample: Sample) -> Call:
        before = _read_cursor(connection, view, sample, others) if "before" in names else None
        filters = sample.filters(others, before, severity)
        return partial(LISTS[view], connection, filters)

    return prepare


def _prepare_asked(view: str, names: Sequence[str]) -> Prepare:
    """Return a function that prepares a call to a list with Sample.asked_filters()."""
    return lambda connection, sample: partial(LISTS[view], connection, sample.asked_filters(names))


def _read_cursor(
    connection: Connection, view: str, sample: Sample, names: Sequence[str]
) -> Cursor | None:
    """Return the cursor after the page that starts at the sample's alert, or None at the end."""
    page = LISTS[view](connection, sample.filters([*names, "until"]))
    return search.parse(before=page.get("next", "")).before


def _prepare_stats(
    connection: Connection, sample: Sample, span: timedelta, alert_name: str = ""
) -> Call:
    filters = Filters(since=sample.end - span, until=sample.end, alert_name=alert_name)
    return partial(stats.stats, connection, filters, 15)


def samples(connection: Connection, count: int) -> list[Sample]:
    """Return samples of a history, the same in every run."""
    rng = random.Random(incidents.SEED)
    alert_rows = _draw_rows(
        connection,
        rng,
        2 * count,
        select(alerts, api_calls.c.request_id).join(
            api_calls, api_calls.c.id == alerts.c.api_call_id
        ),
        alerts.c.id,
    )
    link_rows = _draw_rows(
        connection,
        rng,
        count,
        select(links, alerts.c.episode, executions.c.status, executions.c.start_timestamp)
        .join(alerts, alerts.c.id == links.c.alert_id)
        .join(executions, executions.c.id == links.c.st2_execution_id),
        links.c.id,
    )
    end = connection.scalar(select(func.max(api_calls.c.created_at)))
    return [
        Sample(alert_rows[i], alert_rows[count + i], link_rows[i], end, rng.randrange(1000))
        for i in range(count)
    ]


def _draw_rows(
    connection: Connection, rng: random.Random, count: int, statement: Select[Any], row_id: Any
) -> list[Row[Any]]:
    """Return randomly drawn rows. The ids must be contiguous from 1."""
    last_id = connection.scalar(select(func.max(row_id))) or 1
    ids = [rng.randint(1, last_id) for _ in range(count)]
    rows: dict[int, Row[Any]] = {}
    for chunk in database.batched(ids):
        rows.update({row.id: row for row in connection.execute(statement.where(row_id.in_(chunk)))})
    return [rows[i] for i in ids]


def measure_ms(call: Call) -> float:
    """Return the milliseconds that a call takes."""
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the percentile by the nearest rank."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def main() -> None:
    """Measure all views on both histories."""
    parser = history.argument_parser(__doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="default: %(default)s")
    parser.add_argument("--only", default="", help="only lines that begin with this text")
    arguments = parser.parse_args()
    sizes = [arguments.small, arguments.large]
    with ExitStack() as stack:
        urls = stack.enter_context(history.open_histories(arguments))
        histories = []
        for size in sizes:
            engine = database.open_engine(urls[size])
            connection = stack.enter_context(database.reading(engine))
            histories.append((connection, samples(connection, arguments.samples + WARM_UP)))
        # The sensor does the same when it starts. Actions end before a full collection.
        gc.collect()
        gc.freeze()
        failed = measure(histories, sizes, arguments)
    if failed:
        sys.exit(f"{failed} of the measurements are over the limit")


def measure(
    histories: Sequence[tuple[Connection, list[Sample]]],
    sizes: Sequence[int],
    arguments: argparse.Namespace,
) -> int:
    """Print a line for each case, and return the number of lines over the limit.

    Args:
        histories: A connection to each history, the short one first, and its samples.
    """
    small, large = sizes
    print(
        f"{small:,} and {large:,} alerts; milliseconds of {arguments.samples} calls each; limits: "
        f"p99 {LIMIT_MS} ms, and a ratio of {MAX_RATIO} for all calls to a view"
    )
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    print(f"{'':54} {'p50':>17} {'p99':>17} {'ratio':>6}")
    failures = 0
    by_view: dict[str, list[list[float]]] = {}
    for name, prepare in cases().items():
        if not name.startswith(arguments.only):
            continue
        times = _time_case(histories, prepare, arguments.samples)
        calls = len(times[0])
        is_cut_short = calls < arguments.samples
        label = f"{name}, cut short after {calls} calls" if is_cut_short else name
        failures += is_cut_short + report(label, times)
        if not name.startswith(NOT_COMPARED):
            totals = by_view.setdefault(name.split()[0], [[], []])
            for total, history_times in zip(totals, times):
                total.extend(history_times)
    print("\nAll calls to each view:")
    return failures + sum(report(view, times, MAX_RATIO) for view, times in by_view.items())


def _time_case(
    histories: Sequence[tuple[Connection, list[Sample]]], prepare: Prepare, count: int
) -> list[list[float]]:
    """Return the milliseconds of each call on each history: `count` calls, or fewer slow ones."""
    milliseconds: list[list[float]] = [[], []]
    started = time.monotonic()
    for i in range(count + WARM_UP):
        if i > WARM_UP and time.monotonic() - started > MAX_SECONDS_PER_CASE:
            break
        for (connection, case_samples), times in zip(histories, milliseconds):
            times.append(measure_ms(prepare(connection, case_samples[i])))
    return [times[WARM_UP:] for times in milliseconds]


def report(label: str, times: Times, max_ratio: int | None = None) -> bool:
    """Print the times of a case or view, and return True if they are over a limit.

    Args:
        max_ratio: The maximum ratio of the long history's p99 to the short one's, or None.
    """
    short_median, long_median = [percentile(history_times, 50) for history_times in times]
    short_p99, long_p99 = [percentile(history_times, 99) for history_times in times]
    ratio = long_p99 / short_p99
    exceeded = [f"over {LIMIT_MS} ms"] if long_p99 >= LIMIT_MS else []
    if max_ratio and ratio > max_ratio:
        exceeded.append(f"over {max_ratio} times")
    medians, p99s = f"{short_median:8.2f} {long_median:8.2f}", f"{short_p99:8.2f} {long_p99:8.2f}"
    print(f"{label:54} {medians} {p99s} {ratio:6.2f} {', '.join(exceeded)}".rstrip(), flush=True)
    return bool(exceeded)


if __name__ == "__main__":
    main()
