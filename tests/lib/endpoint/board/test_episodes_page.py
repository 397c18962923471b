"""The page Episodes: its form, filters in the URL, pages, and what it says without a match."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import pytest

from poundcake.endpoint.board import episodes_page
from poundcake.endpoint.journal import JournalError
from poundcake.timestamps import format_timestamp
from poundcake.trail.record import record_requests
from tests.lib.samples import alert, request, waiting_requests
from tests.lib.trail.text import on_call_states
from tests.lib.trail.text.on_call_states import START, host_down, service_down
from tests.lib.trails import on_sqlite

pytestmark = on_sqlite


def names(page):
    """Return the alerts that the page lists, without their verdict."""
    items = [item for item in page.main.all("li") if item.has("h3")]
    return [item.one("h3").one("a").text for item in items]


def field(page, name):
    return page.main.one(id=f"field-{name}")


class TestRows:
    def test_without_filters_the_newest_are_shown(self, world, browser):
        world.notify(host_down(1))
        world.wait(60)
        world.notify(service_down())
        page = browser.get("/board/episodes")
        assert page.main.one("h2").text == "Newest episodes, most recently seen first"
        assert names(page) == ["ServiceDown web-21:9100", "HostDown web-1:9100"]

    def test_a_row_shows_the_verdict_the_age_and_what_was_done(self, world, browser):
        on_call_states.changed_and_cleared(world)
        row = browser.get("/board/episodes").main.one(class_="episodes").all("li")[0]
        assert "CLEARED ServiceDown web-21:9100" in row.one("h3").text
        assert "critical, resolved 20 min ago" in row.text
        assert "linux.service on web-21 was run, and the alert was resolved" in row.text

    def test_an_alert_without_an_episode_leads_to_its_request(self, world, browser):
        world.notify(alert("Odd", startsAt="yesterday", status="odd"))
        page = browser.get("/board/episodes")
        assert page.main.links["Odd web-1:9100"] == f"/board/requests/{world.request_id}"
        assert browser.get(f"/board/requests/{world.request_id}").status == 200

    def test_nothing_is_recorded_yet(self, world, browser):
        page = browser.get("/board/episodes")
        assert "No alert has been recorded yet" in page.text
        assert page.main.commands[0].startswith("curl ")


class TestFilters:
    @pytest.fixture
    def recorded(self, world):
        world.notify(host_down(1))
        world.notify(service_down())
        world.wait(600)

    @pytest.mark.parametrize(
        "query, expected",
        [
            ("alert_name=HostDown", ["HostDown web-1:9100"]),
            ("alert_name=Service*", ["ServiceDown web-21:9100"]),
            ("instance=web-21", ["ServiceDown web-21:9100"]),
            ("labels=rack%3Dr12", ["HostDown web-1:9100"]),
            ("annotations=summary%3D~%22nginx.*%22", ["ServiceDown web-21:9100"]),
            ("status=resolved", []),
            ("outcome=admitted&severity=critical&until=2026-11-27T22:00:05Z", 2),
            ("since=2026-11-27T22:00:05Z", []),
            ("since=2026-11-27T22:00:04Z&until=2026-11-27T22:00:05Z", 2),
        ],
    )
    def test_the_filters_are_those_of_the_views(self, recorded, browser, query, expected):
        page = browser.get(f"/board/episodes?{query}")
        found = names(page)
        assert len(found) == expected if isinstance(expected, int) else found == expected
        for name, (value,) in parse_qs(query).items():
            if name in ("status", "outcome"):
                options = field(page, name).all("option")
                assert [o["value"] for o in options if "selected" in o.attributes] == [value]
            else:
                assert field(page, name)["value"] == value

    def test_all_filters_of_the_view_why_have_a_field(self, world, browser):
        page = browser.get("/board/episodes")
        fields = [e["name"] for e in page.main.all("input") + page.main.all("select")]
        assert sorted(fields) == sorted(episodes_page.FILTERS)
        form = page.main.one("form")
        assert (form["method"], form["action"]) == ("get", "/board/episodes")

    def test_empty_fields_are_removed_from_the_address(self, recorded, browser):
        browser.get("/board/episodes?alert_name=HostDown&instance=&status=&since=")
        assert browser.location == "/board/episodes?alert_name=HostDown"
        browser.get("/board/episodes?alert_name=&instance=")
        assert browser.location == "/board/episodes"

    def test_more_filters_are_open_if_one_is_used(self, recorded, browser):
        for query, is_open in (("", False), ("?alert_name=A", False), ("?severity=critical", True)):
            details = browser.get(f"/board/episodes{query}").main.one(id="more-filters")
            assert ("open" in details.attributes) == is_open, query

    @pytest.mark.parametrize(
        "query, name, problem",
        [
            ("since=yesterday", "since", "must be a time such as 2026-01-14T12:00:00Z, or an age"),
            ("since=1h&until=2h", "until", "must be later than since"),
            ("status=odd", "status", "must be one of firing, resolved"),
            ("outcome=odd", "outcome", "must be one of admitted"),
            ("labels=team", "labels", "for example: labels=team=infra"),
            ("annotations=a%3D~%22(%22", "annotations", "the regular expression"),
        ],
    )
    def test_an_error_is_shown_at_its_field(self, recorded, browser, query, name, problem):
        page = browser.get(f"/board/episodes?alert_name=HostDown&{query}")
        assert page.status == 400
        assert problem in page.main.one(id=f"error-{name}").text
        assert field(page, name).get("aria-invalid") == "true"
        assert f"error-{name}" in field(page, name)["aria-describedby"]
        assert field(page, "alert_name")["value"] == "HostDown", "the other fields are kept"
        assert not names(page)

    def test_an_ambiguous_short_id_is_an_error_at_its_field(self, world, browser):
        for number in (1, 2):
            request_id = f"abcd000{number}-0000-4000-8000-000000000000"
            sent = request(alert(f"A{number}"), received_at=world.now, request_id=request_id)
            record_requests(world.engine, world.config, [sent])
        page = browser.get("/board/episodes?request_id=abcd")
        assert page.status == 400
        problem = page.main.one(id="error-request_id").text
        assert "abcd is ambiguous" in problem and "abcd0002-0000" in problem
        assert "open" in page.main.one(id="more-filters").attributes

    def test_a_wrong_cursor_is_an_error(self, world, browser):
        page = browser.get("/board/episodes?before=x")
        assert page.status == 400
        assert "must be the `next` of the previous page" in page.text

    def test_an_unknown_parameter_is_refused(self, world, browser):
        problem = browser.problem("/board/episodes?alertname=HostDown")
        assert (problem.status, problem.field) == (400, "alertname")


class TestNearMisses:
    def test_they_are_shown_with_a_link(self, world, browser):
        (row,) = world.notify(host_down(1))
        page = browser.get("/board/episodes?alert_name=HostDwn")
        assert "No alert matches." in page.text
        (miss,) = page.main.one(class_="near-misses").all("li")
        assert "alert_name is HostDown, not HostDwn" in miss.text
        assert list(miss.links.values()) == [f"/board/episodes/{row.episode}"]

    def test_a_value_that_no_alert_has_is_named(self, world, browser):
        world.notify(host_down(1))
        page = browser.get("/board/episodes?alert_name=Xyz")
        assert "no alert has alert_name=Xyz" in page.text


class TestPages:
    def test_older_episodes_follow_by_cursor(self, world, browser, monkeypatch):
        monkeypatch.setattr(episodes_page, "PAGE_ROWS", 2)
        for number in range(5):
            world.notify(host_down(number))
            world.wait(60)
        world.notify(service_down())
        seen, target = [], "/board/episodes?alert_name=HostDown"
        while target:
            page = browser.get(target)
            seen += names(page)
            is_first = not seen[2:]
            assert ("Newest" in page.main.links) == (not is_first)
            if not is_first:
                assert page.main.links["Newest"] == "/board/episodes?alert_name=HostDown"
            target = page.main.links.get("Older")
            if target:
                query = parse_qs(urlsplit(target).query)
                assert query["alert_name"] == ["HostDown"] and query["before"]
        assert seen == [f"HostDown web-{number}:9100" for number in (4, 3, 2, 1, 0)]


class TestJournal:
    def test_what_waits_is_shown_on_the_first_page(self, world, browser):
        browser.service.journal_document = waiting_requests(
            format_timestamp(START),
            attempts=0,
            blocked_by="database: connection refused",
            instance="node-7",
        )
        page = browser.get("/board/episodes?instance=node-7")
        assert browser.service.filters.instance == "node-7"
        assert "WAITING TO BE RECORDED HostDown node-7" in page.text
        assert "No recorded alert matches." in page.text

    def test_a_journal_that_cannot_be_read_is_reported(self, world, browser):
        browser.service.journal_document = JournalError("no such file")
        assert "The journal cannot be read: no such file" in browser.get("/board/episodes").text


def test_a_page_with_long_texts_stays_small(world, browser):
    labels = {f"label{n}": "<&" * 150 for n in range(30)}
    for number in range(30):
        world.notify(
            alert(
                "A" * 200,
                starts_at=START,
                labels={**labels, "instance": f"i-{number}"},
                annotations={"summary": "<&" * 1000},
            )
        )
    page = browser.get("/board/episodes")
    assert len(page.main.one(class_="episodes").all("h3")) == episodes_page.PAGE_ROWS
    assert re.search(r"\d+ more labels", page.text)
