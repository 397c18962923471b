"""Compare, for a long time, an endpoint's open alerts with those of clustered Alertmanagers.

    make soak ARGS="--minutes 30 --seed 1"

In each round, some alerts fire or end while a process is restarted, killed, frozen or cut off.
Whenever both Alertmanagers have the same active alerts, the endpoint must soon show exactly these
alerts as open. No episode may be admitted twice. The run uses the stand-in or, with ST2_API_URL and
the other variables of `make live`, a live StackStorm.
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any, Callable

from tests.cluster.world import EXPIRY, MAX_SECONDS, World, can_cut_gossip, wait_until_equal
from tests.scenarios import stack as stacks

INSTANCES = [f"web-{number}" for number in range(6)]


@dataclass
class Disturbance:
    """A disturbance of some processes or connections.

    Attributes:
        name: A description.
        begin: A function that starts the disturbance.
        end: A function that ends it.
        seconds: Its duration.
        is_comparable: Whether the endpoint can agree with the Alertmanagers during the disturbance.
    """

    name: str
    begin: Callable[[], Any]
    end: Callable[[], Any]
    seconds: float
    is_comparable: bool = True


def do_nothing():
    """Cause no disturbance."""


def make_disturbances(world):
    """Return every disturbance that is possible on this machine."""
    first, second = world.alertmanagers
    disturbances = [
        Disturbance("nothing", do_nothing, do_nothing, 0),
        Disturbance("Alertmanager 0 restarts", first.stop, first.start, 1, is_comparable=False),
        Disturbance("Alertmanager 1 is killed", second.kill, second.start, 6, is_comparable=False),
        Disturbance(
            "Prometheus is frozen until its alerts expire",
            world.freeze_prometheus,
            world.thaw_prometheus,
            3 * EXPIRY,
        ),
        Disturbance(
            "Prometheus is stopped until its alerts expire",
            world.prometheus.stop,
            world.prometheus.start,
            3 * EXPIRY,
        ),
    ]
    links = {
        "Prometheus cannot reach Alertmanager 0": (world.to_alertmanager[:1], False),
        "Prometheus cannot reach any Alertmanager": (world.to_alertmanager, True),
        "Alertmanager 0 cannot reach the endpoint": (world.to_endpoint[:1], True),
        "Alertmanager 1 cannot reach the endpoint": (world.to_endpoint[1:], True),
        "no Alertmanager can reach the endpoint": (world.to_endpoint, False),
    }
    for name, (proxies, is_comparable) in links.items():
        begin, end = (lambda p=proxies: world.cut(*p)), (lambda p=proxies: world.restore(*p))
        disturbances.append(Disturbance(name, begin, end, 3 * EXPIRY, is_comparable))
    if can_cut_gossip():
        name = "the Alertmanagers cannot reach each other"
        disturbances.append(Disturbance(name, world.cut_gossip, world.restore_gossip, 3 * EXPIRY))
    else:
        print("skipped: Alertmanagers that cannot reach each other (needs nft, as root)")
    return disturbances


@dataclass
class Run:
    """A soak run, which consists of rounds."""

    world: Any
    stack: Any
    alert_name: str
    random: random.Random
    comparison_count: int = 0
    slowest_seconds: float = 0.0

    def open_instances(self):
        """Return the instances that the endpoint shows as open."""
        return {alert["instance"] for alert in self.stack.active_alerts(self.alert_name)}

    def change_alerts(self):
        """Make some instances faulty, and the others healthy."""
        faulty = [instance for instance in INSTANCES if self.random.random() < 0.4]
        self.world.set_faulty(*faulty)

    def compare(self):
        """Wait until the endpoint agrees with the Alertmanagers, and return a summary."""
        active, seconds = wait_until_equal(self.world, self.open_instances, MAX_SECONDS)
        self.comparison_count += 1
        self.slowest_seconds = max(self.slowest_seconds, seconds)
        return f"{len(active)} open after {seconds:.1f} s"

    def run_round(self, disturbance):
        """Change alerts during and after a disturbance, and return a summary of the comparisons."""
        if self.random.random() < 0.5:
            self.change_alerts()
        disturbance.begin()
        try:
            time.sleep(disturbance.seconds * self.random.random())
            self.change_alerts()
            time.sleep(disturbance.seconds)
            comparison = self.compare() if disturbance.is_comparable else "not compared"
        finally:
            disturbance.end()
        if self.random.random() < 0.3:
            self.change_alerts()
        return f"during the disturbance {comparison}, afterwards {self.compare()}"

    def count_admitted(self):
        """Return the number of admitted episodes, and the rows of those admitted more than once."""
        rows = self.stack.rows(
            "SELECT episode, COUNT(*) AS times FROM poundcake_alerts"
            " WHERE alert_name = :name AND status = 'firing' AND outcome = 'admitted'"
            " GROUP BY episode",
            name=self.alert_name,
        )
        return len(rows), [row for row in rows if row["times"] > 1]


def soak(stack, minutes, seed, write_line=print):
    """Run rounds for the given number of minutes.

    Raises:
        AssertionError: The endpoint did not show the active alerts of the Alertmanagers, or an
            episode was admitted twice.
    """
    alert_name = f"ScenarioCluster{seed}x{int(time.time())}"
    with contextlib.ExitStack() as resources:
        world = World(stack.url, stack.token, alert_name, INSTANCES)
        resources.enter_context(contextlib.closing(world))
        resources.enter_context(stack.configured(**world.configuration))
        run = Run(world, stack, alert_name, random.Random(seed))
        deadline, number, remaining = time.monotonic() + minutes * 60, 0, []
        while time.monotonic() < deadline:
            if not remaining:  # each disturbance once, in random order
                remaining = make_disturbances(world)
                run.random.shuffle(remaining)
            disturbance, number = remaining.pop(), number + 1
            write_line(f"{number}: {disturbance.name}: {run.run_round(disturbance)}")
        world.set_faulty()
        run.compare()
        episodes, admitted_twice = run.count_admitted()
        assert episodes, "no alert was admitted"
        write_line(
            f"{number} rounds, {run.comparison_count} comparisons, all equal, the slowest after "
            f"{run.slowest_seconds:.1f} s; "
            f"{episodes} episodes, {len(admitted_twice)} admitted twice"
        )
        assert not admitted_twice, admitted_twice


def main():
    parser = argparse.ArgumentParser("python -m tests.cluster", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/tracking.sqlite"
        is_live = stacks.uses_live_stackstorm()
        stack = stacks.Live() if is_live else stacks.Standalone(pathlib.Path(folder) / "stack", url)
        with contextlib.closing(stack):
            try:
                soak(stack, options.minutes, options.seed, lambda line: print(line, flush=True))
            except AssertionError as error:
                sys.exit(f"FAILED: {error}")


if __name__ == "__main__":
    main()
