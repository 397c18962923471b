"""From the journal to StackStorm, and back again from the tracking database.

Whatever waits is announced, seen to be recorded, emitted as triggers, and seen to be explained.
Each step is tried again until the far end shows that it is done.
"""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import Any, Callable, Sequence

from sqlalchemy import exists, func, select
from sqlalchemy.engine import Connection, Engine

from poundcake import announcement
from poundcake.announcement import Request
from poundcake.config import Config
from poundcake.endpoint import native
from poundcake.endpoint.bus import Bus, BusError
from poundcake.endpoint.health import Component
from poundcake.endpoint.journal import STUCK, Entry, Journal, JournalError
from poundcake.endpoint.metrics import CountedBus, Metrics
from poundcake.inert import make_inert
from poundcake.request_ids import collision_id
from poundcake.stackstorm import StackStorm, StackStormError
from poundcake.timestamps import format_timestamp
from poundcake.trail import database, sync
from poundcake.trail.database import DatabaseError
from poundcake.trail.outcomes import EMITTED, Outcome
from poundcake.trail.schema import alerts, api_calls

ANNOUNCE = "poundcake.announce"
WEBHOOK = "poundcake.webhook"
ALERT = sync.ALERT_TRIGGER
LIMIT_REACHED = "poundcake.limit_reached"
SYNC_DUE = "poundcake.sync_due"
RECORD = "poundcake.record"  # the rule and its action

# Seconds, unless said otherwise.
LIST_LENGTH = 500  # requests
LIST_BYTES = 1 << 20  # packed
RECORD_TIME = 30
STUCK_WAIT = 600
OUTAGE_WAIT = 60
_LOOK = (0.05, 0.3)  # how often the tracking database is asked: at first, at last
_IDLE = 1.0
_EXPLAIN_LOOK = 5
_ADOPT_LOOK = 5
_ADOPTED_AT_ONCE = 100
_EMIT_WAIT = (60, 3600)
_SYNC_WAIT = (5, 60)
_SYNC_IDLE = 600
_RETRY_WAIT = (1, 30)
# A limit that nobody has run into for so long is reached anew.
_TOLD = timedelta(hours=1)


class Tracking:
    """The tracking database as the endpoint reads it: one read at a time where a read would
    stop every green thread.
    """

    def __init__(self, engine: Engine, create: bool):
        self.engine = engine
        self._create = create
        self._database_id = ""
        self._lock = threading.Lock()

    def read(self, work: Callable[..., Any], *args: Any) -> Any:
        """work(connection, *args) in a read transaction. Raises DatabaseError."""
        self.database_id()
        return self._call(self._read, work, args)

    def database_id(self) -> str:
        """Which database it is; made where there is none yet."""
        if not self._database_id:
            self._database_id = self._call(database.prepare, self.engine, self._create)
        return self._database_id

    def forget(self) -> None:
        """Looks again which database it is: the file may have been replaced."""
        self._database_id = ""

    def _call(self, function: Callable, *args: Any) -> Any:
        if self.engine.dialect.name != "sqlite":
            return function(*args)
        with self._lock:
            return native.run_in_native_thread(function, *args)

    def _read(self, work: Callable, args: Sequence[Any]) -> Any:
        with database.reading(self.engine) as connection:
            return work(connection, *args)


class _List:
    """An announcement that is out: which entries, and since when."""

    def __init__(self, entries: Sequence[Entry], sent_at: float):
        self.entries = {e.id: e for e in entries}
        self.length = len(entries)
        self.sent_at = sent_at


