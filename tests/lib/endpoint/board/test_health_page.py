"""The page Health says what does not work, and what a person does about it."""

from __future__ import annotations

import pytest

from poundcake.config import Config
from poundcake.endpoint.board.board_routes import BoardRoutes
from poundcake.endpoint.http_messages import HTTPRequest
from poundcake.trail.database import DatabaseError
from tests.lib.endpoint.board.recorded_service import HEALTH, RecordedService
from tests.lib.endpoint.board.test_error_page import text_of
from tests.lib.recorded_day import record_day


@pytest.fixture
def service(engine):
    return RecordedService(engine)


def show(service, refused=None):
    """Return the page, and its text."""
    if refused:
        service.refused = refused
    board = BoardRoutes(Config(), service)
    routes = {route.template: route for route in board.routes()}
    request = HTTPRequest("GET", "/board/health", "", "", {}, "192.0.2.1", "", None)
    page = routes["/board/health"].handler(request, "").body.decode()
    return page, " ".join(text_of(page).split())


def with_component(name, **changes):
    components = {**HEALTH["components"], name: {**HEALTH["components"][name], **changes}}
    return {**HEALTH, "status": "degraded", "components": components}


def test_an_endpoint_that_works_needs_nothing(service):
    _, text = show(service)
    assert "OK Webhooks are accepted, and everything works." in text
    assert "mode dry run: nothing is changed until dry_run is false" in text
    assert "version 1.2.3" in text
    for title in ("Remediations that are off", "cannot be recorded", "What else needs care"):
        assert title not in text


def test_a_component_that_is_down_is_named_with_its_remedy(service):
    service.health = with_component("broker", state="down", detail="connection refused", waiting=7)
    _, text = show(service)
    assert "Degraded Webhooks are accepted, but broker is down." in text
    assert "broker has been down for" in text
    assert "start RabbitMQ; the waiting requests are announced without a restart" in text
    assert "7 waiting connection refused" in text


def test_the_backlog_and_its_age_are_shown(service):
    service.health = with_component("journal", waiting=12, oldest_seconds=240.5, accepted=12)
    _, text = show(service)
    assert "12 requests of at most 100000 wait to be recorded, the oldest for 4 min." in text
    assert "accepted, and not yet sent to RabbitMQ 12" in text


def test_a_journal_that_cannot_be_read_has_no_numbers(service):
    journal = {"state": "down", "since": "2026-01-14T11:00:00Z", "detail": "no space left"}
    components = {**HEALTH["components"], "journal": journal}
    service.health = {**HEALTH, "status": "unavailable", "components": components}
    _, text = show(service)
    assert "Unavailable Webhooks are answered with 503; Alertmanager sends them again." in text
    assert "free some space, or make state_dir writable" in text
    assert "to be recorded" not in text


def test_a_request_that_cannot_be_recorded_is_linked(service):
    request_id = "0b1e6f0a-5a1c-4c3e-9d5f-2f7a1c9e4b60"
    service.health = with_component("journal", stuck=1, stuck_requests=[request_id])
    page, text = show(service)
    assert "but 1 request cannot be recorded" in text
    assert f'href="/board/requests/{request_id}"' in page


def test_a_remediation_that_is_off_has_the_command_that_releases_it(engine, service):
    record_day(engine)
    page, text = show(service)
    assert "nginx 3 failures in a row, the last" in text
    assert ">st2 run poundcake.release format=text remediation=nginx</code>" in page
    assert 'href="/board/episodes/' in page and 'id="breakers"' in page


def test_problems_of_the_configuration_and_refused_webhooks_are_shown(service):
    configuration = {
        **HEALTH["configuration"],
        "problem": "keeping the previous configuration: unknown key x",
        "remediation_errors": ["remediations: entry 2: mode: must be one of"],
    }
    service.health = {
        **HEALTH,
        "status": "degraded",
        "configuration": configuration,
        "literal_secrets": ["auth_tokens"],
    }
    last = {
        "reason": "wrong_path",
        "status": 404,
        "detail": "<i>unknown path</i>",
        "sender": "192.0.2.9",
        "refused_at": "2026-01-14T11:59:00Z",
    }
    page, text = show(service, {"count": 3, "last": last})
    assert "configuration keeping the previous configuration: unknown key x" in text
    assert "configuration remediations: entry 2: mode" in text
    assert "refused since the endpoint started 3 webhooks" in text
    assert "192.0.2.9: 404, <i>unknown path</i>" in text and "<i>" not in page
    assert "auth_tokens is in plain text in the configuration" in text


def test_the_page_is_shown_although_the_database_cannot_be_read(service, monkeypatch):
    def fail(*_, **__):
        raise DatabaseError("no answer")

    monkeypatch.setattr(service, "read_recorded", fail)
    _, text = show(service)
    assert "Remediations that are off They are in the tracking database, which cannot be" in text
