"""A column for what the checks before a change and its verification saw."""

from __future__ import annotations

from sqlalchemy import Column, Text

from poundcake.trail.migrations.changes import add_column

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Upgrade the tables to this revision."""
    add_column("poundcake_changes", Column("evidence", Text))
