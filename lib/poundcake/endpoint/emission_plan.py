"""Decide which triggers of a recorded request to publish now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, NamedTuple

from poundcake.endpoint import triggers
from poundcake.endpoint.journal import Entry
from poundcake.endpoint.recorded import RecordedRequest, Summary, UnexplainedAlert


class PlannedTrigger(NamedTuple):
    """One trigger of a request.

    Attributes:
        trigger: The reference of the trigger.
        row_id: The row id of the trigger's alert, or 0 for the trigger of a whole request.
    """

    trigger: str
    row_id: int


@dataclass(frozen=True)
class Emission:
    """The triggers of a request to publish now.

    Attributes:
        entry: The request in the journal.
        request: The request in the tracking database.
        is_first: Whether this is the first emission of the request, which also publishes the
            triggers of the whole request.
        alerts: The alerts to emit.
    """

    entry: Entry
    request: RecordedRequest
    is_first: bool
    alerts: list[UnexplainedAlert]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to publish."""
        return not self.is_first and not self.alerts

    @property
    def needs_claim(self) -> bool:
        """Whether another endpoint may emit the request as well, so that it has to be claimed.

        Another endpoint takes over a request whose alerts are lost and that nobody claims.
        """
        is_lost = any(alert.is_lost for alert in self.request.unexplained_alerts)
        return self.entry.is_shared or bool(self.request.emitter) or is_lost

    @property
    def lost_ids(self) -> set[int]:
        """The row ids of the alerts that StackStorm lost."""
        return {alert.id for alert in self.alerts if alert.is_lost}

    def planned_triggers(self, summary: Summary) -> Iterator[PlannedTrigger]:
        """Yield the triggers to publish, in order."""
        if self.is_first:
            yield PlannedTrigger(triggers.WEBHOOK, 0)
            for limited_alert in summary.limited_alerts:
                yield PlannedTrigger(triggers.LIMIT_REACHED, limited_alert.id)
        for alert in self.alerts:
            yield PlannedTrigger(triggers.ALERT, alert.id)


def plan_emission(entry: Entry, request: RecordedRequest, endpoint_id: str, now: float) -> Emission:
    """Return the triggers of a request to publish now.

    Args:
        entry: The request in the journal.
        request: The request in the tracking database.
        endpoint_id: The id of this endpoint.
        now: The current time of the monotonic clock.
    """
    is_claimed_elsewhere = request.emitter not in ("", endpoint_id)
    if entry.emit_after is None:
        due_alerts = request.unexplained_alerts
    elif entry.emit_after <= now:
        due_alerts = [alert for alert in request.unexplained_alerts if alert.is_lost]
    else:
        due_alerts = []
    # If another endpoint has claimed the request, that one publishes the triggers of the request.
    is_first = entry.emit_after is None and not is_claimed_elsewhere
    return Emission(entry, request, is_first, due_alerts)
