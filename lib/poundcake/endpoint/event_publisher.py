"""Publish the events of the outbox as triggers, at least once."""

from __future__ import annotations

from time import monotonic
from typing import Callable

from poundcake.endpoint.dependencies import Dependencies
from poundcake.endpoint.metrics import OTHER
from poundcake.endpoint.triggers import event_payload
from poundcake.trail import outbox
from poundcake.trail.outbox import EndResult, Event, EventKind

CHECK_WAIT = 2.0
"""Seconds between checks for unpublished events."""
_MAX_BATCH_SECONDS = outbox.LEASE.total_seconds() / 2
_MAX_FAILURES_IN_A_ROW = 3
"""After this many failed publishes in a row, the broker is considered down."""


class EventPublisher:
    """Publish the events that no endpoint has published yet."""

    def __init__(self, dependencies: Dependencies, keep_going: Callable[[], bool]):
        """Create a publisher.

        Args:
            dependencies: The objects that the steps of the pipeline share.
            keep_going: Called between events; the step ends early if it returns False.
        """
        self._dependencies = dependencies
        self._keep_going = keep_going
        self._check_at = 0.0

    def publish(self) -> float | None:
        """Publish a batch of events.

        An event that could not be published is retried once its lease has expired.
        """
        if monotonic() < self._check_at:
            return None
        self._dependencies.metrics.create_remediation_series(self._remediation_names())
        reader = self._dependencies.reader
        if not reader.read(outbox.has_claimable_events):
            self._check_at = monotonic() + CHECK_WAIT
            return None
        events = reader.write(outbox.claim, self._dependencies.journal.endpoint_id)
        published_ids, failure = self._publish_all(events)
        if published_ids:
            reader.write(outbox.mark_published, published_ids)
        if failure:
            raise failure
        return 0.0

    def _publish_all(self, events: list[Event]) -> tuple[list[str], Exception | None]:
        """Publish events. Return the ids of those that the broker accepted, and the last error."""
        published_ids: list[str] = []
        failure: Exception | None = None
        failures_in_a_row = 0
        deadline = monotonic() + _MAX_BATCH_SECONDS
        for event in events:
            # The others are published once their lease has expired, by this or another endpoint.
            if not self._keep_going() or monotonic() > deadline:
                break
            try:
                self._publish(event)
            # One event that cannot be published must not hold up the others.
            except Exception as error:
                failure = error
                failures_in_a_row += 1
                if failures_in_a_row >= _MAX_FAILURES_IN_A_ROW:
                    break
            else:
                failures_in_a_row = 0
                published_ids.append(event.id)
        return published_ids, failure

    def _publish(self, event: Event) -> None:
        payload = event_payload(event)
        trigger = f"poundcake.{event.kind}"
        self._dependencies.bus.publish(trigger, payload, str(payload["request_id"]))
        self._dependencies.components.broker.mark_ok()
        if event.kind == EventKind.REMEDIATION_ENDED:
            label = self._metric_label(event.payload["remediation"])
            result = event.payload["result"]
            # Events of earlier releases do not have this field.
            seconds = event.payload.get("seconds_to_clear")
            self._dependencies.metrics.count_remediation(
                label, result, seconds if result == EndResult.CLEARED else None
            )

    def _metric_label(self, remediation: str) -> str:
        """Return the name of a remediation if it is configured, otherwise OTHER.

        A rule may take the name from an alert, and an alert must not be able to create a series.
        """
        return remediation if remediation in self._remediation_names() else OTHER

    def _remediation_names(self) -> set[str]:
        """Return the names of the entries of `remediations` and of the allowed actions."""
        config = self._dependencies.config()
        return {*(entry.name for entry in config.remediations), *config.allowed_actions}
