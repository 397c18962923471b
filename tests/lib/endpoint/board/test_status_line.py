"""The line at the top of every page says whether changes are made, and what prevents them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from poundcake.config import Config
from poundcake.endpoint.board import status_line, templates
from poundcake.endpoint.board.status_line import StatusLine
from poundcake.endpoint.journal import JournalError
from poundcake.trail.database import DatabaseError
from tests.lib.endpoint.board.recorded_service import HEALTH, RecordedService
from tests.lib.endpoint.board.test_error_page import text_of
from tests.lib.recorded_day import record_day
from tests.lib.samples import NOON, alert
from tests.lib.trails import record

PAUSE = {"at": "2026-01-14T11:30:00Z", "by": "anna", "reason": "a <b>move</b>", "until": None}


@pytest.fixture
def service(engine):
    return RecordedService(engine)


def show(service, **settings):
    """Return the text of the line, as at noon."""
    line = StatusLine(Config(**settings), service).read()
    page = templates.render(
        "error.html",
        NOON,
        {
            "status_line": line,
            "title": "",
            "detail": "",
            "status": 404,
            "field": "",
            "request_id": "",
        },
    )
    text = page.body.decode()
    assert "<b>" not in text
    return " ".join(
        text_of(text.partition('id="status-line"')[2].partition("</section>")[0]).split()
    )


class TestMode:
    @pytest.mark.parametrize(
        "changes, text",
        [
            ({"dry_run": False}, "Live: remediations make changes"),
            ({"dry_run": True}, "Dry run: nothing is changed"),
            ({"dry_run": False, "paused": PAUSE}, "Paused by anna 30 min ago: a <b>move</b>"),
            (
                {"dry_run": True, "paused": {**PAUSE, "until": "2026-01-14T12:59:59.1Z"}},
                "Paused by anna 30 min ago, until 13:00:00Z: a <b>move</b>",
            ),
        ],
    )
    def test_the_line_begins_with_whether_changes_are_made(self, service, changes, text):
        service.health = {**HEALTH, **changes}
        assert show(service).startswith(f'aria-label="State of PoundCake"> {text} No webhook yet')

    def test_a_problem_comes_first(self, service):
        down = {**HEALTH["components"]["broker"], "state": "down", "detail": "refused"}
        components = {**HEALTH["components"], "broker": down}
        service.health = {**HEALTH, "status": "degraded", "components": components}
        assert "> Degraded: webhooks are accepted, but broker is down Dry run" in show(service)


class TestStorms:
    def test_a_storm_is_named_with_its_limit(self, engine, service):
        record(engine, *[alert("HostDown", labels={"instance": f"n-{n}"}) for n in range(4)])
        record(engine, alert("DiskFull", labels={"instance": "n-1"}))
        text = show(service, storm_limit=3)
        assert "Storm of HostDown: 4 open incidents, and storm_limit is 3" in text
        assert "DiskFull" not in text
        for limit in (4, 0):
            assert "Storm" not in show(service, storm_limit=limit)

    def test_only_the_largest_storms_are_named(self, engine, service):
        for number in range(status_line.MAX_NAMES + 2):
            labels = [{"instance": f"n-{n}"} for n in range(2 + number)]
            record(engine, *[alert(f"Name{number}", labels=label) for label in labels])
        text = show(service, storm_limit=1)
        assert text.index("Name4") < text.index("Name3") < text.index("Name2")
        assert "Name1" not in text and "2 more storms" in text


class TestBreakers:
    def test_a_remediation_that_is_off_is_named(self, engine, service):
        record_day(engine)
        assert "nginx is off: 3 failures in a row" in show(service)
        assert "is off" not in show(service, breaker_failures=0)


class TestNewestWebhook:
    def test_the_newest_of_journal_and_database_counts(self, engine, service):
        record(engine, alert())
        recorded = show(service)
        assert "Last webhook" in recorded
        service.waiting_at = NOON - timedelta(days=400)
        assert show(service) == recorded
        service.waiting_at = NOON + timedelta(days=1000)
        assert "Last webhook 0 s ago" in show(service)

    def test_the_line_is_shown_although_nothing_can_be_read(self, service, monkeypatch):
        def fail(*_, **__):
            raise DatabaseError("no answer")

        def fail_in_journal():
            raise JournalError("no space")

        monkeypatch.setattr(service, "read_recorded", fail)
        monkeypatch.setattr(service, "newest_waiting_at", fail_in_journal)
        text = show(service)
        assert "The tracking database cannot be read: no answer" in text
        assert "Dry run" in text and "webhook" not in text


def test_the_facts_are_read_once_a_second(service, monkeypatch):
    line = StatusLine(Config(), service)
    assert line.read() is line.read()
    assert service.reads == 1
    monkeypatch.setattr(status_line, "monotonic", lambda: 1e9)
    line.read()
    assert service.reads == 2
