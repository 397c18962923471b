"""The parameters of a view: filters, a time range, and the cursor of a page.

Actions and URLs pass them as text, which this module parses and validates. The searches are in
`poundcake.trail.queries`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Sequence

from poundcake.alertmanager import FIRING, RESOLVED
from poundcake.errors import PoundCakeError
from poundcake.matchers import Matcher, MatchType, parse_matchers
from poundcake.timestamps import format_timestamp, parse_timestamp
from poundcake.trail.outcomes import Outcome
from poundcake.trail.schema import alerts, api_calls, cut

# Maximum values of the parameters limit and offset. To read rows beyond them, use `before`.
MAX_ROWS = 1000
MAX_OFFSET = 1000

OUTCOMES = tuple(outcome.value for outcome in Outcome)
# The filters on columns of poundcake_alerts.
ALERT_FILTERS = ("severity", "alert_name", "instance", "status", "outcome", "fingerprint")
# The columns of poundcake_alerts that contain one label each, by the name of the label.
LABEL_COLUMNS = {"alertname": "alert_name", "instance": "instance", "severity": "severity"}
# The filters that identify alerts. The view why needs one of them.
IDENTIFYING_FILTERS = (
    "alert_name",
    "instance",
    "fingerprint",
    "episode",
    "request_id",
    "labels",
    "annotations",
)
NO_VALUE = '""'
"""The value of alert_name, instance or severity that selects alerts without that label."""
MAX_MATCHER_CHARACTERS = 1000
"""Maximum length of the filters labels and annotations."""
MAX_MATCHERS = 10
"""Maximum number of matchers in one filter."""
MAX_REGEX_SIZE = 200
"""Maximum size of a regular expression in a matcher.

Expressions are applied in the endpoint to texts that senders chose. Larger ones could take seconds
for one text.
"""

# https://prometheus.io/docs/prometheus/latest/querying/basics/#float-literals-and-time-durations
_UNITS = (("y", 31_536_000), ("w", 604_800), ("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
_DURATION = re.compile("".join(rf"(?:([0-9]{{1,9}}){unit})?" for unit, _ in _UNITS) + r"\Z")

# Errors are shown as inert text, which has other quotes, so these are without.
_EXAMPLES = {
    "labels": "labels=team=infra,cluster=~eu-.*",
    "annotations": "annotations=summary=~.*disk.*",
}

_ID = re.compile(r"[0-9A-Za-z_-]{1,64}\Z")
# SQLite's integers have 64 bits.
_ROW_ID = re.compile(r"[0-9]{1,18}\Z")


class FilterError(PoundCakeError):
    """A filter has an invalid value. The message begins with the filter's name, `field`."""

    def __init__(self, field: str, problem: str):
        super().__init__(f"{field}: {problem}")
        self.field = field
        self._problem = problem

    def __reduce__(self) -> tuple[type[FilterError], tuple[str, str]]:
        """Return how to copy the error to another process."""
        return type(self), (self.field, self._problem)


