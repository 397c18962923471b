"""The SQL from the first version's documentation works unchanged on MariaDB.

docs/QUERIES.md contains these statements and others.
"""

from __future__ import annotations

import subprocess
from decimal import Decimal

import pymysql
import pytest
from sqlalchemy.engine import make_url

from poundcake.trail import database
from tests import documents, services
from tests.lib.empty_databases import create_mariadb_tables
from tests.lib.samples import alert, iso, later
from tests.lib.trails import episode, record, record_execution

AUDIT_TRAIL = """
SELECT
    api.request_id,
    alert.alert_name,
    alert.severity,
    link.st2_execution_id,
    exec.action as st2_workflow,
    exec.status
FROM poundcake_api_calls api
JOIN poundcake_alerts alert ON alert.api_call_id = api.id
LEFT JOIN poundcake_st2_execution_link link ON link.alert_id = alert.id
LEFT JOIN execution_db exec ON exec.id = link.st2_execution_id
WHERE api.request_id = 'your-request-id';
"""

SUCCESS_RATES = """
SELECT
    exec.action as workflow,
    COUNT(*) as total,
    SUM(CASE WHEN exec.status = 'succeeded' THEN 1 ELSE 0 END) as succeeded,
    ROUND(AVG(TIMESTAMPDIFF(SECOND, exec.start_timestamp, exec.end_timestamp)), 2) as avg_duration_sec
FROM execution_db exec
JOIN poundcake_st2_execution_link link ON exec.id = link.st2_execution_id
GROUP BY exec.action;
"""  # noqa: E501

RECENT_EXECUTIONS = """
SELECT COUNT(*) as total, st2_action_ref
FROM poundcake_st2_execution_link
GROUP BY st2_action_ref;
"""

STATEMENTS = documents.find_code_blocks(documents.ROOT / "docs" / "QUERIES.md", "sql")


@pytest.fixture
def request_id(mariadb_url):
    """Return the id of a request with three alerts and executions, next to another request."""
    engine = database.open_engine(mariadb_url)
    create_mariadb_tables(engine)
    main_request = record(
        engine,
        alert("HostDown", fingerprint="a", labels={"severity": "critical"}),
        alert("DiskFull", fingerprint="b", labels={"severity": "warning"}),
        alert("Unknown", fingerprint="c", labels={"severity": ""}),
    )
    other_request = record(engine, alert("HostDown", fingerprint="d"))
    # The executions take 2.5 s and 7 s, and one has not ended.
    record_execution(engine, main_request, episode("a"), "e1", "poundcake.host_down")
    record_execution(
        engine, main_request, episode("a"), "e2", "x.notify", status="running", end_timestamp=None
    )
    end_time = iso(later(17))
    record_execution(
        engine, main_request, episode("b"), "e3", "x.clean", status="failed", end_timestamp=end_time
    )
    record_execution(
        engine, other_request, episode("d"), "e4", "poundcake.host_down", end_timestamp=end_time
    )
    record_execution(
        engine,
        other_request,
        episode("d"),
        "e5",
        "x.notify",
        status="canceled",
        end_timestamp=end_time,
    )
    engine.dispose()
    return main_request


def query(url, statement):
    """Return the names of the columns and the sorted rows, read with a plain cursor."""
    parsed = make_url(url)
    connection = pymysql.connect(
        host=parsed.host,
        port=parsed.port,
        user=parsed.username,
        password=parsed.password,
        database=parsed.database,
    )
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return [column[0] for column in cursor.description], sorted(cursor.fetchall(), key=str)
    finally:
        connection.close()


def test_the_audit_trail_query_lists_alerts_with_their_executions(mariadb_url, request_id):
    columns, rows = query(mariadb_url, AUDIT_TRAIL.replace("your-request-id", request_id))
    assert columns == [
        "request_id",
        "alert_name",
        "severity",
        "st2_execution_id",
        "st2_workflow",
        "status",
    ]
    assert rows == [
        (request_id, "DiskFull", "warning", "e3", "x.clean", "failed"),
        (request_id, "HostDown", "critical", "e1", "poundcake.host_down", "succeeded"),
        (request_id, "HostDown", "critical", "e2", "x.notify", "running"),
        (request_id, "Unknown", "", None, None, None),
    ]
    assert query(mariadb_url, AUDIT_TRAIL)[1] == []


def test_the_success_rates_query_summarizes_each_workflow(mariadb_url, request_id):
    columns, rows = query(mariadb_url, SUCCESS_RATES)
    assert columns == ["workflow", "total", "succeeded", "avg_duration_sec"]
    assert rows == [
        ("poundcake.host_down", 2, 2, Decimal("4.50")),  # the mean of 2 (whole seconds) and 7
        ("x.clean", 1, 0, Decimal("7.00")),
        ("x.notify", 2, 0, Decimal("7.00")),
    ]


def test_the_executions_query_counts_executions_by_action(mariadb_url, request_id):
    columns, rows = query(mariadb_url, RECENT_EXECUTIONS)
    assert columns == ["total", "st2_action_ref"]
    assert rows == [(1, "x.clean"), (2, "poundcake.host_down"), (2, "x.notify")]


def test_the_executions_query_works_on_the_command_line(mariadb_url, request_id):
    try:
        program = services.program("mysql", "mariadb")
    except services.MissingProgram as missing:
        pytest.skip(str(missing))
    url = make_url(mariadb_url)
    # mysql -upoundcake -ppoundcake poundcake -e "…", for a server on another port
    server = ["--no-defaults", "-h" + url.host, f"-P{url.port}"]
    account = ["-u" + url.username, "-p" + url.password, url.database]
    output = subprocess.run(
        [program] + server + account + ["-e", RECENT_EXECUTIONS],
        check=True,
        stdout=subprocess.PIPE,
        timeout=60,
    ).stdout.decode()
    heading, *rows = output.splitlines()
    assert heading == "total\tst2_action_ref"
    assert sorted(rows) == ["1\tx.clean", "2\tpoundcake.host_down", "2\tx.notify"]


def with_ids(statements):
    return [pytest.param(text, id=f"statement-{n}") for n, text in enumerate(statements, 1)]


@pytest.mark.parametrize("statement", with_ids([AUDIT_TRAIL, SUCCESS_RATES, RECENT_EXECUTIONS]))
def test_the_documentation_contains_the_statement(statement):
    assert statement.lstrip() in STATEMENTS


@pytest.mark.parametrize("statement", with_ids(STATEMENTS))
def test_each_documented_statement_works(statement, mariadb_url, request_id):
    columns, _ = query(mariadb_url, statement)
    assert columns


@pytest.mark.parametrize(
    "statement", with_ids(text for text in STATEMENTS if "TIMESTAMPDIFF" not in text)
)
def test_statements_without_timestampdiff_work_on_sqlite(statement, tmp_path):
    engine = database.open_engine(f"sqlite:///{tmp_path}/tracking.sqlite")
    record(engine, alert("HostDown", fingerprint="a"))
    with database.reading(engine) as connection:
        assert connection.exec_driver_sql(statement).keys()
