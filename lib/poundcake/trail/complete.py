"""Mark requests as completed once their alerts are explained and their executions have ended."""

from __future__ import annotations

from sqlalchemy import exists, select, update

from poundcake.execution_status import TERMINAL
from poundcake.trail import database
from poundcake.trail.clock import database_now
from poundcake.trail.open_work import is_unexplained
from poundcake.trail.schema import alerts, api_calls, executions, links
from poundcake.trail.sync_round import SyncRound

_MAX_REQUESTS = 10_000


def complete_requests(sync_round: SyncRound) -> int:
    """Set completed_at on requests with no unexplained alerts and no running executions.

    Returns:
        The number of requests that were completed.
    """
    has_unexplained_alert = exists().where(alerts.c.api_call_id == api_calls.c.id, is_unexplained())
    has_running_execution = exists().where(
        links.c.request_id == api_calls.c.request_id,
        executions.c.id == links.c.st2_execution_id,
        executions.c.status.not_in(TERMINAL),
    )
    finished_ids = select(api_calls.c.id).where(
        api_calls.c.completed_at.is_(None), ~has_unexplained_alert, ~has_running_execution
    )
    # Select the ids before the update. On MariaDB, a single UPDATE with these conditions could
    # complete a request that is being recorded, because its subqueries would not see the request's
    # alerts yet.
    with database.reading(sync_round.engine) as connection:
        ids = connection.scalars(finished_ids.order_by(api_calls.c.id).limit(_MAX_REQUESTS)).all()
    for chunk in database.batched(ids):
        with sync_round.writing() as connection:
            connection.execute(
                update(api_calls)
                .where(api_calls.c.id.in_(chunk), api_calls.c.completed_at.is_(None))
                .values(completed_at=database_now(connection))
            )
    return len(ids)
