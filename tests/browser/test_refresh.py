"""A page that stays open is refreshed in place, and says how old it is.

The tests control the browser's clock, so that they need not wait for the next refresh.
"""

from __future__ import annotations

import datetime
import re
import time

import pytest

from tests.browser import boards

# The endpoint sends the same page for a second.
PAGE_IS_KEPT_SECONDS = 1.1
# Longer than any page waits for its next refresh, even after failures.
REFRESH_MS = 70_000


@pytest.fixture
def open_page(visit, own_board):
    """Return a function that opens a path of a board that the test may change.

    Returns:
        The visit and its page, after the first refresh.
    """

    def start(path="/board", clock=boards.END, **options):
        one_visit = visit(on=own_board, **options)
        one_visit.page.clock.install(time=clock)
        with one_visit.page.expect_response(is_page):
            one_visit.open(path)
        return one_visit, one_visit.page

    return start


def is_page(response):
    return "/static/" not in response.url and response.request.resource_type == "fetch"


def refresh(page):
    """Let time pass until the next refresh, and return its response."""
    with page.expect_response(is_page) as caught:
        page.clock.fast_forward(REFRESH_MS)
    return caught.value


def test_a_refresh_keeps_the_place_the_focus_and_what_is_unfolded(open_page, own_board):
    _, page = open_page(viewport={"width": 1000, "height": 600})
    group = page.locator("details", has_text="KubePodNotReady").first
    assert group.get_attribute("open") is None
    group.locator("summary").click()
    link = group.locator("tbody a").nth(1)
    link.focus()
    link.evaluate("element => window.scrollBy(0, element.getBoundingClientRect().top - 300)")
    place = link.bounding_box()["y"]
    assert 290 < place < 310

    # A section that was not there before, above this place.
    own_board.set_broker(up=False)
    own_board.post_alert("web-70:9100")
    time.sleep(PAGE_IS_KEPT_SECONDS)
    assert refresh(page).status == 200
    page.locator("article", has_text="web-70:9100").wait_for()

    assert group.get_attribute("open") is not None
    assert link.evaluate("element => element === document.activeElement")
    assert abs(link.bounding_box()["y"] - place) < 3


def test_an_unchanged_page_is_not_sent_again(open_page):
    _, page = open_page()
    response = refresh(page)
    assert response.status == 304
    page.locator("#connection").wait_for(state="attached")
    assert page.locator("#connection").inner_text() == ""


def test_ages_grow_between_two_refreshes(open_page):
    _, page = open_page()
    page.get_by_text("firing for 45 s").first.wait_for()
    page.clock.run_for(8_000)
    ages = page.locator("article", has_text="DiskReadErrors").inner_text()
    seconds = int(re.search(r"firing for (\d+) s", ages)[1])
    assert 50 <= seconds <= 60
    page_age = re.search(r"\((\d+) s ago\)", page.locator(".freshness").first.inner_text())
    assert 5 <= int(page_age[1]) <= 15


def test_the_clock_of_the_reader_may_be_wrong(open_page):
    _, page = open_page(clock=boards.END + datetime.timedelta(days=3))
    page.get_by_text("firing for 45 s").first.wait_for()
    assert re.search(r"\(\d s ago\)", page.locator(".freshness").first.inner_text())


def test_the_page_says_when_the_endpoint_is_gone_and_when_it_is_back(open_page, own_board):
    one_visit, page = open_page()
    content = page.locator("main").inner_text()
    own_board.stop()
    with page.expect_event("requestfailed"):
        page.clock.fast_forward(REFRESH_MS)
    message = page.get_by_text("The endpoint does not answer since 03:1")
    message.wait_for()
    assert message.is_visible() and "this page is as of 03:12:0" in message.inner_text()
    assert message.get_attribute("role") == "status", "a screen reader says it"
    without_ages = re.compile(r"\d+ (s|min|h)\b")
    assert without_ages.sub("", page.locator("main").inner_text()) == without_ages.sub("", content)

    with boards.start_board(own_board.folder, own_board.recorded_history, port=own_board.port):
        refresh(page)
        message.wait_for(state="detached")
    # The browser reports each refused connection.
    assert all("ERR_CONNECTION_REFUSED" in problem for problem in one_visit.problems)
    one_visit.problems.clear()


def test_what_a_person_types_is_kept(open_page):
    _, page = open_page("/board/episodes")
    page.get_by_label("Instance").fill("web-2")
    page.clock.fast_forward(REFRESH_MS)
    page.get_by_label("Alert name").focus()
    page.clock.fast_forward(REFRESH_MS)
    assert page.get_by_label("Instance").input_value() == "web-2"
    page.keyboard.press("Escape")
    page.locator("h1").click()  # leaves the form
    page.clock.fast_forward(REFRESH_MS)
    assert page.get_by_label("Instance").input_value() == "web-2"


def test_a_command_can_be_copied(visit):
    page = visit(permissions=["clipboard-read", "clipboard-write"]).open("/board")
    command = page.locator(".command", has_text="st2 run poundcake.plan").first
    command.get_by_role("button", name="Copy").click()
    page.get_by_text("The command is copied.").wait_for(state="attached")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == command.locator("code").inner_text()


def test_alerts_that_wait_in_the_journal_are_on_the_page(open_page, own_board):
    own_board.set_broker(up=False)
    request_id = own_board.post_alert("web-71:9100")
    _, page = open_page()
    row = page.locator("article", has_text="web-71:9100")
    assert "WAITING TO BE RECORDED" in row.inner_text()
    row.get_by_role("link", name="request").click()
    page.wait_for_url(f"**/board/requests/{request_id}")
    assert "web-71:9100" in page.locator("main").inner_text()
