"""The definition of the tables, for both MariaDB 10.6+ and SQLite.

``poundcake_api_calls``, ``poundcake_alerts`` and ``poundcake_st2_execution_link`` form the trail.
``execution_db`` mirrors the StackStorm executions in the trail. ``poundcake_audit`` logs manual
changes to the trail, and retries. ``poundcake_changes`` contains the decisions about the changes
that remediations requested, and ``poundcake_events`` the events about remediations, which endpoints
publish. ``poundcake_meta`` contains named values, such as the database's id, its versions and the
current pause. All times are UTC with microseconds.
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from typing import Any, Mapping

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
    event,
    func,
)
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.sql import ColumnElement
from sqlalchemy.types import TypeDecorator, TypeEngine

# The newest revision of the tables in migrations/versions, which every writer needs.
VERSION = 13
# The revisions in migrations/versions that only build indexes. Nothing requires these indexes, but
# views are slow without them. They are built last, because indexing a long history is slow.
INDEX_REVISIONS = (4, 7, 14)
# The revisions that created tables after the first revision, by table.
LATER_TABLES = {"poundcake_audit": 6, "poundcake_changes": 9, "poundcake_events": 10}

metadata = MetaData()

# json.dumps() creates a new encoder on each call.
_encode = json.JSONEncoder(ensure_ascii=False).encode
# The longest text in a column that has no maximum length, in characters.
_MAX_TEXT_LENGTH = 4000
_SURROGATE = re.compile("[\ud800-\udfff]")


def _is_mariadb(dialect: Dialect) -> bool:
    # MariaDB's types and options are used only on MariaDB, because SQLAlchemy loads its drivers for
    # them. Each action on SQLite would take the time for that.
    return dialect.name in ("mysql", "mariadb")


class UtcDateTime(TypeDecorator[datetime]):
    """A time: an aware datetime in Python, and UTC without an offset in the table."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the type of the column. On MariaDB, it keeps microseconds."""
        if not _is_mariadb(dialect):
            return dialect.type_descriptor(DateTime())
        from sqlalchemy.dialects.mysql import DATETIME

        return dialect.type_descriptor(DATETIME(fsp=6))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the value in UTC without a time zone, as the column stores it."""
        return None if value is None else value.astimezone(timezone.utc).replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Return the value of the column as an aware datetime in UTC."""
        return None if value is None else value.replace(tzinfo=timezone.utc)


class LongText(TypeDecorator[str]):
    """A text of any length. MariaDB's TEXT has at most 65,535 bytes."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the type of the column."""
        if not _is_mariadb(dialect):
            return dialect.type_descriptor(Text())
        from sqlalchemy.dialects.mysql import LONGTEXT

        return dialect.type_descriptor(LONGTEXT())


# SQLite auto-increments only a primary key that is declared INTEGER.
_Id = BigInteger().with_variant(Integer, "sqlite")
# In MariaDB's default collation 'HostDown' equals 'hostdown'; in utf8mb4_bin 'a' equals 'a '.
_MARIADB_OPTIONS = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_nopad_bin",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
    "mariadb_collate": "utf8mb4_nopad_bin",
}


@event.listens_for(metadata, "before_create")
def _set_options(target: MetaData, connection: Connection, **_: object) -> None:
    if _is_mariadb(connection.dialect):
        for table in target.tables.values():
            table.dialect_kwargs.update(_MARIADB_OPTIONS)


