"""A purge deletes old, finished requests completely, and nothing else."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import threading
from datetime import datetime, timedelta, timezone

import pytest
from sqlalchemy import event, func, insert, select, text, update
from sqlalchemy.exc import OperationalError

from poundcake.config import Config
from poundcake.trail import claims, clock, database, purge
from poundcake.trail.errors import PurgeError
from poundcake.trail.record import record_requests
from poundcake.trail.release import release_claims
from poundcake.trail.schema import alerts, api_calls, audit, changes, events, executions, links
from tests.lib.samples import alert, request
from tests.lib.trails import on_mariadb, on_sqlite

ROOT = pathlib.Path(__file__).parents[3]
TABLES = (api_calls, alerts, links, executions)
NOW = datetime.now(timezone.utc)
OLD = NOW - timedelta(days=100)
NEWER = NOW - timedelta(days=80)
LAST_WEEK = request(received_at=NOW - timedelta(days=8))
NOTHING = {"requests": 0, "alerts": 0, "links": 0, "executions": 0, "kept": 0}


@pytest.fixture(autouse=True)
def last_week(engine):
    """Record a request from last week. A purge that leaves no request of that age is refused."""
    record_requests(engine, Config(), [LAST_WEEK])


@pytest.fixture
def small_transactions(monkeypatch):
    """Make transactions so small that a few requests need several of them."""
    monkeypatch.setattr(purge, "_MAX_REQUESTS", 2)
    monkeypatch.setattr(purge, "_MAX_ALERTS", 8)


def execute(engine, *statements):
    with database.transaction(engine) as connection:
        for statement in statements:
            connection.execute(statement)


def record_ended(engine, *requests):
    """Record requests, and mark each as ended at the time of its receipt."""
    record_requests(engine, Config(), requests)
    ids = [r.request_id for r in requests]
    call_ids = select(api_calls.c.id).where(api_calls.c.request_id.in_(ids)).scalar_subquery()
    in_requests = alerts.c.api_call_id.in_(call_ids)
    execute(
        engine,
        update(alerts)
        .where(in_requests, alerts.c.explanation.is_(None))
        .values(explanation="execution"),
        update(alerts).where(in_requests).values(open_fingerprint=None),
        update(alerts).values(closed_at=None),
        update(api_calls)
        .where(api_calls.c.request_id.in_(ids))
        .values(completed_at=api_calls.c.created_at),
    )
    return requests


def firing_request(name="HostDown", at=OLD, count=1):
    return request(*[alert(f"{name}{i}", starts_at=at) for i in range(count)], received_at=at)


def read_alert(engine, webhook_request, position=0):
    with database.reading(engine) as connection:
        return connection.execute(
            select(alerts)
            .join(api_calls, api_calls.c.id == alerts.c.api_call_id)
            .where(
                api_calls.c.request_id == webhook_request.request_id, alerts.c.position == position
            )
        ).one()


def add_execution(engine, webhook_request, execution_id, status="succeeded", position=0):
    """Add an execution with this status that claimed the alert's episode."""
    episode = read_alert(engine, webhook_request, position).episode
    workflow = f"pack.{execution_id}"
    link = claims.link(engine, webhook_request.request_id, episode, workflow, execution_id)
    assert link["claimed"], link
    execute(engine, update(executions).where(executions.c.id == execution_id).values(status=status))


def count_rows(engine):
    """Return the number of rows in each table, without the rows of last week's request."""
    with database.reading(engine) as connection:
        calls, *others = [connection.scalar(select(func.count()).select_from(t)) for t in TABLES]
    return [calls - 1, *others]


def read_request_ids(engine):
    with database.reading(engine) as connection:
        return set(connection.scalars(select(api_calls.c.request_id))) - {LAST_WEEK.request_id}


def run_purge(engine, days=90, dry_run=False, **config):
    counts = purge.purge(engine, Config(**config), days, dry_run)
    assert counts.pop("dry_run") is dry_run
    assert counts.pop("before").endswith("Z")
    return counts


