"""Moving the trail to another database: nothing is lost, changed, or remediated again."""

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
from poundcake.trail.changes import ChangeResult, finish_change
from poundcake.trail.copy_trail import copy_trail as copy
from poundcake.trail.database import DatabaseError, holds
from poundcake.trail.errors import CopyError
from poundcake.trail.limits import ChangeRequest
from poundcake.trail.record import record_requests
from poundcake.trail.schema import alerts, api_calls, audit, changes, executions, links
from tests.lib.samples import NOON, alert, later, request
from tests.lib.trails import WORKFLOW, do_not_sync, episode, record_execution

ROOT = pathlib.Path(__file__).parents[3]
TABLES = (api_calls, alerts, links, executions, audit, changes)
CONFIG = Config(cooldown_seconds=0)
SOMEBODY = Actor("jane", "e-jane")


def silent(line):
    """Ignore a line of the log."""


@pytest.fixture
def sqlite_url(tmp_path):
    """A function that returns the URL of a SQLite file."""
    return lambda name="old": f"sqlite:///{tmp_path / name}.sqlite"


@pytest.fixture(params=["sqlite to mariadb", "mariadb to sqlite"])
def urls(request, sqlite_url, mariadb_url):
    """The URLs of a source and a target of the other kind."""
    found = (sqlite_url(), mariadb_url)
    return found if request.param.startswith("sqlite") else found[::-1]


@pytest.fixture
def files(sqlite_url):
    """The URLs of two SQLite files, for tests in which the kind of database cannot matter."""
    return sqlite_url("old"), sqlite_url("new")


@pytest.fixture
def opened():
    """A function that opens a database. It is closed at the end."""
    engines = []

    def factory(url, prepare=True):
        new_engine = database.open_engine(url)
        do_not_sync(new_engine)
        if prepare:
            database.prepare(new_engine)
        engines.append(new_engine)
        return new_engine

    yield factory
    for new_engine in engines:
        new_engine.dispose()


def record(engine, *sent):
    return record_requests(engine, CONFIG, sent)


def fill(engine):
    """Record a trail with every kind of row."""
    first = request(
        alert(fingerprint="a", annotations={"summary": "\U0001f4a3 é \x00 \ud800 'q\" \\ \n"}),
        alert(fingerprint="b", starts_at=None),
        {"status": "firing", "labels": "none"},
    )
    record(engine, first)
    record_execution(engine, first.request_id, episode("a"))
    record_execution(
        engine, first.request_id, rows(engine, alerts)[1].episode, "e2", status="failed"
    )
    ask(engine, first, "e1")
    ask(engine, first, "e2")
    finish_change(engine, "e1", ChangeResult.VERIFIED)
    record(engine, request(alert(fingerprint="a"), received_at=later(60)))
    resolve = alert(fingerprint="b", status="resolved", starts_at=None, ends_at=later(90))
    record(engine, request(resolve, received_at=later(100)))
    record(engine, request(body="not JSON", received_at=later(120)))
    interventions.acknowledge(engine, SOMEBODY, episode("a"), comment="mine \U0001f44d")
    claims.release(engine, episode("a"), actor=SOMEBODY)
    replay.replay_request(engine, CONFIG, first.request_id, True, "e-replay", SOMEBODY)
    return first


def ask(engine, sent, execution):
    """Ask for a change of the first alert. The first execution that asks is granted it."""
    config = Config(
        dry_run=False, allowed_hosts=("*",), allowed_actions=("pack.work",), fresh_minutes=0
    )
    asked = ChangeRequest(sent.request_id, episode("a"), "pack.work", execution)
    return safety.reserve(engine, config, asked).may_change


def rows(engine, table):
    with database.reading(engine) as connection:
        return connection.execute(select(table).order_by(table.c.id)).all()


