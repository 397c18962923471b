"""Find the StackStorm triggers of open alerts.

StackStorm cannot search trigger instances by payload, only by time. So each instance of
poundcake.alert is read once, newest first, and its id is stored with the alert for which it was
emitted. If a round cannot read a time span, it stores that span for the next round.
"""

from __future__ import annotations

import re
from collections import defaultdict
from datetime import datetime, timezone
from typing import Callable, Mapping, NamedTuple, Sequence

from sqlalchemy import func, or_, select, update
from sqlalchemy.engine import Connection

from poundcake.stackstorm import (
    CLOCK_ALLOWANCE,
    Page,
    StackStormApi,
    StackStormError,
    TriggerInstance,
    noting_errors,
)
from poundcake.timestamps import format_timestamp, parse_timestamp
from poundcake.trail import database
from poundcake.trail.clock import database_now
from poundcake.trail.open_work import is_unexplained
from poundcake.trail.outcomes import Explanation
from poundcake.trail.schema import alerts, api_calls, meta
from poundcake.trail.sync_round import Deadline, SyncRound, write_meta

ALERT_TRIGGER = "poundcake.alert"
_PROGRESS = "sync_triggers"
_MAX_PAGES = 100
"""Maximum pages that a round reads."""
_PAGE = 100  # maximum entries in a list of StackStorm's API
# Maximum ids stored with an alert. Because of CLOCK_ALLOWANCE, consecutive rounds read some
# triggers twice. If their ids were no longer stored, the alert would look as if it had been emitted
# again. An alert is emitted at most once a minute, so this maximum is high enough.
_MAX_IDS = 8
_ID = re.compile(r"[0-9A-Za-z_-]{1,24}\Z", re.ASCII)
_NONE = "-"


class Span(NamedTuple):
    """A time span, by StackStorm's clock, whose triggers have not been read."""

    after: datetime
    before: datetime | None
    """The end of the span, or None if it extends to the current time."""


class _EmittedAlert(NamedTuple):
    """The fields of a trigger's payload that identify the alert for which it was emitted."""

    request_id: str
    episode: str
    status: str


EVERYTHING = Span(datetime(1970, 1, 1, tzinfo=timezone.utc), None)


class Progress(NamedTuple):
    """How far the triggers have been read."""

    newest: datetime | None = None
    """The time of the newest trigger that was read, or None if none was read."""
    unread: Span | None = None
    """The span of older triggers that have not been read yet, or None."""


class FoundTriggers(NamedTuple):
    """The triggers that a round read."""

    instances: Mapping[str, TriggerInstance]
    """The instances that were read in this round, by id."""
    unread: Span | None = None
    """The span that may contain unread triggers, or None if all triggers have been read."""
    failure: StackStormError | None = None
    """Why triggers could not be read, or None."""


def find_triggers(sync_round: SyncRound, api: StackStormApi, deadline: Deadline) -> FoundTriggers:
    """Read new triggers, and store their ids with their alerts.

    A failure is returned, not raised. The next round reads the triggers that are still unread.
    """
    with database.reading(sync_round.engine) as connection:
        progress = _read_progress(connection)
        oldest_recorded_at = connection.scalar(
            select(func.min(alerts.c.recorded_at)).where(is_unexplained())
        )
        now = database_now(connection)
    if oldest_recorded_at is None:
        return FoundTriggers({})
    try:
        stackstorm_now = api.now()
    except StackStormError as error:
        return FoundTriggers({}, EVERYTHING, error)
    # Compute the alert's age by the database's clock, and subtract it from StackStorm's time.
    start = stackstorm_now - (now - oldest_recorded_at) - CLOCK_ALLOWANCE
    recent_span, gap = spans_to_read(progress, start, stackstorm_now)
    reader = _Reader(sync_round, api, deadline, progress.newest)
    if reader.read(recent_span, gap) and gap:
        reader.read(gap, None)
    return FoundTriggers(reader.instances, reader.unread, reader.failure)


def spans_to_read(progress: Progress, start: datetime, now: datetime) -> tuple[Span, Span | None]:
    """Return the span of recent triggers, and the gap that earlier rounds left unread, if any.

    Args:
        progress: How far earlier rounds have read.
        start: The earliest time at which the oldest open alert could have been emitted.
        now: The current time by StackStorm's clock. If `progress` is later, that clock has been
            set back.
    """
    after = start
    if progress.newest:
        after = max(start, min(progress.newest, now) - CLOCK_ALLOWANCE)
    gap = progress.unread
    if gap is None or gap.before is None or gap.before <= start:
        return Span(after, None), None
    return Span(after, None), Span(max(gap.after, start), gap.before)


def merge_spans(newer: Span | None, older: Span | None) -> Span | None:
    """Return the smallest span that covers both spans."""
    if newer is None or older is None:
        return newer or older
    open_ended = newer.before is None or older.before is None
    before = None if open_ended else max(filter(None, (newer.before, older.before)))
    return Span(min(newer.after, older.after), before)