class TestDeleted:
    def test_an_old_request_is_deleted_completely(self, engine):
        old_request, newer_request = record_ended(
            engine, firing_request(count=2), firing_request("Newer", NEWER)
        )
        add_execution(engine, old_request, "e1")
        add_execution(engine, old_request, "e2", "failed", position=1)
        add_execution(engine, newer_request, "e3")
        assert run_purge(engine) == {
            "requests": 1,
            "alerts": 2,
            "links": 2,
            "executions": 2,
            "kept": 0,
        }
        assert read_request_ids(engine) == {newer_request.request_id}
        assert count_rows(engine) == [1, 1, 1, 1]
        assert run_purge(engine) == NOTHING

    @pytest.mark.parametrize("at", [OLD, NEWER])
    def test_old_events_and_audit_entries_are_deleted(self, engine, at):
        """Also if no request is old enough to be deleted."""
        record_ended(engine, firing_request(at=at))
        for event_id, event_at in (("old", OLD), ("newer", NEWER)):
            values = {"id": event_id, "kind": "remediation_ended", "subject": "e", "payload": "{}"}
            execute(engine, events.insert().values(at=event_at, **values))
            values = {"action": "close", "target": event_id, "st2_user": "", "execution_id": ""}
            execute(engine, audit.insert().values(at=event_at, comment="", details="{}", **values))
        run_purge(engine, dry_run=True)
        with database.reading(engine) as connection:
            assert len(connection.scalars(select(events.c.id)).all()) == 2
        run_purge(engine)
        with database.reading(engine) as connection:
            assert connection.scalars(select(events.c.id)).all() == ["newer"]
            kept = connection.execute(select(audit.c.action, audit.c.target)).all()
        assert list(map(tuple, kept)) == [("close", "newer"), ("purge", "")]

    @on_sqlite
    @pytest.mark.parametrize("status", ["failed", "timeout", "abandoned", "canceled", "gone"])
    def test_an_old_request_is_deleted_after_any_execution_status(self, engine, status):
        (old_request,) = record_ended(engine, firing_request())
        add_execution(engine, old_request, "e1", status)
        assert run_purge(engine)["executions"] == 1
        assert count_rows(engine) == [0, 0, 0, 0]

    @on_sqlite
    def test_an_old_request_without_alerts_is_deleted(self, engine):
        record_ended(engine, request(received_at=OLD), request(received_at=OLD, body="no JSON"))
        assert run_purge(engine) == {**NOTHING, "requests": 2}

    @on_sqlite
    def test_retention_days_is_the_default(self, engine):
        record_ended(engine, firing_request())
        assert run_purge(engine, None, retention_days=101) == NOTHING
        assert run_purge(engine, 101, retention_days=99) == NOTHING
        assert run_purge(engine, None, retention_days=99)["requests"] == 1

    @on_sqlite
    def test_a_new_database_has_nothing_to_delete(self, tmp_path):
        engine = database.open_engine(f"sqlite:///{tmp_path}/new.db")
        assert run_purge(engine) == NOTHING
        engine.dispose()