def trail(engine):
    """Return all rows by table, with natural keys instead of numeric ids, to compare databases."""
    calls = {row.id: row.request_id for row in rows(engine, api_calls)}
    names = {row.id: (calls[row.api_call_id], row.position) for row in rows(engine, alerts)}
    found = {}
    for table in TABLES:
        found[table.name] = []
        for row in rows(engine, table):
            values = dict(row._mapping)
            if table is not executions:
                del values["id"]
            if "api_call_id" in values:
                values["api_call_id"] = calls[values["api_call_id"]]
            if "alert_id" in values:
                values["alert_id"] = names[values["alert_id"]]
            found[table.name].append(values)
    return found


def outcomes(engine, sent):
    with database.reading(engine) as connection:
        statement = select(alerts.c.outcome).join(api_calls)
        statement = statement.where(api_calls.c.request_id == sent.request_id)
        return list(connection.scalars(statement.order_by(alerts.c.position)))


class TestCopy:
    def test_every_row_arrives_unchanged_and_keeps_its_id(self, urls, opened):
        source, target = opened(urls[0]), opened(urls[1], prepare=False)
        fill(source)
        before = trail(source)
        result = copy(*urls, False, silent)
        assert trail(target) == before
        assert trail(source) == before
        for table in TABLES:
            assert [row.id for row in rows(target, table)] == [r.id for r in rows(source, table)]
            counts = result["tables"][table.name]
            number = len(before[table.name])
            assert (counts["rows"], counts["verified"]) == (number, number) != (0, 0)
            assert (counts["inserted"], counts["updated"], counts["kept"]) == (number, 0, 0)
        assert result["complete"] and not result["already_moved"]

    def test_checksums_are_the_same_in_both_directions(self, urls, opened):
        fill(opened(urls[0]))
        there = copy(*urls, False, silent)["tables"]
        back = copy(*urls[::-1], False, silent)["tables"]
        assert {n: t["sha256"] for n, t in there.items()} == {
            n: t["sha256"] for n, t in back.items()
        }
        assert {t["inserted"] for t in back.values()} == {0}

    def test_changes_stay_paused(self, urls, opened):
        fill(opened(urls[0]))
        pause.pause(opened(urls[0]), SOMEBODY, "maintenance", 60)
        copy(*urls, False, silent)
        with database.reading(opened(urls[1])) as connection:
            assert pause.read_pause(connection).reason == "maintenance"

    def test_an_empty_trail(self, urls, opened):
        opened(urls[0])
        result = copy(*urls, False, silent)
        assert {t["rows"] for t in result["tables"].values()} == {0}
        assert database.prepare(opened(urls[1], prepare=False))

    def test_a_repeat_is_a_duplicate_and_the_claim_is_still_held(self, urls, opened):
        source = opened(urls[0])
        sent = request(alert(fingerprint="a"))
        record(source, sent)
        record_execution(source, sent.request_id, episode("a"))
        copy(*urls, False, silent)
        target = opened(urls[1])
        again = request(alert(fingerprint="a"), received_at=later(300))
        assert record(target, again)["outcomes"] == {"duplicate": 1}
        assert record(target, sent)["known"] == 1
        answer = claims.link(target, sent.request_id, episode("a"), WORKFLOW, "e-other")
        assert not answer["claimed"]
        assert "e1" in answer["reason"]

    def test_new_requests_are_recorded_after_the_copy(self, urls, opened):
        source = opened(urls[0])
        fill(source)
        copy(*urls, False, silent)
        target = opened(urls[1])
        new = request(alert(fingerprint="new"), received_at=later(500))
        assert record(target, new)["outcomes"] == {"admitted": 1}
        assert rows(target, alerts)[-1].id > rows(source, alerts)[-1].id


