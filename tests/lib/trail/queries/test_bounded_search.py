"""All list views support the same filters and paging.

The tests compute the expected rows from all rows of the tables, without limits.
"""

from __future__ import annotations

import fnmatch
import itertools
import json
import types

import pytest
from sqlalchemy import select

from poundcake.trail import database, label_matchers, queries, search
from poundcake.trail.queries import bounded_search, episodes
from poundcake.trail.queries import executions as executions_view
from poundcake.trail.schema import alerts, api_calls, executions, links
from poundcake.trail.search import Cursor, FilterError, Filters
from tests.lib.samples import NOON, alert, iso, later
from tests.lib.trails import episode, pages, record, record_execution, view


def list_active_alerts(connection, **query):
    return queries.alerts_active(connection, 24, **query)


def get_execution_key(execution):
    alert = execution["alert"]
    return execution["st2_execution_id"], alert["name"], alert["instance"]


# For each view: its function, the keys of its list and its count, and how to identify a row.
VIEWS = {
    "recent": (queries.executions_recent, "executions", "total", lambda r: r["request_id"]),
    "active": (list_active_alerts, "active_alerts", "count", lambda a: a["episode"]),
    "executions": (queries.st2_executions, "st2_executions", "count", get_execution_key),
    "why": (queries.why, "episodes", "count", lambda e: e["episode"] or e["alerts"][0]["id"]),
}


def sample_alert(name, number, status="firing", **fields):
    return alert(
        name,
        status,
        fingerprint=f"{name}{number}",
        ends_at=later(50) if status == "resolved" else None,
        labels={
            "instance": f"web-{number}",
            "severity": "critical" if number % 2 else "warning",
            "team": "infra" if number % 2 else "web",
        },
        **fields,
    )


@pytest.fixture
def history(engine):
    """Record many kinds of alerts, out of order, some of them received at the same time.

    Three workflows run for one alert, and one execution runs for three alerts.
    """
    first_id = record(engine, *[sample_alert(name, n) for name in "AB" for n in (1, 2, 3)])
    record(engine, sample_alert("A", 1), sample_alert("B", 2), received_at=later(60))
    record(engine, sample_alert("C", 1), {"labels": {"alertname": "A"}, "status": "?"})
    for name in ("B1", "B2", "A1"):
        record_execution(engine, first_id, episode(name), "many", start_timestamp=iso(later(20)))
    resolves = [sample_alert("A", 1, "resolved"), sample_alert("C", 9, "resolved")]
    resolve_id = record(engine, *resolves, received_at=later(120))
    last_id = record(engine, sample_alert("D", 1), sample_alert("A", 2), received_at=later(180))
    record(engine, sample_alert("B", 2), sample_alert("A", 3), received_at=later(30))
    record(engine, sample_alert("B", 1, "resolved"), received_at=later(180))
    for number, workflow in enumerate(("x.one", "x.two", "x.three")):
        record_execution(engine, first_id, episode("A2"), f"one{number}", workflow)
    record_execution(engine, last_id, episode("D1"), "two", start_timestamp=iso(later(185)))
    record_execution(engine, resolve_id, episode("A1"), "three", "x.one", status="failed")


def is_selected(row, filters):
    """Return True if an alert satisfies the filters, apart from the time range."""
    return (
        all(fnmatch.fnmatchcase(getattr(row, n), v) for n, v in filters.alert_filters.items())
        and all(matcher.matches(json.loads(row.labels)) for matcher in filters.labels)
        and all(matcher.matches(json.loads(row.annotations)) for matcher in filters.annotations)
        and (row.episode or "").startswith(filters.episode)
        and row.request_id.startswith(filters.request_id)
    )


def compute_expected_rows(engine, filters):
    """Return the expected rows of each view for the filters, newest first."""
    with database.reading(engine) as connection:
        all_alerts = connection.execute(
            select(alerts, api_calls.c.request_id).join(api_calls)
        ).all()
        link_rows = connection.execute(
            select(
                links.c.id,
                links.c.alert_id,
                links.c.st2_execution_id,
                executions.c.start_timestamp,
                alerts.c.alert_name,
                alerts.c.instance,
            )
            .join(executions, executions.c.id == links.c.st2_execution_id)
            .join(alerts, alerts.c.id == links.c.alert_id)
        ).all()

    def is_in_range(moment):
        since, until = filters.since or NOON, filters.until or later(10**6)
        return since <= moment < until

    matching_alerts = [row for row in all_alerts if is_selected(row, filters)]
    matching_alerts.sort(key=lambda row: (row.created_at, row.id), reverse=True)
    rows = [row for row in matching_alerts if is_in_range(row.created_at)]
    ids = {row.id for row in matching_alerts}
    link_rows = [
        link for link in link_rows if link.alert_id in ids and is_in_range(link.start_timestamp)
    ]
    link_rows.sort(
        key=lambda link: (link.start_timestamp, link.st2_execution_id, link.id), reverse=True
    )
    return {
        "recent": list(dict.fromkeys(row.request_id for row in rows)),
        "active": [row.episode for row in rows if row.open_fingerprint],
        "executions": [
            (link.st2_execution_id, link.alert_name, link.instance) for link in link_rows
        ],
        "why": list(dict.fromkeys(row.episode or row.id for row in rows)),
    }


