"""Apply matchers to the labels and annotations of recorded alerts.

They are stored as JSON, which no index covers. So a search applies matchers only to the candidates
that it found in an index, newest first, and stops when its time is over.
"""

from __future__ import annotations

import json
import re
import time
from typing import Callable, NamedTuple, Sequence

from sqlalchemy import ColumnElement, bindparam, case, func, null, select
from sqlalchemy.engine import Connection

from poundcake.matchers import Matcher, MatchType
from poundcake.trail import database
from poundcake.trail.alert_conditions import AlertConditions
from poundcake.trail.schema import alerts

MAX_SECONDS = 0.25
"""How long one search applies matchers.

Matching runs in the endpoint, and a client chooses the regular expressions.
"""
MAX_TEXT = 1 << 18
"""Maximum length of the JSON that matchers are applied to. They reject longer ones."""
_BATCH = 250
_SMALL_BATCH = 100
"""How many alerts are read at a time if a few matching ones may be enough."""
# Texts that any JSON encoder writes unchanged.
_SAME_IN_JSON = re.compile(r"[0-9A-Za-z._:@+ -]+\Z")


class Matching(NamedTuple):
    """The alerts that match.

    Attributes:
        ids: The row ids of these alerts, in the given order.
        checked_count: How many alerts were checked: all of them, or fewer if the time was over.
    """

    ids: list[int]
    checked_count: int


def find_matching(
    connection: Connection,
    ids: Sequence[int],
    conditions: AlertConditions,
    seconds: float = MAX_SECONDS,
    is_enough: Callable[[Sequence[int]], bool] | None = None,
) -> Matching:
    """Return which of these alerts satisfy the matchers of the conditions.

    Args:
        connection: A connection to the tracking database.
        ids: The row ids of the alerts, in the order in which they are checked.
        conditions: The conditions. Those on columns are not checked.
        seconds: How long to apply the matchers.
        is_enough: Stop after the batch after which this returns True for the matching ids.
    """
    if not conditions.has_matchers:
        return Matching(list(ids), len(ids))
    label_test, annotation_test = _Test(conditions.labels), _Test(conditions.annotations)
    deadline = time.monotonic() + seconds
    matching: list[int] = []
    checked_count = 0
    for batch in database.batched(ids, _SMALL_BATCH if is_enough else _BATCH):
        if is_enough and is_enough(matching):
            break
        texts_by_id = _read_texts(connection, batch, conditions)
        for row_id in batch:
            if time.monotonic() > deadline and checked_count:
                return Matching(matching, checked_count)
            checked_count += 1
            labels, annotations = texts_by_id.get(row_id, (None, None))
            if label_test.accepts(labels) and annotation_test.accepts(annotations):
                matching.append(row_id)
    return Matching(matching, checked_count)


def are_selective(conditions: AlertConditions) -> bool:
    """Return True if the database can leave out most of the alerts that do not match."""
    return any(map(_has_plain_value, (*conditions.labels, *conditions.annotations)))


def has_id(column: ColumnElement[int], ids: Sequence[int]) -> ColumnElement[bool]:
    """Return the condition for a row to have one of these ids.

    The ids are written into the statement, because SQLite before 3.32 allows only 999 parameters.
    """
    return column.in_(bindparam(None, list(ids), expanding=True, literal_execute=True))


def _read_texts(
    connection: Connection, ids: Sequence[int], conditions: AlertConditions
) -> dict[int, tuple[str | None, str | None]]:
    """Return the labels and annotations of the alerts that may match, as JSON by row id.

    What is not needed is None, and so are texts that are too long.
    """
    matchers_by_column = (
        (alerts.c.labels, conditions.labels),
        (alerts.c.annotations, conditions.annotations),
    )
    columns = [
        case((func.length(column) <= MAX_TEXT, column)) if matchers else null()
        for column, matchers in matchers_by_column
    ]
    # Let the database leave out most of the alerts that cannot match, because reading their texts
    # takes the longest.
    contains_values = [
        func.instr(column, f'"{matcher.value}"') > 0
        for column, matchers in matchers_by_column
        for matcher in filter(_has_plain_value, matchers)
    ]
    rows = connection.execute(
        select(alerts.c.id, *columns).where(has_id(alerts.c.id, ids), *contains_values)
    )
    return {row_id: (labels, annotations) for row_id, labels, annotations in rows}


def _has_plain_value(matcher: Matcher) -> bool:
    """Return True if the JSON of an alert that matches contains the value of the matcher."""
    return matcher.type is MatchType.EQUAL and bool(_SAME_IN_JSON.match(matcher.value))


class _Test:
    """Matchers and the results for the values seen so far, of which most alerts share a few."""

    def __init__(self, matchers: Sequence[Matcher]):
        self._results: list[tuple[Matcher, dict[str, bool]]] = [(m, {}) for m in matchers]

    def accepts(self, text: str | None) -> bool:
        """Return True if the JSON of an alert's labels or annotations satisfies all matchers."""
        if not self._results:
            return True
        if text is None:
            return False
        values = json.loads(text)
        return all(
            self._accepts_value(matcher, results, values.get(matcher.name, ""))
            for matcher, results in self._results
        )

    @staticmethod
    def _accepts_value(matcher: Matcher, results: dict[str, bool], value: str) -> bool:
        if value not in results:
            results[value] = matcher.accepts(value)
        return results[value]
