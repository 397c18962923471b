"""New column names for explanations, the emitter of a request, and the end of a limit."""

from __future__ import annotations

from sqlalchemy import Column, DateTime, String
from sqlalchemy.dialects import mysql

from poundcake.trail.migrations.changes import add_column, rename_column

revision = "0005"
# Not 0004, which builds indexes. With a long history, 0004 waits for `migrate`; 0005 must not wait.
down_revision = "0003"

ALERTS, CALLS = "poundcake_alerts", "poundcake_api_calls"


def upgrade() -> None:
    """Upgrade the tables to this revision."""
    moment = DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    rename_column(ALERTS, "fate", "explanation", String(16))
    rename_column(ALERTS, "fate_reason", "explanation_reason", String(512))
    add_column(ALERTS, Column("held_until", moment))
    add_column(ALERTS, Column("trigger_instances", String(255)))
    add_column(CALLS, Column("emitter", String(36)))
    add_column(CALLS, Column("emitter_until", moment))