class TestKept:
    @pytest.mark.parametrize(
        "table, values",
        [
            (api_calls, {"completed_at": None}),
            (api_calls, {"completed_at": NEWER}),
            (alerts, {"open_fingerprint": "abc"}),
            (alerts, {"closed_at": NEWER}),
            (alerts, {"explanation": None}),
            (alerts, {"explanation": "retry"}),
            (executions, {"status": "running"}),
            (executions, {"status": "pending"}),
        ],
        ids=lambda value: "-".join(value) if isinstance(value, dict) else value.name,
    )
    def test_an_unfinished_request_is_kept(self, engine, table, values):
        other_request, old_request = record_ended(
            engine, firing_request("Other"), firing_request(count=2)
        )
        for webhook_request, name in ((other_request, "e1"), (old_request, "e2")):
            add_execution(engine, webhook_request, name)
        with database.transaction(engine) as connection:
            row_id = connection.scalar(select(func.max(table.c.id)))
            before = dict(
                connection.execute(select(table).where(table.c.id == row_id)).one()._mapping
            )
            connection.execute(update(table).where(table.c.id == row_id).values(values))
        counts = run_purge(engine)
        assert counts == {"requests": 1, "alerts": 1, "links": 1, "executions": 1, "kept": 1}
        assert read_request_ids(engine) == {old_request.request_id}
        assert count_rows(engine) == [1, 2, 1, 1]
        execute(engine, update(table).where(table.c.id == row_id).values(before))
        assert run_purge(engine)["requests"] == 1

    @pytest.mark.parametrize(
        "values",
        [{"created_at": NEWER}, {"open_fingerprint": "abc"}, {"explanation": None}],
        ids="-".join,
    )
    def test_a_claim_on_an_open_episode_is_kept(self, engine, values):
        claimed_request, repeat_request, _ = record_ended(
            engine, firing_request(), firing_request("Again"), firing_request("Unclaimed")
        )
        add_execution(engine, claimed_request, "e1")
        claimed_row, repeat_row = (
            read_alert(engine, claimed_request),
            read_alert(engine, repeat_request),
        )
        execute(
            engine,
            update(alerts)
            .where(alerts.c.id == repeat_row.id)
            .values(episode=claimed_row.episode, **values),
            update(api_calls)
            .where(api_calls.c.id == repeat_row.api_call_id)
            .values(created_at=NEWER, completed_at=NEWER),
        )
        assert run_purge(engine) == {**NOTHING, "requests": 1, "alerts": 1, "kept": 1}
        assert read_request_ids(engine) == {claimed_request.request_id, repeat_request.request_id}
        link = claims.link(engine, repeat_request.request_id, claimed_row.episode, "pack.e1", "e2")
        assert not link["claimed"] and "e1" in link["reason"]
        execute(
            engine,
            update(alerts).values(created_at=OLD, open_fingerprint=None, explanation="execution"),
        )
        assert run_purge(engine)["requests"] == 1
        assert read_request_ids(engine) == {repeat_request.request_id}

    @on_sqlite
    def test_a_link_without_a_claim_is_not_kept(self, engine):
        released_request, repeat_request = record_ended(
            engine, firing_request(), firing_request("Again", NEWER)
        )
        add_execution(engine, released_request, "e1")
        episode = read_alert(engine, released_request).episode
        execute(engine, update(alerts).values(episode=episode))
        release_claims(engine, episode)
        assert run_purge(engine)["links"] == 1
        assert read_request_ids(engine) == {repeat_request.request_id}

    def test_an_execution_is_kept_while_a_kept_request_refers_to_it(self, engine):
        old_request, later_request, newer_request = record_ended(
            engine,
            firing_request(),
            firing_request("Later", OLD + timedelta(hours=1)),
            firing_request("Newer", NEWER),
        )
        add_execution(engine, old_request, "shared")
        add_execution(engine, newer_request, "shared")
        add_execution(engine, later_request, "shared")
        add_execution(engine, later_request, "alone")
        counts = run_purge(engine, dry_run=True)
        assert counts == {"requests": 2, "alerts": 2, "links": 3, "executions": 1, "kept": 0}
        assert run_purge(engine) == counts
        assert count_rows(engine) == [1, 1, 1, 1]
        assert run_purge(engine, 79)["executions"] == 1
        assert count_rows(engine) == [0, 0, 0, 0]


