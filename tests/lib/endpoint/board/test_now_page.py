"""The page Now shows what fires, and first of all what waits for a person."""

from __future__ import annotations

import datetime

import pytest

from poundcake.endpoint.board import now_page
from poundcake.endpoint.journal import JournalError
from poundcake.timestamps import format_timestamp
from poundcake.trail import interventions, search
from poundcake.trail.database import DatabaseError
from tests.lib.endpoint.board.recorded_service import HEALTH
from tests.lib.samples import alert, waiting_requests
from tests.lib.trail.text import on_call_states
from tests.lib.trail.text.on_call_states import ANNA, START, host_down, service_down
from tests.lib.trails import on_sqlite

pytestmark = on_sqlite


def cards(section):
    return [(card.one("h3").text, card.commands) for card in section.all("article")]


def fire(world, count, name="DiskFull", start=0, **labels):
    """Record alerts that no rule matches."""
    world.settings["storm_limit"] = 0
    numbers = range(start, start + count)
    rows = world.notify(
        *(
            alert(
                name,
                starts_at=world.now,
                labels={"instance": f"db-{number}:9100", "severity": "warning", **labels},
                annotations={"summary": f"the disk of db-{number} is full"},
            )
            for number in numbers
        )
    )
    for row in rows:
        world.emit(row)
    return rows


class TestSections:
    @pytest.mark.parametrize(
        "state, section, title, command",
        [
            ("waiting_for_approval", "waiting", "WAITING FOR YOU HostDown", "st2 inquiry respond "),
            ("failed", "failed", "FAILED ServiceDown", "st2 execution get "),
            ("changed_and_not_cleared", "failed", "DID NOT HELP ServiceDown", "st2 execution get "),
            ("refused_by_hosts", "failed", "NOT TOUCHED: HOST NOT ALLOWED", "st2 run poundcake.pl"),
            ("lost", "failed", "LOST ServiceDown", "st2 run poundcake.replay request_id="),
            ("rule_failed", "failed", "RULE FAILED", "st2 run poundcake.replay request_id="),
            ("running", "in_progress", "RUNNING ServiceDown", "st2 execution get "),
            ("changed", "in_progress", "CHANGED ServiceDown", ""),
            ("stackstorm_away", "in_progress", "WAITING FOR STACKSTORM", "st2 run poundcake.heal"),
            ("acknowledged", "handled", "ACKNOWLEDGED NodeFilesystem", "st2 run poundcake.ackn"),
            (
                "silenced",
                "handled",
                "SILENCED HostDown",
                "st2 run poundcake.unsilence format=text episode=",
            ),
            ("no_rule", "other", "NOTHING RAN NodeFilesystemFull", "st2 run poundcake.plan "),
            ("evidence_only", "other", "EVIDENCE ONLY HostDown", "st2 execution get "),
            ("dry_run", "other", "DRY RUN ServiceDown", "st2 run poundcake.plan "),
            ("stale", "other", "STALE NodeFilesystemFull", "st2 run poundcake.close "),
        ],
    )
    def test_an_incident_is_in_the_section_of_its_verdict(
        self, world, browser, state, section, title, command
    ):
        getattr(on_call_states, state)(world)
        page = browser.get("/board")
        found = [
            heading["id"] for heading in page.main.all("h2") if heading["id"] != "section-journal"
        ]
        assert found == [f"section-{section}"]
        shown = page.section(f"section-{section}")
        assert title in shown.text
        assert command in " ".join(shown.commands)
        (episode,) = {href for href in shown.links.values() if href.startswith("/board/episodes/")}
        assert browser.get(episode).status == 200

    def test_a_resolved_alert_is_not_shown(self, world, browser):
        on_call_states.changed_and_cleared(world)
        page = browser.get("/board")
        assert "ServiceDown" not in page.text
        assert page.main.texts("h2") == ["Nothing is firing"]

    def test_the_most_urgent_section_and_severity_come_first(self, world, browser):
        fire(world, 1, "Calm")
        on_call_states.failed(world)
        on_call_states.waiting_for_approval(world)
        fire(world, 1, "Loud", severity="critical")
        world.sync()
        page = browser.get("/board")
        titles = page.main.texts("h3")
        order = ["WAITING FOR YOU", "FAILED", "Loud", "Calm"]
        positions = [next(i for i, t in enumerate(titles) if text in t) for text in order]
        assert positions == sorted(positions)
        counts = page.main.one(class_="counts").texts("a")
        assert counts == ["1 waiting for your answer", "1 failed, refused or did not help"] + [
            "2 for you to handle"
        ]


