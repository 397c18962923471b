"""The number of an attempt to remediate an episode: poundcake_alerts.attempt."""

from __future__ import annotations

from sqlalchemy import Column, Integer

from poundcake.trail.migrations.changes import add_column

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Upgrade the tables to this revision."""
    add_column("poundcake_alerts", Column("attempt", Integer, nullable=False, server_default="1"))
