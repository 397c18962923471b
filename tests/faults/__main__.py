"""Inject faults under load, and check that nothing is lost or done twice."""

from __future__ import annotations

import argparse
import pathlib
import random
import sys
import tempfile
import time

from tests import services
from tests.faults import drill, run, two_endpoints
from tests.faults.faults import DATABASES, FAULTS
from tests.faults.world import SETTINGS


def main():
    parser = argparse.ArgumentParser("python -m tests.faults", description=__doc__)
    parser.add_argument("--database", choices=DATABASES, action="append", help="default: both")
    parser.add_argument("--only", default="", help="only faults with this text in their name")
    parser.add_argument(
        "--times", type=int, help="how often to inject each fault (default: see FAULTS)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=75, help="stop after this time")
    parser.add_argument("--recovery", type=float, default=150, help="seconds to wait for recovery")
    parser.add_argument(
        "--two-endpoints",
        action="store_true",
        help="on MariaDB, with two endpoints behind HAProxy, and with the faults of that",
    )
    parser.add_argument("--no-drill", action="store_true", help="skip the backlog drill")
    parser.add_argument("--report", metavar="FILE", help="also write the table to this file")
    options = parser.parse_args()
    sys.exit(run_faults(options))


def run_faults(options):
    """Run the suite, and return the exit code."""
    kinds, faults, endpoints = options.database or DATABASES, FAULTS, 1
    if options.two_endpoints:
        kinds, faults, endpoints = ["mariadb"], two_endpoints.FAULTS, 2
    report = open(options.report, "w") if options.report else None

    def write_line(line):
        print(line, flush=True)
        if report:
            print(line, file=report, flush=True)

    settings = ", ".join(
        f"{module}.{name} {value}"
        for module, values in SETTINGS.items()
        for name, value in values.items()
    )
    write_line(run.HEADING.format(seed=options.seed, settings=settings))
    write_line(run.TITLES)
    deadline = time.monotonic() + 60 * options.minutes
    broker = services.RabbitMQ()
    mariadb = None
    problems, injected, skipped = [], 0, 0
    try:
        broker.start()
        for kind in kinds:
            if kind == "mariadb":
                mariadb = services.MariaDB()
                mariadb.start()
            folder = pathlib.Path(tempfile.mkdtemp(prefix="poundcake-faults-"))
            suite = run.Run(
                kind,
                folder,
                broker,
                mariadb,
                options.seed,
                write_line,
                options.recovery,
                endpoints,
            )
            try:
                suite.start()
                selected = [f for f in faults if kind in f.databases and options.only in f.name]
                random.Random(options.seed).shuffle(selected)
                for fault in selected:
                    if fault.missing:
                        write_line(f"{kind:<8} {fault.name}: SKIPPED, needs {fault.missing}")
                        continue
                    if time.monotonic() > deadline:
                        skipped += 1
                        continue
                    suite.inject(fault.name, [fault] * (options.times or fault.times))
            finally:
                problems += suite.problems
                injected += suite.injected
                suite.close()
    finally:
        broker.close()
        if mariadb:
            mariadb.close()
    if not (options.only or options.no_drill or options.two_endpoints):
        write_line("")
        problems += drill.run(options.database or DATABASES, drill.REQUESTS, write_line)
    write_line(f"{injected} faults, {len(problems)} problems")
    if skipped:
        write_line(f"{skipped} faults were not run because the time limit was reached")
    for problem in problems:
        write_line(problem)
    return 1 if problems or skipped else 0


if __name__ == "__main__":
    main()
