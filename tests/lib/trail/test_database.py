"""The tracking database: made once, by whoever comes first, and never mistaken for another."""

import os
import pathlib
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import uuid

import pytest
import sqlalchemy
from sqlalchemy import select, text

from poundcake.trail import database, schema
from poundcake.trail.database import DatabaseError
from tests import services

LIB = os.path.join(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__)))), "lib"
)


@pytest.fixture
def engine(database_url):
    found = database.open_engine(database_url)
    yield found
    found.dispose()


def error_of(url, **kwargs):
    with pytest.raises(DatabaseError) as caught:
        database.prepare(database.open_engine(url), **kwargs)
    return str(caught.value)


class TestPrepare:
    def test_twice_is_once(self, engine):
        first = database.prepare(engine)
        assert str(uuid.UUID(first)) == first
        assert database.prepare(engine) == first
        assert database.prepare(engine, create=False) == first
        tables = sqlalchemy.inspect(engine).get_table_names()
        assert set(schema.metadata.tables) <= set(tables)

    def test_by_threads_at_once_gives_one_id(self, database_url):
        found, start = [], threading.Barrier(6)

        def work():
            engine = database.open_engine(database_url)
            start.wait()
            found.append(database.prepare(engine))
            engine.dispose()

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(found) == 6
        assert len(set(found)) == 1

    def test_by_processes_at_once_gives_one_id(self, database_url):
        code = (
            "import sys; from poundcake.trail import database as d;"
            "sys.stdin.readline(); print(d.prepare(d.open_engine(sys.argv[1])))"
        )
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", code, database_url],
                env=dict(os.environ, PYTHONPATH=LIB),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                universal_newlines=True,
            )
            for _ in range(2)
        ]
        found = set()
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            found.add(process.communicate(timeout=60)[0].strip())
        assert len(found) == 1 and found != {""}

    def test_a_newer_schema_is_refused(self, engine):
        database.prepare(engine)
        with engine.begin() as connection:
            connection.execute(
                schema.meta.update().where(schema.meta.c.name == "schema").values(value="999")
            )
        with pytest.raises(DatabaseError, match="999.*install"):
            database.prepare(engine)

    def test_without_leave_nothing_is_made(self, engine):
        with pytest.raises(DatabaseError, match="poundcake.migrate"):
            database.prepare(engine, create=False)
        assert sqlalchemy.inspect(engine).get_table_names() == []

    def test_a_database_made_half_is_finished(self, engine):
        with engine.begin() as connection:
            schema.api_calls.create(connection)
        assert database.prepare(engine)
        assert set(schema.metadata.tables) <= set(sqlalchemy.inspect(engine).get_table_names())


class TestRefused:
    @pytest.mark.parametrize(
        "url",
        [
            "",
            "no url",
            "sqlite:",
            "sqlite://",
            "sqlite:///:memory:",
            "mysql+pymysql://u:hushword@h:port/db",
            "mysql+pymysql://u:hushword@[::1/db",
        ],
    )
    def test_what_is_no_url_is_said(self, url):
        error = error_of(url)
        assert "hushword" not in error
        assert "database_url" in error or "sqlite" in error

    def test_no_server_there(self):
        url = f"mysql+pymysql://u:hush%40word@127.0.0.1:{services.free_port()}/db"
        error = error_of(url)
        assert "hush" not in error and "127.0.0.1" in error
        assert "\n" not in error

    def test_a_wrong_password(self, mariadb):
        error = error_of(f"mysql+pymysql://poundcake:hushword@127.0.0.1:{mariadb.port}/poundcake_x")
        assert "hushword" not in error and "denied" in error.lower()

    def test_no_such_database(self, mariadb):
        error = error_of(mariadb.url("poundcake_not_there"))
        assert mariadb.password not in error and "poundcake_not_there" in error

    def test_no_database_named(self, mariadb):
        url = mariadb.url("").split("?")[0]
        assert mariadb.password not in error_of(url)

    def test_a_folder_is_no_file(self, tmp_path):
        assert str(tmp_path) in error_of(f"sqlite:///{tmp_path}")

    def test_a_file_that_is_no_database(self, tmp_path):
        (tmp_path / "x.db").write_bytes(b"no database at all, but long enough to be read" * 30)
        assert "not a database" in error_of("sqlite:///{}".format(tmp_path / "x.db"))

    def test_a_place_below_a_file(self, tmp_path):
        (tmp_path / "file").write_text("")
        assert "file" in error_of("sqlite:///{}".format(tmp_path / "file" / "deep" / "x.db"))

    @pytest.mark.parametrize("password", ["hush-word", "hush%2Fw%3Ard"])
    def test_the_password_is_masked_wherever_it_stands(self, password):
        engine = database.open_engine(f"mysql+pymysql://on-call:{password}@127.0.0.1:1/x")
        said = Exception(1045, f"denied for on-call with {engine.url.password}")
        error = database.describe(sqlalchemy.exc.DBAPIError("SELECT 1", {}, said), engine)
        assert (
            error == "mysql+pymysql://on-call:***@127.0.0.1:1/x: 1045 denied for on-call with ***"
        )

    def test_an_error_shows_neither_statement_nor_parameters(self, engine):
        database.prepare(engine)
        with pytest.raises(DatabaseError) as caught:
            with database.transaction(engine) as connection:
                connection.execute(
                    text("SELECT hush FROM nowhere WHERE 'hush-value' = :v"), {"v": 1}
                )
        assert "hush-value" not in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_unique_keys_refusal_is_the_callers(self, engine):
        database.prepare(engine)
        with pytest.raises(sqlalchemy.exc.IntegrityError):
            with database.transaction(engine) as connection:
                connection.execute(schema.meta.insert().values(name="schema", value="2"))


