"""The page of an episode shows its verdict, what to do next, and everything that happened."""

from __future__ import annotations

import json
from urllib.parse import unquote

import pytest
from sqlalchemy import select, update

from poundcake.trail import commands, interventions
from poundcake.trail.changes import dump_evidence
from poundcake.trail.schema import changes, events
from tests.lib.endpoint.board.recorded_service import HEALTH
from tests.lib.fake_stackstorm import OUTAGE
from tests.lib.samples import alert
from tests.lib.trail.text import on_call_states
from tests.lib.trail.text.on_call_states import ANNA, START, service_down
from tests.lib.trails import on_sqlite

pytestmark = on_sqlite
ALERTMANAGERS = [{"url": "http://am-1.example:9093"}, {"url": "https://am-2.example/alerts"}]


def open_episode(world, browser, state):
    """Record a state, and return the page of its episode and the episode."""
    filters = getattr(on_call_states, state)(world)
    episode = world.why(**filters)["episodes"][0]
    return browser.get(f"/board/episodes/{episode['episode']}"), episode


def head(page):
    return page.main.one(class_="episode-head")


def possible(page):
    """Return the commands of the section What you can do by their effect."""
    section = page.section("section-commands")
    return {
        pair.one("dt").text: pair.one("dd").commands[0]
        for pair in section.all("div")
        if pair.has("dt")
    }


class TestHead:
    @pytest.mark.parametrize(
        "state, title, command",
        [
            ("no_rule", "NOTHING RAN", "st2 run poundcake.plan format=text episode="),
            ("evidence_only", "EVIDENCE ONLY", "st2 execution get "),
            ("dry_run", "DRY RUN", "st2 run poundcake.plan format=text episode="),
            ("waiting_for_approval", "WAITING FOR YOU", "st2 inquiry respond "),
            ("running", "RUNNING", "st2 execution get "),
            ("changed_and_cleared", "CLEARED", ""),
            ("changed_and_not_cleared", "DID NOT HELP", "st2 execution get "),
            ("failed", "FAILED", "st2 execution get "),
            ("refused_by_hosts", "NOT TOUCHED: HOST NOT ALLOWED", "st2 run poundcake.plan "),
            ("refused_by_pause", "NOT TOUCHED: PAUSED", "st2 run poundcake.resume format=text"),
            ("storm", "NOT TOUCHED: STORM", "st2 run poundcake.alerts_active format=text"),
            (
                "breaker",
                "NOT TOUCHED: BREAKER",
                "st2 run poundcake.release format=text remediation=nginx",
            ),
            ("stackstorm_away", "WAITING FOR STACKSTORM", "st2 run poundcake.health format=text"),
            ("lost", "LOST", "st2 run poundcake.replay request_id="),
            ("rule_failed", "RULE FAILED", "st2 run poundcake.replay request_id="),
            ("acknowledged", "ACKNOWLEDGED", "st2 run poundcake.acknowledge format=text episode="),
            ("silenced", "SILENCED", "st2 run poundcake.unsilence format=text episode="),
            ("stale", "STALE", "st2 run poundcake.close format=text episode="),
            ("resolved_by_itself", "CLEARED BY ITSELF", ""),
        ],
    )
    def test_the_verdict_and_the_next_command_come_first(
        self, world, browser, state, title, command
    ):
        page, episode = open_episode(world, browser, state)
        top = head(page)
        assert top.one(class_="verdict").text == title
        assert top.one("h1").text == f"{title} {episode['alert_name']} {episode['instance']}"
        assert top.commands == ([episode["next_command"]] if command else [])
        assert (top.commands or [""])[0].startswith(command)
        assert (not top.has(class_="next")) == (state == "waiting_for_approval")

    def test_an_approval_is_explained(self, world, browser):
        page, _ = open_episode(world, browser, "waiting_for_approval")
        text = head(page).text
        assert "Who may answer: anna, ben until 22:30:06Z (25 min left)" in text
        assert "22 and 9100: no answer" in text
        inquiry = head(page).commands[0].rpartition(" ")[2]
        url = f"https://st2.example/#/inquiry/{inquiry}"
        assert head(page).links["Answer in StackStorm"] == url

    def test_the_time_until_the_next_step_is_shown(self, world, browser):
        page, _ = open_episode(world, browser, "storm")
        assert "(in 6 min)" in head(page).text


