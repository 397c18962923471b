"""Emit the triggers of recorded requests, and re-emit those that StackStorm lost.

A request that cannot be emitted backs off and is retried without holding up the others. The retry
skips the triggers that were already published.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic
from typing import Callable, Mapping, Sequence

from sqlalchemy.engine import Connection

from poundcake.endpoint import retry, triggers
from poundcake.endpoint.alert_loader import AlertLoader
from poundcake.endpoint.bus import BusError
from poundcake.endpoint.dependencies import Dependencies
from poundcake.endpoint.emission_claims import EmissionClaims
from poundcake.endpoint.emission_plan import Emission, PlannedTrigger, plan_emission
from poundcake.endpoint.health import State
from poundcake.endpoint.journal import Entry, JournalError
from poundcake.endpoint.recorded import RecordedRequest, Summary
from poundcake.endpoint.tracking_queries import (
    find_recorded_ids,
    load_recorded_requests,
    load_summaries,
)
from poundcake.trail.database import DatabaseError

PAGE_REQUESTS = 500
RECHECK_WAIT = 5.0
"""Seconds between checks of whether the alerts of a request are explained."""
_MAX_FAILURES_IN_A_ROW = 3
"""After this many failed publishes in a row, the broker is considered down."""


@dataclass
class Attempt:
    """The progress of an emission that is not complete.

    Attributes:
        sent_at: When each trigger was last published, by the monotonic clock.
        is_counted: Whether all triggers were published and counted in the metrics, so that only
            the journal remains to be updated.
        failures: Failed attempts in a row.
        error: The error of the last failed attempt.
        logged_error: The error that was last logged.
    """

    sent_at: dict[PlannedTrigger, float] = field(default_factory=dict)
    is_counted: bool = False
    failures: int = 0
    error: str = ""
    logged_error: str = ""


class Emitter:
    """Publish the triggers of recorded requests."""

    def __init__(
        self,
        dependencies: Dependencies,
        keep_going: Callable[[], bool],
        on_emitted: Callable[[], None],
    ):
        """Create an emitter.

        Args:
            dependencies: The objects that the steps of the pipeline share.
            keep_going: Called between triggers; the step ends early if it returns False.
            on_emitted: Called after alerts have been published.
        """
        self._dependencies = dependencies
        self._keep_going = keep_going
        self._on_emitted = on_emitted
        self._claims = EmissionClaims(dependencies.reader, dependencies.journal.endpoint_id)
        # {entry id: the progress of an emission that is not complete}
        self._attempts: dict[int, Attempt] = {}
        self._failures_in_a_row = 0

    def problem(self) -> str:
        """Return a sentence about requests that cannot be emitted, or '' if there are none."""
        failed_attempts = [attempt for attempt in self._attempts.values() if attempt.failures]
        if not failed_attempts:
            return self._claims.problem
        requests = "1 request" if len(failed_attempts) == 1 else f"{len(failed_attempts)} requests"
        return f"the triggers of {requests} cannot be published: {failed_attempts[-1].error}"

    def emit(self) -> float | None:
        """Emit the due triggers of one page of recorded requests."""
        entries = self._dependencies.journal.due_recorded(PAGE_REQUESTS)
        if not entries:
            return None
        requests = self._dependencies.reader.read(_read_page, entries)
        self._dependencies.components.database.mark_ok()
        missing_entries = [entry for entry in entries if entry.id not in requests]
        if missing_entries:
            self._announce_again(missing_entries)
        plans = [
            plan_emission(entry, requests[entry.id], self._claims.endpoint_id, monotonic())
            for entry in entries
            if entry.id in requests
        ]
        done_entries = [p.entry for p in plans if p.is_empty and not p.request.unexplained_alerts]
        if done_entries:
            self._mark_done(done_entries)
        waiting_plans = [
            plan for plan in plans if plan.is_empty and plan.request.unexplained_alerts
        ]
        due_plans = [plan for plan in plans if not plan.is_empty]
        claimed_ids = self._claim([*waiting_plans, *due_plans])
        unclaimed_plans = [plan for plan in due_plans if plan.entry.id not in claimed_ids]
        self._postpone([plan.entry for plan in waiting_plans + unclaimed_plans])
        self._publish([plan for plan in due_plans if plan.entry.id in claimed_ids])
        return 0.0

    def _announce_again(self, entries: Sequence[Entry]) -> None:
        """Re-announce requests that are no longer in the tracking database.

        An operator may have restored the database from an older backup.
        """
        self._dependencies.journal.mark_missed([entry.id for entry in entries], 0.0, 0)
        self._end_attempts(entries)

    def _mark_done(self, entries: Sequence[Entry]) -> None:
        self._dependencies.journal.mark_done([entry.id for entry in entries])
        self._end_attempts(entries)

    def _postpone(self, entries: Sequence[Entry]) -> None:
        """Postpone the next check of requests that have nothing to publish now."""
        self._dependencies.journal.postpone([entry.id for entry in entries], RECHECK_WAIT)
        self._end_attempts(entries)

    def _end_attempts(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._attempts.pop(entry.id, None)

    def _claim(self, plans: Sequence[Emission]) -> set[int]:
        """Claim requests that need it. Return the entry ids of all that may be emitted now."""
        ids_to_claim = [plan.request.request_id for plan in plans if plan.needs_claim]
        granted_ids = self._claims.claim(ids_to_claim)
        return {
            plan.entry.id
            for plan in plans
            if not plan.needs_claim or plan.request.request_id in granted_ids
        }

    def _publish(self, plans: Sequence[Emission]) -> None:
        """Publish the due triggers. A request that fails does not hold up the others."""
        call_ids = [plan.request.call_id for plan in plans if plan.is_first]
        summaries_by_call = (
            self._dependencies.reader.read(load_summaries, call_ids) if call_ids else {}
        )
        loader = AlertLoader(self._dependencies.reader, [a for plan in plans for a in plan.alerts])
        self._failures_in_a_row = 0
        for plan in plans:
            summary = summaries_by_call.get(plan.request.call_id, Summary())
            if not self._publish_one(plan, summary, loader):
                return
        if self._failures_in_a_row:
            # Find out whether the broker or the last request is at fault.
            self._dependencies.broker.check()

    def _publish_one(self, plan: Emission, summary: Summary, loader: AlertLoader) -> bool:
        """Publish the remaining triggers of one request. Return False if it was interrupted."""
        if plan.needs_claim and not self._claims.claim([plan.request.request_id]):
            return True  # the claim has expired; the next check tries again
        attempt = self._attempts.setdefault(plan.entry.id, Attempt())
        lost_ids = plan.lost_ids
        failure: Exception | None = None
        for planned in plan.planned_triggers(summary):
            if not _is_due(planned, lost_ids, attempt):
                continue
            if not self._keep_going():
                return False
            try:
                self._send(planned, plan.request, summary, loader)
                attempt.sent_at[planned] = monotonic()
            except (DatabaseError, JournalError):
                raise
            except Exception as error:
                failure = error
                self._failures_in_a_row += isinstance(error, BusError)
                if self._is_broker_down():
                    break
        if failure is None:
            self._complete(plan, attempt, summary)
            return True
        self._schedule_retry(plan, attempt, failure)
        if self._is_broker_down():
            raise failure
        return True

    def _send(
        self,
        planned: PlannedTrigger,
        request: RecordedRequest,
        summary: Summary,
        loader: AlertLoader,
    ) -> None:
        payload: Mapping[str, object]
        if planned.trigger == triggers.WEBHOOK:
            payload = triggers.webhook_payload(request, summary)
        elif planned.trigger == triggers.LIMIT_REACHED:
            limited = next(alert for alert in summary.limited_alerts if alert.id == planned.row_id)
            payload = triggers.limit_reached_payload(request, limited)
        else:
            alert = loader.get(planned.row_id)
            if alert is None:
                return  # it was purged
            remediations = self._dependencies.config().remediations
            payload = triggers.alert_payload(request, alert, remediations)
        self._dependencies.bus.publish(planned.trigger, dict(payload), request.request_id)
        self._dependencies.components.broker.mark_ok()
        self._failures_in_a_row = 0

    def _is_broker_down(self) -> bool:
        return self._failures_in_a_row >= _MAX_FAILURES_IN_A_ROW

    def _complete(self, plan: Emission, attempt: Attempt, summary: Summary) -> None:
        if not attempt.is_counted:
            self._dependencies.metrics.count_emission(
                dict(summary.outcomes),
                len(plan.alerts),
                is_repeat=not plan.is_first,
                received_at=plan.entry.received_at,
            )
            attempt.is_counted = True
        if not plan.request.unexplained_alerts:
            self._mark_done([plan.entry])
            return
        wait = retry.doubled(retry.EMIT_WAITS, plan.entry.attempts)
        self._dependencies.journal.mark_emitted([plan.entry.id], RECHECK_WAIT, wait)
        self._attempts.pop(plan.entry.id, None)
        self._on_emitted()

    def _schedule_retry(self, plan: Emission, attempt: Attempt, error: Exception) -> None:
        """Schedule the next attempt, and log the reason if it is new."""
        wait = retry.jittered(retry.doubled(retry.REFUSED_WAITS, attempt.failures))
        attempt.failures += 1
        attempt.error = str(error) or type(error).__name__
        if self._is_news(attempt, error):
            attempt.logged_error = attempt.error
            self._dependencies.log.warning(
                "request %s: its triggers cannot be published, retrying at least every %.0f s: %s",
                plan.request.request_id,
                retry.REFUSED_WAITS[-1],
                attempt.error,
                exc_info=not isinstance(error, BusError),
            )
        self._dependencies.journal.postpone([plan.entry.id], wait)

    def _is_news(self, attempt: Attempt, error: Exception) -> bool:
        """Return True if a failed attempt is to be logged.

        While the broker is down, every request fails, and the component `broker` has logged why.
        The first failure may be the first sign of that.
        """
        if attempt.error == attempt.logged_error:
            return False
        is_broker_down = self._dependencies.components.broker.state == State.DOWN
        return not isinstance(error, BusError) or (attempt.failures > 1 and not is_broker_down)


def _is_due(planned: PlannedTrigger, lost_ids: set[int], attempt: Attempt) -> bool:
    """Return True if a trigger is unpublished, or is due again because its alert was lost.

    The second case matters for a request whose emission never completes, because one of its
    triggers cannot be published.
    """
    sent_at = attempt.sent_at.get(planned)
    if sent_at is None:
        return True
    is_lost = planned.trigger == triggers.ALERT and planned.row_id in lost_ids
    return is_lost and monotonic() - sent_at >= retry.doubled(retry.EMIT_WAITS, attempt.failures)


def _read_page(connection: Connection, entries: Sequence[Entry]) -> dict[int, RecordedRequest]:
    """Return the recorded requests by entry id."""
    request_ids = find_recorded_ids(connection, entries)
    requests = load_recorded_requests(connection, list(request_ids.values()))
    return {
        entry_id: requests[request_id]
        for entry_id, request_id in request_ids.items()
        if request_id in requests
    }
