"""Find open incidents in the default SQLite file after `database_url` was set.

If the trail was not moved, these incidents are unknown to the new database, so their alerts would
be remediated again.
"""

from __future__ import annotations

import os
from typing import NamedTuple, Sequence

from sqlalchemy import select
from sqlalchemy.engine import Connection, Engine

from poundcake.config import Config
from poundcake.trail import database
from poundcake.trail.database import holds
from poundcake.trail.errors import DatabaseError
from poundcake.trail.open_work import is_open
from poundcake.trail.schema import alerts, api_calls

MIGRATE_COMMAND = "st2 run poundcake.migrate copy_from=sqlite"
"""The command that moves the trail from the default SQLite file to the configured database."""
_MAX_INCIDENTS = 1000


class Pending(NamedTuple):
    """Why an operator has to run poundcake.migrate.

    Attributes:
        migrations: A sentence about pending migrations, or '' if there are none.
        incidents: A sentence about the incidents that the tracking database lacks, or ''.
    """

    migrations: str = ""
    incidents: str = ""

    def __str__(self) -> str:
        """Return both sentences, or '' if nothing is pending."""
        return "; ".join(filter(None, self))


def find_open_requests_in_default_file(config: Config, engine: Engine) -> list[str]:
    """Return the request_ids of incidents that are open in an unused default SQLite file.

    Args:
        config: The configuration.
        engine: The tracking database.

    Returns:
        At most 1000 request_ids. The list is empty if the file is the tracking database, if its
        trail was moved, or if it does not exist or cannot be read.
    """
    if not _has_unused_default_file(config, engine):
        return []
    default_engine = database.open_engine(config.default_tracking_url, read_only=True)
    try:
        with database.reading(default_engine) as connection:
            if holds.read_marks(connection):
                return []
            return list(
                connection.scalars(
                    select(api_calls.c.request_id)
                    .join(alerts, alerts.c.api_call_id == api_calls.c.id)
                    .where(is_open())
                    .limit(_MAX_INCIDENTS)
                )
            )
    except DatabaseError:
        return []
    finally:
        default_engine.dispose()


def _has_unused_default_file(config: Config, engine: Engine) -> bool:
    """Return True if the default SQLite file exists, and is not the tracking database."""
    path = config.default_tracking_path
    is_in_use = engine.dialect.name == "sqlite" and engine.url.database == path
    return not is_in_use and os.path.isfile(path)


def read_pending(connection: Connection, config: Config, request_ids: Sequence[str]) -> Pending:
    """Return why an operator has to run poundcake.migrate.

    Args:
        connection: The tracking database.
        config: The configuration.
        request_ids: The result of find_open_requests_in_default_file().
    """
    return Pending(
        database.pending(connection), _describe_missing_incidents(connection, config, request_ids)
    )


def _describe_missing_incidents(
    connection: Connection, config: Config, request_ids: Sequence[str]
) -> str:
    known_ids: set[str] = set()
    for chunk in database.batched(sorted(set(request_ids))):
        column = api_calls.c.request_id
        known_ids.update(connection.scalars(select(column).where(column.in_(chunk))))
    count = sum(request_id not in known_ids for request_id in request_ids)
    if not count:
        return ""
    at_least = "at least " if len(request_ids) == _MAX_INCIDENTS else ""
    incidents = "1 open incident" if count == 1 else f"{at_least}{count} open incidents"
    return (
        f"{config.default_tracking_path} has {incidents} that this database does not have: run "
        f"`{MIGRATE_COMMAND}`, or move the file away to ignore them"
    )


def refuse_empty_database(config: Config, engine: Engine) -> None:
    """Raise DatabaseError if nothing is recorded yet, but the default SQLite file has incidents.

    Alertmanager repeats the notifications of those incidents, and this database would treat them as
    new.

    Args:
        config: The configuration.
        engine: The tracking database, with its tables.
    """
    if not _has_unused_default_file(config, engine):
        return
    with database.reading(engine) as connection:
        if connection.scalar(select(api_calls.c.id).limit(1)) is not None:
            return
        request_ids = find_open_requests_in_default_file(config, engine)
        if request_ids:
            raise DatabaseError(
                "nothing was recorded, because the database is new and "
                f"{_describe_missing_incidents(connection, config, request_ids)}"
            )
