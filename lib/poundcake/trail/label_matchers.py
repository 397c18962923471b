"""Apply matchers to the labels and annotations of recorded alerts.

They are stored as JSON, which no index covers. So a search applies matchers only to the candidates
that it found in an index, newest first, and stops when its time is over.
"""

from __future__ import annotations

import json
import time
from typing import Any, NamedTuple, Sequence

from sqlalchemy import Column, ColumnElement, bindparam, case, func, null, select
from sqlalchemy.engine import Connection

from poundcake.matchers import Matcher
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
) -> Matching:
    """Return which of these alerts satisfy the matchers of the conditions.

    Args:
        connection: A connection to the tracking database.
        ids: The row ids of the alerts, in the order in which they are checked.
        conditions: The conditions. Those on columns are not checked.
        seconds: How long to apply the matchers.
    """
    if not conditions.has_matchers:
        return Matching(list(ids), len(ids))
    label_test, annotation_test = _Test(conditions.labels), _Test(conditions.annotations)
    deadline = time.monotonic() + seconds
    matching: list[int] = []
    checked_count = 0
    for batch in database.batched(ids, _BATCH):
        rows = connection.execute(
            select(
                alerts.c.id,
                _text(alerts.c.labels, bool(conditions.labels)),
                _text(alerts.c.annotations, bool(conditions.annotations)),
            ).where(has_id(alerts.c.id, batch))
        )
        texts_by_id = {row[0]: row[1:] for row in rows}
        for row_id in batch:
            if time.monotonic() > deadline and checked_count:
                return Matching(matching, checked_count)
            checked_count += 1
            labels, annotations = texts_by_id.get(row_id, (None, None))
            if label_test.accepts(labels) and annotation_test.accepts(annotations):
                matching.append(row_id)
    return Matching(matching, checked_count)


def has_id(column: ColumnElement[int], ids: Sequence[int]) -> ColumnElement[bool]:
    """Return the condition for a row to have one of these ids.

    The ids are written into the statement, because SQLite before 3.32 allows only 999 parameters.
    """
    return column.in_(bindparam(None, list(ids), expanding=True, literal_execute=True))


def _text(column: Column[str], is_needed: bool) -> ColumnElement[Any]:
    if not is_needed:
        return null()
    return case((func.length(column) <= MAX_TEXT, column))


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
