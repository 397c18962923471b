"""Run every check of `make lint`, and list the failed and the skipped checks.

.venv-lint/bin/python scripts/lint.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from glob import glob
from pathlib import Path
from typing import NamedTuple

import audit

ROOT = Path(__file__).resolve().parent.parent
CODE = ("actions", "bench", "lib", "scripts", "sensors", "standalone", "tests")


class Check(NamedTuple):
    """A command that exits with 0 if the check passes."""

    name: str
    command: list[str]


def main() -> None:
    """Run all checks, even if some of them fail."""
    os.chdir(ROOT)
    checks, skipped = code_checks(), []
    for check in configuration_checks():
        if shutil.which(check.command[0]):
            checks.append(check)
        else:
            skipped.append(f"{check.name} ({check.command[0]} is not installed)")
    failed = [check.name for check in checks if not passes(check)]
    code, report = audit.audit()
    if code == audit.UNAVAILABLE:
        skipped.append(f"known vulnerabilities: {report}")
    elif code:
        print(report)
        failed.append("known vulnerabilities")
    for name in skipped:
        print(f"skipped: {name}")
    if failed:
        sys.exit(f"lint: failed: {', '.join(failed)}")
    print(f"lint: {len(checks)} checks passed, {len(skipped)} skipped")


def code_checks() -> list[Check]:
    """Return the checks of the project's code, whose tools are installed in this environment."""
    python = [sys.executable, "-m"]
    # lint-imports has no module that `python -m` could run.
    lint_imports = str(Path(sys.executable).with_name("lint-imports"))
    return [
        Check("ruff format", [*python, "ruff", "format", "--check", "--diff", "--quiet", *CODE]),
        Check("ruff check", [*python, "ruff", "check", "--quiet", *CODE]),
        Check("types", [*python, "mypy", "--no-error-summary"]),
        Check("imports", [lint_imports]),
        Check("the pack's content", [*python, "tests.content"]),
        Check("rules", [sys.executable, "scripts/check_rules.py", "rules"]),
        Check("scripts/install_services.sh", ["sh", "-n", "scripts/install_services.sh"]),
        Check(".ci/run", ["bash", "-n", ".ci/run"]),
    ]


def configuration_checks() -> list[Check]:
    """Return a check of each example configuration with the program that reads it."""
    return [
        *(
            Check(name, ["amtool", "check-config", name])
            for name in files("etc/**/alertmanager*.yml")
        ),
        *(Check(name, ["promtool", "check", "rules", name]) for name in files("etc/**/*rules.yml")),
        *(
            Check(name, ["promtool", "check", "config", "--syntax-only", name])
            # Not the data source of Grafana, which has the same name.
            for name in ("etc/prometheus.yml", "etc/compose/prometheus.yml")
        ),
        # tests/test_compose.py checks docker-compose.yml, which needs the secrets of `make up`.
        Check(
            "docker-compose.pack.yml",
            [
                *(*compose_command(), "--env-file", "etc/env.example"),
                *("-f", "docker-compose.pack.yml", "config", "-q"),
            ],
        ),
        *(Check(name, ["shellcheck", name]) for name in files("etc/**/*.sh")),
    ]


def files(pattern: str) -> list[str]:
    """Return the file names that match a pattern, sorted. `**` matches any folders."""
    return sorted(glob(pattern, recursive=True))


def compose_command() -> list[str]:
    """Return the command of Docker Compose: the Docker CLI plugin, or the older docker-compose."""
    plugin = ["docker", "compose"]
    if shutil.which("docker"):
        discard = subprocess.DEVNULL
        if subprocess.call([*plugin, "version"], stdout=discard, stderr=discard) == 0:
            return plugin
    return ["docker-compose"]


def passes(check: Check) -> bool:
    """Run a check and return True if it passes. Print its output only if it fails."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["lib", "."])}
    process = subprocess.run(
        check.command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if process.returncode:
        print(f"--- {check.name}\n{process.stdout.decode(errors='replace')}", flush=True)
    return process.returncode == 0


if __name__ == "__main__":
    main()
