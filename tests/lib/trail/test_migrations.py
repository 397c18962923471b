"""Every released schema can be migrated to the current one, even after interruptions."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone

import jsonschema
import pytest
import sqlalchemy
import yaml
from sqlalchemy import event, text
from sqlalchemy.engine import Engine

from poundcake.trail import claims, database, emissions, schema
from poundcake.trail.database import tables
from poundcake.trail.errors import DatabaseError
from tests import services
from tests.lib.samples import alert
from tests.lib.trails import on_mariadb, on_sqlite, record
from tests.waiting import wait_for

ROOT = str(pathlib.Path(__file__).resolve().parents[3])
LIB = os.path.join(ROOT, "lib")
# Release 0.1.0 created schema 1; 0.2.0 created 4, or 3 on a long history whose indexes are pending;
# 0.3.0 created 5.
EARLIER_VERSIONS = (1, 2, 3, 4, 5)
VIEW_INDEXES = (
    [f"ix_poundcake_alerts_by_{name}" for name in "episode time name instance host id".split()]
    + [f"ix_poundcake_alerts_by_{name}" for name in "fingerprint outcome severity open".split()]
    + ["ix_execution_db_by_status"]
)
# Migrate, and after each logged line wait for a line on stdin.
MIGRATE_LINE_BY_LINE = """
import sys
from poundcake.trail import database
def log(line):
    print(line, flush=True)
    sys.stdin.readline()
