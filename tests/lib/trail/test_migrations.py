"""From every database that was ever made to today's, whatever ends a migration on its way."""

import importlib.util
import multiprocessing
import os
import pathlib
import re
import signal
import subprocess
import sys

import jsonschema
import pytest
import sqlalchemy
import yaml
from sqlalchemy import event, text
from sqlalchemy.engine import Engine

from poundcake.trail import database, schema
from poundcake.trail.database import DatabaseError
from tests import services
from tests.waiting import wait_for

ROOT = str(pathlib.Path(__file__).resolve().parents[3])
LIB = os.path.join(ROOT, "lib")
EARLIER = range(1, schema.VERSION)
NEW_INDEXES = (
    [f"ix_poundcake_alerts_by_{name}" for name in "episode time name instance".split()]
    + [f"ix_poundcake_alerts_by_{name}" for name in "fingerprint outcome severity open".split()]
    + ["ix_execution_db_by_status"]
)
# Migrates, and waits after each line that it logs until a line tells it to go on.
LINE_BY_LINE = """
import sys
from poundcake.trail import database
def log(line):
    print(line, flush=True)
    sys.stdin.readline()
print("begun", flush=True)
steps = database.migrate(database.open_engine(sys.argv[1]), log)
print("done", *[step["revision"] for step in steps], flush=True)
"""


@pytest.fixture
def engine(database_url):
    found = database.open_engine(database_url)
    yield found
    found.dispose()


@pytest.fixture
def made_by(engine, monkeypatch):
    """made_by(3) makes the tables as a release with that revision did."""

    def make(version):
        with monkeypatch.context() as earlier:
            earlier.setattr(schema, "VERSION", version)
            earlier.setattr(schema, "NEEDED", version)
            database.prepare(engine)
        if version == 1:  # before there were migrations
            run(engine, "DROP TABLE alembic_version")

    return make


@pytest.fixture
def many(monkeypatch):
    """What fill() writes counts as a large database."""
    monkeypatch.setattr(database, "FEW_ALERTS", 2)


def run(engine, *statements):
    with engine.begin() as connection:
        return [connection.execute(text(statement)) for statement in statements]


def scalar(engine, statement):
    with engine.connect() as connection:
        return connection.scalar(text(statement))


def fill(engine):
    """Rows in every table, with nothing that the first revision has no column for."""
    noon = "'2026-01-14 12:00:00.123456'"
    calls = "id, request_id, method, path, headers, body, status_code, created_at, body_sha256"
    alerts = (
        "id, api_call_id, position, fingerprint, alert_name, severity, instance, labels,"
        " annotations, status, created_at, recorded_at, outcome, reason, open_fingerprint,"
        " notifications"
    )
    links = "id, request_id, alert_id, st2_execution_id, created_at, claim"
    run(
        engine,
        f"INSERT INTO poundcake_api_calls ({calls}, truncated_alerts)"
        f" VALUES (1, 'r', 'POST', '/', '{{}}', '🍰', 202, {noon}, '', 0)",
        *(
            f"INSERT INTO poundcake_alerts ({alerts}) VALUES ({n}, 1, {n}, 'f{n}', 'HostDown',"
            f" 'critical', 'web-{n}', '{{}}', '{{}}', 'firing', {noon}, {noon}, 'admitted', '',"
            f" 'f{n}', 1)"
            for n in (1, 2, 3)
        ),
        f"INSERT INTO poundcake_st2_execution_link ({links}) VALUES (1, 'r', 1, 'e', {noon}, 'c')",
        "INSERT INTO execution_db (id, action, status) VALUES ('e', 'core.noop', 'running')",
    )


def rows(engine):
    """Of every table but alembic_version and poundcake_meta, as mappings."""
    names = sorted(set(schema.metadata.tables) - {"poundcake_meta"})
    with engine.connect() as connection:
        return {
            name: [
                dict(row)
                for row in connection.execute(text(f"SELECT * FROM {name} ORDER BY id")).mappings()
            ]
            for name in names
        }


def assert_kept(before, after):
    for name in before:
        assert len(after[name]) == len(before[name]) > 0
        for old, new in zip(before[name], after[name]):
            assert {column: new[column] for column in old} == old


