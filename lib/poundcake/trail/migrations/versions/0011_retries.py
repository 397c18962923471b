"""Columns for the retry of a refused change."""

from __future__ import annotations

from sqlalchemy import Column, DateTime
from sqlalchemy.dialects import mysql

from poundcake.trail.migrations.changes import add_column

revision = "0011"
down_revision = "0010"

_Moment = DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def upgrade() -> None:
    """Upgrade the tables to this revision."""
    add_column("poundcake_changes", Column("retry_at", _Moment))
    add_column("poundcake_changes", Column("retried_at", _Moment))