class TestOnlyOneIsInUse:
    def test_nothing_is_recorded_in_the_old_database(self, urls, opened):
        source = opened(urls[0])
        sent = request(alert(fingerprint="a"))
        record(source, sent)
        copy(*urls, False, silent)
        before = trail(source)
        for write in (
            lambda: record(source, request(alert(fingerprint="b"))),
            lambda: claims.link(source, sent.request_id, episode("a"), WORKFLOW, "e9"),
            lambda: purge.purge(source, CONFIG),
            lambda: interventions.close(source, SOMEBODY, "over", episode("a")),
        ):
            with pytest.raises(DatabaseError, match="the trail was moved to .*: set database_url"):
                write()
        assert trail(source) == before

    def test_a_transaction_that_began_before_is_in_the_copy(self, urls, opened):
        """The copy waits for a writer that has already passed every check."""
        source, waits, done = opened(urls[0]), threading.Event(), threading.Event()
        started = threading.Event()

        def write():
            with database.transaction(source) as connection:
                started.set()
                waits.wait(20)
                connection.execute(insert(executions).values(id="late", action="x", status="x"))
            done.set()

        writer = threading.Thread(target=write)
        writer.start()
        started.wait(20)
        original = holds.lock_out_writers

        def lock(connection):
            if connection.engine.url == source.url:
                waits.set()
            original(connection)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(holds, "lock_out_writers", lock)
            if source.dialect.name == "sqlite":
                waits.set()  # SQLite's lock is taken as the transaction begins
            copy(*urls, False, silent)
        writer.join(20)
        assert done.is_set()
        assert [row.id for row in rows(opened(urls[1]), executions)] == ["late"]

    def test_a_writer_that_starts_during_the_last_pass_is_refused(self, urls, opened):
        source, errors = opened(urls[0]), []
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
        assert rows(source, executions) == rows(opened(urls[1]), executions) == []

    def test_the_new_database_is_not_used_before_the_copy_is_complete(self, urls, opened):
        source = opened(urls[0])
        fill(source)
        refused = []

        def log(line):
            if "locked out" in line:
                for use in (database.prepare, lambda e: record(e, request(alert()))):
                    with pytest.raises(DatabaseError, match="is not complete") as caught:
                        use(opened(urls[1], prepare=False))
                    refused.append(str(caught.value))

        copy(*urls, False, log)
        assert len(refused) == 2
        record(opened(urls[1]), request(alert(fingerprint="z")))

    def test_back_to_the_old_database(self, urls, opened):
        source = opened(urls[0])
        first = request(alert(fingerprint="a"))
        record(source, first)
        copy(*urls, False, silent)
        target = opened(urls[1])
        resolve = alert(fingerprint="a", status="resolved", ends_at=later(30))
        record(target, request(resolve, received_at=later(40)))
        record(target, request(alert(fingerprint="b"), received_at=later(50)))
        result = copy(urls[1], urls[0], False, silent)["tables"]
        assert (result["poundcake_alerts"]["inserted"], result["poundcake_alerts"]["updated"]) == (
            2,
            1,
        )
        assert trail(source) == trail(target)
        assert record(source, request(alert(fingerprint="b")))["outcomes"] == {"duplicate": 1}
        with pytest.raises(DatabaseError, match="moved"):
            record(target, request(alert(fingerprint="c")))

    def test_a_second_copy_does_nothing(self, urls, opened):
        fill(opened(urls[0]))
        copy(*urls, False, silent)
        target = opened(urls[1])
        interventions.close(target, SOMEBODY, "over", episode("a"))
        before = trail(target)
        for in_use in (False, True):
            assert copy(*urls, in_use, silent)["already_moved"]
        assert trail(target) == before