def shape(engine):
    """All that makes the tables what they are, as the database tells it."""
    with engine.connect() as connection:
        inspector = sqlalchemy.inspect(connection)
        names = set(inspector.get_table_names()) - {"alembic_version"}
        return {name: shape_of(inspector, name) for name in names}


def shape_of(inspector, table):
    def texts(found):
        return sorted(map(repr, found))

    # Engine, character set and collation, which SQLite does not have.
    options = {} if inspector.dialect.name == "sqlite" else inspector.get_table_options(table)
    return {
        "columns": [
            (column["name"], repr(column["type"]), column["nullable"], column["default"])
            for column in inspector.get_columns(table)
        ],
        "primary key": inspector.get_pk_constraint(table)["constrained_columns"],
        "foreign keys": texts(inspector.get_foreign_keys(table)),
        "unique": texts(inspector.get_unique_constraints(table)),
        "indexes": texts(inspector.get_indexes(table)),
        "options": texts((k, v) for k, v in options.items() if k != "mysql_auto_increment"),
    }


@pytest.fixture
def todays_shape(engine, shapes):
    """What schema.py makes by itself, in the test's own database while it is empty."""
    kind = database.kind(engine)
    if kind not in shapes:
        if kind == "SQLite":
            open(engine.url.database, "w").close()
        schema.metadata.create_all(engine)
        shapes[kind] = shape(engine)
        schema.metadata.drop_all(engine)
    return shapes[kind]


@pytest.fixture(scope="module")
def shapes():
    return {}


def versions(engine):
    return (
        scalar(engine, "SELECT version_num FROM alembic_version"),
        scalar(engine, "SELECT value FROM poundcake_meta WHERE name = 'schema'"),
    )


NEWEST = (f"{schema.VERSION:04d}", str(schema.VERSION))


@pytest.fixture
def spawn():
    """spawn(code, url, given) runs it in a process of its own, which ends with the test."""
    processes = []

    def start(code, url, given=""):
        process = subprocess.Popen(
            [sys.executable, "-c", code, url],
            env=dict(os.environ, PYTHONPATH=LIB),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
        )
        processes.append(process)
        process.stdin.write(given)
        process.stdin.flush()
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def waits(engine, what):
    """Whether a statement of the test's database waits for that."""
    found = (
        "SELECT count(*) FROM information_schema.processlist"
        f" WHERE db = DATABASE() AND state LIKE '{what}'"
    )
    return scalar(engine, found) > 0


class TestFromWhateverThereIs:
    def test_what_the_revisions_make_is_what_schema_says(self, engine, todays_shape):
        database.prepare(engine)
        assert shape(engine) == todays_shape
        assert versions(engine) == NEWEST

    @pytest.mark.parametrize("version", EARLIER)
    def test_from_every_earlier_revision_no_row_is_lost(
        self, engine, made_by, todays_shape, version
    ):
        made_by(version)
        fill(engine)
        before = rows(engine)
        database_id = scalar(engine, "SELECT value FROM poundcake_meta WHERE name = 'database_id'")
        assert database.prepare(engine) == database_id
        after = rows(engine)
        assert_kept(before, after)
        assert {(row["attempt"], row["closed_at"]) for row in after["poundcake_alerts"]} == {
            (1, None)
        }
        assert shape(engine) == todays_shape
        assert versions(engine) == NEWEST
        assert database.pending(engine) == ""
        assert database.migrate(engine, pytest.fail) == []

    def test_each_revision_is_written_down_twice(self, engine, made_by):
        for version in EARLIER:
            made_by(version)
            if version > 1:
                assert versions(engine) == (f"{version:04d}", str(version))

    def test_migrate_says_what_it_did(self, engine, made_by):
        lines = []
        made_by(2)
        steps = database.migrate(engine, lines.append)
        assert [step["revision"] for step in steps] == ["0003", "0004"]
        assert all(step["seconds"] >= 0 and step["description"] for step in steps)
        for step in steps:
            assert any(step["revision"] in line for line in lines)
        for name in NEW_INDEXES:
            assert any(re.search(rf"{name}: \d+\.\d s", line) for line in lines), name

    def test_migrate_makes_an_empty_database(self, engine, todays_shape):
        steps = database.migrate(engine, lambda line: None)
        assert len(steps) == schema.VERSION
        assert shape(engine) == todays_shape
        assert database.prepare(engine, create=False)

    def test_tables_that_lack_an_index_get_it(self, engine, made_by, todays_shape):
        """One of the first release that was killed while it made them."""
        made_by(1)
        on = "" if database.kind(engine) == "SQLite" else " ON poundcake_alerts"
        run(engine, "DELETE FROM poundcake_meta", "DROP INDEX ix_poundcake_alerts_explanation" + on)
        database.prepare(engine)
        assert shape(engine) == todays_shape

    def test_a_backup_without_alembics_table_goes_on_where_it_was(self, engine, made_by):
        made_by(3)
        run(engine, "DROP TABLE alembic_version")
        steps = database.migrate(engine, lambda line: None)
        assert [step["revision"] for step in steps] == ["0004"]
        assert versions(engine) == NEWEST


