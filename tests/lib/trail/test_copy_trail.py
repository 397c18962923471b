"""Moving the trail to another database loses and changes nothing, and repeats no remediation."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import signal
import subprocess
import sys
import threading

import jsonschema
import pytest
import yaml
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.engine import make_url

from poundcake.config import Config
from poundcake.remediation import safety
from poundcake.trail import claims, copy_trail, database, interventions, pause, purge, replay
from poundcake.trail.audit import Actor
from poundcake.trail.changes import ChangeResult, finish_changes
from poundcake.trail.copy_trail import copy_trail as copy
from poundcake.trail.database import DatabaseError, holds
from poundcake.trail.errors import CopyError
from poundcake.trail.limits import ChangeRequest
from poundcake.trail.record import record_requests
from poundcake.trail.release import release_claims
from poundcake.trail.schema import alerts, api_calls, audit, changes, events, executions, links
from tests.lib.samples import NOON, alert, later, request
from tests.lib.trails import WORKFLOW, disable_fsync, episode, record_execution

ROOT = pathlib.Path(__file__).parents[3]
TABLES = (api_calls, alerts, links, executions, audit, changes, events)
CONFIG = Config(cooldown_seconds=0)
JANE = Actor("jane", "e-jane")


def discard(line):
    """Ignore a line of the log."""


@pytest.fixture
def sqlite_url(tmp_path):
    """Return a function that returns the URL of a SQLite file."""
    return lambda name="old": f"sqlite:///{tmp_path / name}.sqlite"


@pytest.fixture(params=["sqlite to mariadb", "mariadb to sqlite"])
def urls(request, sqlite_url, mariadb_url):
    """Return the URLs of a source and a target: one in SQLite, the other in MariaDB."""
    pair = (sqlite_url(), mariadb_url)
    return pair if request.param.startswith("sqlite") else pair[::-1]


@pytest.fixture
def sqlite_urls(sqlite_url):
    """Return the URLs of two SQLite files, for tests that need no MariaDB."""
    return sqlite_url("old"), sqlite_url("new")


@pytest.fixture
def open_database():
    """Return a function that opens a database, which is closed when the test ends."""
    engines = []

    def factory(url, prepare=True):
        new_engine = database.open_engine(url)
        disable_fsync(new_engine)
        if prepare:
            database.prepare(new_engine)
        engines.append(new_engine)
        return new_engine

    yield factory
    for new_engine in engines:
        new_engine.dispose()


def record(engine, *requests):
    return record_requests(engine, CONFIG, requests)


def record_sample_trail(engine):
    """Record a trail with every kind of row."""
    webhook_request = request(
        alert(fingerprint="a", annotations={"summary": "\U0001f4a3 é \x00 \ud800 'q\" \\ \n"}),
        alert(fingerprint="b", starts_at=None),
        {"status": "firing", "labels": "none"},
    )
    record(engine, webhook_request)
    record_execution(engine, webhook_request.request_id, episode("a"))
    record_execution(
        engine,
        webhook_request.request_id,
        read_rows(engine, alerts)[1].episode,
        "e2",
        status="failed",
    )
    request_change(engine, webhook_request, "e1")
    request_change(engine, webhook_request, "e2")
    finish_changes(engine, "e1", ChangeResult.VERIFIED)
    record(engine, request(alert(fingerprint="a"), received_at=later(60)))
    resolve = alert(fingerprint="b", status="resolved", starts_at=None, ends_at=later(90))
    record(engine, request(resolve, received_at=later(100)))
    record(engine, request(body="not JSON", received_at=later(120)))
    interventions.acknowledge(engine, JANE, episode("a"), comment="mine \U0001f44d")
    release_claims(engine, episode("a"), actor=JANE)
    replay.replay_request(engine, CONFIG, webhook_request.request_id, True, "e-replay", JANE)
    return webhook_request


def request_change(engine, webhook_request, execution):
    """Request a change for episode a. Return True if it is granted: only the first one is."""
    config = Config(
        dry_run=False, allowed_hosts=("*",), allowed_actions=("pack.work",), fresh_minutes=0
    )
    change_request = ChangeRequest(webhook_request.request_id, episode("a"), "pack.work", execution)
    return safety.reserve(engine, config, change_request).may_change


def read_rows(engine, table):
    with database.reading(engine) as connection:
        return connection.execute(select(table).order_by(table.c.id)).all()


def read_trail(engine):
    """Return all rows by table, with natural keys instead of numeric ids, to compare databases.

    Audit entries about moves are left out, because only the target of a move has its entry.
    """
    calls = {row.id: row.request_id for row in read_rows(engine, api_calls)}
    alert_keys = {
        row.id: (calls[row.api_call_id], row.position) for row in read_rows(engine, alerts)
    }
    rows_by_table = {}
    for table in TABLES:
        rows_by_table[table.name] = []
        for row in read_rows(engine, table):
            values = dict(row._mapping)
            if table is audit and values["action"] == "migrate":
                continue
            if table is not executions:
                del values["id"]
            if "api_call_id" in values:
                values["api_call_id"] = calls[values["api_call_id"]]
            if "alert_id" in values:
                values["alert_id"] = alert_keys[values["alert_id"]]
            rows_by_table[table.name].append(values)
    return rows_by_table


class TestCopy:
    def test_every_row_arrives_unchanged_and_keeps_its_id(self, urls, open_database):
        source, target = open_database(urls[0]), open_database(urls[1], prepare=False)
        record_sample_trail(source)
        before = read_trail(source)
        result = copy(*urls, False, discard)
        assert read_trail(target) == before
        assert read_trail(source) == before
        for table in TABLES:
            source_ids = [row.id for row in read_rows(source, table)]
            new_ids = [row.id for row in read_rows(target, table)][len(source_ids) :]
            assert [row.id for row in read_rows(target, table)] == source_ids + new_ids
            assert len(new_ids) == (1 if table is audit else 0)  # the entry about the move
            counts = result["tables"][table.name]
            number = len(before[table.name])
            assert (counts["rows"], counts["verified"]) == (number, number) != (0, 0)
            assert (counts["inserted"], counts["updated"], counts["kept"]) == (number, 0, 0)
        assert result["complete"] and not result["already_moved"]

    def test_checksums_are_the_same_in_both_directions(self, urls, open_database):
        record_sample_trail(open_database(urls[0]))
        forward = copy(*urls, False, discard)["tables"]
        backward = copy(*urls[::-1], False, discard)["tables"]
        assert backward.pop("poundcake_audit")["inserted"] == 1  # the entry about the first move
        del forward["poundcake_audit"]
        assert {n: t["sha256"] for n, t in forward.items()} == {
            n: t["sha256"] for n, t in backward.items()
        }
        assert {t["inserted"] for t in backward.values()} == {0}

    def test_the_audit_log_of_the_target_shows_who_moved_the_trail(self, urls, open_database):
        open_database(urls[0])
        for _ in range(2):  # the second call finds nothing to move
            result = copy(*urls, False, discard, JANE)
        (entry,) = read_rows(open_database(urls[1]), audit)
        assert (entry.action, entry.st2_user) == ("migrate", JANE.st2_user)
        assert json.loads(entry.details) == {"source": result["source"], "target": result["target"]}
        assert make_url(urls[1]).password in (None, "") or "***" in result["target"]

    def test_changes_stay_paused(self, urls, open_database):
        record_sample_trail(open_database(urls[0]))
        pause.pause(open_database(urls[0]), JANE, "maintenance", 60)
        copy(*urls, False, discard)
        with database.reading(open_database(urls[1])) as connection:
            assert pause.read_pause(connection).reason == "maintenance"

    def test_an_empty_trail_is_copied(self, urls, open_database):
        open_database(urls[0])
        result = copy(*urls, False, discard)
        assert {t["rows"] for t in result["tables"].values()} == {0}
        assert database.prepare(open_database(urls[1], prepare=False))

    def test_a_repeat_is_a_duplicate_and_the_claim_is_still_held(self, urls, open_database):
        source = open_database(urls[0])
        webhook_request = request(alert(fingerprint="a"))
        record(source, webhook_request)
        record_execution(source, webhook_request.request_id, episode("a"))
        copy(*urls, False, discard)
        target = open_database(urls[1])
        repeat = request(alert(fingerprint="a"), received_at=later(300))
        assert record(target, repeat)["outcomes"] == {"duplicate": 1}
        assert record(target, webhook_request)["known"] == 1
        link = claims.link(target, webhook_request.request_id, episode("a"), WORKFLOW, "e-other")
        assert not link["claimed"]
        assert "e1" in link["reason"]

    def test_new_requests_are_recorded_after_the_copy(self, urls, open_database):
        source = open_database(urls[0])
        record_sample_trail(source)
        copy(*urls, False, discard)
        target = open_database(urls[1])
        new_request = request(alert(fingerprint="new"), received_at=later(500))
        assert record(target, new_request)["outcomes"] == {"admitted": 1}
        assert read_rows(target, alerts)[-1].id > read_rows(source, alerts)[-1].id


class TestOnlyOneDatabaseInUse:
    def test_nothing_is_recorded_in_the_old_database(self, urls, open_database):
        source = open_database(urls[0])
        webhook_request = request(alert(fingerprint="a"))
        record(source, webhook_request)
        copy(*urls, False, discard)
        before = read_trail(source)
        for write in (
            lambda: record(source, request(alert(fingerprint="b"))),
            lambda: claims.link(source, webhook_request.request_id, episode("a"), WORKFLOW, "e9"),
            lambda: purge.purge(source, CONFIG),
            lambda: interventions.close(source, JANE, "over", episode("a")),
        ):
            with pytest.raises(DatabaseError, match="the trail was moved to .*: set database_url"):
                write()
        assert read_trail(source) == before

    def test_a_transaction_that_began_before_the_copy_is_copied(self, urls, open_database):
        """The copy waits for a writer that has already passed every check."""
        source, copy_waits, committed = open_database(urls[0]), threading.Event(), threading.Event()
        writer_began = threading.Event()

        def write():
            with database.transaction(source) as connection:
                writer_began.set()
                copy_waits.wait(20)
                connection.execute(insert(executions).values(id="late", action="x", status="x"))
            committed.set()

        writer = threading.Thread(target=write)
        writer.start()
        writer_began.wait(20)
        lock_out_writers = holds.lock_out_writers

        def announce_lock(connection):
            if connection.engine.url == source.url:
                copy_waits.set()
            lock_out_writers(connection)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(holds, "lock_out_writers", announce_lock)
            if source.dialect.name == "sqlite":
                copy_waits.set()  # SQLite's lock is taken as the transaction begins
            copy(*urls, False, discard)
        writer.join(20)
        assert committed.is_set()
        assert [row.id for row in read_rows(open_database(urls[1]), executions)] == ["late"]

    def test_a_writer_that_starts_during_the_last_pass_is_refused(self, urls, open_database):
        source, errors = open_database(urls[0]), []
        record(source, request(alert(fingerprint="a")))
        database.prepare(source)

        def write():
            try:
                with database.transaction(source) as connection:
                    connection.execute(insert(executions).values(id="x", action="x", status="x"))
            except DatabaseError as error:
                errors.append(str(error))

        writer = threading.Thread(target=write)

        def log(line):
            if "locked out" in line:
                writer.start()

        copy(*urls, False, log)
        writer.join(30)
        assert "the trail was moved" in errors[0]
        assert read_rows(source, executions) == read_rows(open_database(urls[1]), executions) == []

    def test_the_new_database_is_not_used_before_the_copy_is_complete(self, urls, open_database):
        source = open_database(urls[0])
        record_sample_trail(source)
        refusals = []

        def log(line):
            if "locked out" in line:
                for use in (database.prepare, lambda e: record(e, request(alert()))):
                    with pytest.raises(DatabaseError, match="is not complete") as caught:
                        use(open_database(urls[1], prepare=False))
                    refusals.append(str(caught.value))

        copy(*urls, False, log)
        assert len(refusals) == 2
        record(open_database(urls[1]), request(alert(fingerprint="z")))

    def test_the_trail_can_be_moved_back_to_the_old_database(self, urls, open_database):
        source = open_database(urls[0])
        webhook_request = request(alert(fingerprint="a"))
        record(source, webhook_request)
        copy(*urls, False, discard)
        target = open_database(urls[1])
        resolve = alert(fingerprint="a", status="resolved", ends_at=later(30))
        record(target, request(resolve, received_at=later(40)))
        record(target, request(alert(fingerprint="b"), received_at=later(50)))
        result = copy(urls[1], urls[0], False, discard)["tables"]
        assert (result["poundcake_alerts"]["inserted"], result["poundcake_alerts"]["updated"]) == (
            2,
            1,
        )
        assert read_trail(source) == read_trail(target)
        assert record(source, request(alert(fingerprint="b")))["outcomes"] == {"duplicate": 1}
        with pytest.raises(DatabaseError, match="moved"):
            record(target, request(alert(fingerprint="c")))

    def test_a_second_copy_does_nothing(self, urls, open_database):
        record_sample_trail(open_database(urls[0]))
        copy(*urls, False, discard)
        target = open_database(urls[1])
        interventions.close(target, JANE, "over", episode("a"))
        before = read_trail(target)
        for in_use in (False, True):
            assert copy(*urls, in_use, discard)["already_moved"]
        assert read_trail(target) == before


class TestSourceInUse:
    """The source is used during the copy, and its changes reach the target."""

    def test_changes_during_the_copy_reach_the_target(self, urls, open_database):
        source = open_database(urls[0])
        webhook_request = request(alert(fingerprint="a"), alert(fingerprint="b"))
        record(source, webhook_request)
        record_execution(source, webhook_request.request_id, episode("a"))
        changed = []

        def change():
            """Move a claim to another execution, an incident to another row, and add new rows."""
            release_claims(source, episode("a"), actor=JANE)
            record_execution(source, webhook_request.request_id, episode("a"), "e2")
            replay.replay_request(source, CONFIG, webhook_request.request_id, True, "e9", JANE)
            record(source, request(alert(fingerprint="c"), received_at=later(60)))
            resolve = alert(fingerprint="b", status="resolved", ends_at=later(70))
            record(source, request(resolve, received_at=later(80)))

        run = copy_trail._Pass.run

        def run_and_change(self):
            result = run(self)
            if not changed:
                changed.append(True)
                change()
            return result

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(copy_trail._Pass, "run", run_and_change)
            result = copy(*urls, False, discard)["tables"]
        assert read_trail(open_database(urls[1])) == read_trail(source)
        assert result["poundcake_alerts"]["updated"]
        assert result["poundcake_audit"]["verified"] == 2

    def test_rows_purged_during_the_copy_stay_in_the_target(self, sqlite_urls, open_database):
        source = open_database(sqlite_urls[0])
        record_sample_trail(source)
        run, purged = copy_trail._Pass.run, []

        def run_and_purge(self):
            result = run(self)
            if not purged:
                purged.append(True)
                with source.begin() as connection:
                    for table in (links, alerts, api_calls):
                        connection.execute(table.delete())
            return result

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(copy_trail._Pass, "run", run_and_purge)
            result = copy(*sqlite_urls, False, discard)["tables"]
        assert result["poundcake_alerts"]["rows"] == 0
        # The rows remain part of the history until the target is purged.
        assert read_rows(open_database(sqlite_urls[1]), alerts)

    def test_the_source_takes_precedence_over_a_target_that_was_used_before(
        self, urls, open_database
    ):
        """The source is in use, so its incident stays open, and its execution keeps the claim."""
        source, target = open_database(urls[0]), open_database(urls[1])
        for engine, name in ((target, "e-before"), (source, "e-now")):
            webhook_request = request(alert(fingerprint="a"))
            record(engine, webhook_request)
            record_execution(engine, webhook_request.request_id, episode("a"), name)
        copy(*urls, False, discard)
        calls = {row.id: row.request_id for row in read_rows(target, api_calls)}
        open_rows = [row for row in read_rows(target, alerts) if row.open_fingerprint]
        assert [calls[row.api_call_id] for row in open_rows] == [webhook_request.request_id]
        has_claim = {row.st2_execution_id: bool(row.claim) for row in read_rows(target, links)}
        assert has_claim == {"e-before": False, "e-now": True}


class TestTargetInUse:
    """database_url was changed first, and the new database has recorded requests."""

    def record_in_each(self, urls, open_database, source_requests, target_requests):
        source, target = open_database(urls[0]), open_database(urls[1])
        for engine, requests in ((source, source_requests), (target, target_requests)):
            record(engine, *requests)
        return source, target

    def test_ids_that_both_databases_use_are_translated(self, urls, open_database):
        source, target = open_database(urls[0]), open_database(urls[1])
        record_sample_trail(source)
        target_request = request(alert(fingerprint="z"), received_at=later(900))
        record(target, target_request)
        record_execution(target, target_request.request_id, episode("z"), "e-z")
        source_rows, target_rows = read_trail(source), read_trail(target)
        result = copy(*urls, True, discard)
        after = read_trail(target)
        for table in TABLES:
            for row in source_rows[table.name]:
                assert row in after[table.name]
            for row in target_rows[table.name]:
                assert row in after[table.name]
            assert len(after[table.name]) == len(source_rows[table.name]) + len(
                target_rows[table.name]
            )
            assert result["tables"][table.name]["verified"] == len(source_rows[table.name])

    def test_a_new_database_refuses_requests_until_the_copy_is_complete(
        self, sqlite_urls, open_database
    ):
        record_sample_trail(open_database(sqlite_urls[0]))
        target, refused_at = open_database(sqlite_urls[1]), []

        def log(line):
            with pytest.raises(DatabaseError, match="is not complete"):
                record(target, request(alert()))
            refused_at.append(line)

        copy(*sqlite_urls, True, log)
        assert refused_at
        assert read_trail(target) == read_trail(open_database(sqlite_urls[0], prepare=False))

    def test_if_both_databases_granted_a_change_the_target_keeps_its_claim(
        self, urls, open_database
    ):
        source_request, target_request = [request(alert(fingerprint="a")) for _ in range(2)]
        source, target = self.record_in_each(
            urls, open_database, [source_request], [target_request]
        )
        assert request_change(source, source_request, "e1") and request_change(
            target, target_request, "e2"
        )
        copy(*urls, True, discard)
        has_claim = {row.st2_execution_id: bool(row.claim) for row in read_rows(target, changes)}
        assert has_claim == {"e1": False, "e2": True}
        assert not request_change(target, target_request, "e3")

    def test_an_incident_that_is_open_in_both_databases_stays_open_in_one_row(
        self, urls, open_database
    ):
        source_request, target_request = [request(alert(fingerprint="a")) for _ in range(2)]
        source, target = self.record_in_each(
            urls, open_database, [source_request], [target_request]
        )
        record_execution(source, source_request.request_id, episode("a"))
        interventions.acknowledge(source, JANE, episode("a"), comment="mine")
        copy(*urls, True, discard)
        open_rows = [row for row in read_rows(target, alerts) if row.open_fingerprint]
        assert [row.acknowledged_by for row in open_rows] == ["jane"]
        # The execution of the old database still holds the claim.
        link = claims.link(target, target_request.request_id, episode("a"), WORKFLOW, "e-new")
        assert not link["claimed"]
        repeat = request(alert(fingerprint="a"), received_at=later(300))
        assert record(target, repeat)["outcomes"] == {"duplicate": 1}

    def test_if_both_databases_have_a_claim_the_target_keeps_its_claim(
        self, sqlite_urls, open_database
    ):
        source_request, target_request = (
            request(alert(fingerprint="a")),
            request(alert(fingerprint="a")),
        )
        source, target = self.record_in_each(
            sqlite_urls, open_database, [source_request], [target_request]
        )
        record_execution(source, source_request.request_id, episode("a"), "e-old")
        record_execution(target, target_request.request_id, episode("a"), "e-new")
        copy(*sqlite_urls, True, discard)
        has_claim = {row.st2_execution_id: bool(row.claim) for row in read_rows(target, links)}
        assert has_claim == {"e-new": True, "e-old": False}

    def test_the_incident_that_was_remediated_stays_open(self, sqlite_urls, open_database):
        source, target = open_database(sqlite_urls[0]), open_database(sqlite_urls[1])
        record(source, request(alert(fingerprint="a")))
        unlisted_receiver = Config(receivers=("other",))
        record_requests(
            target, unlisted_receiver, [request(alert(fingerprint="a"), received_at=later(9))]
        )
        assert read_rows(target, alerts)[0].outcome == "observed"
        copy(*sqlite_urls, True, discard)
        open_rows = [row for row in read_rows(target, alerts) if row.open_fingerprint]
        assert [row.outcome for row in open_rows] == ["admitted"]
        repeat = request(alert(fingerprint="a"), received_at=later(300))
        assert record(target, repeat)["outcomes"] == {"duplicate": 1}

    def test_an_incident_whose_resolve_the_target_has_received_is_closed(
        self, sqlite_urls, open_database
    ):
        resolve = alert(fingerprint="a", status="resolved", ends_at=later(60))
        target_request = request(resolve, received_at=later(70))
        _, target = self.record_in_each(
            sqlite_urls, open_database, [request(alert(fingerprint="a"))], [target_request]
        )
        copy(*sqlite_urls, True, discard)
        copied = next(row for row in read_rows(target, alerts) if row.outcome == "admitted")
        assert (copied.open_fingerprint, copied.ended_by) == (None, "resolve")
        assert copied.closed_at == later(70)

    def test_a_later_episode_in_the_target_supersedes_the_one_in_the_source(
        self, sqlite_urls, open_database
    ):
        target_request = request(
            alert(fingerprint="a", starts_at=later(7200)), received_at=later(7300)
        )
        _, target = self.record_in_each(
            sqlite_urls, open_database, [request(alert(fingerprint="a"))], [target_request]
        )
        copy(*sqlite_urls, True, discard)
        by_episode = {row.episode: row.ended_by for row in read_rows(target, alerts)}
        assert by_episode == {episode("a"): "superseded", episode("a", later(7200)): None}

    def test_a_request_recorded_in_both_databases_is_kept_once(self, sqlite_urls, open_database):
        """The endpoint announced it again, because the new database did not have it."""
        webhook_request = request(alert(fingerprint="a"))
        source, target = self.record_in_each(
            sqlite_urls, open_database, [webhook_request], [webhook_request]
        )
        record_execution(source, webhook_request.request_id, episode("a"))
        result = copy(*sqlite_urls, True, discard)["tables"]
        assert result["poundcake_alerts"]["kept"] == 1
        assert len(read_rows(target, alerts)) == 1
        link = claims.link(target, webhook_request.request_id, episode("a"), WORKFLOW, "e-new")
        assert not link["claimed"]

    def test_rows_recorded_in_the_target_during_the_copy_are_kept(
        self, urls, open_database, monkeypatch
    ):
        monkeypatch.setattr(copy_trail, "_PAGE_ROWS", 3)
        source, target = open_database(urls[0]), open_database(urls[1])
        old_requests = [
            request(alert(fingerprint=f"f{n}"), received_at=later(n)) for n in range(30)
        ]
        record(source, *old_requests)
        before = read_trail(source)
        record(target, request(alert(fingerprint="own"), received_at=later(500)))
        stop, recorded_ids, errors = threading.Event(), [], []

        def record_until_stopped():
            number = 0
            while not stop.is_set() and number < 200:
                new_request = request(
                    alert(fingerprint=f"g{number}"), received_at=later(600 + number)
                )
                try:
                    record(target, new_request)
                    recorded_ids.append(new_request.request_id)
                except Exception as error:
                    errors.append(error)
                number += 1

        writer = threading.Thread(target=record_until_stopped)
        writer.start()
        copy(*urls, True, discard)
        stop.set()
        writer.join(60)
        assert not errors
        request_ids = {row.request_id for row in read_rows(target, api_calls)}
        assert request_ids >= {r.request_id for r in old_requests} | set(recorded_ids)
        after = read_trail(target)
        for row in before["poundcake_alerts"]:
            assert row in after["poundcake_alerts"]
        assert len(after["poundcake_alerts"]) == 31 + len(recorded_ids)


class TestRefused:
    """An impossible copy is refused with a reason, and changes nothing."""

    def expect_refusal(self, source, target, match, in_use=False, error=(CopyError, DatabaseError)):
        with pytest.raises(error, match=match) as caught:
            copy(source, target, in_use, discard)
        return str(caught.value)

    def test_copying_a_database_to_itself_is_refused(self, urls, open_database):
        webhook_request = request(alert(fingerprint="a"))
        for url in urls:
            record(open_database(url), webhook_request)
            self.expect_refusal(url, url, "are the same database")
            assert record(open_database(url), webhook_request)["known"] == 1

    def test_a_target_that_is_a_copy_of_the_source_files_is_refused(
        self, sqlite_urls, open_database, tmp_path
    ):
        source = open_database(sqlite_urls[0])
        source.dispose()
        (tmp_path / "new.sqlite").write_bytes((tmp_path / "old.sqlite").read_bytes())
        self.expect_refusal(*sqlite_urls, "one is a copy of the other's files")

    def test_a_missing_file_is_not_created(self, sqlite_urls, tmp_path):
        self.expect_refusal(*sqlite_urls, "old.sqlite: no such file")
        assert not list(tmp_path.iterdir())

    def test_a_database_without_tables_is_refused(self, urls, open_database):
        database.open_engine(urls[0]).connect().close()
        self.expect_refusal(*urls, "has no tables of PoundCake")

    def test_a_file_that_is_not_a_database_is_refused(self, sqlite_urls, tmp_path):
        (tmp_path / "old.sqlite").write_text("not a database at all" * 100)
        self.expect_refusal(*sqlite_urls, "not a database")

    def test_a_damaged_file_is_refused(self, sqlite_urls, open_database, tmp_path, monkeypatch):
        monkeypatch.setattr(copy_trail, "_RETRY_SECONDS", 0)
        source = open_database(sqlite_urls[0])
        for number in range(50):
            record(source, request(alert(fingerprint=f"f{number}"), received_at=later(number)))
        source.dispose()
        path = tmp_path / "old.sqlite"
        content = bytearray(path.read_bytes())
        for start in range(len(content) // 2, len(content), 4096):
            content[start : start + 4096] = b"\xff" * len(content[start : start + 4096])
        path.write_bytes(content)
        self.expect_refusal(*sqlite_urls, "old.sqlite: .*(malformed|not a database)")

    def test_tables_of_a_newer_release_are_refused(self, urls, open_database):
        source = open_database(urls[0])
        with source.begin() as connection:
            connection.execute(text("UPDATE poundcake_meta SET value='99' WHERE name='schema'"))
        self.expect_refusal(*urls, "install the release that created them")

    def test_a_server_that_does_not_answer_is_reported(self, sqlite_urls, open_database):
        record_sample_trail(open_database(sqlite_urls[0]))
        wrong_url = "mysql+pymysql://poundcake:hush-word@127.0.0.1:1/poundcake"
        for source, target in ((sqlite_urls[0], wrong_url), (wrong_url, sqlite_urls[0])):
            assert "hush-word" not in self.expect_refusal(source, target, "127.0.0.1")
        record(open_database(sqlite_urls[0]), request(alert(fingerprint="x")))

    def test_an_incomplete_copy_is_refused_as_source_and_as_target(
        self, sqlite_url, open_database, monkeypatch
    ):
        record_sample_trail(open_database(sqlite_url("a")))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(copy_trail._Pass, "run", interrupt)
            with pytest.raises(KeyboardInterrupt):
                copy(sqlite_url("a"), sqlite_url("b"), False, discard)
        self.expect_refusal(sqlite_url("b"), sqlite_url("c"), "is not complete")
        open_database(sqlite_url("d"))
        self.expect_refusal(sqlite_url("d"), sqlite_url("b"), "an earlier copy is not complete")
        assert copy(sqlite_url("a"), sqlite_url("b"), False, discard)["complete"]

    def test_a_database_whose_trail_was_moved_elsewhere_is_refused(self, sqlite_url, open_database):
        record_sample_trail(open_database(sqlite_url("a")))
        copy(sqlite_url("a"), sqlite_url("b"), False, discard)
        self.expect_refusal(
            sqlite_url("a"), sqlite_url("c"), "the trail was moved to sqlite:.*b.sqlite"
        )

    def test_a_target_that_changes_a_copied_row_is_refused(self, sqlite_urls, open_database):
        """A trigger in the target changes the rows that are written."""
        record_sample_trail(open_database(sqlite_urls[0]))
        target = open_database(sqlite_urls[1])
        update_severity = "UPDATE poundcake_alerts SET severity = 'x' WHERE id = NEW.id"
        with target.begin() as connection:
            for event in ("INSERT", "UPDATE"):
                connection.execute(
                    text(
                        f"CREATE TRIGGER at_{event} AFTER {event} ON poundcake_alerts "
                        f"BEGIN {update_severity}; END"
                    )
                )
        self.expect_refusal(
            *sqlite_urls, "poundcake_alerts: severity of the row with id 1 .* differs in"
        )
        with pytest.raises(DatabaseError, match="is not complete"):
            database.prepare(target)
        # The old database is still in use.
        record(open_database(sqlite_urls[0]), request(alert(fingerprint="x")))


def interrupt(*_):
    raise KeyboardInterrupt


def test_a_source_with_an_older_schema_is_upgraded_first(urls, open_database):
    source = open_database(urls[0])
    webhook_request = request(alert(fingerprint="a"))
    record(source, webhook_request)
    with source.begin() as connection:
        connection.execute(text("DROP TABLE poundcake_audit"))
        connection.execute(text("DROP TABLE poundcake_changes"))
        connection.execute(text("DROP TABLE poundcake_events"))
        connection.execute(text("UPDATE poundcake_meta SET value = '5' WHERE name = 'schema'"))
        connection.execute(
            text("UPDATE alembic_version SET version_num = '0005' WHERE version_num = '0013'")
        )
    result = copy(*urls, False, discard)
    assert result["tables"]["poundcake_alerts"]["verified"] == 1
    assert record(open_database(urls[1]), webhook_request)["known"] == 1


KILLED_COPY = """
import os, signal, sys
from poundcake.trail import copy_trail
copy_trail._PAGE_ROWS = 5
write, pages = copy_trail._Pass._write_page, []
def write_until_killed(self, *args):
    write(self, *args)
    pages.append(1)
    if len(pages) == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
