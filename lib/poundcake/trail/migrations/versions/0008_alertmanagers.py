"""Columns for an incident's Alertmanager, its silence, and since when its alert is missing."""

from __future__ import annotations

from sqlalchemy import Column, DateTime, String
from sqlalchemy.dialects import mysql

from poundcake.trail.migrations.changes import add_column

revision = "0008"
down_revision = "0006"

ALERTS = "poundcake_alerts"
_Moment = DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def upgrade() -> None:
    """Upgrade the tables to this revision."""
    add_column(ALERTS, Column("external_url", String(512), nullable=False, server_default=""))
    add_column(ALERTS, Column("missing_since", _Moment))
    add_column(ALERTS, Column("silence_id", String(64)))
    add_column(ALERTS, Column("silenced_by", String(255)))
    add_column(ALERTS, Column("silenced_until", _Moment))
    add_column(ALERTS, Column("silenced_comment", String(1024)))
