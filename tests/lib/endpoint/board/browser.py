"""A board on a tracking database, and a browser that reads its pages."""

from __future__ import annotations

import datetime
from http import HTTPStatus

from poundcake.endpoint import routes
from poundcake.endpoint.board import board_routes
from poundcake.endpoint.board.board_routes import BoardRoutes
from poundcake.endpoint.http_messages import HTTPRequest, NoBody
from poundcake.endpoint.problems import ProblemError
from poundcake.trail import database, queries, refresh
from tests.lib.endpoint.board.documents import parse
from tests.lib.endpoint.board.recorded_service import HEALTH

MAX_PAGE_BYTES = 100_000
EMPTY_JOURNAL = {"requests": [], "count": 0}


class FakeService:
    """The part of an endpoint that the board uses, on a world of the states on call."""

    def __init__(self, world):
        self.world = world
        self.journal_document = EMPTY_JOURNAL
        self.failure = None
        self.pending = {}
        self.health = HEALTH

    @property
    def config(self):
        return self.world.config

    def recent_health(self):
        return self.health

    def refused_webhooks(self):
        return {"count": 0, "last": None}

    def read_recorded(self, query, **arguments):
        if self.failure:
            raise self.failure
        with database.reading(self.world.engine) as connection:
            return query(connection, **arguments)

    def read(self, view, **arguments):
        document = self.read_recorded(view, **arguments)
        if not document:
            return document
        minutes = self.config.approval_minutes
        return refresh.refresh_open_executions(self.world.stackstorm, document, minutes)

    def status(self, request_id):
        if request_id in self.pending:
            return self.pending[request_id]
        return self.read(queries.status, request_id=request_id, web_url=self.config.st2_web_url)

    def waiting_requests(self, filters, limit, offset):
        self.filters = filters
        if isinstance(self.journal_document, Exception):
            raise self.journal_document
        return self.journal_document

    def newest_waiting_at(self):
        return None


def request_for(target):
    """Return a request for a page."""
    path, _, query = target.partition("?")
    return HTTPRequest("GET", path, query, "", {}, "127.0.0.1", "", NoBody())


class Page:
    """A response of the board, parsed."""

    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.body = response.body
        self.document = parse(response.body.decode()) if response.body else None

    @property
    def main(self):
        return self.document.one("main")

    @property
    def text(self):
        return self.main.text

    def section(self, name):
        """Return a section by the id of its heading, or None if the page does not have it."""
        found = self.main.all("section", aria_labelledby=name)
        return found[0] if found else None


class Browser:
    """Reads the pages of a board, as of the time of its world."""

    def __init__(self, world, monkeypatch):
        self.world = world
        self.service = FakeService(world)

        class Clock(datetime.datetime):
            @classmethod
            def now(cls, timezone=None):
                return world.now

        monkeypatch.setattr(board_routes, "datetime", Clock)

    def get(self, target):
        """Return the page at a path, with redirects followed."""
        for _ in range(3):
            # A new board, because the old one keeps its pages for a second.
            board = BoardRoutes(self.world.config, self.service)
            response = routes.answer(board.routes(), request_for(target))
            if response.status != HTTPStatus.FOUND:
                break
            target = response.headers["Location"]
        self.location = target
        page = Page(response)
        if page.status == HTTPStatus.OK:
            check_page(page)
        return page

    def problem(self, target):
        """Return the error with which the board answers."""
        try:
            self.get(target)
        except ProblemError as problem:
            return problem
        raise AssertionError(f"{target} is answered")


def check_page(page):
    """Check what is true of every page: ids, headings, labels and size."""
    document = page.document
    ids = [element["id"] for element in document.all() if element.get("id")]
    assert len(ids) == len(set(ids)), sorted(i for i in ids if ids.count(i) > 1)
    levels = [int(e.tag[1]) for e in document.all() if e.tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:])), levels
    for field in document.all("input") + document.all("select"):
        assert document.has("label", for_=field["id"]), field["name"]
    for element in document.all():
        for name in ("aria-labelledby", "aria-describedby"):
            assert set((element.get(name) or "").split()) <= set(ids), element.get(name)
    for link in document.all("a"):
        href = link["href"]
        assert href.startswith(("/", "#", "https://", "http://")), href
        if not href.startswith(("/", "#")):
            assert link["rel"] == "noopener noreferrer", href
        if href.startswith("#"):
            assert href[1:] in ids, href
    for table in document.all("table"):
        assert table.one("caption").text
        assert all(cell.get("scope") for cell in table.all("th"))
    assert len(page.body) < MAX_PAGE_BYTES
