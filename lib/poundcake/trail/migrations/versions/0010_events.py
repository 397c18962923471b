"""The table of events that endpoints publish as triggers."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, DateTime, Index, MetaData, String, Table, Text
from sqlalchemy.dialects import mysql

from poundcake.trail.migrations.changes import create_table

revision = "0010"
down_revision = "0009"

_Moment = DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
_options: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_nopad_bin",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
    "mariadb_collate": "utf8mb4_nopad_bin",
}

_events = Table(
    "poundcake_events",
    MetaData(),
    Column("id", String(36), primary_key=True),
    Column("kind", String(32), nullable=False),
    Column("subject", String(255), nullable=False),
    Column("at", _Moment, nullable=False),
    Column("payload", Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb"), nullable=False),
    Column("repeated_at", _Moment),
    Column("published_at", _Moment),
    Column("publisher", String(36)),
    Column("publisher_until", _Moment),
    Index("ix_poundcake_events_unpublished", "published_at", "at", "id"),
    Index("ix_poundcake_events_subject", "subject", "kind", "at"),
    Index("ix_poundcake_events_at", "at"),
    **_options,
)


def upgrade() -> None:
    """Upgrade the tables to this revision."""
    create_table(_events)
