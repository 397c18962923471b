"""Announce accepted requests in batches, and retry until they are recorded."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta, timezone
from time import monotonic
from typing import Any, Sequence

from poundcake import announcement
from poundcake.announcement import Request
from poundcake.endpoint import native, retry
from poundcake.endpoint.dependencies import Dependencies
from poundcake.endpoint.journal import Entry
from poundcake.endpoint.retry import FailedAttempt, Pace
from poundcake.endpoint.tracking_queries import find_recorded_ids
from poundcake.endpoint.triggers import ANNOUNCE
from poundcake.stackstorm import StackStorm, StackStormError

RECORD = "poundcake.record"
"""The name of the rule that matches announcements, and of the action that the rule runs."""
BATCH_BYTES = 1 << 20
"""Maximum size of a packed announcement, in bytes. A larger request is announced alone."""
POLL_WAITS = (0.05, 0.3)
"""Shortest and longest wait between polls of the tracking database, in seconds."""
LATE_WAIT = 10.0
"""Wait between polls for requests that missed their deadline, in seconds."""


class Batch:
    """An announcement in flight.

    Attributes:
        entries: Its requests that are not recorded yet, by entry id.
        size: The number of requests in it when it was published.
        sent_at: Monotonic time at which it was published.
    """

    def __init__(self, entries: Sequence[Entry], sent_at: float):
        self.entries = {entry.id: entry for entry in entries}
        self.size = len(entries)
        self.sent_at = sent_at


class Announcer:
    """Announce one batch at a time, and re-announce requests that are not recorded in time.

    Attributes:
        stuck_reason: Why the most recent stuck request cannot be recorded.
    """

    def __init__(self, dependencies: Dependencies):
        """Resume the batches that are marked as announced in the journal."""
        self._dependencies = dependencies
        self._in_flight: dict[str, Batch] = {}
        self._pace = Pace()
        self._poll_wait = POLL_WAITS[0]
        self._poll_at = 0.0
        self._poll_late_at = 0.0
        self._prefers_failed = False
        self.stuck_reason = ""
        by_batch: dict[str, list[Entry]] = {}
        for entry in dependencies.journal.announced():
            by_batch.setdefault(entry.batch_id, []).append(entry)
        for batch_id, entries in by_batch.items():
            self._in_flight[batch_id] = Batch(entries, entries[0].state_since)

    # -- the step that polls for recorded requests

    def poll_recorded(self) -> float | None:
        """Find out which announced requests are recorded, and schedule retries of late batches."""
        if not self._in_flight:
            return None
        remaining = self._poll_at - monotonic()
        if remaining > 0:
            return remaining
        unrecorded = [e for batch in self._in_flight.values() for e in batch.entries.values()]
        recorded = self._mark_recorded(unrecorded)
        for batch_id, batch in list(self._in_flight.items()):
            for entry in recorded:
                batch.entries.pop(entry.id, None)
            if not batch.entries:
                del self._in_flight[batch_id]
            elif monotonic() - batch.sent_at > retry.RECORD_WAIT:
                del self._in_flight[batch_id]
                self._retry_missed(batch)
        self._poll_next(POLL_WAITS[0] if recorded else min(self._poll_wait * 1.5, POLL_WAITS[1]))
        return self._poll_wait if self._in_flight else 0.0

    def poll_late(self) -> None:
        """Find out which requests were recorded after their deadline.

        StackStorm executes an announcement late if many workflows are waiting before it. Without
        this poll, its alerts would wait until the request is due again, for up to ten minutes.
        """
        if monotonic() < self._poll_late_at:
            return
        self._poll_late_at = monotonic() + LATE_WAIT
        failed = self._dependencies.journal.failed(retry.BATCH_REQUESTS)
        if failed:
            self._mark_recorded(failed)

    def _mark_recorded(self, entries: Sequence[Entry]) -> list[Entry]:
        """Mark the requests that are in the tracking database as recorded, and return them."""
        request_ids = self._dependencies.reader.read(find_recorded_ids, entries)
        self._dependencies.components.database.mark_ok()
        recorded = [entry for entry in entries if entry.id in request_ids]
        if recorded:
            self._dependencies.journal.mark_recorded([entry.id for entry in recorded])
            if self._pace.misses:
                self._dependencies.journal.clear_waits()
            self._pace = retry.pace_after_record(self._pace, monotonic())
            self._dependencies.components.stackstorm.mark_ok()
            self._dependencies.metrics.count_recorded(entry.received_at for entry in recorded)
        return recorded

    def _retry_missed(self, batch: Batch) -> None:
        """Schedule the next announcement of a batch that was not recorded in time."""
        self._dependencies.metrics.announcement_misses.inc()
        entries = list(batch.entries.values())
        plan = retry.plan_missed(self._failed_attempt(entries, batch.size))
        self._schedule(plan, entries)
        if plan.is_stuck:
            self.stuck_reason = explain_not_recorded(self._dependencies.stackstorm)
            return
        self._dependencies.reader.forget_database_id()
        self._pace = retry.pace_after_miss(self._pace, monotonic())
        self._dependencies.components.stackstorm.mark_down(
            explain_not_recorded(self._dependencies.stackstorm)
        )

    def _failed_attempt(self, entries: Sequence[Entry], size: int) -> FailedAttempt:
        # The entry was read before this attempt, so state_since is when the previous one failed.
        first_entry = entries[0]
        return FailedAttempt(
            size, first_entry.attempts, self._pace.recorded_at > first_entry.state_since
        )

    def _schedule(self, plan: retry.RetryPlan, entries: Sequence[Entry]) -> None:
        ids = [entry.id for entry in entries]
        wait = retry.jittered(plan.wait)
        self._dependencies.journal.mark_missed(ids, wait, plan.batch_limit, plan.is_stuck)

    # -- the step that announces

    def announce(self) -> float | None:
        """Publish the next batch, unless one is still in flight."""
        if self._in_flight:
            return None
        remaining = self._pace.next_at - monotonic()
        if remaining > 0:
            return remaining
        entries = self._next_batch()
        if not entries:
            return None
        # A batch that missed its deadline may have been recorded since.
        if entries[0].attempts and self._mark_recorded(entries):
            return 0.0
        batch_id = str(uuid.uuid4())
        database_id = self._dependencies.reader.database_id()
        requests = self._dependencies.journal.load_requests(entries)
        try:
            offset = self._dependencies.reader.clock_offset()
            payload = pack_batch(requests, database_id, batch_id, offset)
            entries = entries[: payload["count"]]
            self._dependencies.bus.publish(ANNOUNCE, payload, batch_id)
        except Exception as error:
            self._retry_refused(entries, error)
            raise
        self._dependencies.components.broker.mark_ok()
        self._pace = retry.pace_after_publish(self._pace)
        self._dependencies.journal.mark_announced([entry.id for entry in entries], batch_id)
        self._in_flight[batch_id] = Batch(entries, monotonic())
        self._poll_next(POLL_WAITS[0])
        return self._poll_wait

    def _next_batch(self) -> list[Entry]:
        """Return the next batch.

        Failed and fresh requests take turns, so that neither kind holds up the other.
        """
        self._prefers_failed = not self._prefers_failed
        journal, limit = self._dependencies.journal, self._pace.batch_requests
        if self._prefers_failed:
            return journal.next_failed_batch(limit) or journal.next_fresh_batch(limit)
        return journal.next_fresh_batch(limit) or journal.next_failed_batch(limit)

    def _retry_refused(self, entries: list[Entry], error: Exception) -> None:
        """Schedule the retry of a batch that could not be published.

        Either the broker is down or one of the requests cannot be published. The next batch is a
        single request. If that request fails as well, it backs off and the next one is tried.
        """
        if len(entries) == 1:
            plan = retry.plan_refused(self._failed_attempt(entries, 1))
            self._schedule(plan, entries)
            if plan.is_stuck:
                self.stuck_reason = f"it cannot be published: {error}"
        self._pace = retry.pace_after_refusal(self._pace)

    def _poll_next(self, wait: float) -> None:
        self._poll_wait = wait
        self._poll_at = monotonic() + wait


def pack_batch(
    requests: Sequence[Request], database_id: str, batch_id: str, clock_offset: float
) -> dict[str, Any]:
    """Return the payload of poundcake.announce for the first of these requests.

    The number of requests is halved until the packed payload has at most BATCH_BYTES. A single
    request is announced whatever its size.
    """
    while True:
        payload: dict[str, Any] = native.run_in_native_thread(
            announcement.pack, requests, database_id, batch_id, clock_offset
        )
        if len(payload["batch"]) <= BATCH_BYTES or len(requests) == 1:
            return payload
        requests = requests[: len(requests) // 2]


def explain_not_recorded(stackstorm: StackStorm) -> str:
    """Return a sentence that says why announced requests are not recorded."""
    since = datetime.now(timezone.utc) - timedelta(seconds=2 * retry.RECORD_WAIT)
    try:
        reason = (
            stackstorm.find_rule_problem(RECORD, RECORD)
            or stackstorm.describe_stuck_execution(RECORD, since)
            or stackstorm.find_last_failure(RECORD, since)
        )
    except StackStormError as error:
        return f"announced requests are not recorded, and StackStorm's API gives no reason: {error}"
    return f"announced requests are not recorded: {reason or 'StackStorm gives no reason'}"
