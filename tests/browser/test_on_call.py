"""A person on call finds out on the board what to do, within three clicks."""

from __future__ import annotations

import re

from tests.browser.boards import SETTINGS

WEB_UI = SETTINGS["st2_web_url"]


class Walk:
    """What a person does on the board, beginning at /board."""

    def __init__(self, visit):
        self.page = visit.open("/board")
        self.clicks = 0

    def click(self, role, name):
        """Click on the first link or button with a name."""
        self.clicks += 1
        assert self.clicks <= 3, "a person on call has no time for more than three clicks"
        self.page.get_by_role(role, name=name).first.click()
        self.page.wait_for_load_state()

    def type(self, label, text):
        self.page.get_by_label(label).fill(text)

    @property
    def text(self):
        """The visible text of the page."""
        return self.page.locator("main").inner_text()


def test_what_needs_me(visit):
    walk = Walk(visit())
    counts = walk.page.locator(".counts li").all_inner_texts()
    assert counts[0] == "3 waiting for your answer"
    first_section = walk.page.locator("main section").first
    titles = first_section.locator("h3").all_inner_texts()
    # The one whose time ends first comes first.
    assert [title.split()[-1] for title in titles[:2]] == ["db-12:9100", "db-7:9100"]
    walk.click("link", re.compile("HostDown db-12"))
    assert "WAITING FOR YOU" in walk.text
    assert "ipmi.power_cycle on db-12" in walk.text
    assert "anna, ben until 03:23:02Z" in walk.text
    assert "22 and 9100: no answer" in walk.text, "what was seen before it asked"


def test_why_did_nothing_happen_for_a_host(visit):
    walk = Walk(visit())
    walk.click("link", "Episodes")
    walk.type("Instance", "node-7")
    walk.click("button", "Search")
    assert walk.page.locator(".episodes > li").count() == 1
    walk.click("link", re.compile("ServiceDown node-7"))
    assert "NOT TOUCHED: HOST NOT ALLOWED" in walk.text
    assert "allowed_hosts does not contain node-7: add it to allowed_hosts" in walk.text
    assert "st2 run poundcake.plan format=text episode=" in walk.text


def test_the_page_now_says_why_nothing_happened_without_a_click(visit):
    card = visit().open("/board").locator("article", has_text="node-7:9100")
    assert "allowed_hosts does not contain node-7: add it to allowed_hosts" in card.inner_text()


def test_approve(visit):
    one_visit = visit()
    opened = []

    def answer(route):
        opened.append(route.request.url)
        route.fulfill(body="<title>StackStorm</title>", content_type="text/html")

    one_visit.context.route(f"{WEB_UI}/**", answer)
    walk = Walk(one_visit)
    walk.click("link", "Answer in StackStorm")
    walk.page.wait_for_url(re.compile(re.escape(f"{WEB_UI}/#/inquiry/") + "[0-9a-f]{24}$"))
    assert one_visit.foreign_urls == opened == [f"{WEB_UI}/"]
    one_visit.urls.clear()  # the person has left the board


def test_silence(visit, board, paths):
    """The link opens Alertmanager's form with the matchers of the alert."""
    link = visit().open(paths["episode, did not help"]).get_by_role("link", name="Silence it")
    url = link.first.get_attribute("href")
    assert url.startswith("http://alertmanager.example/#/silences/new?filter=")
    for label in ("ServiceDown", "web-21%3A9100", "nginx"):
        assert label in url


def test_a_page_can_be_sent_to_a_colleague(visit):
    walk = Walk(visit())
    walk.click("link", "Episodes")
    walk.type("Alert name", "MailQueue*")
    walk.type("Since", "2d")
    walk.click("button", "Search")
    rows = walk.page.locator(".episodes > li h3").all_inner_texts()
    assert len(rows) == 4
    colleague = visit().open(walk.page.url)
    assert colleague.locator(".episodes > li h3").all_inner_texts() == rows
    assert colleague.get_by_label("Alert name").input_value() == "MailQueue*"


def test_a_wrong_filter_names_the_field_and_keeps_the_text(visit):
    one_visit = visit()
    walk = Walk(one_visit)
    walk.click("link", "Episodes")
    walk.type("Since", "yesterday")
    walk.click("button", "Search")
    field = walk.page.get_by_label("Since")
    assert field.input_value() == "yesterday"
    assert field.get_attribute("aria-invalid") == "true"
    error = walk.page.locator(f"#{field.get_attribute('aria-describedby').split()[-1]}")
    assert "such as" in error.inner_text(), "the error says what is right"
    # Chromium reports the status 400 of the page.
    assert len(one_visit.problems) == 1 and "400" in one_visit.problems.pop()


def test_an_alert_that_waits_in_the_journal_is_on_the_page(visit, own_board):
    own_board.set_broker(up=False)
    request_id = own_board.post_alert("web-71:9100")
    page = visit(on=own_board).open("/board")
    row = page.locator("article", has_text="web-71:9100")
    assert "WAITING TO BE RECORDED" in row.inner_text()
    row.get_by_role("link", name="request").click()
    page.wait_for_url(f"**/board/requests/{request_id}")
    assert "web-71:9100" in page.locator("main").inner_text()


def test_on_a_phone_the_search_is_folded_unless_a_filter_is_in_force(visit):
    walk = Walk(visit(viewport={"width": 390, "height": 844}))
    walk.click("link", "Episodes")
    field = walk.page.get_by_label("Instance")
    assert not field.is_visible()
    walk.page.locator("#search-filters-summary").click()
    walk.type("Instance", "node-7")
    walk.click("button", "Search")
    assert walk.page.locator(".episodes > li").count() == 1
    assert field.is_visible() and field.input_value() == "node-7"


def test_on_a_wide_screen_the_search_is_always_open(visit):
    page = visit(viewport={"width": 1200, "height": 800}).open("/board/episodes")
    assert page.get_by_label("Instance").is_visible()
    assert not page.locator("#search-filters-summary").is_visible()
