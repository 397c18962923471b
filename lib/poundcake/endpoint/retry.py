"""Plan retries: when to run a step again, and with how many requests.

These are pure functions on small values. The callers read the clock and update the journal.
Durations are in seconds.

An announcement that is not recorded in time is retried with a doubled wait. From its second
failure on, the batch is also halved, so that a request that cannot be recorded ends up alone and
is marked `stuck`. While nothing at all is recorded, announcements are infrequent, because RabbitMQ
keeps every copy, and StackStorm later executes each of them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import datetime

BATCH_REQUESTS = 500
"""Maximum number of requests in one announcement."""
RECORD_WAIT = 30.0
"""How long an announcement may take to be recorded before it is retried."""
STUCK_WAIT = 600.0
"""Wait between announcements of a stuck request, and the longest wait of any other request."""
OUTAGE_WAIT = 60.0
"""Longest wait between announcements while nothing is recorded."""
EMIT_WAITS = (60.0, 3600.0)
"""First and longest wait before alerts that StackStorm lost are emitted again."""
REFUSED_WAITS = (1.0, 60.0)
"""First and longest wait before a failed publish is retried."""
FAILURE_WAITS = (1.0, 30.0)
"""First and longest wait before a step that failed as a whole is retried."""
SYNC_WAITS = (10.0, 60.0)
"""First and longest wait between rounds of sync. An emission resets the wait to the first.

Most workflows that change nothing record their result within the first wait.
"""
SYNC_CONFIRMATION_WAIT = 30.0
"""Shortest wait between rounds of sync that would only confirm recorded results."""
SYNC_IDLE_WAIT = 600.0
"""Wait between rounds of sync while all open work is waiting for people."""

_MAX_DOUBLINGS = 16


def doubled(waits: tuple[float, float], times: int) -> float:
    """Return the first of two waits, doubled `times` times, but not more than the second."""
    return min(waits[0] * 2.0 ** min(times, _MAX_DOUBLINGS), waits[1])


def jittered(wait: float) -> float:
    """Return a wait shortened by up to a tenth, so that retries do not all run together."""
    return wait * random.uniform(0.9, 1.0)


@dataclass(frozen=True)
class FailedAttempt:
    """A batch whose announcement failed.

    Attributes:
        size: The number of requests in the batch.
        attempts: Number of earlier failures of its first request.
        others_recorded: Whether other requests were recorded since that first request last failed.
    """

    size: int
    attempts: int
    others_recorded: bool


@dataclass(frozen=True)
class RetryPlan:
    """How to announce the requests of a failed batch again.

    Attributes:
        wait: Seconds until the next announcement.
        batch_limit: How many of them may be announced together, or 0 for no limit.
        is_stuck: Whether the batch is a single request that fails while others are recorded.
    """

    wait: float
    batch_limit: int
    is_stuck: bool


def plan_missed(failed: FailedAttempt) -> RetryPlan:
    """Plan the retry of a batch that was announced and not recorded in time."""
    if _is_stuck(failed):
        return RetryPlan(STUCK_WAIT, 1, True)
    limit = failed.size if failed.attempts < 1 else max(1, failed.size // 2)
    return RetryPlan(doubled((RECORD_WAIT, STUCK_WAIT), failed.attempts), limit, False)


def plan_refused(failed: FailedAttempt) -> RetryPlan:
    """Plan the retry of a single request whose announcement could not be published.

    The first failure may only mean that the broker was down. After the second, the request is
    announced alone.
    """
    if _is_stuck(failed):
        return RetryPlan(STUCK_WAIT, 1, True)
    limit = 0 if failed.attempts < 1 else 1
    return RetryPlan(doubled(REFUSED_WAITS, failed.attempts), limit, False)


def _is_stuck(failed: FailedAttempt) -> bool:
    return failed.size == 1 and failed.attempts > 0 and failed.others_recorded


@dataclass(frozen=True)
class Pace:
    """How fast requests may be announced. Times are on the monotonic clock.

    Attributes:
        next_at: When the next announcement may be published.
        misses: Announcements that missed their deadline since a request was last recorded.
        batch_limit: How many requests the next announcement may contain, or 0 for no limit.
        recorded_at: When a request was last recorded.
    """

    next_at: float = 0.0
    misses: int = 0
    batch_limit: int = 0
    recorded_at: float = float("-inf")

    @property
    def batch_requests(self) -> int:
        """Maximum number of requests in the next announcement."""
        return min(self.batch_limit or BATCH_REQUESTS, BATCH_REQUESTS)


def pace_after_miss(pace: Pace, now: float) -> Pace:
    """Return the pace after an announcement was not recorded in time."""
    wait = doubled((RECORD_WAIT, OUTAGE_WAIT), pace.misses)
    return replace(pace, misses=pace.misses + 1, next_at=now + wait)


def pace_after_record(pace: Pace, now: float) -> Pace:
    """Return the pace after requests were recorded: after misses, announcements may resume."""
    return replace(pace, misses=0, next_at=0.0 if pace.misses else pace.next_at, recorded_at=now)


def pace_after_refusal(pace: Pace) -> Pace:
    """Return the pace after a failed publish: the next announcement has a single request."""
    return replace(pace, batch_limit=1)


def pace_after_publish(pace: Pace) -> Pace:
    """Return the pace after a successful publish: the next announcement may be twice as large."""
    limit = 2 * pace.batch_limit
    return replace(pace, batch_limit=limit if limit < BATCH_REQUESTS else 0)


@dataclass(frozen=True)
class ObservedSync:
    """When the last round of sync ended.

    Attributes:
        synced_at: Its end by the clock of the host that ran it, or None if there was no round.
        age: How long ago it ended, by the monotonic clock of this process.
    """

    synced_at: datetime | None
    age: float


def observe_sync(
    previous: ObservedSync | None, synced_at: datetime | None, database_age: float, elapsed: float
) -> ObservedSync:
    """Return how long ago the last round of sync ended, even if the hosts' clocks disagree.

    Args:
        previous: The result of the previous call, or None for the first.
        synced_at: When a round last ended, by the clock of the host that ran it.
        database_age: How long ago that was, by the database's clock.
        elapsed: Seconds since the previous call, by the monotonic clock.
    """
    if synced_at is None:
        return ObservedSync(None, float("inf"))
    if previous is None:
        return ObservedSync(synced_at, max(0.0, database_age))
    if previous.synced_at == synced_at:
        return ObservedSync(synced_at, previous.age + elapsed)
    # The round ended between the two calls.
    return ObservedSync(synced_at, min(max(0.0, database_age), elapsed))


def sync_wait(wait: float, can_proceed_unattended: bool) -> float:
    """Return the wait between two rounds of sync."""
    return wait if can_proceed_unattended else SYNC_IDLE_WAIT


def next_sync_wait(wait: float) -> float:
    """Return the wait after the next round. It grows for as long as nothing is emitted."""
    return min(wait * 2, SYNC_WAITS[1])
