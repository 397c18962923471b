"""The tables. One definition for MariaDB 10.6+ and SQLite.

``poundcake_api_calls``, ``poundcake_alerts`` and ``poundcake_st2_execution_link`` are the trail,
``execution_db`` mirrors the StackStorm executions that it names, ``poundcake_audit`` says what
people did to it, and ``poundcake_meta`` which database this is. All times are UTC with
microseconds.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

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
from sqlalchemy.engine import Dialect
from sqlalchemy.sql import ColumnElement
from sqlalchemy.types import TypeDecorator

# The newest revision of the tables in migrations/versions. Every writer needs it.
VERSION = 6
# The revisions there that only build indexes. Nothing needs them, but the views are slow without
# them, and building them on a long history takes long: they wait until the tables are ready.
INDEX_REVISIONS = (4,)
# {table: the revision that made it}, of those that the first one did not make.
LATER_TABLES = {"poundcake_audit": 6}

metadata = MetaData()


class UtcDateTime(TypeDecorator[datetime]):
    """A moment: an aware datetime in Python, UTC without an offset in the table."""

    impl = DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the value in UTC without a time zone, as the column stores it."""
        return None if value is None else value.astimezone(timezone.utc).replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Return the value of the column with its time zone, UTC."""
        return None if value is None else value.replace(tzinfo=timezone.utc)


# SQLite counts up by itself only in a column declared INTEGER.
_Id = BigInteger().with_variant(Integer, "sqlite")
_Long = Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
# MariaDB's default collation takes 'HostDown' for 'hostdown', and utf8mb4_bin 'a' for 'a '.
_options: dict[str, Any] = {
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
    Column("created_at", UtcDateTime, nullable=False),
    Column("completed_at", UtcDateTime),
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
    # Which endpoint may emit the triggers of a request that several hold, and until when: see
    # emissions.py.
    Column("emitter", String(36)),
    Column("emitter_until", UtcDateTime),
    # The name of the credential that the sender used; empty if it needed none.
    Column("credential", String(64), nullable=False, default="", server_default=""),
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
    Column("starts_at", UtcDateTime),
    Column("ends_at", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    # When the row was written, by the database's clock. After an outage that is long after the
    # request was received, which is created_at, by the clock of the endpoint.
    Column("recorded_at", UtcDateTime, nullable=False),
    Column("episode", String(96)),
    Column("outcome", String(16), nullable=False),
    Column("reason", String(512), nullable=False),
    # What became of the alert: see outcomes.Explanation. NULL until StackStorm has said.
    Column("explanation", String(16)),
    Column("explanation_reason", String(512)),
    Column("checked_at", UtcDateTime),
    Column("st2_rule_matched", String(255)),
    # The fingerprint while this row is its open incident, otherwise NULL. The unique key allows one
    # open incident for each fingerprint; MariaDB has no partial index that could.
    Column("open_fingerprint", String(64), unique=True),
    Column("last_seen_at", UtcDateTime),
    Column("notifications", Integer, nullable=False, default=1),
    # When the incident that this row opened was closed.
    Column("closed_at", UtcDateTime),
    # Which attempt at its episode this row is, from 1: a forced replay makes another.
    Column("attempt", Integer, nullable=False, default=1, server_default="1"),
    # When the cooldown or rate limit that holds the alert back ends, by the database's clock.
    Column("held_until", UtcDateTime),
    # Ids of the StackStorm triggers that were emitted for it, newest first, separated by commas.
    Column("trigger_instances", String(255)),
    # The fingerprint that the sender gave, if `fingerprint` is another one. It decides nothing.
    Column("sender_fingerprint", String(64)),
    # The first startsAt that the notifications of the incident named, by the sender's clock; NULL
    # if none did.
    Column("sender_starts_at", UtcDateTime),
    # The host that the alert is about, in one spelling; empty if it names none.
    Column("host", String(255), nullable=False, default="", server_default=""),
    # What of the alert could not be read and decided nothing, in one line.
    Column("notes", String(1024)),
    # How the incident that this row opened ended: see outcomes.EndedBy. NULL while it is open, and
    # if a later row has taken it over.
    Column("ended_by", String(16)),
    # Who said, of the open incident, that nothing is to be started for it.
    Column("acknowledged_at", UtcDateTime),
    Column("acknowledged_by", String(255)),
    Column("acknowledged_comment", String(1024)),
    # Who closed it by hand.
    Column("closed_by", String(255)),
    Column("closed_comment", String(1024)),
    UniqueConstraint("api_call_id", "position", name="uq_poundcake_alerts_position"),
    Index("ix_poundcake_alerts_by_episode", "episode", "outcome", "id"),
    Index("ix_poundcake_alerts_admitted", "alert_name", "outcome", "created_at"),
    # Named for the column's former name: SQLite cannot rename an index, and to build it again on a
    # long history would take minutes.
    Index("ix_poundcake_alerts_fate", "explanation", "checked_at"),
    # The views search newest first by one of these and find the other filters in the index itself:
    # they read the rows of the page that is shown, not of everything that is searched.
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
    Column("created_at", UtcDateTime, nullable=False),
    # `<episode>|<workflow>`, and the attempt after the first: at most one execution of a workflow
    # works on an attempt at an episode.
    Column("claim", String(255), unique=True),
    Column("released_at", UtcDateTime),
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
    Column("start_timestamp", UtcDateTime),
    Column("end_timestamp", UtcDateTime),
    Column("rule", String(255)),
    Column("error", Text),
    Column("dry_run", Boolean),
    Column("mutated", Boolean),
    Column("verified", Boolean),
    Column("stage", String(64)),
    Column("message", Text),
    Column("web_url", String(512)),
    Column("synced_at", UtcDateTime),
    Index("ix_execution_db_by_status", "status", "start_timestamp", "id"),
    Index("ix_execution_db_start", "start_timestamp", "id"),
    **_options,
)

audit = Table(
    "poundcake_audit",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    # acknowledge, close, release, replay or purge.
    Column("action", String(64), nullable=False),
    Column("st2_user", String(255), nullable=False),
    Column("execution_id", String(64), nullable=False),
    # The episode, the request_id or nothing, as the action says.
    Column("target", String(255), nullable=False),
    Column("comment", Text, nullable=False),
    # JSON: what the action did.
    Column("details", Text, nullable=False),
    Index("ix_poundcake_audit_target", "target", "id"),
    Index("ix_poundcake_audit_at", "at", "id"),
    **_options,
)

meta = Table(
    "poundcake_meta",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", String(255), nullable=False),
    **_options,
)


def cut(text: str, column: ColumnElement[Any]) -> str:
    """Return as much of a text as its column can hold. The whole text is in the JSON beside it.

    Lone surrogates become question marks: neither database can store them.
    """
    return storable(text)[: getattr(column.type, "length", None)]


def storable(text: str) -> str:
    """Return a text that both databases can store: lone surrogates become question marks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
