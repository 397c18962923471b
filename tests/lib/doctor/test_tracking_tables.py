"""Problems of the tracking database are found."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import text

from poundcake.doctor.finding import Status
from poundcake.doctor.tracking_tables import DatabaseFacts, check_database, read_database
from poundcake.trail import database
from tests.lib.trails import on_mariadb

GOOD = DatabaseFacts(
    "mysql+pymysql://poundcake:***@db/poundcake",
    engines={"poundcake_alerts": "InnoDB"},
    collations={"poundcake_alerts": "utf8mb4_nopad_bin"},
    isolation="READ-COMMITTED",
)


def find_others(facts):
    return [finding for finding in check_database(facts) if finding.status is not Status.OK]


def test_new_tables_are_all_ok(engine):
    facts = read_database(engine)
    assert find_others(facts) == []
    if engine.dialect.name != "sqlite":
        assert len(facts.engines) == len(facts.collations) > 5


def test_missing_tables_are_a_warning_that_names_migrate(tmp_path):
    engine = database.open_engine(f"sqlite:///{tmp_path / 'new.sqlite'}")
    (finding,) = find_others(read_database(engine))
    assert finding.status in (Status.WARNING, Status.PROBLEM)
    assert "poundcake.migrate" in finding.what + finding.remedy


def test_a_database_that_cannot_be_opened_is_a_problem(tmp_path):
    (tmp_path / "file").touch()
    engine = database.open_engine(f"sqlite:///{tmp_path / 'file' / 'tracking.sqlite'}")
    (finding,) = find_others(read_database(engine))
    assert finding.status is Status.PROBLEM
    assert "cannot be used" in finding.what and "database_url" in finding.remedy


def test_the_remedy_of_a_database_from_a_newer_release_leads_to_the_error():
    error = "the tables have schema 99: install the release that created them"
    (finding,) = find_others(DatabaseFacts("sqlite", error))
    assert error in finding.what and "do what the error says" in finding.remedy


@on_mariadb
def test_a_converted_table_is_found_and_the_remedy_repairs_it(engine):
    with engine.begin() as connection:
        connection.execute(
            text("ALTER TABLE poundcake_audit ENGINE=Aria, CONVERT TO CHARACTER SET latin1")
        )
    (finding,) = find_others(read_database(engine))
    assert finding.status is Status.PROBLEM
    assert "poundcake_audit uses Aria" in finding.what and "latin1" in finding.what
    _, _, statement = finding.remedy.partition("run: ")
    with engine.begin() as connection:
        connection.execute(text(statement))
    assert find_others(read_database(engine)) == []


@pytest.mark.parametrize(
    "changes, status, what",
    [
        ({"error": "connection refused"}, "problem", "connection refused"),
        ({"pending": "run migrate"}, "warning", "run migrate"),
        ({"isolation": "REPEATABLE-READ"}, "problem", "REPEATABLE-READ"),
        ({"journal_mode": "delete"}, "warning", "journal mode of SQLite is delete"),
        ({"collations": {"poundcake_alerts": "utf8mb4_general_ci"}}, "problem", "general_ci"),
    ],
)
def test_each_problem_is_found(changes, status, what):
    (finding,) = find_others(replace(GOOD, **changes))
    assert finding.status == status
    assert what in finding.what and finding.remedy


def test_good_facts_are_all_ok():
    assert find_others(GOOD) == []
