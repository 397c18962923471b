"""Complete the requests whose alerts are explained and whose executions have ended."""

from __future__ import annotations

from sqlalchemy import exists, select, update

from poundcake.stackstorm import TERMINAL
from poundcake.trail import database
from poundcake.trail.clock import database_now
from poundcake.trail.open_work import unexplained
from poundcake.trail.schema import alerts, api_calls, executions, links
from poundcake.trail.sync_round import SyncRound

_AT_ONCE = 10_000


def complete_requests(sync_round: SyncRound) -> int:
    """Set completed_at of the requests that no longer wait for anything.

    Returns:
        How many there were.
    """
    waits = exists().where(alerts.c.api_call_id == api_calls.c.id, unexplained())
    runs = exists().where(
        links.c.request_id == api_calls.c.request_id,
        executions.c.id == links.c.st2_execution_id,
        executions.c.status.not_in(TERMINAL),
    )
    done = select(api_calls.c.id).where(api_calls.c.completed_at.is_(None), ~waits, ~runs)
    # Read first: an UPDATE with these conditions takes the row of a request whose record ends at
    # this moment, and on MariaDB does not see its alerts, because its subqueries read older rows.
    with database.reading(sync_round.engine) as connection:
        ids = connection.scalars(done.order_by(api_calls.c.id).limit(_AT_ONCE)).all()
    for some in database.batched(ids):
        with sync_round.writing() as connection:
            connection.execute(
                update(api_calls)
                .where(api_calls.c.id.in_(some), api_calls.c.completed_at.is_(None))
                .values(completed_at=database_now(connection))
            )
    return len(ids)