print("begun", flush=True)
steps = database.migrate(database.open_engine(sys.argv[1]), log)
print("done", *[step.revision for step in steps], flush=True)
"""


@pytest.fixture
def engine(database_url):
    new_engine = database.open_engine(database_url)
    yield new_engine
    new_engine.dispose()


@pytest.fixture
def create_tables(engine):
    """Return a function that creates the tables of a schema version, as its release did."""

    def create(version):
        tables._upgrade(engine, version, 30, lambda line: None)
        if version == 1:  # before there were migrations
            execute(engine, "DROP TABLE alembic_version")
        # Up to release 0.2.0, poundcake_meta had no separate row for the revision of the indexes.
        execute(engine, "DELETE FROM poundcake_meta WHERE name = 'indexes'")

    return create


@pytest.fixture
def long_history(monkeypatch):
    """Treat the rows of insert_sample_rows() as a long history."""
    monkeypatch.setattr(tables, "FEW_ALERTS", 2)


def execute(engine, *statements):
    with engine.begin() as connection:
        return [connection.execute(text(statement)) for statement in statements]


def read_value(engine, statement):
    with engine.connect() as connection:
        return connection.scalar(text(statement))


def insert_sample_rows(engine):
    """Insert rows into every table, using only columns of the first revision."""
    columns = {
        column["name"] for column in sqlalchemy.inspect(engine).get_columns("poundcake_alerts")
    }
    explanation = "fate" if "fate" in columns else "explanation"
    noon = "'2026-01-14 12:00:00.123456'"
    calls = "id, request_id, method, path, headers, body, status_code, created_at, body_sha256"
    alerts = (
        "id, api_call_id, position, fingerprint, alert_name, severity, instance, labels,"
        " annotations, status, created_at, recorded_at, outcome, reason, open_fingerprint,"
        f" notifications, {explanation}, {explanation}_reason"
    )
    links = "id, request_id, alert_id, st2_execution_id, created_at, claim"
    execute(
        engine,
        f"INSERT INTO poundcake_api_calls ({calls}, truncated_alerts)"
        f" VALUES (1, 'r', 'POST', '/', '{{}}', '🍰', 202, {noon}, '', 0)",
        *(
            f"INSERT INTO poundcake_alerts ({alerts}) VALUES ({n}, 1, {n}, 'f{n}', 'HostDown',"
            f" 'critical', 'web-{n}', '{{}}', '{{}}', 'firing', {noon}, {noon}, 'admitted', '',"
            f" 'f{n}', 1, 'no_rule', 'no rule matched')"
            for n in (1, 2, 3)
        ),
        f"INSERT INTO poundcake_st2_execution_link ({links}) VALUES (1, 'r', 1, 'e', {noon}, 'c')",
        "INSERT INTO execution_db (id, action, status) VALUES ('e', 'core.noop', 'running')",
    )


def read_rows(engine):
    """Return the rows of every table except alembic_version and poundcake_meta, as mappings."""
    names = sorted(set(schema.metadata.tables) - {"poundcake_meta", *schema.LATER_TABLES})
    with engine.connect() as connection:
        return {
            name: [
                dict(row)
                for row in connection.execute(text(f"SELECT * FROM {name} ORDER BY id")).mappings()
            ]
            for name in names
        }


RENAMED_COLUMNS = {"fate": "explanation", "fate_reason": "explanation_reason"}


def assert_rows_kept(before, after):
    for name in before:
        assert len(after[name]) == len(before[name]) > 0
        for old_row, new_row in zip(before[name], after[name]):
            expected = {
                RENAMED_COLUMNS.get(column, column): value for column, value in old_row.items()
            }
            assert {column: new_row[column] for column in expected} == expected


def read_structure(engine):
    """Return the structure of all tables, as the database reports it."""
    with engine.connect() as connection:
        inspector = sqlalchemy.inspect(connection)
        names = set(inspector.get_table_names()) - {"alembic_version"}
        return {name: read_table_structure(inspector, name) for name in names}


def read_table_structure(inspector, table):
    def sorted_reprs(values):
        return sorted(map(repr, values))

    # Engine, character set and collation, which do not exist in SQLite.
    options = {} if inspector.dialect.name == "sqlite" else inspector.get_table_options(table)
    return {
        "columns": [
            (column["name"], repr(column["type"]), column["nullable"], column["default"])
            for column in inspector.get_columns(table)
        ],
        "primary key": inspector.get_pk_constraint(table)["constrained_columns"],
        "foreign keys": sorted_reprs(inspector.get_foreign_keys(table)),
        "unique": sorted_reprs(inspector.get_unique_constraints(table)),
        "indexes": sorted_reprs(inspector.get_indexes(table)),
        "options": sorted_reprs((k, v) for k, v in options.items() if k != "mysql_auto_increment"),
    }


@pytest.fixture
def current_structure(engine, structures):
    """Create the tables of schema.py, drop them, and return their structure."""
    kind = database.kind(engine)
    if kind not in structures:
        if kind == "SQLite":
            open(engine.url.database, "w").close()
        schema.metadata.create_all(engine)
        structures[kind] = read_structure(engine)
        schema.metadata.drop_all(engine)
    return structures[kind]


@pytest.fixture(scope="module")
def structures():
    return {}


def read_versions(engine):
    """Return Alembic's heads, and the versions of tables and indexes in poundcake_meta."""
    with engine.connect() as connection:
        heads = connection.scalars(text("SELECT version_num FROM alembic_version")).all()
        names = ("schema", "indexes")
        values = dict(connection.execute(text("SELECT name, value FROM poundcake_meta")).all())
    return (*sorted(heads), *(values.get(name) for name in names))


NEWEST_VERSIONS = ("0013", "0014", "13", "14")
VERSIONS_WITHOUT_INDEXES = ("0013", "13", None)
# The revisions since release 0.2.0, apart from those of the indexes.
TABLE_REVISIONS = "0005 0006 0008 0009 0010 0011 0012 0013".split()
INDEX_REVISIONS = ["0004", "0007", "0014"]


@pytest.fixture
def spawn():
    """Return a function that runs Python code in a separate process, with a URL and some input."""
    processes = []

    def start_process(code, url, stdin_text=""):
        process = subprocess.Popen(
            [sys.executable, "-c", code, url],
            env=dict(os.environ, PYTHONPATH=LIB),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
        )
        processes.append(process)
        process.stdin.write(stdin_text)
        process.stdin.flush()
        return process

    yield start_process
    for process in processes:
        process.kill()
        process.communicate()


