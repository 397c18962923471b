"""RFC 3339 timestamps are parsed as senders write them, and formatted in UTC."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poundcake.timestamps import format_timestamp, parse_http_date, parse_timestamp
from tests.lib.samples import NOON, UTC


@pytest.mark.parametrize(
    "text, moment",
    [
        ("2026-01-14T12:00:00Z", NOON),
        ("2026-01-14t12:00:00z", NOON),
        ("2026-01-14 12:00:00Z", NOON),
        ("2026-01-14T14:00:00+02:00", NOON),
        ("2026-01-14T06:30:00-05:30", NOON),
        ("2026-01-14T12:00:00-00:00", NOON),
        ("2026-01-14T12:00:00.123456789Z", NOON.replace(microsecond=123456)),
        ("2026-01-14T12:00:00.5Z", NOON.replace(microsecond=500000)),
        ("2026-01-14T12:00:00.000000001+00:00", NOON),
        ("2024-02-29T00:00:00Z", datetime.datetime(2024, 2, 29, tzinfo=UTC)),
    ],
)
def test_any_offset_and_any_number_of_decimals_are_read_as_utc(text, moment):
    assert parse_timestamp(text) == moment
    assert parse_timestamp(text).utcoffset() == datetime.timedelta(0)


def test_a_leap_second_becomes_the_second_before_it():
    assert parse_timestamp("2016-12-31T23:59:60Z") == datetime.datetime(
        2016, 12, 31, 23, 59, 59, tzinfo=UTC
    )


@pytest.mark.parametrize("value", [None, "", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+01:00"])
def test_missing_values_and_the_zero_time_of_go_are_none(value):
    assert parse_timestamp(value) is None


@pytest.mark.parametrize(
    "value",
    [
        "2026-01-14",
        "2026-01-14T12:00:00",
        "2026-01-14T12:00Z",
        "2026-1-14T12:00:00Z",
        "2026-01-14T12:00:00.Z",
        "2026-01-14T12:00:00+0100",
        "2026-01-14T12:00:00Z\n",
        " 2026-01-14T12:00:00Z",
        "٢٠٢٦-01-14T12:00:00Z",
        "now",
        0,
        1.5,
        True,
        [],
        {},
    ],
)
def test_any_other_format_is_refused(value):
    with pytest.raises(ValueError, match="must be an RFC 3339 time such as 2026-"):
        parse_timestamp(value)


@pytest.mark.parametrize(
    "text",
    [
        "2026-13-14T12:00:00Z",
        "2026-02-29T12:00:00Z",
        "2026-01-14T24:00:00Z",
        "2026-01-14T12:60:00Z",
        "2026-01-14T12:00:61Z",
        "2026-01-14T12:00:00+24:00",
        "2026-01-14T12:00:00+01:60",
        "9999-12-31T23:59:59-00:01",
    ],
)
def test_the_error_shows_an_impossible_time(text):
    with pytest.raises(ValueError) as caught:
        parse_timestamp(text)
    assert str(caught.value) == f"{text} does not exist"


@given(st.datetimes(timezones=st.just(UTC)).filter(lambda moment: moment.year > 1))
def test_a_formatted_timestamp_is_parsed_back(moment):
    assert format_timestamp(moment).endswith("Z")
    assert parse_timestamp(format_timestamp(moment)) == moment


def test_timestamps_are_formatted_in_utc():
    east = datetime.timezone(datetime.timedelta(hours=2))
    assert format_timestamp(NOON.astimezone(east)) == "2026-01-14T12:00:00Z"


@pytest.mark.parametrize(
    "text, moment",
    [
        ("Wed, 14 Jan 2026 12:00:00 GMT", NOON),
        ("Wed, 14 Jan 2026 12:00:00 -0000", NOON),
        ("Wed, 14 Jan 2026 12:00:00", NOON),
        ("Wed, 14 Jan 2026 14:00:00 +0200", NOON),
        ("yesterday", None),
        ("", None),
        (None, None),
        ("Wed, 14 Jan 2026 12:00:00 +99999999999999", None),
    ],
)
def test_a_date_header_is_in_utc(text, moment):
    assert parse_http_date(text) == moment
