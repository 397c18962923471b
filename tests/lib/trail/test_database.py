"""The first process creates the tracking database, and every process uses it in transactions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import uuid

import pytest
import sqlalchemy
from sqlalchemy import select, text

from poundcake.config import Config
from poundcake.trail import claims, clock, database, schema
from poundcake.trail.database import transactions
from poundcake.trail.errors import DatabaseError, TrackingError
from poundcake.trail.record import record_requests
from tests import services
from tests.lib.samples import UTC, alert, request
from tests.lib.trails import on_mariadb, on_sqlite

LIB = os.path.join(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__)))), "lib"
)


@pytest.fixture
def engine(database_url):
    new_engine = database.open_engine(database_url)
    yield new_engine
    new_engine.dispose()


def expect_prepare_error(url, **kwargs):
    with pytest.raises(DatabaseError) as caught:
        database.prepare(database.open_engine(url), **kwargs)
    return str(caught.value)


class TestPrepare:
    def test_preparing_again_changes_nothing(self, engine):
        database_id = database.prepare(engine)
        assert str(uuid.UUID(database_id)) == database_id
        assert database.prepare(engine) == database_id
        assert database.prepare(engine, create=False) == database_id
        tables = sqlalchemy.inspect(engine).get_table_names()
        assert set(schema.metadata.tables) <= set(tables)

    def test_concurrent_threads_agree_on_one_id(self, database_url):
        ids, start = [], threading.Barrier(6)

        def prepare():
            engine = database.open_engine(database_url)
            start.wait()
            ids.append(database.prepare(engine))
            engine.dispose()

        threads = [threading.Thread(target=prepare) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(ids) == 6
        assert len(set(ids)) == 1

    def test_concurrent_processes_agree_on_one_id(self, database_url):
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
        ids = set()
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            ids.add(process.communicate(timeout=60)[0].strip())
        assert len(ids) == 1 and ids != {""}

    @on_sqlite
    def test_nothing_is_created_without_permission(self, engine):
        with pytest.raises(DatabaseError, match="poundcake.migrate"):
            database.prepare(engine, create=False)
        assert sqlalchemy.inspect(engine).get_table_names() == []

    def test_a_half_created_database_is_completed(self, engine):
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
            "mysql+pymysql://u:hidden-word@h:port/db",
            "mysql+pymysql://u:hidden-word@[::1/db",
        ],
    )
    def test_an_unusable_url_is_refused(self, url):
        error = expect_prepare_error(url)
        assert "hidden-word" not in error
        assert "database_url" in error or "sqlite" in error

    def test_a_server_that_does_not_answer_is_reported(self):
        url = f"mysql+pymysql://u:hush%40word@127.0.0.1:{services.free_port()}/db"
        error = expect_prepare_error(url)
        assert "hush" not in error and "127.0.0.1" in error
        assert "\n" not in error

    def test_a_wrong_password_is_reported(self, mariadb):
        error = expect_prepare_error(
            f"mysql+pymysql://poundcake:hidden-word@127.0.0.1:{mariadb.port}/poundcake_x"
        )
        assert "hidden-word" not in error and "denied" in error.lower()

    def test_a_missing_database_is_reported(self, mariadb):
        error = expect_prepare_error(mariadb.url("poundcake_missing"))
        assert mariadb.password not in error and "poundcake_missing" in error

    def test_a_url_without_a_database_is_refused(self, mariadb):
        url = mariadb.url("").split("?")[0]
        assert mariadb.password not in expect_prepare_error(url)

    def test_a_path_that_is_a_folder_is_refused(self, tmp_path):
        assert str(tmp_path) in expect_prepare_error(f"sqlite:///{tmp_path}")

    def test_a_file_that_is_not_a_database_is_refused(self, tmp_path):
        (tmp_path / "x.db").write_bytes(b"no database at all, but long enough to be read" * 30)
        assert "not a database" in expect_prepare_error("sqlite:///{}".format(tmp_path / "x.db"))

    def test_a_path_below_a_file_is_refused(self, tmp_path):
        (tmp_path / "file").write_text("")
        assert "file" in expect_prepare_error(
            "sqlite:///{}".format(tmp_path / "file" / "deep" / "x.db")
        )

    @pytest.mark.parametrize("password", ["hush-word", "hush%2Fw%3Ard"])
    def test_the_password_is_masked_anywhere_in_an_error(self, password):
        engine = database.open_engine(f"mysql+pymysql://on-call:{password}@127.0.0.1:1/x")
        cause = Exception(1045, f"denied for on-call with {engine.url.password}")
        error = database.describe(sqlalchemy.exc.DBAPIError("SELECT 1", {}, cause), engine)
        assert (
            error == "mysql+pymysql://on-call:***@127.0.0.1:1/x: 1045 denied for on-call with ***"
        )

    @pytest.mark.parametrize(
        "url, masked_url",
        [
            ("on-call@127.0.0.1:1/x?password=hush-word", "on-call@127.0.0.1:1/x"),
            ("on-call@127.0.0.1:1/x?charset=utf8mb4&passwd=hush-word", "on-call@127.0.0.1:1/x"),
            ("on-call@127.0.0.1:1/x?PASSWORD=hush-word", "on-call@127.0.0.1:1/x"),
            ("127.0.0.1:1/x?user=on-call&password=hush-word", "127.0.0.1:1/x"),
            ("on-call@h/x?passwd=other&passwd=hush-word", "on-call@h/x"),
            ("on-call:other@h/x?password=hush-word", "on-call:***@h/x"),
            ("on-call:hush%2Dword@h/x", "on-call:***@h/x"),
            ("on-call%3Ahush-word@h/x", "on-call@h/x"),
            ("on-call:hush-word@h/x?ssl_key_password=other", "on-call:***@h/x"),
            (":hush-word@h/x", ":***@h/x"),
        ],
    )
    def test_a_password_is_masked_in_every_form_of_the_url(self, url, masked_url):
        engine = database.open_engine("mysql+pymysql://" + url)
        cause = Exception(1045, "denied for on-call with hush-word")
        error = database.describe(sqlalchemy.exc.DBAPIError("SELECT 1", {}, cause), engine)
        assert error == f"mysql+pymysql://{masked_url}: 1045 denied for on-call with ***"

    def test_a_percent_encoded_password_is_masked(self):
        engine = database.open_engine("mysql+pymysql://on-call@h/x?password=hush%2Fwo+rd%2520")
        cause = Exception(
            "hush/wo rd%20, hush%2Fwo%20rd%2520, hush%2Fwo+rd%2520, hush/wo%20rd%2520"
        )
        error = database.describe(sqlalchemy.exc.DBAPIError("SELECT 1", {}, cause), engine)
        assert error == "mysql+pymysql://on-call@h/x: ***, ***, ***, ***"

    def test_an_at_sign_in_a_password_does_not_start_the_host(self):
        error = expect_prepare_error("mysql+pymysql://on-call:p@hush-word@127.0.0.1:1/x")
        assert error == "database_url: write an @ in the password as %40"

    @on_sqlite
    def test_an_error_shows_neither_statement_nor_parameters(self, engine):
        database.prepare(engine)
        with pytest.raises(DatabaseError) as caught:
            with database.transaction(engine) as connection:
                connection.execute(
                    text("SELECT hush FROM nowhere WHERE 'hush-value' = :v"), {"v": 1}
                )
        assert "hush-value" not in str(caught.value)
        assert "\n" not in str(caught.value)

    @on_sqlite
    def test_a_unique_key_violation_is_raised_to_the_caller(self, engine):
        database.prepare(engine)
        with pytest.raises(sqlalchemy.exc.IntegrityError):
            with database.transaction(engine) as connection:
                connection.execute(schema.meta.insert().values(name="schema", value="2"))


def test_a_read_does_not_block_writers(engine):
    database.prepare(engine)
    with database.reading(engine) as reader:
        before = reader.execute(select(schema.meta)).all()
        with database.transaction(engine) as writer:
            writer.execute(schema.meta.insert().values(name="x", value="1"))
        assert before
    with database.reading(engine) as reader:
        assert len(reader.execute(select(schema.meta)).all()) == len(before) + 1


def test_a_statement_that_takes_too_long_is_aborted(database_url):
    default_engine = database.open_engine(database_url)
    database.prepare(default_engine)
    engine = database.open_engine(database_url, 1)
    slow_query = (
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 100000000)"
        " SELECT count(*) FROM c"
    )
    if default_engine.dialect.name != "sqlite":
        slow_query = "SELECT SLEEP(10)"
    too_late = threading.Event()
    threading.Timer(4, too_late.set).start()
    try:
        with database.reading(engine) as connection:
            connection.execute(text(slow_query)).all()
    except DatabaseError:
        pass  # in MariaDB, an aborted SLEEP returns a value instead of an error
    assert not too_late.is_set()
    default_engine.dispose()
    engine.dispose()


class TestServerSettings:
    """A MariaDB server has global settings that affect every session."""

    MODES = "EMPTY_STRING_IS_NULL,ORACLE,PAD_CHAR_TO_FULL_LENGTH,NO_BACKSLASH_ESCAPES"

    @pytest.fixture
    def set_global(self, mariadb):
        """Return a function that sets a variable of the server until the test ends."""
        original_values = {}

        def set_global(name, value):
            run_as_root(mariadb, f"SET GLOBAL {name} = {value}")

        for name in ("sql_mode", "max_allowed_packet"):
            original_values[name] = run_as_root(mariadb, f"SELECT @@GLOBAL.{name}")
        yield set_global
        for name, value in original_values.items():
            set_global(name, repr(value))

    @on_mariadb
    def test_the_servers_sql_mode_has_no_effect(self, database_url, set_global):
        set_global("sql_mode", f"'{self.MODES}'")
        engine = database.open_engine(database_url)
        labels = {"instance": "", "severity": "", "x": "a\\b'c\"d"}
        webhook_request = request(alert("", labels=labels, fingerprint="f"))
        assert record_requests(engine, Config(), [webhook_request])["recorded"] == 1
        with database.reading(engine) as connection:
            row = connection.execute(select(schema.alerts)).one()
        assert (row.alert_name, row.severity, row.instance) == ("", "", "")
        assert json.loads(row.labels)["x"] == labels["x"]
        assert claims.link(engine, webhook_request.request_id, row.episode, "w", "e")["claimed"]
        engine.dispose()

    @on_mariadb
    def test_a_server_that_allows_only_small_packets_is_refused(self, database_url, set_global):
        set_global("max_allowed_packet", 1 << 18)
        error = expect_prepare_error(database_url)
        assert "max_allowed_packet is 262144 bytes: set max_allowed_packet = 16M" in error

    def test_statement_based_replication_is_refused(self):
        """The server would refuse every INSERT at the isolation level that recording needs."""
        server = start_or_skip(StatementReplication)
        try:
            url = server.url(server.create_database())
            for _ in range(2):
                assert "binlog_format is STATEMENT" in expect_prepare_error(url)
                assert "set binlog_format = MIXED" in expect_prepare_error(url)
            with pytest.raises(DatabaseError, match="set binlog_format = MIXED"):
                with database.reading(database.open_engine(url)):
                    pass
        finally:
            server.close()


class StatementReplication(services.MariaDB):
    """A MariaDB server with a statement-based binary log."""

    def command(self):
        return super().command() + ["--log-bin=binlog", "--binlog-format=STATEMENT"]


def start_or_skip(server_class):
    try:
        server = server_class()
        server.start()
    except services.MissingProgram as missing:
        pytest.skip(str(missing))
    return server


def run_as_root(mariadb, statement):
    """Run a statement as the server's root user, and return its first value, if there is one."""
    import pymysql

    connection = pymysql.connect(unix_socket=mariadb.path("sock"), user="root", ssl_disabled=True)
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            row = cursor.fetchone()
            return row and row[0]
    finally:
        connection.close()