api_calls = Table(
    "poundcake_api_calls",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("request_id", String(36), nullable=False, unique=True),
    Column("method", String(8), nullable=False),
    Column("path", String(255), nullable=False),
    Column("headers", LongText, nullable=False),
    Column("body", LongText, nullable=False),
    Column("status_code", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("completed_at", UtcDateTime),
    Column("client_request_id", String(255)),
    Column("client_host", String(64)),
    Column("receiver", String(255)),
    Column("group_key", LongText),
    Column("group_status", String(16)),
    Column("truncated_alerts", BigInteger, nullable=False, default=0),
    Column("delivery_key", String(64)),
    Column("body_sha256", String(64), nullable=False),
    Column("replay_of", String(36)),
    Column("error", Text),
    # The endpoint that has claimed the emission of the request, if several endpoints have it, and
    # when the claim expires. See emissions.py.
    Column("emitter", String(36)),
    Column("emitter_until", UtcDateTime),
    # The name of the credential that the sender used, or empty if none was required.
    Column("credential", String(64), nullable=False, default="", server_default=""),
    Index("ix_poundcake_api_calls_created", "created_at", "id"),
    Index("ix_poundcake_api_calls_completed", "completed_at", "id"),
)

ALERTS_BY_ID = "ix_poundcake_alerts_by_id"
# The columns by which alerts with known ids are filtered without reading the row.
FILTERED_BY_ID = ("alert_name", "severity", "status", "outcome")
# The columns by which a search sorts, then those by which it filters without reading the row.
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
    Column("labels", LongText, nullable=False),
    Column("annotations", LongText, nullable=False),
    Column("generator_url", Text),
    Column("status", String(16), nullable=False),
    Column("starts_at", UtcDateTime),
    Column("ends_at", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    # When the row was written, by the database's clock. After an outage, this is much later than
    # created_at, the time at which the endpoint received the request.
    Column("recorded_at", UtcDateTime, nullable=False),
    Column("episode", String(96)),
    Column("outcome", String(16), nullable=False),
    Column("reason", String(512), nullable=False),
    # See outcomes.Explanation. NULL until StackStorm has reported what it did with the alert.
    Column("explanation", String(16)),
    Column("explanation_reason", String(512)),
    Column("checked_at", UtcDateTime),
    Column("st2_rule_matched", String(255)),
    # The fingerprint while this row is that of the open incident, otherwise NULL. The unique key
    # allows one open incident per fingerprint. It replaces a partial index, which MariaDB lacks.
    Column("open_fingerprint", String(64), unique=True),
    Column("last_seen_at", UtcDateTime),
    Column("notifications", Integer, nullable=False, default=1),
    # When the incident that this row opened was closed.
    Column("closed_at", UtcDateTime),
    # The number of the attempt at the episode, from 1. A forced replay adds an attempt.
    Column("attempt", Integer, nullable=False, default=1, server_default="1"),
    # When the cooldown or rate limit that holds the alert back ends, by the database's clock.
    Column("held_until", UtcDateTime),
    # The ids of StackStorm's trigger instances for this alert, newest first, comma-separated.
    Column("trigger_instances", String(255)),
    # The fingerprint in the payload, if it differs from `fingerprint`. No decision depends on it.
    Column("sender_fingerprint", String(64)),
    # The first startsAt in the notifications of the incident, by the sender's clock. NULL if none
    # of them had one.
    Column("sender_starts_at", UtcDateTime),
    # The canonical host in the label host_label, or empty if the label contains no host.
    Column("host", String(255), nullable=False, default="", server_default=""),
    # Fields of the alert that could not be read and were ignored, in one line.
    Column("notes", String(1024)),
    # How the incident of this row ended, see outcomes.EndedBy. NULL while it is open, or if a later
    # row has taken over the incident.
    Column("ended_by", String(16)),
    # When, by whom and why the open incident was acknowledged. NULL if it was not. While it is
    # acknowledged, no remediation is started for it.
    Column("acknowledged_at", UtcDateTime),
    Column("acknowledged_by", String(255)),
    Column("acknowledged_comment", String(1024)),
    # Who closed the incident with poundcake.close, and why.
    Column("closed_by", String(255)),
    Column("closed_comment", String(1024)),
    # The external URL of the Alertmanager that sent the incident's last notification, without a
    # trailing slash. Empty if the sender did not set it, and in rows of earlier revisions.
    Column("external_url", String(512), nullable=False, default="", server_default=""),
    # When a round of sync first found that no Alertmanager holds the alert of the open incident.
    # NULL unless it is missing.
    Column("missing_since", UtcDateTime),
    # The silence that mutes the alert of the open incident in Alertmanager. NULL if there is none.
    Column("silence_id", String(64)),
    Column("silenced_by", String(255)),
    Column("silenced_until", UtcDateTime),
    Column("silenced_comment", String(1024)),
    UniqueConstraint("api_call_id", "position", name="uq_poundcake_alerts_position"),
    Index("ix_poundcake_alerts_by_episode", "episode", "outcome", "id"),
    Index("ix_poundcake_alerts_admitted", "alert_name", "outcome", "created_at"),
    # Named after the column's former name. SQLite cannot rename an index, and rebuilding it would
    # take minutes with a long history.
    Index("ix_poundcake_alerts_fate", "explanation", "checked_at"),
    # The views search one of these indexes, newest first. The index also contains the columns of
    # the other filters, so only the rows of the shown page are read from the table.
    Index("ix_poundcake_alerts_by_time", *_SEARCH),
    Index("ix_poundcake_alerts_by_name", "alert_name", *_SEARCH),
    Index("ix_poundcake_alerts_by_instance", "instance", *_SEARCH, "alert_name"),
    # The list of executions filters their alerts with this index, which is much smaller than the
    # table. Without it, the filter reads most pages of the time range from the disk.
    Index(ALERTS_BY_ID, "id", *FILTERED_BY_ID),
    # The cooldown of a host searches this index.
    Index("ix_poundcake_alerts_by_host", "host", "created_at"),
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
    # `<episode>|<workflow>`, plus `|<attempt>` from the second attempt on. It ensures that at most
    # one execution of a workflow works on an attempt at an episode.
    Column("claim", String(255), unique=True),
    Column("released_at", UtcDateTime),
    UniqueConstraint("st2_execution_id", "alert_id", name="uq_poundcake_link_execution"),
    Index("ix_poundcake_link_request", "request_id", "id"),
    Index("ix_poundcake_link_alert", "alert_id", "id"),
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
)

audit = Table(
    "poundcake_audit",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    # What was done, such as `acknowledge`: see audit.AuditEntry.
    Column("action", String(64), nullable=False),
    Column("st2_user", String(255), nullable=False),
    Column("execution_id", String(64), nullable=False),
    # What the action changed: an episode, a request_id, a remediation, or the ids of silences.
    # Empty if there is none.
    Column("target", String(255), nullable=False),
    Column("comment", Text, nullable=False),
    # The details of the action, as JSON.
    Column("details", Text, nullable=False),
    Index("ix_poundcake_audit_target", "target", "id"),
    Index("ix_poundcake_audit_at", "at", "id"),
)

changes = Table(
    "poundcake_changes",
    metadata,
    Column("id", _Id, primary_key=True),
    # The execution of the workflow that requested the change.
    Column("st2_execution_id", String(64), nullable=False),
    Column("request_id", String(36), nullable=False),
    Column("episode", String(96), nullable=False),
    Column("attempt", Integer, nullable=False),
    # `<episode>|<attempt>`, so that at most one change is made for an attempt at an episode. NULL
    # if the change was refused, or once its claim was released.
    Column("claim", String(128), unique=True),
    # The name of the remediation, or the reference of the action if it has no name.
    Column("remediation", String(255), nullable=False),
    Column("action", String(255), nullable=False),
    # What is changed: a canonical host, `label=value,…`, or `fingerprint=value`.
    Column("target", String(255), nullable=False),
    # `label=value` of the label `per_label`, for the limits per value of that label, or empty.
    Column("per_value", String(255), nullable=False),
    Column("decided_at", UtcDateTime, nullable=False),
    # When the change stops counting as in flight, unless it ends earlier. Sync extends the lease.
    # NULL if the change was refused.
    Column("lease_until", UtcDateTime),
    # When the change and its verification ended. NULL while the change is in flight.
    Column("ended_at", UtcDateTime),
    # See changes.ChangeResult. Empty while the change is in flight.
    Column("result", String(16), nullable=False),
    # Why the change was refused: a member of remediation.safety.Refusal, and a sentence. For a
    # change that was made and failed, `reason` contains the error.
    Column("refusal", String(32), nullable=False),
    Column("reason", String(512), nullable=False),
    # When a person released the change. The target's cooldown and the breaker then no longer count
    # it.
    Column("released_at", UtcDateTime),
    # When sync will retry a refused change if its incident is still open. NULL if it will not.
    Column("retry_at", UtcDateTime),
    # When sync started the workflow of a refused change again. NULL if it has not.
    Column("retried_at", UtcDateTime),
    # What the checks before the change and its verification saw, as a JSON list of lines. NULL in
    # rows of earlier revisions.
    Column("evidence", Text),
    # The execution of the action that made the change. NULL while the change is in flight, if it
    # was refused, if the execution is not known, and in rows of earlier revisions.
    Column("action_execution_id", String(64)),
    UniqueConstraint("st2_execution_id", "episode", name="uq_poundcake_changes_execution"),
    Index("ix_poundcake_changes_target", "target", "decided_at"),
    Index("ix_poundcake_changes_remediation", "remediation", "decided_at"),
    Index("ix_poundcake_changes_decided", "decided_at"),
    Index("ix_poundcake_changes_ended", "ended_at"),
    Index("ix_poundcake_changes_result", "result", "ended_at"),
    Index("ix_poundcake_changes_episode", "episode"),
    Index("ix_poundcake_changes_request", "request_id"),
)

events = Table(
    "poundcake_events",
    metadata,
    # A UUID derived from the fact that the event reports, so each fact has one event.
    Column("id", String(36), primary_key=True),
    # See outbox.EventKind.
    Column("kind", String(32), nullable=False),
    # The episode or, for a limit, `<limit>|<alert name, remediation or empty>`.
    Column("subject", String(255), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    # The payload of the trigger as JSON, before its text is made inert.
    Column("payload", LongText, nullable=False),
    # When the limit that this event reports last refused another change. NULL if it has not.
    Column("repeated_at", UtcDateTime),
    # When an endpoint published the event. NULL until then.
    Column("published_at", UtcDateTime),
    # The endpoint that has claimed the event, and when the claim expires.
    Column("publisher", String(36)),
    Column("publisher_until", UtcDateTime),
    Index("ix_poundcake_events_unpublished", "published_at", "at", "id"),
    Index("ix_poundcake_events_subject", "subject", "kind", "at"),
    Index("ix_poundcake_events_at", "at"),
)

meta = Table(
    "poundcake_meta",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", String(255), nullable=False),
)


def cut(text: str, column: ColumnElement[Any]) -> str:
    """Truncate a text to the length of its column.

    Lone surrogates become question marks, because neither database can store them.
    """
    return storable(text)[: getattr(column.type, "length", None)]


def truncate(text: str, column: ColumnElement[Any]) -> str:
    """Do the same as cut(), but also truncate a text whose column has no maximum length.

    On MariaDB, such a column holds 65,535 bytes, and a longer text fails.
    """
    return cut(text, column)[:_MAX_TEXT_LENGTH]


def storable(text: str) -> str:
    """Replace lone surrogates with question marks, because neither database can store them."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def to_json(value: Mapping[str, Any]) -> str:
    """Return an object as JSON that both databases can store."""
    text = _encode(value)
    if text.isascii():
        return text
    # JSON may contain lone surrogates as escapes, but neither database can store them.
    return _SURROGATE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def unindexed(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Wrap a text column in an expression that no index matches.

    If a statement reads only a few rows by id, this keeps SQLite from reading thousands of rows
    from the index of a filter instead.
    """
    return func.coalesce(column, "")
