"""Remove each defence of the product from a copy of the tree, and report whether its test fails.

Each test runs on the unchanged tree first, because a test that already fails proves nothing.
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

TIMEOUT_SECONDS = 600
EXCLUDED = (".git", ".venv*", ".hypothesis", ".*_cache", "__pycache__")
KINDS = {"delivery": delivery.DEFENCES, "security": security.DEFENCES}


class Outcome(NamedTuple):
    """The exit code of a command, or the reason why it has none, and its first error."""

    code: int | str
    first_error: str


def main() -> int:
    """Check the defences that the command line selects, and return the exit code."""
    options = make_parser().parse_args()
    selected = [
        defence
        for kind in options.kind or sorted(KINDS)
        for defence in KINDS[kind]
        if options.only in defence.name
    ]
    if options.list:
        for defence in selected:
            print(f"{defence.name}: {' '.join(defence.test)}")
        return 0
    logs = pathlib.Path(options.log or tempfile.mkdtemp(prefix="poundcake-mutate-"))
    logs.mkdir(parents=True, exist_ok=True)
    failures = 0
    for defence, verdict, first_error in check_defences(selected, options.jobs, logs):
        failures += verdict != "caught"
        print(f"{verdict:<15} {defence.name}{first_error and f': {first_error}'}", flush=True)
    print(f"{len(selected)} defences, {failures} not caught; the logs are in {logs}")
    return 1 if failures else 0


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser("python -m tests.defences", description=__doc__)
    parser.add_argument("--kind", choices=sorted(KINDS), action="append", help="default: both")
    parser.add_argument("--only", default="", help="only defences with this text in their name")
    parser.add_argument(
        "--jobs", type=int, default=2, help="how many tests to run in parallel (default: 2)"
    )
    parser.add_argument(
        "--log", metavar="DIR", help="keep the output of the commands in this folder"
    )
    parser.add_argument("--list", action="store_true", help="list the defences and their tests")
    return parser


@contextmanager
def tree_copies(count: int) -> Iterator[queue.Queue[pathlib.Path]]:
    """Copy the tree, and yield a queue of the copies that are not in use."""
    folder = tempfile.mkdtemp(prefix="poundcake-mutant-")
    free_copies: queue.Queue[pathlib.Path] = queue.Queue()
    try:
        for number in range(count):
            copy = pathlib.Path(folder, str(number))
            ignored = shutil.ignore_patterns(*EXCLUDED)
            shutil.copytree(ROOT, copy, symlinks=True, ignore=ignored)
            free_copies.put(copy)
        yield free_copies
    finally:
        shutil.rmtree(folder)


def check_defences(
    selected: list[Defence], jobs: int, logs: pathlib.Path
) -> Iterator[tuple[Defence, str, str]]:
    """Check defences. Yield each with its verdict and the first error of its test."""
    with tree_copies(jobs) as free_copies, ThreadPoolExecutor(jobs) as pool:

        def run_unchanged(command: tuple[str, ...]) -> bool:
            copy = free_copies.get()
            try:
                return run(copy, command, logs / log_name("unchanged", *command)).code == 0
            finally:
                free_copies.put(copy)

        def run_mutated(defence: Defence) -> tuple[str, str]:
            copy = free_copies.get()
            try:
                return check_defence(defence, copy, logs / log_name(defence.name))
            finally:
                free_copies.put(copy)

        commands = sorted({defence.test for defence in selected})
        passes_unchanged = dict(zip(commands, pool.map(run_unchanged, commands)))
        checked = pool.map(
            lambda d: run_mutated(d) if passes_unchanged[d.test] else ("FAILS UNCHANGED", ""),
            selected,
        )
        for defence, (verdict, first_error) in zip(selected, checked):
            yield defence, verdict, first_error


def check_defence(defence: Defence, copy: pathlib.Path, log: pathlib.Path) -> tuple[str, str]:
    """Remove one defence from a copy of the tree and run its test there."""
    try:
        path = copy / defence.mutation.file(copy)
        source = path.read_text()
        path.write_text(defence.mutation.apply(source))
    except MutationError as error:
        return "NOT REMOVED", str(error)
    try:
        code, first_error = run(copy, defence.test, log)
    finally:
        path.write_text(source)
    return {0: "NOT CAUGHT", 1: "caught"}.get(code, f"ENDED WITH {code}"), first_error


def log_name(*words: str) -> str:
    """Return the name of a log file for a defence or a command."""
    return re.sub(r"[^\w.]+", "-", " ".join(words))[-120:]


def run(copy: pathlib.Path, command: tuple[str, ...], log: pathlib.Path) -> Outcome:
    """Run a command in a copy of the tree and write its output to a log."""
    started_at = time.monotonic()
    with open(log, "w") as file:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=copy,
            # Otherwise, the bytecode of a changed file would outlive the change.
            env=dict(os.environ, PYTHONDONTWRITEBYTECODE="1"),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            code: int | str = process.wait(TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
            code = f"still running after {TIMEOUT_SECONDS} s"
    lines = log.read_text(errors="replace").splitlines()
    error_lines = [s for s in lines if s.strip().startswith(("PROBLEM", "FAILED", "E  "))]
    first_error = error_lines[0].strip() if error_lines else (lines or [""])[-1]
    return Outcome(code, f"{first_error[:150]} ({time.monotonic() - started_at:.0f} s)")


if __name__ == "__main__":
    sys.exit(main())
