"""A column for the execution of the action that made a change."""

from __future__ import annotations

from sqlalchemy import Column, String

from poundcake.trail.migrations.changes import add_column

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Upgrade the tables to this revision."""
    add_column("poundcake_changes", Column("action_execution_id", String(64)))