class TestApprovals:
    def test_an_approval_says_what_who_until_when_why_and_how(self, world, browser):
        on_call_states.waiting_for_approval(world)
        card = browser.get("/board").section("section-waiting").one("article")
        text = card.text
        for part in (
            "HostDown web-21:9100",
            "Change: ipmi.power_cycle on web-21",
            "Who may answer: anna, ben until 22:30:06Z (25 min left)",
            "the alert fires",
            "22 and 9100: no answer",
        ):
            assert part in text
        (command,) = card.commands
        inquiry = command.rpartition(" ")[2]
        assert card.links["Answer in StackStorm"] == f"https://st2.example/#/inquiry/{inquiry}"

    def test_an_approval_is_shown_before_sync_has_reported_it(self, world, browser):
        """As in `why`, the page asks StackStorm."""
        (row,) = world.notify(host_down())
        _, _, inquiry = world.ask(row, remediation="dead-host")
        card = browser.get("/board").section("section-waiting").one("article")
        assert card.commands == [f"st2 inquiry respond {inquiry}"]
        assert "Change: ipmi.power_cycle on web-21" in card.text

    def test_while_stackstorm_is_down_it_is_not_asked_and_the_page_says_so(self, world, browser):
        (row,) = world.notify(host_down())
        world.ask(row, remediation="dead-host")
        world.stackstorm.errors["get_executions"] = AssertionError("it is asked")
        down = {"stackstorm": {"state": "down", "detail": "connection refused"}}
        health = {**HEALTH, "components": {**HEALTH["components"], **down}}
        browser.service.health = health
        page = browser.get("/board")
        assert "RUNNING HostDown" in page.section("section-in_progress").text
        notice = page.main.one(class_="notice").text
        assert notice == "StackStorm: open executions are as of the last sync: connection refused"

    def test_stackstorm_is_asked_once_and_only_if_something_is_open(
        self, world, browser, monkeypatch
    ):
        asked = []
        get_executions = world.stackstorm.get_executions
        monkeypatch.setattr(
            world.stackstorm, "get_executions", lambda ids: asked.append(ids) or get_executions(ids)
        )
        fire(world, 3)
        browser.get("/board")
        assert asked == []
        on_call_states.running(world)
        asked.clear()
        browser.get("/board")
        assert len(asked) == 1

    def test_without_a_web_ui_the_command_remains(self, world, browser):
        world.settings["st2_web_url"] = ""
        on_call_states.waiting_for_approval(world)
        card = browser.get("/board").section("section-waiting").one("article")
        assert "Answer in StackStorm" not in card.links
        assert card.commands[0].startswith("st2 inquiry respond ")

    def test_approvals_are_shown_however_many_newer_incidents_are_open(
        self, world, browser, monkeypatch
    ):
        monkeypatch.setattr(now_page, "MAX_INCIDENTS", 5)
        on_call_states.waiting_for_approval(world)
        world.wait(10)
        fire(world, 12)
        page = browser.get("/board")
        assert "HostDown web-21:9100" in page.section("section-waiting").text
        more = page.section("section-more")
        assert more.one("h2").text == "7 more"
        assert more.texts("li") == ["DiskFull 7"]
        assert page.main.one(class_="counts").texts("a")[-1] == "7 more, older ones"
        seen = {text for text in page.main.links if "db-" in text}
        target = more.one("h2").links["7 more"]
        while target:
            page = browser.get(target)
            assert page.main.one("h1").text == "Older open incidents"
            assert page.main.links["Back to the newest ones"] == "/board"
            seen |= {text for text in page.main.links if "db-" in text}
            links = page.main.all(id="more-link")
            target = links[0]["href"] if links else ""
        assert seen == {f"db-{number}:9100" for number in range(12)}

    @pytest.mark.parametrize("query", ["before=x", "before=2026-01-14T12:00:00Z/e/1"])
    def test_a_wrong_cursor_is_refused(self, world, browser, query):
        with pytest.raises(search.FilterError, match=r"^before: "):
            browser.get(f"/board?{query}")

    def test_of_many_approvals_each_has_a_link(self, world, browser, monkeypatch):
        monkeypatch.setattr(now_page, "MAX_CARDS", 1)
        on_call_states.waiting_for_approval(world)
        monkeypatch.setattr(on_call_states, "host_down", lambda: host_down(22))
        on_call_states.waiting_for_approval(world)
        section = browser.get("/board").section("section-waiting")
        for name in ("web-21:9100", "web-22:9100"):
            assert any(name in text for text in section.links), name


