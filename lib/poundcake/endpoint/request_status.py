"""The status view of a request, which is in the journal before it is in the tracking database."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

from poundcake.endpoint.journal_entry import Entry
from poundcake.endpoint.journal_file import JournalError
from poundcake.timestamps import format_timestamp
from poundcake.trail import queries
from poundcake.trail.database import DatabaseError


class JournalStatus(NamedTuple):
    """What the journal says about a request.

    Attributes:
        view: The status view of the request while it is not recorded; None if it is not in the
            journal.
        problem: Why the journal cannot be read, or ''.
    """

    view: dict[str, Any] | None
    problem: str = ""


def read_status(
    read: Callable[..., Any], journal: JournalStatus, request_id: str, web_url: str
) -> dict[str, Any] | None:
    """Return the status view of a request, even if it is not recorded yet; None if unknown.

    Args:
        read: Returns a view of the tracking database, with open executions as they are now.
        journal: What the journal says about the request.
        request_id: The id of the request, or a unique prefix of it.
        web_url: The URL of StackStorm's Web UI, for links.

    Raises:
        FilterError: Several request_ids begin with it.
        DatabaseError: The request is not in the journal, and the tracking database cannot be read.
        JournalError: The request is not in the tracking database, and the journal cannot be read.
    """
    try:
        view: dict[str, Any] | None = read(queries.status, request_id=request_id, web_url=web_url)
    except DatabaseError as error:
        if journal.view is None:
            raise
        return {**journal.view, "blocked_by": f"database: {error}"}
    if view is None and journal.view is None and journal.problem:
        raise JournalError(journal.problem)
    return journal.view if view is None else view


def pending_status(entry: Entry, blocked_by: str = "") -> dict[str, Any]:
    """Return the status view of a request that is not recorded yet.

    Args:
        entry: The journal's entry for the request.
        blocked_by: What keeps it from being recorded, or '' if nothing is wrong.
    """
    document: dict[str, Any] = {
        "request_id": entry.request_id,
        "received_at": format_timestamp(entry.received_at),
        "completed_at": None,
        "status": entry.state.value,
        "receiver": "",
        "truncated_alerts": 0,
        "alerts": [],
        "stackstorm_executions": [],
    }
    if entry.credential:
        document["credential"] = entry.credential
    if blocked_by:
        document["blocked_by"] = blocked_by
    return document
