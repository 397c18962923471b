"""Generate incidents, with their notifications, decisions and remediations.

All random values come from a fixed seed, so each incident is the same in every run.
"""

from __future__ import annotations

import hashlib
import json
import random
import uuid
from datetime import datetime, timedelta
from typing import Iterator, NamedTuple, Tuple, Union

from poundcake.alertmanager import episode_name, fingerprint
from poundcake.timestamps import format_timestamp

SEED = 20
# The time between two requests. With it, 10 million alerts make up one year.
INTERVAL = timedelta(seconds=31.536)
# There are 500 slots, ten in each group. Each slot has one incident after another.
GROUPS = 50
PER_REQUEST = 10
# The number of groups whose alerts all have the same name. The other groups contain alerts with
# various names.
GROUPS_OF_ONE_NAME = 25
SMALLEST = 10_000

SERVICES = (
    "Host Disk Memory Cpu Network Postgres Redis Kafka Nginx Api Checkout Search Mail Dns Backup "
    "Certificate Queue Storage Scheduler Cache"
).split()
PROBLEMS = "Down LatencyHigh ErrorsHigh Full Saturated Lagging Flapping Degraded Stuck Slow".split()
NAMES = [service + problem for problem in PROBLEMS for service in SERVICES]
SEVERITIES = ["warning", "critical", "warning", "info", "warning", "critical"]
INSTANCES = 5000
WORKFLOWS = ["poundcake.host_down", "poundcake.disk_cleanup", "poundcake.service_restart"]
OTHER_WORKFLOW = "operations.notify"

STATUSES = ["succeeded", "failed", "timeout", "canceled", "abandoned"]
STATUS_WEIGHTS = [93, 6, 0.5, 0.3, 0.2]

# A value that both databases accept; times are text.
Value = Union[str, int, float, bool, None]
Values = Tuple[Value, ...]


class AlertDecision(NamedTuple):
    """The decision about an alert and its result: columns of poundcake_alerts."""

    ends_at: str | None = None
    episode: str | None = None
    outcome: str = ""
    reason: str = ""
    explanation: str = "none"
    explanation_reason: str | None = None
    checked_at: str | None = None
    st2_rule_matched: str | None = None
    open_fingerprint: str | None = None
    last_seen_at: str = ""
    notifications: int = 1
    closed_at: str | None = None


class Run(NamedTuple):
    """An execution for an alert. `row` is its row of execution_db."""

    execution_id: str
    workflow: str
    claim: str | None
    row: Values


