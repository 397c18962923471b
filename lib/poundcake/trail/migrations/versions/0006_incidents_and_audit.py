"""The sender's fields of an incident, how and by whom it ended, and the table of audit entries."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Index, Integer, MetaData, String, Table, Text
from sqlalchemy.dialects import mysql

from poundcake.trail.migrations.changes import add_column, create_table

revision = "0006"
down_revision = "0005"

ALERTS, CALLS = "poundcake_alerts", "poundcake_api_calls"
_Moment = DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
_options: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_nopad_bin",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
    "mariadb_collate": "utf8mb4_nopad_bin",
}

_audit = Table(
    "poundcake_audit",
    MetaData(),
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("at", _Moment, nullable=False),
    Column("action", String(64), nullable=False),
    Column("st2_user", String(255), nullable=False),
    Column("execution_id", String(64), nullable=False),
    Column("target", String(255), nullable=False),
    Column("comment", Text, nullable=False),
    Column("details", Text, nullable=False),
    Index("ix_poundcake_audit_target", "target", "id"),
    Index("ix_poundcake_audit_at", "at", "id"),
    **_options,
)


def upgrade() -> None:
    """Upgrade the tables to this revision."""
    add_column(CALLS, Column("credential", String(64), nullable=False, server_default=""))
    add_column(ALERTS, Column("sender_fingerprint", String(64)))
    add_column(ALERTS, Column("sender_starts_at", _Moment))
    add_column(ALERTS, Column("host", String(255), nullable=False, server_default=""))
    add_column(ALERTS, Column("notes", String(1024)))
    add_column(ALERTS, Column("ended_by", String(16)))
    add_column(ALERTS, Column("acknowledged_at", _Moment))
    add_column(ALERTS, Column("acknowledged_by", String(255)))
    add_column(ALERTS, Column("acknowledged_comment", String(1024)))
    add_column(ALERTS, Column("closed_by", String(255)))
    add_column(ALERTS, Column("closed_comment", String(1024)))
    create_table(_audit)
