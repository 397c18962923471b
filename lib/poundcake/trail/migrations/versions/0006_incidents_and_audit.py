"""Columns for the sender, host, acknowledgement and end of an incident, and the audit table."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from alembic import op
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    bindparam,
    text,
)
from sqlalchemy.dialects import mysql

from poundcake.hosts import HOST_LABEL, host_from_labels
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

_WITHOUT_HOST = f"""
SELECT id, instance FROM {ALERTS} WHERE host = '' AND open_fingerprint > ''
UNION SELECT id, instance FROM {ALERTS} WHERE host = '' AND explanation IS NULL
UNION SELECT id, instance FROM {ALERTS} WHERE host = '' AND explanation = 'retry'
UNION SELECT alerts.id, alerts.instance FROM {ALERTS} AS alerts
    JOIN poundcake_st2_execution_link AS links ON links.alert_id = alerts.id
    WHERE alerts.host = '' AND links.claim IS NOT NULL AND links.created_at > :since
"""


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
    _fill_hosts()


def _fill_hosts() -> None:
    """Set the host of the alerts on which the cooldown of a host may still depend.

    These are the open incidents, the alerts that StackStorm has not handled yet, and those for
    which a workflow was started in the last day, the longest cooldown. Reading the whole history
    would take too long.
    """
    day_ago = datetime.now(timezone.utc).replace(tzinfo=None) - timedelta(days=1)
    since = bindparam("since", day_ago, _Moment)
    alert_rows = op.get_bind().execute(text(_WITHOUT_HOST).bindparams(since)).all()
    hosts_by_alert = (
        (row.id, host_from_labels({HOST_LABEL: row.instance}, HOST_LABEL)) for row in alert_rows
    )
    host_rows = [{"id": row_id, "host": host} for row_id, host in hosts_by_alert if host]
    if host_rows:
        op.get_bind().execute(text(f"UPDATE {ALERTS} SET host = :host WHERE id = :id"), host_rows)
