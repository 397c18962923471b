"""Compare the cost of an evidence-only alert on a live StackStorm with that of a plain workflow.

    python -m bench.cost [--alerts 20] [--group 5] [--pause 2] [--wait 30] [--rounds 3]
                         [--host 198.51.100.3] [--services] [--only TEXT]

Run it on StackStorm's machine, with the variables of `make live`, while the machine does nothing
else. Each round has three phases with equally many starts at the same pace, in groups of the same
size, because processes that run at the same time slow each other down:

* HostDown alerts, a group at a time as Alertmanager sends them.
* A plain workflow that a notification starts without PoundCake: StackStorm's own webhook
  /v1/webhooks/..., and a rule with a criterion. Each notification has one alert, because a rule
  starts one workflow for a webhook.
* The same workflow, started over the API. So nothing is spent to receive an alert.

The plain workflow uses none of the pack's features, and its only task is the same check of the same
host, by the same action. Each phase ends --wait seconds after its last start, because questions
about the progress would also use CPU time. It is an error if an alert is not completed by then or
was not remediated, or if a workflow has not ended. The alerts are resolved after their phase, and
nothing is open when the next phase starts.

The CPU time is that of StackStorm's services and of the actions that they ran, minus what the
services use when idle; --services prints it for each of them. If several StackStorms run on the
machine, --only selects the one whose commands contain the text. The executions are all that
StackStorm started, including those of record and sync. The rules of the scenarios are disabled
during the measurement, because StackStorm matches each alert against all of them. The exit code is
1 if the median ratio to the CPU time of the workflow started over the API is above 1.5, or if the
median alert takes more than 4 executions.
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
WEBHOOK_URL = "plain_check"
PLAIN_RULE = {
    "name": "plain_check",
    "pack": "poundcake_scenarios",
    "enabled": True,
    "trigger": {"type": "core.st2.webhook", "parameters": {"url": WEBHOOK_URL}},
    "criteria": {"trigger.body.status": {"type": "eq", "pattern": "firing"}},
    "action": {
        "ref": PLAIN_WORKFLOW,
        "parameters": {
            "host": "{{ trigger.body.alerts[0].labels.instance.split(':')[0] }}",
            "port": "{{ trigger.body.alerts[0].labels.instance.split(':')[1] }}",
        },
    },
}
SERVICE = re.compile(rb"/(st2[a-z]+)(?:\0|$)|(sensor_wrapper)\.py")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class Cost(NamedTuple):
    """What StackStorm used in a phase.

    Attributes:
        cpu_seconds: CPU time of each service, and of the processes that it has started.
        seconds: Duration of the phase.
        executions: Number of executions of each action.
    """

    cpu_seconds: Counter[str]
    seconds: float
    executions: Counter[str]

    def for_each(self, count: int, idle: Cost) -> Counter[str]:
        """Return the CPU time for each of `count` alerts, without what the services use idle."""
        return Counter(
            {
                name: (seconds - idle.cpu_seconds[name] / idle.seconds * self.seconds) / count
                for name, seconds in self.cpu_seconds.items()
            }
        )


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
    parser.add_argument("--services", action="store_true", help="print the time of each service")
    parser.add_argument("--only", default="", help="text in the commands of the services to count")
    options = parser.parse_args()
    if not uses_live_stackstorm():
        sys.exit("set ST2_API_URL, and ST2_API_KEY or ST2_AUTH_TOKEN, as for `make live`")
    if not any(service_processes(options.only)):
        sys.exit("no StackStorm service runs on this machine")
    live = Live()
    with scenario_rules_disabled(live):
        sys.exit(compare(live, options))


def compare(live: Live, options: argparse.Namespace) -> str | None:
    """Print the costs, and return which limit they exceed, if any."""
    idle = measure(live, options, lambda: time.sleep(options.alerts * options.pause + options.wait))
    idle_rate = sum(idle.cpu_seconds.values()) / idle.seconds
    print(f"StackStorm alone uses {idle_rate:.2f} s of CPU per second")
    print(f"{'for each alert or workflow':<40}{'CPU seconds':>12}{'executions':>12}")
    rule_ratios, api_ratios, executions = [], [], []
    for number in range(1, options.rounds + 1):
        run_id = uuid.uuid4().hex[:8]
        alerts = measure(live, options, lambda run=run_id: fire_alerts(live, options, run))
        resolve_alerts(live, options, run_id)
        begun = alerts.executions["poundcake.begin"]
        if begun != options.alerts:
            sys.exit(
                f"{begun} of {options.alerts} alerts were remediated; `why` shows what held the"
                " others back, such as max_remediations_per_hour"
            )
        with plain_rule(live):
            by_rule = measure(
                live, options, lambda run=run_id: post_plain_webhooks(live, options, run)
            )
        over_api = measure(live, options, lambda: run_plain_workflows(live, options))
        alert_cpu = report(f"{number}: evidence-only alert", alerts, idle, options)
        rule_cpu = report(f"{number}: plain, by webhook and rule", by_rule, idle, options)
        api_cpu = report(f"{number}: plain, over the API", over_api, idle, options)
        rule_ratios.append(alert_cpu / rule_cpu)
        api_ratios.append(alert_cpu / api_cpu)
        executions.append(sum(alerts.executions.values()) / options.alerts)
    ratio, count = statistics.median(api_ratios), statistics.median(executions)
    print(
        f"median: {statistics.median(rule_ratios):.2f} times the CPU time of the plain workflow"
        f" started by webhook and rule, {ratio:.2f} times that of the one started over the API,"
        f" {count:.1f} executions for each alert"
    )
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


@contextlib.contextmanager
def plain_rule(live: Live) -> Iterator[None]:
    """Create the rule that starts the plain workflow for a webhook, and delete it at the end."""
    rule = live.api("/rules", "POST", PLAIN_RULE)
    try:
        live.wait_until(
            lambda: live.api("/webhooks"),
            lambda hooks: any(hook["parameters"]["url"] == WEBHOOK_URL for hook in hooks),
        )
        yield
    finally:
        live.api(f"/rules/{rule['id']}", "DELETE")


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


def post_plain_webhooks(live: Live, options: argparse.Namespace, run_id: str) -> Callable[[], None]:
    """Post the alerts one by one to StackStorm's webhook, wait, and return a check."""
    started_at = now()
    for numbers in groups(options):
        for number in numbers:
            body = webhook("firing", options.host, run_id, [number])
            live.api(f"/webhooks/{WEBHOOK_URL}", "POST", body)
        time.sleep(options.pause * len(numbers))
    time.sleep(options.wait)

    def check() -> None:
        found = live.list_all("/executions", action=PLAIN_WORKFLOW, timestamp_gt=started_at)
        if len(found) != options.alerts:
            sys.exit(f"the rule started {len(found)} plain workflows for {options.alerts} webhooks")
        exit_unless_ended(live, [execution["id"] for execution in found], options)

    return check


