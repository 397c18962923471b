"""python -m tests.defences: each defence broken once, in a copy; does what holds it see that?

A defence is a line of the product and the command that must fail without it. The commands run as
they are first: what fails anyhow sees nothing.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from tests.defences import delivery, security
from tests.defences.defence import ROOT

SECONDS = 600
LEFT_OUT = (".git", ".venv*", ".hypothesis", ".pytest_cache", "__pycache__")
KINDS = {"delivery": delivery.DEFENCES, "security": security.DEFENCES}


def main():
    parser = argparse.ArgumentParser("python -m tests.defences", description=__doc__)
    parser.add_argument("--kind", choices=sorted(KINDS), action="append", help="default: both")
    parser.add_argument("--only", default="", help="defences whose name has this in it")
    parser.add_argument("--log", metavar="DIR", help="where what the commands print is kept")
    parser.add_argument("--list", action="store_true", help="says which there are, and what holds")
    options = parser.parse_args()
    kinds = options.kind or sorted(KINDS)
    wanted = [d for kind in kinds for d in KINDS[kind] if options.only in d.name]
    if options.list:
        for defence in wanted:
            print("{}: {}".format(defence.name, " ".join(defence.test)))
        return 0
    logs = pathlib.Path(options.log or tempfile.mkdtemp(prefix="poundcake-mutate-"))
    logs.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="poundcake-mutant-"))
    copy = folder / "tree"
    shutil.copytree(str(ROOT), str(copy), symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
    sound, failures = {}, 0
    try:
        for number, defence in enumerate(wanted):
            command = tuple(defence.test)
            if command not in sound:
                sound[command], _ = _run(copy, command, logs / f"{number}-sound.log")
            verdict, seen = "NOT CAUGHT", ""
            if sound[command] != 0:
                verdict = "FAILS UNBROKEN"
            else:
                code, seen = _broken(copy, defence, logs / f"{number}-broken.log")
                verdict = {0: "NOT CAUGHT", 1: "caught"}.get(code, f"ENDED WITH {code}")
            failures += verdict != "caught"
            print("{:<15} {}{}".format(verdict, defence.name, seen and ": " + seen), flush=True)
    finally:
        shutil.rmtree(str(folder))
    print(f"{len(wanted)} defences, {failures} not caught; the logs are in {logs}")
    return 1 if failures else 0


def _broken(copy, defence, log):
    """(exit code, what the command said was wrong) with the defence broken."""
    path = copy / defence.file
    text = path.read_text()
    if text.count(defence.old) != 1:
        return f"its text {text.count(defence.old)} times", ""
    path.write_text(text.replace(defence.old, defence.new))
    try:
        return _run(copy, defence.test, log)
    finally:
        path.write_text(text)


def _run(copy, command, log):
    began = time.monotonic()
    with open(str(log), "w") as file:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=str(copy),
            # What was compiled of a file that is broken for a second would outlast it.
            env=dict(os.environ, PYTHONDONTWRITEBYTECODE="1"),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            code = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
            code = f"no end within {SECONDS} s"
    lines = log.read_text(errors="replace").splitlines()
    marked = [s for s in lines if s.strip().startswith(("PROBLEM", "FAILED", "E  "))]
    seen = marked[0].strip() if marked else (lines or [""])[-1]
    return code, f"{seen[:150]} ({time.monotonic() - began:.0f} s)"


if __name__ == "__main__":
    sys.exit(main())