class TestInUse:
    """Changes of the source during the copy arrive in the target."""

    def test_changes_during_the_copy_arrive(self, urls, opened):
        source = opened(urls[0])
        sent = request(alert(fingerprint="a"), alert(fingerprint="b"))
        record(source, sent)
        record_execution(source, sent.request_id, episode("a"))
        changed = []

        def change():
            """A claim moves to another execution, an incident to another row; others are new."""
            claims.release(source, episode("a"), actor=SOMEBODY)
            record_execution(source, sent.request_id, episode("a"), "e2")
            replay.replay_request(source, CONFIG, sent.request_id, True, "e9", SOMEBODY)
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
            result = copy(*urls, False, silent)["tables"]
        assert trail(opened(urls[1])) == trail(source)
        assert result["poundcake_alerts"]["updated"]
        assert result["poundcake_audit"]["verified"] == 2

    def test_a_purge_during_the_copy(self, files, opened):
        source = opened(files[0])
        fill(source)
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
            result = copy(*files, False, silent)["tables"]
        assert result["poundcake_alerts"]["rows"] == 0
        assert rows(opened(files[1]), alerts)  # as history, until the target is purged

    def test_the_source_wins_against_a_target_that_was_used_before(self, urls, opened):
        """The source is the database in use, so its incident stays open and its claim is held."""
        source, target = opened(urls[0]), opened(urls[1])
        for engine, name in ((target, "e-before"), (source, "e-now")):
            sent = request(alert(fingerprint="a"))
            record(engine, sent)
            record_execution(engine, sent.request_id, episode("a"), name)
        copy(*urls, False, silent)
        calls = {row.id: row.request_id for row in rows(target, api_calls)}
        opening = [row for row in rows(target, alerts) if row.open_fingerprint]
        assert [calls[row.api_call_id] for row in opening] == [sent.request_id]
        claimed = {row.st2_execution_id: bool(row.claim) for row in rows(target, links)}
        assert claimed == {"e-before": False, "e-now": True}


