"""An episode of an alert: its notifications, what ran for it, and what people did."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Mapping, NamedTuple

from poundcake.timestamps import format_timestamp
from poundcake.trail.audit import AuditEntry
from poundcake.trail.changes import NOT_CLAIMED, Change
from poundcake.trail.outcomes import Outcome
from poundcake.trail.pending_approval import Approval
from poundcake.trail.queries.changes import as_json as change_as_json
from poundcake.trail.queries.rows import AlertRow, Execution, format_optional, incident_remarks

FIRING = "firing"
"""The state of an episode whose incident is open."""
_SHOWN_IN_TITLE = ("alertname", "instance", "severity")
# The maximum number of labels in a view, and the lengths to which a view cuts texts.
_MAX_LABELS = 20
_MAX_LABEL = 200
_MAX_SUMMARY = 500
_MAX_URL = 1000


@dataclass(frozen=True)
class Notification:
    """One alert of an episode, from one request."""

    row: AlertRow
    st2_rule: str

    def as_json(self) -> dict[str, Any]:
        """Return the notification as JSON, as the view's URL returns it."""
        fields = {
            "request_id": self.row.request_id,
            "received_at": format_timestamp(self.row.received_at),
            "id": self.row.id,
            "status": self.row.status,
            "outcome": self.row.outcome,
            "reason": self.row.full_reason,
            "st2_rule": self.st2_rule,
        }
        if self.row.notes:
            fields["notes"] = self.row.notes
        return fields


class ReportedEnd(NamedTuple):
    """The end of a remediation, as its event reports it.

    Attributes:
        refusal: The name of the control that refused the change, or ''.
        action: The action that made the change, or would have made it, or ''.
        target: What was changed, or would have been changed.
        evidence: What the checks and the evidence actions saw, one line each.
        remediation: The name of the entry in `remediations` or, without one, the action or the
            workflow; '' if the event does not say.
    """

    refusal: str
    action: str
    target: str
    evidence: tuple[str, ...] = ()
    remediation: str = ""


@dataclass(frozen=True)
class Description:
    """What an alert says about itself, besides its name, instance and severity.

    Attributes:
        labels: The other labels, the shortest first. Names that begin with two underscores are
            internal to Prometheus, and are left out.
        summary: The annotation `summary`, or another one that describes the alert, or ''.
        runbook_url: The annotation `runbook_url`, or ''.
        left_out_count: The number of labels that are not in `labels`, because there are too many.
    """

    labels: Mapping[str, str] = field(default_factory=dict)
    summary: str = ""
    runbook_url: str = ""
    left_out_count: int = 0

    @classmethod
    def of(cls, labels: Mapping[str, Any], annotations: Mapping[str, Any]) -> Description:
        """Return the description of an alert with these labels and annotations.

        Long texts are cut, because a page shows up to 1000 alerts.
        """
        others = [
            (str(name), shorten_text(str(value), _MAX_LABEL))
            for name, value in labels.items()
            if name not in _SHOWN_IN_TITLE and not name.startswith("__")
        ]
        others.sort(key=lambda label: (sum(map(len, label)), label))
        summaries = [annotations.get(name) for name in ("summary", "description", "message")]
        runbook_url = str(annotations.get("runbook_url") or "")
        return cls(
            labels=dict(others[:_MAX_LABELS]),
            summary=shorten_text(next((str(t) for t in summaries if t), ""), _MAX_SUMMARY),
            # A part of a URL leads nowhere.
            runbook_url=runbook_url if len(runbook_url) <= _MAX_URL else "",
            left_out_count=max(0, len(others) - _MAX_LABELS),
        )

    def as_json(self) -> dict[str, Any]:
        """Return the description as JSON."""
        fields: dict[str, Any] = {
            "labels": dict(self.labels),
            "summary": self.summary,
            "runbook_url": self.runbook_url,
        }
        return {**fields, "labels_left_out": self.left_out_count} if self.left_out_count else fields


def shorten_text(text: str, length: int) -> str:
    """Return a text, with its end replaced by "…" if it has more characters than this."""
    return text if len(text) <= length else text[: length - 1] + "…"


