"""Brings the faults about, one after the other, and balances what the sender saw each time."""

from __future__ import annotations

import time

from tests.faults.faults import NO_COMPILER, Scene
from tests.faults.ledger import Balance
from tests.faults.load import Load, Notifications
from tests.faults.world import Failed, World, wait_for

# Requests a second.
RATE = 3
ANSWER_SECONDS = 60
HEAL_SECONDS = 150
# So that limits are met in a short time.
CONFIG = {"max_remediations_per_hour": 8, "cooldown_seconds": 3, "host_cooldown_seconds": 0}
COLUMNS = ("answered", "recorded", "remediated", "lost", "twice", "cut_off")
HEAD = """\
seed {seed}. Shortened for the run: {settings}.
answered: requests answered 202. recorded: of these, on record exactly once. remediated: episodes
whose work was done. lost, twice: episodes whose work was never done, or more than once. cut off:
episodes whose execution was killed between its claim and its work, and is shown so. heal: seconds
from the last fault until nothing was on its way any more.
"""


def row(*cells):
    """One line of the table."""
    return "{:<8} {:<58} {:>5} {:>8} {:>8} {:>10} {:>4} {:>5} {:>7} {:>6}".format(*cells)


TITLES = row(
    "on", "fault", "times", "answered", "recorded", "remediated", "lost", "twice", "cut off", "heal"
)


class Run:
    """One world under load. say(line) takes the lines of the table."""

    def __init__(self, kind, folder, broker, mariadb, seed, say, heal_seconds=HEAL_SECONDS):
        self.kind, self._say, self._heal_seconds = kind, say, heal_seconds
        mariadb = mariadb if kind == "mariadb" else None
        self.world = World(folder, broker, mariadb, shadow=not NO_COMPILER, **CONFIG)
        self.load = Load(self.world.port, Notifications(seed), seed, RATE)
        self.scene = Scene(self.world, self.load, seed)
        self.problems = []
        self.happened = 0
        self._totals = dict.fromkeys(COLUMNS, 0)
        self._untold = set()
        self._known = set()

    def start(self):
        """Starts it, and sees one alert through, so that no fault is the first thing to happen."""
        self.world.start()
        self.load.post(self.load.notifications.new_episodes(1))
        self._heal()

    def close(self):
        """Ends it; where something was wrong the world's folder stays, and is named."""
        self.load.close()
        self.world.close(keep=bool(self.problems))
        if self.problems:
            self._say(f"logs and journal: {self.world.folder}")

    def go_through(self, name, faults, meanwhile=()):
        """Brings about each of the faults, waits until all has healed, and says the balance.

        meanwhile: stations of actions that processes end at while the faults happen.
        """
        problems = []
        self.load.start()
        for station in meanwhile:
            self.world.arm(station)
        for fault in faults:
            try:
                fault.happen(self.scene)
                self.happened += 1
            # Whatever it is, the other faults are still to come.
            except Exception as error:
                problems.append(f"{fault.name}: {error!r}")
        try:
            self.scene.come_to(*meanwhile)
            self.happened += len(meanwhile)
        except Failed as error:
            problems.append(str(error))
        began = time.monotonic()
        self.load.stop()
        try:
            self._heal()
        except Failed as error:
            problems.append(str(error))
        heal = time.monotonic() - began
        balance = Balance(self.world, self.load)
        if all(fault.told for fault in faults) and balance.untold - self._untold:
            count = len(balance.untold - self._untold)
            problems.append(f"StackStorm was never told of {count} webhooks")
        self._untold = balance.untold
        problems += [p for p in balance.problems if p not in self._known]
        self._known.update(balance.problems)
        cells = [getattr(balance, c) - self._totals[c] for c in COLUMNS]
        self._totals = {c: getattr(balance, c) for c in COLUMNS}
        self._say(row(self.kind, name, len(faults) + len(meanwhile), *cells, f"{heal:.1f}"))
        for problem in problems:
            self._say("         PROBLEM: " + problem)
        self.problems += [f"{self.kind}, {name}: {p}" for p in problems]

    def _heal(self):
        wait_for(lambda: not self.load.waiting, ANSWER_SECONDS, "all are answered")
        try:
            wait_for(lambda: not self.world.busy(), self._heal_seconds, "all is done")
        except Failed:
            raise Failed(f"not healed within {self._heal_seconds} s: {self.world.busy()}") from None
