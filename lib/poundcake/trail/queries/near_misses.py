"""Explain an answer without rows: which recorded alerts nearly matched, and what excluded them.

A few of the newest alerts are read for each filter that has an index. find_nearest() then decides,
without the database, which of them are excluded by the fewest filters.
"""

from __future__ import annotations

import difflib
import json
import re
import time
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Iterable, NamedTuple, Sequence

from sqlalchemy import ColumnElement, select
from sqlalchemy.engine import Connection

from poundcake.hosts import host_and_port
from poundcake.matchers import Matcher, MatchType
from poundcake.timestamps import format_timestamp
from poundcake.trail.alert_conditions import (
    AlertConditions,
    has_value,
    host_prefix,
    is_pattern,
    pattern_matcher,
    resolve,
)
from poundcake.trail.index_ranges import distinct_values
from poundcake.trail.label_matchers import has_id
from poundcake.trail.queries.rows import executions_of_alerts
from poundcake.trail.schema import alerts, api_calls
from poundcake.trail.search import NO_VALUE, Filters

MAX_SHOWN = 5
"""Maximum number of near misses in an answer."""
_CANDIDATES = 20  # alerts that are read for each filter
_SIMILAR = 3  # similar names or instances that are looked up
_MAX_NAMES = 1000
_MAX_COMPARED = 100  # characters of a value
_MIN_SIMILARITY = 0.75
_MAX_SECONDS = 0.25  # to apply matchers to the candidates
_SIMPLE = re.compile(r"[0-9A-Za-z_.:/-]+\Z")
_NOT_OPEN, _NOTHING_RAN = "state", "executions"
# The filters of which only the beginning has to be right.
_ID_FILTERS = ("fingerprint", "episode", "request_id")
# The filters whose value a person may misspell.
_SPELLED_FILTERS = ("alert_name", "instance", "severity", "labels", "annotations")


class Exclusion(NamedTuple):
    """Why a recorded alert does not match.

    Attributes:
        filter: The parameter. `state` stands for an alert that is not open in a list of open
            incidents, and `executions` for one for which nothing ran in a list of executions.
        given: The value that was asked for.
        found: The value of the alert.
    """

    filter: str
    given: str
    found: str


@dataclass(frozen=True)
class Candidate:
    """A recorded alert that may nearly match, and what excludes it besides its own fields."""

    id: int
    alert_name: str
    severity: str
    instance: str
    status: str
    outcome: str
    fingerprint: str
    episode: str
    request_id: str
    received_at: datetime
    labels: dict[str, str]
    annotations: dict[str, str]
    exclusions: tuple[Exclusion, ...] = ()