class TestGroups:
    def test_incidents_with_one_verdict_and_name_are_one_group(self, world, browser):
        fire(world, 14, cluster="eu-1", disk="/data")
        world.wait(120)
        world.sync()
        page = browser.get("/board")
        group = page.section("section-other").one("details")
        assert "open" not in group.attributes
        summary = group.one("summary").text
        assert "NOTHING RAN DiskFull 14 incidents" in summary
        assert "the oldest for 2 min" in summary
        assert "no rule and no entry of remediations matches the alert" in summary
        rows = group.one("tbody").all("tr")
        assert len(rows) == now_page.MAX_GROUP_ROWS
        assert rows[0].one("th").links and rows[0].all("td")[-1].text == "2 min"
        assert group.links["4 more"] == "/board/episodes?alert_name=DiskFull&status=firing"

    def test_a_single_incident_names_its_instance_and_who_handles_it(self, world, browser):
        on_call_states.acknowledged(world)
        summary = browser.get("/board").section("section-handled").one("summary").text
        assert "ACKNOWLEDGED NodeFilesystemFull db-3:9100" in summary
        assert "anna handles it: the disk is on order" in summary
        assert "firing for 52 min" in summary and "incident" not in summary

    def test_few_incidents_are_open(self, world, browser):
        fire(world, 3)
        world.wait(120)
        world.sync()
        group = browser.get("/board").section("section-other").one("details")
        assert "open" in group.attributes

    def test_the_id_of_a_group_stays_when_its_incidents_change(self, world, browser):
        fire(world, 2)
        world.wait(120)
        world.sync()
        first = browser.get("/board").main.one("details")["id"]
        fire(world, 2, start=5)
        world.wait(120)
        world.sync()
        assert browser.get("/board").main.one("details")["id"] == first

    def test_labels_that_all_share_are_shown_once(self, world, browser):
        fire(world, 1, cluster="eu-1", team="infra", rack="r1")
        fire(world, 1, "CpuHigh", cluster="eu-1", team="infra", rack="r2")
        page = browser.get("/board")
        assert page.main.one(class_="shared-labels").texts("li") == ["team=infra", "cluster=eu-1"]
        assert page.text.count("cluster=eu-1") == 1
        assert "rack=r1" in page.text and "rack=r2" in page.text

    def test_a_label_that_only_some_have_stays_in_their_rows(self, world, browser):
        for number, cluster in enumerate(("eu-1", "eu-1", "us-1", "us-1")):
            fire(world, 1, f"Full{number}", cluster=cluster, team="infra")
        page = browser.get("/board")
        assert page.main.one(class_="shared-labels").texts("li") == ["team=infra"]
        assert page.text.count("cluster=eu-1") == page.text.count("cluster=us-1") == 2

    def test_a_single_incident_keeps_its_labels(self, world, browser):
        on_call_states.failed(world)
        page = browser.get("/board")
        assert not page.main.has(class_="shared-labels")
        assert "cluster=eu-1" in page.main.one("article").text

    def test_with_many_names_the_page_stays_small(self, world, browser):
        for number in range(60):
            fire(
                world,
                2,
                f"Alert{number}",
                comment="x" * 300,
                **{f"l{n}": "y" * 90 for n in range(30)},
            )
        page = browser.get("/board")
        section = page.section("section-in_progress")
        assert section.one("h2").text == "In progress 120"
        assert len(section.all("details")) == now_page.MAX_GROUPS
        names = section.one(class_="names").texts("li")
        assert len(names) == now_page.MAX_NAMES + 1
        shown = 2 * (now_page.MAX_GROUPS + now_page.MAX_NAMES)
        assert names[-1] == f"{120 - shown} more"


