"""Compare the cost of an evidence-only alert on a live StackStorm with that of a plain workflow.

    python -m bench.cost [--alerts 20] [--group 5] [--pause 2] [--wait 30] [--rounds 3]
                         [--host 198.51.100.3]

Run it on StackStorm's machine, with the variables of `make live`, while the machine does nothing
else. Each round posts HostDown alerts, a group at a time as Alertmanager does. Then it starts a
plain workflow just as often and at the same pace. This workflow uses none of the pack's features,
and its only task is the same check of the same host, by the same action. Each phase ends --wait
seconds after its last start, because questions about the progress would also use CPU time. An alert
that is not completed by then, or a workflow that has not ended, is an error. The alerts are
resolved between the two phases, and nothing is open when the second phase starts.

The CPU time is that of StackStorm's services and of the actions that they ran, minus what the
services use when idle. The executions are all that StackStorm started, including those of record
and sync. The rules of the scenarios are disabled during the measurement, because StackStorm matches
each alert against all of them. The exit code is 1 if the median ratio of the CPU times is above
1.5, or if the median alert takes more than 4 executions.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import re
import statistics
import sys
import time
import uuid
from collections import Counter
from typing import Callable, Iterator, NamedTuple, Sequence

from tests.scenarios.stack import TERMINAL_STATUSES, Live, now, uses_live_stackstorm

MAX_CPU_RATIO = 1.5
MAX_EXECUTIONS = 4
PLAIN_WORKFLOW = "poundcake_scenarios.plain_check"
SERVICE = re.compile(rb"/st2[a-z]+\0|/st2[a-z]+$|sensor_wrapper\.py")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Cost(NamedTuple):
    """What StackStorm used in a phase.

    Attributes:
        cpu_seconds: CPU time of its services and actions.
        seconds: Duration of the phase.
        executions: Number of executions of each action.
    """

    cpu_seconds: float
    seconds: float
    executions: Counter[str]


def main() -> None:
    """Measure, print the costs, and compare them with the limits."""
    parser = argparse.ArgumentParser(
        "python -m bench.cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--alerts", type=int, default=20, help="alerts in each round")
    parser.add_argument("--group", type=int, default=5, help="alerts in each notification")
    parser.add_argument("--pause", type=float, default=2, help="average seconds between alerts")
    parser.add_argument("--wait", type=float, default=30, help="seconds until all have ended")
    parser.add_argument("--rounds", type=int, default=3, help="rounds to measure")
    parser.add_argument("--host", default="198.51.100.3", help="a host that StackStorm may check")
    options = parser.parse_args()
    if not uses_live_stackstorm():
        sys.exit("set ST2_API_URL, and ST2_API_KEY or ST2_AUTH_TOKEN, as for `make live`")
    if not service_processes():
        sys.exit("no StackStorm service runs on this machine")
    live = Live()
    with scenario_rules_disabled(live):
        sys.exit(compare(live, options))


def compare(live: Live, options: argparse.Namespace) -> str | None:
    """Print the costs, and return which limit they exceed, if any."""
    idle = measure(live, lambda: time.sleep(options.alerts * options.pause + options.wait))
    idle_rate = idle.cpu_seconds / idle.seconds
    print(f"StackStorm alone uses {idle_rate:.2f} s of CPU per second")
    print(f"{'for each alert or workflow':<30}{'CPU seconds':>12}{'executions':>12}")
    ratios, executions = [], []
    for number in range(1, options.rounds + 1):
        run_id = uuid.uuid4().hex[:8]
        alerts = measure(live, lambda run=run_id: fire_alerts(live, options, run))
        resolve_alerts(live, options, run_id)
        plain = measure(live, lambda: run_plain_workflows(live, options))
        alert_cpu = report(f"{number}: evidence-only alert", alerts, idle_rate, options.alerts)
        plain_cpu = report(f"{number}: plain workflow", plain, idle_rate, options.alerts)
        ratios.append(alert_cpu / plain_cpu)
        executions.append(sum(alerts.executions.values()) / options.alerts)
    ratio, count = statistics.median(ratios), statistics.median(executions)
    print(f"median: {ratio:.2f} times the CPU time, {count:.1f} executions for each alert")
    if ratio > MAX_CPU_RATIO or count > MAX_EXECUTIONS:
        return f"over the limit of {MAX_CPU_RATIO} times, or of {MAX_EXECUTIONS} executions"
    return None


@contextlib.contextmanager
def scenario_rules_disabled(live: Live) -> Iterator[None]:
    """Disable the enabled rules of the scenarios, and enable them again at the end."""
    rules = live.list_all("/rules", pack="poundcake_scenarios", enabled="true")
    try:
        for rule in rules:
            live.api(f"/rules/{rule['id']}", "PUT", {**rule, "enabled": False})
        yield
    finally:
        for rule in rules:
            live.api(f"/rules/{rule['id']}", "PUT", rule)


def fire_alerts(live: Live, options: argparse.Namespace, run_id: str) -> Callable[[], None]:
    """Post the alerts in groups, wait, and return a function that checks that all are completed."""
    request_ids = []
    for numbers in groups(options):
        request_ids.append(live.send(webhook("firing", options.host, run_id, numbers)))
        time.sleep(options.pause * len(numbers))
    time.sleep(options.wait)

    def check() -> None:
        if not all(live.get_trail(request_id)["completed_at"] for request_id in request_ids):
            sys.exit(f"some alerts are not completed after {options.wait} s; use a longer --wait")

    return check


def resolve_alerts(live: Live, options: argparse.Namespace, run_id: str) -> None:
    """Resolve the alerts, and wait until all work on the resolves has ended."""
    for numbers in groups(options):
        request_id = live.send(webhook("resolved", options.host, run_id, numbers))
        live.wait_for_trail(request_id, lambda trail: trail["completed_at"], 300)


def groups(options: argparse.Namespace) -> Iterator[range]:
    """Yield the numbers of the alerts in each notification."""
    for start in range(0, options.alerts, options.group):
        yield range(start, min(start + options.group, options.alerts))


def run_plain_workflows(live: Live, options: argparse.Namespace) -> Callable[[], None]:
    """Start the plain workflows, wait, and return a function that checks that all have ended."""
    body = {"action": PLAIN_WORKFLOW, "parameters": {"host": options.host, "port": 9100}}
    ids = []
    for _ in range(options.alerts):
        ids.append(live.api("/executions", "POST", body)["id"])
        time.sleep(options.pause)
    time.sleep(options.wait)

    def check() -> None:
        statuses = [live.api(f"/executions/{execution_id}")["status"] for execution_id in ids]
        if not all(status in TERMINAL_STATUSES for status in statuses):
            sys.exit(f"some workflows have not ended after {options.wait} s; use a longer --wait")

    return check


def webhook(status: str, host: str, run_id: str, numbers: Sequence[int]) -> dict[str, object]:
    """Return a notification about several alerts, as Alertmanager sends it."""
    labels = {"alertname": "HostDown", "instance": f"{host}:9100"}
    times = {"startsAt": now()}
    if status == "resolved":
        times["endsAt"] = times["startsAt"]
    alerts = [
        {
            "status": status,
            "labels": {**labels, "run": f"{run_id}-{number}"},
            "annotations": {},
            **times,
        }
        for number in numbers
    ]
    return {"version": "4", "status": status, "receiver": "poundcake", "alerts": alerts}


def measure(live: Live, run: Callable[[], Callable[[], None] | None]) -> Cost:
    """Return what StackStorm uses while a function runs, and call the check that it returns."""
    started_at, started = now(), time.monotonic()
    cpu_before = cpu_seconds()
    check = run()
    cpu, seconds = cpu_seconds() - cpu_before, time.monotonic() - started
    if check:
        check()
    executions = live.list_all("/executions", timestamp_gt=started_at, timestamp_lt=now())
    return Cost(cpu, seconds, Counter(execution["action"]["ref"] for execution in executions))


def report(label: str, cost: Cost, idle_rate: float, count: int) -> float:
    """Print the cost of one alert or workflow, and return its CPU time in seconds."""
    cpu = (cost.cpu_seconds - idle_rate * cost.seconds) / count
    executions = sum(cost.executions.values()) / count
    print(f"{label:<30}{cpu:>12.2f}{executions:>12.1f}   {dict(cost.executions)}", flush=True)
    return cpu


def service_processes() -> list[pathlib.Path]:
    """Return the folders in /proc of StackStorm's services and sensors."""
    folders = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if SERVICE.search((folder / "cmdline").read_bytes()):
                folders.append(folder)
        except OSError:
            pass  # the process has ended
    return folders


def cpu_seconds() -> float:
    """Return the CPU time of the services and of their child processes that have ended."""
    ticks = 0
    for folder in service_processes():
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # the process has ended
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / TICKS_PER_SECOND


if __name__ == "__main__":
    main()
