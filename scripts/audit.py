"""Query the OSV database for known vulnerabilities in the packages that the pack installs.

    .venv-lint/bin/python scripts/audit.py

pip-audit, in a separate environment, queries the database (https://osv.dev). The exit code is 1 if
a vulnerability is known, and 3 if the database could not be queried.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from typing import NamedTuple

HOST = "https://api.osv.dev"
PROBE_URL = f"{HOST}/v1/vulns/OSV-2020-111"
ENVIRONMENT = ".venv-audit"
UNAVAILABLE = 3


class Audit(NamedTuple):
    """The result of an audit: an exit code, and a report for people."""

    code: int
    report: str


def audit() -> Audit:
    """Audit requirements.txt. The working directory must be the root of the project."""
    try:
        urllib.request.urlopen(PROBE_URL, timeout=5).close()
    except OSError as error:
        return Audit(UNAVAILABLE, f"{HOST} does not answer ({error})")
    setup = run(sys.executable, "scripts/venv.py", ENVIRONMENT, "-r", "requirements-audit.txt")
    if setup.returncode:
        return Audit(UNAVAILABLE, f"pip-audit cannot be installed: {last_line(setup)}")
    process = run(
        os.path.join(ENVIRONMENT, "bin", "python"),
        *"-m pip_audit -r requirements.txt -s osv -f json --progress-spinner off".split(),
    )
    try:
        dependencies = json.loads(process.stdout)["dependencies"]
    except ValueError:
        return Audit(UNAVAILABLE, last_line(process))
    skipped = [d["name"] for d in dependencies if "skip_reason" in d]
    if not dependencies or skipped:
        return Audit(UNAVAILABLE, f"not found: {', '.join(skipped)}")
    findings = [f"{d['name']} {d['version']}: {v['id']}" for d in dependencies for v in d["vulns"]]
    summary = f"packages: {len(dependencies)}, known vulnerabilities: {len(findings)}"
    return Audit(1 if findings else 0, "\n".join([*findings, summary]))


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command and capture its output."""
    return subprocess.run(command, capture_output=True, text=True, check=False)


def last_line(process: subprocess.CompletedProcess[str]) -> str:
    """Return the last line that a command printed to stderr."""
    return (process.stderr.strip().splitlines() or ["no output"])[-1]


if __name__ == "__main__":
    result = audit()
    print(result.report)
    sys.exit(result.code)