class TestJournal:
    def test_what_waits_in_the_journal_is_shown(self, world, browser):
        on_call_states.waiting_in_the_journal(world)
        browser.service.journal_document = waiting_requests(
            format_timestamp(START),
            attempts=3,
            alert_name="ServiceDown",
            instance="web-21:9100",
            labels={"team": "infra"},
        )
        section = browser.get("/board").section("section-journal")
        assert "WAITING TO BE RECORDED ServiceDown web-21:9100" in section.text
        assert "broker: connection refused" in section.text
        assert section.commands == ["st2 run poundcake.health format=text"]
        path = "/board/requests/3a6f3c9e-8a0c-4b57-9d3a-5a2f0d6f1c11"
        assert section.links["request 3a6f3c9e"] == path

    def test_a_journal_that_cannot_be_read_is_reported(self, world, browser):
        browser.service.journal_document = JournalError("the disk is full")
        page = browser.get("/board")
        assert "The journal cannot be read: the disk is full" in page.text

    def test_without_a_database_the_page_says_so(self, world, browser):
        on_call_states.failed(world)
        browser.service.failure = DatabaseError("connection refused")
        text = browser.get("/board").text
        assert "The tracking database cannot be read" in text and "connection refused" in text
        assert "Webhooks are still accepted" in text
        assert "Nothing is firing" not in text


class TestEmpty:
    def test_a_new_installation_says_how_to_test_it(self, world, browser):
        page = browser.get("/board")
        section = page.section("section-empty")
        assert "Nothing is firing" in section.text and "No webhook has come yet" in section.text
        (command,) = section.commands
        assert command == (
            "curl -H 'Content-Type: application/json' --data-binary "
            "@tests/scenarios/samples/firing.json http://127.0.0.1:8000/api/v1/webhook"
        )

    def test_the_command_names_a_token_if_one_is_needed(self, world, browser):
        world.settings["auth_tokens"] = ["a-token-for-a-test"]
        (command,) = browser.get("/board").section("section-empty").commands
        assert command.startswith('curl -H "Authorization: Bearer $TOKEN" ')

    def test_the_age_of_the_last_webhook_is_shown(self, world, browser):
        (row,) = world.notify(service_down())
        interventions.close(
            world.engine,
            ANNA,
            episode=row.episode,
            comment="it was a test",
        )
        world.wait(3 * 60)
        section = browser.get("/board").section("section-empty")
        assert "No incident is open. The last webhook came 3 min ago." in section.text
        moment = section.one("time")
        assert moment["datetime"] == format_timestamp(START)
        assert moment["title"] == "2026-11-27 22:00:04Z"


def test_text_of_an_alert_stays_text(world, browser):
    attack = "<script>alert(1)</script><img src=x onerror=alert(2)>\" onclick='x' {{ 7*7 }}"
    (row,) = world.notify(
        alert(
            attack,
            starts_at=START,
            labels={"instance": attack, "severity": attack, attack: attack},
            annotations={"summary": attack, "runbook_url": "javascript:alert(1)"},
        )
    )
    world.wait(60)
    for path in (
        "/board",
        "/board/episodes",
        f"/board/episodes/{row.episode}",
        f"/board/requests/{world.request_id}",
    ):
        page = browser.get(path)
        body = page.body.decode()
        assert "<script>alert" not in body and "<img" not in body
        assert not [e for e in page.document.all() if set(e.attributes) & {"onclick", "onerror"}]
        assert not [a for a in page.document.all("a") if "javascript" in a["href"].lower()]
        assert "<script>alert(1)</script>" in page.text
        assert "49" not in page.main.one("h1").text


def test_the_page_changes_when_an_incident_does(world, browser):
    on_call_states.no_rule(world)
    first = browser.get("/board").headers["ETag"]
    world.now += datetime.timedelta(seconds=1)
    assert browser.get("/board").headers["ETag"] == first
    interventions.acknowledge(
        world.engine, ANNA, filters=search.parse(alert_name="NodeFilesystemFull"), comment=""
    )
    assert browser.get("/board").headers["ETag"] != first
