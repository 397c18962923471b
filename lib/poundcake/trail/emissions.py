"""Claim requests that several endpoints have, so that only one endpoint emits each of them.

Every endpoint finds a replayed request in the database, and a client that chooses the request's id
may send it to several endpoints. Each endpoint claims such a request before emitting it, and
extends the claim while the request is open. It also claims a request before it emits lost alerts
again, so that another endpoint takes the request over only if this endpoint is gone.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Sequence

from sqlalchemy import or_, select, update
from sqlalchemy.engine import Connection, Engine

from poundcake.trail import clock, database
from poundcake.trail.schema import api_calls

LEASE = timedelta(minutes=10)
"""How long a claim lasts, by the database's clock, unless the endpoint extends it."""


def claim(engine: Engine, request_ids: Sequence[str], endpoint_id: str) -> set[str]:
    """Claim requests that an endpoint is about to emit, or extend its claims, in one transaction.

    Args:
        engine: The tracking database, with its tables.
        request_ids: The ids of recorded requests.
        endpoint_id: The unique id of the endpoint, at most 36 characters.

    Returns:
        The ids of the requests that the endpoint may emit until LEASE has passed. Each was
        unclaimed, already claimed by this endpoint, or claimed by another endpoint whose claim had
        expired.

    Raises:
        DatabaseError: The database is unavailable.
    """
    # Sort the ids, because endpoints that lock rows in different orders could deadlock.
    sorted_ids = sorted(set(request_ids))
    return database.retry_deadlocks(lambda: _claim(engine, sorted_ids, endpoint_id))


def _claim(engine: Engine, request_ids: Sequence[str], endpoint_id: str) -> set[str]:
    claimed_ids: set[str] = set()
    with database.transaction(engine) as connection:
        for chunk in database.batched(request_ids):
            claimed_ids.update(_claim_chunk(connection, chunk, endpoint_id))
    return claimed_ids


def _claim_chunk(
    connection: Connection, request_ids: Sequence[str], endpoint_id: str
) -> Sequence[str]:
    now = clock.database_now(connection)
    connection.execute(
        update(api_calls)
        .where(
            api_calls.c.request_id.in_(request_ids),
            or_(
                api_calls.c.emitter.is_(None),
                api_calls.c.emitter == endpoint_id,
                api_calls.c.emitter_until <= now,
            ),
        )
        .values(emitter=endpoint_id, emitter_until=now + LEASE)
    )
    return connection.scalars(
        select(api_calls.c.request_id).where(
            api_calls.c.request_id.in_(request_ids), api_calls.c.emitter == endpoint_id
        )
    ).all()