@dataclass(frozen=True)
class NearMiss:
    """An alert that nearly matched, or a value that no alert has.

    Attributes:
        alert: The newest alert that was excluded for these reasons, or None if no alert has the
            value of the filter.
        excluded_by: The reasons, at least one.
    """

    alert: Candidate | None
    excluded_by: tuple[Exclusion, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the near miss as JSON, as the views return it."""
        fields: dict[str, Any] = {
            "excluded_by": [exclusion._asdict() for exclusion in self.excluded_by]
        }
        if self.alert:
            fields.update(
                alert_name=self.alert.alert_name,
                instance=self.alert.instance,
                severity=self.alert.severity,
                episode=self.alert.episode,
                received_at=format_timestamp(self.alert.received_at),
            )
        return fields


def needs_near_misses(rows: Sequence[object], filters: Filters, offset: int) -> bool:
    """Return True if the first page of an answer with filters has no rows."""
    return not (rows or offset or filters == Filters() or filters.before)


def near_misses(connection: Connection, filters: Filters) -> list[dict[str, Any]]:
    """Return the alerts that nearly match filters on alerts, as JSON."""
    candidates, unknown = _read_candidates(connection, filters)
    return _as_json(find_nearest(filters, candidates), unknown)


def near_misses_of_incidents(connection: Connection, filters: Filters) -> list[dict[str, Any]]:
    """Return the open incidents or, if there are none, the alerts that nearly match, as JSON."""
    candidates, unknown = _read_candidates(connection, filters)
    # SQLite uses no index for IS NOT NULL.
    open_alerts = _read_newest(connection, [alerts.c.open_fingerprint > ""])
    open_fingerprints = {alert.fingerprint for alert in open_alerts}
    ended = Exclusion(_NOT_OPEN, "open", "ended")
    # The time range applies to the alert that opened an incident.
    any_time = replace(filters, since=None, until=None)
    ended_alerts = [
        replace(alert, exclusions=(ended,))
        for alert in candidates
        if alert.fingerprint not in open_fingerprints
    ]
    nearest_ended = find_nearest(any_time, ended_alerts)
    if any(miss.excluded_by == (ended,) for miss in nearest_ended):
        return _as_json(nearest_ended, unknown)
    nearest = find_nearest(filters, open_alerts) + nearest_ended
    return _as_json(_fewest_exclusions(nearest), unknown)


def near_misses_of_executions(
    connection: Connection, filters: Filters, status: str = ""
) -> list[dict[str, Any]]:
    """Return the alerts and executions that nearly match, as JSON.

    Args:
        connection: A connection to the tracking database.
        filters: The filters. Their time range applies to the start of the execution.
        status: The status of the execution that was asked for, or ''.
    """
    candidates, unknown = _read_candidates(connection, filters)
    executions = executions_of_alerts(connection, [candidate.id for candidate in candidates])
    with_executions = []
    for candidate in candidates:
        own = [execution for execution in executions if execution.alert_id == candidate.id]
        exclusions = [Exclusion(_NOTHING_RAN, "any", "none")]
        if own:
            newest = own[-1]
            started_at = newest.started_at or newest.linked_at
            exclusions = _time_exclusions(filters, started_at)
            if status and newest.status != status:
                exclusions.append(Exclusion("status", status, newest.status))
        with_executions.append(replace(candidate, exclusions=tuple(exclusions)))
    any_time = replace(filters, since=None, until=None)
    return _as_json(find_nearest(any_time, with_executions), unknown)


def find_nearest(filters: Filters, candidates: Iterable[Candidate]) -> list[NearMiss]:
    """Return the candidates that are excluded by the fewest filters, the newest of each kind.

    Candidates with a similar spelling come first. Candidates that are not excluded are left out. If
    the search takes too long, so are the oldest ones.
    """
    newest_first = sorted(candidates, key=lambda alert: (alert.received_at, alert.id), reverse=True)
    found: dict[tuple[Any, ...], NearMiss] = {}
    deadline = time.monotonic() + _MAX_SECONDS
    for alert in newest_first:
        if time.monotonic() > deadline:
            break
        exclusions = (*_exclusions(filters, alert), *alert.exclusions)
        kind = (alert.alert_name, alert.instance, *exclusions)
        if exclusions and kind not in found:
            found[kind] = NearMiss(alert, exclusions)
    return _fewest_exclusions(found.values())


def _fewest_exclusions(misses: Iterable[NearMiss]) -> list[NearMiss]:
    misses = list(misses)
    fewest = min((len(miss.excluded_by) for miss in misses), default=0)
    nearest = [miss for miss in misses if len(miss.excluded_by) == fewest]
    # A value that is spelled similarly is probably the one that was meant.
    return sorted(nearest, key=_has_similar_values, reverse=True)[:MAX_SHOWN]


def _has_similar_values(miss: NearMiss) -> bool:
    spelled = [exclusion for exclusion in miss.excluded_by if exclusion.filter in _SPELLED_FILTERS]
    return bool(spelled) and all(
        _is_similar(exclusion.given, exclusion.found) for exclusion in spelled
    )


def _is_similar(given: str, found: str) -> bool:
    """Return True if two values or matchers differ in a few characters or in their case."""
    given_name, _, given_value = given.rpartition("=")
    found_name, _, found_value = found.rpartition("=")
    one, other = (value[:_MAX_COMPARED].casefold() for value in (given_value, found_value))
    similarity = difflib.SequenceMatcher(None, one, other).ratio()
    return given_name == found_name and similarity >= _MIN_SIMILARITY


def _as_json(nearest: Sequence[NearMiss], unknown: Sequence[NearMiss]) -> list[dict[str, Any]]:
    return [miss.as_json() for miss in [*unknown, *nearest]][:MAX_SHOWN]


def _exclusions(filters: Filters, alert: Candidate) -> list[Exclusion]:
    """Return why the filters exclude an alert."""
    exclusions = [
        Exclusion(name, given, getattr(alert, name) or NO_VALUE)
        for name, given in filters.alert_filters.items()
        if not _accepts(name, given, getattr(alert, name))
    ]
    for name in ("episode", "request_id"):
        given = getattr(filters, name)
        if given and not getattr(alert, name).startswith(given):
            exclusions.append(Exclusion(name, given, getattr(alert, name)))
    for name in ("labels", "annotations"):
        texts = getattr(alert, name)
        for matcher in getattr(filters, name):
            if not matcher.matches(texts):
                actual = Matcher(matcher.name, MatchType.EQUAL, texts.get(matcher.name, ""))
                exclusions.append(Exclusion(name, _format(matcher), _format(actual)))
    return exclusions + _time_exclusions(filters, alert.received_at)


def _format(matcher: Matcher) -> str:
    """Return a matcher without quotes if they are not needed."""
    if _SIMPLE.match(matcher.name) and _SIMPLE.match(matcher.value):
        return f"{matcher.name}{matcher.type}{matcher.value}"
    return str(matcher)


def _accepts(name: str, given: str, text: str) -> bool:
    if name == "alert_name":
        return pattern_matcher("alertname", given).accepts(text)
    if name == "instance":
        return pattern_matcher("instance", given).accepts(text)
    return text.startswith(given) if name in _ID_FILTERS else text == given


def _time_exclusions(filters: Filters, moment: datetime) -> list[Exclusion]:
    exclusions = []
    if filters.since and moment < filters.since:
        exclusions.append(Exclusion("since", _seconds(filters.since), _seconds(moment)))
    if filters.until and moment >= filters.until:
        exclusions.append(Exclusion("until", _seconds(filters.until), _seconds(moment)))
    return exclusions


def _seconds(moment: datetime) -> str:
    return format_timestamp(moment.replace(microsecond=0))


def _read_candidates(
    connection: Connection, filters: Filters
) -> tuple[list[Candidate], list[NearMiss]]:
    """Return alerts that may nearly match, and the filters whose value no alert has."""
    conditions = resolve(connection, filters)
    candidates: dict[int, Candidate] = {}
    unknown = []
    sources = _sources(connection, filters, conditions)
    for name, source in sources:
        read = _read_newest(connection, source)
        candidates.update((alert.id, alert) for alert in read)
        similar = [] if read else _similar_values(connection, name, getattr(filters, name))
        if similar:
            column = alerts.c[name]
            for value in similar:
                read += _read_newest(connection, [column == value])
            candidates.update((alert.id, alert) for alert in read)
        if not read:
            unknown.append(NearMiss(None, (Exclusion(name, getattr(filters, name), ""),)))
    if not sources:
        candidates.update((alert.id, alert) for alert in _read_newest(connection, []))
    return list(candidates.values()), unknown


def _sources(
    connection: Connection, filters: Filters, conditions: AlertConditions
) -> list[tuple[str, list[ColumnElement[bool]]]]:
    """Return the filters that have an index, with the conditions that they mean."""
    sources: list[tuple[str, list[ColumnElement[bool]]]] = []
    if filters.episode:
        sources.append(("episode", [alerts.c.episode == conditions.episode]))
    if filters.request_id:
        sources.append(("request_id", [alerts.c.api_call_id == conditions.call_id]))
    for name in ("fingerprint", "instance", "alert_name"):
        if getattr(filters, name) and name in conditions.values:
            values = conditions.values[name][:_SIMILAR]
            sources.append((name, [has_value(alerts.c[name], values)]))
    return sources


def _similar_values(connection: Connection, name: str, text: str) -> list[str]:
    """Return recorded names or instances that are spelled similarly."""
    if is_pattern(text):
        return []
    if name == "instance":
        return _similar_instances(connection, text)
    if name != "alert_name":
        return []
    names = {
        known.casefold(): known
        for known in distinct_values(connection, alerts.c.alert_name, _MAX_NAMES)
        if known
    }
    close = difflib.get_close_matches(text.casefold(), names, _SIMILAR, _MIN_SIMILARITY)
    contained = [folded for folded in names if text.casefold() in folded]
    return [names[folded] for folded in dict.fromkeys([*close, *contained])][:_SIMILAR]


def _similar_instances(connection: Connection, text: str) -> list[str]:
    """Return instances of the same host: in lower case, or with another port, domain or path."""
    parsed = host_and_port(text)
    if parsed is None:
        return []
    host = parsed.host
    found = []
    for prefix in (host_prefix(host), host + "."):
        found += distinct_values(connection, alerts.c.instance, _SIMILAR, prefix)
    found += [alert.instance for alert in _read_newest(connection, [alerts.c.host == host])]
    return list(dict.fromkeys(instance for instance in found if instance))[:_SIMILAR]


def _read_newest(
    connection: Connection,
    conditions: Sequence[ColumnElement[bool]],
) -> list[Candidate]:
    """Return the newest alerts that satisfy the conditions."""
    newest = (
        select(alerts.c.id)
        .where(*conditions)
        .order_by(alerts.c.created_at.desc(), alerts.c.id.desc())
        .limit(_CANDIDATES)
    )
    ids = connection.scalars(newest).all()
    names = ("id", "alert_name", "severity", "instance", "status", "outcome", "fingerprint")
    rows = connection.execute(
        select(
            *[alerts.c[name] for name in names],
            alerts.c.episode,
            api_calls.c.request_id,
            alerts.c.created_at,
            alerts.c.labels,
            alerts.c.annotations,
        )
        .join(api_calls, api_calls.c.id == alerts.c.api_call_id)
        .where(has_id(alerts.c.id, ids))
    )
    return [
        Candidate(
            id=row.id,
            alert_name=row.alert_name,
            severity=row.severity,
            instance=row.instance,
            status=row.status,
            outcome=row.outcome,
            fingerprint=row.fingerprint,
            episode=row.episode or "",
            request_id=row.request_id,
            received_at=row.created_at,
            labels=json.loads(row.labels),
            annotations=json.loads(row.annotations),
        )
        for row in rows
    ]
