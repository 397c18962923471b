"""The script of the board when an open page changes, is edited or hidden, or cannot be loaded."""

from __future__ import annotations

import datetime
import re
import time

import pytest

from poundcake.trail.text.layout import format_age, format_elapsed
from tests.browser import boards
from tests.lib.endpoints import InThreads
from tests.lib.samples import alert, webhook
from tests.waiting import wait_for


@pytest.fixture
def endpoint(tmp_path, chromium, stopped_time):
    new_endpoint = InThreads(tmp_path)
    new_endpoint.start().ready()
    post(new_endpoint, "HostDown", 8)
    yield new_endpoint
    new_endpoint.stop()


def post(endpoint, name, count=1):
    """Post alerts, and wait until they are recorded."""
    instances = [f"{name}-{number}" for number in range(count)]
    endpoint.accept(webhook(*[alert(name, labels={"instance": text}) for text in instances]))
    wait_for(lambda: name in endpoint.get("/api/v1/alerts/active").body.decode())
    time.sleep(1.1)  # the board serves a page again for a second


class InFlight:
    """The number of requests of a page that have no response yet."""

    def __init__(self, page):
        self.count = 0
        page.on("request", lambda _: self.change(1))
        page.on("requestfinished", lambda _: self.change(-1))
        page.on("requestfailed", lambda _: self.change(-1))

    def change(self, difference):
        self.count += difference


@pytest.fixture
def open_page(chromium, endpoint):
    """Return a function that opens a page in a browser whose time passes only in the test."""
    contexts = []

    def open_page(path="/board", **options):
        context = chromium.new_context(viewport={"width": 1200, "height": 400}, **options)
        contexts.append(context)
        page = context.new_page()
        page.requests = []
        page.on("request", lambda request: page.requests.append(request.url))
        page.in_flight = InFlight(page)
        page.clock.install(time=boards.END)
        page.goto(f"http://127.0.0.1:{endpoint.port}{path}")
        let_pass(page, 1)
        page.requests.clear()
        return page

    yield open_page
    for context in contexts:
        context.close()


def let_pass(page, seconds):
    """Let time pass in the browser, in short steps, so that responses arrive in between."""
    while seconds > 0:
        page.clock.run_for(min(seconds, 4) * 1000)
        page.wait_for_timeout(100)
        wait_for(lambda: page.wait_for_timeout(20) or not page.in_flight.count)
        seconds -= 4


def age(page):
    return page.inner_text("#page-age").strip()


def seconds_old(page):
    (seconds,) = re.findall(r"^\((\d+) s ago\)$", age(page))
    return int(seconds)


class TestInPlace:
    def test_what_moves_to_another_section_stays_open_and_keeps_the_focus(self, open_page):
        page = open_page()
        page.evaluate(
            """() => {
                const group = document.querySelector("details.group");
                group.open = true;
                group.querySelector("summary").id = "the-summary";
                group.querySelector("summary").focus();
            }"""
        )

        def move(route):
            response = route.fetch(headers={**route.request.headers, "if-none-match": ""})
            text = response.text().replace("<summary", '<summary id="the-summary"', 1)
            moved = re.sub(
                "(<details class=.group.*?</details>)",
                r"<div>\1</div>",
                text,
                count=1,
                flags=re.DOTALL,
            )
            route.fulfill(response=response, body=moved.replace(" open", ""))

        page.route("**/board", move)
        let_pass(page, 17)
        assert page.locator("div > details.group").count() == 1
        assert page.locator("details.group").first.evaluate("group => group.open")
        assert page.evaluate("document.activeElement.id") == "the-summary"

    def test_a_closed_group_stays_closed(self, endpoint, open_page):
        page = open_page()
        details = page.locator("details.group").first
        details.evaluate("details => { details.open = false }")
        post(endpoint, "DiskFull")
        let_pass(page, 17)
        assert page.locator("main", has_text="DiskFull").count() == 1
        assert not details.evaluate("details => details.open")

    def test_a_field_that_is_being_edited_is_left_alone(self, open_page):
        page = open_page("/board/episodes")
        field = page.locator("main form input:visible").first
        field.fill("Disk")
        let_pass(page, 40)
        assert not page.requests and field.input_value() == "Disk"
        assert 40 <= seconds_old(page) < 60
        field.evaluate("field => field.blur()")
        let_pass(page, 1)
        assert len(page.requests) == 1 and seconds_old(page) < 20
        assert field.input_value() == "Disk"

    def test_a_hidden_page_is_loaded_when_it_is_visible_again(self, open_page):
        page = open_page()
        set_hidden = """isHidden => {
            Object.defineProperty(document, "hidden", { get: () => isHidden, configurable: true });
            document.dispatchEvent(new Event("visibilitychange"));
        }"""
        page.evaluate(set_hidden, True)
        let_pass(page, 60)
        assert not page.requests
        page.evaluate(set_hidden, False)
        let_pass(page, 1)
        assert len(page.requests) == 1

    def test_a_page_of_another_release_is_loaded_completely(self, open_page):
        page = open_page()

        def upgrade(route):
            response = route.fetch(headers={**route.request.headers, "if-none-match": ""})
            route.fulfill(response=response, body=response.text().replace("board.js?v=", "x.js?v="))

        page.route("**/board", upgrade, times=1)
        with page.expect_navigation():
            page.clock.run_for(17_000)
        assert page.locator("script[src*='board.js']").count() == 1

    def test_a_section_that_was_not_there_before_leaves_the_others_as_they_are(
        self, visit, own_board
    ):
        page = visit(on=own_board, viewport={"width": 1000, "height": 600}).page
        page.in_flight = InFlight(page)
        page.clock.install(time=boards.END)
        page.goto("/board")
        let_pass(page, 1)
        group = page.locator("details", has_text="KubePodNotReady")
        group.locator("summary").click()
        link = group.locator("tbody a").nth(1)
        link.focus()
        link.evaluate("link => scrollBy(0, link.getBoundingClientRect().top - 300)")
        place = link.bounding_box()["y"]
        own_board.set_broker(up=False)
        own_board.post_alert("web-70:9100")  # the first alert in the section "Not recorded yet"
        wait_for(lambda: "web-70:9100" in own_board.get("/board").body.decode())
        let_pass(page, 17)
        assert page.locator("article", has_text="web-70:9100").count() == 1
        assert group.evaluate("group => group.open")
        assert link.evaluate("link => link === document.activeElement")
        assert abs(link.bounding_box()["y"] - place) < 3