def run_plain_workflows(live: Live, options: argparse.Namespace) -> Callable[[], None]:
    """Start the plain workflows over the API, wait, and return a check."""
    body = {"action": PLAIN_WORKFLOW, "parameters": {"host": options.host, "port": 9100}}
    ids = []
    for numbers in groups(options):
        ids += [live.api("/executions", "POST", body)["id"] for _ in numbers]
        time.sleep(options.pause * len(numbers))
    time.sleep(options.wait)
    return lambda: exit_unless_ended(live, ids, options)


def exit_unless_ended(live: Live, ids: Sequence[str], options: argparse.Namespace) -> None:
    """Exit if an execution has not ended."""
    statuses = [live.api(f"/executions/{execution_id}")["status"] for execution_id in ids]
    if not all(status in TERMINAL_STATUSES for status in statuses):
        sys.exit(f"some workflows have not ended after {options.wait} s; use a longer --wait")


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


def measure(
    live: Live, options: argparse.Namespace, run: Callable[[], Callable[[], None] | None]
) -> Cost:
    """Return what StackStorm uses while a function runs, and call the check that it returns."""
    started_at, started = now(), time.monotonic()
    cpu_before = cpu_seconds(options.only)
    check = run()
    cpu, seconds = cpu_seconds(options.only), time.monotonic() - started
    cpu.subtract(cpu_before)
    if check:
        check()
    executions = live.list_all("/executions", timestamp_gt=started_at, timestamp_lt=now())
    return Cost(cpu, seconds, Counter(execution["action"]["ref"] for execution in executions))


def report(label: str, cost: Cost, idle: Cost, options: argparse.Namespace) -> float:
    """Print the cost of one alert or workflow, and return its CPU time in seconds."""
    services = cost.for_each(options.alerts, idle)
    cpu = sum(services.values())
    executions = sum(cost.executions.values()) / options.alerts
    print(f"{label:<40}{cpu:>12.2f}{executions:>12.1f}   {dict(cost.executions)}", flush=True)
    if options.services:
        for name, seconds in services.most_common():
            print(f"    {name:<36}{seconds:>12.3f}")
    return cpu


def service_processes(only: str) -> Iterator[tuple[str, pathlib.Path]]:
    """Yield the names of StackStorm's services and sensors, with their folders in /proc.

    Args:
        only: Text that their commands contain.
    """
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # the process has ended
        found = SERVICE.search(command)
        if found and os.fsencode(only) in command:
            yield (found[1] or found[2]).decode(), folder


def cpu_seconds(only: str) -> Counter[str]:
    """Return the CPU time of each service, and of its child processes that have ended."""
    ticks: Counter[str] = Counter()
    for name, folder in service_processes(only):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # the process has ended
        own, children = (sum(int(field) for field in fields[i : i + 2]) for i in (11, 13))
        ticks[name] += own
        ticks[f"processes of {name}"] += children
    return Counter({name: count / TICKS_PER_SECOND for name, count in ticks.items()})


if __name__ == "__main__":
    main()