def waits_in_state(engine, state):
    """Return True if a MariaDB connection to the test's database is in this state."""
    count = (
        "SELECT count(*) FROM information_schema.processlist"
        f" WHERE db = DATABASE() AND state LIKE '{state}'"
    )
    return read_value(engine, count) > 0


class TestFromEveryRelease:
    def test_the_revisions_create_the_tables_in_schema_py(self, engine, current_structure):
        database.prepare(engine)
        assert read_structure(engine) == current_structure
        assert read_versions(engine) == NEWEST_VERSIONS

    @pytest.mark.parametrize("version", EARLIER_VERSIONS)
    def test_an_upgrade_keeps_all_rows(self, engine, create_tables, current_structure, version):
        create_tables(version)
        insert_sample_rows(engine)
        before = read_rows(engine)
        database_id = read_value(
            engine, "SELECT value FROM poundcake_meta WHERE name = 'database_id'"
        )
        assert database.prepare(engine) == database_id
        after = read_rows(engine)
        assert_rows_kept(before, after)
        new_columns = (
            "attempt",
            "closed_at",
            "sender_starts_at",
            "host",
            "ended_by",
            "acknowledged_at",
        )
        assert {tuple(row[name] for name in new_columns) for row in after["poundcake_alerts"]} == {
            (1, None, None, f"web-{n}", None, None) for n in (1, 2, 3)
        }
        assert {row["credential"] for row in after["poundcake_api_calls"]} == {""}
        assert read_structure(engine) == current_structure
        assert read_versions(engine) == NEWEST_VERSIONS
        assert database.pending(engine) == ""
        assert database.migrate(engine, pytest.fail) == []

    def test_the_cooldown_of_a_host_survives_the_upgrade(self, engine, create_tables):
        """Release 0.2.0 stored no hosts. The upgrade adds them where they may cause a cooldown."""
        create_tables(4)
        insert_sample_rows(engine)
        now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%f")
        execute(
            engine,
            "UPDATE poundcake_alerts SET open_fingerprint = NULL",
            "UPDATE poundcake_alerts SET instance = 'http://WEB-1./metrics' WHERE id = 1",
            f"UPDATE poundcake_st2_execution_link SET created_at = '{now}'",
        )
        database.prepare(engine)
        hosts = [row["host"] for row in read_rows(engine)["poundcake_alerts"]]
        assert hosts == ["web-1", "", ""]

    @on_sqlite
    def test_migrate_reports_each_step(self, engine, create_tables):
        lines = []
        create_tables(2)
        steps = database.migrate(engine, lines.append)
        assert [step.revision for step in steps] == [
            "0003",
            *TABLE_REVISIONS,
            *INDEX_REVISIONS,
        ]
        assert all(step.seconds >= 0 and step.description for step in steps)
        for step in steps:
            assert any(step.revision in line for line in lines)
        for name in VIEW_INDEXES:
            assert any(re.search(rf"{name}: \d+\.\d s", line) for line in lines), name

    def test_migrate_creates_the_tables_of_an_empty_database(self, engine, current_structure):
        steps = database.migrate(engine, lambda line: None)
        assert [step.revision for step in steps] == [
            "0001",
            "0002",
            "0003",
            *TABLE_REVISIONS,
            *INDEX_REVISIONS,
        ]
        assert read_structure(engine) == current_structure
        assert database.prepare(engine, create=False)

    def test_a_missing_index_is_created(self, engine, create_tables, current_structure):
        """The first release was killed while it created the tables."""
        create_tables(1)
        table_clause = "" if database.kind(engine) == "SQLite" else " ON poundcake_alerts"
        execute(
            engine,
            "DELETE FROM poundcake_meta",
            "DROP INDEX ix_poundcake_alerts_fate" + table_clause,
        )
        database.prepare(engine)
        assert read_structure(engine) == current_structure

    @on_sqlite
    @pytest.mark.parametrize(
        "version, expected",
        [
            (3, [*TABLE_REVISIONS, *INDEX_REVISIONS]),
            (4, [*TABLE_REVISIONS, *INDEX_REVISIONS[1:]]),
        ],
    )
    def test_a_backup_without_alembics_table_is_upgraded(
        self, engine, create_tables, version, expected
    ):
        create_tables(version)
        execute(engine, "DROP TABLE alembic_version")
        steps = database.migrate(engine, lambda line: None)
        assert [step.revision for step in steps] == expected
        assert read_versions(engine) == NEWEST_VERSIONS

    @on_sqlite
    def test_a_current_backup_without_alembics_table_gets_its_indexes(
        self, engine, long_history, create_tables
    ):
        create_tables(3)
        insert_sample_rows(engine)
        database.prepare(engine)
        execute(engine, "DROP TABLE alembic_version")
        assert [s.revision for s in database.migrate(engine, lambda line: None)] == INDEX_REVISIONS
        assert read_versions(engine) == NEWEST_VERSIONS


