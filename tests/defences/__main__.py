"""Remove each defence of the product in a copy of the tree, and report whether its test fails.

The tests run on the unchanged tree first: a test that already fails proves nothing.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Iterator, NamedTuple

from tests.defences import delivery, security
from tests.defences.defence import Defence
from tests.defences.mutation import ROOT, MutationError

SECONDS = 600
EXCLUDED = (".git", ".venv*", ".hypothesis", ".*_cache", "__pycache__")
KINDS = {"delivery": delivery.DEFENCES, "security": security.DEFENCES}


class Outcome(NamedTuple):
    """The result of a command: its exit code, or why it has none, and its first error message."""

    code: int | str
    complaint: str


def main() -> int:
    """Check the defences that the command line names; return the exit code."""
    options = arguments().parse_args()
    wanted = [
        defence
        for kind in options.kind or sorted(KINDS)
        for defence in KINDS[kind]
        if options.only in defence.name
    ]
    if options.list:
        for defence in wanted:
            print(f"{defence.name}: {' '.join(defence.test)}")
        return 0
    logs = pathlib.Path(options.log or tempfile.mkdtemp(prefix="poundcake-mutate-"))
    logs.mkdir(parents=True, exist_ok=True)
    failures = 0
    for defence, verdict, complaint in verdicts(wanted, options.jobs, logs):
        failures += verdict != "caught"
        print(f"{verdict:<15} {defence.name}{complaint and f': {complaint}'}", flush=True)
    print(f"{len(wanted)} defences, {failures} not caught; the logs are in {logs}")
    return 1 if failures else 0


def arguments() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser("python -m tests.defences", description=__doc__)
    parser.add_argument("--kind", choices=sorted(KINDS), action="append", help="default: both")
    parser.add_argument("--only", default="", help="only defences with this text in their name")
    parser.add_argument("--jobs", type=int, default=2, help="how many run at once (default: 2)")
    parser.add_argument(
        "--log", metavar="DIR", help="keep the output of the commands in this folder"
    )
    parser.add_argument("--list", action="store_true", help="list the defences and their tests")
    return parser


@contextmanager
def copies(count: int) -> Iterator[queue.Queue[pathlib.Path]]:
    """Make copies of the tree and hand out a queue of those that are free."""
    folder = tempfile.mkdtemp(prefix="poundcake-mutant-")
    free: queue.Queue[pathlib.Path] = queue.Queue()
    try:
        for number in range(count):
            copy = pathlib.Path(folder, str(number))
            ignored = shutil.ignore_patterns(*EXCLUDED)
            shutil.copytree(ROOT, copy, symlinks=True, ignore=ignored)
            free.put(copy)
        yield free
    finally:
        shutil.rmtree(folder)


def verdicts(
    wanted: list[Defence], jobs: int, logs: pathlib.Path
) -> Iterator[tuple[Defence, str, str]]:
    """Check defences; yield each with its verdict and the first error message of its test."""
    with copies(jobs) as free, ThreadPoolExecutor(jobs) as pool:

        def run_unchanged(command: tuple[str, ...]) -> bool:
            copy = free.get()
            try:
                return run(copy, command, logs / log_name("unchanged", *command)).code == 0
            finally:
                free.put(copy)

        def run_without(defence: Defence) -> tuple[str, str]:
            copy = free.get()
            try:
                return verdict_on(defence, copy, logs / log_name(defence.name))
            finally:
                free.put(copy)

        commands = sorted({defence.test for defence in wanted})
        passes_unchanged = dict(zip(commands, pool.map(run_unchanged, commands)))
        checked = pool.map(
            lambda d: run_without(d) if passes_unchanged[d.test] else ("FAILS UNCHANGED", ""),
            wanted,
        )
        for defence, (verdict, complaint) in zip(wanted, checked):
            yield defence, verdict, complaint


def verdict_on(defence: Defence, copy: pathlib.Path, log: pathlib.Path) -> tuple[str, str]:
    """Remove one defence from a copy of the tree and run its test there."""
    try:
        path = copy / defence.mutation.file(copy)
        source = path.read_text()
        path.write_text(defence.mutation.apply(source))
    except MutationError as error:
        return "NOT REMOVED", str(error)
    try:
        code, complaint = run(copy, defence.test, log)
    finally:
        path.write_text(source)
    return {0: "NOT CAUGHT", 1: "caught"}.get(code, f"ENDED WITH {code}"), complaint


def log_name(*words: str) -> str:
    """Return the name of a log file for a defence or a command."""
    return re.sub(r"[^\w.]+", "-", " ".join(words))[-120:]


def run(copy: pathlib.Path, command: tuple[str, ...], log: pathlib.Path) -> Outcome:
    """Run a command in a copy of the tree and write its output to a log."""
    began = time.monotonic()
    with open(log, "w") as file:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=copy,
            # Bytecode of a changed file would outlast the change.
            env=dict(os.environ, PYTHONDONTWRITEBYTECODE="1"),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            code: int | str = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
            code = f"still running after {SECONDS} s"
    lines = log.read_text(errors="replace").splitlines()
    marked = [s for s in lines if s.strip().startswith(("PROBLEM", "FAILED", "E  "))]
    complaint = marked[0].strip() if marked else (lines or [""])[-1]
    return Outcome(code, f"{complaint[:150]} ({time.monotonic() - began:.0f} s)")


if __name__ == "__main__":
    sys.exit(main())