class TestChanges:
    """The changes of a request are deleted with it."""

    def add_change(self, engine, webhook_request, execution_id, result="verified", **values):
        row = {
            "st2_execution_id": execution_id,
            "request_id": webhook_request.request_id,
            "episode": read_alert(engine, webhook_request).episode,
            "attempt": 1,
            "remediation": "web",
            "action": "linux.service",
            "target": "web-1",
            "per_value": "",
            "decided_at": OLD,
            "lease_until": None,
            "ended_at": OLD,
            "result": result,
            "refusal": "",
            "reason": "",
        }
        execute(engine, changes.insert().values(**{**row, **values}))

    def read_changes(self, engine):
        with database.reading(engine) as connection:
            return list(
                connection.scalars(select(changes.c.st2_execution_id).order_by(changes.c.id))
            )

    def test_ended_and_refused_changes_are_deleted(self, engine):
        old_request, newer_request = record_ended(
            engine, firing_request(), firing_request("Newer", NEWER)
        )
        self.add_change(engine, old_request, "e1")
        self.add_change(engine, old_request, "e2", "refused")
        self.add_change(engine, newer_request, "e3")
        assert run_purge(engine)["requests"] == 1
        assert self.read_changes(engine) == ["e3"]

    def test_a_request_is_kept_while_its_change_is_in_flight(self, engine):
        (old_request,) = record_ended(engine, firing_request())
        self.add_change(engine, old_request, "e1", "", ended_at=None, lease_until=NOW)
        assert run_purge(engine) == {**NOTHING, "kept": 1}
        assert self.read_changes(engine) == ["e1"]

    def test_failures_are_kept_while_the_breaker_counts_them(self, engine):
        (old_request,) = record_ended(engine, firing_request())
        self.add_change(engine, old_request, "before", "failed", decided_at=OLD - timedelta(days=2))
        self.add_change(engine, old_request, "success", decided_at=OLD - timedelta(days=1))
        self.add_change(engine, old_request, "counted", "failed")
        self.add_change(engine, old_request, "released", "failed", released_at=OLD)
        self.add_change(engine, old_request, "other", "not_cleared", remediation="db")
        assert run_purge(engine)["requests"] == 1
        assert self.read_changes(engine) == ["counted", "other"]


