"""Indexes for the views, which replace the previous indexes."""

from __future__ import annotations

from poundcake.trail.migrations.changes import add_index, drop_index

revision = "0004"
down_revision = "0003"

ALERTS = "poundcake_alerts"
SEARCH = ("created_at", "id", "severity", "status", "outcome", "api_call_id")
NEW = {
    "by_episode": ("episode", "outcome", "id"),
    "by_time": SEARCH,
    "by_name": ("alert_name", *SEARCH),
    "by_instance": ("instance", *SEARCH, "alert_name"),
    "by_fingerprint": ("fingerprint", *SEARCH),
    "by_outcome": ("outcome", "created_at", "id", "severity", "status", "api_call_id"),
    "by_severity": ("severity", "created_at", "id", "status", "outcome", "api_call_id"),
    "by_open": ("open_fingerprint", "created_at", "id", "severity", "alert_name", "instance"),
}


def upgrade() -> None:
    """Upgrade the tables to this revision."""
    # Build the new indexes first, so that the views always have indexes to use.
    for name, columns in NEW.items():
        add_index(f"ix_{ALERTS}_{name}", ALERTS, *columns)
    add_index("ix_execution_db_by_status", "execution_db", "status", "start_timestamp", "id")
    for name in ("episode", "fingerprint", "name", "instance", "resolved"):
        drop_index(f"ix_{ALERTS}_{name}", ALERTS)
    drop_index("ix_execution_db_status", "execution_db")
