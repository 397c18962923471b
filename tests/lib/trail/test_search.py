"""Filters and cursors are parsed from the parameters of actions and URLs."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from poundcake.trail import search
from poundcake.trail.search import ALERT_FILTERS, Cursor, FilterError, Filters
from tests.lib.samples import NOON, UTC, later


class TestParse:
    def test_empty_parameters_are_ignored(self):
        assert search.parse() == search.parse(since="", severity="", before=" ") == Filters()
        assert Filters(since=NOON, until=NOON, before=Cursor.of(NOON, 1)).alert_filters == {}
        for name in ALERT_FILTERS:
            assert search.parse(
                **{name: "firing" if name == "status" else "resolved"}
            ).alert_filters

    @pytest.mark.parametrize(
        "text, expected",
        [
            ("2026-01-14T11:00:00Z", later(-3600)),
            (" 2026-01-14T12:00:00+02:00 ", later(-7200)),
            ("2026-01-14t11:59:59.123456789z", later(-1) + timedelta(microseconds=123456)),
            ("90s", later(-90)),
            ("90m", later(-5400)),
            ("1h30m", later(-5400)),
            ("7d", later(-7 * 86400)),
            ("1w1d", later(-8 * 86400)),
            ("1y", later(-365 * 86400)),
            ("1y1w1d1h1m1s", later(-(372 + 1) * 86400 - 3661)),
            ("0s", NOON),
        ],
    )
    @pytest.mark.parametrize("field", ["since", "until"])
    def test_times_and_ages_are_parsed(self, field, text, expected):
        assert getattr(search.parse(NOON, **{field: text}), field) == expected

    def test_an_age_is_relative_to_now(self):
        before = datetime.now(UTC)
        moment = search.parse(since="1h").since + timedelta(hours=1)
        assert before <= moment <= datetime.now(UTC)

    @pytest.mark.parametrize(
        "text",
        [
            "yesterday",
            "90",
            "-5m",
            "5 m",
            "1.5h",
            "30m1h",
            "1h1h",
            "500ms",
            "5M",
            "\u0661m",
            "9999y",
            "999999999y999999999w",
            "9999999999s",
            "2026-01-14",
            "2026-01-14T12:00:00",
            "2026-02-30T12:00:00Z",
            "0001-01-01T00:00:00Z",
            "1768392000",
            "now",
            "'; DROP TABLE x",
            "x" * 100000,
        ],
    )
    @pytest.mark.parametrize("field", ["since", "until"])
    def test_invalid_times_are_rejected(self, field, text):
        with pytest.raises(FilterError) as raised:
            search.parse(**{field: text})
        assert raised.value.field == field
        assert str(raised.value).startswith(field + ": must be a time such as 2026-01-14T12:00:00Z")

    @pytest.mark.parametrize(
        "since, until",
        [("1h", "1h"), ("1h", "2h"), ("2026-01-14T12:00:00Z", "2026-01-14T11:00:00Z")],
    )
    def test_until_must_be_later_than_since(self, since, until):
        with pytest.raises(FilterError, match="^until: must be later than since$") as raised:
            search.parse(since=since, until=until)
        assert raised.value.field == "until"

    @pytest.mark.parametrize(
        "field, values",
        [("status", ("firing", "resolved")), ("outcome", search.OUTCOMES)],
    )
    def test_the_error_for_an_unknown_value_lists_the_known_ones(self, field, values):
        for text in values:
            assert getattr(search.parse(**{field: text}), field) == text
        for text in ("x", values[0].upper(), values[0] + " ", "%", values[0] + "," + values[1]):
            with pytest.raises(FilterError) as raised:
                search.parse(**{field: text})
            assert str(raised.value) == f"{field}: must be one of {', '.join(values)}"


class TestCursor:
    @pytest.mark.parametrize("ids", [(1,), (1, 2), ("67ab-_F", 3)])
    @pytest.mark.parametrize("moment", [NOON, later(0.000001)])
    def test_a_formatted_cursor_is_parsed_back(self, moment, ids):
        cursor = Cursor.of(moment, *ids)
        assert search.parse(before=f" {cursor.format()} ").before == cursor

    def test_a_cursor_is_formatted_as_time_and_ids(self):
        assert Cursor.of(NOON, "e1", 5).format() == "2026-01-14T12:00:00Z/e1/5"

    @pytest.mark.parametrize(
        "text",
        [
            "x",
            "2026-01-14T12:00:00Z",
            "2026-01-14T12:00:00Z/",
            "/5",
            "x/5",
            "2026-01-14T12:00:00Z/5/",
            "2026-01-14T12:00:00Z/5 OR 1=1",
            "2026-01-14T12:00:00Z/" + "5" * 65,
            "0001-01-01T00:00:00Z/5",
            "90m/5",
        ],
    )
    def test_invalid_cursors_are_rejected(self, text):
        with pytest.raises(FilterError) as raised:
            search.parse(before=text)
        assert raised.value.field == "before"
        assert str(raised.value) == "before: must be the `next` of the previous page"

    def test_the_ids_of_a_cursor_are_parsed(self):
        assert Cursor.of(NOON, 1, 2).row_ids(2) == [1, 2]
        assert Cursor.of(NOON, "e1", 2).execution_and_row_id() == ("e1", 2)

    @pytest.mark.parametrize("ids", [(), ("one0",), (1, 1), ("9" * 19,), ("\u0661",)])
    def test_the_ids_of_another_view_are_rejected(self, ids):
        with pytest.raises(FilterError, match="^before: this is the `next` of another view$"):
            Cursor.of(NOON, *ids).row_ids(1)


class TestMatchers:
    @pytest.mark.parametrize("field", ["labels", "annotations"])
    def test_matchers_are_parsed_with_and_without_quotes(self, field):
        for text in ("team=infra,cluster=~eu-.*", ' {team="infra", cluster=~"eu-.*",} '):
            matchers = getattr(search.parse(**{field: text}), field)
            assert list(map(str, matchers)) == ['team="infra"', 'cluster=~"eu-.*"']

    @pytest.mark.parametrize("field", ["labels", "annotations"])
    @pytest.mark.parametrize(
        "text, problem",
        [
            ("team", "team is not a matcher: .*; for example: "),
            ('a=~"["', "has an unclosed .*; for example: "),
            ("a=" + "x" * 1000, "must have at most 1000 characters"),
            (",".join("a=b" for _ in range(11)), "must have at most 10 matchers"),
            ('a=~"(a?){150}a{150}"', "is too large for a filter: write fewer or smaller"),
        ],
    )
    def test_an_invalid_matcher_is_an_error_that_names_the_filter(self, field, text, problem):
        with pytest.raises(FilterError, match=f"^{field}: .*{problem}"):
            search.parse(**{field: text})

    def test_two_quotes_stand_for_an_empty_label(self):
        filters = search.parse(alert_name=' "" ', severity='""', instance="x")
        assert list(map(str, filters.labels)) == ['alertname=""', 'severity=""']
        assert filters.alert_filters == {"instance": "x"}


class TestIdentifyingFilter:
    @pytest.mark.parametrize("name", search.IDENTIFYING_FILTERS)
    def test_one_of_them_suffices(self, name):
        text = "a=b" if name in ("labels", "annotations") else "abcd"
        search.require_identifying_filter(search.parse(**{name: text}))

    def test_the_error_lists_all_of_them(self):
        with pytest.raises(FilterError) as raised:
            search.require_identifying_filter(search.parse(severity="critical", since="1h"))
        for name in search.IDENTIFYING_FILTERS:
            assert name in str(raised.value)
