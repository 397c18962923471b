"""Show the requests in the journal that wait to be recorded, with their alerts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, Sequence

from poundcake import alertmanager
from poundcake.alertmanager import Alert, Identity, PayloadError
from poundcake.announcement import Request
from poundcake.endpoint.journal import Entry, Journal
from poundcake.timestamps import format_timestamp
from poundcake.trail.alert_conditions import pattern_matcher
from poundcake.trail.queries.episode import Description
from poundcake.trail.search import Filters

MAX_SCANNED = 200
"""How many of the newest waiting requests are searched."""
_MAX_ALERTS = 20  # shown of one request


@dataclass(frozen=True)
class WaitingRequest:
    """A request that is not recorded yet, and those of its alerts that match the filters.

    Attributes:
        entry: The journal's entry.
        blocked_by: What keeps it from being recorded, or '' if nothing is wrong.
        alerts: The matching alerts.
    """

    entry: Entry
    blocked_by: str
    alerts: Sequence[Alert] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the request as JSON, as its URL returns it."""
        document: dict[str, Any] = {
            "request_id": self.entry.request_id,
            "received_at": format_timestamp(self.entry.received_at),
            "status": self.entry.state.value,
            "attempts": self.entry.attempts,
            "stuck": self.entry.is_stuck,
            "blocked_by": self.blocked_by,
            "alerts": [_alert_as_json(alert) for alert in self.alerts[:_MAX_ALERTS]],
        }
        if len(self.alerts) > _MAX_ALERTS:
            document["alerts_left_out"] = len(self.alerts) - _MAX_ALERTS
        return document


@dataclass(frozen=True)
class Candidates:
    """The newest waiting requests, which may have matching alerts.

    Attributes:
        entries: The journal's entries, newest first.
        requests: The requests with their bodies, by their ids.
        reasons: What keeps each request from being recorded, by its id; '' if nothing is wrong.
        skip: How many of the matching requests to skip.
        count: The number of matching requests, or None if the bodies have to be searched.
        at_least: Whether there are older waiting requests.
    """

    entries: Sequence[Entry]
    requests: Mapping[str, Request]
    reasons: Mapping[str, str]
    skip: int
    count: int | None
    at_least: bool


def read_candidates(
    journal: Journal,
    filters: Filters,
    limit: int,
    offset: int,
    blocked_by: Callable[[Entry], str],
) -> Candidates:
    """Return the waiting requests in which find_waiting() has to search.

    Args:
        journal: The journal.
        filters: The filters on alerts.
        limit: The maximum number of requests.
        offset: How many requests to skip.
        blocked_by: Returns why a request is not recorded yet, or ''.

    Raises:
        JournalError: The journal cannot be read.
    """
    entries = journal.newest_waiting(MAX_SCANNED + 1)
    at_least = len(entries) > MAX_SCANNED
    entries = entries[:MAX_SCANNED]
    count = None
    if filters == Filters():
        # Each request with an alert matches, so only the bodies of this page have to be parsed.
        entries = [entry for entry in entries if entry.alert_count]
        count, entries, offset = len(entries), entries[offset : offset + limit], 0
    requests = {request.request_id: request for request in journal.load_requests(entries)}
    reasons = {entry.request_id: blocked_by(entry) for entry in entries}
    return Candidates(entries, requests, reasons, offset, count, at_least)


def find_waiting(
    candidates: Candidates, identity: Identity, filters: Filters, limit: int
) -> dict[str, Any]:
    """Return the waiting requests with a matching alert, newest first.

    This parses the bodies of up to MAX_SCANNED requests, so it takes long.

    Args:
        candidates: The requests, from read_candidates() with the same filters.
        identity: What identifies an alert, for its fingerprint.
        filters: The filters on alerts.
        limit: The maximum number of requests.
    """
    matches = _find_matches(candidates.requests, identity, filters)
    found = [
        WaitingRequest(entry, candidates.reasons[entry.request_id], matches[entry.request_id])
        for entry in candidates.entries
        if matches.get(entry.request_id)
    ]
    shown = found[candidates.skip : candidates.skip + limit]
    view: dict[str, Any] = {
        "requests": [request.as_json() for request in shown],
        "count": len(found) if candidates.count is None else candidates.count,
    }
    if candidates.at_least:
        view["at_least"] = True
    return view


def _find_matches(
    requests: Mapping[str, Request], identity: Identity, filters: Filters
) -> dict[str, list[Alert]]:
    """Return the matching alerts of each request, by the id of the request."""
    return {
        request_id: [alert for alert in _parse(request, identity) if _matches(alert, filters)]
        for request_id, request in requests.items()
        if request_id.startswith(filters.request_id)
        and (not filters.since or request.received_at >= filters.since)
        and (not filters.until or request.received_at < filters.until)
    }


def _parse(request: Request, identity: Identity) -> Sequence[Alert]:
    try:
        return alertmanager.parse(request.body.encode(), identity).alerts
    except PayloadError:
        return ()


def _matches(alert: Alert, filters: Filters) -> bool:
    """Return True if an alert matches the filters, as it will when it is recorded."""
    if filters.outcome or filters.episode:
        return False  # they are decided when the request is recorded
    values = {"severity": alert.severity, "status": alert.status}
    texts = {"alertname": filters.alert_name, "instance": filters.instance}
    matchers = [pattern_matcher(name, text) for name, text in texts.items() if text]
    return (
        all(getattr(filters, name) in ("", value) for name, value in values.items())
        and alert.fingerprint.startswith(filters.fingerprint)
        and all(matcher.matches(alert.labels) for matcher in (*matchers, *filters.labels))
        and all(matcher.matches(alert.annotations) for matcher in filters.annotations)
    )


def _alert_as_json(alert: Alert) -> dict[str, Any]:
    return {
        "alert_name": alert.name,
        "severity": alert.severity,
        "instance": alert.instance,
        "status": alert.status,
        "fingerprint": alert.fingerprint,
        **Description.of(alert.labels, alert.annotations).as_json(),
    }