class TestAlert:
    def test_its_summary_runbook_and_labels_are_shown(self, world, browser):
        page, _ = open_episode(world, browser, "failed")
        assert "nginx on web-21 does not answer" in page.main.one(class_="episode-head").text
        section = page.section("section-alert")
        assert section.links["https://runbooks.example/nginx"] == "https://runbooks.example/nginx"
        assert section.one(class_="labels").texts("li") == [
            "team=infra",
            "cluster=eu-1",
            "service=nginx",
        ]

    @pytest.mark.parametrize(
        "url", ["javascript:alert(1)", "//evil.example", "ftp://x.example", "data:text/html,x"]
    )
    def test_a_runbook_that_is_no_web_page_is_no_link(self, world, browser, url):
        (row,) = world.notify(
            alert("A", starts_at=START, annotations={"runbook_url": url}, labels={})
        )
        section = browser.get(f"/board/episodes/{row.episode}").section("section-alert")
        assert url in section.text and not section.links


class TestTimeline:
    def test_it_leads_from_the_first_notification_to_the_end(self, world, browser):
        page, episode = open_episode(world, browser, "changed_and_cleared")
        section = page.section("section-timeline")
        events = section.all("li", class_="event")
        assert [event.one("time").text for event in events] == [
            "22:00:04Z",
            "22:00:06Z",
            "22:00:15Z",
            "22:02:15Z",
        ]
        assert "firing: admitted, new incident" in events[0].text
        assert "linux.service on web-21 started" in events[1].text
        assert "resolved: ends the incident" in events[3].text
        gaps = section.texts("li", class_="gap")
        assert gaps == ["2 s later", "9 s later", "2 min later"]
        requests = [a["request_id"] for a in episode["alerts"]]
        assert [events[0].links[f"request {requests[0][:8]}"]] == [f"/board/requests/{requests[0]}"]
        assert f"request {requests[1][:8]}" in events[3].links

    def test_every_execution_leads_to_stackstorm(self, world, browser):
        page, episode = open_episode(world, browser, "failed")
        (execution,) = episode["stackstorm_executions"]
        url = f"https://st2.example/#/history/{execution['st2_execution_id']}"
        assert url in page.section("section-timeline").links.values()
        section = page.section("section-executions")
        assert section.links["Open in StackStorm"] == url
        action = episode["changes"][0]["action_execution_id"]
        assert section.links["Open its action"] == f"https://st2.example/#/history/{action}"
        assert section.commands == [f"st2 execution get {action}"]
        assert "Unit nginx.service not found." in section.text

    def test_changes_that_were_refused_say_why(self, world, browser):
        page, _ = open_episode(world, browser, "storm")
        text = page.section("section-changes").text
        assert "ipmi.power_cycle on web-21: refused, storm" in text
        assert "storm_limit is 5" in text
        assert "it is tried again after 22:10:07Z" in text

    def test_a_change_says_what_the_checks_saw(self, world, browser):
        on_call_states.failed(world)
        with world.engine.begin() as connection:
            seen = dump_evidence(["9100: no answer", "nginx: failed"])
            connection.execute(update(changes).values(evidence=seen))
        (episode,) = world.why(alert_name="ServiceDown")["episodes"]
        assert episode["changes"][0]["evidence"] == ["9100: no answer", "nginx: failed"]
        section = browser.get(f"/board/episodes/{episode['episode']}").section("section-changes")
        assert section.one(class_="evidence").texts("li") == ["9100: no answer", "nginx: failed"]


