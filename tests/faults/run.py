"""Inject faults one by one, and compare the result with what the sender was promised."""

from __future__ import annotations

import time

from tests.faults.faults import MISSING_COMPILER, Scene
from tests.faults.ledger import Balance
from tests.faults.load import Load, Notifications
from tests.faults.world import Failed, World, wait_for

RATE = 3  # requests per second
ANSWER_SECONDS = 60
RECOVERY_SECONDS = 150
# Low limits, so that they are reached quickly.
CONFIG = {"max_remediations_per_hour": 8, "cooldown_seconds": 3, "host_cooldown_seconds": 0}
COLUMNS = ("answered", "recorded", "remediated", "lost", "twice", "cut_off")
HEADING = """\
seed {seed}. Shortened for the run: {settings}.
answered: requests answered 202. recorded: how many of them were recorded exactly once.
remediated: episodes whose work was done. lost, twice: episodes whose work was never done, or was
done more than once. cut off: episodes whose execution was killed between its claim and its work,
which the trail shows. recovery: seconds from the last fault until no work was pending.
"""


def format_row(*cells):
    """Return a line of the table."""
    return "{:<8} {:<58} {:>5} {:>8} {:>8} {:>10} {:>4} {:>5} {:>7} {:>8}".format(*cells)


TITLES = format_row(
    "on",
    "fault",
    "times",
    "answered",
    "recorded",
    "remediated",
    "lost",
    "twice",
    "cut off",
    "recovery",
)


class Run:
    """Injects faults into a world under load, and calls report() with each line of the table."""

    def __init__(
        self,
        kind,
        folder,
        broker,
        mariadb,
        seed,
        report,
        recovery_seconds=RECOVERY_SECONDS,
        endpoints=1,
        notifications=None,
        rate=RATE,
    ):
        self.kind, self._report, self._recovery_seconds = kind, report, recovery_seconds
        mariadb = mariadb if kind == "mariadb" else None
        shadow = not MISSING_COMPILER and endpoints == 1
        self.world = World(folder, broker, mariadb, shadow=shadow, endpoints=endpoints, **CONFIG)
        # HAProxy itself answers with 502, 503 or 504 if no endpoint has answered.
        retried_statuses = (503,) if endpoints == 1 else (502, 503, 504)
        notifications = notifications or Notifications(seed)
        self.load = Load(self.world.port, notifications, seed, rate, retried_statuses)
        self.scene = Scene(self.world, self.load, seed)
        self.problems = []
        self.injected = 0
        self._totals = dict.fromkeys(COLUMNS, 0)
        self._unreceived_webhooks = set()
        self._reported_problems = set()

    def start(self):
        """Start the world, and wait until it has processed a first notification."""
        self.world.start()
        self.load.post(self.load.notifications.new_episodes(1))
        self._wait_for_recovery()

    def close(self):
        """Stop the world. After a problem, keep its folder and report the path."""
        self.load.close()
        self.world.close(keep=bool(self.problems))
        if self.problems:
            self._report(f"logs and journal: {self.world.folder}")

    def inject(self, name, faults, failpoints=()):
        """Inject each of the faults, wait for the recovery, and report the results.

        Args:
            name: The name of the row.
            faults: The faults.
            failpoints: Failpoints at which actions are killed while the faults are injected.

        Returns:
            The number in each of COLUMNS.
        """
        problems = []
        self.load.start()
        for failpoint in failpoints:
            self.world.arm(failpoint)
        for fault in faults:
            try:
                fault.inject(self.scene)
                self.injected += 1
            # Any error counts as a problem with this fault, and the other faults still run.
            except Exception as error:
                problems.append(f"{fault.name}: {error!r}")
        try:
            self.scene.wait_for_kills(*failpoints)
            self.injected += len(failpoints)
        except Failed as error:
            problems.append(str(error))
        started_at = time.monotonic()
        self.load.stop()
        try:
            self._wait_for_recovery()
        except Failed as error:
            problems.append(str(error))
        recovery = time.monotonic() - started_at
        balance = Balance(self.world, self.load)
        unreceived = balance.unreceived_webhooks - self._unreceived_webhooks
        if unreceived and all(fault.keeps_webhooks for fault in faults):
            problems.append(f"StackStorm never received {len(unreceived)} webhooks")
        self._unreceived_webhooks = balance.unreceived_webhooks
        problems += [p for p in balance.problems if p not in self._reported_problems]
        self._reported_problems.update(balance.problems)
        cells = [getattr(balance, c) - self._totals[c] for c in COLUMNS]
        self._totals = {c: getattr(balance, c) for c in COLUMNS}
        self._report(
            format_row(self.kind, name, len(faults) + len(failpoints), *cells, f"{recovery:.1f}")
        )
        for problem in problems:
            self._report("         PROBLEM: " + problem)
        self.problems += [f"{self.kind}, {name}: {p}" for p in problems]
        return dict(zip(COLUMNS, cells))

    def _wait_for_recovery(self):
        wait_for(lambda: not self.load.unanswered, ANSWER_SECONDS, "all requests are answered")
        try:
            wait_for(
                lambda: not self.world.pending_work(), self._recovery_seconds, "all work is done"
            )
        except Failed:
            pending = self.world.pending_work()
            raise Failed(f"no recovery within {self._recovery_seconds} s: {pending}") from None
