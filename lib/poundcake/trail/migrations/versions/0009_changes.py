"""The table of decisions about changes."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)
from sqlalchemy.dialects import mysql

from poundcake.trail.migrations.changes import create_table

revision = "0009"
down_revision = "0008"

_Moment = DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
_options: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_nopad_bin",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
    "mariadb_collate": "utf8mb4_nopad_bin",
}

_changes = Table(
    "poundcake_changes",
    MetaData(),
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("st2_execution_id", String(64), nullable=False),
    Column("request_id", String(36), nullable=False),
    Column("episode", String(96), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("claim", String(128), unique=True),
    Column("remediation", String(255), nullable=False),
    Column("action", String(255), nullable=False),
    Column("target", String(255), nullable=False),
    Column("per_value", String(255), nullable=False),
    Column("decided_at", _Moment, nullable=False),
    Column("lease_until", _Moment),
    Column("ended_at", _Moment),
    Column("result", String(16), nullable=False),
    Column("refusal", String(32), nullable=False),
    Column("reason", String(512), nullable=False),
    Column("released_at", _Moment),
    UniqueConstraint("st2_execution_id", "episode", name="uq_poundcake_changes_execution"),
    Index("ix_poundcake_changes_target", "target", "decided_at"),
    Index("ix_poundcake_changes_remediation", "remediation", "decided_at"),
    Index("ix_poundcake_changes_decided", "decided_at"),
    Index("ix_poundcake_changes_ended", "ended_at"),
    Index("ix_poundcake_changes_result", "result", "ended_at"),
    Index("ix_poundcake_changes_episode", "episode"),
    Index("ix_poundcake_changes_request", "request_id"),
    **_options,
)


def upgrade() -> None:
    """Upgrade the tables to this revision."""
    create_table(_changes)