class TestRetryWhileUnavailable:
    def test_it_retries_until_the_work_succeeds(self, monkeypatch):
        monkeypatch.setattr(transactions.time, "sleep", lambda seconds: None)
        answers = iter([DatabaseError("unavailable"), DatabaseError("unavailable"), 7])

        def work():
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

        assert database.retry_while_unavailable(work, 60) == 7

    def test_it_gives_up_after_the_time_limit(self, monkeypatch):
        pauses = []
        monkeypatch.setattr(transactions.time, "sleep", pauses.append)
        monkeypatch.setattr(transactions.time, "monotonic", lambda: sum(pauses))

        def work():
            raise DatabaseError("unavailable")

        with pytest.raises(DatabaseError):
            database.retry_while_unavailable(work, 45)
        assert 40 < sum(pauses) <= 45

    def test_other_errors_are_not_retried(self):
        calls = []

        def work():
            calls.append(1)
            raise TrackingError("no")

        with pytest.raises(TrackingError):
            database.retry_while_unavailable(work, 60)
        assert len(calls) == 1


class TestClock:
    def test_the_time_of_the_database_is_utc_with_microseconds(self, engine):
        with engine.connect() as connection:
            times = [clock.database_now(connection) for _ in range(20)]
        local_time = clock.local_now()
        assert all(abs((local_time - moment).total_seconds()) < 300 for moment in times)
        assert any(moment.microsecond % 1000 for moment in times)
        assert times == sorted(times) and times[0].tzinfo == UTC

    @pytest.mark.parametrize("microsecond, expected", [(0, "00:00Z"), (1, "00:01Z")])
    def test_a_deadline_is_shown_in_whole_seconds_and_never_too_early(self, microsecond, expected):
        moment = clock.local_now().replace(minute=0, second=0, microsecond=microsecond)
        assert clock.format_deadline(moment).endswith(f":{expected}")
