"""Purging deletes old finished requests completely, and nothing else."""

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
from poundcake.trail.schema import alerts, api_calls, changes, executions, links
from tests.lib.samples import alert, request
from tests.lib.trails import on_mariadb, on_sqlite

ROOT = pathlib.Path(__file__).parents[3]
TABLES = (api_calls, alerts, links, executions)
NOW = datetime.now(timezone.utc)
OLD = NOW - timedelta(days=100)
YOUNG = NOW - timedelta(days=80)
LAST_WEEK = request(received_at=NOW - timedelta(days=8))
NOTHING = {"requests": 0, "alerts": 0, "links": 0, "executions": 0, "kept": 0}


@pytest.fixture(autouse=True)
def last_week(engine):
    """Record a request of last week, because a purge that leaves none of that age is refused."""
    record_requests(engine, Config(), [LAST_WEEK])


@pytest.fixture
def small(monkeypatch):
    """Make transactions so small that a few requests need several."""
    monkeypatch.setattr(purge, "_MAX_REQUESTS", 2)
    monkeypatch.setattr(purge, "_MAX_ALERTS", 8)


def change(engine, *statements):
    with database.transaction(engine) as connection:
        for statement in statements:
            connection.execute(statement)


def ended(engine, *requests):
    """Record requests, each of which ends at the time of its receipt."""
    record_requests(engine, Config(), requests)
    ids = [r.request_id for r in requests]
    own = select(api_calls.c.id).where(api_calls.c.request_id.in_(ids)).scalar_subquery()
    mine = alerts.c.api_call_id.in_(own)
    change(
        engine,
        update(alerts).where(mine, alerts.c.explanation.is_(None)).values(explanation="execution"),
        update(alerts).where(mine).values(open_fingerprint=None),
        update(alerts).values(closed_at=None),
        update(api_calls)
        .where(api_calls.c.request_id.in_(ids))
        .values(completed_at=api_calls.c.created_at),
    )
    return requests


def fired(name="HostDown", at=OLD, count=1):
    return request(*[alert(f"{name}{i}", starts_at=at) for i in range(count)], received_at=at)


def row_of(engine, sent, position=0):
    with database.reading(engine) as connection:
        return connection.execute(
            select(alerts)
            .join(api_calls, api_calls.c.id == alerts.c.api_call_id)
            .where(api_calls.c.request_id == sent.request_id, alerts.c.position == position)
        ).one()


def add_execution(engine, sent, execution_id, status="succeeded", position=0):
    """Add an execution with this status that claimed the alert's episode."""
    episode = row_of(engine, sent, position).episode
    workflow = f"pack.{execution_id}"
    claimed = claims.link(engine, sent.request_id, episode, workflow, execution_id)
    assert claimed["claimed"], claimed
    change(engine, update(executions).where(executions.c.id == execution_id).values(status=status))


def count_rows(engine):
    """Return the number of rows in each table, without those of last week's request."""
    with database.reading(engine) as connection:
        calls, *others = [connection.scalar(select(func.count()).select_from(t)) for t in TABLES]
    return [calls - 1, *others]


def requests_left(engine):
    with database.reading(engine) as connection:
        return set(connection.scalars(select(api_calls.c.request_id))) - {LAST_WEEK.request_id}


def run(engine, days=90, dry_run=False, **config):
    found = purge.purge(engine, Config(**config), days, dry_run)
    assert found.pop("dry_run") is dry_run
    assert found.pop("before").endswith("Z")
    return found