class TestWhatTakesLong:
    def test_it_waits_for_migrate_where_there_are_many_alerts(
        self, engine, made_by, many, todays_shape
    ):
        made_by(1)
        fill(engine)
        before = rows(engine)
        database.prepare(engine)
        assert versions(engine) == ("0003", "3")
        waiting = database.pending(engine)
        assert "schema 3 of 4: run `st2 run poundcake.migrate`" in waiting
        with database.reading(engine) as connection:
            assert database.pending(connection) == waiting
        database.prepare(engine)
        assert versions(engine) == ("0003", "3")
        assert [s["revision"] for s in database.migrate(engine, lambda line: None)] == ["0004"]
        assert database.pending(engine) == ""
        assert shape(engine) == todays_shape
        assert_kept(before, rows(engine))

    def test_the_writers_go_on_where_it_cannot_be_done(self, engine, made_by, monkeypatch):
        made_by(schema.NEEDED)

        def refuse(*_):
            raise DatabaseError("ALTER command denied")

        monkeypatch.setattr(database, "_upgrade", refuse)
        assert database.prepare(engine)
        assert "poundcake.migrate" in database.pending(engine)
        with pytest.raises(DatabaseError, match="denied"):
            database.migrate(engine, lambda line: None)

    def test_they_do_not_where_it_is_needed(self, engine, made_by, monkeypatch):
        made_by(schema.NEEDED - 1)

        def refuse(*_):
            raise DatabaseError("ALTER command denied")

        monkeypatch.setattr(database, "_upgrade", refuse)
        with pytest.raises(DatabaseError, match="denied"):
            database.prepare(engine)


class TestWithoutLeave:
    def test_what_is_too_old_is_said_and_left(self, engine, made_by):
        made_by(schema.NEEDED - 1)
        before = shape(engine)
        with pytest.raises(DatabaseError, match="schema 2.*needs 3.*st2 run poundcake.migrate"):
            database.prepare(engine, create=False)
        assert shape(engine) == before

    def test_what_can_be_done_without_is_left(self, engine, made_by):
        made_by(schema.NEEDED)
        before = shape(engine)
        assert database.prepare(engine, create=False)
        assert shape(engine) == before


class TestWhatIsWrong:
    USES = (database.prepare, database.pending, lambda e: database.migrate(e, pytest.fail))

    @pytest.mark.parametrize("table", ["poundcake_st2_execution_link", "poundcake_meta"])
    def test_a_table_that_is_missing_is_named(self, engine, made_by, table):
        made_by(2)
        run(engine, f"DROP TABLE {table}")
        for use in self.USES:
            with pytest.raises(DatabaseError, match=f"schema 2, and lacks {table}: restore"):
                use(engine)
        assert table not in sqlalchemy.inspect(engine).get_table_names()

    def test_what_the_newest_lacks_is_named_too(self, engine):
        database.prepare(engine)
        run(engine, "DROP TABLE poundcake_st2_execution_link")
        with pytest.raises(DatabaseError, match="lacks poundcake_st2_execution_link: restore"):
            database.prepare(engine)

    def test_two_backups_in_one_database(self, engine, made_by):
        made_by(3)
        run(engine, "UPDATE poundcake_meta SET value = '2' WHERE name = 'schema'")
        with pytest.raises(DatabaseError, match="alembic_version says 0003.*says schema 2"):
            database.prepare(engine)

    def test_a_newer_schema_is_refused(self, engine):
        database.prepare(engine)
        run(engine, "UPDATE poundcake_meta SET value = '999' WHERE name = 'schema'")
        for use in self.USES:
            with pytest.raises(DatabaseError, match="schema 999.*knows up to.*st2 pack install"):
                use(engine)


