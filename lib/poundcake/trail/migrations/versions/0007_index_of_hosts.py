"""The index that the cooldown of a host searches."""

from __future__ import annotations

from poundcake.trail.migrations.changes import add_index

revision = "0007"
down_revision = "0004"

ALERTS = "poundcake_alerts"


def upgrade() -> None:
    """Upgrade the tables to this revision."""
    add_index(f"ix_{ALERTS}_by_host", ALERTS, "host", "created_at")
