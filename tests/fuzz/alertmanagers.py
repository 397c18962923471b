"""Simulate Prometheus servers, clustered Alertmanagers and the network to PoundCake.

The simulation runs in memory, in the order of an event queue, and is derived from the seed. It has
one alert, whose group contains another alert that is sometimes active ("noise"). Times are seconds
by the database's clock, to which each machine adds the offset of its own clock.

The model covers these parts of Alertmanager 0.25 to 0.34: Alert.Merge and Alerts.Put (types,
provider/mem), the timers of an aggregation group (dispatch), WaitStage, DedupStage and RetryStage
(notify), and the notification log with its merge by timestamp (nflog). Of Prometheus, it covers
FiredAt, ResolvedAt and ValidUntil of an alert, the resend delay, and the 15 min for which resolved
alerts are resent (rules).
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

MINUTE, HOUR = 60, 3600
RESEND_DELAY = MINUTE  # --rules.alert.resend-delay
RESOLVED_RETENTION = 15 * MINUTE
PEER_TIMEOUT = 15  # --cluster.peer-timeout
ALERT, NOISE = "alert", "noise"


@dataclass
class Plan:
    """The scenario of one seed.

    Attributes:
        fault_period: The time from the start during which faults occur.
        calm_period: The time after the faults during which everything works and nothing changes.
        retry_for: The time for which a failed notification is retried.
        active: The intervals (from, to) in which the expression of the alert is true.
        noise: The intervals in which the other alert of the group is active.
        omitted_fields: The fields that the sender omits: "startsAt", "endsAt".
    """

    seed: int
    prometheus: int = 1
    alertmanagers: int = 1
    fault_period: float = 2 * HOUR
    calm_period: float = HOUR
    interval: float = 15
    group_wait: float = 10
    group_interval: float = 300
    repeat_interval: float = HOUR
    retry_for: float = 60
    active: list[tuple[float, float]] = field(default_factory=list)
    noise: list[tuple[float, float]] = field(default_factory=list)
    prometheus_offsets: list[float] = field(default_factory=list)
    alertmanager_offsets: list[float] = field(default_factory=list)
    endpoint_offsets: list[float] = field(default_factory=list)
    latency: float = 1
    omitted_fields: tuple[str, ...] = ()

    @property
    def end(self):
        return self.fault_period + self.calm_period


def make_plan(seed, rng):
    """Draw the scenario of a seed at random."""
    plan = Plan(seed, rng.choice([1, 2, 2]), rng.choice([1, 2, 2, 2]))
    plan.interval = rng.choice([15, 30, 60])
    plan.group_wait = rng.choice([0, 10, 30])
    plan.group_interval = rng.choice([30, 60, 300, 300])
    plan.repeat_interval = rng.choice([300, 900, HOUR])
    plan.retry_for = rng.choice([60, 60, plan.group_interval])
    plan.fault_period = rng.choice([30, 60, 120]) * MINUTE
    # Long enough for the notification of the last change.
    plan.calm_period = plan.repeat_interval + 2 * plan.group_interval + 20 * MINUTE
    plan.latency = rng.choice([0.1, 1, 5])
    plan.omitted_fields = rng.choice(
        [(), (), (), (), ("startsAt",), ("endsAt",), ("startsAt", "endsAt")]
    )
    scale = rng.choice([30, 120, 600, 1800])
    plan.active = draw_intervals(rng, plan.fault_period, scale, rng.choice([20, 60, 300, 1200]))
    if rng.random() < 0.4:
        # The alert is still active at the end.
        plan.active.append((plan.fault_period - rng.uniform(0, 600), plan.end + HOUR))
    if rng.random() < 0.3:
        plan.noise = draw_intervals(rng, plan.fault_period, 600, 600)
    site_offset = rng.choice([0, 0, -90, 90, -7 * HOUR, 7 * HOUR, rng.uniform(-HOUR, HOUR)])
    max_peer_offset = rng.choice([0, 0, 0.5, 0.5, 5, 90])
    prometheus_offset = rng.choice([0, 0, 0, 0, 0, 0, 3 * HOUR])
    plan.alertmanager_offsets = [
        site_offset + rng.uniform(-max_peer_offset, max_peer_offset) for _ in range(2)
    ]
    plan.prometheus_offsets = [
        site_offset + rng.uniform(-max_peer_offset, max_peer_offset) for _ in range(2)
    ]
    if prometheus_offset:
        plan.prometheus_offsets[rng.randrange(2)] += rng.choice(
            [-prometheus_offset, prometheus_offset]
        )
    plan.endpoint_offsets = [rng.choice([0, 30, -90, 5 * HOUR, -5 * HOUR]) for _ in range(2)]
    return plan


def draw_intervals(rng, end, active, inactive):
    """Draw intervals before `end`, given the mean lengths of the intervals and of the gaps."""
    intervals, now = [], rng.uniform(0, 300)
    while True:
        now += rng.expovariate(1 / inactive) + 1
        until = now + rng.expovariate(1 / active) + 1
        if until > end - 600:
            return intervals
        intervals.append((now, until))
        now = until


def is_within(intervals, now):
    return any(start <= now < end for start, end in intervals)


class EventQueue:
    """A queue of scheduled calls, and a timeline of logged events."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.now = 0.0
        self.timeline = []
        self._queue = []
        self._count = 0

    def schedule(self, delay, work, *args):
        self._count += 1
        heapq.heappush(self._queue, (self.now + delay, self._count, work, args))

    def run(self, until):
        queue = self._queue
        while queue and queue[0][0] <= until:
            self.now, _, work, args = heapq.heappop(queue)
            work(*args)
        self.now = until

    def log_event(self, source, text, *args):
        self.timeline.append((self.now, source, text, args))

    def format_timeline(self):
        return "\n".join(
            f"{format_time(now)}  {source:<8} {text.format(*map(format_value, args))}"
            for now, source, text, args in self.timeline
        )


