"""What the events about remediations say about episodes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Mapping, NamedTuple, Sequence

from sqlalchemy import select
from sqlalchemy.engine import Connection

from poundcake.timestamps import parse_timestamp
from poundcake.trail import database
from poundcake.trail.execution_results import WITHOUT_CHANGE
from poundcake.trail.outbox import EventKind
from poundcake.trail.pending_approval import Approval
from poundcake.trail.queries.episode import ReportedEnd
from poundcake.trail.queries.rows import Execution
from poundcake.trail.schema import events

_KINDS = (EventKind.APPROVAL_WANTED, EventKind.REMEDIATION_ENDED)
_EVENTS = (
    select(events.c.subject, events.c.kind, events.c.payload)
    .where(database.has_one_of(events.c.subject), events.c.kind.in_(_KINDS))
    .order_by(events.c.at, events.c.id)
)


class EpisodeEvents(NamedTuple):
    """The events about the remediations of one episode.

    Attributes:
        approvals: The newest request for approval of each workflow, by the id of its execution.
            The request may have been answered since.
        ends: How each workflow ended, by the id of its execution.
    """

    approvals: dict[str, Approval]
    ends: dict[str, ReportedEnd]


def events_of_episodes(connection: Connection, names: Sequence[str]) -> dict[str, EpisodeEvents]:
    """Return the events about the remediations of these episodes, by episode."""
    by_episode: dict[str, EpisodeEvents] = {}
    subjects = sorted({name for name in names if name})
    for row in database.read_batched(connection, _EVENTS, subjects):
        found = by_episode.setdefault(row.subject, EpisodeEvents({}, {}))
        payload = json.loads(row.payload)
        execution_id = payload["execution_id"]
        if row.kind == EventKind.APPROVAL_WANTED:
            found.approvals[execution_id] = _read_approval(payload)
        else:
            found.ends[execution_id] = ReportedEnd(
                payload["refusal"],
                payload["action"],
                payload["target"],
                tuple(payload["evidence"]),
                payload["remediation"],
            )
    return by_episode


def add_evidence(
    executions: Sequence[Execution], ends: Mapping[str, ReportedEnd]
) -> list[Execution]:
    """Return executions, those that ended without a change with what they saw.

    Args:
        executions: The executions.
        ends: How remediations ended, by the execution of the workflow.
    """
    return [
        replace(execution, evidence=ends[execution.st2_execution_id].evidence)
        if execution.result in WITHOUT_CHANGE and execution.st2_execution_id in ends
        else execution
        for execution in executions
    ]


def _read_approval(payload: Mapping[str, Any]) -> Approval:
    return Approval(
        st2_inquiry_id=payload["inquiry_id"],
        st2_execution_id=payload["execution_id"],
        approvers=tuple(payload["approvers"]),
        until=parse_timestamp(payload["until"]),
        change=payload["change"],
        evidence=tuple(payload["evidence"]),
    )