class TestDeleted:
    def test_an_old_request_is_deleted_completely(self, engine):
        old, young = ended(engine, fired(count=2), fired("Young", YOUNG))
        add_execution(engine, old, "e1")
        add_execution(engine, old, "e2", "failed", position=1)
        add_execution(engine, young, "e3")
        assert run(engine) == {"requests": 1, "alerts": 2, "links": 2, "executions": 2, "kept": 0}
        assert requests_left(engine) == {young.request_id}
        assert count_rows(engine) == [1, 1, 1, 1]
        assert run(engine) == NOTHING

    @on_sqlite
    @pytest.mark.parametrize("status", ["failed", "timeout", "abandoned", "canceled", "gone"])
    def test_an_old_request_is_deleted_after_any_execution_status(self, engine, status):
        (old,) = ended(engine, fired())
        add_execution(engine, old, "e1", status)
        assert run(engine)["executions"] == 1
        assert count_rows(engine) == [0, 0, 0, 0]

    @on_sqlite
    def test_a_request_without_alerts_is_deleted_too(self, engine):
        ended(engine, request(received_at=OLD), request(received_at=OLD, body="no JSON"))
        assert run(engine) == {**NOTHING, "requests": 2}

    @on_sqlite
    def test_retention_days_is_the_default(self, engine):
        ended(engine, fired())
        assert run(engine, None, retention_days=101) == NOTHING
        assert run(engine, 101, retention_days=99) == NOTHING
        assert run(engine, None, retention_days=99)["requests"] == 1

    @on_sqlite
    def test_a_new_database_has_nothing_to_delete(self, tmp_path):
        engine = database.open_engine(f"sqlite:///{tmp_path}/new.db")
        assert run(engine) == NOTHING
        engine.dispose()


class TestKept:
    @pytest.mark.parametrize(
        "table, values",
        [
            (api_calls, {"completed_at": None}),
            (api_calls, {"completed_at": YOUNG}),
            (alerts, {"open_fingerprint": "abc"}),
            (alerts, {"closed_at": YOUNG}),
            (alerts, {"explanation": None}),
            (alerts, {"explanation": "retry"}),
            (executions, {"status": "running"}),
            (executions, {"status": "pending"}),
        ],
        ids=lambda value: "-".join(value) if isinstance(value, dict) else value.name,
    )
    def test_an_unfinished_request_is_kept(self, engine, table, values):
        other, old = ended(engine, fired("Other"), fired(count=2))
        for sent, name in ((other, "e1"), (old, "e2")):
            add_execution(engine, sent, name)
        with database.transaction(engine) as connection:
            row_id = connection.scalar(select(func.max(table.c.id)))
            before = dict(
                connection.execute(select(table).where(table.c.id == row_id)).one()._mapping
            )
            connection.execute(update(table).where(table.c.id == row_id).values(values))
        counts = run(engine)
        assert counts == {"requests": 1, "alerts": 1, "links": 1, "executions": 1, "kept": 1}
        assert requests_left(engine) == {old.request_id}
        assert count_rows(engine) == [1, 2, 1, 1]
        change(engine, update(table).where(table.c.id == row_id).values(before))
        assert run(engine)["requests"] == 1

    @pytest.mark.parametrize(
        "values",
        [{"created_at": YOUNG}, {"open_fingerprint": "abc"}, {"explanation": None}],
        ids="-".join,
    )
    def test_a_claim_on_an_open_episode_is_kept(self, engine, values):
        claimed, again, _ = ended(engine, fired(), fired("Again"), fired("Unclaimed"))
        add_execution(engine, claimed, "e1")
        first, second = row_of(engine, claimed), row_of(engine, again)
        change(
            engine,
            update(alerts).where(alerts.c.id == second.id).values(episode=first.episode, **values),
            update(api_calls)
            .where(api_calls.c.id == second.api_call_id)
            .values(created_at=YOUNG, completed_at=YOUNG),
        )
        assert run(engine) == {**NOTHING, "requests": 1, "alerts": 1, "kept": 1}
        assert requests_left(engine) == {claimed.request_id, again.request_id}
        refused = claims.link(engine, again.request_id, first.episode, "pack.e1", "e2")
        assert not refused["claimed"] and "e1" in refused["reason"]
        change(
            engine,
            update(alerts).values(created_at=OLD, open_fingerprint=None, explanation="execution"),
        )
        assert run(engine)["requests"] == 1
        assert requests_left(engine) == {again.request_id}

    @on_sqlite
    def test_a_link_without_a_claim_is_not_kept(self, engine):
        released, again = ended(engine, fired(), fired("Again", YOUNG))
        add_execution(engine, released, "e1")
        episode = row_of(engine, released).episode
        change(engine, update(alerts).values(episode=episode))
        claims.release(engine, episode)
        assert run(engine)["links"] == 1
        assert requests_left(engine) == {again.request_id}

    def test_an_execution_is_kept_while_a_kept_request_names_it(self, engine):
        old, later, young = ended(
            engine, fired(), fired("Later", OLD + timedelta(hours=1)), fired("Young", YOUNG)
        )
        add_execution(engine, old, "shared")
        add_execution(engine, young, "shared")
        add_execution(engine, later, "shared")
        add_execution(engine, later, "alone")
        counts = run(engine, dry_run=True)
        assert counts == {"requests": 2, "alerts": 2, "links": 3, "executions": 1, "kept": 0}
        assert run(engine) == counts
        assert count_rows(engine) == [1, 1, 1, 1]
        assert run(engine, 79)["executions"] == 1
        assert count_rows(engine) == [0, 0, 0, 0]


