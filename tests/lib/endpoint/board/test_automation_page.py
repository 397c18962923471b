"""The page Automation shows the figures of the history of remediations."""

from __future__ import annotations

import re
from datetime import timedelta
from html.parser import HTMLParser
from unittest import mock

import pytest

from poundcake.config import Config
from poundcake.endpoint.board import automation_page
from poundcake.endpoint.board.board_routes import BoardRoutes
from poundcake.endpoint.http_messages import HTTPRequest
from poundcake.endpoint.problems import ProblemError
from poundcake.trail import database, search
from poundcake.trail.schema import alerts
from tests.lib.endpoint.board.recorded_service import RecordedService
from tests.lib.recorded_day import record_day
from tests.lib.samples import NOON, alert
from tests.lib.trails import episode, record, record_execution

PATH = "/board/automation"
HOSTILE = '"><script>alert(1)</script>'


class Document(HTMLParser):
    """The text of a page, its tables by caption, and its elements by name."""

    def __init__(self, body):
        super().__init__()
        self.elements = []
        self.tables = {}
        self._rows = []
        self._caption = None
        self._cell = None
        self.text = ""
        self.feed(body.decode())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th", "caption"):
            self._cell = ""

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._rows[-1].append(self._cell)
        elif tag == "caption":
            self._caption = self._cell
        elif tag == "table":
            self.tables[self._caption] = self._rows
        if tag in ("td", "th", "caption"):
            self._cell = None

    def handle_data(self, data):
        self.text += data
        if self._cell is not None:
            self._cell += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def make_get(engine, config):
    """Return a function that requests the page, as at noon."""
    routes = {
        route.template: route for route in BoardRoutes(config, RecordedService(engine)).routes()
    }

    def get(query=""):
        request = HTTPRequest("GET", PATH, query, "", {}, "192.0.2.1", False, None)
        with mock.patch.object(search, "parse", parse_at_noon):
            return routes[PATH].handler(request, "")

    return get


@pytest.fixture
def get(engine):
    """Return a function that requests the page, as at noon."""
    return make_get(engine, Config())


original_parse = search.parse


def parse_at_noon(now=None, **filters):
    return original_parse(NOON, **filters)


def get_page(get, query=""):
    response = get(query)
    assert response.status == 200
    assert len(response.body) < 100_000
    return Document(response.body)


def test_the_page_shows_what_each_workflow_achieved(engine, get):
    record_day(engine)
    page = get_page(get)
    rows = page.tables["By workflow, or by the action that it runs"]
    by_workflow = {row[0]: dict(zip(rows[0], row)) for row in rows[1:]}
    assert by_workflow["linux.service"] == {
        "Workflow": "linux.service",
        "Started": "4",
        "Changed": "4",
        "Cleared": "2 (50%)",
        "Did not help": "2",
        "Failed": "0",
        "Refused": "0",
        "Dry run": "0",
        "Other": "0",
        "Mean time to clear": "5 min",
        "Mean duration": "12 s",
    }
    assert by_workflow["poundcake.host_down"]["Dry run"] == "4"
    assert by_workflow["poundcake.host_down"]["Mean time to clear"] == "-"
    assert rows[1][0] == "poundcake.host_down"  # the one with the most executions
    daily = page.tables["linux.service per day"]
    assert daily[0][:4] == [
        "Day",
        "Cleared",
        "Changed, effect not known yet",
        "Changed, did not help",
    ]
    assert daily[1:] == [["2026-01-14", "2", "0", "2", "0", "0", "0", "0", "5 min", "12 s"]]
    images = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert len(images) == 2 * len(by_workflow)


def test_the_dashboard_is_linked_if_its_address_is_configured(engine, get):
    url = "https://grafana.example/d/poundcake"
    page = get_page(make_get(engine, Config(grafana_url=url)))
    links = [link for link in page.all("a") if link.get("id") == "grafana"]
    assert [link["href"] for link in links] == [url]
    assert "Grafana" in page.text and "Grafana" not in get_page(get).text


def test_a_short_period_is_shown_per_hour(engine, get):
    record_day(engine)
    page = get_page(get, "since=24h")
    assert [row[0] for row in page.tables["linux.service per hour"]] == [
        "Hour",
        "2026-01-14 05:00Z",
        "2026-01-14 07:00Z",
    ]


def test_the_charts_begin_with_the_first_execution(engine, get):
    record_day(engine)
    page = get_page(get)
    assert "The charts begin at 2026-01-09, because nothing ran earlier" in page.text
    assert "2026-01-09 to 2026-01-14. Cleared: 2" in page.text
    assert "2026-01-07 to 2026-01-14, by the start of the execution" in page.text
    hourly = get_page(get, "since=24h").text
    assert "The charts begin at 2026-01-14 05:00Z, because nothing ran earlier" in hourly


def test_charts_without_an_empty_start_are_whole(engine, get):
    record_day(engine)
    page = get_page(get, "since=7h")
    assert "The charts begin at" not in page.text


