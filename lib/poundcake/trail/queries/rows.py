"""The rows that views share: alerts, and the StackStorm executions that ran for them.

Text is returned as it was received. Sanitize it before passing it to StackStorm.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from itertools import starmap
from typing import Any, NamedTuple, Protocol, Sequence

from sqlalchemy import Row, Select, select
from sqlalchemy.engine import Connection

from poundcake.alertmanager import RESOLVED
from poundcake.stackstorm.web_ui import execution_url
from poundcake.timestamps import format_timestamp
from poundcake.trail.changes import COLUMNS as CHANGE_COLUMNS
from poundcake.trail.changes import Change
from poundcake.trail.database import has_one_of, read_batched
from poundcake.trail.execution_results import CHANGES, ExecutionResult, execution_result
from poundcake.trail.schema import alerts, api_calls, changes, executions, links

_MAX_MESSAGE_LINE = 500  # characters
_PACK_PREFIX = "poundcake."
DRY_RUN_NOTE = "dry run: nothing was changed"


class AlertRow(NamedTuple):
    """One alert of one notification, without the fields that can be megabytes long.

    The fields are columns of poundcake_alerts, except for `received_at`, which is its created_at,
    and `request_id`, which is a column of its request.
    """

    id: int
    api_call_id: int
    position: int
    request_id: str
    received_at: datetime
    fingerprint: str
    episode: str | None
    alert_name: str
    severity: str
    instance: str
    status: str
    starts_at: datetime | None
    ends_at: datetime | None
    outcome: str
    reason: str
    explanation: str | None
    explanation_reason: str | None
    st2_rule_matched: str | None
    open_fingerprint: str | None
    last_seen_at: datetime
    notifications: int
    closed_at: datetime | None
    attempt: int
    held_until: datetime | None
    notes: str | None
    ended_by: str | None
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    acknowledged_comment: str | None
    closed_by: str | None
    closed_comment: str | None
    silence_id: str | None
    silenced_by: str | None
    silenced_until: datetime | None
    silenced_comment: str | None

    @property
    def sender_ended_at(self) -> datetime | None:
        """When the alert ended: its endsAt or, for a resolve without one, the time of receipt."""
        return self.ends_at or (self.received_at if self.status == RESOLVED else None)

    @property
    def full_reason(self) -> str:
        """The reason for the outcome, joined with the reason for the explanation."""
        return join_reasons(self.reason, self.explanation_reason)


class WaitingAlert(Protocol):
    """The columns of an alert that reason_with_executions() needs."""

    @property
    def id(self) -> int:
        """The row id."""
        ...

    @property
    def explanation(self) -> str | None:
        """The explanation, or None until sync has explained the alert."""
        ...

    @property
    def explanation_reason(self) -> str | None:
        """The reason for the explanation, or what sync waits for."""
        ...


def incident_remarks(row: AlertRow) -> dict[str, Any]:
    """Return how an incident ended, and who acknowledged, closed or silenced it.

    Empty fields are left out.
    """
    remarks = {
        "ended_by": row.ended_by,
        "closed_by": row.closed_by,
        "closed_comment": row.closed_comment,
        "acknowledged_by": row.acknowledged_by,
        "acknowledged_at": format_optional(row.acknowledged_at),
        "acknowledged_comment": row.acknowledged_comment,
    }
    if row.open_fingerprint:  # the silence of an ended incident is no longer updated
        remarks.update(
            silence_id=row.silence_id,
            silenced_by=row.silenced_by,
            silenced_until=format_optional(row.silenced_until),
            silenced_comment=row.silenced_comment,
        )
    return {name: text for name, text in remarks.items() if text}


_RENAMED_COLUMNS = {"request_id": api_calls.c.request_id, "received_at": alerts.c.created_at}
_ALERT_COLUMNS = [
    _RENAMED_COLUMNS[name] if name in _RENAMED_COLUMNS else alerts.c[name]
    for name in AlertRow._fields
]
_ALERTS = select(*_ALERT_COLUMNS).join(api_calls, api_calls.c.id == alerts.c.api_call_id)
_ALERTS_BY_ID = _ALERTS.where(has_one_of(alerts.c.id))
_ALERTS_BY_CALL = _ALERTS.where(has_one_of(alerts.c.api_call_id))


@dataclass(frozen=True)
class Execution:
    """A StackStorm execution that was started for an alert, as of the last sync.

    If an execution is linked to several alerts, there is one object for each of them.

    Attributes:
        link_id: The row id of the link between the execution and the alert.
        request_id: The request that contained the alert.
        alert_id: The row id of the alert.
        st2_execution_id: The id of the execution.
        st2_workflow: The action that it runs.
        st2_rule: The rule that started it, or '' if it is not known.
        linked_at: When it was linked to the alert.
        status: Its status in StackStorm, `gone` if StackStorm has deleted it, or `unknown` if it
            was never read.
        started_at: When it started, or None if that is not known.
        ended_at: When it ended, or None if it has not.
        dry_run: Whether the workflow reported a dry run; None if it reported nothing.
        mutated: Whether the workflow reported a change; None if it reported nothing.
        verified: Whether the workflow reported a verified result; None if it reported nothing.
        stage: The stage that the workflow reported, or ''.
        message: The message that the workflow reported, or why it failed.
        url: The URL of its page in StackStorm's web UI, or '' if it is not known.
        has_claim: Whether it holds the claim on the episode.
        claim_released_at: When its claim was released, or None.
        elapsed_seconds: Its duration, as StackStorm measured it, or None if it was not read now.
        change: The change that it requested, or None.
        action: The action that it runs, which differs from `st2_workflow` if a remediation is named
            after the action that makes its change; '' if it is not known.
        evidence: What a remediation that ended without a change saw, one line each.
    """

    link_id: int
    request_id: str
    alert_id: int
    st2_execution_id: str
    st2_workflow: str
    st2_rule: str
    linked_at: datetime
    status: str
    started_at: datetime | None
    ended_at: datetime | None
    dry_run: bool | None
    mutated: bool | None
    verified: bool | None
    stage: str
    message: str
    url: str
    has_claim: bool = False
    claim_released_at: datetime | None = None
    elapsed_seconds: float | None = None
    change: Change | None = None
    action: str = ""
    evidence: tuple[str, ...] = ()

    @property
    def is_remediation(self) -> bool:
        """Whether it is a remediation of the pack, which changes nothing before its decision."""
        return self.action.startswith(_PACK_PREFIX)

    @property
    def duration_seconds(self) -> float | None:
        """The duration, or None while the execution has not ended."""
        if self.elapsed_seconds is not None:
            return round(self.elapsed_seconds, 3)
        if not self.started_at or not self.ended_at:
            return None
        return round((self.ended_at - self.started_at).total_seconds(), 3)

    @property
    def annotated_status(self) -> str:
        """Its status, with a note if it was a dry run."""
        return status_with_note(self.status, self.dry_run, self.mutated)

    @property
    def noted_message(self) -> str:
        """Its message, preceded by a note if it was a dry run."""
        return message_with_note(self.message, self.dry_run, self.mutated)

    @property
    def message_line(self) -> str:
        """The first line of its message, cut to the length that fits into a list."""
        lines = self.noted_message.splitlines()
        return lines[0][:_MAX_MESSAGE_LINE] if lines else ""

    @property
    def result(self) -> ExecutionResult:
        """What it achieved."""
        change = self.change
        return execution_result(
            self.status,
            self.stage,
            self.dry_run,
            self.mutated,
            change.result if change else None,
            change.refusal if change else "",
        )

    @property
    def did_work(self) -> bool:
        """Whether it did more than to find that another execution has the claim."""
        return self.result is not ExecutionResult.NOT_CLAIMED

    def result_as_json(self) -> dict[str, Any]:
        """Return what it achieved, as all views show it.

        The fields about the change that was made or refused are empty if it requested none.
        """
        change = self.change
        return {
            "result": self.result.value,
            "action": change.action if change else "",
            "target": change.target if change else "",
            "action_execution_id": (change.action_execution_id if change else None) or "",
            "change_reason": change.reason if change else "",
        }

    def as_json(self) -> dict[str, Any]:
        """Return the execution as JSON, as the views status and why show it."""
        fields = {
            "st2_execution_id": self.st2_execution_id,
            "st2_workflow": self.st2_workflow,
            "st2_rule": self.st2_rule,
            "alert_id": self.alert_id,
            "status": self.status,
            "started_at": format_optional(self.started_at),
            "ended_at": format_optional(self.ended_at),
            "duration_seconds": self.duration_seconds,
            "dry_run": self.dry_run,
            "mutated": self.mutated,
            "verified": self.verified,
            "stage": self.stage,
            "message": self.noted_message,
            "url": self.url,
            **self.result_as_json(),
        }
        if self.evidence:
            fields["evidence"] = list(self.evidence)
        return fields


_EXECUTION_COLUMNS = (
    links.c.id,
    links.c.request_id,
    links.c.alert_id,
    links.c.st2_execution_id,
    links.c.st2_rule_ref,
    links.c.st2_action_ref,
    links.c.created_at,
    links.c.claim,
    links.c.released_at,
    executions.c.action,
    executions.c.status,
    executions.c.start_timestamp,
    executions.c.end_timestamp,
    executions.c.rule,
    executions.c.error,
    executions.c.dry_run,
    executions.c.mutated,
    executions.c.verified,
    executions.c.stage,
    executions.c.message,
    executions.c.web_url,
)
_EXECUTIONS = select(*_EXECUTION_COLUMNS).outerjoin(
    executions, executions.c.id == links.c.st2_execution_id
)
_EXECUTIONS_BY_ALERT = _EXECUTIONS.where(has_one_of(links.c.alert_id))
_EXECUTIONS_BY_LINK = _EXECUTIONS.where(has_one_of(links.c.id))
_CHANGES_BY_EXECUTION = (
    select(*CHANGE_COLUMNS).where(has_one_of(changes.c.st2_execution_id)).order_by(changes.c.id)
)


def alerts_by_id(connection: Connection, ids: Sequence[int]) -> list[AlertRow]:
    """Return the alerts with these ids, newest first."""
    rows = [AlertRow(*row) for row in read_batched(connection, _ALERTS_BY_ID, ids)]
    return sorted(rows, key=lambda row: (row.received_at, row.id), reverse=True)


def alerts_of_request(connection: Connection, call_id: int) -> list[AlertRow]:
    """Return the alerts of the request with this row id, in no particular order."""
    return [AlertRow(*row) for row in read_batched(connection, _ALERTS_BY_CALL, [call_id])]


def executions_of_alerts(
    connection: Connection, alert_ids: Sequence[int], web_url: str = ""
) -> list[Execution]:
    """Return the executions that were started for alerts, in the order of their links.

    Args:
        connection: A connection to the tracking database.
        alert_ids: The row ids of the alerts.
        web_url: StackStorm's web UI, for links to the executions; '' if it is not configured.
    """
    return _read_executions(connection, _EXECUTIONS_BY_ALERT, alert_ids, web_url)


def executions_by_link(
    connection: Connection, link_ids: Sequence[int], web_url: str = ""
) -> dict[int, Execution]:
    """Return executions, keyed by the row id of their link to an alert."""
    linked_executions = _read_executions(connection, _EXECUTIONS_BY_LINK, link_ids, web_url)
    return {execution.link_id: execution for execution in linked_executions}


def _read_executions(
    connection: Connection, statement: Select[Any], values: Sequence[int], web_url: str
) -> list[Execution]:
    rows = [*read_batched(connection, statement, values)]
    execution_ids = sorted({row.st2_execution_id for row in rows})
    changes_by_execution = {
        change.st2_execution_id: change
        for change in starmap(
            Change, read_batched(connection, _CHANGES_BY_EXECUTION, execution_ids)
        )
    }
    linked_executions = [
        _execution(row, changes_by_execution.get(row.st2_execution_id), web_url) for row in rows
    ]
    return sorted(linked_executions, key=lambda execution: execution.link_id)


def _execution(row: Row[Any], change: Change | None, web_url: str) -> Execution:
    return Execution(
        link_id=row.id,
        request_id=row.request_id,
        alert_id=row.alert_id,
        st2_execution_id=row.st2_execution_id,
        st2_workflow=row.st2_action_ref or row.action or "",
        st2_rule=row.st2_rule_ref or row.rule or "",
        linked_at=row.created_at,
        status=row.status or "unknown",
        started_at=row.start_timestamp,
        ended_at=row.end_timestamp,
        dry_run=row.dry_run,
        mutated=row.mutated,
        verified=row.verified,
        stage=row.stage or "",
        message=row.message or row.error or "",
        url=execution_url(web_url, row.st2_execution_id) or row.web_url or "",
        has_claim=row.claim is not None,
        claim_released_at=row.released_at,
        change=change,
        action=row.action or "",
    )


def group_by_alert(linked_executions: Sequence[Execution]) -> dict[int, list[Execution]]:
    """Return executions grouped by the row id of their alert."""
    executions_by_alert: dict[int, list[Execution]] = {}
    for execution in linked_executions:
        executions_by_alert.setdefault(execution.alert_id, []).append(execution)
    return executions_by_alert


def reason_with_executions(row: WaitingAlert, linked_executions: Sequence[Execution]) -> str | None:
    """Return the reason for the explanation of an alert, if it is still true.

    Until sync has explained the alert, the reason may say that an execution has not linked itself
    yet, although it has.

    Args:
        row: The alert.
        linked_executions: The executions of this and other alerts.
    """
    reason = row.explanation_reason
    if reason and row.explanation is None:
        ids = (e.st2_execution_id for e in linked_executions if e.alert_id == row.id)
        if any(execution_id in reason for execution_id in ids):
            return None
    return reason


def without_outdated_reason(row: AlertRow, linked_executions: Sequence[Execution]) -> AlertRow:
    """Return an alert without a reason_with_executions() that is no longer true."""
    return row._replace(explanation_reason=reason_with_executions(row, linked_executions))


def first_workflow(linked_executions: Sequence[Execution]) -> str:
    """Return the workflow of the first execution whose workflow is known, or ''."""
    return next(
        (execution.st2_workflow for execution in linked_executions if execution.st2_workflow), ""
    )


def newest_execution(linked_executions: Sequence[Execution]) -> Execution | None:
    """Return the newest execution that did something or, if none did, the newest one."""
    if not linked_executions:
        return None
    return max(linked_executions, key=lambda execution: (execution.did_work, execution.link_id))


def main_execution(linked_executions: Sequence[Execution]) -> Execution | None:
    """Return the newest execution that made a change or, if none did, the newest_execution()."""
    makers = [execution for execution in linked_executions if execution.result in CHANGES]
    return newest_execution(makers or linked_executions)


def matched_rule(alert: AlertRow, linked_executions: Sequence[Execution]) -> str:
    """Return the rule that matched an alert, as stored by sync or by its executions, or ''."""
    rules = [alert.st2_rule_matched or "", *(execution.st2_rule for execution in linked_executions)]
    return next((rule for rule in rules if rule), "")


def join_reasons(reason: str, explanation_reason: str | None) -> str:
    """Join the reason for an outcome and the reason for the explanation."""
    return "; ".join(filter(None, (reason, explanation_reason)))


def request_state(
    error: str | None, has_lost_alert: bool, completed_at: datetime | None, has_executions: bool
) -> str:
    """Return the status of a recorded request: failed, lost, completed, running or recorded."""
    if error:
        return "failed"
    if has_lost_alert:
        return "lost"
    if completed_at:
        return "completed"
    return "running" if has_executions else "recorded"


def status_with_note(status: str, dry_run: bool | None, mutated: bool | None) -> str:
    """Return the status of a remediation, with a note if it was a dry run."""
    return f"{status} ({DRY_RUN_NOTE})" if dry_run and not mutated else status


def message_with_note(message: str, dry_run: bool | None, mutated: bool | None) -> str:
    """Return the message of a remediation, preceded by a note if it was a dry run."""
    if dry_run and not mutated:
        return f"{DRY_RUN_NOTE}. {message}" if message else DRY_RUN_NOTE
    return message


def format_optional(moment: datetime | None) -> str | None:
    """Return a time in the format of the views, or None if there is none."""
    return format_timestamp(moment) if moment else None
