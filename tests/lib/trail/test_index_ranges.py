"""Prefixes and distinct values are read from an index, by code point, on both databases."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from poundcake.trail import database
from poundcake.trail.index_ranges import distinct_values, has_prefix
from poundcake.trail.schema import alerts
from tests.lib.samples import alert
from tests.lib.trails import record

NAMES = ["A", "Ab", "aB", "ab", "ab%", "abc", "ab\uffff", "ab\U0010ffff", "ac", "\xe4b", "a_", "a"]


@pytest.fixture
def connection(engine):
    record(engine, *[alert(name) for name in NAMES], *[alert("ab", labels={"n": "2"})])
    with database.reading(engine) as open_connection:
        yield open_connection


@pytest.mark.parametrize(
    "prefix",
    ["", "a", "A", "ab", "ab%", "a_", "\xe4", "ab\uffff", "ab\U0010ffff", "\U0010ffff", "z"],
)
def test_values_with_a_prefix_are_read_in_order_once_each(connection, prefix):
    expected = sorted(name for name in NAMES if name.startswith(prefix))
    assert distinct_values(connection, alerts.c.alert_name, 100, prefix) == expected
    assert distinct_values(connection, alerts.c.alert_name, 2, prefix) == expected[:2]
    rows = connection.scalars(
        select(alerts.c.alert_name).where(*has_prefix(alerts.c.alert_name, prefix))
    )
    assert sorted(set(rows)) == expected


def test_a_prefix_before_the_surrogates_ends_after_them(connection):
    assert distinct_values(connection, alerts.c.alert_name, 9, "ab\ud7ff") == []


def test_null_is_not_a_value(engine):
    record(engine, {"labels": 5})  # a malformed alert has no episode
    with database.reading(engine) as connection:
        assert distinct_values(connection, alerts.c.episode, 9) == []
