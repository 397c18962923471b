"""Measure how long every view takes on a short and on a long history.

    python -m bench.views [--directory DIRECTORY] [--mariadb] [--small 10000] [--large 1000000]

Each view is called with each of its filters on an open connection, alternately on the short and on
the long history, so that other work on the machine slows down both. The values of the filters are
drawn from the history, and every page has the view's default size. The exit code is 1 if a p99 on
the long history reaches the limit, or if the p99 of all calls of a view is more than twice that on
the short history.

In the table, `other_severity` is the severity of another alert; the filters mostly match nothing.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
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
# Seconds for one line. A line that takes longer is over the limit anyway.
LONGEST = 60

SINGLE = [(name,) for name in ALERT_FILTERS]
TIMES = [("since",), ("until",), ("since", "until")]
TOGETHER = [
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
RARE = {"severity": "page"}
# Not compared, because the short history covers less than a day.
OTHER_RANGES = ("stats, a day",)

# A view as JSON.
Answer = Dict[str, Any]
Call = Callable[[], Any]
# Milliseconds of the calls on the short history, and of those on the long one.
Times = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Sample:
    """The parameters of one call.

    Attributes:
        alert: A row of poundcake_alerts, with request_id.
        other: Another row.
        link: A link, with the episode of its alert, and status and start of its execution.
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
        """Return filters with these names that the alert matches, and the given ones."""
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


Prepare = Callable[[Connection, Sample], Call]
"""Prepares a call of a view, and returns it."""

LISTS: dict[str, Callable[[Connection, Filters], Answer]] = {
    "executions_recent": queries.executions_recent,
    "why": queries.why,
    "alerts_active": lambda connection, filters: queries.alerts_active(connection, 24, filters),
    "st2_executions": lambda connection, filters: queries.st2_executions(connection, "", filters),
}


def cases() -> dict[str, Prepare]:
    """Return the calls of every view with its filters, by the name of the line."""
    prepared: dict[str, Prepare] = {
        "status": lambda c, s: partial(queries.status, c, s.alert.request_id),
        "get_alert": lambda c, s: partial(
            queries.alert_of_request, c, s.link.request_id, s.link.episode
        ),
        "executions_recent offset": lambda c, s: partial(
            queries.executions_recent, c, offset=s.offset
        ),
        "st2_executions offset": lambda c, s: partial(
            queries.st2_executions, c, offset=s.offset // 4
        ),
        "st2_executions STATUS": lambda c, s: partial(queries.st2_executions, c, s.link.status),
        "st2_executions STATUS=timeout": lambda c, s: partial(queries.st2_executions, c, "timeout"),
        "st2_executions STATUS alert_name": lambda c, s: partial(
            queries.st2_executions, c, s.link.status, Filters(alert_name=s.alert.alert_name)
        ),
        "stats, an hour": lambda c, s: _stats(c, s, timedelta(hours=1)),
        "stats, a day": lambda c, s: _stats(c, s, stats.DEFAULT_RANGE),
        "stats, a day alert_name": lambda c, s: _stats(
            c, s, stats.DEFAULT_RANGE, s.alert.alert_name
        ),
    }
    for view in ("executions_recent", "st2_executions"):
        for names in [(), ("before",), *TIMES, *SINGLE, *TOGETHER]:
            prepared[" ".join((view, *names))] = _list(view, names)
    for names in [*TIMES[2:], *SINGLE, *TOGETHER]:
        prepared[" ".join(("why", *names))] = _list("why", names)
    for names in [(), ("before",), ("since",), *SINGLE, *TOGETHER[:2], ("severity", "since")]:
        prepared[" ".join(("alerts_active", *names))] = _list("alerts_active", names)
    for view in ("executions_recent", "st2_executions", "why"):
        prepared[f"{view} severity={RARE['severity']}"] = _list(view, (), **RARE)
    return prepared


def _list(view: str, names: Sequence[str], severity: str = "") -> Prepare:
    """Return the call of a list with these filters. With `before`, it is a later page."""
    others = [name for name in names if name != "before"]

    def prepare(connection: Connection, sample: Sample) -> Call:
        before = _cursor(connection, view, sample, others) if "before" in names else None
        filters = sample.filters(others, before, severity)
        return partial(LISTS[view], connection, filters)

    return prepare


def _cursor(
    connection: Connection, view: str, sample: Sample, names: Sequence[str]
) -> Cursor | None:
    """Return the cursor after the page that starts at the sample's alert; None for the last."""
    page = LISTS[view](connection, sample.filters([*names, "until"]))
    return search.parse(before=page.get("next", "")).before


def _stats(connection: Connection, sample: Sample, long: timedelta, alert_name: str = "") -> Call:
    filters = Filters(since=sample.end - long, until=sample.end, alert_name=alert_name)
    return partial(stats.stats, connection, filters, 15)