def format_time(seconds):
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    return f"{sign}{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{seconds % 60:06.3f}"


def format_value(value):
    return format_time(value) if isinstance(value, float) else value


class Prometheus:
    """A server that evaluates the rule and sends the alert to every Alertmanager."""

    def __init__(self, world, number):
        self.world, self.name = world, f"prom-{number}"
        self.offset = world.plan.prometheus_offsets[number]  # of its clock
        self.is_up = True
        self.restarts = 0
        self.unreachable = set()  # Alertmanagers that it cannot reach
        self._reset_state()
        world.schedule(world.rng.uniform(0, world.plan.interval), self.evaluate)

    def _reset_state(self):
        self.fired_at = self.resolved_at = self.sent_at = None

    def evaluate(self):
        world = self.world
        world.schedule(world.plan.interval, self.evaluate)
        if not self.is_up:
            return
        local_time = world.now + self.offset
        if is_within(world.plan.active, world.now):
            if self.fired_at is None or self.resolved_at is not None:
                world.log_event(self.name, "the alert fires, startsAt {}", local_time)
                self.fired_at, self.resolved_at, self.sent_at = local_time, None, None
        elif self.fired_at is not None and self.resolved_at is None:
            world.log_event(self.name, "the alert is resolved, endsAt {}", local_time)
            self.resolved_at, self.sent_at = local_time, None
        if self.resolved_at is not None and local_time - self.resolved_at > RESOLVED_RETENTION:
            self._reset_state()
        if self.fired_at is not None and (
            self.sent_at is None or local_time - self.sent_at >= RESEND_DELAY
        ):
            self.sent_at = local_time
            self.send(local_time)

    def send(self, local_time):
        ends_at = self.resolved_at
        if ends_at is None:
            ends_at = local_time + 4 * max(self.world.plan.interval, RESEND_DELAY)
        for alertmanager in self.world.alertmanagers:
            if alertmanager not in self.unreachable:
                delay = self.world.rng.uniform(0.01, 0.5)
                self.world.schedule(delay, alertmanager.put, self.fired_at, ends_at)

    def stop(self, seconds):
        if self.is_up:
            self.world.log_event(self.name, "is down for {} s", round(seconds))
            self.is_up = False
            self.restarts += 1
            self._reset_state()
            self.world.schedule(seconds, self.start)

    def start(self):
        self.is_up = True
        self.world.log_event(self.name, "is up")


@dataclass(frozen=True)
class LogEntry:
    """An entry of the notification log."""

    timestamp: float  # by the clock of the Alertmanager that made it
    logged_at: float  # by the clock of the simulation
    firing: frozenset[str]
    resolved: frozenset[str]