def test_the_page_lists_the_alerts_that_no_rule_matched(engine, get):
    record_day(engine)
    page = get_page(get, "since=20h&labels=instance%3D~%22pod.*%22")
    rows = page.tables["By name, most frequent first"]
    assert [row[:2] for row in rows[1:]] == [["KubePodNotReady", "3"]]
    assert "3 alerts started nothing" in page.text
    (link,) = [a["href"] for a in page.all("a") if a["href"].startswith("/board/episodes?")]
    assert "alert_name=KubePodNotReady" in link and "since=20h" in link and "labels=" in link


def test_the_filters_are_those_of_stats(engine, get):
    record_day(engine)
    names = {field["name"] for field in get_page(get).all("input")}
    assert names == set(automation_page.FILTERS)
    page = get_page(get, "alert_name=DiskFull")
    rows = page.tables["By workflow, or by the action that it runs"]
    assert [row[0] for row in rows[1:]] == ["poundcake.clean_disk"]
    values = {field["name"]: field["value"] for field in page.all("input")}
    assert values["alert_name"] == "DiskFull" and values["since"] == "7d"
    periods = {a["href"]: a.get("aria-current") for a in page.all("a") if "since=" in a["href"]}
    assert periods[f"{PATH}?since=7d&alert_name=DiskFull"] == "true"
    assert periods[f"{PATH}?since=30d&alert_name=DiskFull"] is None


@pytest.mark.parametrize(
    ("query", "field", "problem"),
    [
        ("since=yesterday", "since", "must be a time such as 2026-01-14T12:00:00Z, or an age"),
        ("since=1y", "since", "must be at most 100 days before until"),
        ("labels=team", "labels", "team is not a matcher"),
    ],
)
def test_an_invalid_filter_is_explained_at_its_field(engine, get, query, field, problem):
    response = get(query)
    assert response.status == 400
    page = Document(response.body)
    (invalid,) = [each for each in page.all("input") if "aria-invalid" in each]
    assert invalid["name"] == field
    assert problem in page.text
    assert not page.tables


def test_an_unknown_parameter_is_refused(get):
    with pytest.raises(ProblemError, match="limit: unknown parameter"):
        get("limit=1")


def test_empty_fields_of_the_form_are_left_out_of_the_address(get):
    response = get("since=24h&until=&alert_name=Host%20Down&labels=")
    assert response.status == 302
    assert response.headers["Location"] == f"{PATH}?since=24h&alert_name=Host+Down"
    assert get("until=").headers["Location"] == PATH


def test_a_period_without_executions_says_so(get):
    page = get_page(get)
    assert "Nothing ran for an alert in this period" in page.text
    assert "None in this period" in page.text


def test_figures_that_are_not_read_yet_are_announced(engine, get, monkeypatch):
    for days in range(6):
        at = NOON - timedelta(days=days)
        key = f"f{days}"
        sent = alert(fingerprint=key, starts_at=at)
        times = {"start_timestamp": at.isoformat(), "end_timestamp": at.isoformat()}
        record_execution(
            engine, record(engine, sent, received_at=at), episode(key, at), key, **times
        )
    monkeypatch.setattr("poundcake.endpoint.board.page_cache.KEEP_SECONDS", 0)
    routes = BoardRoutes(Config(), RecordedService(engine))
    monkeypatch.setattr(routes._history_reader, "_max_rows", 1)
    routes = {route.template: route for route in routes.routes()}
    request = HTTPRequest("GET", PATH, "since=3d", "", {}, "192.0.2.1", False, None)
    with mock.patch.object(search, "parse", parse_at_noon):
        page = Document(routes[PATH].handler(request, "").body)
    assert "The figures before 2026-01-13 00:00:00Z are still being read" in page.text


def test_text_of_alerts_is_shown_as_text(engine, get):
    at = NOON - timedelta(hours=1)
    record(engine, alert(HOSTILE, fingerprint="f", starts_at=at), received_at=at)
    request_id = record(engine, alert(fingerprint="g", starts_at=at), received_at=at)
    with database.transaction(engine) as connection:
        connection.execute(alerts.update().values(explanation="no_rule"))
    times = {"start_timestamp": at.isoformat(), "end_timestamp": at.isoformat()}
    record_execution(engine, request_id, episode("g", at), "e", HOSTILE, **times)
    response = get(f"labels={'%22%3E%3Cscript%3E'}%3D1")
    page = Document(get("since=24h").body)
    for body in (response.body, get("since=24h").body):
        assert b"<script>" not in body
        assert b" style=" not in body
    assert HOSTILE in page.tables["By name, most frequent first"][1]
    assert HOSTILE in page.tables["By workflow, or by the action that it runs"][1]


def test_only_the_busiest_workflows_have_charts(engine, get):
    at = NOON - timedelta(hours=2)
    times = {"start_timestamp": at.isoformat(), "end_timestamp": at.isoformat()}
    for number in range(automation_page.MAX_ROWS + 2):
        key = f"f{number}"
        request_id = record(engine, alert(fingerprint=key, starts_at=at), received_at=at)
        record_execution(engine, request_id, episode(key, at), key, f"p.w{number:02}", **times)
    page = get_page(get)
    rows = page.tables["By workflow, or by the action that it runs"]
    assert len(rows) - 1 == automation_page.MAX_ROWS
    assert "2 more workflows" in page.text
    captions = [caption for caption in page.tables if re.match(r"p\.w\d+ per day", caption)]
    assert len(captions) == automation_page.MAX_CHARTS
