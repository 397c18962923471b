"""Request a sync, which polls StackStorm for outcomes, while any alert or execution is open."""

from __future__ import annotations

import uuid
from time import monotonic

from poundcake.endpoint import retry
from poundcake.endpoint.dependencies import Dependencies
from poundcake.endpoint.retry import ObservedSync
from poundcake.endpoint.triggers import SYNC_DUE, SyncDuePayload
from poundcake.trail.open_work import OpenWork, open_work


class SyncTimer:
    """Publish poundcake.sync_due soon after an emission, then at growing intervals."""

    def __init__(self, dependencies: Dependencies):
        self._dependencies = dependencies
        self._wait = retry.SYNC_WAITS[0]
        self._check_at = 0.0
        self._is_idle = False
        self._last_sync: ObservedSync | None = None
        self._observed_at = 0.0
        self._requested_at = float("-inf")
        # The first request that no round of sync has followed yet.
        self._unanswered_since: float | None = None

    def sync_soon(self) -> None:
        """Return to the shortest wait, because alerts were emitted."""
        self._wait = retry.SYNC_WAITS[0]
        first_check_at = monotonic() + self._wait
        # While nothing was open, the next check was not planned for these alerts.
        self._check_at = first_check_at if self._is_idle else min(self._check_at, first_check_at)
        self._is_idle = False

    def request_sync(self) -> float | None:
        """Publish the trigger if work is open and the last round of sync was long enough ago.

        While results only have to be confirmed, rounds are less frequent, so that one of them
        serves the alerts of several notifications.
        """
        remaining = self._check_at - monotonic()
        if remaining > 0:
            return remaining
        config = self._dependencies.config()
        work = self._dependencies.reader.read(
            open_work,
            config.expire_stale_hours,
            bool(config.alertmanagers),
            config.not_cleared_minutes,
            config.approval_minutes,
        )
        self._dependencies.components.database.mark_ok()
        self._report_monitoring(work.monitoring_problem)
        last_sync = self._observe_last_sync(work)
        self._report_lateness(work)
        self._is_idle = not work.count
        if self._is_idle:
            self._check_at = monotonic() + retry.SYNC_WAITS[0]
            return None
        wait = retry.sync_wait(self._wait, work.can_proceed_unattended)
        if work.only_needs_confirmation:
            wait = max(wait, retry.SYNC_CONFIRMATION_WAIT)
        remaining = wait - min(last_sync.age, monotonic() - self._requested_at)
        if remaining <= 0:
            payload = SyncDuePayload(open=work.count)
            self._dependencies.bus.publish(
                SYNC_DUE, dict(payload), f"poundcake-sync-{uuid.uuid4()}"
            )
            self._dependencies.metrics.syncs_requested.inc()
            self._dependencies.components.broker.mark_ok()
            self._wait = retry.next_sync_wait(self._wait)
            self._requested_at = monotonic()
            self._unanswered_since = self._unanswered_since or self._requested_at
            remaining = wait
        # During a long wait, an approval may expire, or work may begin that has no result yet.
        longest_wait = retry.SYNC_WAITS[0 if work.only_needs_confirmation else 1]
        remaining = min(remaining, longest_wait)
        self._check_at = monotonic() + remaining
        return remaining

    def _report_monitoring(self, problem: str) -> None:
        monitoring = self._dependencies.components.monitoring
        if problem:
            monitoring.mark_down(problem)
        else:
            monitoring.mark_ok()

    def _report_lateness(self, work: OpenWork) -> None:
        if not work.count:
            self._unanswered_since = None
        since = self._unanswered_since
        self._dependencies.metrics.sync_lateness.set(0 if since is None else monotonic() - since)

    def _observe_last_sync(self, work: OpenWork) -> ObservedSync:
        now = monotonic()
        database_age = 0.0
        if work.synced_at and work.read_at:
            database_age = (work.read_at - work.synced_at).total_seconds()
        last_sync = retry.observe_sync(
            self._last_sync, work.synced_at, database_age, now - self._observed_at
        )
        if self._last_sync and self._last_sync.synced_at != last_sync.synced_at:
            self._unanswered_since = None
        self._last_sync, self._observed_at = last_sync, now
        return last_sync