class TestTargetInUse:
    """database_url was changed first, and the new database has recorded requests."""

    def record_in_each(self, files, opened, old, new):
        source, target = opened(files[0]), opened(files[1])
        for engine, sent in ((source, old), (target, new)):
            record(engine, *sent)
        return source, target

    def test_ids_that_both_have_are_translated(self, urls, opened):
        source, target = opened(urls[0]), opened(urls[1])
        fill(source)
        own = request(alert(fingerprint="z"), received_at=later(900))
        record(target, own)
        record_execution(target, own.request_id, episode("z"), "e-z")
        before, mine = trail(source), trail(target)
        result = copy(*urls, True, silent)
        after = trail(target)
        for table in TABLES:
            for row in before[table.name]:
                assert row in after[table.name]
            for row in mine[table.name]:
                assert row in after[table.name]
            assert len(after[table.name]) == len(before[table.name]) + len(mine[table.name])
            assert result["tables"][table.name]["verified"] == len(before[table.name])

    def test_a_new_database_is_held_until_the_copy_is_complete(self, files, opened):
        fill(opened(files[0]))
        target, refused = opened(files[1]), []

        def log(line):
            with pytest.raises(DatabaseError, match="is not complete"):
                record(target, request(alert()))
            refused.append(line)

        copy(*files, True, log)
        assert refused
        assert trail(target) == trail(opened(files[0], prepare=False))

    def test_a_change_of_both_keeps_the_claim_of_the_target(self, urls, opened):
        old, new = request(alert(fingerprint="a")), request(alert(fingerprint="a"))
        source, target = self.record_in_each(urls, opened, [old], [new])
        assert ask(source, old, "e1") and ask(target, new, "e2")
        copy(*urls, True, silent)
        claimed = {row.st2_execution_id: bool(row.claim) for row in rows(target, changes)}
        assert claimed == {"e1": False, "e2": True}
        assert not ask(target, new, "e3")

    def test_an_incident_that_is_open_in_both_stays_open_in_one_row(self, urls, opened):
        old, new = request(alert(fingerprint="a")), request(alert(fingerprint="a"))
        source, target = self.record_in_each(urls, opened, [old], [new])
        record_execution(source, old.request_id, episode("a"))
        interventions.acknowledge(source, SOMEBODY, episode("a"), comment="mine")
        copy(*urls, True, silent)
        opening = [row for row in rows(target, alerts) if row.open_fingerprint]
        assert [row.acknowledged_by for row in opening] == ["jane"]
        # The execution of the old database still holds the claim.
        link = claims.link(target, new.request_id, episode("a"), WORKFLOW, "e-new")
        assert not link["claimed"]
        again = request(alert(fingerprint="a"), received_at=later(300))
        assert record(target, again)["outcomes"] == {"duplicate": 1}

    def test_a_claim_that_both_have_stays_with_the_target(self, files, opened):
        old, new = request(alert(fingerprint="a")), request(alert(fingerprint="a"))
        source, target = self.record_in_each(files, opened, [old], [new])
        record_execution(source, old.request_id, episode("a"), "e-old")
        record_execution(target, new.request_id, episode("a"), "e-new")
        copy(*files, True, silent)
        claimed = {row.st2_execution_id: bool(row.claim) for row in rows(target, links)}
        assert claimed == {"e-new": True, "e-old": False}

    def test_the_incident_that_was_remediated_stays_open(self, files, opened):
        source, target = opened(files[0]), opened(files[1])
        record(source, request(alert(fingerprint="a")))
        silenced = Config(receivers=("other",))
        record_requests(target, silenced, [request(alert(fingerprint="a"), received_at=later(9))])
        assert rows(target, alerts)[0].outcome == "observed"
        copy(*files, True, silent)
        opening = [row for row in rows(target, alerts) if row.open_fingerprint]
        assert [row.outcome for row in opening] == ["admitted"]
        again = request(alert(fingerprint="a"), received_at=later(300))
        assert record(target, again)["outcomes"] == {"duplicate": 1}

    def test_an_incident_whose_resolve_the_target_has_received_is_closed(self, files, opened):
        resolve = alert(fingerprint="a", status="resolved", ends_at=later(60))
        new = request(resolve, received_at=later(70))
        _, target = self.record_in_each(files, opened, [request(alert(fingerprint="a"))], [new])
        copy(*files, True, silent)
        copied = next(row for row in rows(target, alerts) if row.outcome == "admitted")
        assert (copied.open_fingerprint, copied.ended_by) == (None, "resolve")
        assert copied.closed_at == later(70)

    def test_another_episode_supersedes_the_old_one(self, files, opened):
        new = request(alert(fingerprint="a", starts_at=later(7200)), received_at=later(7300))
        _, target = self.record_in_each(files, opened, [request(alert(fingerprint="a"))], [new])
        copy(*files, True, silent)
        by_episode = {row.episode: row.ended_by for row in rows(target, alerts)}
        assert by_episode == {episode("a"): "superseded", episode("a", later(7200)): None}

    def test_a_request_that_both_have_recorded(self, files, opened):
        """The endpoint announced it again, because the new database did not have it."""
        sent = request(alert(fingerprint="a"))
        source, target = self.record_in_each(files, opened, [sent], [sent])
        record_execution(source, sent.request_id, episode("a"))
        result = copy(*files, True, silent)["tables"]
        assert result["poundcake_alerts"]["kept"] == 1
        assert len(rows(target, alerts)) == 1
        link = claims.link(target, sent.request_id, episode("a"), WORKFLOW, "e-new")
        assert not link["claimed"]

    def test_rows_that_arrive_in_the_target_during_the_copy(self, urls, opened, monkeypatch):
        monkeypatch.setattr(copy_trail, "_PAGE_ROWS", 3)
        source, target = opened(urls[0]), opened(urls[1])
        old = [request(alert(fingerprint=f"f{n}"), received_at=later(n)) for n in range(30)]
        record(source, *old)
        before = trail(source)
        record(target, request(alert(fingerprint="own"), received_at=later(500)))
        stop, arrived, failed = threading.Event(), [], []

        def arrive():
            number = 0
            while not stop.is_set() and number < 200:
                sent = request(alert(fingerprint=f"g{number}"), received_at=later(600 + number))
                try:
                    record(target, sent)
                    arrived.append(sent.request_id)
                except Exception as error:
                    failed.append(error)
                number += 1

        writer = threading.Thread(target=arrive)
        writer.start()
        copy(*urls, True, silent)
        stop.set()
        writer.join(60)
        assert not failed
        request_ids = {row.request_id for row in rows(target, api_calls)}
        assert request_ids >= {r.request_id for r in old} | set(arrived)
        after = trail(target)
        for row in before["poundcake_alerts"]:
            assert row in after["poundcake_alerts"]
        assert len(after["poundcake_alerts"]) == 31 + len(arrived)