@dataclass(frozen=True)
class Episode:
    """One episode and the executions that ran for it.

    Attributes:
        name: The id of the episode, or '' for an alert without one, such as a malformed alert.
        fingerprint: The fingerprint of its label set.
        alert_name: The name of the alert.
        severity: The severity of the alert.
        instance: The instance of the alert.
        state: `firing`, `resolved`, `superseded` by a later episode, `closed` by a person,
            `expired`, `gone`, or '' if it was never an incident.
        starts_at: When the alert began to fire.
        ends_at: When the alert ended, or None if it has not.
        incident: The alert whose row is or was that of the open incident, or None.
        audit: The audit entries of the episode and of the shown requests, oldest first.
        changes: The changes that were made or refused for it, oldest first.
        last_seen_at: When the newest notification was received.
        notification_count: The number of firing notifications that were received.
        notifications: The notifications to show, oldest first: the first one, those that changed
            something, and the newest repetitions.
        executions: The executions that were started for these notifications.
        left_out_count: The number of counted notifications that are not in `notifications`.
        description: What the alert says about itself.
        approvals: The requests for approval that its workflows wait for.
        reported_ends: How its remediations ended, by the execution of the workflow.
        failures_in_a_row: How many changes of the same target by the same remediation failed or
            did not help, up to and including the newest one of this episode.
    """

    name: str
    fingerprint: str
    alert_name: str
    severity: str
    instance: str
    state: str
    starts_at: datetime | None
    ends_at: datetime | None
    last_seen_at: datetime
    notification_count: int
    notifications: list[Notification]
    executions: list[Execution]
    left_out_count: int = 0
    incident: AlertRow | None = None
    audit: list[AuditEntry] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    description: Description = Description()
    approvals: list[Approval] = field(default_factory=list)
    reported_ends: Mapping[str, ReportedEnd] = field(default_factory=dict)
    failures_in_a_row: int = 0

    @property
    def newest_row(self) -> AlertRow:
        """The newest notification."""
        return self.notifications[-1].row

    def as_json(self) -> dict[str, Any]:
        """Return the episode as JSON, as the view's URL returns it."""
        fields: dict[str, Any] = {
            "episode": self.name,
            "fingerprint": self.fingerprint,
            "alert_name": self.alert_name,
            "severity": self.severity,
            "instance": self.instance,
            **self.description.as_json(),
            "state": self.state,
            "starts_at": format_optional(self.starts_at),
            "ends_at": format_optional(self.ends_at),
            "last_seen_at": format_timestamp(self.last_seen_at),
            "notifications": self.notification_count,
            "alerts": [notification.as_json() for notification in self.notifications],
            "stackstorm_executions": [execution.as_json() for execution in self.executions],
        }
        if self.left_out_count:
            fields["alerts_left_out"] = self.left_out_count
        if self.incident:
            fields.update(incident_remarks(self.incident))
            if self.incident.outcome != Outcome.ADMITTED:
                fields["outcome"] = self.incident.outcome
        lists = {
            "audit": [entry.as_json() for entry in self.audit],
            "changes": [change_as_json(change) for change in self.changes],
            "approvals": [approval.as_json() for approval in self.approvals],
            "claims": self._claims_as_json(),
        }
        fields.update({name: rows for name, rows in lists.items() if rows})
        if self.failures_in_a_row > 1:
            fields["failures_in_a_row"] = self.failures_in_a_row
        return fields

    def _claims_as_json(self) -> list[dict[str, Any]]:
        """Return the executions that got the claim on the episode, and those that did not."""
        claims = [
            {
                "st2_execution_id": execution.st2_execution_id,
                "st2_workflow": execution.st2_workflow,
                "result": "claimed" if execution.has_claim else "released",
                "reason": "",
            }
            for execution in self.executions
            if execution.has_claim or execution.claim_released_at
        ]
        claims += [
            {
                "st2_execution_id": change.st2_execution_id,
                "st2_workflow": change.action,
                "result": "lost",
                "reason": change.reason,
            }
            for change in self.changes
            if change.refusal == NOT_CLAIMED
        ]
        return claims
