"""How long every view takes on a short and on a long history.

    python -m bench.views [--directory DIRECTORY] [--mariadb] [--small 10000] [--large 1000000]

Each view with each of its filters is called on an open connection, in turn on the short and on the
long history, so that what else the machine does meets both. What is asked for is drawn from the
history, and every page has the view's default size. Ends with 1 where a p99 on the long history
reaches the limit, or where that of all calls of a view is more than twice that on the short one.

In the table, `other_severity` is the severity of another alert: the filters mostly match nothing.
"""

from __future__ import annotations

import os
import random
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import func, select

from bench import history
from poundcake.trail import database, queries, search, stats
from poundcake.trail.schema import alerts, api_calls, executions, links
from poundcake.trail.search import Filters

LIMIT_MS = 50
MOST_TIMES = 2
SAMPLES = 300
WARM_UP = 20
# Seconds for one line. What takes longer is over the limit anyway.
LONGEST = 60

TEXTS = ("severity", "alert_name", "instance", "status", "outcome", "fingerprint")
SINGLE = [(name,) for name in TEXTS]
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
# A day has more in it where the history is longer than that: these are not compared.
OTHER_RANGES = ("stats, a day",)


@dataclass(frozen=True)
class Sample:
    """What one call asks for.

    alert, other: two rows of poundcake_alerts, with request_id. link: a link, with the episode of
    its alert and the status and start of its execution. end: of the history.
    """

    alert: Any
    other: Any
    link: Any
    end: datetime
    offset: int

    def filters(self, names, **fixed):
        """Filters of these names that the alert matches."""
        values = dict(fixed)
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


VIEWS = {
    "executions_recent": queries.executions_recent,
    "why": queries.why,
    "alerts_active": lambda connection, filters: queries.alerts_active(connection, 24, filters),
    "st2_executions": lambda connection, filters: queries.st2_executions(connection, "", filters),
}


def cases():
    """{what: function of a connection and a sample}: every view with its filters.

    The function prepares a call, and returns it.
    """
    found = {
        "status": lambda c, s: partial(queries.status, c, s.alert.request_id),
        "get_alert": lambda c, s: partial(queries.alert_of, c, s.link.request_id, s.link.episode),
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
            c, s, stats.DEFAULT_RANGE, alert_name=s.alert.alert_name
        ),
    }

    def add(view, names, **fixed):
        labels = names + tuple("{}={}".format(*item) for item in fixed.items())
        further = "before" in names
        rest = tuple(name for name in names if name != "before")
        found[" ".join((view,) + labels)] = lambda c, s: partial(
            VIEWS[view], c, (_further if further else _first)(view, c, s, rest, fixed)
        )

    for view in ("executions_recent", "st2_executions"):
        for names in [(), ("before",)] + TIMES + SINGLE + TOGETHER:
            add(view, names)
        add(view, (), **RARE)
    for names in TIMES[2:] + SINGLE + TOGETHER:
        add("why", names)
    add("why", (), **RARE)
    for names in [(), ("before",), ("since",)] + SINGLE + TOGETHER[:2] + [("severity", "since")]:
        add("alerts_active", names)
    return found


def _first(view, connection, sample, names, fixed):
    return sample.filters(names, **fixed)


def _further(view, connection, sample, names, fixed):
    """The page after the one that ends at the sample's alert, or the last one there is."""
    page = VIEWS[view](connection, sample.filters(names + ("until",), **fixed))
    before = search.parse(before=page.get("next", "")).before
    return sample.filters(names, before=before, **fixed)


def _stats(connection, sample, long, **filters):
    since = sample.end - long
    return partial(stats.stats, connection, Filters(since=since, until=sample.end, **filters), 15)


def samples(connection, count):
    """So many Samples of a history, the same in every run."""
    draw = random.Random(history.SEED)
    found = _rows(
        connection,
        draw,
        2 * count,
        select(alerts, api_calls.c.request_id).join(
            api_calls, api_calls.c.id == alerts.c.api_call_id
        ),
        alerts.c.id,
    )
    linked = _rows(
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
        Sample(found[i], found[count + i], linked[i], end, draw.randrange(1000))
        for i in range(count)
    ]


def _rows(connection, draw, count, statement, row_id):
    """So many rows, each drawn from all; ids go up from 1 without a gap."""
    last = connection.scalar(select(func.max(row_id)))
    ids = [draw.randint(1, last) for _ in range(count)]
    rows = {}
    for some in database.batched(ids):
        rows.update({row.id: row for row in connection.execute(statement.where(row_id.in_(some)))})
    return [rows[i] for i in ids]


def timed(call):
    """Milliseconds."""
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


def percentile(values, share):
    """By nearest rank."""
    return sorted(values)[max(0, -(-len(values) * share // 100) - 1)]


def main():
    parser = history.options(__doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="default: %(default)s")
    parser.add_argument("--only", default="", help="views whose line begins so")
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


def measure(sides, sizes, chosen):
    """Prints a line for each case; how many are over the limit."""
    print(
        "{:,} and {:,} alerts; milliseconds of {} calls each; p99 is to be under {} ms, and that "
        "of a view at most {} times".format(*sizes, chosen.samples, LIMIT_MS, MOST_TIMES)
    )
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    print("{:54} {:>17} {:>17} {:>6}".format("", "p50", "p99", "times"))
    failed = 0
    by_view = {}
    for what, prepare in cases().items():
        if not what.startswith(chosen.only):
            continue
        took = [[], []]
        started = time.monotonic()
        for i in range(chosen.samples + WARM_UP):
            if i > WARM_UP and time.monotonic() - started > LONGEST:
                break
            for (connection, drawn), times in zip(sides, took):
                times.append(timed(prepare(connection, drawn[i])))
        calls = len(took[0]) - WARM_UP
        if calls < chosen.samples:
            what += f", cut short after {calls} calls"
            failed += 1
        failed += report(what, [times[WARM_UP:] for times in took])
        if not what.startswith(OTHER_RANGES):
            found = by_view.setdefault(what.split()[0], [[], []])
            for all_times, times in zip(found, took):
                all_times += times[WARM_UP:]
    print("\nAll calls of a view together:")
    return failed + sum(report(view, took, MOST_TIMES) for view, took in by_view.items())


def report(what, took, most_times=None):
    """Prints a line; whether it is over a limit. most_times: of the two p99, None for any."""
    halves = [percentile(times, 50) for times in took]
    slowest = [percentile(times, 99) for times in took]
    ratio = slowest[1] / slowest[0]
    over = [f"over {LIMIT_MS} ms"] if slowest[1] >= LIMIT_MS else []
    if most_times and ratio > most_times:
        over.append(f"over {most_times} times")
    line = "{:54} {:8.2f} {:8.2f} {:8.2f} {:8.2f} {:6.2f} {}"
    print(line.format(what, *halves, *slowest, ratio, ", ".join(over)).rstrip(), flush=True)
    return bool(over)


if __name__ == "__main__":
    main()