class TestRefused:
    """What cannot be copied is refused with the reason, and nothing is changed."""

    def refused(self, source, target, match, in_use=False, error=(CopyError, DatabaseError)):
        with pytest.raises(error, match=match) as caught:
            copy(source, target, in_use, silent)
        return str(caught.value)

    def test_the_same_database(self, urls, opened):
        sent = request(alert(fingerprint="a"))
        for url in urls:
            record(opened(url), sent)
            self.refused(url, url, "are the same database")
            assert record(opened(url), sent)["known"] == 1

    def test_a_copy_of_the_files(self, files, opened, tmp_path):
        source = opened(files[0])
        source.dispose()
        (tmp_path / "new.sqlite").write_bytes((tmp_path / "old.sqlite").read_bytes())
        self.refused(*files, "one is a copy of the other's files")

    def test_a_missing_file_is_not_created(self, files, tmp_path):
        self.refused(*files, "old.sqlite: no such file")
        assert not list(tmp_path.iterdir())

    def test_a_database_without_tables(self, urls, opened):
        database.open_engine(urls[0]).connect().close()
        self.refused(*urls, "has no tables of PoundCake")

    def test_a_file_that_is_not_a_database(self, files, tmp_path):
        (tmp_path / "old.sqlite").write_text("not a database at all" * 100)
        self.refused(*files, "not a database")

    def test_a_damaged_file(self, files, opened, tmp_path, monkeypatch):
        monkeypatch.setattr(copy_trail, "_RETRY_SECONDS", 0)
        source = opened(files[0])
        for number in range(50):
            record(source, request(alert(fingerprint=f"f{number}"), received_at=later(number)))
        source.dispose()
        path = tmp_path / "old.sqlite"
        content = bytearray(path.read_bytes())
        for start in range(len(content) // 2, len(content), 4096):
            content[start : start + 4096] = b"\xff" * len(content[start : start + 4096])
        path.write_bytes(content)
        self.refused(*files, "old.sqlite: .*(malformed|not a database)")

    def test_tables_of_a_newer_release(self, urls, opened):
        source = opened(urls[0])
        with source.begin() as connection:
            connection.execute(text("UPDATE poundcake_meta SET value='99' WHERE name='schema'"))
        self.refused(*urls, "install the release that made them")

    def test_a_server_that_does_not_answer(self, files, opened):
        fill(opened(files[0]))
        wrong = "mysql+pymysql://poundcake:hush-word@127.0.0.1:1/poundcake"
        for source, target in ((files[0], wrong), (wrong, files[0])):
            assert "hush-word" not in self.refused(source, target, "127.0.0.1")
        record(opened(files[0]), request(alert(fingerprint="x")))

    def test_an_incomplete_copy_is_not_a_source(self, sqlite_url, opened, monkeypatch):
        fill(opened(sqlite_url("a")))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(copy_trail._Pass, "run", stop_here)
            with pytest.raises(KeyboardInterrupt):
                copy(sqlite_url("a"), sqlite_url("b"), False, silent)
        self.refused(sqlite_url("b"), sqlite_url("c"), "is not complete")
        opened(sqlite_url("d"))
        self.refused(sqlite_url("d"), sqlite_url("b"), "an earlier copy is not complete")
        assert copy(sqlite_url("a"), sqlite_url("b"), False, silent)["complete"]

    def test_a_database_whose_trail_was_moved_elsewhere(self, sqlite_url, opened):
        fill(opened(sqlite_url("a")))
        copy(sqlite_url("a"), sqlite_url("b"), False, silent)
        self.refused(sqlite_url("a"), sqlite_url("c"), "the trail was moved to sqlite:.*b.sqlite")

    def test_a_row_that_arrives_changed(self, files, opened):
        """Something in the target changes what is written, for example a trigger."""
        fill(opened(files[0]))
        target = opened(files[1])
        change = "UPDATE poundcake_alerts SET severity = 'x' WHERE id = NEW.id"
        with target.begin() as connection:
            for event in ("INSERT", "UPDATE"):
                connection.execute(
                    text(
                        f"CREATE TRIGGER at_{event} AFTER {event} ON poundcake_alerts "
                        f"BEGIN {change}; END"
                    )
                )
        self.refused(*files, "poundcake_alerts: severity of the row with id 1 .* arrived changed")
        with pytest.raises(DatabaseError, match="is not complete"):
            database.prepare(target)
        # The old database is still in use.
        record(opened(files[0]), request(alert(fingerprint="x")))


def stop_here(self):
    raise KeyboardInterrupt


def test_an_older_source_is_upgraded_first(urls, opened):
    source = opened(urls[0])
    sent = request(alert(fingerprint="a"))
    record(source, sent)
    with source.begin() as connection:
        connection.execute(text("DROP TABLE poundcake_audit"))
        connection.execute(text("DROP TABLE poundcake_changes"))
        connection.execute(text("UPDATE poundcake_meta SET value = '5' WHERE name = 'schema'"))
        connection.execute(
            text("UPDATE alembic_version SET version_num = '0005' WHERE version_num = '0009'")
        )
    result = copy(*urls, False, silent)
    assert result["tables"]["poundcake_alerts"]["verified"] == 1
    assert record(opened(urls[1]), sent)["known"] == 1


KILLED = """
import os, signal, sys
from poundcake.trail import copy_trail
copy_trail._PAGE_ROWS = 5
write, pages = copy_trail._Pass._write_page, []
def killed(self, *args):
    write(self, *args)
    pages.append(1)
    if len(pages) == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
copy_trail._Pass._write_page = killed
copy_trail.copy_trail(sys.argv[1], sys.argv[2], sys.argv[3] == "in use", print)
"""


class TestKilled:
    @pytest.mark.parametrize("target_is_in_use", [False, True])
    def test_a_copy_that_was_killed_continues(self, urls, opened, monkeypatch, target_is_in_use):
        source = opened(urls[0])
        sent = [request(alert(fingerprint=f"f{n}"), received_at=later(n)) for n in range(20)]
        record(source, *sent)
        for number, sent_request in enumerate(sent[:12]):
            record_execution(source, sent_request.request_id, episode(f"f{number}"), f"e{number}")
        before = trail(source)
        own = []
        if target_is_in_use:
            own = [request(alert(fingerprint="own"), received_at=later(99))]
            record(opened(urls[1]), *own)
        how = "in use" if target_is_in_use else "-"
        for page in (4, 6, 9):
            code = subprocess.run(
                [sys.executable, "-c", KILLED, *urls, how, str(page)],
                cwd=str(ROOT / "lib"),
                capture_output=True,
                check=False,
            )
            assert code.returncode == -signal.SIGKILL, code.stderr.decode()
            target = opened(urls[1], prepare=False)
            assert rows(target, api_calls)
            if not target_is_in_use:
                # The old database is still in use, the new one is not.
                again = request(alert(fingerprint="f1"), received_at=later(100 + page))
                record(source, again)
                before = trail(source)
                with pytest.raises(DatabaseError, match="run it again"):
                    database.prepare(target)
        result = copy(*urls, target_is_in_use, silent)
        after = trail(opened(urls[1]))
        for table in TABLES:
            for row in before[table.name]:
                assert row in after[table.name]
            extra = len(own) if table in (api_calls, alerts) else 0
            assert len(after[table.name]) == len(before[table.name]) + extra
        assert result["complete"]

    def test_killed_after_the_source_was_marked(self, urls, opened, monkeypatch):
        source = opened(urls[0])
        fill(source)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(copy_trail, "_release", stop_here)
            with pytest.raises(KeyboardInterrupt):
                copy(*urls, False, silent)
        # Nothing can be recorded in either, so that no alert is new to one of them.
        for url in urls:
            with pytest.raises(DatabaseError):
                database.prepare(opened(url, prepare=False))
        assert copy(*urls, False, silent)["tables"]["poundcake_alerts"]["inserted"] == 0
        assert trail(opened(urls[1])) == trail(source)


MEASURED = """
import resource, sys
from poundcake.trail import copy_trail, database, migrations
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
copy_trail.copy_trail(sys.argv[1], sys.argv[2], False, lambda line: None)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_long_history_in_bounded_memory(files, opened):
    """50,000 rows, and requests of 90 MB."""
    source = opened(files[0])
    call = {
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
            connection.execute(insert(api_calls), {**call, "request_id": f"r{number}"})
        for start in range(0, 50_000, 1000):
            ids = range(start, start + 1000)
            connection.execute(
                insert(executions),
                [{"id": f"{number:05}", "action": "x", "status": "succeeded"} for number in ids],
            )
    target = opened(files[1])
    grown = subprocess.run(
        [sys.executable, "-c", MEASURED, *files],
        cwd=str(ROOT / "lib"),
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    assert int(grown) < 120_000  # KB
    with database.reading(target) as connection:
        for table, number in ((executions, 50_000), (api_calls, 60)):
            assert connection.scalar(select(func.count()).select_from(table)) == number


def test_the_source_is_read_only(urls, opened):
    opened(urls[0])
    reader = database.open_engine(urls[0], read_only=True)
    with pytest.raises(DatabaseError):
        with database.reading(reader) as connection:
            connection.execute(update(api_calls).values(error="x"))
    reader.dispose()


class TestAction:
    """What `st2 run poundcake.migrate` does with its parameters."""

    @pytest.fixture
    def migrate(self, monkeypatch):
        actions = ROOT / "actions"
        monkeypatch.syspath_prepend(str(actions))
        spec = importlib.util.spec_from_file_location("migrate_action", actions / "migrate.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.Migrate

    def test_its_result_has_no_password(self, urls, opened, migrate, tmp_path):
        fill(opened(urls[0]))
        (tmp_path / "other").write_text(urls[1])
        config = {"database_url": urls[0], "state_dir": str(tmp_path)}
        succeeded, result = migrate(config).run(copy_to=f"file:{tmp_path / 'other'}")
        assert succeeded, result
        metadata = yaml.safe_load((ROOT / "actions" / "migrate.yaml").read_text())
        jsonschema.validate(result, dict(metadata["output_schema"], additionalProperties=False))
        assert result["copy"]["tables"]["poundcake_alerts"]["verified"]
        for url in urls:
            password = make_url(url).password
            assert not password or password not in json.dumps(result)
        # The database that was in use is refused from now on, and the way back is open.
        succeeded, result = migrate(config).run()
        assert not succeeded and "the trail was moved to" in result
        succeeded, result = migrate(config).run(copy_from=urls[1])
        assert succeeded, result
        assert migrate(config).run()[0]

    @pytest.mark.parametrize(
        "given, reason",
        [
            ({"copy_from": "sqlite", "copy_to": "sqlite"}, "only one of them can be given"),
            ({"copy_from": "sqlite"}, "are the same database"),
            ({"copy_to": "file:/nowhere"}, "copy_to: cannot read /nowhere"),
            ({"copy_to": "postgresql://u:hush-word@h/d"}, "copy_to: must be mysql"),
        ],
    )
    def test_parameters_that_cannot_be_used(self, given, reason, migrate, tmp_path):
        succeeded, result = migrate({"state_dir": str(tmp_path)}).run(**given)
        assert not succeeded
        assert reason in result and "hush-word" not in result