def iterate_filters():
    names = [
        {},
        {"alert_name": "A"},
        {"instance": "web-1"},
        {"fingerprint": "B2"},
        {"alert_name": "B", "instance": "web-2"},
    ]
    kinds = [
        {},
        {"severity": "critical"},
        {"status": "firing", "outcome": "admitted"},
        {"severity": "critical", "status": "resolved"},
        {"severity": "critical", "outcome": "admitted"},
    ]
    times = [{}, {"since": later(30), "until": later(120)}]
    for by_name, by_kind, by_time in itertools.product(names, kinds, times):
        yield Filters(**by_name, **by_kind, **by_time)
    yield from (Filters(outcome=outcome) for outcome in search.OUTCOMES)
    yield from MATCHER_FILTERS
    yield from (Filters(since=later(60)), Filters(until=later(60)), Filters(since=later(999)))


SOME_FILTERS = [
    Filters(),
    Filters(alert_name="A"),
    Filters(severity="critical"),
    Filters(outcome="admitted"),
    Filters(status="resolved"),
    Filters(instance="web-2", status="firing"),
    Filters(fingerprint="A1"),
    Filters(alert_name="B", outcome="duplicate"),
    Filters(since=later(30), until=later(180)),
    Filters(severity="warning", until=later(180)),
    search.parse(labels="team=infra"),
    search.parse(labels='team!="infra",severity="warning"', alert_name="B"),
    search.parse(labels='alertname=~"[AB]"', status="firing"),
    search.parse(labels='team=~"in.+"', since=iso(later(30)), until=iso(later(180))),
    search.parse(annotations='summary="down"', instance="web-*"),
    search.parse(alert_name="*", labels='instance!~"web-[23]"'),
    search.parse(instance="web-*", outcome="admitted"),
    search.parse(labels='alertname=""'),
]
MATCHER_FILTERS = SOME_FILTERS[10:]


@pytest.fixture(autouse=True)
def unlimited_time(monkeypatch):
    """Let matchers take as long as they need: on a busy machine, a search would end early."""
    monkeypatch.setattr(label_matchers, "time", types.SimpleNamespace(monotonic=lambda: 0.0))


