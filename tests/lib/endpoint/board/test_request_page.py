"""The page of a request shows its alerts, and what ran for them."""

from __future__ import annotations

from sqlalchemy import update

from poundcake.endpoint.board import request_page
from poundcake.timestamps import format_timestamp
from poundcake.trail.schema import api_calls
from tests.lib.samples import alert, waiting_requests
from tests.lib.trail.text import on_call_states
from tests.lib.trail.text.on_call_states import START, service_down
from tests.lib.trails import on_sqlite

pytestmark = on_sqlite


def open_request(world, browser, state):
    getattr(on_call_states, state)(world)
    return browser.get(f"/board/requests/{world.request_id}")


def test_it_shows_the_alert_and_its_executions(world, browser):
    page = open_request(world, browser, "failed")
    assert page.main.one("h1").text == f"Request {world.request_id}"
    head = page.main.one(class_="episode-head")
    assert "1 alert, 1 execution: failed" in head.text
    assert head.commands[0].startswith("st2 execution get ")
    (row,) = page.section("section-alerts").all("article")
    assert "admitted: new incident" in row.text
    assert "Unit nginx.service not found." in row.text
    (episode,) = world.why(alert_name="ServiceDown")["episodes"]
    assert row.links["ServiceDown web-21:9100"] == f"/board/episodes/{episode['episode']}"
    (execution,) = episode["stackstorm_executions"]
    url = f"https://st2.example/#/history/{execution['st2_execution_id']}"
    assert row.links["Open in StackStorm"] == url


def test_nothing_ran_for_an_alert(world, browser):
    page = open_request(world, browser, "no_rule")
    assert "no rule matched" in page.section("section-alerts").text


def test_a_short_id_is_enough_and_case_does_not_matter(world, browser):
    world.notify(service_down())
    for name in (world.request_id[:8], world.request_id.upper()):
        assert world.request_id in browser.get(f"/board/requests/{name}").text


def test_an_unknown_request_is_404_and_says_how_to_search(world, browser):
    page = browser.get("/board/requests/0b1e6f0a-5a1c-4c3e-9d5f-2f7a1c9e4b60")
    assert page.status == 404
    assert page.main.one("h1").text == "No such request"
    assert "0b1e6f0a-5a1c-4c3e-9d5f-2f7a1c9e4b60" in page.text
    assert page.main.one("form")["action"] == "/board/episodes"


def test_a_request_in_the_journal_shows_what_it_waits_for(world, browser):
    request_id = "3a6f3c9e-8a0c-4b57-9d3a-5a2f0d6f1c11"
    browser.service.pending[request_id] = {
        "request_id": request_id,
        "received_at": format_timestamp(START),
        "completed_at": None,
        "status": "accepted",
        "receiver": "",
        "truncated_alerts": 0,
        "alerts": [],
        "stackstorm_executions": [],
        "credential": "alertmanager",
        "blocked_by": "broker: connection refused",
    }
    browser.service.journal_document = waiting_requests(
        format_timestamp(START), request_id, instance="web-1:9100"
    )
    page = browser.get(f"/board/requests/{request_id}")
    assert browser.service.filters.request_id == request_id
    head = page.main.one(class_="episode-head")
    assert "it waits in the endpoint's journal: broker: connection refused" in head.text
    assert "credential alertmanager" in head.text
    assert head.commands == ["st2 run poundcake.health format=text"]
    assert "WAITING TO BE RECORDED HostDown web-1:9100" in page.section("section-journal").text


def test_of_many_alerts_the_first_ones_are_shown(world, browser):
    count = request_page.MAX_ALERTS + 30
    world.notify(
        *(alert("A", labels={"instance": f"i-{n}", "team": "infra"}) for n in range(count))
    )
    page = browser.get(f"/board/requests/{world.request_id}")
    section = page.section("section-alerts")
    assert section.one("h2").text == f"{count} alerts"
    assert len(section.all("article")) == request_page.MAX_ALERTS
    assert section.one(class_="shared-labels").texts("li") == ["team=infra"]
    link = section.one(id="all-alerts")
    assert link.text.startswith("30 more") and link["href"].endswith(world.request_id)
    assert browser.get(link["href"]).status == 200


def test_a_replay_leads_to_the_request_that_it_replays(world, browser):
    world.notify(service_down())
    first = world.request_id
    world.wait(60)
    world.notify(service_down())
    replay = api_calls.c.request_id == world.request_id
    with world.engine.begin() as connection:
        connection.execute(update(api_calls).where(replay).values(replay_of=first))
    page = browser.get(f"/board/requests/{world.request_id}")
    assert page.main.links[first] == f"/board/requests/{first}"
