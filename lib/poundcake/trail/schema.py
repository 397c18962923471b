"""The tables. One definition for MariaDB 10.6+ and SQLite.

``poundcake_api_calls``, ``poundcake_alerts`` and ``poundcake_st2_execution_link`` are the trail,
``execution_db`` mirrors the StackStorm executions that it names, and ``poundcake_meta`` says which
database this is. All times are UTC with microseconds.
"""

from datetime import timezone

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
)
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeDecorator

# The number of the newest revision in migrations/versions.
VERSION = 5
# What the writers cannot do without. What comes after it makes the views quick.
NEEDED = 5

metadata = MetaData()


class UTC(TypeDecorator):
    """A moment: aware in Python, UTC without an offset in the table."""

    impl = DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    cache_ok = True

    def process_bind_param(self, value, dialect):
        return None if value is None else value.astimezone(timezone.utc).replace(tzinfo=None)

    def process_result_value(self, value, dialect):
        return None if value is None else value.replace(tzinfo=timezone.utc)


# SQLite counts up by itself only in a column declared INTEGER.
_Id = BigInteger().with_variant(Integer, "sqlite")
_Long = Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
# MariaDB's default collation takes 'HostDown' for 'hostdown', and utf8mb4_bin 'a' for 'a '.
_options = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_nopad_bin",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
    "mariadb_collate": "utf8mb4_nopad_bin",
}

api_calls = Table(
    "poundcake_api_calls",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("request_id", String(36), nullable=False, unique=True),
    Column("method", String(8), nullable=False),
    Column("path", String(255), nullable=False),
    Column("headers", _Long, nullable=False),
    Column("body", _Long, nullable=False),
    Column("status_code", Integer, nullable=False),
    Column("created_at", UTC, nullable=False),
    Column("completed_at", UTC),
    Column("client_request_id", String(255)),
    Column("client_host", String(64)),
    Column("receiver", String(255)),
    Column("group_key", _Long),
    Column("group_status", String(16)),
    Column("truncated_alerts", BigInteger, nullable=False, default=0),
    Column("delivery_key", String(64)),
    Column("body_sha256", String(64), nullable=False),
    Column("replay_of", String(36)),
    Column("error", Text),
    # Which endpoint emits the triggers of a request that several may hold, and until when.
    Column("emitter", String(36)),
    Column("emitter_until", UTC),
    Index("ix_poundcake_api_calls_created", "created_at", "id"),
    Index("ix_poundcake_api_calls_completed", "completed_at", "id"),
    **_options,
)

# Newest first, then what a search filters by without reading the row.
_SEARCH = ("created_at", "id", "severity", "status", "outcome", "api_call_id")

alerts = Table(
    "poundcake_alerts",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("api_call_id", ForeignKey("poundcake_api_calls.id"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("alert_name", String(255), nullable=False),
    Column("severity", String(64), nullable=False),
    Column("instance", String(255), nullable=False),
    Column("labels", _Long, nullable=False),
    Column("annotations", _Long, nullable=False),
    Column("generator_url", Text),
    Column("status", String(16), nullable=False),
    Column("starts_at", UTC),
    Column("ends_at", UTC),
    Column("created_at", UTC, nullable=False),
    # When the row was written, which after an outage is long after the request came.
    Column("recorded_at", UTC, nullable=False),
    Column("episode", String(96)),
    Column("outcome", String(16), nullable=False),
    Column("reason", String(512), nullable=False),
    # What became of an alert that was emitted: `execution`, `no_rule`, `failed` or `lost`; NULL
    # until StackStorm has told. `none` for one that was not emitted.
    Column("explanation", String(16)),
    Column("explanation_reason", String(512)),
    Column("checked_at", UTC),
    Column("st2_rule_matched", String(255)),
    # The fingerprint while this row is its open incident, NULL else: one incident at a time is
    # what the unique key says, and MariaDB has no partial index to say it with.
    Column("open_fingerprint", String(64), unique=True),
    Column("last_seen_at", UTC),
    Column("notifications", Integer, nullable=False, default=1),
    # When the incident that this row opened was closed.
    Column("closed_at", UTC),
    # Which attempt at its episode this row is: a forced replay makes another.
    Column("attempt", Integer, nullable=False, default=1, server_default="1"),
    # When the cooldown or rate limit that held the alert back ends.
    Column("held_until", UTC),
    UniqueConstraint("api_call_id", "position", name="uq_poundcake_alerts_position"),
    Index("ix_poundcake_alerts_by_episode", "episode", "outcome", "id"),
    Index("ix_poundcake_alerts_admitted", "alert_name", "outcome", "created_at"),
    Index("ix_poundcake_alerts_explanation", "explanation", "checked_at"),
    # The views search newest first by one of these, and find the other filters in the index
    # itself: rows are read for the page that is shown, not for what is searched.
    Index("ix_poundcake_alerts_by_time", *_SEARCH),
    Index("ix_poundcake_alerts_by_name", "alert_name", *_SEARCH),
    Index("ix_poundcake_alerts_by_instance", "instance", *_SEARCH, "alert_name"),
    Index("ix_poundcake_alerts_by_fingerprint", "fingerprint", *_SEARCH),
    Index("ix_poundcake_alerts_by_outcome", "outcome", *[c for c in _SEARCH if c != "outcome"]),
    Index("ix_poundcake_alerts_by_severity", "severity", *[c for c in _SEARCH if c != "severity"]),
    Index(
        "ix_poundcake_alerts_by_open",
        "open_fingerprint",
        "created_at",
        "id",
        "severity",
        "alert_name",
        "instance",
    ),
    **_options,
)

links = Table(
    "poundcake_st2_execution_link",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("request_id", String(36), nullable=False),
    Column("alert_id", ForeignKey("poundcake_alerts.id"), nullable=False),
    Column("st2_execution_id", String(64), nullable=False),
    Column("st2_rule_ref", String(255)),
    Column("st2_action_ref", String(255)),
    Column("created_at", UTC, nullable=False),
    # `<episode>|<workflow>`: at most one execution of a workflow passes for an episode.
    Column("claim", String(255), unique=True),
    Column("released_at", UTC),
    UniqueConstraint("st2_execution_id", "alert_id", name="uq_poundcake_link_execution"),
    Index("ix_poundcake_link_request", "request_id", "id"),
    Index("ix_poundcake_link_alert", "alert_id", "id"),
    **_options,
)

executions = Table(
    "execution_db",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("action", String(255), nullable=False),
    Column("status", String(16), nullable=False),
    Column("start_timestamp", UTC),
    Column("end_timestamp", UTC),
    Column("rule", String(255)),
    Column("error", Text),
    Column("dry_run", Boolean),
    Column("mutated", Boolean),
    Column("verified", Boolean),
    Column("stage", String(64)),
    Column("message", Text),
    Column("web_url", String(512)),
    Column("synced_at", UTC),
    Index("ix_execution_db_by_status", "status", "start_timestamp", "id"),
    Index("ix_execution_db_start", "start_timestamp", "id"),
    **_options,
)

meta = Table(
    "poundcake_meta",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", String(255), nullable=False),
    **_options,
)


def cut(text: str, column: Column) -> str:
    """The text as its column can hold it; the whole is in the JSON beside it.

    Lone surrogates, which JSON may escape, are no characters: neither database takes them.
    """
    return text.encode("utf-8", "replace").decode()[: column.type.length]
