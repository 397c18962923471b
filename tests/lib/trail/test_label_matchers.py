"""Matchers are applied to the labels and annotations of alerts, within limits."""

from __future__ import annotations

import pytest

from poundcake.trail import database, label_matchers, queries, search, stats
from poundcake.trail.queries import bounded_search
from poundcake.trail.search import FilterError
from tests.lib.samples import NOON, alert, iso, later
from tests.lib.trails import episode, pages, record, record_execution, view

VALUES = ["infra", "a b", 'a"b', "a\\b", "\xe4", "\U0001f370", "a\nb", "x" * 5000, "infrastructure"]


@pytest.mark.parametrize("number", range(len(VALUES)))
@pytest.mark.parametrize("field", ["labels", "annotations"])
def test_any_value_can_be_asked_for(engine, number, field):
    record(engine, *[alert(fingerprint=f"f{n}", **{field: {"v": v}}) for n, v in enumerate(VALUES)])
    value = VALUES[number]
    quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")[:900]
    matcher = f'v="{quoted}"' if len(value) < 900 else 'v=~"(?s).*"'
    page = view(engine, queries.why, search.parse(**{field: matcher}))
    found = {row["fingerprint"] for row in page["episodes"]}
    # A regular expression rejects values of more than 4096 characters.
    others = {f"f{n}" for n in range(len(VALUES)) if n != number}
    assert found == ({f"f{number}"} if len(value) < 900 else others)


def test_an_absent_label_is_empty(engine):
    record(engine, alert(fingerprint="f"), alert(fingerprint="g", labels={"team": "x"}))
    for matcher, expected in (("team=", "f"), ('team!=""', "g"), ('team=~"|y"', "f")):
        (row,) = view(engine, queries.why, search.parse(labels=matcher))["episodes"]
        assert row["fingerprint"] == expected


def test_a_text_that_is_too_long_does_not_match(engine, monkeypatch):
    record(engine, alert(labels={"team": "x", "long": "y" * 500}))
    filters = search.parse(labels="team=x")
    assert view(engine, queries.why, filters)["count"] == 1
    monkeypatch.setattr(label_matchers, "MAX_TEXT", 400)
    assert view(engine, queries.why, filters)["count"] == 0


@pytest.fixture
def six_alerts(engine):
    for n in range(6):
        labels = {"team": "infra" if n % 2 else "web"}
        request_id = record(engine, alert(fingerprint=f"f{n}", labels=labels), received_at=later(n))
        record_execution(
            engine, request_id, episode(f"f{n}"), f"e{n}", start_timestamp=iso(later(n))
        )


LISTS = [
    (queries.why, (), "episodes"),
    (queries.executions_recent, (), "executions"),
    (queries.alerts_active, (24,), "active_alerts"),
    (queries.st2_executions, ("",), "st2_executions"),
]


@pytest.mark.parametrize("function, args, rows_key", LISTS)
@pytest.mark.parametrize("matcher", ['team=~"inf.a"', "team=infra"])
@pytest.mark.parametrize("is_slow", [False, True])
def test_a_search_that_stops_early_continues(
    engine, six_alerts, monkeypatch, function, args, rows_key, is_slow, matcher
):
    monkeypatch.setattr(bounded_search, "CHECKED_DEPTH", 2)
    monkeypatch.setattr(bounded_search, "REGEX_DEPTH", 2)
    if is_slow:  # one alert is checked in each search
        monkeypatch.setattr(label_matchers, "MAX_SECONDS", -1)
        defaults = label_matchers.find_matching.__defaults__
        monkeypatch.setattr(label_matchers.find_matching, "__defaults__", (-1, defaults[1]))
    filters = search.parse(labels=matcher)
    answers = list(pages(engine, function, *args, filters=filters))
    assert answers[0]["at_least"] and len(answers) > 2
    rows = [row for answer in answers for row in answer[rows_key]]
    assert len(rows) == 3


def test_matching_stops_when_enough_alerts_are_found(engine, six_alerts, monkeypatch):
    monkeypatch.setattr(label_matchers, "_SMALL_BATCH", 2)
    labels = search.parse(labels='team=~"infra|web"').labels
    conditions = label_matchers.AlertConditions({}, labels)
    with database.reading(engine) as connection:
        matching = label_matchers.find_matching(
            connection, [6, 5, 4, 3, 2, 1], conditions, 60, bool
        )
    assert (matching.ids, matching.checked_count) == ([6, 5], 2)


@pytest.mark.parametrize("depth, total, at_least", [(6, 3, None), (5, 2, True)])
def test_requests_are_counted_exactly_if_the_history_ends_within_the_depth(
    engine, six_alerts, monkeypatch, depth, total, at_least
):
    monkeypatch.setattr(label_matchers, "_SMALL_BATCH", 1)
    monkeypatch.setattr(bounded_search, "CHECKED_DEPTH", depth)
    filters = search.parse(labels="team=infra")
    page = view(engine, queries.executions_recent, filters=filters, limit=1)
    assert (page["total"], page.get("at_least")) == (total, at_least)


class TestStats:
    def test_labels_filter_the_statistics(self, engine, six_alerts):
        filters = search.parse(labels="team=infra", since=iso(NOON), until=iso(later(60)))
        answer = view(engine, stats.stats, filters, 15)
        assert answer["workflows"][0]["count"] == 3
        none = search.parse(labels="team=db", since=iso(NOON), until=iso(later(60)))
        assert view(engine, stats.stats, none, 15)["workflows"] == []

    def test_too_many_alerts_are_an_error(self, engine, six_alerts, monkeypatch):
        monkeypatch.setattr(stats, "_MAX_MATCHED", 5)
        filters = search.parse(labels="team=infra", since=iso(NOON), until=iso(later(60)))
        with pytest.raises(FilterError, match="^labels: .*too many: pass a later since"):
            view(engine, stats.stats, filters, 15)


def test_a_page_of_requests_continues_in_the_middle_of_a_request(engine, monkeypatch):
    monkeypatch.setattr(bounded_search, "REGEX_DEPTH", 1)
    labels = [{"team": team} for team in ("infra", "web", "web")]
    request_id = record(engine, *[alert(fingerprint=f"f{n}", labels=labels[n]) for n in range(3)])
    answers = list(
        pages(engine, queries.executions_recent, filters=search.parse(labels='team=~"inf.*"'))
    )
    assert answers[0]["executions"] == []
    assert [row["request_id"] for answer in answers for row in answer["executions"]] == [request_id]


def test_an_episode_whose_newer_notification_does_not_match_is_on_a_later_page(engine):
    """The annotations of an alert may change while it fires."""
    record(engine, alert(fingerprint="f0", annotations={"value": "1"}))
    record(engine, alert(fingerprint="f1", annotations={"value": "1"}), received_at=later(50))
    record(engine, alert(fingerprint="f0", annotations={"value": "2"}), received_at=later(99))
    filters = search.parse(annotations="value=1")
    rows = [
        row["fingerprint"]
        for answer in pages(engine, queries.why, filters=filters, limit=1)
        for row in answer["episodes"]
    ]
    assert rows == ["f1", "f0"]