class TestChanges:
    """The changes of a request are deleted with it."""

    def add(self, engine, sent, execution_id, result="verified", **values):
        row = {
            "st2_execution_id": execution_id,
            "request_id": sent.request_id,
            "episode": row_of(engine, sent).episode,
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
        change(engine, changes.insert().values(**{**row, **values}))

    def left(self, engine):
        with database.reading(engine) as connection:
            return list(
                connection.scalars(select(changes.c.st2_execution_id).order_by(changes.c.id))
            )

    def test_ended_and_refused_changes_are_deleted(self, engine):
        old, young = ended(engine, fired(), fired("Young", YOUNG))
        self.add(engine, old, "e1")
        self.add(engine, old, "e2", "refused")
        self.add(engine, young, "e3")
        assert run(engine)["requests"] == 1
        assert self.left(engine) == ["e3"]

    def test_a_request_is_kept_while_its_change_is_in_flight(self, engine):
        (old,) = ended(engine, fired())
        self.add(engine, old, "e1", "", ended_at=None, lease_until=NOW)
        assert run(engine) == {**NOTHING, "kept": 1}
        assert self.left(engine) == ["e1"]

    def test_failures_are_kept_while_the_breaker_counts_them(self, engine):
        (old,) = ended(engine, fired())
        self.add(engine, old, "before", "failed", decided_at=OLD - timedelta(days=2))
        self.add(engine, old, "success", decided_at=OLD - timedelta(days=1))
        self.add(engine, old, "counted", "failed")
        self.add(engine, old, "released", "failed", released_at=OLD)
        self.add(engine, old, "other", "not_cleared", remediation="db")
        assert run(engine)["requests"] == 1
        assert self.left(engine) == ["counted", "other"]


class TestBatches:
    def history(self, engine):
        """Record 13 requests. The first, one in the middle and the last are kept.

        Some were received at the same time. Distant requests share executions.
        """
        sent = [fired(f"A{i}", OLD + timedelta(hours=max(0, i - 6)), 1 + i % 2) for i in range(12)]
        sent.append(fired("Big", OLD + timedelta(hours=3, minutes=1), 9))
        ended(engine, *sent)
        for i, one in enumerate(sent):
            add_execution(engine, one, f"e{i}")
        for i in (1, 4, 9):
            add_execution(engine, sent[i], "shared")
        for i in (0, 3):
            add_execution(engine, sent[i], "shared with a kept request")
        kept = [sent[i].request_id for i in (0, 5, 11)]
        change(
            engine,
            update(api_calls).where(api_calls.c.request_id.in_(kept)).values(completed_at=NOW),
        )
        return set(kept)

    def test_a_dry_run_counts_what_a_purge_deletes(self, engine, small):
        kept = self.history(engine)
        before = count_rows(engine)
        counts = run(engine, dry_run=True)
        assert count_rows(engine) == before
        assert run(engine) == counts
        assert [counts[n] for n in ("requests", "alerts", "links", "executions")] == [
            b - a for b, a in zip(before, count_rows(engine))
        ]
        assert counts["kept"] == 3 and counts["executions"] == 11
        assert requests_left(engine) == kept

    def test_transactions_are_small(self, engine, small):
        self.history(engine)
        sizes, deleted = [], []

        def count(connection, cursor, statement, parameters, context, many):
            if statement.startswith("DELETE"):
                deleted.append((statement.split()[2].strip("`"), cursor.rowcount))

        def close(connection):
            if deleted:
                sizes.append(dict(deleted))
                deleted.clear()

        event.listen(engine, "after_cursor_execute", count)
        event.listen(engine, "commit", close)
        run(engine)
        assert sum(size["poundcake_api_calls"] for size in sizes) == 10
        assert all(size["poundcake_api_calls"] <= 2 for size in sizes)
        big = [size for size in sizes if size["poundcake_alerts"] > 8]
        assert [size["poundcake_api_calls"] for size in big] == [1]

    def test_a_refused_transaction_is_retried(self, engine, small, monkeypatch):
        self.history(engine)
        counts = run(engine, dry_run=True)
        real, failures = purge._delete, [1213, 1205]

        def fail(connection, column, values):
            real(connection, column, values)
            if column is alerts.c.api_call_id and failures:
                raise OperationalError("", {}, Exception(failures.pop(), "try again"))

        monkeypatch.setattr(purge, "_delete", fail)
        assert run(engine) == counts
        assert not failures

    def test_two_purges_at_the_same_time(self, engine, small):
        kept = self.history(engine)
        counts = run(engine, dry_run=True)
        results = []
        threads = [threading.Thread(target=lambda: results.append(run(engine))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        for name in ("requests", "alerts", "links", "executions"):
            assert sum(each[name] for each in results) == counts[name], name
        assert requests_left(engine) == kept

    @pytest.mark.parametrize("after", ["links.c.id", "alerts.c.api_call_id"])
    def test_a_purge_that_is_killed_can_run_again(self, engine, small, after):
        kept = self.history(engine)
        total = count_rows(engine)
        script = f"""
import sys
from poundcake.trail import database, purge
from poundcake.config import Config
from poundcake.trail.schema import alerts, links
real, calls = purge._delete, []
def stop(connection, column, values):
    real(connection, column, values)
    calls.append(column)
    if calls.count({after}) == 2:
        print("here", flush=True)
        sys.stdin.read()
purge._delete, purge._MAX_REQUESTS = stop, 2
purge.purge(database.open_engine({engine.url.render_as_string(False)!r}), Config(), 90)
"""
        child = subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=ROOT / "lib",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert child.stdout.readline() == b"here\n"
        finally:
            child.kill()
            child.communicate()
        rest = count_rows(engine)
        # The first transaction is committed, and the second is not.
        assert 0 < total[0] - rest[0] <= 2
        assert orphans(engine) == 0
        assert run(engine)["requests"] == rest[0] - 3
        assert requests_left(engine) == kept
        assert orphans(engine) == 0


def orphans(engine):
    """Return the number of rows without a parent, and of links without an execution."""
    with database.reading(engine) as connection:
        return sum(
            connection.scalar(select(func.count()).select_from(child).where(parent.not_in(known)))
            for child, parent, known in (
                (alerts, alerts.c.api_call_id, select(api_calls.c.id)),
                (links, links.c.alert_id, select(alerts.c.id)),
                (links, links.c.st2_execution_id, select(executions.c.id)),
            )
        )


class TestConcurrentRecording:
    def test_requests_recorded_during_a_purge_are_complete(self, engine, small):
        """Incidents with fingerprints of the history are opened, repeated, closed and claimed."""
        for i in range(0, 30, 10):
            ended(
                engine, *[fired(f"A{n % 5}", OLD + timedelta(minutes=n)) for n in range(i, i + 10)]
            )
        errors, sent, stop = [], [[], []], threading.Event()

        def write(mine, index):
            try:
                while not stop.is_set() or len(mine) < 6:
                    now = datetime.now(timezone.utc)
                    status = ("firing", "firing", "resolved")[len(mine) % 3]
                    one = request(
                        *[alert(f"A{n}0", status, NOW, now) for n in range(5)], received_at=now
                    )
                    record_requests(engine, Config(max_remediations_per_hour=0), [one])
                    mine.append(one.request_id)
                    row = row_of(engine, one, len(mine) % 5)
                    if row.outcome == "admitted":
                        claims.link(
                            engine,
                            one.request_id,
                            row.episode,
                            "pack.work",
                            f"e{index}-{len(mine)}",
                        )
            except Exception as error:
                errors.append(error)

        writers = [threading.Thread(target=write, args=(m, i)) for i, m in enumerate(sent)]
        for thread in writers:
            thread.start()
        try:
            results = run(engine)
        finally:
            stop.set()
            for thread in writers:
                thread.join(60)
        assert errors == []
        assert results["requests"] == 30
        assert requests_left(engine) == {i for request_ids in sent for i in request_ids}
        assert count_rows(engine)[1] == 5 * count_rows(engine)[0]
        assert orphans(engine) == 0

    @on_mariadb
    def test_a_request_that_is_just_being_linked_is_kept(self, engine):
        (old,) = ended(engine, fired())
        row = row_of(engine, old)
        waits, results = threading.Event(), []

        def seen(connection, cursor, statement, parameters, context, many):
            if "FOR UPDATE" in statement and "open_fingerprint" in statement:
                waits.set()

        with database.transaction(engine) as connection:
            claims._link(
                connection,
                claims._Claimant(
                    old.request_id, row.episode, "pack.work", "e1", cooldown=claims.HostCooldown()
                ),
            )
            event.listen(engine, "before_cursor_execute", seen)
            thread = threading.Thread(target=lambda: results.append(run(engine)))
            thread.start()
            assert waits.wait(10)
        thread.join(60)
        assert results == [{**NOTHING, "kept": 1}]
        assert count_rows(engine) == [1, 1, 1, 1]


class TestRefused:
    @on_sqlite
    @pytest.mark.parametrize("days", [0, -1, 36_501])
    def test_days_out_of_bounds(self, engine, days):
        with pytest.raises(PurgeError, match="older_than_days: must be 1 to 36500"):
            run(engine, days)

    def test_a_clock_that_is_months_ahead(self, engine, monkeypatch):
        """This clock makes the whole history look old. On SQLite, it is the database's clock."""
        ended(engine, fired(), fired("Young", YOUNG))
        ahead = datetime.now(timezone.utc) + timedelta(days=120)
        monkeypatch.setattr(clock, "local_now", lambda: ahead)
        for dry_run in (True, False):
            with pytest.raises(PurgeError, match="^nothing was deleted, because .*clock"):
                run(engine, dry_run=dry_run)
        assert count_rows(engine)[:2] == [2, 2]

    @on_sqlite
    def test_requests_that_came_after_the_clock_jumped_prove_nothing(self, engine, monkeypatch):
        """Alertmanager repeats its notifications, so there is always a recent one."""
        ended(engine, fired(), fired("Young", YOUNG))
        ahead = datetime.now(timezone.utc) + timedelta(days=120)
        monkeypatch.setattr(clock, "local_now", lambda: ahead)
        for hours in (0, 1, 6 * 24):
            ended(engine, fired("Late", ahead - timedelta(hours=hours)))
            with pytest.raises(PurgeError, match="no request older than 7 days would be left"):
                run(engine)
        assert count_rows(engine)[0] == 5
        ended(engine, fired("Old enough", ahead - timedelta(days=7, minutes=1)))
        assert run(engine)["requests"] == 3  # with that of last week

    @on_sqlite
    def test_a_short_retention_has_a_shorter_proof(self, engine):
        ended(engine, fired(), fired("Hours", NOW - timedelta(hours=11)))
        with pytest.raises(PurgeError, match="no request older than 12 hours would be left"):
            run(engine, 1)
        ended(engine, fired("Day", NOW - timedelta(hours=13)))
        assert run(engine, 1)["requests"] == 1

    @on_mariadb
    @pytest.mark.parametrize("days", [120, -120])
    def test_a_database_server_whose_clock_is_wrong(self, engine, monkeypatch, days):
        ended(engine, fired(), fired("Young", YOUNG))
        wrong = datetime.now(timezone.utc) + timedelta(days=days)
        monkeypatch.setattr(clock, "database_now", lambda connection: wrong)
        with pytest.raises(PurgeError, match="the clocks disagree: the database's says 20"):
            run(engine)
        assert count_rows(engine)[:2] == [2, 2]

    @on_sqlite
    def test_a_history_without_recent_requests(self, engine):
        ended(engine, fired(), fired("Young", YOUNG))
        change(engine, api_calls.delete().where(api_calls.c.request_id == LAST_WEEK.request_id))
        with pytest.raises(PurgeError, match="older than 7 days would be left: .* received at 20"):
            run(engine, 79)
        assert run(engine, 81)["requests"] == 1

    @on_sqlite
    def test_a_request_from_the_future_is_not_a_recent_one(self, engine):
        """An endpoint's clock was ahead, which says nothing about the database's clock."""
        ended(engine, fired(), fired("Ahead"))
        # Before 0.3.0, such a time was recorded unchanged.
        ahead = api_calls.c.body.contains("Ahead")
        change(engine, update(api_calls).where(ahead).values(created_at=NOW + timedelta(days=400)))
        change(engine, api_calls.delete().where(api_calls.c.request_id == LAST_WEEK.request_id))
        with pytest.raises(PurgeError, match="no request older than 7 days would be left"):
            run(engine)

    @on_sqlite
    def test_fewer_days_than_the_cooldown(self, engine):
        ended(engine, fired(), fired("Recent", NOW - timedelta(days=2)))
        with pytest.raises(PurgeError, match="older_than_days: must be 3 or more.*cooldown_second"):
            run(engine, 2, cooldown_seconds=2 * 86_400 + 1)
        assert run(engine, 3, cooldown_seconds=2 * 86_400 + 1)["requests"] == 1


class TestPlans:
    def test_no_statement_reads_a_whole_table(self, engine):
        fill(engine)
        statements = []

        def note(connection, cursor, statement, parameters, context, many):
            if statement.split()[0] in ("SELECT", "DELETE") and "poundcake_meta" not in statement:
                statements.append((statement, parameters))

        event.listen(engine, "before_cursor_execute", note)
        assert run(engine)["requests"] == 1000
        event.remove(engine, "before_cursor_execute", note)
        fill(engine)
        assert len(statements) > 20
        for statement, parameters in statements:
            assert not whole_tables(engine, statement, parameters), statement


def fill(engine):
    """Insert 10,000 requests, 1000 of them old, each with an alert, a link and an execution."""
    rows = {table: [] for table in TABLES}
    for i in range(1, 10_001):
        at = (OLD if i <= 1000 else YOUNG) + timedelta(seconds=i)
        blank = {"headers": "{}", "body": "{}", "body_sha256": "", "method": "POST", "path": "/"}
        rows[api_calls].append(
            dict(blank, id=i, request_id=str(i), status_code=202, created_at=at, completed_at=at)
        )
        blank = {"severity": "", "instance": "", "labels": "{}", "annotations": "{}"}
        blank.update(status="firing", outcome="admitted", reason="", explanation="execution")
        rows[alerts].append(
            dict(blank, id=i, api_call_id=i, position=0, fingerprint=str(i), alert_name=str(i % 9))
        )
        rows[alerts][-1].update(created_at=at, recorded_at=at, episode=f"{i}-1")
        link = {"id": i, "request_id": str(i), "alert_id": i, "created_at": at}
        rows[links].append(dict(link, st2_execution_id=f"e{i}", claim=f"{i}-1|pack.work"))
        rows[executions].append({"id": f"e{i}", "action": "pack.work", "status": "succeeded"})
    change(engine, *[table.delete() for table in reversed(TABLES[:3])], executions.delete())
    with database.transaction(engine) as connection:
        for table, values in rows.items():
            connection.execute(insert(table), values)
            name = "ANALYZE TABLE " if engine.dialect.name == "mysql" else "ANALYZE "
            connection.execute(text(name + table.name))


def whole_tables(engine, statement, parameters):
    """Return the steps of a statement's plan that read a whole table or index."""
    with database.transaction(engine) as connection:
        if engine.dialect.name == "mysql":
            plan = connection.exec_driver_sql("EXPLAIN " + statement, parameters).mappings().all()
            return [dict(step) for step in plan if step["type"] in ("ALL", "index")]
        plan = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters)
        return [step.detail for step in plan if step.detail.startswith("SCAN")]
