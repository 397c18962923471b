"""The whole trail of one request."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Sequence

from sqlalchemy import select
from sqlalchemy.engine import Connection

from poundcake.timestamps import format_timestamp
from poundcake.trail import short_ids
from poundcake.trail.audit import AuditEntry, read_entries
from poundcake.trail.changes import Change
from poundcake.trail.execution_results import WITHOUT_CHANGE
from poundcake.trail.outcomes import Explanation
from poundcake.trail.queries.changes import as_json as change_as_json
from poundcake.trail.queries.changes import changes_of_request
from poundcake.trail.queries.episode import Description
from poundcake.trail.queries.episode_events import add_evidence, events_of_episodes
from poundcake.trail.queries.episodes import read_descriptions
from poundcake.trail.queries.rows import (
    AlertRow,
    Execution,
    alerts_of_request,
    executions_of_alerts,
    first_workflow,
    format_optional,
    group_by_alert,
    incident_remarks,
    matched_rule,
    request_state,
    without_outdated_reason,
)
from poundcake.trail.schema import api_calls

_REQUEST_COLUMNS = [
    api_calls.c[name]
    for name in (
        "id",
        "request_id",
        "created_at",
        "completed_at",
        "receiver",
        "truncated_alerts",
        "replay_of",
        "client_request_id",
        "error",
        "credential",
    )
]


@dataclass(frozen=True)
class RequestAlert:
    """One alert of the request, and the executions that were started for it."""

    row: AlertRow
    executions: list[Execution]
    description: Description

    def as_json(self) -> dict[str, Any]:
        """Return the alert as JSON, as the view's URL returns it."""
        row = self.row
        fields = {
            "id": row.id,
            "fingerprint": row.fingerprint,
            "episode": row.episode or "",
            "alert_name": row.alert_name,
            "severity": row.severity,
            "instance": row.instance,
            **self.description.as_json(),
            "status": row.status,
            "outcome": row.outcome,
            "reason": row.full_reason,
            "starts_at": format_optional(row.starts_at),
            "ends_at": format_optional(row.sender_ended_at),
            "st2_rule": matched_rule(row, self.executions),
            "st2_workflow": first_workflow(self.executions),
            **incident_remarks(row),
        }
        if row.notes:
            fields["notes"] = row.notes
        return fields


@dataclass(frozen=True)
class RequestTrail:
    """A request, its alerts in the order of the payload, and the executions that ran for them.

    Attributes:
        request_id: The id of the request.
        received_at: When the endpoint received it.
        completed_at: When it was completed, or None while it is open.
        status: Its state, see rows.request_state().
        receiver: The receiver of Alertmanager's notification.
        truncated_alerts: The number of alerts that Alertmanager left out of the notification.
        alerts: The alerts of the request.
        executions: The executions that were started for these alerts.
        replay_of: The request that it replays, or empty.
        client_request_id: The id that its sender chose if another request already had it, or empty.
        error: Why its alerts could not be recorded, or empty.
        credential: The name of the credential that its sender used, or '' if none was required.
        audit: The audit entries of the request and of its alerts' episodes, oldest first.
        changes: The changes that were made or refused for its alerts, oldest first.
    """

    request_id: str
    received_at: datetime
    completed_at: datetime | None
    status: str
    receiver: str
    truncated_alerts: int
    alerts: list[RequestAlert]
    executions: list[Execution]
    replay_of: str = ""
    client_request_id: str = ""
    error: str = ""
    credential: str = ""
    audit: list[AuditEntry] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the trail as JSON, as the view's URL returns it."""
        fields: dict[str, Any] = {
            "request_id": self.request_id,
            "received_at": format_timestamp(self.received_at),
            "completed_at": format_optional(self.completed_at),
            "status": self.status,
            "receiver": self.receiver,
            "truncated_alerts": self.truncated_alerts,
            "alerts": [alert.as_json() for alert in self.alerts],
            "stackstorm_executions": [execution.as_json() for execution in self.executions],
        }
        for name in ("credential", "replay_of", "client_request_id", "error"):
            if getattr(self, name):
                fields[name] = getattr(self, name)
        if self.audit:
            fields["audit"] = [entry.as_json() for entry in self.audit]
        if self.changes:
            fields["changes"] = [change_as_json(change) for change in self.changes]
        return fields


def request_trail(
    connection: Connection, request_id: str, web_url: str = ""
) -> RequestTrail | None:
    """Return the trail of a request, or None if it is not recorded.

    Args:
        connection: A connection to the tracking database.
        request_id: The id of the request, or a unique prefix of it.
        web_url: StackStorm's web UI, for links to the executions.

    Raises:
        FilterError: Several request_ids begin with `request_id`.
    """
    request_id = short_ids.find_request_id(connection, request_id) or request_id
    call = connection.execute(
        select(*_REQUEST_COLUMNS).where(api_calls.c.request_id == request_id)
    ).one_or_none()
    if call is None:
        return None
    alert_rows = alerts_of_request(connection, call.id)
    alert_rows.sort(key=lambda row: row.position)
    executions = executions_of_alerts(connection, [row.id for row in alert_rows], web_url)
    if any(execution.result in WITHOUT_CHANGE for execution in executions):
        events = events_of_episodes(connection, [row.episode or "" for row in alert_rows])
        ends = {key: end for found in events.values() for key, end in found.ends.items()}
        executions = add_evidence(executions, ends)
    executions_by_alert = group_by_alert(executions)
    descriptions = read_descriptions(connection, [row.id for row in alert_rows])
    return RequestTrail(
        request_id=call.request_id,
        received_at=call.created_at,
        completed_at=call.completed_at,
        status=request_state(
            call.error,
            any(row.explanation == Explanation.LOST for row in alert_rows),
            call.completed_at,
            bool(executions),
        ),
        receiver=call.receiver or "",
        truncated_alerts=call.truncated_alerts,
        alerts=[
            RequestAlert(
                without_outdated_reason(row, executions_by_alert.get(row.id, [])),
                executions_by_alert.get(row.id, []),
                descriptions.get(row.id, Description()),
            )
            for row in alert_rows
        ],
        executions=executions,
        replay_of=call.replay_of or "",
        client_request_id=call.client_request_id or "",
        error=call.error or "",
        credential=call.credential,
        audit=_audit(connection, request_id, alert_rows),
        changes=changes_of_request(connection, request_id),
    )


def _audit(
    connection: Connection, request_id: str, alert_rows: Sequence[AlertRow]
) -> list[AuditEntry]:
    by_target = read_entries(connection, [request_id, *(row.episode or "" for row in alert_rows)])
    entries = [entry for target_entries in by_target.values() for entry in target_entries]
    return sorted(entries, key=lambda entry: entry.at)
