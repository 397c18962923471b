"""Close incidents that have received no notification for expire_stale_hours."""

from __future__ import annotations

from sqlalchemy import select, update

from poundcake.config import Config
from poundcake.trail import clock, database
from poundcake.trail.open_work import is_stale
from poundcake.trail.outcomes import EndedBy
from poundcake.trail.schema import alerts
from poundcake.trail.sync_round import SyncRound

_MAX_INCIDENTS = 1000


def expire_incidents(sync_round: SyncRound, config: Config) -> int:
    """Close stale incidents if expire_stale_hours is set.

    Returns:
        The number of incidents that were closed.
    """
    if not config.expire_stale_hours:
        return 0
    closed_count = 0
    with database.reading(sync_round.engine) as connection:
        now = clock.database_now(connection)
        stale_conditions = is_stale(connection, now, config.expire_stale_hours)
        ids = connection.scalars(
            select(alerts.c.id).where(*stale_conditions).limit(_MAX_INCIDENTS)
        ).all()
    for chunk in database.batched(ids):
        with sync_round.writing() as connection:
            # Check again, because a notification may have arrived in the meantime.
            closed_count += connection.execute(
                update(alerts)
                .where(alerts.c.id.in_(chunk), *stale_conditions)
                .values(open_fingerprint=None, closed_at=now, ended_by=EndedBy.EXPIRED)
            ).rowcount
    return closed_count