copy_trail._Pass._write_page = write_until_killed
copy_trail.copy_trail(sys.argv[1], sys.argv[2], sys.argv[3] == "in use", print)
"""


class TestKilled:
    @pytest.mark.parametrize("target_is_in_use", [False, True])
    def test_a_killed_copy_can_be_resumed(self, urls, open_database, target_is_in_use):
        source = open_database(urls[0])
        requests = [request(alert(fingerprint=f"f{n}"), received_at=later(n)) for n in range(20)]
        record(source, *requests)
        for number, webhook_request in enumerate(requests[:12]):
            record_execution(
                source, webhook_request.request_id, episode(f"f{number}"), f"e{number}"
            )
        before = read_trail(source)
        target_requests = []
        if target_is_in_use:
            target_requests = [request(alert(fingerprint="own"), received_at=later(99))]
            record(open_database(urls[1]), *target_requests)
        mode = "in use" if target_is_in_use else "-"
        for page in (4, 6, 9):
            process = subprocess.run(
                [sys.executable, "-c", KILLED_COPY, *urls, mode, str(page)],
                cwd=str(ROOT / "lib"),
                capture_output=True,
                check=False,
            )
            assert process.returncode == -signal.SIGKILL, process.stderr.decode()
            target = open_database(urls[1], prepare=False)
            assert read_rows(target, api_calls)
            if not target_is_in_use:
                # The old database is still in use. The new one is not in use yet.
                repeat = request(alert(fingerprint="f1"), received_at=later(100 + page))
                record(source, repeat)
                before = read_trail(source)
                with pytest.raises(DatabaseError, match="run it again"):
                    database.prepare(target)
        result = copy(*urls, target_is_in_use, discard)
        after = read_trail(open_database(urls[1]))
        for table in TABLES:
            for row in before[table.name]:
                assert row in after[table.name]
            extra = len(target_requests) if table in (api_calls, alerts) else 0
            assert len(after[table.name]) == len(before[table.name]) + extra
        assert result["complete"]

    def test_a_copy_killed_after_the_source_was_marked_can_be_resumed(self, urls, open_database):
        source = open_database(urls[0])
        record_sample_trail(source)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(copy_trail, "_unmark_target", interrupt)
            with pytest.raises(KeyboardInterrupt):
                copy(*urls, False, discard)
        # Neither database accepts requests, so no alert can look new to either of them.
        for url in urls:
            with pytest.raises(DatabaseError):
                database.prepare(open_database(url, prepare=False))
        assert copy(*urls, False, discard)["tables"]["poundcake_alerts"]["inserted"] == 0
        assert read_trail(open_database(urls[1])) == read_trail(source)


MEASURED_COPY = """
import resource, sys
from poundcake.trail import copy_trail, database, migrations
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
copy_trail.copy_trail(sys.argv[1], sys.argv[2], False, lambda line: None)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_long_history_is_copied_in_bounded_memory(sqlite_urls, open_database):
    """The history has 50,000 rows and 90 MB of requests."""
    source = open_database(sqlite_urls[0])
    api_call = {
        "method": "POST",
        "path": "/",
        "headers": "{}",
        "body": "y" * 1_500_000,
        "status_code": 202,
        "created_at": NOON,
        "body_sha256": "0",
        "truncated_alerts": 0,
    }
    with source.begin() as connection:
        for number in range(60):
            connection.execute(insert(api_calls), {**api_call, "request_id": f"r{number}"})
        for start in range(0, 50_000, 1000):
            ids = range(start, start + 1000)
            connection.execute(
                insert(executions),
                [{"id": f"{number:05}", "action": "x", "status": "succeeded"} for number in ids],
            )
    target = open_database(sqlite_urls[1])
    growth_kb = subprocess.run(
        [sys.executable, "-c", MEASURED_COPY, *sqlite_urls],
        cwd=str(ROOT / "lib"),
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    assert int(growth_kb) < 120_000
    with database.reading(target) as connection:
        for table, number in ((executions, 50_000), (api_calls, 60)):
            assert connection.scalar(select(func.count()).select_from(table)) == number


def test_the_source_is_read_only(urls, open_database):
    open_database(urls[0])
    reader = database.open_engine(urls[0], read_only=True)
    with pytest.raises(DatabaseError):
        with database.reading(reader) as connection:
            connection.execute(update(api_calls).values(error="x"))
    reader.dispose()


class TestAction:
    """Run the action with the parameters of `st2 run poundcake.migrate`."""

    @pytest.fixture
    def migrate(self, monkeypatch):
        actions = ROOT / "actions"
        monkeypatch.syspath_prepend(str(actions))
        spec = importlib.util.spec_from_file_location("migrate_action", actions / "migrate.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.Migrate

    def test_the_result_contains_no_password(self, urls, open_database, migrate, tmp_path):
        record_sample_trail(open_database(urls[0]))
        (tmp_path / "other").write_text(urls[1])
        config = {"database_url": urls[0], "state_dir": str(tmp_path)}
        succeeded, result = migrate(config).run(
            copy_to=f"file:{tmp_path / 'other'}", st2_user="jane"
        )
        assert succeeded, result
        assert read_rows(open_database(urls[1]), audit)[-1].st2_user == "jane"
        metadata = yaml.safe_load((ROOT / "actions" / "migrate.yaml").read_text())
        jsonschema.validate(result, dict(metadata["output_schema"], additionalProperties=False))
        assert result["copy"]["tables"]["poundcake_alerts"]["verified"]
        for url in urls:
            password = make_url(url).password
            assert not password or password not in json.dumps(result)
        # From now on, the old database is refused. The trail can still be moved back.
        succeeded, result = migrate(config).run()
        assert not succeeded and "the trail was moved to" in result
        succeeded, result = migrate(config).run(copy_from=urls[1])
        assert succeeded, result
        assert migrate(config).run()[0]

    @pytest.mark.parametrize(
        "parameters, reason",
        [
            ({"copy_from": "sqlite", "copy_to": "sqlite"}, "only one of them can be given"),
            ({"copy_from": "sqlite"}, "are the same database"),
            ({"copy_to": "file:/nowhere"}, "copy_to: cannot read /nowhere"),
            ({"copy_to": "postgresql://u:hush-word@h/d"}, "copy_to: must be mysql"),
        ],
    )
    def test_unusable_parameters_are_refused(self, parameters, reason, migrate, tmp_path):
        succeeded, result = migrate({"state_dir": str(tmp_path)}).run(**parameters)
        assert not succeeded
        assert reason in result and "hush-word" not in result
