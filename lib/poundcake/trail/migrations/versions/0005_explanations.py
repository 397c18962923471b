"""Plain names for what became of an alert; who emits a request; until when an alert is held back."""

from sqlalchemy import Column, DateTime, String
from sqlalchemy.dialects import mysql

from poundcake.trail.migrations.changes import add_column, add_index, drop_index, rename_column

revision = "0005"
down_revision = "0004"

ALERTS = "poundcake_alerts"


def upgrade():
    moment = DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    rename_column(ALERTS, "fate", "explanation")
    rename_column(ALERTS, "fate_reason", "explanation_reason")
    add_index("ix_poundcake_alerts_explanation", ALERTS, "explanation", "checked_at")
    drop_index("ix_poundcake_alerts_fate", ALERTS)
    add_column(ALERTS, Column("held_until", moment))
    add_column("poundcake_api_calls", Column("emitter", String(36)))
    add_column("poundcake_api_calls", Column("emitter_until", moment))