class TestRepeats:
    """Notifications of the same kind in a row are one line that opens."""

    def repeat(self, world, count, number=21):
        for _ in range(count):
            world.wait(300)
            world.notify(on_call_states.host_down(number))

    def open(self, world, browser):
        (episode,) = world.why(alert_name="HostDown")["episodes"]
        return browser.get(f"/board/episodes/{episode['episode']}").section("section-timeline")

    def test_repeats_are_folded(self, world, browser):
        """Of many repeats, the view lists the newest three."""
        world.notify(on_call_states.host_down())
        self.repeat(world, 8)
        section = self.open(world, browser)
        (details,) = section.all("details")
        summary = details.one("summary").text
        assert summary.startswith("8 more notifications, the last one at 22:40:04Z: firing: dup")
        assert details.get("open") is None
        assert "5 earlier ones, not listed here." in details.text
        assert len(details.all("li", class_="event")) == 3
        assert len(section.all("li", class_="event")) == 4
        assert section.text.count("more notification") == 1

    def test_listed_repeats_say_from_when_to_when(self, world, browser):
        world.notify(on_call_states.host_down())
        self.repeat(world, 3)
        summary = self.open(world, browser).one("details").one("summary").text
        assert summary.startswith("3 more notifications, 22:05:04Z to 22:15:04Z: firing: dup")

    def test_the_fold_keeps_its_name_while_more_arrive(self, world, browser):
        world.notify(on_call_states.host_down())
        self.repeat(world, 4)
        name = self.open(world, browser).one("details")["id"]
        self.repeat(world, 5)
        assert self.open(world, browser).one("details")["id"] == name

    def test_a_few_repeats_are_shown(self, world, browser):
        world.notify(on_call_states.host_down())
        self.repeat(world, 2)
        assert not self.open(world, browser).has("details")

    def test_what_happens_in_between_is_not_folded(self, world, browser):
        (row,) = world.notify(on_call_states.host_down())
        self.repeat(world, 4)
        interventions.acknowledge(world.engine, ANNA, row.episode, comment="on it")
        section = self.open(world, browser)
        assert section.text.index("more notifications") < section.text.index("anna acknowledged")
        assert "anna acknowledged" not in section.one("details").text


class TestCommands:
    def test_an_open_incident_can_be_acknowledged_closed_and_planned(self, world, browser):
        page, episode = open_episode(world, browser, "no_rule")
        name = episode["episode"]
        assert list(possible(page).values()) == [
            f"st2 run poundcake.acknowledge format=text episode={name}",
            f"st2 run poundcake.plan format=text episode={name}",
            f"st2 run poundcake.replay request_id={world.request_id} force=true",
            f"st2 run poundcake.close format=text episode={name} comment=ended",
            f"st2 run poundcake.why format=text episode={name}",
        ]

    @pytest.mark.parametrize(
        "state, effects",
        [
            ("no_rule", ("Acknowledge it, so", "Show what would be done now")),
            ("waiting_for_approval", ("Approve ", "Reject ")),
            ("acknowledged", ("Withdraw the acknowledgement", "Show what would be done now")),
            ("silenced", ("Acknowledge it, so", "End the silence")),
        ],
    )
    def test_the_most_useful_ones_are_shown_and_the_others_open(
        self, world, browser, state, effects
    ):
        page, _ = open_episode(world, browser, state)
        section = page.section("section-commands")
        more = section.one("details")
        folded = more.texts("dt")
        shown = [effect for effect in possible(page) if effect not in folded]
        assert len(shown) == 2 and all(map(str.startswith, shown, effects)), shown
        assert more.get("open") is None
        assert more.one("summary").text == f"{len(folded)} more commands"

    def test_a_held_claim_can_be_released(self, world, browser):
        page, episode = open_episode(world, browser, "failed")
        assert (
            f"st2 run poundcake.release format=text episode={episode['episode']}"
            in possible(page).values()
        )

    @pytest.mark.parametrize("state", ["running", "waiting_for_approval"])
    def test_what_is_at_work_is_neither_released_nor_replayed(self, world, browser, state):
        page, _ = open_episode(world, browser, state)
        texts = " ".join(possible(page).values())
        assert "poundcake.release" not in texts and "poundcake.replay" not in texts

    def test_an_approval_can_be_answered(self, world, browser):
        page, episode = open_episode(world, browser, "waiting_for_approval")
        command = f"st2 run poundcake.approve format=text episode={episode['episode']}"
        assert possible(page)["Approve ipmi.power_cycle on web-21"] == command
        assert possible(page)["Reject ipmi.power_cycle on web-21"] == f"{command} reject=true"

    def test_an_acknowledgement_can_be_withdrawn(self, world, browser):
        page, episode = open_episode(world, browser, "acknowledged")
        texts = list(possible(page).values())
        assert (
            f"st2 run poundcake.acknowledge format=text episode={episode['episode']} undo=true"
            in texts
        )
        assert not any("poundcake.replay" in text for text in texts)

    def test_a_silence_can_be_ended(self, world, browser):
        page, episode = open_episode(world, browser, "silenced")
        texts = list(possible(page).values())
        assert f"st2 run poundcake.unsilence format=text episode={episode['episode']}" in texts
        assert not any("poundcake.silence" in text for text in texts)

    def test_an_ended_incident_offers_only_its_text(self, world, browser):
        page, episode = open_episode(world, browser, "changed_and_cleared")
        assert list(possible(page).values()) == [
            f"st2 run poundcake.why format=text episode={episode['episode']}"
        ]
        assert not page.section("section-commands").has("details")


