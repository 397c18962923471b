"""An endpoint that shows the history of tests.browser.history, and a Chromium that visits it."""

from __future__ import annotations

import datetime
import os
import pathlib
import shutil
import sys
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlencode

from tests.browser import history
from tests.lib.endpoint_process import EmptyStackStorm
from tests.lib.endpoints import ROOT, InThreads
from tests.lib.fake_stackstorm import FakeStackStorm
from tests.lib.samples import alert, webhook

END = datetime.datetime(2026, 11, 28, 3, 12, tzinfo=datetime.timezone.utc)
"""When the history ends. The clocks of the endpoint and its processes stand still at this time."""
SETTINGS = {
    **history.SETTINGS,
    "st2_web_url": "https://stackstorm.example.org",
    "alertmanagers": [{"url": history.ALERTMANAGER}],
}
CONSTANTS = {
    "endpoint.board.board_process._COMMAND": (
        sys.executable,
        os.path.join(ROOT, "tests", "browser", "stopped_page_server.py"),
        END.isoformat(),
    )
}
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
# The browser can reach nothing but this machine, so it cannot even look up another name.
CHROMIUM_OPTIONS = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]


def find_chromium():
    """Return the path of an installed Chromium, or '' if there is none."""
    names = [os.environ["CHROMIUM"]] if os.environ.get("CHROMIUM") else CHROMIUM_NAMES
    return next(filter(None, map(shutil.which, names)), "")


def find_problem():
    """Return why no browser can be started on this machine, or ''."""
    try:
        import axe_playwright_python  # noqa: F401
        import playwright.sync_api
        import time_machine  # noqa: F401
    except ImportError as error:
        return f"{error}: run `make browser`, which installs it"
    if find_chromium():
        return ""
    with playwright.sync_api.sync_playwright() as library:
        if os.path.exists(library.chromium.executable_path):
            return ""
    return "Chromium is not installed: apt-get install chromium, or set CHROMIUM to its path"


@contextmanager
def start_chromium():
    """Start Chromium, and end it afterwards."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as library:
        options = {"executable_path": find_chromium()} if find_chromium() else {}
        browser = library.chromium.launch(args=CHROMIUM_OPTIONS, **options)
        yield browser
        browser.close()


@contextmanager
def stopped_clock(moment):
    """Stop this process's wall clock at a time, so that a page always shows the same ages."""
    import time_machine

    with time_machine.travel(moment, tick=False):
        yield


class RecordedHistory(NamedTuple):
    """A history, and the StackStorm in which it happened.

    Attributes:
        folder: The `state_dir` of an endpoint, with the tracking database.
        stackstorm: A StackStorm with the executions of the history.
    """

    folder: pathlib.Path
    stackstorm: FakeStackStorm


def record_history(folder):
    """Record the history in an empty folder."""
    sys.path.append(os.path.join(ROOT, "standalone", "st2"))  # for the pack's actions
    return RecordedHistory(folder, history.fill(str(folder), END).stackstorm)


class RecordedStackStorm(EmptyStackStorm):
    """A StackStorm that has the executions of a history."""

    def __init__(self, fake):
        self.get_executions, self.get_children = fake.get_executions, fake.get_children


class Board(InThreads):
    """An endpoint whose pages a browser visits.

    Attributes:
        recorded_history: The history that it shows.
    """

    recorded_history = None

    def stackstorm(self):
        return RecordedStackStorm(self.recorded_history.stackstorm)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def find_episode(self, **filters):
        """Return the newest episode that matches, as the view `why` shows it."""
        return self.get(f"/api/v1/why?{urlencode({'limit': 1, **filters})}").json["episodes"][0]

    def post_alert(self, instance):
        """Post an alert that has just begun to fire, and return its request_id."""
        new_alert = alert(
            "ServiceDown",
            starts_at=datetime.datetime.now(datetime.timezone.utc),
            labels={**history.SHARED_LABELS, "instance": instance, "service": "php-fpm"},
            annotations={"summary": f"php-fpm on {instance} does not answer"},
        )
        return self.accept(webhook(new_alert))


@contextmanager
def start_board(folder, recorded_history, **config):
    """Start an endpoint on a copy of a history.

    Args:
        folder: An empty folder for the endpoint, or that of an endpoint that has stopped.
        recorded_history: The history.
        config: Keys of the configuration, and `port`.
    """
    board = Board(folder, CONSTANTS, **{**SETTINGS, **config})
    board.recorded_history = recorded_history
    if not (folder / "state").exists():
        shutil.copytree(recorded_history.folder, folder / "state")
    board.start()
    try:
        yield board.ready()
    finally:
        board.stop()


class Visit:
    """A browser context on a board, and what went wrong in it.

    Attributes:
        page: The page that is open.
        problems: Errors on the console, exceptions, and violations of the Content-Security-Policy.
        urls: The URLs of all requests of the page.
    """

    def __init__(self, browser, board, **options):
        self.board = board
        self.context = browser.new_context(base_url=board.url, **options)
        self.page = self.context.new_page()
        self.problems, self.urls = [], []
        # A headless browser reports a violation as an error on the console.
        self.page.on("console", self._note_message)
        self.page.on("pageerror", lambda error: self.problems.append(f"exception: {error}"))
        self.page.on("request", lambda request: self.urls.append(request.url))

    def _note_message(self, message):
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.type} on the console: {message.text}")

    def open(self, path):
        """Open a path of the board, and return the page."""
        response = self.page.goto(path)
        assert response.status == 200, f"{path}: {response.status} {response.text()}"
        return self.page

    @property
    def foreign_urls(self):
        """The URLs that belong to another machine."""
        return [url for url in self.urls if not url.startswith((self.board.url + "/", "data:"))]

    def close(self):
        self.context.close()