class TestOwners:
    """Root's actions and the sensor's user use one folder, whichever comes first."""

    @pytest.fixture
    def other(self, tmp_path):
        if os.geteuid() != 0:
            pytest.skip("needs root, as StackStorm's action runner is")
        return pwd.getpwnam("nobody")

    def test_what_root_makes_belongs_to_the_parents_owner(self, other, tmp_path):
        os.chown(str(tmp_path), other.pw_uid, other.pw_gid)
        state = tmp_path / "exports" / "poundcake"
        engine = database.open_engine("sqlite:///{}".format(state / "tracking.sqlite"))
        database.prepare(engine)
        with engine.connect() as connection:  # -wal and -shm are there while it is open
            connection.execute(select(schema.meta)).all()
            made = [state.parent, state, *state.iterdir()]
            assert len(made) >= 3
            for path in made:
                found = os.stat(str(path))
                assert (found.st_uid, found.st_gid) == (other.pw_uid, other.pw_gid), path

    def test_a_folder_is_not_open_to_the_world(self, tmp_path):
        database.make_folder(str(tmp_path / "a" / "b"))
        assert stat.S_IMODE(os.stat(str(tmp_path / "a" / "b")).st_mode) & 0o007 == 0

    @pytest.fixture
    def open_to_all(self):
        """A folder that others reach, which pytest's own are not."""
        found = pathlib.Path(tempfile.mkdtemp(prefix="poundcake-"))
        yield found
        shutil.rmtree(str(found))

    def test_the_other_user_goes_on_where_root_began(self, other, open_to_all):
        os.chown(str(open_to_all), other.pw_uid, other.pw_gid)
        os.chmod(str(open_to_all), 0o755)
        path = open_to_all / "state" / "tracking.sqlite"
        first = database.prepare(database.open_engine(f"sqlite:///{path}"))
        code = (
            "import os, sqlite3, sys;"
            "os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[3]));"
            "db = sqlite3.connect(sys.argv[1]);"
            "db.execute(\"UPDATE poundcake_meta SET value = value WHERE name = 'database_id'\");"
            "db.commit();"
            "print(db.execute(\"SELECT value FROM poundcake_meta WHERE name = 'database_id'\")"
            ".fetchone()[0])"
        )
        found = subprocess.check_output(
            [sys.executable, "-c", code, str(path), str(other.pw_gid), str(other.pw_uid)],
            universal_newlines=True,
        )
        assert found.strip() == first


def test_a_read_holds_up_no_writer(engine):
    database.prepare(engine)
    with database.reading(engine) as reader:
        before = reader.execute(select(schema.meta)).all()
        with database.transaction(engine) as writer:
            writer.execute(schema.meta.insert().values(name="x", value="1"))
        assert before
    with database.reading(engine) as reader:
        assert len(reader.execute(select(schema.meta)).all()) == len(before) + 1


def test_a_statement_has_its_time(database_url):
    patient = database.open_engine(database_url)
    database.prepare(patient)
    hurried = database.open_engine(database_url, 1)
    slow = (
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 100000000)"
        " SELECT count(*) FROM c"
    )
    if patient.dialect.name != "sqlite":
        slow = "SELECT SLEEP(10)"
    began = threading.Event()
    threading.Timer(4, began.set).start()
    try:
        with database.reading(hurried) as connection:
            connection.execute(text(slow)).all()
    except DatabaseError:
        pass  # MariaDB ends a SLEEP by its return value, not by an error
    assert not began.is_set()
    patient.dispose()
    hurried.dispose()
