"""The search behind the views: newest first, by one index, and never further than DEPTH rows.

A view has to answer in the middle of an incident, however long the history is. So a search walks
one index from its newest end, filters by what stands in that index, and stops: where it stopped
before the history did, the view says that its count is a lower bound, and from where to go on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from sqlalchemy import String, and_, func, or_, select, tuple_
from sqlalchemy.engine import Connection
from sqlalchemy.sql import Select

from poundcake.alertmanager import FIRING, RESOLVED
from poundcake.errors import PoundCakeError
from poundcake.timestamps import format_timestamp, parse_timestamp
from poundcake.trail import database
from poundcake.trail.outcomes import Outcome
from poundcake.trail.schema import alerts, cut

DEPTH = 1_000
MOST_ROWS = 1000
MOST_OFFSET = DEPTH

OUTCOMES = (
    Outcome.ADMITTED,
    Outcome.RESOLVED,
    Outcome.DUPLICATE,
    Outcome.COOLDOWN,
    Outcome.RATE_LIMITED,
    Outcome.MALFORMED,
)
# The one that tells most goes first: its index is walked, the others are looked up in it.
_INDEXES = (
    ("fingerprint", "ix_poundcake_alerts_by_fingerprint"),
    ("instance", "ix_poundcake_alerts_by_instance"),
    ("alert_name", "ix_poundcake_alerts_by_name"),
    ("outcome", "ix_poundcake_alerts_by_outcome"),
    ("severity", "ix_poundcake_alerts_by_severity"),
)
BY_TIME = "ix_poundcake_alerts_by_time"
TEXTS = ("severity", "alert_name", "instance", "status", "outcome", "fingerprint")
# https://prometheus.io/docs/prometheus/latest/querying/basics/#float-literals-and-time-durations
_UNITS = (("y", 31_536_000), ("w", 604_800), ("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
_DURATION = re.compile("".join(rf"(?:([0-9]{{1,9}}){unit})?" for unit, _ in _UNITS) + r"\Z")

_ID = re.compile(r"[0-9A-Za-z_-]{1,64}\Z")


class FilterError(PoundCakeError):
    """A filter that cannot be used. The message begins with the field's name."""

    def __init__(self, field: str, what: str):
        super().__init__(f"{field}: {what}")
        self.field = field


@dataclass(frozen=True)
class Filters:
    """What a view is asked for; all of it must hold. Empty means any.

    since, until: when the notification was received, or the execution started; since inclusive,
    until exclusive. before: (moment, ids) of the row that the last page ended with.
    """

    since: datetime | None = None
    until: datetime | None = None
    severity: str = ""
    alert_name: str = ""
    instance: str = ""
    status: str = ""
    outcome: str = ""
    fingerprint: str = ""
    before: tuple[datetime, tuple[str, ...]] | None = None

    @property
    def of_alerts(self) -> bool:
        """Whether any of them is a property of an alert."""
        return any(getattr(self, name) for name in TEXTS)


def parse(now: datetime | None = None, **given: str) -> Filters:
    """Filters from what a person wrote. Raises FilterError.

    since and until: an RFC 3339 time, or how long ago, as Prometheus writes durations (90s, 1h30m,
    7d). before: the `next` of the page before.
    """
    now = now or datetime.now(timezone.utc)
    values: dict = {}
    for name, text in given.items():
        text = text.strip() if name in ("since", "until", "before") else text
        if not text:
            continue
        if name in ("since", "until"):
            values[name] = _moment(name, text, now)
        elif name == "before":
            values[name] = _place(text)
        else:
            values[name] = cut(text, alerts.c[name])
    since, until = values.get("since"), values.get("until")
    if since and until and since >= until:
        raise FilterError("until", "a moment after since is expected")
    one_of("status", values.get("status"), (FIRING, RESOLVED))
    one_of("outcome", values.get("outcome"), OUTCOMES)
    return Filters(**values)


def place(moment: datetime, *ids: Any) -> str:
    """What `before` takes to go on after the row that these tell from all others."""
    return "/".join([format_timestamp(moment), *map(str, ids)])