class TestFailures:
    def test_the_page_says_since_when_the_endpoint_does_not_answer(self, endpoint, open_page):
        page = open_page()
        content = page.inner_text("main")
        endpoint.stop()
        let_pass(page, 20)
        message = page.inner_text("#connection")
        assert message.startswith("The endpoint does not answer since ")
        assert "; this page is as of " in message
        assert page.inner_text("main") == content
        page.requests.clear()
        let_pass(page, 120)
        assert page.inner_text("#connection") == message  # so a screen reader is silent
        assert age(page) == "(2 min ago)"
        assert 1 <= len(page.requests) <= 4  # it tries less and less often
        endpoint.start().ready()
        let_pass(page, 70)
        assert page.inner_text("#connection") == ""
        assert page.locator("#connection").get_attribute("role") == "status"

    def test_the_page_says_that_the_person_is_signed_out(self, open_page):
        page = open_page()
        page.route("**/board", lambda route: route.fulfill(status=401, body="no"))
        let_pass(page, 17)
        message = page.inner_text("#connection")
        assert message.startswith("You have been signed out since ")
        assert message.endswith("Reload the page to sign in.")
        page.requests.clear()
        let_pass(page, 120)
        assert not page.requests  # the browser would ask for the password each time

    def test_an_error_does_not_replace_the_page(self, open_page):
        page = open_page()
        content = page.inner_text("main")
        page.route("**/board", lambda route: route.fulfill(status=503, body="busy"))
        let_pass(page, 17)
        assert "The endpoint cannot show this page (503)" in page.inner_text("#connection")
        assert page.inner_text("main") == content

    def test_the_page_of_a_proxy_does_not_replace_the_page(self, open_page):
        page = open_page()
        content = page.inner_text("main")
        form = {"content_type": "text/html", "body": "<main id=main><form>Password?</form></main>"}
        page.route("**/board", lambda route: route.fulfill(status=200, **form))
        let_pass(page, 17)
        assert "You have been signed out" in page.inner_text("#connection")
        assert page.inner_text("main") == content


class TestTimes:
    def test_ages_are_in_the_words_of_the_text_output(self, open_page):
        page = open_page()
        minutes = [2, 89, 91, 35 * 60, 37 * 60, 49 * 60, 400 * 24 * 60]
        now = datetime.datetime.fromtimestamp(
            page.evaluate("Date.now()") / 1000, datetime.timezone.utc
        )
        # In the middle of a minute, because the browser's time goes on.
        moments = [
            (now - datetime.timedelta(minutes=value, seconds=20)).isoformat() for value in minutes
        ]
        page.evaluate(
            """moments => {
                for (const moment of moments) for (const kind of ["ago", "elapsed"]) {
                    const time = document.createElement("time");
                    time.className = "test";
                    time.dateTime = moment;
                    time.dataset.relative = kind;
                    document.body.append(time);
                }
            }""",
            moments,
        )
        page.clock.run_for(1000)
        assert page.locator("time.test").all_inner_texts() == [
            words(moment, now) for moment in moments for words in (format_age, format_elapsed)
        ]

    def test_the_clock_of_the_reader_may_be_wrong(self, visit, board):
        page = visit().page
        page.in_flight = InFlight(page)
        page.clock.install(time=boards.END + datetime.timedelta(days=3))
        page.goto("/board")
        let_pass(page, 1)
        row = page.locator("article", has_text="DiskReadErrors").inner_text()
        assert 45 <= int(re.search(r"firing for (\d+) s", row)[1]) < 60
        assert seconds_old(page) < 10


class TestCommands:
    def test_a_command_is_copied(self, endpoint, open_page):
        page = open_page(permissions=["clipboard-read", "clipboard-write"])
        button = page.locator("button.copy:visible").first
        command = button.locator("xpath=..").locator("code").inner_text()
        button.click()
        page.wait_for_timeout(100)
        assert page.evaluate("navigator.clipboard.readText()") == command
        assert button.inner_text() == "Copied"
        assert page.inner_text("#announcement") == "The command is copied."
        let_pass(page, 3)
        assert button.inner_text() == "Copy"

    def test_without_a_clipboard_the_command_is_copied_all_the_same(self, open_page):
        """Browsers provide the clipboard only to pages with TLS, and to those of this machine."""
        page = open_page()
        page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
        button = page.locator("button.copy:visible").first
        button.click()
        page.wait_for_timeout(100)
        assert button.inner_text() == "Copied"


class TestWithoutScript:
    def test_the_page_asks_to_be_loaded_again_and_has_no_buttons(self, chromium, endpoint):
        context = chromium.new_context(java_script_enabled=False)
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{endpoint.port}/board")
        assert "Reload the page to update it." in page.inner_text("header")
        assert page.locator("button.copy:visible").count() == 0
        assert "HostDown" in page.inner_text("main")
        context.close()