class _Reader:
    """Reads time spans page by page, and stores its progress after each page."""

    def __init__(
        self,
        sync_round: SyncRound,
        api: StackStormApi,
        deadline: Deadline,
        newest: datetime | None,
    ):
        self.instances: dict[str, TriggerInstance] = {}
        self.unread: Span | None = None
        self.failure: StackStormError | None = None
        # The trigger ids that this round read, newest first, grouped by alert.
        self._ids: dict[_EmittedAlert, list[str]] = defaultdict(list)
        self._newest = newest
        self._round = sync_round
        self._api = api
        self._deadline = deadline
        self._remaining_pages = _MAX_PAGES

    def read(self, span: Span, gap: Span | None) -> bool:
        """Read a span, newest first. Return True if all of it was read.

        Args:
            span: The span.
            gap: An older span that is still unread.
        """
        remaining_span: Span | None = span
        while remaining_span:
            page = self._page(remaining_span)
            if page is None:
                break
            remaining_span = Span(span.after, page.older) if page.older else None
            self._store(page.items, merge_spans(remaining_span, gap))
        self.unread = merge_spans(remaining_span, gap)
        return remaining_span is None

    def _page(self, span: Span) -> Page[TriggerInstance] | None:
        """Return the newest page of a span, or None if this round cannot read it."""
        if self._remaining_pages <= 0 or self._deadline.has_passed:
            self._round.note("there was no time to read all triggers; the next round continues")
            return None
        self._remaining_pages -= 1
        try:
            page = self._api.list_triggers(ALERT_TRIGGER, span.after, span.before)
        except StackStormError as error:
            self.failure = error
            return None
        if page.unreadable:
            self._round.note(f"left out {page.unreadable} triggers without an id, time or payload")
        return page

    def _store(self, instances: Sequence[TriggerInstance], unread: Span | None) -> None:
        for instance in instances:
            if instance.id not in self.instances:
                self.instances[instance.id] = instance
                self._ids[_emitted_alert(instance)].append(instance.id)
        moments = [instance.occurred_at for instance in instances]
        self._newest = max(moments + ([self._newest] if self._newest else []), default=None)
        request_ids = {_emitted_alert(instance).request_id for instance in instances}
        with self._round.writing() as connection:
            self._store_ids(connection, sorted(filter(_is_request_id, request_ids)))
            write_meta(connection, _PROGRESS, _format_progress(Progress(self._newest, unread)))

    def _store_ids(self, connection: Connection, request_ids: Sequence[str]) -> None:
        """Add the ids of the triggers read in this round to the alerts of these requests."""
        rows = connection.execute(
            select(
                alerts.c.id,
                alerts.c.episode,
                alerts.c.status,
                alerts.c.trigger_instances,
                api_calls.c.request_id,
            )
            .join(api_calls, api_calls.c.id == alerts.c.api_call_id)
            # Include alerts that sync gave up on, because a claim on their episode reopens them.
            .where(
                api_calls.c.request_id.in_(request_ids),
                or_(is_unexplained(), alerts.c.explanation == Explanation.LOST),
            )
        ).all()
        for row in rows:
            stored_ids = trigger_ids(row.trigger_instances)
            read_ids = self._ids.get(_EmittedAlert(row.request_id, row.episode, row.status), [])
            if not set(read_ids).issubset(stored_ids):
                ids = read_ids + [
                    trigger_id for trigger_id in stored_ids if trigger_id not in read_ids
                ]
                _write_ids(connection, row.id, ids)


def _emitted_alert(instance: TriggerInstance) -> _EmittedAlert:
    payload = instance.payload
    return _EmittedAlert(*(str(payload.get(name)) for name in _EmittedAlert._fields))


def _is_request_id(text: str) -> bool:
    # Any StackStorm user who is allowed to emit triggers can emit this one with any payload.
    return len(text) <= 36 and text.isascii()


def _write_ids(connection: Connection, alert_id: int, ids: Sequence[str]) -> None:
    is_alert = alerts.c.id == alert_id
    value = ",".join([trigger_id for trigger_id in ids if _ID.match(trigger_id)][:_MAX_IDS])
    connection.execute(update(alerts).where(is_alert).values(trigger_instances=value))
    # The alert was emitted again, and the outcome is not known yet.
    waits_for_retry = alerts.c.explanation == Explanation.RETRY
    connection.execute(update(alerts).where(is_alert, waits_for_retry).values(explanation=None))


def read_triggers(
    api: StackStormApi, ids: Sequence[str], deadline: Deadline, note: Callable[[str], None]
) -> dict[str, TriggerInstance | None]:
    """Read trigger instances from StackStorm by id.

    Returns:
        The instances by id. The value is None if StackStorm no longer has the instance. Instances
        that could not be read, or not in time, are left out.

    Raises:
        StackStormError: The API is unavailable.
    """
    instances: dict[str, TriggerInstance | None] = {}
    for start in range(0, len(ids), _PAGE):
        if deadline.has_passed:
            break
        page_ids = ids[start : start + _PAGE]
        with noting_errors(note, "triggers could not be read"):
            page_instances = api.get_triggers(page_ids)
            instances.update((each, page_instances.get(each)) for each in page_ids)
    return instances


def trigger_ids(column: str | None) -> list[str]:
    """Parse the column trigger_instances and return the ids, newest first."""
    return column.split(",") if column else []


def _read_progress(connection: Connection) -> Progress:
    stored_progress = connection.scalar(select(meta.c.value).where(meta.c.name == _PROGRESS))
    moments = [
        None if text == _NONE else parse_timestamp(text) for text in (stored_progress or "").split()
    ]
    newest, after, before = (*moments, None, None, None)[:3]
    return Progress(newest, Span(after, before) if after and before else None)


def _format_progress(progress: Progress) -> str:
    moments = (progress.newest, *(progress.unread or ()))
    return " ".join(format_timestamp(moment) if moment else _NONE for moment in moments)