class TestKilled:
    """SIGKILL, after which the next one goes on."""

    @staticmethod
    def prepare_until(url, limit):
        """In a process of its own: prepare, killed before the write of that number."""
        left = [limit]

        def count(*_):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

        def before(connection, cursor, statement, *_):
            if re.match(r"CREATE|ALTER|DROP|INSERT|UPDATE|DELETE", statement.strip()):
                count()

        event.listen(Engine, "before_cursor_execute", before)
        event.listen(Engine, "commit", count)
        database.prepare(database.open_engine(url))

    def killed(self, engine, limit):
        """Whether it was; else it is done."""
        engine.dispose()
        url = engine.url.render_as_string(hide_password=False)
        fork = multiprocessing.get_context("fork")
        process = fork.Process(target=self.prepare_until, args=(url, limit))
        process.start()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        return process.exitcode != 0

    @staticmethod
    def state(engine):
        found = [shape(engine)]
        with engine.connect() as connection:
            names = sqlalchemy.inspect(connection).get_table_names()
            for name in {"alembic_version", "poundcake_meta"} & set(names):
                found += connection.execute(text(f"SELECT * FROM {name}"))
        return repr(found)

    @pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
    def test_between_any_two_writes(self, engine, todays_shape):
        """Each process comes one write further than the one before left the tables: every state
        that a kill can leave is one that the next begins with."""
        limit, state, kills, before = 1, None, 0, None
        while self.killed(engine, limit):
            kills += 1
            left = self.state(engine)
            # What a transaction wrote is gone with it: the next must come as far as its end.
            limit = limit + 1 if left == state else 2
            state = left
            if before is None and "('schema', '1')" in state:
                fill(engine)
                before = rows(engine)
        assert kills > 40
        assert_kept(before, rows(engine))
        assert shape(engine) == todays_shape
        assert versions(engine) == NEWEST

    @pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
    @pytest.mark.parametrize("limit", range(1, 27, 5))
    def test_all_is_one_transaction_on_sqlite(self, engine, made_by, todays_shape, limit):
        made_by(1)
        fill(engine)
        before, state = rows(engine), self.state(engine)
        assert self.killed(engine, limit)
        assert self.state(engine) == state
        database.prepare(engine)
        assert_kept(before, rows(engine))
        assert shape(engine) == todays_shape


class TestTwoAtOnce:
    def test_the_second_waits_and_does_nothing(self, engine, database_url, made_by, spawn, request):
        made_by(1)
        fill(engine)
        before = rows(engine)
        first = spawn(LINE_BY_LINE, database_url)
        assert [first.stdout.readline(), first.stdout.readline()[:13]] == [
            "begun\n",
            "revision 0001",
        ]
        second = spawn(LINE_BY_LINE, database_url)
        assert second.stdout.readline() == "begun\n"
        if database.kind(engine) == "MariaDB":
            wait_for(lambda: waits(engine, "User lock"))
            # Another database on that server waits for nobody.
            server = request.getfixturevalue("mariadb")
            name = server.create_database()
            other = database.open_engine(server.url(name))
            assert database.prepare(other)
            other.dispose()
            server.drop_database(name)
        told = first.communicate("\n" * 50, timeout=120)[0]
        assert told.endswith("done 0001 0002 0003 0004\n")
        assert second.communicate("\n" * 50, timeout=120)[0] == "done\n"
        assert_kept(before, rows(engine))
        assert versions(engine) == NEWEST

    @pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
    def test_one_that_is_killed_while_it_waits_for_a_reader(
        self, engine, database_url, made_by, spawn
    ):
        made_by(1)
        fill(engine)
        before = rows(engine)
        with engine.connect() as reader:
            reader.execute(text("SELECT * FROM poundcake_alerts")).all()
            killed = spawn(LINE_BY_LINE, database_url, "\n" * 50)
            wait_for(lambda: waits(engine, "Waiting for table metadata lock"))
            killed.kill()
            killed.communicate()
            second = spawn(LINE_BY_LINE, database_url, "\n" * 50)
            # The server gives up for the first, and the second comes as far.
            wait_for(lambda: waits(engine, "Waiting for table metadata lock"))
        told = second.communicate(timeout=120)[0]
        assert told.endswith("done 0002 0003 0004\n"), told
        assert_kept(before, rows(engine))
        assert versions(engine) == NEWEST