@dataclass
class Notification:
    """A notification that an Alertmanager sends to PoundCake.

    Attributes:
        flushed_at: When its content was true.
        received_at: When PoundCake accepted it; 0 until then.
        recorded_at: When it was recorded; None until then.
    """

    number: int
    sender: Alertmanager
    status: str
    starts_at: float | None
    ends_at: float | None
    flushed_at: float
    received_at: float
    endpoint: int
    recorded_at: float | None = None

    def __str__(self):
        flushed_at = format_time(self.flushed_at)
        return f"#{self.number} {self.status} of {self.sender.name}, as of {flushed_at}"


class Alertmanager:
    """One peer of the cluster: an alert, its group, and the notification log."""

    def __init__(self, world, number):
        self.world, self.number, self.name = world, number, f"am-{number}"
        self.offset = world.plan.alertmanager_offsets[number]
        self.is_up = True
        self.log = None  # the LogEntry of the group
        self.intervals = []  # [from, to] in which the alert was active here; the last one may grow
        # Counts of faults for which no receiver can compensate: see Simulation.excuse().
        self.restarts = 0
        self.lost_entries = 0
        self.abandoned_notifications = 0
        self._reset_state()
        self.schedule_noise()

    def _reset_state(self):
        self.starts_at = self.ends_at = self.changed_at = None
        self.is_grouped = False
        self.group = None  # a unique object that identifies the timer of the group
        self.has_flushed = self.is_busy = self.is_due = False
        self.attempts = 0  # of the notification in progress
        self.in_progress = None

    @property
    def clock(self):
        return self.world.now + self.offset

    @property
    def is_active(self):
        """Return True if /api/v2/alerts lists the alert as active."""
        return bool(self.intervals) and self.intervals[-1][1] > self.world.now

    # The alert

    def put(self, starts_at, ends_at):
        """Receive an alert from Prometheus."""
        if not self.is_up:
            return
        local_time, world = self.clock, self.world
        was_active, resolved = self.is_active, ends_at <= local_time
        if self.starts_at is not None and (
            self.starts_at < ends_at < self.ends_at or self.starts_at < starts_at < self.ends_at
        ):  # they overlap: Alert.Merge
            starts_at = min(starts_at, self.starts_at)
            if resolved:
                # The newer alert is resolved: its end is used, unless the older one ends later.
                if self.ends_at <= local_time:
                    ends_at = max(ends_at, self.ends_at)
            else:
                ends_at = max(ends_at, self.ends_at)
        until = ends_at - self.offset
        if until > world.now:
            if was_active:
                self.intervals[-1][1] = until
            else:
                world.log_event(self.name, "active, startsAt {} endsAt {}", starts_at, ends_at)
                self.intervals.append([world.now, until])
        elif was_active:
            world.log_event(self.name, "resolved, startsAt {} endsAt {}", starts_at, ends_at)
            self.intervals[-1][1] = world.now
        self.starts_at, self.ends_at, self.changed_at = starts_at, ends_at, world.now
        self.is_grouped = True
        self._make_group(starts_at)

    # The group

    def schedule_noise(self):
        world = self.world
        for start, end in world.plan.noise:
            for moment in (start, end):
                world.schedule(moment + world.rng.uniform(0, 2), self._receive_noise)

    def _receive_noise(self):
        if self.is_up:
            self._make_group(self.clock)

    def _make_group(self, starts_at):
        plan = self.world.plan
        is_old = starts_at + plan.group_wait < self.clock
        if self.group is None:
            self.has_flushed = False
            self._set_timer(0 if is_old else plan.group_wait)
        elif not self.has_flushed and is_old and not self.is_busy:
            self._set_timer(0)

    def _set_timer(self, delay):
        self.group = object()
        self.world.schedule(delay, self._on_timer, self.group)

    def _on_timer(self, group):
        if group is not self.group:
            return
        if self.is_busy:
            self.is_due = True
            return
        self.is_due = False
        self._set_timer(self.world.plan.group_interval)
        self.flush()

    def flush(self):
        """Start a notification about the current content of the group."""
        world = self.world
        self.has_flushed = self.is_busy = True
        is_firing = self.is_grouped and self.ends_at > self.clock
        firing, resolved = set(), set()
        if self.is_grouped:
            (firing if is_firing else resolved).add(ALERT)
        if is_within(world.plan.noise, world.now):
            firing.add(NOISE)
        elif self.log and NOISE in self.log.firing:
            resolved.add(NOISE)
        notification = Notification(
            0,
            self,
            "firing" if is_firing else "resolved",
            self.starts_at,
            None if is_firing else self.ends_at,
            world.now,
            0,
            0,
        )
        peer = next((p for p in world.alertmanagers if p is not self), None)
        position = self.number if peer and peer.is_up and not world.is_split else 0
        wait = PEER_TIMEOUT * position
        deadline = world.now + max(world.plan.retry_for, 10) + wait
        content = (notification, frozenset(firing), frozenset(resolved), self.changed_at, deadline)
        self.in_progress = content
        world.schedule(wait, self._deduplicate, content)

    def _deduplicate(self, content):
        if content is not self.in_progress:
            return
        _, firing, resolved, _, _ = content
        if self._is_needed(firing, resolved):
            self.attempts = 0
            self._post(content)
        else:
            self._finish(content, was_sent=False)

    def _is_needed(self, firing, resolved):
        """Return True if a notification is due, as DedupStage.needsUpdate decides."""
        entry = self.log
        if entry is None:
            return bool(firing)
        if not firing <= entry.firing:
            return True
        if not firing:
            return bool(entry.firing)
        if not resolved <= entry.resolved:
            return True
        return entry.timestamp < self.clock - self.world.plan.repeat_interval

    def _post(self, content):
        if content is not self.in_progress:
            return
        world, rng = self.world, self.world.rng
        notification, firing, resolved, _, _ = content
        self.attempts += 1
        if ALERT not in firing | resolved:
            world.schedule(0.1, self._handle_response, content, True)
            return
        if world.now < world.outages.get(self, 0):
            world.schedule(rng.uniform(0, 5), self._handle_response, content, False)
            return
        latency = rng.uniform(0.01, world.plan.latency)
        is_lossy = world.now < world.responses_lost_until
        if is_lossy and rng.random() < 0.1:
            # Alertmanager gives up, but the request still arrives.
            latency += rng.uniform(0, 15)
            world.schedule(latency, world.accept, notification)
            world.schedule(min(latency, 10), self._handle_response, content, False)
            return
        world.schedule(latency, world.accept, notification)
        is_lost = is_lossy and rng.random() < 0.5
        response_delay = latency + (rng.uniform(0, 10) if is_lost else 0.01)
        world.schedule(response_delay, self._handle_response, content, not is_lost)

    def _handle_response(self, content, is_ok):
        if content is not self.in_progress:
            return
        if is_ok:
            self._finish(content, was_sent=True)
            return
        wait = min(0.5 * 1.5 ** (self.attempts - 1), 60) * self.world.rng.uniform(0.5, 1.5)
        deadline = content[4]
        if self.world.now + wait < deadline:
            self.world.schedule(wait, self._post, content)
            return
        self.world.log_event(self.name, "gives up on a notification: {}", content[0].status)
        # PoundCake may have accepted the notification, although the response was lost.
        self.abandoned_notifications += 1
        self._end_flush()

    def _finish(self, content, was_sent):
        _, firing, resolved, changed_at, _ = content
        if was_sent:
            if self.log and self.log.timestamp > self.clock:
                self.lost_entries += 1  # the peer's clock is ahead: nflog.Log changes nothing
            else:
                self.log = LogEntry(self.clock, self.world.now, firing, resolved)
                self.gossip()
        if ALERT in resolved and self.changed_at == changed_at:
            self.is_grouped = False
        if not self.is_grouped and not is_within(self.world.plan.noise, self.world.now):
            self.group = None
        self._end_flush()

    def _end_flush(self):
        self.in_progress, self.is_busy = None, False
        if self.is_due and self.group:
            self._on_timer(self.group)

    # The cluster

    def gossip(self):
        world = self.world
        for peer in world.alertmanagers:
            if peer is not self and not world.is_split and self.log:
                world.schedule(world.rng.uniform(0.01, 0.5), peer.merge, self.log)

    def merge(self, entry):
        """Merge an entry of the peer's notification log."""
        if (
            not self.is_up
            or self.world.is_split
            or (self.log and self.log.timestamp >= entry.timestamp)
        ):
            return
        if self.log and self.log.logged_at > entry.logged_at:
            self.lost_entries += 1  # the peer's clock is ahead
        self.log = entry

    def stop(self, seconds, keeps_log):
        if not self.is_up:
            return
        self.world.log_event(self.name, "is down for {} s", round(seconds))
        if self.is_active:
            self.intervals[-1][1] = self.world.now
        self.is_up = False
        self.restarts += 1
        self._reset_state()
        if not keeps_log:
            self.log = None
        self.world.schedule(seconds, self.start)

    def start(self):
        self.world.log_event(self.name, "is up")
        self.is_up = True
        for peer in self.world.alertmanagers:
            peer.gossip()