class Relay:
    """Moves the journal's entries on, in a thread of its own."""

    def __init__(
        self,
        config: Config,
        journal: Journal,
        tracking: Tracking,
        bus: Bus,
        stackstorm: StackStorm,
        log: Any,
        metrics: Metrics,
    ):
        self._config = config
        self._journal = journal
        self._tracking = tracking
        self._bus = CountedBus(bus, metrics)
        self._api = stackstorm
        self._log = log
        self._metrics = metrics
        self.broker = Component(log, "broker")
        self.database = Component(log, "database")
        self.stackstorm = Component(log, "stackstorm")
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._out: dict[str, _List] = {}
        self._look = _LOOK[0]
        self._look_at = 0.0
        # Misses since anything was last recorded; while there are any, announcements are rare.
        self._misses = 0
        self._recorded_at = 0.0
        self.stuck_reason = ""
        # Emitted, and not yet marked so: the journal could not be written.
        self._emitted: set[int] = set()
        self._announce_at = 0.0
        self._failed_turn = False
        self._sync_at = 0.0
        self._sync_wait = float(_SYNC_WAIT[0])
        self._prune_at = 0.0
        self._adopt_at = 0.0
        # What of the tables' migrations waits for an operator, in a sentence.
        self.pending = ""
        self._waits: dict[str, tuple[float, float]] = {}

    def start(self) -> None:
        """Goes on where the journal stands."""
        by_list: dict[str, list[Entry]] = {}
        for entry in self._journal.announced():
            by_list.setdefault(entry.list_id, []).append(entry)
        for list_id, entries in by_list.items():
            self._out[list_id] = _List(entries, entries[0].state_at)
        self._thread = threading.Thread(target=self._run, name="poundcake-relay", daemon=True)
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Ends after the step under way, or after so many seconds."""
        self._stopping = True
        self._wake.set()
        if self._thread:
            self._thread.join(timeout)
        self._bus.close()

    def wake(self) -> None:
        """There is something new in the journal."""
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping:
            pause = _IDLE
            for step in (
                self._settle,
                self._announce,
                self._adopt,
                self._emit,
                self._ask,
                self._prune,
            ):
                wanted = self._guard(step)
                if wanted is not None:
                    pause = min(pause, wanted)
            self._wake.wait(pause)
            self._wake.clear()

    def _guard(self, step: Callable[[], float | None]) -> float | None:
        """Runs a step, unless it failed a moment ago; returns when it wants to run again."""
        name = step.__name__
        until, wait = self._waits.get(name, (0.0, 0.0))
        left = until - time.monotonic()
        if left > 0:
            return left
        try:
            wanted = step()
            self._waits.pop(name, None)
            return wanted
        except BusError as error:
            self.broker.down(str(error))
        except DatabaseError as error:
            self.database.down(str(error))
        except JournalError:
            pass  # the journal keeps what is wrong with it, and the endpoint says it once
        # Whatever else goes wrong with one step must not end the thread that retries it.
        except Exception:
            self._log.exception("relay: %s failed", name.strip("_"))
        wait = min(max(wait * 2, _RETRY_WAIT[0]), _RETRY_WAIT[1])
        pause = wait * random.uniform(0.7, 1.0)
        self._waits[name] = (time.monotonic() + pause, wait)
        return pause

    # -- announcing

    def _settle(self) -> float | None:
        """Which announced requests the tracking database has by now."""
        if not self._out:
            return None
        left = self._look_at - time.monotonic()
        if left > 0:
            return left
        waiting = [e for listed in self._out.values() for e in listed.entries.values()]
        found = self._recorded(waiting)
        if found:
            self._journal.mark_recorded(list(found))
            self._recording_works([e for e in waiting if e.id in found])
        now = time.time()
        for list_id, listed in list(self._out.items()):
            for entry_id in found:
                listed.entries.pop(entry_id, None)
            if not listed.entries:
                del self._out[list_id]
            elif now - listed.sent_at > RECORD_TIME:
                del self._out[list_id]
                self._missed(list(listed.entries.values()), listed.length)
        self._look = _LOOK[0] if found else min(self._look * 1.5, _LOOK[1])
        self._look_at = time.monotonic() + self._look
        return self._look if self._out else 0.0

    def _recorded(self, entries: Sequence[Entry]) -> dict[int, str]:
        """{entry id: the request_id it is recorded under} of those that are on record."""
        found = self._tracking.read(_on_record, entries)
        self.database.ok()
        return found

    def _recording_works(self, recorded: Sequence[Entry]) -> None:
        self._recorded_at = time.time()
        if self._misses:
            self._misses = 0
            self._announce_at = 0.0
            self._journal.clear_waits()
        self.stackstorm.ok()
        self._metrics.recorded(e.request.received_at for e in recorded)

    def _missed(self, entries: list[Entry], length: int) -> None:
        """An announcement was not recorded in time: it comes again, later and in halves."""
        self._metrics.announcement_misses.inc()
        first = entries[0]
        # Others were recorded since its last try, and it was alone: it is the request itself.
        stuck = length == 1 and first.tries > 0 and self._recorded_at > first.state_at
        limit = length if first.tries < 1 else max(1, length // 2)
        wait = STUCK_WAIT if stuck else min(RECORD_TIME * 2**first.tries, STUCK_WAIT)
        next_at = time.time() + wait * random.uniform(0.9, 1.0)
        self._journal.mark_missed([e.id for e in entries], next_at, STUCK if stuck else limit)
        if stuck:
            self.stuck_reason = self._why_not_recorded()
            return
        self._misses += 1
        self._tracking.forget()
        self._announce_at = time.time() + min(RECORD_TIME * 2 ** (self._misses - 1), OUTAGE_WAIT)
        self.stackstorm.down(self._why_not_recorded())

    def _why_not_recorded(self) -> str:
        try:
            since = datetime.fromtimestamp(time.time() - 2 * RECORD_TIME, timezone.utc)
            problem = self._api.problem_with(RECORD, RECORD)
            failure = (
                problem
                or self._api.not_taken(RECORD, since)
                or self._api.last_failure(RECORD, since)
            )
        except StackStormError as error:
            return f"announced requests are not recorded; its API: {error}"
        return f"announced requests are not recorded: {failure or 'no reason to be found'}"

    def _announce(self) -> float | None:
        """Hands the next list to the broker, unless one is still out."""
        if self._out:
            return None
        now = time.time()
        if now < self._announce_at:
            return self._announce_at - now
        entries = self._next_list(now)
        if not entries:
            return None
        if entries[0].tries:
            found = self._recorded(entries)
            if found:  # it came late
                self._journal.mark_recorded(list(found))
                self._recording_works([e for e in entries if e.id in found])
                return 0.0
        database_id = self._tracking.database_id()
        list_id = str(uuid.uuid4())
        payload, entries = _packed(entries, database_id, list_id)
        self._bus.publish(ANNOUNCE, payload, list_id)
        self.broker.ok()
        self._journal.mark_announced([e.id for e in entries], list_id)
        self._out[list_id] = _List(entries, time.time())
        self._look = _LOOK[0]
        self._look_at = time.monotonic() + self._look
        return self._look

    def _next_list(self, now: float) -> list[Entry]:
        """Failed and fresh requests take turns, so that neither waits for the other."""
        self._failed_turn = not self._failed_turn
        failed = lambda: self._journal.failed(now, LIST_LENGTH)  # noqa: E731
        fresh = lambda: self._journal.fresh(LIST_LENGTH)  # noqa: E731
        first, second = (failed, fresh) if self._failed_turn else (fresh, failed)
        return first() or second()

    # -- emitting

    def _adopt(self) -> float | None:
        """Takes in the replays: they are recorded where no endpoint is, and emitted here."""
        left = self._adopt_at - time.monotonic()
        if left > 0:
            return left
        waiting, self.pending = self._tracking.read(_replays_and_pending)
        self.database.ok()
        missing = self._journal.missing(waiting)[:_ADOPTED_AT_ONCE]
        for request, sha256, count in self._tracking.read(_replays, missing):
            self._journal.adopt(request, sha256, count)
        self._adopt_at = time.monotonic() + _ADOPT_LOOK
        return float(_ADOPT_LOOK)

    def _emit(self) -> float | None:
        """Emits the triggers of recorded requests, and again what StackStorm lost."""
        now = time.time()
        entries = self._journal.recorded(now, 100)
        if not entries:
            return None
        names = self._recorded(entries)
        found = self._tracking.read(_emittable, sorted(set(names.values())))
        for entry in entries:
            if self._stopping:
                return 0.0
            request = found.get(names.get(entry.id, ""))
            if request is None:
                # The tracking database was set back, or purged: what it lacks is recorded again.
                self._journal.mark_missed([entry.id], now, 0)
                continue
            self._emit_one(entry, request, now)
        return 0.0 if len(entries) == 100 else None

    def _emit_one(self, entry: Entry, request: _Recorded, now: float) -> None:
        first = not entry.emit_at
        if first:
            due = request.open
        else:
            again = now >= entry.emit_at
            due = [row for row in request.open if again and row.explanation == sync.RETRY]
        if entry.id not in self._emitted:
            if first:
                self._bus.publish(WEBHOOK, request.webhook(), request.request_id)
                for row in request.limited:
                    self._bus.publish(LIMIT_REACHED, request.limit(row), request.request_id)
            for row in due:
                self._bus.publish(ALERT, request.alert(row), request.request_id)
            self._emitted.add(entry.id)
            self._metrics.emitted(request.outcomes, len(due), again=not first)
        self.broker.ok()
        if not request.open:
            self._journal.mark_done([entry.id])
        elif due:
            wait = min(_EMIT_WAIT[0] * 2**entry.tries, _EMIT_WAIT[1])
            self._journal.mark_emitted([entry.id], now + _EXPLAIN_LOOK, now + wait)
            self._sync_wait = float(_SYNC_WAIT[0])
            self._sync_at = min(self._sync_at, now + self._sync_wait)
        else:
            self._journal.look_again([entry.id], now + _EXPLAIN_LOOK)
        self._emitted.discard(entry.id)

    # -- asking StackStorm

    def _ask(self) -> float | None:
        """Has StackStorm asked what became of what is open."""
        now = time.time()
        if now < self._sync_at:
            return self._sync_at - now
        (count, moving), synced_at = self._tracking.read(_open_work)
        self.database.ok()
        wait = self._sync_wait if moving else _SYNC_IDLE
        if not count:
            self._sync_at = now + _SYNC_WAIT[0]
            return None
        due = synced_at.timestamp() + wait if synced_at else now
        if now < due:
            self._sync_at = due
            return due - now
        self._bus.publish(SYNC_DUE, {"open": count}, f"poundcake-sync-{uuid.uuid4()}")
        self._metrics.syncs_asked.inc()
        self.broker.ok()
        self._sync_at = now + wait
        self._sync_wait = min(self._sync_wait * 1.5, _SYNC_WAIT[1])
        return wait

    def _prune(self) -> None:
        if time.time() >= self._prune_at:
            pruned = self._journal.prune()
            self._prune_at = time.time() + (1 if pruned else 60)


def _packed(
    entries: list[Entry], database_id: str, list_id: str
) -> tuple[dict[str, Any], list[Entry]]:
    """As many of the entries, from the first on, as fit into one announcement."""
    while True:
        requests = [e.request for e in entries]
        payload = native.run_in_native_thread(announcement.pack, requests, database_id, list_id)
        if len(payload["batch"]) <= LIST_BYTES or len(entries) == 1:
            return payload, entries
        entries = entries[: len(entries) // 2]


def _on_record(connection: Connection, entries: Sequence[Entry]) -> dict[int, str]:
    wanted = {e.request.request_id: e for e in entries}
    seen: dict[str, str] = {}
    _look_up(connection, list(wanted), seen)
    # Another endpoint took the same X-Request-ID with another body.
    taken = {
        collision_id(i, e.sha256): e for i, e in wanted.items() if seen.get(i, e.sha256) != e.sha256
    }
    _look_up(connection, list(taken), seen)
    found = {e.id: i for i, e in wanted.items() if seen.get(i) == e.sha256}
    found.update({e.id: i for i, e in taken.items() if seen.get(i) == e.sha256})
    return found


def _look_up(connection: Connection, ids: list[str], seen: dict[str, str]) -> None:
    for some in database.batched(ids):
        rows = connection.execute(
            select(api_calls.c.request_id, api_calls.c.body_sha256).where(
                api_calls.c.request_id.in_(some)
            )
        )
        seen.update({request_id: sha256 for request_id, sha256 in rows})


class _Recorded:
    """A request as the tracking database has it, and its triggers' payloads."""

    def __init__(self, call: Any):
        self._call = call
        self.request_id = call.request_id
        self.open: list[Any] = []
        # The alert with which a name reached its limit, one for each name.
        self.limited: list[Any] = []
        self.outcomes: Counter = Counter()

    def webhook(self) -> dict[str, Any]:
        return make_inert(
            {
                "request_id": self.request_id,
                "receiver": self._call.receiver or "",
                "group_status": self._call.group_status or "",
                "alerts_received": sum(self.outcomes.values()),
                "outcomes": dict(self.outcomes),
            }
        )

    def limit(self, row: Any) -> dict[str, Any]:
        return make_inert(
            {
                "request_id": self.request_id,
                "alert_name": row.alert_name,
                "severity": row.severity,
                "instance": row.instance,
                "episode": row.episode or "",
                "reason": row.reason,
                "until": row.reason.rpartition(" ")[2],
            }
        )

    def alert(self, row: Any) -> dict[str, Any]:
        labels = json.loads(row.labels)
        return make_inert(
            {
                "request_id": self.request_id,
                "episode": row.episode,
                "status": row.status,
                "alert_name": row.alert_name,
                "severity": row.severity,
                "instance": row.instance,
                "job": labels.get("job", ""),
                "labels": labels,
                "receiver": self._call.receiver or "",
                "starts_at": format_timestamp(row.starts_at) if row.starts_at else "",
                "ends_at": format_timestamp(row.ends_at) if row.ends_at else "",
            }
        )


