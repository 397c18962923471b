"""The clocks that the trail uses.

Sensors, action runners and the database server may run on different machines whose clocks disagree.
So all times that are compared with each other come from the database's clock.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from sqlalchemy import func, select
from sqlalchemy.engine import Connection

from poundcake.timestamps import format_timestamp
from poundcake.trail.schema import UtcDateTime

_NOW = select(func.utc_timestamp(6, type_=UtcDateTime))


def database_now(connection: Connection) -> datetime:
    """Return the current time by the database's clock.

    That is the server's clock for MariaDB, and this machine's clock for SQLite.
    """
    if connection.dialect.name == "sqlite":
        return local_now()
    return connection.execute(_NOW).scalar_one()


def local_now() -> datetime:
    """Return the current time by the clock of this machine."""
    return datetime.now(timezone.utc)


def format_deadline(moment: datetime) -> str:
    """Format a time for people, rounded up to a whole second."""
    truncated = moment.replace(microsecond=0)
    return format_timestamp(truncated if truncated == moment else truncated + timedelta(seconds=1))
