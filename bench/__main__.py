"""Run all benchmarks: views, plans, record, connections, board and, with a live StackStorm, cost.

    python -m bench [--directory DIRECTORY] [--mariadb] [--small 10000] [--large 1000000]

The exit code is 1 if one of them exits with 1.
"""

from __future__ import annotations

import subprocess
import sys

from bench import history
from tests.scenarios.stack import uses_live_stackstorm


def main() -> None:
    """Run each benchmark in a separate process."""
    history.argument_parser(__doc__).parse_args()
    commands = [
        ["bench.views", *sys.argv[1:]],
        ["bench.plans", *sys.argv[1:]],
        ["bench.record"],
        ["bench.record", "--process"],
        ["bench.connections"],
        ["bench.board", *sys.argv[1:]],
    ]
    if uses_live_stackstorm():
        commands.append(["bench.cost"])
    else:
        print("skipped: bench.cost, which needs the variables of `make live`")
    failed = []
    for command in commands:
        print("== " + " ".join(command), flush=True)
        if subprocess.call([sys.executable, "-m", *command]):
            failed.append(command[0])
    if failed:
        sys.exit("over a limit: " + ", ".join(dict.fromkeys(failed)))


if __name__ == "__main__":
    main()