def _emittable(connection: Connection, request_ids: Sequence[str]) -> dict[str, _Recorded]:
    calls = connection.execute(
        select(
            api_calls.c.id,
            api_calls.c.request_id,
            api_calls.c.receiver,
            api_calls.c.group_status,
        ).where(api_calls.c.request_id.in_(request_ids))
    ).all()
    found = {call.id: _Recorded(call) for call in calls}
    rows = connection.execute(
        select(alerts).where(alerts.c.api_call_id.in_(list(found))).order_by(alerts.c.id)
    )
    limited: set[tuple[str, str]] = set()
    for row in rows:
        request = found[row.api_call_id]
        request.outcomes[row.outcome] += 1
        name = (request.request_id, row.alert_name)
        if row.outcome == Outcome.RATE_LIMITED and name not in limited:
            limited.add(name)
            if not _limited_before(connection, row):
                request.limited.append(row)
        if row.outcome in EMITTED and row.explanation in (None, sync.RETRY):
            request.open.append(row)
    return {request.request_id: request for request in found.values()}


def _limited_before(connection: Connection, row: Any) -> bool:
    """Whether the alert name's limit had been reached already: somebody was told."""
    return connection.scalar(
        select(
            exists().where(
                alerts.c.alert_name == row.alert_name,
                alerts.c.outcome == Outcome.RATE_LIMITED,
                alerts.c.created_at > row.created_at - _TOLD,
                alerts.c.id < row.id,
            )
        )
    )


