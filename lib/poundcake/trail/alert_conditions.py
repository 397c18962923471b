"""Turn the filters of a view into conditions on poundcake_alerts.

A condition on a column with an index is cheap. So the matchers on the labels alertname, instance
and severity become values of their columns where that is possible, and so do a pattern, a host
without its port, and a short id. The remaining matchers are applied to the JSON of each alert; see
label_matchers.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Callable, Mapping, Sequence

from sqlalchemy import ColumnElement, select
from sqlalchemy.engine import Connection

from poundcake.hosts import canonical_host
from poundcake.matchers import Matcher, MatchType
from poundcake.trail import short_ids
from poundcake.trail.index_ranges import distinct_values
from poundcake.trail.schema import alerts, api_calls, cut
from poundcake.trail.search import LABEL_COLUMNS, Filters

MAX_VALUES = 20
"""Maximum number of values of a column to which a pattern is expanded.

A search reads the index of each value. If more values match, the pattern is applied to the labels
of the newest alerts instead.
"""
_MAX_DISTINCT = 1000
_MAX_SECONDS = 0.25  # to apply a matcher to these values
_WILDCARD = "*"
_PATTERN_COLUMNS = {"alert_name": "alertname", "instance": "instance"}
# The labels with few enough values for a regular expression to be applied to all of them.
_FEW_VALUES = ("alertname", "severity")
_NO_REQUEST = 0


@dataclass(frozen=True)
class AlertConditions:
    """The conditions that an alert must satisfy, without the time range.

    Attributes:
        values: The possible values of each column that is filtered.
        labels: The matchers that remain to be applied to the labels.
        annotations: The matchers to apply to the annotations.
        episode: The name of the episode, or ''.
        call_id: The row id of the request, or None for any. No row has the id 0.
    """

    values: Mapping[str, tuple[str, ...]]
    labels: tuple[Matcher, ...] = ()
    annotations: tuple[Matcher, ...] = ()
    episode: str = ""
    call_id: int | None = None

    @property
    def has_matchers(self) -> bool:
        """Whether matchers remain to be applied to labels or annotations."""
        return bool(self.labels or self.annotations)

    @property
    def is_simple(self) -> bool:
        """Whether an alert matches if each filtered column has a certain value."""
        has_one_value = all(len(values) == 1 for values in self.values.values())
        return has_one_value and not (self.has_matchers or self.episode or self.call_id is not None)

    def on_columns(
        self, column: Callable[[str], ColumnElement[str]], names: Sequence[str] = ()
    ) -> list[ColumnElement[bool]]:
        """Return the conditions on columns.

        Args:
            column: Returns the column with a name.
            names: Only the conditions on these columns; all by default.
        """
        return [
            has_value(column(name), values)
            for name, values in self.values.items()
            if not names or name in names
        ]


def has_value(column: ColumnElement[str], values: Sequence[str]) -> ColumnElement[bool]:
    """Return the condition for a column to have one of these values."""
    return column == values[0] if len(values) == 1 else column.in_(values)


def resolve(connection: Connection, filters: Filters) -> AlertConditions:
    """Return the conditions for alerts that match the filters, apart from the time range.

    Raises:
        FilterError: A short id is ambiguous.
    """
    values: dict[str, tuple[str, ...]] = {
        name: (text,) for name, text in filters.alert_filters.items()
    }
    labels = list(filters.labels)
    if "fingerprint" in values:
        values["fingerprint"] = (short_ids.find_fingerprint(connection, filters.fingerprint),)
    for column, label in _PATTERN_COLUMNS.items():
        if column in values:
            expanded = _expand_text(connection, column, values[column][0])
            if expanded is None:
                labels.append(pattern_matcher(label, values.pop(column)[0]))
            else:
                values[column] = expanded
    remaining = []
    for matcher in labels:
        matched_values = _values_of_matcher(connection, matcher)
        if matched_values is None:
            remaining.append(matcher)
            continue
        column = LABEL_COLUMNS[matcher.name]
        values[column] = tuple(
            value for value in values.get(column, matched_values) if value in matched_values
        )
    episode = filters.episode and short_ids.find_episode(connection, filters.episode)
    return AlertConditions(
        values,
        tuple(remaining),
        filters.annotations,
        episode or filters.episode,
        _find_call(connection, filters.request_id) if filters.request_id else None,
    )


def pattern_matcher(label: str, pattern: str) -> Matcher:
    """Return the matcher for a label of which a text or a pattern with `*` is given.

    An instance that is a host without a port also matches the host with any port.
    """
    if is_pattern(pattern):
        regex = ".*".join(map(re.escape, pattern.split(_WILDCARD)))
    else:
        prefix = host_prefix(pattern) if label == "instance" else ""
        with_port = f"|{re.escape(prefix)}.*" if prefix else ""
        regex = re.escape(pattern) + with_port
    return Matcher(label, MatchType.REGEX, f"(?s){regex}")


def is_pattern(text: str) -> bool:
    """Return True if a filter on a name or an instance is a pattern."""
    return _WILDCARD in text


def host_prefix(instance: str) -> str:
    """Return how an instance begins if it is a host with a port: `web-1:` for `web-1`.

    Return '' if the text has a port or is not a host.
    """
    if not canonical_host(instance):
        return ""
    return f"[{instance}]:" if ":" in instance else f"{instance}:"


def _expand_text(connection: Connection, column: str, text: str) -> tuple[str, ...] | None:
    """Return the recorded values that a filter means, or None if there are too many to look up."""
    if is_pattern(text):
        prefix, _, _ = text.partition(_WILDCARD)
        matcher = pattern_matcher(_PATTERN_COLUMNS[column], text)
        return _matching_values(connection, column, matcher, prefix)
    prefix = host_prefix(text) if column == "instance" else ""
    if not prefix:
        return (text,)
    with_port = distinct_values(connection, alerts.c.instance, MAX_VALUES, prefix)
    return (text, *with_port) if len(with_port) < MAX_VALUES else None


def _values_of_matcher(connection: Connection, matcher: Matcher) -> tuple[str, ...] | None:
    """Return the recorded values of a column that a matcher accepts, or None if it must be applied.

    A text that fills its column may be truncated, so such matchers are applied to the labels.
    """
    if matcher.name not in LABEL_COLUMNS:
        return None
    column = alerts.c[LABEL_COLUMNS[matcher.name]]
    if matcher.type is MatchType.EQUAL:
        value = cut(matcher.value, column)
        return None if _may_be_truncated(value, column) else (value,)
    if matcher.type is MatchType.REGEX and matcher.name in _FEW_VALUES:
        return _matching_values(connection, column.name, matcher)
    return None


def _matching_values(
    connection: Connection, column_name: str, matcher: Matcher, prefix: str = ""
) -> tuple[str, ...] | None:
    column = alerts.c[column_name]
    values = distinct_values(connection, column, _MAX_DISTINCT + 1, prefix)
    if len(values) > _MAX_DISTINCT or any(_may_be_truncated(value, column) for value in values):
        return None
    matching: list[str] = []
    deadline = time.monotonic() + _MAX_SECONDS
    for value in values:
        if time.monotonic() > deadline or len(matching) > MAX_VALUES:
            return None
        if matcher.accepts(value):
            matching.append(value)
    return tuple(matching) if len(matching) <= MAX_VALUES else None


def _may_be_truncated(value: str, column: ColumnElement[str]) -> bool:
    length = getattr(column.type, "length", None)
    return length is not None and len(value) >= length


def _find_call(connection: Connection, request_id: str) -> int:
    found = short_ids.find_request_id(connection, request_id)
    call_id = connection.scalar(select(api_calls.c.id).where(api_calls.c.request_id == found))
    return call_id or _NO_REQUEST