class World(EventQueue):
    """All machines except PoundCake's, and the faults between them.

    Calls accept(notification) with each notification that reaches PoundCake.
    """

    def __init__(self, seed, plan=None):
        super().__init__(seed)
        self.plan = plan or make_plan(seed, self.rng)
        self.is_split = False  # whether the peers are cut off from each other
        self.outages = {}  # {Alertmanager: time until which it cannot reach PoundCake}
        self.responses_lost_until = 0.0  # the time until which responses get lost
        self.announcements_lost_until = 0.0  # the time until which announcements get lost
        self.alertmanagers = []
        for number in range(self.plan.alertmanagers):
            self.alertmanagers.append(Alertmanager(self, number))
        self.prometheus = [Prometheus(self, n) for n in range(self.plan.prometheus)]
        self.plan_faults()

    def accept(self, notification):
        raise NotImplementedError

    def plan_faults(self):
        rng = self.rng
        kinds = (
            self.restart_prometheus,
            self.cut_prometheus,
            self.restart_alertmanager,
            self.split,
            self.cut_poundcake,
            self.lose_responses,
            self.lose_announcements,
        )
        for kind in rng.sample(kinds, rng.randint(0, len(kinds))):
            for _ in range(rng.randint(1, 4)):
                seconds = min(rng.expovariate(1 / rng.choice([20, 120, 600])) + 1, 1800)
                latest = self.plan.fault_period - seconds - 60
                if latest > 0:
                    self.schedule(rng.uniform(0, latest), kind, seconds)

    def restart_prometheus(self, seconds):
        self.rng.choice(self.prometheus).stop(seconds)

    def restart_alertmanager(self, seconds):
        self.rng.choice(self.alertmanagers).stop(seconds, self.rng.random() < 0.8)

    def cut_prometheus(self, seconds):
        server, peer = self.rng.choice(self.prometheus), self.rng.choice(self.alertmanagers)
        self.log_event(server.name, "cannot reach {} for {} s", peer.name, round(seconds))
        server.unreachable.add(peer)
        self.schedule(seconds, server.unreachable.discard, peer)

    def split(self, seconds):
        if not self.is_split:
            self.log_event("cluster", "the peers cannot reach each other for {} s", round(seconds))
            self.is_split = True
            self.schedule(seconds, self.join)

    def join(self):
        self.log_event("cluster", "the peers can reach each other again")
        self.is_split = False
        for peer in self.alertmanagers:
            peer.gossip()

    def cut_poundcake(self, seconds):
        peer = self.rng.choice(self.alertmanagers)
        self.log_event(peer.name, "cannot reach PoundCake for {} s", round(seconds))
        self.outages[peer] = self.now + seconds

    def lose_responses(self, seconds):
        self.log_event("network", "loses responses for {} s", round(seconds))
        self.responses_lost_until = self.now + seconds

    def lose_announcements(self, seconds):
        self.log_event("broker", "loses announcements for {} s", round(seconds))
        self.announcements_lost_until = self.now + seconds

    # The actual state of the alert

    def is_active(self):
        return any(peer.is_active for peer in self.alertmanagers)

    def was_active(self, since, until):
        """Return True if, at some time in this period, the alert was active in an Alertmanager."""
        return any(
            start <= until and end > since
            for peer in self.alertmanagers
            for start, end in peer.intervals
        )

    def was_inactive(self, since, until):
        """Return True if, at some time in this period, the alert was active in no Alertmanager."""
        spans = sorted(span for peer in self.alertmanagers for span in peer.intervals)
        for start, end in spans:
            if start > since:
                break
            since = max(since, end)
        return since < until
