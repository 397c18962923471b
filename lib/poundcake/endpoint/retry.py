"""Plan retries: when a step runs again, and how much it may take on then.

Pure functions on small values; who calls them keeps the time and the journal. Durations are in
seconds.

An announcement that is not recorded in time comes again after a doubled wait, halved after its
second miss, so that one request that cannot be recorded ends alone and is called stuck. While
nothing at all is recorded, announcements are rare: RabbitMQ keeps every copy, and each is executed
later.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import datetime

BATCH_REQUESTS = 500
"""Requests in one announcement, at most."""
RECORD_WAIT = 30.0
"""How long an announcement may take to be recorded before it is announced again."""
STUCK_WAIT = 600.0
"""Between announcements of a stuck request, and the longest wait of any other."""
OUTAGE_WAIT = 60.0
"""The longest pause between announcements while nothing is recorded."""
EMIT_WAITS = (60.0, 3600.0)
"""Before alerts that StackStorm lost are emitted again: the first wait and the longest."""
REFUSED_WAITS = (1.0, 60.0)
"""Before what could not be published is tried again: the first wait and the longest."""
FAILURE_WAITS = (1.0, 30.0)
"""Before a step that failed as a whole runs again: the first and the longest."""
SYNC_WAITS = (5.0, 60.0)
"""Between rounds of sync while something moves: after an emission, and at last."""
SYNC_IDLE_WAIT = 600.0
"""Between rounds of sync while everything waits for people."""

_MOST_DOUBLINGS = 16


def doubled(waits: tuple[float, float], times: int) -> float:
    """Return the first of two waits, doubled `times` times, but not more than the second."""
    return min(waits[0] * 2.0 ** min(times, _MOST_DOUBLINGS), waits[1])


def jittered(wait: float) -> float:
    """Return a wait shortened by up to a tenth, so that not all retries come at one moment."""
    return wait * random.uniform(0.9, 1.0)


@dataclass(frozen=True)
class FailedAttempt:
    """A batch whose announcement failed.

    size: how many requests were announced together. attempts: earlier failures of the first of
    them. others_recorded: whether other requests were recorded since that one failed last.
    """

    size: int
    attempts: int
    others_recorded: bool


@dataclass(frozen=True)
class RetryPlan:
    """When the requests of a failed batch are announced again, and how many together.

    A size of 0 means any number. `is_stuck` is true if the batch is one request that fails while
    others do not.
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

    The first failure says little, because the broker may have been away; after the second the
    request goes alone.
    """
    if _is_stuck(failed):
        return RetryPlan(STUCK_WAIT, 1, True)
    limit = 0 if failed.attempts < 1 else 1
    return RetryPlan(doubled(REFUSED_WAITS, failed.attempts), limit, False)


def _is_stuck(failed: FailedAttempt) -> bool:
    return failed.size == 1 and failed.attempts > 0 and failed.others_recorded


@dataclass(frozen=True)
class Pace:
    """How fast requests may be announced. Times are of the monotonic clock.

    next_at: when the next announcement may go out. misses: announcements that were not recorded in
    time since anything was last recorded. batch_limit: how many requests the next one may carry.
    recorded_at: when anything was last recorded.
    """

    next_at: float = 0.0
    misses: int = 0
    batch_limit: int = 0
    recorded_at: float = float("-inf")

    @property
    def batch_requests(self) -> int:
        """How many requests the next announcement may carry."""
        return min(self.batch_limit or BATCH_REQUESTS, BATCH_REQUESTS)


def pace_after_miss(pace: Pace, now: float) -> Pace:
    """Return the pace after an announcement was not recorded in time."""
    wait = doubled((RECORD_WAIT, OUTAGE_WAIT), pace.misses)
    return replace(pace, misses=pace.misses + 1, next_at=now + wait)


def pace_after_record(pace: Pace, now: float) -> Pace:
    """Return the pace after requests were seen to be recorded: nothing has to wait any more."""
    return replace(pace, misses=0, next_at=0.0 if pace.misses else pace.next_at, recorded_at=now)


def pace_after_refusal(pace: Pace) -> Pace:
    """Return the pace after the broker did not take a batch: try with a single request."""
    return replace(pace, batch_limit=1)


def pace_after_publish(pace: Pace) -> Pace:
    """Return the pace after the broker took a batch: the next may be twice as large."""
    limit = 2 * pace.batch_limit
    return replace(pace, batch_limit=limit if limit < BATCH_REQUESTS else 0)


@dataclass(frozen=True)
class SyncSeen:
    """What was last seen of sync. age: how long ago its last round ended, by our own count."""

    synced_at: datetime | None
    age: float


def see_sync(
    seen: SyncSeen | None, synced_at: datetime | None, claimed_age: float, elapsed: float
) -> SyncSeen:
    """Return how long ago the last round of sync ended, whatever the clocks of other hosts say.

    Args:
        seen: What was seen at the last look, None at the first.
        synced_at: When a round last ended, by the clock of the host that wrote it.
        claimed_age: How long ago that is by the clock of the reader.
        elapsed: Since the last look, by the monotonic clock.
    """
    if synced_at is None:
        return SyncSeen(None, float("inf"))
    if seen is None:
        return SyncSeen(synced_at, max(0.0, claimed_age))
    if seen.synced_at == synced_at:
        return SyncSeen(synced_at, seen.age + elapsed)
    # It ended between the two looks.
    return SyncSeen(synced_at, min(max(0.0, claimed_age), elapsed))


def sync_wait(wait: float, moves_by_itself: bool) -> float:
    """Return the pause between two rounds of sync."""
    return wait if moves_by_itself else SYNC_IDLE_WAIT


def next_sync_wait(wait: float) -> float:
    """Return the pause after the next round, which is longer the longer nothing is emitted."""
    return min(wait * 1.5, SYNC_WAITS[1])