class TestLongHistory:
    """The indexes for the views take a long time to build, and nothing else waits for them."""

    @pytest.mark.parametrize("version", [1, 3])
    def test_alerts_are_recorded_before_the_indexes_are_built(
        self, engine, create_tables, long_history, current_structure, version
    ):
        create_tables(version)
        insert_sample_rows(engine)
        before = read_rows(engine)
        statements = []
        event.listen(Engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
        database.prepare(engine)
        index_statements = [s for s in statements if "INDEX" in s and not s.startswith("PRAGMA")]
        on_new_table = re.compile(
            r"ON poundcake_(audit|changes|events)|CREATE TABLE poundcake_(changes|events)"
        )
        assert all(on_new_table.search(statement) for statement in index_statements)
        assert read_versions(engine) == VERSIONS_WITHOUT_INDEXES
        assert_rows_kept(before, read_rows(engine))
        request_id = record(engine, alert(fingerprint="new"))
        episode = read_value(
            engine, "SELECT episode FROM poundcake_alerts WHERE fingerprint = 'new'"
        )
        assert claims.link(engine, request_id, episode, "pack.work", "e1")["claimed"]
        assert emissions.claim(engine, [request_id], "one") == {request_id}
        before = read_rows(engine)
        with database.reading(engine) as connection:
            pending = database.pending(connection)
            assert not database.has_view_indexes(connection)
        assert "st2 run poundcake.migrate" in pending
        assert [s.revision for s in database.migrate(engine, lambda line: None)] == INDEX_REVISIONS
        assert database.pending(engine) == ""
        with database.reading(engine) as connection:
            assert database.has_view_indexes(connection)
        assert read_structure(engine) == current_structure
        assert_rows_kept(before, read_rows(engine))

    def test_indexes_that_release_0_2_0_built_are_not_built_again(
        self, engine, create_tables, long_history, current_structure
    ):
        create_tables(4)
        insert_sample_rows(engine)
        database.prepare(engine)
        steps = database.migrate(engine, lambda line: None)
        assert [step.revision for step in steps] == INDEX_REVISIONS[1:]
        assert database.pending(engine) == ""
        assert read_structure(engine) == current_structure
        assert read_versions(engine) == NEWEST_VERSIONS

    @on_sqlite
    def test_alerts_are_recorded_even_if_indexes_cannot_be_built(
        self, engine, create_tables, monkeypatch
    ):
        create_tables(3)

        def refuse(*_):
            raise DatabaseError("INDEX command denied")

        monkeypatch.setattr(tables, "_build_indexes", refuse)
        assert database.prepare(engine)
        assert read_versions(engine) == VERSIONS_WITHOUT_INDEXES
        assert "poundcake.migrate" in database.pending(engine)
        with pytest.raises(DatabaseError, match="denied"):
            database.migrate(engine, lambda line: None)

    @on_sqlite
    def test_tables_that_cannot_be_upgraded_are_an_error(self, engine, create_tables, monkeypatch):
        create_tables(3)

        def refuse(*_):
            raise DatabaseError("ALTER command denied")

        monkeypatch.setattr(tables, "_upgrade", refuse)
        with pytest.raises(DatabaseError, match="denied"):
            database.prepare(engine)


class TestWithoutAutoMigrate:
    @on_sqlite
    @pytest.mark.parametrize("version", EARLIER_VERSIONS)
    def test_earlier_tables_are_refused_and_not_changed(self, engine, create_tables, version):
        create_tables(version)
        before = read_structure(engine)
        expected = f"schema {version}, but this release needs 13: run `st2 run poundcake.migrate`"
        with pytest.raises(DatabaseError, match=expected):
            database.prepare(engine, create=False)
        assert database.pending(engine).endswith(
            "(with auto_migrate: true, the first write runs it)"
        )
        assert read_structure(engine) == before

    @on_sqlite
    def test_missing_indexes_are_not_built(self, engine):
        tables._upgrade_tables(engine, 30, lambda line: None)
        before = read_structure(engine)
        assert database.prepare(engine, create=False)
        assert read_structure(engine) == before


class TestWhileRelease020StillRuns:
    """The old sensor and some old actions keep running for a moment. They fail and are retried."""

    STATEMENTS = (
        "SELECT id, fate, fate_reason FROM poundcake_alerts",
        "UPDATE poundcake_alerts SET fate = 'lost' WHERE id = 1",
        "INSERT INTO poundcake_alerts (api_call_id, position, fingerprint, alert_name, severity,"
        " instance, labels, annotations, status, created_at, recorded_at, outcome, reason, fate,"
        " notifications, attempt) VALUES (1, 9, 'g', '', '', '', '{}', '{}', 'firing',"
        " '2026-01-14 12:00:00', '2026-01-14 12:00:00', 'duplicate', '', 'none', 1, 1)",
    )

    def test_the_old_release_cannot_use_the_upgraded_tables(self, engine, create_tables):
        create_tables(4)
        insert_sample_rows(engine)
        database.prepare(engine)
        before = read_rows(engine)
        # Release 0.2.0 refuses to write and to migrate if this number is greater than 4.
        assert int(read_value(engine, "SELECT value FROM poundcake_meta WHERE name = 'schema'")) > 4
        for statement in self.STATEMENTS:
            with pytest.raises(sqlalchemy.exc.OperationalError):
                execute(engine, statement)
        assert read_rows(engine) == before

    def test_the_upgrade_waits_for_a_transaction_of_the_old_release(self, engine, create_tables):
        create_tables(4)
        insert_sample_rows(engine)
        *_, insert = self.STATEMENTS
        with engine.begin() as connection:
            connection.execute(text(insert))
            upgrade = threading.Thread(target=database.prepare, args=(engine,))
            upgrade.start()
            if engine.dialect.name != "sqlite":
                wait_for(lambda: waits_in_state(engine, "Waiting for table metadata lock"))
        upgrade.join(60)
        assert read_versions(engine) == NEWEST_VERSIONS
        assert [row["explanation"] for row in read_rows(engine)["poundcake_alerts"]] == [
            *["no_rule"] * 3,
            "none",
        ]


class TestInconsistentDatabases:
    USES = (database.prepare, database.pending, lambda e: database.migrate(e, pytest.fail))

    @pytest.mark.parametrize("table", ["poundcake_st2_execution_link", "poundcake_meta"])
    def test_a_missing_table_is_reported(self, engine, create_tables, table):
        create_tables(2)
        execute(engine, f"DROP TABLE {table}")
        for use in self.USES:
            with pytest.raises(DatabaseError, match=f"schema 2, but lacks {table}: restore"):
                use(engine)
        assert table not in sqlalchemy.inspect(engine).get_table_names()

    @on_sqlite
    def test_a_missing_table_of_the_current_schema_is_reported(self, engine):
        database.prepare(engine)
        execute(engine, "DROP TABLE poundcake_st2_execution_link")
        with pytest.raises(DatabaseError, match="lacks poundcake_st2_execution_link: restore"):
            database.prepare(engine)

    @on_sqlite
    def test_two_backups_in_one_database_are_refused(self, engine, create_tables):
        create_tables(3)
        execute(engine, "UPDATE poundcake_meta SET value = '2' WHERE name = 'schema'")
        with pytest.raises(DatabaseError, match="alembic_version has revision 0003.*has schema 2"):
            database.prepare(engine)

    def test_a_newer_schema_is_refused(self, engine):
        database.prepare(engine)
        execute(engine, "UPDATE poundcake_meta SET value = '999' WHERE name = 'schema'")
        for use in self.USES:
            with pytest.raises(
                DatabaseError, match="schema 999.*supports only up to.*st2 pack install"
            ):
                use(engine)


class TestKilled:
    """If SIGKILL ends a migration, the next process continues it."""

    @staticmethod
    def prepare_and_kill(url, limit):
        """Prepare the database, and kill this process before its write number `limit`."""
        remaining = [limit]

        def count_down(*_):
            remaining[0] -= 1
            if not remaining[0]:
                os.kill(os.getpid(), signal.SIGKILL)

        def count_write(connection, cursor, statement, *_):
            if re.match(r"CREATE|ALTER|DROP|INSERT|UPDATE|DELETE", statement.strip()):
                count_down()

        event.listen(Engine, "before_cursor_execute", count_write)
        event.listen(Engine, "commit", count_down)
        database.prepare(database.open_engine(url))

    def prepare_until_killed(self, engine, limit):
        """Prepare the database in a forked process. Return False if it finished."""
        # Imported here, so that the forked processes need not import Alembic.
        from poundcake.trail import migrations  # noqa: F401

        engine.dispose()
        url = engine.url.render_as_string(hide_password=False)
        fork = multiprocessing.get_context("fork")
        process = fork.Process(target=self.prepare_and_kill, args=(url, limit))
        process.start()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        return process.exitcode != 0

    @staticmethod
    def read_state(engine):
        parts = [read_structure(engine)]
        with engine.connect() as connection:
            names = sqlalchemy.inspect(connection).get_table_names()
            for name in {"alembic_version", "poundcake_meta"} & set(names):
                parts += connection.execute(text(f"SELECT * FROM {name}"))
        return repr(parts)

    def read_state_without_indexes(self, engine, path):
        """Upgrade the tables of a copy without building the indexes, and return its state."""
        engine.dispose()
        shutil.copy(engine.url.database, str(path))
        copy = database.open_engine(f"sqlite:///{path}")
        tables._upgrade_tables(copy, 30, lambda line: None)
        return self.read_state(copy)

    @on_mariadb
    @pytest.mark.parametrize("version, min_kills", [(0, 40), (4, 6)])
    def test_a_migration_killed_between_any_two_writes_loses_nothing(
        self, engine, current_structure, create_tables, version, min_kills
    ):
        """Each process gets one write further than the previous one, so each state is tested."""
        limit, state, kills, before = 1, None, 0, None
        if version:
            create_tables(version)
            insert_sample_rows(engine)
            before = read_rows(engine)
        while self.prepare_until_killed(engine, limit):
            kills += 1
            state_now = self.read_state(engine)
            # The writes of an unfinished transaction are lost, so the next process repeats them.
            limit = limit + 1 if state_now == state else 2
            state = state_now
            if before is None and "('schema', '1')" in state:
                insert_sample_rows(engine)
                before = read_rows(engine)
        assert kills > min_kills
        assert_rows_kept(before, read_rows(engine))
        assert read_structure(engine) == current_structure
        assert read_versions(engine) == NEWEST_VERSIONS

    @on_sqlite
    @pytest.mark.parametrize("limit", [1, 6, 12, 18, 24, 30, 36])
    def test_on_sqlite_tables_and_indexes_are_migrated_in_separate_transactions(
        self, engine, create_tables, current_structure, limit, tmp_path
    ):
        create_tables(1)
        insert_sample_rows(engine)
        before = read_rows(engine)
        possible_states = {
            self.read_state(engine),
            self.read_state_without_indexes(engine, tmp_path / "copy.db"),
        }
        assert len(possible_states) == 2
        assert self.prepare_until_killed(engine, limit)
        assert self.read_state(engine) in possible_states
        database.prepare(engine)
        assert_rows_kept(before, read_rows(engine))
        assert read_structure(engine) == current_structure


class TestConcurrentMigrations:
    def test_the_second_migration_waits_and_changes_nothing(
        self, engine, database_url, create_tables, spawn, request
    ):
        create_tables(1)
        insert_sample_rows(engine)
        before = read_rows(engine)
        first = spawn(MIGRATE_LINE_BY_LINE, database_url)
        assert [first.stdout.readline(), first.stdout.readline()[:13]] == [
            "begun\n",
            "revision 0001",
        ]
        second = spawn(MIGRATE_LINE_BY_LINE, database_url)
        assert second.stdout.readline() == "begun\n"
        if database.kind(engine) == "MariaDB":
            wait_for(lambda: waits_in_state(engine, "User lock"))
            # A migration of another database on the same server does not wait.
            server = request.getfixturevalue("mariadb")
            name = server.create_database()
            other_engine = database.open_engine(server.url(name))
            assert database.prepare(other_engine)
            other_engine.dispose()
            server.drop_database(name)
        output = first.communicate("\n" * 50, timeout=120)[0]
        assert output.endswith(
            "done 0001 0002 0003 0005 0006 0008 0009 0010 0011 0012 0013 0004 0007 0014\n"
        )
        assert second.communicate("\n" * 50, timeout=120)[0] == "done\n"
        assert_rows_kept(before, read_rows(engine))
        assert read_versions(engine) == NEWEST_VERSIONS

    @on_mariadb
    def test_a_migration_killed_while_it_waits_for_a_reader_is_continued(
        self, engine, database_url, create_tables, spawn
    ):
        create_tables(1)
        insert_sample_rows(engine)
        before = read_rows(engine)
        with engine.connect() as reader:
            reader.execute(text("SELECT * FROM poundcake_alerts")).all()
            first = spawn(MIGRATE_LINE_BY_LINE, database_url, "\n" * 50)
            wait_for(lambda: waits_in_state(engine, "Waiting for table metadata lock"))
            first.kill()
            first.communicate()
            second = spawn(MIGRATE_LINE_BY_LINE, database_url, "\n" * 50)
            # The server aborts the first migration, and the second one waits for the same lock.
            wait_for(lambda: waits_in_state(engine, "Waiting for table metadata lock"))
        output = second.communicate(timeout=120)[0]
        assert output.endswith(
            "done 0002 0003 0005 0006 0008 0009 0010 0011 0012 0013 0004 0007 0014\n"
        ), output
        assert_rows_kept(before, read_rows(engine))
        assert read_versions(engine) == NEWEST_VERSIONS

    @on_sqlite
    def test_threads_of_one_process_upgrade_several_databases(self, engine, tmp_path):
        """Alembic stores the current command in global variables."""
        engines = [database.open_engine(f"sqlite:///{tmp_path / f'{n}.sqlite'}") for n in range(6)]
        with ThreadPoolExecutor(len(engines)) as threads:
            ids = list(threads.map(database.prepare, engines))
        assert len(set(ids)) == len(engines)
        for migrated_engine in engines:
            assert read_versions(migrated_engine) == NEWEST_VERSIONS
            migrated_engine.dispose()


class TestProcesses:
    @on_sqlite
    def test_alembic_is_loaded_only_if_needed(self, engine, database_url, spawn):
        code = (
            "import sys; from poundcake.trail import database;"
            "database.prepare(database.open_engine(sys.argv[1])); print('alembic' in sys.modules)"
        )
        assert spawn(code, database_url).communicate(timeout=60)[0] == "True\n"
        assert spawn(code, database_url).communicate(timeout=60)[0] == "False\n"

    @on_sqlite
    def test_alembic_logs_nothing(self, database_url, spawn):
        code = (
            "import logging, sys; logging.basicConfig(level=logging.INFO);"
            "from poundcake.trail import database;"
            "database.prepare(database.open_engine(sys.argv[1]))"
        )
        assert spawn(code, database_url).communicate(timeout=60)[0] == ""

    def test_the_code_may_be_in_a_symlinked_folder_with_any_name(self, tmp_path, spawn):
        (tmp_path / "100%s %(here)s").mkdir()
        link = tmp_path / "100%s %(here)s" / "lib"
        link.symlink_to(LIB)
        code = (
            f"import sys; sys.path.insert(0, {str(link)!r}); from poundcake.trail import database;"
            "database.prepare(database.open_engine(sys.argv[1])); print(database.__file__)"
        )
        output = spawn(code, f"sqlite:///{tmp_path}/t.db").communicate(timeout=60)[0]
        assert output == f"{link}/poundcake/trail/database/__init__.py\n"

    def test_the_database_can_be_prepared_in_a_process_patched_by_eventlet(
        self, database_url, spawn
    ):
        code = (
            "import eventlet;"
            "eventlet.monkey_patch(os=True, select=True, socket=True, thread=True, time=True);"
            "import sys; from poundcake.trail import database;"
            "from poundcake.endpoint import native;"
            "engine = database.open_engine(sys.argv[1]);"
            "native.run_in_native_thread(database.prepare, engine)"
            " if database.kind(engine) == 'SQLite' else database.prepare(engine);"
            "print(database.prepare(engine, create=False))"
        )
        # Eventlet may print a deprecation warning first.
        output = spawn(code, database_url).communicate(timeout=60)[0]
        assert re.fullmatch(r"[0-9a-f-]{36}", output.splitlines()[-1]), output


@on_sqlite
def test_the_action_reports_each_step(engine, database_url, create_tables, monkeypatch):
    create_tables(3)
    actions = os.path.join(ROOT, "actions")
    monkeypatch.syspath_prepend(actions)
    spec = importlib.util.spec_from_file_location("m", os.path.join(actions, "migrate.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with open(os.path.join(actions, "migrate.yaml"), encoding="utf-8") as file:
        metadata = yaml.safe_load(file)
    for revisions in (
        [*TABLE_REVISIONS, *INDEX_REVISIONS],
        [],
    ):
        succeeded, result = module.Migrate({"database_url": database_url}).run()
        assert succeeded, result
        jsonschema.validate(result, dict(metadata["output_schema"], additionalProperties=False))
        assert [step["revision"] for step in result["steps"]] == revisions
        assert result["schema"] == schema.VERSION
        assert result["database_id"] == database.prepare(engine)


def test_an_up_to_date_database_needs_one_query(engine):
    database.prepare(engine)
    statements = []
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    database.prepare(engine)
    assert [s for s in statements if not s.startswith("BEGIN")] == statements[-1:]
    assert statements[-1].startswith("SELECT")


def test_an_unreachable_server_is_an_error(tmp_path):
    url = f"mysql+pymysql://u:hush@127.0.0.1:{services.free_port()}/db"
    for use in (database.pending, lambda e: database.migrate(e, pytest.fail)):
        with pytest.raises(DatabaseError) as caught:
            use(database.open_engine(url))
        assert "127.0.0.1" in str(caught.value) and "hush" not in str(caught.value)


@pytest.mark.parametrize("table", ["poundcake_api_calls", "poundcake_alerts"])
def test_the_tables_of_another_program_are_refused_and_left_alone(engine, table):
    """The predecessor of this pack had tables with the same names."""
    with engine.begin() as connection:
        connection.execute(text(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, body TEXT)"))
    with pytest.raises(DatabaseError, match="set database_url to an empty database"):
        database.prepare(engine)
    assert sqlalchemy.inspect(engine).get_table_names() == [table]