class TestFilters:
    def test_single_and_combined_filters_select_rows(self, engine, history):
        covered = set()
        for filters in iterate_filters():
            expected_rows = compute_expected_rows(engine, filters)
            for name, (function, rows_key, count_key, get_row_key) in VIEWS.items():
                answer = view(engine, function, filters=filters)
                names = [get_row_key(row) for row in answer[rows_key]]
                assert (names, answer[count_key]) == (expected_rows[name], len(names)), (
                    name,
                    filters,
                )
                assert "next" not in answer and "at_least" not in answer
                covered.update((name, len(names) > 1) for _ in names)
        assert len(covered) == 8  # each view with one row, and with several rows

    def test_executions_are_filtered_by_status_and_by_alert(self, engine, history):
        for status, filters, expected_rows in (
            ("failed", Filters(), [("three", "A", "web-1")]),
            ("failed", Filters(alert_name="A", severity="critical"), [("three", "A", "web-1")]),
            ("failed", Filters(alert_name="B"), []),
            ("succeeded", Filters(fingerprint="A1"), [("many", "A", "web-1")]),
            (
                "succeeded",
                Filters(since=later(20), until=later(185)),
                [("many", "A", "web-1"), ("many", "B", "web-2"), ("many", "B", "web-1")],
            ),
            ("succeeded", Filters(since=later(185)), [("two", "D", "web-1")]),
        ):
            answer = view(engine, queries.st2_executions, status=status, filters=filters)
            rows = [get_execution_key(row) for row in answer["st2_executions"]]
            assert rows == expected_rows, (status, filters)
            assert answer["count"] == len(rows)

    @pytest.mark.parametrize("status", ["Failed", "failed ", "%", "firing"])
    @pytest.mark.parametrize("filters", [Filters(), Filters(alert_name="A")])
    def test_an_unknown_status_is_rejected(self, engine, status, filters):
        with pytest.raises(FilterError, match="^status: must be one of requested, .*gone$"):
            view(engine, queries.st2_executions, status=status, filters=filters)

    @pytest.mark.parametrize("field", ["severity", "alert_name", "instance"])
    def test_a_text_filter_matches_exactly(self, engine, field):
        label = {"alert_name": "alertname"}.get(field, field)
        texts = ["Up", "up", "up ", " up", "u%", "%", "_p", "u\u0308p", "\xfcp", "u", "\U0001f370"]
        text_alerts = [
            alert(fingerprint=f"f{n}", labels={label: text}) for n, text in enumerate(texts)
        ]
        request_id = record(engine, *text_alerts)
        for number in range(len(texts)):
            record_execution(engine, request_id, episode(f"f{number}"), f"e{number}")
        for number, text in enumerate(texts):
            filters = search.parse(**{field: text})
            for function in (list_active_alerts, queries.why):
                answer = view(engine, function, filters=filters)
                assert answer["count"] == 1, text
                (row,) = answer.get("active_alerts") or answer["episodes"]
                assert row["episode"] == episode(f"f{number}")
            assert view(engine, queries.executions_recent, filters=filters)["total"] == 1
            (execution,) = view(engine, queries.st2_executions, filters=filters)["st2_executions"]
            assert execution["st2_execution_id"] == f"e{number}"
        for text in ("UP", "up  ", "?", ".+", "p", "'", "up' OR '1'='1", "\\", "\x00", "{{", "%s"):
            filters = search.parse(**{field: text})
            for function, _, count_key, _ in VIEWS.values():
                assert view(engine, function, filters=filters)[count_key] == 0, text

    def test_a_fingerprint_matches_exactly(self, engine):
        record(engine, alert(fingerprint="Ab_-1"), alert(fingerprint="ab_-1"))
        for text, count in (("Ab_-1", 1), ("AB_-1", 0), ("Ab%", 0), ("Ab_-1 ", 0)):
            for function in (list_active_alerts, queries.why):
                filters = search.parse(fingerprint=text)
                assert view(engine, function, filters=filters)["count"] == count

    def test_a_filter_longer_than_its_column_matches_the_truncated_text(self, engine):
        long_texts = {
            "alert_name": "\xe9" * 300,
            "severity": "\U0001f370" * 70,
            "instance": "i" * 256,
        }
        labels = {
            name.replace("alert_name", "alertname"): text for name, text in long_texts.items()
        }
        record(engine, alert(fingerprint="f", labels=labels), alert(labels={"severity": "i"}))
        for name, text in long_texts.items():
            for function in (list_active_alerts, queries.why):
                answer = view(engine, function, filters=search.parse(**{name: text}))
                assert answer["count"] == 1
                assert (
                    view(engine, function, filters=search.parse(**{name: text[:9]}))["count"] == 0
                )
        record(engine, alert("lone \ud800", fingerprint="g"))
        page = view(engine, list_active_alerts, filters=search.parse(alert_name="lone \ud800"))
        assert page["active_alerts"][0]["fingerprint"] == "g"

    def test_a_time_range_wider_than_the_history_matches_everything(self, engine, history):
        for since, until in (("2020y", ""), ("", "9999-12-31T23:59:59.999999999Z")):
            filters = search.parse(since=since, until=until)
            for function, _, count_key, _ in VIEWS.values():
                total = view(engine, function, filters=Filters())[count_key]
                assert view(engine, function, filters=filters)[count_key] == total > 0

    def test_an_empty_database_has_no_rows(self, engine):
        for function, rows_key, count_key, _ in VIEWS.values():
            for filters in SOME_FILTERS + [Filters(fingerprint="x", since=NOON, until=later(1))]:
                page = view(engine, function, filters=filters)
                page.pop("near_misses", None)
                assert page == {rows_key: [], count_key: 0}
            assert view(engine, function, filters=Filters(), limit=1, offset=10) == {
                rows_key: [],
                count_key: 0,
            }


