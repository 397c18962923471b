"""The tables store and compare values in the same way on SQLite and MariaDB."""

from __future__ import annotations

import datetime

import pytest
import sqlalchemy
from sqlalchemy import select

from poundcake.trail import schema
from tests.lib.samples import FIRST_COLUMNS, NOON


def insert_name(connection, name):
    return connection.execute(schema.meta.insert().values(name=name, value="v"))


@pytest.mark.parametrize("table", sorted(FIRST_COLUMNS))
def test_the_columns_that_users_select_exist(table):
    assert set(FIRST_COLUMNS[table].split()) <= set(schema.metadata.tables[table].c.keys())


@pytest.mark.parametrize("other_name", ["hostdown", "HostDown ", "HóstDown", "HostDown\u0301"])
def test_names_are_compared_exactly(engine, other_name):
    with engine.begin() as connection:
        insert_name(connection, "HostDown")
        insert_name(connection, other_name)
        stored_names = connection.scalars(
            select(schema.meta.c.name).where(schema.meta.c.name == "HostDown")
        ).all()
    assert stored_names == ["HostDown"]


def test_every_character_is_stored(engine):
    name = "🍰 日本 \u0000 \\ ' \" ; -- %s %(x)s :x {{ <%"
    with engine.begin() as connection:
        insert_name(connection, name)
        assert connection.scalar(select(schema.meta.c.name).where(schema.meta.c.name == name))


@pytest.mark.parametrize(
    "moment",
    [
        NOON,
        NOON.replace(microsecond=123456),
        NOON.astimezone(datetime.timezone(datetime.timedelta(hours=5))),
        NOON.replace(year=9999, month=12, day=31, hour=23, minute=59, second=59),
        NOON.replace(year=2),
        None,
    ],
)
def test_a_time_is_stored_to_the_microsecond_and_read_as_utc(engine, moment):
    with engine.begin() as connection:
        connection.execute(
            schema.executions.insert().values(
                id="e", action="a", status="s", start_timestamp=moment
            )
        )
        stored_value = connection.scalar(select(schema.executions.c.start_timestamp))
    assert stored_value == moment
    assert moment is None or stored_value.utcoffset() == datetime.timedelta(0)


def test_a_fingerprint_has_at_most_one_open_incident(engine):
    def make_row(position, open_fingerprint):
        return {
            "api_call_id": 1,
            "position": position,
            "fingerprint": "f",
            "alert_name": "",
            "severity": "",
            "instance": "",
            "labels": "{}",
            "annotations": "{}",
            "status": "firing",
            "created_at": NOON,
            "recorded_at": NOON,
            "outcome": "admitted",
            "reason": "",
            "open_fingerprint": open_fingerprint,
        }

    with engine.begin() as connection:
        connection.execute(
            schema.api_calls.insert().values(
                id=1,
                request_id="r",
                method="POST",
                path="/",
                headers="{}",
                body="",
                status_code=202,
                created_at=NOON,
                body_sha256="",
            )
        )
        for position, fingerprint in enumerate([None, None, "f", "F"]):
            connection.execute(schema.alerts.insert().values(**make_row(position, fingerprint)))
    with pytest.raises(sqlalchemy.exc.IntegrityError), engine.begin() as connection:
        connection.execute(schema.alerts.insert().values(**make_row(9, "f")))
    with pytest.raises(sqlalchemy.exc.IntegrityError), engine.begin() as connection:
        connection.execute(schema.alerts.insert().values(**make_row(0, None)))


@pytest.mark.parametrize(
    "text, length", [("", 0), ("a" * 64, 64), ("a" * 65, 64), ("🍰" * 70, 64), ("\ud800" * 70, 64)]
)
def test_text_is_truncated_to_the_length_of_its_column(engine, text, length):
    stored_value = schema.cut(text, schema.meta.c.name)
    assert len(stored_value) == length
    with engine.begin() as connection:
        insert_name(connection, stored_value)
        assert (
            connection.scalar(select(schema.meta.c.name).where(schema.meta.c.name == stored_value))
            == stored_value
        )


def test_a_long_body_is_stored_completely(engine):
    body = "🍰" * 300000
    with engine.begin() as connection:
        connection.execute(
            schema.api_calls.insert().values(
                request_id="r",
                method="POST",
                path="/",
                headers="{}",
                body=body,
                status_code=202,
                created_at=NOON,
                body_sha256="",
            )
        )
        assert connection.scalar(select(schema.api_calls.c.body)) == body
