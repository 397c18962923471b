"""The first tables."""

from __future__ import annotations

import uuid
from typing import Any

from alembic import op
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None

metadata = MetaData()
_Moment = DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
# SQLite auto-increments only a primary key that is declared INTEGER.
_Id = BigInteger().with_variant(Integer, "sqlite")
_Long = Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
# In MariaDB's default collation 'HostDown' equals 'hostdown'; in utf8mb4_bin 'a' equals 'a '.
_options: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_nopad_bin",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
    "mariadb_collate": "utf8mb4_nopad_bin",
}

Table(
    "poundcake_api_calls",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("request_id", String(36), nullable=False, unique=True),
    Column("method", String(8), nullable=False),
    Column("path", String(255), nullable=False),
    Column("headers", _Long, nullable=False),
    Column("body", _Long, nullable=False),
    Column("status_code", Integer, nullable=False),
    Column("created_at", _Moment, nullable=False),
    Column("completed_at", _Moment),
    Column("client_request_id", String(255)),
    Column("client_host", String(64)),
    Column("receiver", String(255)),
    Column("group_key", _Long),
    Column("group_status", String(16)),
    Column("truncated_alerts", BigInteger, nullable=False),
    Column("delivery_key", String(64)),
    Column("body_sha256", String(64), nullable=False),
    Column("replay_of", String(36)),
    Column("error", Text),
    Index("ix_poundcake_api_calls_created", "created_at", "id"),
    Index("ix_poundcake_api_calls_completed", "completed_at", "id"),
    **_options,
)

Table(
    "poundcake_alerts",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("api_call_id", _Id, ForeignKey("poundcake_api_calls.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("alert_name", String(255), nullable=False),
    Column("severity", String(64), nullable=False),
    Column("instance", String(255), nullable=False),
    Column("labels", _Long, nullable=False),
    Column("annotations", _Long, nullable=False),
    Column("generator_url", Text),
    Column("status", String(16), nullable=False),
    Column("starts_at", _Moment),
    Column("ends_at", _Moment),
    Column("created_at", _Moment, nullable=False),
    Column("recorded_at", _Moment, nullable=False),
    Column("episode", String(96)),
    Column("outcome", String(16), nullable=False),
    Column("reason", String(512), nullable=False),
    Column("fate", String(16)),
    Column("fate_reason", String(512)),
    Column("checked_at", _Moment),
    Column("st2_rule_matched", String(255)),
    Column("open_fingerprint", String(64), unique=True),
    Column("last_seen_at", _Moment),
    Column("notifications", Integer, nullable=False),
    UniqueConstraint("api_call_id", "position", name="uq_poundcake_alerts_position"),
    Index("ix_poundcake_alerts_fingerprint", "fingerprint", "id"),
    Index("ix_poundcake_alerts_name", "alert_name", "id"),
    Index("ix_poundcake_alerts_instance", "instance", "id"),
    Index("ix_poundcake_alerts_episode", "episode", "id"),
    Index("ix_poundcake_alerts_resolved", "fingerprint", "status", "ends_at"),
    Index("ix_poundcake_alerts_admitted", "alert_name", "outcome", "created_at"),
    Index("ix_poundcake_alerts_fate", "fate", "checked_at"),
    **_options,
)

Table(
    "poundcake_st2_execution_link",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("request_id", String(36), nullable=False),
    Column("alert_id", _Id, ForeignKey("poundcake_alerts.id"), nullable=False),
    Column("st2_execution_id", String(64), nullable=False),
    Column("st2_rule_ref", String(255)),
    Column("st2_action_ref", String(255)),
    Column("created_at", _Moment, nullable=False),
    Column("claim", String(255), unique=True),
    Column("released_at", _Moment),
    UniqueConstraint("st2_execution_id", "alert_id", name="uq_poundcake_link_execution"),
    Index("ix_poundcake_link_request", "request_id", "id"),
    Index("ix_poundcake_link_alert", "alert_id", "id"),
    **_options,
)

Table(
    "execution_db",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("action", String(255), nullable=False),
    Column("status", String(16), nullable=False),
    Column("start_timestamp", _Moment),
    Column("end_timestamp", _Moment),
    Column("rule", String(255)),
    Column("error", Text),
    Column("dry_run", Boolean),
    Column("mutated", Boolean),
    Column("verified", Boolean),
    Column("stage", String(64)),
    Column("message", Text),
    Column("web_url", String(512)),
    Column("synced_at", _Moment),
    Index("ix_execution_db_status", "status", "id"),
    Index("ix_execution_db_start", "start_timestamp", "id"),
    **_options,
)

Table(
    "poundcake_meta",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", String(255), nullable=False),
    **_options,
)


def upgrade() -> None:
    """Upgrade the tables to this revision."""
    connection = op.get_bind()
    for table in metadata.sorted_tables:
        table.create(connection, checkfirst=True)
        # A revision that was killed may have created a table without its indexes.
        for index in table.indexes:
            index.create(connection, checkfirst=True)
    if not connection.scalar(text("SELECT 1 FROM poundcake_meta WHERE name = 'database_id'")):
        connection.execute(
            text("INSERT INTO poundcake_meta (name, value) VALUES ('database_id', :value)"),
            {"value": str(uuid.uuid4())},
        )