class TestBatches:
    def record_history(self, engine):
        """Record 13 requests. The first, one in the middle and the last are kept.

        Some were received at the same time. Distant requests share executions.
        """
        requests = [
            firing_request(f"A{i}", OLD + timedelta(hours=max(0, i - 6)), 1 + i % 2)
            for i in range(12)
        ]
        requests.append(firing_request("Big", OLD + timedelta(hours=3, minutes=1), 9))
        record_ended(engine, *requests)
        for i, webhook_request in enumerate(requests):
            add_execution(engine, webhook_request, f"e{i}")
        for i in (1, 4, 9):
            add_execution(engine, requests[i], "shared")
        for i in (0, 3):
            add_execution(engine, requests[i], "shared with a kept request")
        kept = [requests[i].request_id for i in (0, 5, 11)]
        execute(
            engine,
            update(api_calls).where(api_calls.c.request_id.in_(kept)).values(completed_at=NOW),
        )
        return set(kept)

    def test_a_dry_run_counts_what_a_purge_deletes(self, engine, small_transactions):
        kept = self.record_history(engine)
        before = count_rows(engine)
        counts = run_purge(engine, dry_run=True)
        assert count_rows(engine) == before
        assert run_purge(engine) == counts
        assert [counts[n] for n in ("requests", "alerts", "links", "executions")] == [
            old - new for old, new in zip(before, count_rows(engine))
        ]
        assert counts["kept"] == 3 and counts["executions"] == 11
        assert read_request_ids(engine) == kept

    def test_transactions_are_small(self, engine, small_transactions):
        self.record_history(engine)
        sizes, deletions = [], []

        def note_deletion(connection, cursor, statement, parameters, context, many):
            if statement.startswith("DELETE"):
                deletions.append((statement.split()[2].strip("`"), cursor.rowcount))

        def note_commit(connection):
            if deletions:
                sizes.append(dict(deletions))
                deletions.clear()

        event.listen(engine, "after_cursor_execute", note_deletion)
        event.listen(engine, "commit", note_commit)
        run_purge(engine)
        history, *sizes = sizes
        assert set(history) == {"poundcake_audit", "poundcake_events"}
        assert sum(size["poundcake_api_calls"] for size in sizes) == 10
        assert all(size["poundcake_api_calls"] <= 2 for size in sizes)
        large = [size for size in sizes if size["poundcake_alerts"] > 8]
        assert [size["poundcake_api_calls"] for size in large] == [1]

    def test_a_refused_transaction_is_retried(self, engine, small_transactions, monkeypatch):
        self.record_history(engine)
        counts = run_purge(engine, dry_run=True)
        delete, failures = purge._delete, [1213, 1205]

        def delete_and_fail(connection, column, values):
            delete(connection, column, values)
            if column is alerts.c.api_call_id and failures:
                raise OperationalError("", {}, Exception(failures.pop(), "try again"))

        monkeypatch.setattr(purge, "_delete", delete_and_fail)
        assert run_purge(engine) == counts
        assert not failures

    def test_two_simultaneous_purges_delete_each_row_once(self, engine, small_transactions):
        kept = self.record_history(engine)
        counts = run_purge(engine, dry_run=True)
        results = []
        threads = [
            threading.Thread(target=lambda: results.append(run_purge(engine))) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        for name in ("requests", "alerts", "links", "executions"):
            assert sum(result[name] for result in results) == counts[name], name
        assert read_request_ids(engine) == kept

    @pytest.mark.parametrize("after", ["links.c.id", "alerts.c.api_call_id"])
    def test_a_purge_that_is_killed_can_run_again(self, engine, small_transactions, after):
        kept = self.record_history(engine)
        before = count_rows(engine)
        script = f"""
import sys
from poundcake.trail import database, purge
from poundcake.config import Config
from poundcake.trail.schema import alerts, links
delete, calls = purge._delete, []
def stop_after(connection, column, values):
    delete(connection, column, values)
    calls.append(column)
    if calls.count({after}) == 2:
        print("stopped", flush=True)
        sys.stdin.read()
purge._delete, purge._MAX_REQUESTS = stop_after, 2
purge.purge(database.open_engine({engine.url.render_as_string(False)!r}), Config(), 90)
"""
        child = subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=ROOT / "lib",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert child.stdout.readline() == b"stopped\n"
        finally:
            child.kill()
            child.communicate()
        remaining = count_rows(engine)
        # The first transaction is committed. The second is not.
        assert 0 < before[0] - remaining[0] <= 2
        assert count_orphans(engine) == 0
        assert run_purge(engine)["requests"] == remaining[0] - 3
        assert read_request_ids(engine) == kept
        assert count_orphans(engine) == 0


def count_orphans(engine):
    """Return the number of rows without a parent, and of links without an execution."""
    with database.reading(engine) as connection:
        return sum(
            connection.scalar(
                select(func.count()).select_from(child).where(parent.not_in(existing_ids))
            )
            for child, parent, existing_ids in (
                (alerts, alerts.c.api_call_id, select(api_calls.c.id)),
                (links, links.c.alert_id, select(alerts.c.id)),
                (links, links.c.st2_execution_id, select(executions.c.id)),
            )
        )


class TestConcurrentRecording:
    def test_requests_recorded_during_a_purge_are_complete(self, engine, small_transactions):
        """The requests open, repeat and close incidents of alerts that are in the history."""
        for i in range(0, 30, 10):
            record_ended(
                engine,
                *[
                    firing_request(f"A{n % 5}", OLD + timedelta(minutes=n))
                    for n in range(i, i + 10)
                ],
            )
        errors, recorded_ids, stop = [], [[], []], threading.Event()

        def record_until_stopped(own_ids, index):
            try:
                while not stop.is_set() or len(own_ids) < 6:
                    now = datetime.now(timezone.utc)
                    status = ("firing", "firing", "resolved")[len(own_ids) % 3]
                    webhook_request = request(
                        *[alert(f"A{n}0", status, NOW, now) for n in range(5)], received_at=now
                    )
                    record_requests(engine, Config(max_remediations_per_hour=0), [webhook_request])
                    own_ids.append(webhook_request.request_id)
                    row = read_alert(engine, webhook_request, len(own_ids) % 5)
                    if row.outcome == "admitted":
                        claims.link(
                            engine,
                            webhook_request.request_id,
                            row.episode,
                            "pack.work",
                            f"e{index}-{len(own_ids)}",
                        )
            except Exception as error:
                errors.append(error)

        writers = [
            threading.Thread(target=record_until_stopped, args=(own_ids, i))
            for i, own_ids in enumerate(recorded_ids)
        ]
        for thread in writers:
            thread.start()
        try:
            results = run_purge(engine)
        finally:
            stop.set()
            for thread in writers:
                thread.join(60)
        assert errors == []
        assert results["requests"] == 30
        assert read_request_ids(engine) == {i for request_ids in recorded_ids for i in request_ids}
        assert count_rows(engine)[1] == 5 * count_rows(engine)[0]
        assert count_orphans(engine) == 0

    @on_mariadb
    def test_a_request_is_kept_while_it_is_being_linked(self, engine):
        (old_request,) = record_ended(engine, firing_request())
        row = read_alert(engine, old_request)
        purge_waits, results = threading.Event(), []

        def note_lock_request(connection, cursor, statement, parameters, context, many):
            if "FOR UPDATE" in statement and "open_fingerprint" in statement:
                purge_waits.set()

        with database.transaction(engine) as connection:
            claims._link(
                connection,
                claims.Claimant(
                    old_request.request_id,
                    row.episode,
                    "pack.work",
                    "e1",
                    cooldown=claims.HostCooldown(),
                ),
            )
            event.listen(engine, "before_cursor_execute", note_lock_request)
            thread = threading.Thread(target=lambda: results.append(run_purge(engine)))
            thread.start()
            assert purge_waits.wait(10)
        thread.join(60)
        assert results == [{**NOTHING, "kept": 1}]
        assert count_rows(engine) == [1, 1, 1, 1]


class TestRefused:
    @on_sqlite
    @pytest.mark.parametrize("days", [0, -1, 36_501])
    def test_days_out_of_bounds_are_refused(self, engine, days):
        with pytest.raises(PurgeError, match="older_than_days: must be 1 to 36500"):
            run_purge(engine, days)

    def test_a_purge_is_refused_if_the_local_clock_is_months_ahead(self, engine, monkeypatch):
        """By this clock, the whole history is old. On SQLite, the database uses the same clock."""
        record_ended(engine, firing_request(), firing_request("Newer", NEWER))
        ahead = datetime.now(timezone.utc) + timedelta(days=120)
        monkeypatch.setattr(clock, "local_now", lambda: ahead)
        for dry_run in (True, False):
            with pytest.raises(PurgeError, match="^nothing was deleted, because .*clock"):
                run_purge(engine, dry_run=dry_run)
        assert count_rows(engine)[:2] == [2, 2]

    @on_sqlite
    def test_requests_received_after_the_clock_jumped_do_not_prove_it_right(
        self, engine, monkeypatch
    ):
        """Notifications are repeated, so some are always recent, even by a clock that is wrong."""
        record_ended(engine, firing_request(), firing_request("Newer", NEWER))
        ahead = datetime.now(timezone.utc) + timedelta(days=120)
        monkeypatch.setattr(clock, "local_now", lambda: ahead)
        for hours in (0, 1, 6 * 24):
            record_ended(engine, firing_request("Late", ahead - timedelta(hours=hours)))
            with pytest.raises(PurgeError, match="no request older than 7 days would remain"):
                run_purge(engine)
        assert count_rows(engine)[0] == 5
        record_ended(engine, firing_request("Old enough", ahead - timedelta(days=7, minutes=1)))
        assert run_purge(engine)["requests"] == 3  # including the one from last week

    @on_sqlite
    def test_a_short_retention_needs_only_a_more_recent_request(self, engine):
        record_ended(engine, firing_request(), firing_request("Hours", NOW - timedelta(hours=11)))
        with pytest.raises(PurgeError, match="no request older than 12 hours would remain"):
            run_purge(engine, 1)
        record_ended(engine, firing_request("Day", NOW - timedelta(hours=13)))
        assert run_purge(engine, 1)["requests"] == 1

    @on_mariadb
    @pytest.mark.parametrize("days", [120, -120])
    def test_a_purge_is_refused_if_the_clock_of_the_database_server_is_wrong(
        self, engine, monkeypatch, days
    ):
        record_ended(engine, firing_request(), firing_request("Newer", NEWER))
        wrong_time = datetime.now(timezone.utc) + timedelta(days=days)
        monkeypatch.setattr(clock, "database_now", lambda connection: wrong_time)
        with pytest.raises(PurgeError, match="the clocks disagree: the database's says 20"):
            run_purge(engine)
        assert count_rows(engine)[:2] == [2, 2]

    @on_sqlite
    def test_a_purge_that_would_leave_no_recent_request_is_refused(self, engine):
        record_ended(engine, firing_request(), firing_request("Newer", NEWER))
        execute(engine, api_calls.delete().where(api_calls.c.request_id == LAST_WEEK.request_id))
        with pytest.raises(PurgeError, match="older than 7 days would remain: .* received at 20"):
            run_purge(engine, 79)
        assert run_purge(engine, 81)["requests"] == 1

    @on_sqlite
    def test_a_request_from_the_future_does_not_count_as_recent(self, engine):
        """An endpoint's clock was ahead, which proves nothing about the database's clock."""
        record_ended(engine, firing_request(), firing_request("Ahead"))
        # Before 0.3.0, a time in the future was recorded unchanged.
        ahead = api_calls.c.body.contains("Ahead")
        execute(engine, update(api_calls).where(ahead).values(created_at=NOW + timedelta(days=400)))
        execute(engine, api_calls.delete().where(api_calls.c.request_id == LAST_WEEK.request_id))
        with pytest.raises(PurgeError, match="no request older than 7 days would remain"):
            run_purge(engine)

    @on_sqlite
    def test_a_retention_shorter_than_the_cooldown_is_refused(self, engine):
        record_ended(engine, firing_request(), firing_request("Recent", NOW - timedelta(days=2)))
        with pytest.raises(PurgeError, match="older_than_days: must be 3 or more.*cooldown_second"):
            run_purge(engine, 2, cooldown_seconds=2 * 86_400 + 1)
        assert run_purge(engine, 3, cooldown_seconds=2 * 86_400 + 1)["requests"] == 1


class TestPlans:
    def test_no_statement_reads_a_whole_table(self, engine):
        insert_long_history(engine)
        statements = []

        def collect(connection, cursor, statement, parameters, context, many):
            if statement.split()[0] in ("SELECT", "DELETE") and "poundcake_meta" not in statement:
                statements.append((statement, parameters))

        event.listen(engine, "before_cursor_execute", collect)
        assert run_purge(engine)["requests"] == 1000
        event.remove(engine, "before_cursor_execute", collect)
        insert_long_history(engine)
        assert len(statements) > 20
        for statement, parameters in statements:
            assert not find_full_scans(engine, statement, parameters), statement


def insert_long_history(engine):
    """Insert 10,000 requests, 1000 of them old, each with an alert, a link and an execution."""
    rows = {table: [] for table in TABLES}
    for i in range(1, 10_001):
        at = (OLD if i <= 1000 else NEWER) + timedelta(seconds=i)
        defaults = {"headers": "{}", "body": "{}", "body_sha256": "", "method": "POST", "path": "/"}
        rows[api_calls].append(
            dict(defaults, id=i, request_id=str(i), status_code=202, created_at=at, completed_at=at)
        )
        defaults = {"severity": "", "instance": "", "labels": "{}", "annotations": "{}"}
        defaults.update(status="firing", outcome="admitted", reason="", explanation="execution")
        rows[alerts].append(
            dict(
                defaults, id=i, api_call_id=i, position=0, fingerprint=str(i), alert_name=str(i % 9)
            )
        )
        rows[alerts][-1].update(created_at=at, recorded_at=at, episode=f"{i}-1")
        link = {"id": i, "request_id": str(i), "alert_id": i, "created_at": at}
        rows[links].append(dict(link, st2_execution_id=f"e{i}", claim=f"{i}-1|pack.work"))
        rows[executions].append({"id": f"e{i}", "action": "pack.work", "status": "succeeded"})
    execute(engine, *[table.delete() for table in reversed(TABLES[:3])], executions.delete())
    with database.transaction(engine) as connection:
        for table, values in rows.items():
            connection.execute(insert(table), values)
            name = "ANALYZE TABLE " if engine.dialect.name == "mysql" else "ANALYZE "
            connection.execute(text(name + table.name))


def find_full_scans(engine, statement, parameters):
    """Return the steps of a statement's plan that read a whole table or index."""
    with database.transaction(engine) as connection:
        if engine.dialect.name == "mysql":
            plan = connection.exec_driver_sql("EXPLAIN " + statement, parameters).mappings().all()
            return [dict(step) for step in plan if step["type"] in ("ALL", "index")]
        plan = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters)
        return [step.detail for step in plan if step.detail.startswith("SCAN")]