@dataclass(frozen=True)
class Cursor:
    """The position of a row in a list that is sorted newest first.

    Each page returns the cursor of its last row as `next`. If it is passed back as `before`, the
    list continues after that row, even if new rows have been recorded since.

    Attributes:
        moment: The row's time, by which the list is sorted.
        ids: The unique columns by which rows with the same time are sorted. They depend on the
            view.
    """

    moment: datetime
    ids: tuple[str, ...]

    @classmethod
    def of(cls, moment: datetime, *ids: int | str) -> Cursor:
        """Return the cursor of a row."""
        return cls(moment, tuple(map(str, ids)))

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Parse a formatted cursor.

        Raises:
            FilterError: The text is not a cursor.
        """
        moment, *ids = text.split("/")
        try:
            parsed = parse_timestamp(moment)
        except ValueError:
            parsed = None
        if not parsed or not ids or not all(_ID.match(row_id) for row_id in ids):
            raise FilterError("before", "must be the `next` of the previous page")
        return cls(parsed, tuple(ids))

    def format(self) -> str:
        """Return the cursor as text: MOMENT/ID or MOMENT/ID/ID."""
        return "/".join([format_timestamp(self.moment), *self.ids])

    def row_ids(self, count: int) -> list[int]:
        """Return the ids as `count` row ids.

        Raises:
            FilterError: The cursor belongs to another view.
        """
        if len(self.ids) != count or not all(_ROW_ID.match(row_id) for row_id in self.ids):
            raise FilterError("before", "this is the `next` of another view")
        return [int(row_id) for row_id in self.ids]

    def execution_and_row_id(self) -> tuple[str, int]:
        """Return the ids as the id of a StackStorm execution and a row id.

        Raises:
            FilterError: The cursor belongs to another view.
        """
        (row_id,) = Cursor(self.moment, self.ids[1:]).row_ids(1)
        return self.ids[0], row_id


@dataclass(frozen=True)
class Filters:
    """The filters of a view. A row must match all of them; an empty filter matches any row.

    Attributes:
        since: The start of the time range, inclusive. The range applies to the start times of
            executions in a list of executions, and to the times of receipt in all other views.
        until: The end of that range, exclusive.
        severity: The severity of the alert.
        alert_name: The name of the alert.
        instance: The instance of the alert.
        status: The status of the alert, `firing` or `resolved`.
        outcome: The outcome of the alert.
        fingerprint: The fingerprint of the alert's label set, or a unique prefix of it.
        before: The cursor at which the previous page ended.
        episode: The name of the alert's episode, or a unique prefix of it.
        request_id: The id of the request that contained the alert, or a unique prefix of it.
        labels: The matchers that the alert's labels must satisfy.
        annotations: The matchers that its annotations must satisfy.
    """

    since: datetime | None = None
    until: datetime | None = None
    severity: str = ""
    alert_name: str = ""
    instance: str = ""
    status: str = ""
    outcome: str = ""
    fingerprint: str = ""
    before: Cursor | None = None
    episode: str = ""
    request_id: str = ""
    labels: tuple[Matcher, ...] = ()
    annotations: tuple[Matcher, ...] = ()

    @property
    def alert_filters(self) -> dict[str, str]:
        """Return the filters on columns of poundcake_alerts that are not empty, by column."""
        values = {name: getattr(self, name) for name in ALERT_FILTERS}
        return {name: value for name, value in values.items() if value}

    def without_episode(self) -> Filters:
        """Return the filters without the one on the episode."""
        return replace(self, episode="")

    @property
    def has_alert_filter(self) -> bool:
        """Whether any filter other than the time range selects alerts."""
        others = (self.episode, self.request_id, self.labels, self.annotations)
        return bool(self.alert_filters or any(others))


def parse(now: datetime | None = None, **filters: str) -> Filters:
    """Parse filters from text.

    Args:
        now: The time to which ages are relative. The default is the current time.
        filters: Fields of Filters. `since` and `until` are RFC 3339 times, or ages in the format of
            Prometheus durations (90s, 1h30m, 7d). `before` is the `next` of the previous page.
            `labels` and `annotations` are matchers in Alertmanager's syntax. A text that is longer
            than its column is truncated, as it is when an alert is recorded.

    Raises:
        FilterError: A value is invalid; the error names its field.
    """
    now = now or datetime.now(timezone.utc)
    since = _parse_time("since", filters.pop("since", ""), now)
    until = _parse_time("until", filters.pop("until", ""), now)
    if since and until and since >= until:
        raise FilterError("until", "must be later than since")
    before = filters.pop("before", "").strip()
    labels = _parse_matchers("labels", filters.pop("labels", ""))
    for label, column in LABEL_COLUMNS.items():
        if filters.get(column, "").strip() == NO_VALUE:
            filters.pop(column)
            labels += (Matcher(label, MatchType.EQUAL, ""),)
    annotations = _parse_matchers("annotations", filters.pop("annotations", ""))
    request_id = filters.pop("request_id", "").strip().lower()
    episode = filters.pop("episode", "").strip()
    alert_filters = {name: cut(text, alerts.c[name]) for name, text in filters.items() if text}
    require_one_of("status", alert_filters.get("status", ""), (FIRING, RESOLVED))
    require_one_of("outcome", alert_filters.get("outcome", ""), OUTCOMES)
    return Filters(
        since,
        until,
        before=Cursor.parse(before) if before else None,
        episode=cut(episode, alerts.c.episode),
        request_id=cut(request_id, api_calls.c.request_id),
        labels=labels,
        annotations=annotations,
        **alert_filters,
    )


def require_identifying_filter(filters: Filters) -> None:
    """Raise FilterError if none of the filters identifies alerts."""
    if not any(getattr(filters, name) for name in IDENTIFYING_FILTERS):
        raise FilterError(
            "alert_name",
            f"specify the alert by one of {', '.join(IDENTIFYING_FILTERS)}, for example "
            "alert_name=HostDown",
        )


def require_one_of(field: str, value: str, allowed: Sequence[str]) -> None:
    """Raise FilterError if a value is neither empty nor one of the allowed values."""
    if value and value not in allowed:
        raise FilterError(field, f"must be one of {', '.join(allowed)}")


def _parse_matchers(field: str, text: str) -> tuple[Matcher, ...]:
    if not text.strip():
        return ()
    if len(text) > MAX_MATCHER_CHARACTERS:
        raise FilterError(field, f"must have at most {MAX_MATCHER_CHARACTERS} characters")
    try:
        matchers = parse_matchers(text)
    except ValueError as error:
        raise FilterError(field, f"{error}; for example: {_EXAMPLES[field]}") from None
    if len(matchers) > MAX_MATCHERS:
        raise FilterError(field, f"must have at most {MAX_MATCHERS} matchers")
    for matcher in matchers:
        if matcher.size > MAX_REGEX_SIZE:
            raise FilterError(
                field,
                f"the regular expression {matcher.value} is too large for a filter: write fewer or "
                "smaller repetitions",
            )
    return matchers


def _parse_time(field: str, text: str, now: datetime) -> datetime | None:
    text = text.strip()
    if not text:
        return None
    age = _DURATION.match(text)
    try:
        if age:
            pairs = zip(age.groups(), _UNITS)
            return now - timedelta(seconds=sum(int(n or 0) * unit for n, (_, unit) in pairs))
        moment = parse_timestamp(text)
    except (OverflowError, ValueError):
        moment = None
    if moment is None:
        raise FilterError(
            field, "must be a time such as 2026-01-14T12:00:00Z, or an age such as 90m or 7d"
        )
    return moment
