"""The index with which a search filters the alerts of executions."""

from __future__ import annotations

from poundcake.trail.migrations.changes import add_index

revision = "0014"
down_revision = "0007"

ALERTS = "poundcake_alerts"


def upgrade() -> None:
    """Upgrade the tables to this revision."""
    add_index(f"ix_{ALERTS}_by_id", ALERTS, "id", "alert_name", "severity", "status", "outcome")
