"""Claim requests that another endpoint may also have, so that only one endpoint emits them."""

from __future__ import annotations

from time import monotonic
from typing import Sequence

from poundcake.endpoint.tracking_reader import TrackingReader
from poundcake.trail import emissions
from poundcake.trail.database import DatabaseError

EXTEND_SECONDS = 200.0
"""Age in seconds at which a claim is extended. A claim expires after 10 minutes."""


class EmissionClaims:
    """The claims that this endpoint holds in the tracking database.

    Attributes:
        problem: Why the last attempt to claim or extend failed, or '' if it succeeded.
    """

    def __init__(self, reader: TrackingReader, endpoint_id: str):
        self._reader = reader
        self.endpoint_id = endpoint_id
        self.problem = ""
        # {request_id: monotonic time at which its claim was made or last extended}
        self._claimed_at: dict[str, float] = {}

    def claim(self, request_ids: Sequence[str]) -> set[str]:
        """Claim requests or extend their claims. Return those that this endpoint may emit now."""
        now = monotonic()
        fresh_ids = {id_ for id_ in request_ids if self._is_fresh(id_, now)}
        ids_to_claim = [id_ for id_ in request_ids if id_ not in fresh_ids]
        if not ids_to_claim:
            return fresh_ids
        try:
            granted_ids = self._reader.write(emissions.claim, ids_to_claim, self.endpoint_id)
        except DatabaseError as error:
            self.problem = f"requests that another endpoint may emit cannot be claimed: {error}"
            return fresh_ids
        self.problem = ""
        # Forget old claims that were not extended, because their requests are done.
        fresh_claims = {id_: at for id_, at in self._claimed_at.items() if self._is_fresh(id_, now)}
        self._claimed_at = {**fresh_claims, **dict.fromkeys(granted_ids, now)}
        return fresh_ids | granted_ids

    def _is_fresh(self, request_id: str, now: float) -> bool:
        claimed_at = self._claimed_at.get(request_id)
        return claimed_at is not None and now - claimed_at < EXTEND_SECONDS