def samples(connection: Connection, count: int) -> list[Sample]:
    """Return samples of a history, the same in every run."""
    draw = random.Random(incidents.SEED)
    drawn = _draw_rows(
        connection,
        draw,
        2 * count,
        select(alerts, api_calls.c.request_id).join(
            api_calls, api_calls.c.id == alerts.c.api_call_id
        ),
        alerts.c.id,
    )
    linked = _draw_rows(
        connection,
        draw,
        count,
        select(links, alerts.c.episode, executions.c.status, executions.c.start_timestamp)
        .join(alerts, alerts.c.id == links.c.alert_id)
        .join(executions, executions.c.id == links.c.st2_execution_id),
        links.c.id,
    )
    end = connection.scalar(select(func.max(api_calls.c.created_at)))
    return [
        Sample(drawn[i], drawn[count + i], linked[i], end, draw.randrange(1000))
        for i in range(count)
    ]


def _draw_rows(
    connection: Connection, draw: random.Random, count: int, statement: Select[Any], row_id: Any
) -> list[Row[Any]]:
    """Return randomly drawn rows. The ids must be contiguous from 1."""
    last = connection.scalar(select(func.max(row_id))) or 1
    ids = [draw.randint(1, last) for _ in range(count)]
    rows: dict[int, Row[Any]] = {}
    for some in database.batched(ids):
        rows.update({row.id: row for row in connection.execute(statement.where(row_id.in_(some)))})
    return [rows[i] for i in ids]


def measure_ms(call: Call) -> float:
    """Return the milliseconds that a call takes."""
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


def percentile(values: Sequence[float], share: int) -> float:
    """Return the percentile by the nearest rank."""
    return sorted(values)[max(0, -(-len(values) * share // 100) - 1)]


def main() -> None:
    """Measure all views on both histories."""
    parser = history.options(__doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="default: %(default)s")
    parser.add_argument("--only", default="", help="only lines that begin with this text")
    chosen = parser.parse_args()
    sizes = [chosen.small, chosen.large]
    with ExitStack() as stack:
        urls = stack.enter_context(history.open_histories(chosen))
        sides = []
        for size in sizes:
            engine = database.open_engine(urls[size])
            connection = stack.enter_context(database.reading(engine))
            sides.append((connection, samples(connection, chosen.samples + WARM_UP)))
        failed = measure(sides, sizes, chosen)
    if failed:
        sys.exit(f"{failed} of the measurements are over the limit")


def measure(
    sides: Sequence[tuple[Connection, list[Sample]]],
    sizes: Sequence[int],
    chosen: argparse.Namespace,
) -> int:
    """Print a line for each case, and return the number of lines over the limit.

    Args:
        sides: The short and the long history.
    """
    small, large = sizes
    print(
        f"{small:,} and {large:,} alerts; milliseconds of {chosen.samples} calls each; limits: "
        f"p99 {LIMIT_MS} ms, and a ratio of {MAX_RATIO} for all calls of a view"
    )
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    print(f"{'':54} {'p50':>17} {'p99':>17} {'ratio':>6}")
    failed = 0
    by_view: dict[str, list[list[float]]] = {}
    for name, prepare in cases().items():
        if not name.startswith(chosen.only):
            continue
        took = _time_case(sides, prepare, chosen.samples)
        calls = len(took[0])
        cut_short = calls < chosen.samples
        label = f"{name}, cut short after {calls} calls" if cut_short else name
        failed += cut_short + report(label, took)
        if not name.startswith(OTHER_RANGES):
            of_view = by_view.setdefault(name.split()[0], [[], []])
            for all_times, times in zip(of_view, took):
                all_times.extend(times)
    print("\nAll calls of each view:")
    return failed + sum(report(view, took, MAX_RATIO) for view, took in by_view.items())


def _time_case(
    sides: Sequence[tuple[Connection, list[Sample]]], prepare: Prepare, count: int
) -> list[list[float]]:
    """Return the milliseconds of the calls on each side: `count`, or fewer if they take long."""
    took: list[list[float]] = [[], []]
    started = time.monotonic()
    for i in range(count + WARM_UP):
        if i > WARM_UP and time.monotonic() - started > LONGEST:
            break
        for (connection, drawn), times in zip(sides, took):
            times.append(measure_ms(prepare(connection, drawn[i])))
    return [times[WARM_UP:] for times in took]


def report(label: str, took: Times, max_ratio: int | None = None) -> bool:
    """Print a line, and return True if it is over a limit.

    Args:
        max_ratio: The maximum ratio of the long history's p99 to the short one's, or None.
    """
    short_half, long_half = [percentile(times, 50) for times in took]
    short, long = [percentile(times, 99) for times in took]
    ratio = long / short
    over = [f"over {LIMIT_MS} ms"] if long >= LIMIT_MS else []
    if max_ratio and ratio > max_ratio:
        over.append(f"over {max_ratio} times")
    figures = f"{short_half:8.2f} {long_half:8.2f} {short:8.2f} {long:8.2f} {ratio:6.2f}"
    print(f"{label:54} {figures} {', '.join(over)}".rstrip(), flush=True)
    return bool(over)


if __name__ == "__main__":
    main()
