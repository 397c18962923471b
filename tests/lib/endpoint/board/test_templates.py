"""Pages are rendered with safe text, and have a version that changes only with their content."""

from __future__ import annotations

import tracemalloc
from datetime import timedelta

import pytest

from poundcake.endpoint.board import templates
from tests.lib.samples import NOON

CONTENT = {"title": "A title", "detail": "", "status": 404, "field": "", "request_id": "r"}


def render(now=NOON, **content):
    return templates.render("error.html", now, {**CONTENT, **content})


class TestEntityTag:
    def test_the_time_of_rendering_makes_no_other_version(self):
        pages = [render(NOON + timedelta(seconds=seconds)) for seconds in (0, 15)]
        assert pages[0].body != pages[1].body
        assert pages[0].entity_tag == pages[1].entity_tag

    def test_an_age_makes_no_other_version(self):
        line = {
            "status": "ok",
            "status_text": "",
            "dry_run": True,
            "paused": None,
            "storms": [],
            "more_storms": 0,
            "breakers": [],
            "more_breakers": 0,
            "newest_webhook_at": "2026-01-14T11:00:00Z",
            "problem": "",
        }
        pages = [render(NOON + timedelta(minutes=n), status_line=line) for n in (0, 5)]
        assert b"60 min ago" in pages[0].body and b"65 min ago" in pages[1].body
        assert pages[0].entity_tag == pages[1].entity_tag
        newer = {**line, "newest_webhook_at": "2026-01-14T11:00:01Z"}
        assert render(status_line=newer).entity_tag != pages[0].entity_tag

    def test_any_other_text_makes_another_version(self):
        assert render(title="A").entity_tag != render(title="B").entity_tag
        # Text from an alert cannot imitate an age.
        forged = ' data-relative="ago">{}<'
        tags = {render(title=forged.format(age)).entity_tag for age in ("1 s ago", "2 s ago")}
        assert len(tags) == 2


class TestText:
    @pytest.mark.parametrize("name", ["title", "detail", "field", "request_id"])
    def test_hostile_text_stays_text(self, name):
        hostile = "\"'><script>alert(1)</script>{{ 7777*7777 }}\u202e\x00`<b>`"
        body = render(**{name: hostile}).body.decode()
        assert "<script>alert" not in body and "<b>" not in body and "60481729" not in body
        assert "\u202e" not in body and "\x00" not in body

    def test_text_cannot_imitate_a_placeholder(self):
        """At worst, the text itself shows the time of the page."""
        body = render(title="@rendered-at@ @entity-tag@").body.decode()
        assert body.count('data-rendered-at="2026-01-14T12:00:00Z"') == 1


class TestStaticFiles:
    def test_names_that_do_not_exist_fill_no_memory(self):
        """A client may ask for any name, and for as many as it wants."""
        templates.static_file("board.css")
        tracemalloc.start()
        try:
            for number in range(1000):
                assert templates.static_file(f"{number}{'x' * 1000}") is None
            assert tracemalloc.get_traced_memory()[0] < 100_000
        finally:
            tracemalloc.stop()
