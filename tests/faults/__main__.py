"""python -m tests.faults: faults under load, and whether anything was lost or done twice."""

from __future__ import annotations

import argparse
import pathlib
import random
import sys
import tempfile
import time

from tests import services
from tests.faults import drill, run
from tests.faults.faults import BOTH, FAULTS
from tests.faults.world import SETTINGS


def main():
    parser = argparse.ArgumentParser("python -m tests.faults", description=__doc__)
    parser.add_argument("--database", choices=BOTH, action="append", help="default: both")
    parser.add_argument("--only", default="", help="faults whose name has this in it")
    parser.add_argument("--times", type=int, help="how often each (default: as the table says)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=75, help="ends after so many, at the most")
    parser.add_argument("--heal", type=float, default=150, help="seconds that healing may take")
    parser.add_argument("--no-drill", action="store_true", help="without the backlog drill")
    parser.add_argument("--report", metavar="FILE", help="where the table is written, too")
    options = parser.parse_args()
    sys.exit(faults(options))


def faults(options):
    report = open(options.report, "w") if options.report else None

    def say(line):
        print(line, flush=True)
        if report:
            print(line, file=report, flush=True)

    settings = ", ".join(
        f"{module}.{name} {value}"
        for module, values in SETTINGS.items()
        for name, value in values.items()
    )
    say(run.HEAD.format(seed=options.seed, settings=settings))
    say(run.TITLES)
    deadline = time.monotonic() + 60 * options.minutes
    broker = services.RabbitMQ()
    mariadb = None
    problems, happened, left_out = [], 0, 0
    try:
        broker.start()
        for kind in options.database or BOTH:
            if kind == "mariadb":
                mariadb = services.MariaDB()
                mariadb.start()
            folder = pathlib.Path(tempfile.mkdtemp(prefix="poundcake-faults-"))
            under = run.Run(kind, folder, broker, mariadb, options.seed, say, options.heal)
            try:
                under.start()
                wanted = [f for f in FAULTS if kind in f.on and options.only in f.name]
                random.Random(options.seed).shuffle(wanted)
                for fault in wanted:
                    if fault.missing:
                        say(f"{kind:<8} {fault.name}: SKIPPED, needs {fault.missing}")
                        continue
                    if time.monotonic() > deadline:
                        left_out += 1
                        continue
                    under.go_through(fault.name, [fault] * (options.times or fault.times))
            finally:
                problems += under.problems
                happened += under.happened
                under.close()
    finally:
        broker.close()
        if mariadb:
            mariadb.close()
    if not options.only and not options.no_drill:
        say("")
        problems += drill.run(options.database or BOTH, drill.REQUESTS, say)
    say(f"{happened} faults, {len(problems)} problems")
    if left_out:
        say(f"{left_out} rows were left out: the time was over")
    for problem in problems:
        say(problem)
    return 1 if problems or left_out else 0


if __name__ == "__main__":
    main()