class TestSilences:
    def test_the_form_of_alertmanager_has_the_matchers_filled_in(self, world, browser):
        world.settings["alertmanagers"] = ALERTMANAGERS
        (row,) = world.notify(service_down(), externalURL="https://am-2.example/alerts")
        page = browser.get(f"/board/episodes/{row.episode}")
        url = page.section("section-commands").links["Silence it in Alertmanager"]
        start = "https://am-2.example/alerts/#/silences/new?filter="
        assert url.startswith(start)
        assert unquote(url[len(start) :]) == (
            '{alertname="ServiceDown", cluster="eu-1", instance="web-21:9100", service="nginx",'
            ' severity="critical", team="infra"}'
        )
        silence = commands.for_episode("silence", row.episode, "minutes=60", "comment=by-hand")
        assert silence in possible(page).values()

    def test_without_alertmanagers_there_is_no_form(self, world, browser):
        page, _ = open_episode(world, browser, "failed")
        assert "Silence it in Alertmanager" not in page.main.links
        assert not any("poundcake.silence" in text for text in possible(page).values())

    def test_an_ended_incident_is_not_silenced(self, world, browser):
        _, episode = open_episode(world, browser, "changed_and_cleared")
        world.settings["alertmanagers"] = ALERTMANAGERS
        page = browser.get(f"/board/episodes/{episode['episode']}")
        assert "Silence it in Alertmanager" not in page.main.links


def test_what_a_dry_run_saw_is_shown(world, browser):
    filters = on_call_states.dry_run(world)
    with world.engine.begin() as connection:
        payload = json.loads(connection.scalar(select(events.c.payload)))
        payload["evidence"] = ["/var is 97% <full>"]
        connection.execute(update(events).values(payload=json.dumps(payload)))
    (episode,) = world.why(**filters)["episodes"]
    page = browser.get(f"/board/episodes/{episode['episode']}")
    assert "/var is 97% <full>" in page.section("section-executions").text


class TestUnknown:
    @pytest.mark.parametrize("name", ["nope", "d88b5ff5c97b3c66-1795816774618", "%3Cb%3Ex", "a/b"])
    def test_an_unknown_episode_is_404_and_says_how_to_search(self, world, browser, name):
        page = browser.get(f"/board/episodes/{name}")
        assert page.status == 404
        assert page.main.one("h1").text == "No such episode"
        assert page.main.one("form")["action"] == "/board/episodes"
        assert page.main.has("input", name="alert_name")

    def test_a_short_id_is_enough(self, world, browser):
        (row,) = world.notify(service_down())
        page = browser.get(f"/board/episodes/{row.episode[:6]}")
        assert row.episode in page.text

    def test_parameters_are_refused(self, world, browser):
        (row,) = world.notify(service_down())
        assert browser.problem(f"/board/episodes/{row.episode}?x=1").status == 400


def test_a_problem_of_stackstorm_is_shown(world, browser):
    on_call_states.running(world)
    (episode,) = world.why(alert_name="ServiceDown")["episodes"]
    world.stackstorm.errors["get_executions"] = OUTAGE
    page = browser.get(f"/board/episodes/{episode['episode']}")
    assert "open executions are shown as of the last sync" in page.text


def test_while_stackstorm_is_down_it_is_not_asked(world, browser):
    on_call_states.running(world)
    (episode,) = world.why(alert_name="ServiceDown")["episodes"]
    world.stackstorm.errors["get_executions"] = AssertionError("it is asked")
    down = {"stackstorm": {"state": "down", "detail": "connection refused"}}
    health = {**HEALTH, "components": {**HEALTH["components"], **down}}
    browser.service.health = health
    page = browser.get(f"/board/episodes/{episode['episode']}")
    notice = page.main.one(class_="notice").text
    assert notice == "StackStorm: open executions are as of the last sync: connection refused"


def test_what_a_person_did_is_in_the_timeline(world, browser):
    page, _ = open_episode(world, browser, "acknowledged")
    assert "anna acknowledged it: the disk is on order" in page.section("section-timeline").text
