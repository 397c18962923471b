"""python -m tests.faults.mutate: each defence broken once, in a copy; do the tests see it?

A defence is a line of the product and the command that must fail without it. The commands run as
they are first: what fails anyhow sees nothing.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import List

from tests.faults.world import ROOT

SECONDS = 600
LEFT_OUT = (".git", ".venv*", ".hypothesis", ".pytest_cache", "__pycache__")


@dataclass
class Defence:
    """file: below the root. old: the text that is there exactly once; new: what breaks it.
    command: words for Python, which must end with 0 as it is and with 1 when broken."""

    name: str
    file: str
    old: str
    new: str
    command: List[str]


def _faults(only, times, *more):
    return ["-m", "tests.faults", "--only", only, "--times", str(times), "--heal", "75", *more]


ON_SQLITE = ("--database", "sqlite")
ON_MARIADB = ("--database", "mariadb")
JOURNAL, RELAY, BUS = ("lib/poundcake/%s.py" % name for name in ("journal", "relay", "bus"))

DEFENCES = [
    Defence(
        "the journal's commits are synced to the disk",
        JOURNAL,
        'db.execute("PRAGMA synchronous=FULL")',
        'db.execute("PRAGMA synchronous=OFF")',
        _faults("unsynced writes lost", 3, *ON_SQLITE),
    ),
    Defence(
        "a 202 waits for the journal's commit",
        JOURNAL,
        "native.call(self._commit, batch)",
        "[setattr(a, 'wanted_id', a.wanted_id or str(uuid.uuid4())) for a in batch]\n"
        "                    [setattr(a, 'request_id', a.wanted_id) for a in batch]\n"
        "                    threading.Timer(0.1, self._commit, [batch]).start()",
        _faults("as soon as a 202 is read", 3, *ON_SQLITE),
    ),
    Defence(
        "done is what the far end has told",
        RELAY,
        "if not request.open:",
        "if True:",
        _faults("with an alert just taken", 2, *ON_SQLITE),
    ),
    Defence(
        "what StackStorm lost is emitted again",
        RELAY,
        "if again and row.fate == sync.RETRY",
        "if False",
        _faults("with an alert just taken", 1, *ON_SQLITE),
    ),
    Defence(
        "one claim for an episode and a workflow",
        "lib/poundcake/migrations/versions/0001_first_tables.py",
        'Column("claim", String(255), unique=True)',
        'Column("claim", String(255))',
        _faults("arrive twice", 3, *ON_MARIADB),
    ),
    Defence(
        "a publish waits for its confirm",
        BUS,
        '"confirm_publish": True',
        '"confirm_publish": False',
        _faults("webhook cut on its way", 3, *ON_SQLITE),
    ),
    Defence(
        "a message that no queue takes comes back",
        BUS,
        "mandatory=True",
        "mandatory=False",
        _faults("queue unbound", 1, *ON_SQLITE),
    ),
]


def main():
    parser = argparse.ArgumentParser("python -m tests.faults.mutate", description=__doc__)
    parser.add_argument("--only", default="", help="defences whose name has this in it")
    parser.add_argument("--log", metavar="DIR", help="where what the commands print is kept")
    options = parser.parse_args()
    wanted = [d for d in DEFENCES if options.only in d.name]
    logs = pathlib.Path(options.log or tempfile.mkdtemp(prefix="poundcake-mutate-"))
    logs.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="poundcake-mutant-"))
    copy = folder / "tree"
    shutil.copytree(str(ROOT), str(copy), symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT))
    sound, failures = {}, 0
    try:
        for number, defence in enumerate(wanted):
            command = tuple(defence.command)
            if command not in sound:
                sound[command], _ = _run(copy, command, logs / "{}-sound.log".format(number))
            verdict, seen = "NOT CAUGHT", ""
            if sound[command] != 0:
                verdict = "FAILS UNBROKEN"
            else:
                code, seen = _broken(copy, defence, logs / "{}-broken.log".format(number))
                verdict = {0: "NOT CAUGHT", 1: "caught"}.get(code, "ENDED WITH %s" % code)
            failures += verdict != "caught"
            print("{:<15} {}{}".format(verdict, defence.name, seen and ": " + seen), flush=True)
    finally:
        shutil.rmtree(str(folder))
    print("{} defences, {} not caught; the logs are in {}".format(len(wanted), failures, logs))
    return 1 if failures else 0


def _broken(copy, defence, log):
    """(exit code, what the command said was wrong) with the defence broken."""
    path = copy / defence.file
    text = path.read_text()
    if text.count(defence.old) != 1:
        return "its text {} times".format(text.count(defence.old)), ""
    path.write_text(text.replace(defence.old, defence.new))
    try:
        return _run(copy, defence.command, log)
    finally:
        path.write_text(text)


def _run(copy, command, log):
    began = time.monotonic()
    with open(str(log), "w") as file:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=str(copy),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            code = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
            code = "no end within {} s".format(SECONDS)
    lines = log.read_text(errors="replace").splitlines()
    marked = [s for s in lines if s.strip().startswith(("PROBLEM", "FAILED", "E  "))]
    seen = marked[0].strip() if marked else (lines or [""])[-1]
    return code, "{} ({:.0f} s)".format(seen[:150], time.monotonic() - began)


if __name__ == "__main__":
    sys.exit(main())
