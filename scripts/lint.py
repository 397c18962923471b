"""Everything `make lint` looks at, in one go: each check runs, and what fails is named at the end.

.venv-lint/bin/python scripts/lint.py
"""

import glob
import os
import shutil
import subprocess
import sys

from audit import COULD_NOT

QUIET = subprocess.DEVNULL
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def main():
    os.chdir(ROOT)
    python = [sys.executable, "-m"]
    code = sorted(
        name
        for name in ("actions", "bench", "lib", "scripts", "sensors", "standalone", "tests")
        if os.path.isdir(name)
    )
    checks = [
        ("ruff format", python + ["ruff", "format", "--check", "--diff", "--quiet"] + code),
        ("ruff check", python + ["ruff", "check", "--quiet"] + code),
        ("the pack's content", python + ["tests.content"]),
        ("shell scripts", ["sh", "-n", "scripts/install_services.sh"]),
        ("shell scripts", ["bash", "-n", ".ci/run"]),
    ]
    failed, skipped = [], []
    checks += [check for check in configurations() if tool_at_hand(check, skipped)]
    for name, command in checks:
        if not passes(command):
            failed.append(name)
    audit = subprocess.run([sys.executable, "scripts/audit.py"], stdout=subprocess.PIPE, text=True)
    if audit.returncode == COULD_NOT:
        skipped.append("known vulnerabilities: " + audit.stdout.strip())
    elif audit.returncode:
        print(audit.stdout)
        failed.append("known vulnerabilities")
    if skipped:
        print("skipped: " + "; ".join(skipped))
    if failed:
        sys.exit("lint: failed: " + ", ".join(dict.fromkeys(failed)))
    print(f"lint: {len(checks)} checks passed, {len(skipped)} skipped")


def passes(command):
    """Quiet where it does."""
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if run.returncode:
        print(run.stdout.decode(errors="replace"), flush=True)
    return run.returncode == 0


def configurations():
    """The example configurations, each by the tool that reads it in earnest."""
    for name in sorted(glob.glob("etc/alertmanager*.yml")):
        yield name, ["amtool", "check-config", name]
    for name in sorted(glob.glob("etc/*rules.yml")):
        yield name, ["promtool", "check", "rules", name]
    if os.path.exists("etc/prometheus.yml"):
        yield (
            "etc/prometheus.yml",
            [
                "promtool",
                "check",
                "config",
                "--syntax-only",
                "etc/prometheus.yml",
            ],
        )
    for name in sorted(glob.glob("docker-compose*.yml")):
        yield name, compose() + ["--env-file", "etc/env.example", "-f", name, "config", "-q"]


def compose():
    """The plugin of today's docker, or the program of before."""
    plugin = ["docker", "compose"]
    if shutil.which("docker") and not shutil.which("docker-compose"):
        if subprocess.call(plugin + ["version"], stdout=QUIET, stderr=QUIET) == 0:
            return plugin
    return ["docker-compose"]


def tool_at_hand(check, skipped):
    name, command = check
    if shutil.which(command[0]):
        return True
    skipped.append(f"{name} ({command[0]} is not installed)")
    return False


if __name__ == "__main__":
    main()