class TestPages:
    @pytest.mark.parametrize("limit", [1, 3])
    def test_pages_show_each_row_once_newest_first(self, engine, history, limit):
        for filters in SOME_FILTERS:
            expected_rows = compute_expected_rows(engine, filters)
            for name, (function, rows_key, _, get_row_key) in VIEWS.items():
                remaining = list(expected_rows[name])
                for page in pages(engine, function, filters=filters, limit=limit):
                    names = [get_row_key(row) for row in page[rows_key]]
                    assert names == remaining[:limit], (name, filters)
                    del remaining[:limit]
                    assert ("next" in page) == bool(remaining)
                assert remaining == []

    def test_pages_are_selected_by_offset(self, engine, history):
        for filters in SOME_FILTERS:
            expected_rows = compute_expected_rows(engine, filters)
            for name, (function, rows_key, count_key, get_row_key) in VIEWS.items():
                total = len(expected_rows[name])
                for offset in range(0, total + 3, 2):
                    page = view(engine, function, filters=filters, limit=2, offset=offset)
                    names = [get_row_key(row) for row in page[rows_key]]
                    assert names == expected_rows[name][offset : offset + 2], (name, filters)
                    assert page[count_key] == total
                    assert ("next" in page) == (offset + 2 < total)

    def test_new_rows_between_pages_do_not_shift_the_pages(self, engine, history):
        new_count = 0
        for filters in SOME_FILTERS[:6]:
            for name, (function, rows_key, _, get_row_key) in VIEWS.items():
                expected_rows = compute_expected_rows(engine, filters)[name]
                names = []
                for number, page in enumerate(pages(engine, function, filters=filters, limit=2)):
                    names += [get_row_key(row) for row in page[rows_key]]
                    if number:
                        continue
                    # Each open incident gets a notification, and a new alert starts a workflow.
                    new_count += 1
                    repeats = [
                        sample_alert(letter, digit) for letter in "ABCD" for digit in (1, 2, 3)
                    ]
                    moment = later(1000 + new_count)
                    request_id = record(
                        engine, *repeats, alert(fingerprint=str(new_count)), received_at=moment
                    )
                    start = iso(moment)
                    record_execution(
                        engine,
                        request_id,
                        episode(new_count),
                        str(new_count),
                        start_timestamp=start,
                    )
                assert names == expected_rows, (name, filters)

    def test_new_rows_during_a_page_do_not_shift_the_pages(self, engine, history, monkeypatch):
        select_candidates = episodes.select_candidates
        filters = Filters(alert_name="A")
        expected_rows = compute_expected_rows(engine, filters)["why"]

        def record_before_search(*args):
            monkeypatch.setattr(episodes, "select_candidates", select_candidates)
            record(engine, sample_alert("A", 3), received_at=later(500))
            return select_candidates(*args)

        monkeypatch.setattr(episodes, "select_candidates", record_before_search)
        names = []
        for page in pages(engine, queries.why, filters=filters, limit=1):
            names += [VIEWS["why"][3](row) for row in page["episodes"]]
        assert names == expected_rows

    def test_an_episode_with_a_new_notification_may_appear_again(self, engine, history):
        filters = Filters(alert_name="A")
        newest = view(engine, queries.why, filters=filters, limit=1)["episodes"][0]["episode"]
        (oldest,) = [n for n in ("A2", "A3") if episode(n) != newest][:1]
        record(engine, sample_alert("A", int(oldest[1])), received_at=later(500))
        first_episode = view(engine, queries.why, filters=filters, limit=1)["episodes"][0][
            "episode"
        ]
        assert first_episode == episode(oldest)

    def test_until_does_not_hide_an_episode_with_later_notifications(self, engine):
        record(engine, sample_alert("A", 1), received_at=later(0))
        record(engine, sample_alert("A", 2), received_at=later(10))
        record(engine, sample_alert("A", 1), received_at=later(100))
        filters = Filters(alert_name="A", until=later(50))
        episode_names = []
        for page in pages(engine, queries.why, filters=filters, limit=1):
            episode_names += [row["episode"] for row in page["episodes"]]
        assert episode_names == [episode("A2"), episode("A1")]


