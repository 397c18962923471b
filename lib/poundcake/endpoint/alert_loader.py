"""Load the alerts to emit, in chunks that fit into memory."""

from __future__ import annotations

from collections import deque
from typing import Sequence

from poundcake.endpoint.recorded import RecordedAlert, UnexplainedAlert
from poundcake.endpoint.tracking_queries import load_alerts
from poundcake.endpoint.tracking_reader import TrackingReader

LOAD_BYTES = 4 << 20
"""Maximum size of the labels in one chunk, in bytes."""


class AlertLoader:
    """Load alerts in the order in which they are emitted, in chunks that fit into memory."""

    def __init__(self, reader: TrackingReader, alerts: Sequence[UnexplainedAlert]):
        self._reader = reader
        self._pending = deque(alerts)
        self._loaded: dict[int, RecordedAlert] = {}

    def get(self, alert_id: int) -> RecordedAlert | None:
        """Return an alert, or None if it was purged. Raises DatabaseError."""
        if alert_id not in self._loaded:
            while self._pending and self._pending[0].id != alert_id:
                self._pending.popleft()
            self._loaded = self._reader.read(load_alerts, self._next_ids())
        return self._loaded.get(alert_id)

    def _next_ids(self) -> list[int]:
        ids: list[int] = []
        remaining = LOAD_BYTES
        while self._pending and (not ids or self._pending[0].size <= remaining):
            alert = self._pending.popleft()
            ids.append(alert.id)
            remaining -= alert.size
        return ids