class Incident:
    """One incident and its notifications, from the first, number 0, to the last.

    Args:
        slot: The slot of the incident, 0 to 499. Each slot has one incident after another.
        number: The number of the incident, counted back from the newest one of the slot, which is
            open.
        opened: The number of its first notification, counted back from the newest one of its group.
        length: The number of its notifications, including the resolve.
        end: The end of the history.
    """

    def __init__(self, slot: int, number: int, opened: int, length: int, end: datetime) -> None:
        rng = random.Random(f"{SEED}-{slot}-{number}")
        self.group, self.position = divmod(slot, PER_REQUEST)
        self.end, self.opened, self.length = end, opened, length
        self.is_open = number == 0
        if self.group < GROUPS_OF_ONE_NAME:
            rank = self.group
        else:
            # Frequent names are much more frequent than rare ones.
            rank = int(len(NAMES) ** rng.random()) - 1
        self.name = NAMES[rank]
        # No two slots share an instance, so that incidents of one fingerprint never overlap.
        host = slot + GROUPS * PER_REQUEST * rng.randrange(INSTANCES // (GROUPS * PER_REQUEST))
        service = SERVICES[rank % len(SERVICES)].lower()
        self.instance = f"{service}-{host:04}.fra{host % 4 + 1}.example:9100"
        self.severity = SEVERITIES[rank % len(SEVERITIES)]
        if rng.random() < 0.001 or (slot == GROUPS * PER_REQUEST - 1 and self.is_open):
            self.severity = "page"
        self._create_labels(rng, host, service)
        self.starts_at = self.received_at(0) - timedelta(seconds=rng.uniform(20, 90))
        self.episode = episode_name(self.fingerprint, self.starts_at)
        self.stored_start = as_stored(self.starts_at)
        self._rng = rng
        self._plan_refusals(rng)
        labels = {"alertname": self.name, "instance": self.instance}
        starts_at = format_timestamp(self.starts_at)
        fields = {"fingerprint": self.fingerprint, "labels": labels, "startsAt": starts_at}
        # The fields that its alerts in the bodies of requests have in common.
        self.fragment = json.dumps(fields)[1:]

    def _create_labels(self, rng: random.Random, host: int, service: str) -> None:
        """Create the labels, their fingerprint, and the annotations."""
        labels = {
            "alertname": self.name,
            "cluster": f"fra{host % 4 + 1}",
            "environment": "production",
            "instance": self.instance,
            "job": service,
            "prometheus": f"monitoring/prometheus-{host % 2}",
            "severity": self.severity,
            "team": "team-" + service,
        }
        self.fingerprint = fingerprint(labels)
        self.labels = json.dumps(labels)
        self.annotations = json.dumps(
            {
                "summary": f"{self.name} on {self.instance}",
                "description": f"{self.name} has been seen on {self.instance} for more than 5 "
                f"minutes, the value is {rng.uniform(1, 100):.1f}.",
                "runbook_url": "https://runbooks.example/" + self.name.lower(),
            }
        )

    def _plan_refusals(self, rng: random.Random) -> None:
        """Choose the refused notifications, and one that is malformed or resolves nothing."""
        self.firing_count = self.length - (not self.is_open)
        # The number of refused notifications before the one that is admitted, if any is.
        self.refusal_count = rng.randint(1, 4) if rng.random() < 0.15 else 0
        self.refusal_outcome = rng.choice(["cooldown", "cooldown", "rate_limited"])
        self.refusal_count = min(self.refusal_count, self.firing_count)
        # In a few incidents, one notification is malformed or resolves nothing.
        self.unusual_index: int | None = None
        self.unusual_kind = rng.choice(["malformed", "no open incident", "no open incident"])
        if self.firing_count > self.refusal_count + 2 and rng.random() < 0.25:
            self.unusual_index = rng.randrange(self.refusal_count + 1, self.firing_count - 1)

    def request_number(self, index: int) -> int:
        """Return the number of a notification's request, counted back from the end."""
        return (self.opened - index) * GROUPS + self.group

    def received_at(self, index: int) -> datetime:
        """Return when a notification was received."""
        return received_at(self.request_number(index), self.end)

    def notification(self, index: int, created_at: str) -> tuple[str, AlertDecision]:
        """Return the status of a notification, and the decision about it.

        Args:
            created_at: The time of its receipt, as stored.
        """
        if index == self.unusual_index:
            return self._decide_unusual(created_at)
        if index == self.firing_count:
            return "resolved", self._decide_resolved(index, created_at)
        if index < self.refusal_count:
            return "firing", self._decide_refused(index, created_at)
        if index == self.refusal_count:
            return "firing", self._decide_admitted(index)
        return "firing", AlertDecision(
            episode=self.episode,
            outcome="duplicate",
            reason=f"duplicate of {request_id(self.request_number(self.refusal_count))}",
            last_seen_at=created_at,
        )

    def _decide_unusual(self, created_at: str) -> tuple[str, AlertDecision]:
        if self.unusual_kind == "malformed":
            reason = (
                f"alerts[{self.position}].endsAt: an RFC 3339 time is expected, such as "
                "2026-01-14T12:00:00Z"
            )
            decision = AlertDecision(outcome="malformed", reason=reason, last_seen_at=created_at)
            return "firing", decision
        return "resolved", AlertDecision(
            ends_at=created_at,
            outcome="duplicate",
            reason="no open incident",
            last_seen_at=created_at,
        )

    def _decide_resolved(self, index: int, created_at: str) -> AlertDecision:
        opening_index = self.refusal_count if self.refusal_count < self.firing_count else 0
        return AlertDecision(
            ends_at=created_at,
            episode=self.episode,
            outcome="resolved",
            reason=f"ends the incident of {request_id(self.request_number(opening_index))}",
            explanation="no_rule",
            explanation_reason="no rule matched",
            checked_at=as_stored(self.received_at(index) + timedelta(seconds=12)),
            last_seen_at=created_at,
        )

    def _decide_refused(self, index: int, created_at: str) -> AlertDecision:
        until = format_timestamp(self.received_at(self.refusal_count))
        reason = f"cooldown until {until}"
        if self.refusal_outcome == "rate_limited":
            reason = f"limit of 100 per hour for this alert name until {until}"
        decision = AlertDecision(
            episode=self.episode,
            outcome=self.refusal_outcome,
            reason=reason,
            last_seen_at=created_at,
        )
        if index > 0:
            return decision
        # The first refusal opens the incident, and its row counts the later ones.
        last_seen = as_stored(self.received_at(self.refusal_count - 1))
        decision = decision._replace(notifications=self.refusal_count, last_seen_at=last_seen)
        if self.refusal_count < self.length:
            return decision._replace(closed_at=as_stored(self.received_at(self.refusal_count)))
        return decision._replace(open_fingerprint=self.fingerprint) if self.is_open else decision

    def _decide_admitted(self, index: int) -> AlertDecision:
        reason = "new incident"
        if index:
            reason = f"first notification after {self.refusal_outcome.replace('_', ' ')}"
        checked_at = self.received_at(index) + timedelta(seconds=self._rng.uniform(5, 15))
        return AlertDecision(
            episode=self.episode,
            outcome="admitted",
            reason=reason,
            explanation="execution",
            explanation_reason="",
            checked_at=as_stored(checked_at),
            st2_rule_matched=workflow_of(self.name),
            open_fingerprint=self.fingerprint if self.is_open else None,
            last_seen_at=as_stored(self.received_at(self.firing_count - 1)),
            notifications=self.firing_count - index - (self.unusual_index is not None),
            closed_at=None if self.is_open else as_stored(self.received_at(self.firing_count)),
        )

    def runs(self) -> list[Run]:
        """Return the executions that ran for the admitted notification."""
        number = self.request_number(self.refusal_count)
        received = self.received_at(self.refusal_count)
        workflow = workflow_of(self.name)
        claims: list[tuple[str, str | None]] = [(workflow, f"{self.episode}|{workflow}")]
        if self._rng.random() < 0.01:
            claims.append((OTHER_WORKFLOW, None))
        # A few of the newest executions have not ended.
        is_running = number < 3 * GROUPS and self.position == 0
        executions = []
        for workflow, claim in claims:
            digest = seeded_digest("execution", number, self.position, workflow)[:16]
            execution_id, row = self._execution(digest, workflow, received, is_running)
            executions.append(Run(execution_id, workflow, claim, row))
        return executions

    def _execution(
        self, digest: str, workflow: str, received: datetime, is_running: bool
    ) -> tuple[str, Values]:
        """Return an execution's id and its row of execution_db."""
        status = self._rng.choices(STATUSES, STATUS_WEIGHTS)[0]
        dry_run = self._rng.random() < 0.3
        seconds = self._rng.expovariate(1 / 40)
        started = received + timedelta(seconds=self._rng.uniform(1, 4))
        duration = timedelta(seconds=3600 if status == "timeout" else 2 + seconds)
        ended = None if is_running else started + duration
        # As in a MongoDB ObjectId, the id begins with the time in seconds, so that executions that
        # are close in time are close in an index.
        execution_id = f"{int(started.timestamp()):08x}{digest}"
        host = self.instance.partition(":")[0]
        error = stage = message = None
        flags: tuple[bool | None, bool | None, bool | None] = (None, None, None)
        if is_running:
            status = "running"
        elif status == "succeeded":
            flags = (dry_run, not dry_run, not dry_run)
            stage = "done"
            message = f"{self.name} on {host}: 3 of 3 checks passed"
        else:
            error = f"{workflow} on {host}: {status}"
            if status == "failed":
                flags = (dry_run, False, False)
                stage, message = "unreachable", f"{host} does not answer on port 22"
        return execution_id, (
            execution_id,
            workflow,
            status,
            as_stored(started),
            as_stored(ended) if ended else None,
            workflow,
            error,
            *flags,
            stage,
            message,
            "https://st2.example/#/history/" + execution_id,
            as_stored((ended or started) + timedelta(seconds=5)),
        )


def incidents_of(slot: int, notifications: int, end: datetime) -> Iterator[Incident]:
    """Yield the incidents of a slot, oldest first.

    The lengths are chosen backwards from the end, so that the end of a history does not depend on
    its length.

    Args:
        notifications: The number of notifications of the slot in the whole history.
    """
    rng = random.Random(f"{SEED}-{slot}")
    # The open incident began within the shortest history.
    lengths = [rng.randint(1, SMALLEST // PER_REQUEST // GROUPS - 1)]
    covered = lengths[0]
    while covered < notifications:
        lengths.append(rng.randint(3, 60))
        covered += lengths[-1]
    for number in reversed(range(len(lengths))):
        yield Incident(slot, number, covered - 1, lengths[number], end)
        covered -= lengths[number]


def received_at(number: int, end: datetime) -> datetime:
    """Return when a request was received, with jitter. Number 0 is received at `end`."""
    return end - INTERVAL * number - timedelta(milliseconds=number * 7919 % 3000)


def request_id(number: int) -> str:
    """Return the id of a request, counted back from the end."""
    return str(uuid.UUID(seeded_digest("request", number)[:32], version=4))


def workflow_of(name: str) -> str:
    """Return the workflow that the rule for an alert name starts."""
    return WORKFLOWS[NAMES.index(name) % len(WORKFLOWS)]


def seeded_digest(*parts: str | int) -> str:
    """Return a hexadecimal digest of the seed and the parts."""
    return hashlib.sha256(repr((SEED,) + parts).encode()).hexdigest()


def as_stored(moment: datetime) -> str:
    """Return a time in the format that both databases accept."""
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")
