"""Write announced requests and their alerts to the tracking tables."""

from __future__ import annotations

from pack_action import PackAction
from poundcake import announcement
from poundcake.trail.record import RecordCounts, record_requests


class Record(PackAction):
    """Run poundcake.record."""

    def work(
        self,
        version: int,
        database_id: str,
        batch: str,
        announcement_id: str = "",
        count: int = 0,
        clock_offset_seconds: float = 0.0,
    ) -> RecordCounts:
        """Record a batch, and return the counts of new, known and failed requests and of outcomes.

        announcement_id and count are informational, for people who read the execution.
        """
        requests = announcement.unpack(version, batch)
        return record_requests(
            self.engine(), self.settings, requests, database_id, clock_offset_seconds
        )