def _replays_and_pending(connection: Connection) -> tuple[list[str], str]:
    """(request_ids of the replays that are to be emitted, what of the migrations waits)."""
    found = select(api_calls.c.request_id).where(
        api_calls.c.completed_at.is_(None),
        api_calls.c.replay_of.is_not(None),
        exists().where(alerts.c.api_call_id == api_calls.c.id, sync.open_alerts()),
    )
    return connection.scalars(found).all(), database.pending(connection)


def _replays(connection: Connection, request_ids: Sequence[str]) -> list[tuple[Request, str, int]]:
    """(request, body_sha256, how many alerts) of each."""
    rows = connection.execute(
        select(
            api_calls,
            select(func.count())
            .where(alerts.c.api_call_id == api_calls.c.id)
            .scalar_subquery()
            .label("count"),
        ).where(api_calls.c.request_id.in_(request_ids))
    )
    return [
        (
            Request(
                request_id=row.request_id,
                received_at=row.created_at,
                client_host=row.client_host or "",
                client_request_id="",
                method=row.method,
                path=row.path,
                headers=json.loads(row.headers),
                body=row.body,
            ),
            row.body_sha256,
            row.count,
        )
        for row in rows
    ]


def _open_work(connection: Connection) -> Any:
    return sync.still_open(connection), sync.last_synced(connection)