class TestWhereItRuns:
    def test_alembic_is_loaded_only_where_something_is_to_be_done(
        self, engine, database_url, spawn
    ):
        code = (
            "import sys; from poundcake.trail import database;"
            "database.prepare(database.open_engine(sys.argv[1])); print('alembic' in sys.modules)"
        )
        assert spawn(code, database_url).communicate(timeout=60)[0] == "True\n"
        assert spawn(code, database_url).communicate(timeout=60)[0] == "False\n"

    def test_it_says_nothing_by_itself(self, database_url, spawn):
        code = (
            "import logging, sys; logging.basicConfig(level=logging.INFO);"
            "from poundcake.trail import database;"
            "database.prepare(database.open_engine(sys.argv[1]))"
        )
        assert spawn(code, database_url).communicate(timeout=60)[0] == ""

    def test_from_a_linked_folder_of_any_name(self, tmp_path, spawn):
        (tmp_path / "100%s %(here)s").mkdir()
        link = tmp_path / "100%s %(here)s" / "lib"
        link.symlink_to(LIB)
        code = (
            f"import sys; sys.path.insert(0, {str(link)!r}); from poundcake.trail import database;"
            "database.prepare(database.open_engine(sys.argv[1])); print(database.__file__)"
        )
        told = spawn(code, f"sqlite:///{tmp_path}/t.db").communicate(timeout=60)[0]
        assert told == f"{link}/poundcake/trail/database.py\n"

    def test_in_a_process_patched_as_the_sensors(self, database_url, spawn):
        code = (
            "import eventlet;"
            "eventlet.monkey_patch(os=True, select=True, socket=True, thread=True, time=True);"
            "import sys; from poundcake.trail import database; from poundcake.endpoint import native;"
            "engine = database.open_engine(sys.argv[1]);"
            "native.run_in_native_thread(database.prepare, engine) if database.kind(engine) == 'SQLite'"
            " else database.prepare(engine);"
            "print(database.prepare(engine, create=False))"
        )
        # Eventlet may warn of its own age first.
        told = spawn(code, database_url).communicate(timeout=60)[0]
        assert re.fullmatch(r"[0-9a-f-]{36}", told.splitlines()[-1]), told


def test_the_action(engine, database_url, made_by, monkeypatch):
    made_by(3)
    actions = os.path.join(ROOT, "actions")
    monkeypatch.syspath_prepend(actions)
    spec = importlib.util.spec_from_file_location("m", os.path.join(actions, "migrate.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with open(os.path.join(actions, "migrate.yaml"), encoding="utf-8") as file:
        metadata = yaml.safe_load(file)
    for revisions in (["0004"], []):
        succeeded, result = module.Migrate({"database_url": database_url}).run()
        assert succeeded, result
        jsonschema.validate(result, dict(metadata["output_schema"], additionalProperties=False))
        assert [step["revision"] for step in result["steps"]] == revisions
        assert result["schema"] == schema.VERSION
        assert result["database_id"] == database.prepare(engine)


def test_an_up_to_date_database_is_asked_once(engine):
    database.prepare(engine)
    statements = []
    event.listen(engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
    database.prepare(engine)
    assert [s for s in statements if not s.startswith("BEGIN")] == statements[-1:]
    assert statements[-1].startswith("SELECT")


def test_no_server_no_tables(tmp_path):
    url = f"mysql+pymysql://u:hush@127.0.0.1:{services.free_port()}/db"
    for use in (database.pending, lambda e: database.migrate(e, pytest.fail)):
        with pytest.raises(DatabaseError) as caught:
            use(database.open_engine(url))
        assert "127.0.0.1" in str(caught.value) and "hush" not in str(caught.value)
