"""The time at which an incident was closed: poundcake_alerts.closed_at."""

from __future__ import annotations

from sqlalchemy import Column, DateTime
from sqlalchemy.dialects import mysql

from poundcake.trail.migrations.changes import add_column

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Upgrade the tables to this revision."""
    moment = DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    add_column("poundcake_alerts", Column("closed_at", moment))