class TestBound:
    @pytest.fixture(params=[(1, 1), (4, 3)])
    def bound(self, request, monkeypatch):
        depth, max_rows = request.param
        monkeypatch.setattr(bounded_search, "DEPTH", depth)
        monkeypatch.setattr(executions_view, "MAX_ROWS", max_rows)
        monkeypatch.setattr(episodes, "_MAX_NOTIFICATIONS", max_rows)

    def test_next_continues_until_everything_is_found(self, engine, history, bound):
        for filters, limit in itertools.product(SOME_FILTERS, (1, 50)):
            expected_rows = compute_expected_rows(engine, filters)
            for name, (function, rows_key, count_key, get_row_key) in VIEWS.items():
                names = []
                for number, page in enumerate(
                    pages(engine, function, filters=filters, limit=limit)
                ):
                    if number == 0:
                        is_incomplete = page[count_key] < len(expected_rows[name])
                        assert page.get("at_least", False) or not is_incomplete
                        assert page[count_key] <= len(expected_rows[name])
                    assert len(page[rows_key]) <= limit
                    names += [get_row_key(row) for row in page[rows_key]]
                assert names == expected_rows[name], (name, filters, limit)

    def test_pages_keep_the_order_if_one_value_has_many_more_alerts(self, engine, monkeypatch):
        """The search reads a part of the index for each value, and some parts end earlier."""
        monkeypatch.setattr(bounded_search, "DEPTH", 4)
        severities = ["warning"] * 2 + ["critical"] * 12
        expected_rows = [
            record(
                engine,
                alert(fingerprint=f"f{n}", labels={"severity": severity}),
                received_at=later(n),
            )
            for n, severity in enumerate(severities)
        ]
        filters = search.parse(labels='severity=~"critical|warning"')
        request_ids = []
        for page in pages(engine, queries.executions_recent, filters=filters, limit=50):
            request_ids += [call["request_id"] for call in page["executions"]]
        assert request_ids == expected_rows[::-1]

    def test_an_incomplete_count_is_marked_as_a_lower_bound(self, engine, monkeypatch):
        for n in range(8):
            request_id = record(engine, alert(fingerprint=f"f{n}"), received_at=later(n))
            record_execution(engine, request_id, episode(f"f{n}"), f"e{n}")
        by_name = Filters(alert_name="HostDown")
        for depth, at_least in ((5, True), (8, False)):
            monkeypatch.setattr(bounded_search, "DEPTH", depth)
            monkeypatch.setattr(executions_view, "MAX_ROWS", depth)
            monkeypatch.setattr(episodes, "_MAX_NOTIFICATIONS", depth)
            for filters in (Filters(), by_name):
                for name, (function, _, count_key, _) in VIEWS.items():
                    if name == "active":
                        continue  # all open incidents are counted
                    answer = view(engine, function, filters=filters, limit=1)
                    assert answer.get("at_least", False) == at_least, (name, filters)
                    assert answer[count_key] in ((5, 6) if at_least else (8,))
                    assert "next" in answer
        monkeypatch.setattr(executions_view, "MAX_ROWS", 5)
        monkeypatch.setattr(episodes, "_MAX_NOTIFICATIONS", 5)
        for function in (queries.why, queries.st2_executions):
            answer = view(engine, function, filters=by_name)
            assert (answer["count"], answer["at_least"]) == (5, True)

    def test_a_page_continues_in_the_middle_of_a_request(self, engine, monkeypatch):
        monkeypatch.setattr(bounded_search, "DEPTH", 3)
        expected_rows = []
        for n in range(12):
            # The search reaches a request's last alert first.
            payload_alerts = [alert("A", fingerprint=f"a{n}")]
            payload_alerts += [alert("B", fingerprint=f"b{n}{m}") for m in range(n)]
            if n % 2:
                payload_alerts.append(alert("A", fingerprint=f"c{n}"))
            expected_rows.insert(0, record(engine, *payload_alerts, received_at=later(n)))
        filters = Filters(severity="critical", alert_name="A")
        monkeypatch.setattr(bounded_search, "_INDEXED", ("severity",))
        for limit in (1, 20):
            request_ids = []
            for page in pages(engine, queries.executions_recent, filters=filters, limit=limit):
                request_ids += [call["request_id"] for call in page["executions"]]
            assert request_ids == expected_rows

    @pytest.mark.parametrize(
        "function, ids",
        [
            (queries.executions_recent, ("one0",)),
            (queries.executions_recent, (1, 1)),
            (list_active_alerts, ("one0",)),
            (list_active_alerts, (1, 1)),
            (queries.why, (1,)),
            (queries.why, (1, "one0")),
            (queries.why, (1, 1, 1)),
            (queries.st2_executions, ("one0",)),
            (queries.st2_executions, ("one0", "one0")),
        ],
    )
    @pytest.mark.parametrize("query", [{}, {"alert_name": "A"}])
    def test_the_cursor_of_another_view_is_rejected(self, engine, function, ids, query):
        filters = Filters(before=Cursor.of(NOON, *ids), **query)
        with pytest.raises(FilterError, match="^before: this is the `next` of another view$"):
            view(engine, function, filters=filters)