def last_ids(filters: Filters, *columns: Any) -> list[Any]:
    """The ids in `before`, each as its column has it. Raises FilterError."""
    texts = filters.before[1]
    numbers = [not isinstance(column.type, String) for column in columns]
    # SQLite counts up to 2**63.
    wrong = [t for n, t in zip(numbers, texts) if n and not (t.isdigit() and len(t) < 19)]
    if wrong or len(texts) != len(columns):
        raise FilterError("before", "it is the `next` of another view")
    return [int(t) if n else t for n, t in zip(numbers, texts)]


def within(filters: Filters, moment: Any, *ids: Any) -> list[Any]:
    """The conditions of the rows within the filters' times that come after the last page. ids: the
    columns that rows of one moment are told apart by.
    """
    conditions = []
    if filters.since:
        conditions.append(moment >= filters.since)
    if filters.until:
        conditions.append(moment < filters.until)
    if filters.before:
        last, values = filters.before[0], last_ids(filters, *ids)
        # The first condition is what an index can be entered by.
        conditions += [moment <= last, or_(moment < last, tuple_(*ids) < tuple_(*values))]
    return conditions


def look(connection: Connection, filters: Filters) -> Any:
    """(looked, matches): the newest alerts as a subquery of at most DEPTH + 1 rows with id,
    api_call_id, created_at and outcome, and the condition of those that match all filters.
    `before` has the id of an alert.
    """
    index, first = BY_TIME, ""
    for name, candidate in _INDEXES:
        if getattr(filters, name):
            index, first = candidate, name
            break
    rest = [name for name in TEXTS if name != first and getattr(filters, name)]
    columns = ["id", "api_call_id", "created_at", "outcome"]
    columns += [name for name in rest if name not in columns]
    statement = select(*[alerts.c[name] for name in columns])
    if first:
        statement = statement.where(alerts.c[first] == getattr(filters, first))
    statement = (
        by_index(connection, statement, alerts, index)
        .where(*within(filters, alerts.c.created_at, alerts.c.id))
        .order_by(alerts.c.created_at.desc(), alerts.c.id.desc())
        .limit(DEPTH + 1)
    )
    looked = statement.subquery("looked")
    return looked, and_(True, *[looked.c[name] == getattr(filters, name) for name in rest])


def by_index(connection: Connection, statement: Select, table: Any, index: str) -> Select:
    """The statement with the index that it is made for, where the tables have it already."""
    # MariaDB's optimizer prefers another index with the same first column, and sorts.
    known = connection.info.get("poundcake_indexes")
    if known is None:
        known = connection.info["poundcake_indexes"] = database.has_view_indexes(connection)
    if not known:
        return statement
    return statement.with_hint(table, f"FORCE INDEX ({index})")


def unindexed(column: Any) -> Any:
    """A text column as an expression, which no index has: SQLite knows no FORCE INDEX."""
    return func.coalesce(column, "")


def _moment(name: str, text: str, now: datetime) -> datetime:
    match = _DURATION.match(text)
    if match:
        seconds = sum(int(n or 0) * unit for n, (_, unit) in zip(match.groups(), _UNITS))
        try:
            return now - timedelta(seconds=seconds)
        except OverflowError:
            pass
    try:
        found = parse_timestamp(text)
    except ValueError:
        found = None
    if found is None:
        raise FilterError(
            name, "a time such as 2026-01-14T12:00:00Z, or how long ago, such as 90m or 7d"
        )
    return found


def _place(text: str) -> tuple[datetime, tuple[str, ...]]:
    moment, *ids = text.split("/")
    try:
        found = parse_timestamp(moment)
    except ValueError:
        found = None
    if not found or not ids or not all(_ID.match(row_id) for row_id in ids):
        raise FilterError("before", "the `next` of the page before is expected")
    return found, tuple(ids)


def one_of(name: str, value: str | None, known: tuple[str, ...]) -> None:
    """Raises FilterError where a value is given that is none of the known ones."""
    if value and value not in known:
        raise FilterError(name, f"one of {', '.join(known)} is expected")
