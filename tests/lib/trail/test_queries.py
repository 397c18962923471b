"""The reads, in exactly the shapes that the HTTP contract promises."""

from __future__ import annotations

import datetime
import re

import pytest
from sqlalchemy import event

from poundcake import stackstorm
from poundcake.config import Config
from poundcake.endpoint import installation
from poundcake.endpoint.journal import Journal
from poundcake.trail import database, queries, text
from poundcake.trail.record import record_requests
from poundcake.trail.replay import replay_request
from poundcake.trail.schema import alerts, executions
from poundcake.trail.search import Filters
from tests.lib.samples import UTC, alert, iso, later, request
from tests.lib.trails import STATUSES, WORKFLOW, episode, pages, ran, record, view

STATUS = (
    "request_id received_at completed_at status receiver truncated_alerts alerts"
    " stackstorm_executions"
).split()
ALERT = (
    "id fingerprint episode alert_name severity instance status outcome reason starts_at ends_at"
    " st2_rule st2_workflow"
).split()
EXECUTION = (
    "st2_execution_id st2_workflow st2_rule alert_id status started_at ended_at duration_seconds"
    " dry_run mutated verified stage message url"
).split()
RECENT = "request_id received_at status alert_count st2_execution_count alerts".split()
RECENT_ALERT = "id alert_name severity instance status outcome reason st2_workflow".split()
ACTIVE = (
    "fingerprint episode alert_name severity instance starts_at last_seen_at notifications stale"
    " request_id st2_workflow st2_execution_id remediation_status"
).split()
LISTED = (
    "request_id st2_execution_id st2_workflow st2_rule status triggered_at duration_seconds url"
    " alert"
).split()
EPISODE = (
    "episode fingerprint alert_name severity instance state starts_at ends_at last_seen_at"
    " notifications alerts stackstorm_executions"
).split()
NOTIFICATION = "request_id received_at id status outcome reason st2_rule".split()


@pytest.fixture
def trail(engine):
    """One request with an alert of each kind, one of which was remediated."""
    record(engine, alert("Old", fingerprint="old"))
    request_id = record(
        engine,
        alert("New", fingerprint="new"),
        alert("Old", fingerprint="old"),
        alert("Old", status="resolved", ends_at=later(30), fingerprint="old"),
        {"labels": {"alertname": "Broken"}, "status": "?"},
        received_at=later(60),
        truncatedAlerts=22,
    )
    ran(engine, request_id, "new-1768392000000")
    return request_id


class TestStatus:
    def test_its_shape(self, engine, trail):
        found = view(engine, queries.status, trail, web_url="https://st2.example/")
        assert list(found) == STATUS
        assert [list(a) for a in found["alerts"]] == [ALERT] * 4
        assert [list(e) for e in found["stackstorm_executions"]] == [EXECUTION]

    def test_what_it_says(self, engine, trail):
        found = view(engine, queries.status, trail, web_url="https://st2.example/")
        assert found["request_id"] == trail
        assert found["received_at"] == "2026-01-14T12:01:00Z"
        assert (found["receiver"], found["truncated_alerts"]) == ("poundcake", 22)
        assert [a["outcome"] for a in found["alerts"]] == [
            "admitted",
            "duplicate",
            "resolved",
            "malformed",
        ]
        new, _, old, broken = found["alerts"]
        assert (new["st2_workflow"], new["st2_rule"]) == (WORKFLOW, "poundcake.host_down")
        assert (new["starts_at"], new["ends_at"]) == ("2026-01-14T12:00:00Z", None)
        assert old["ends_at"] == "2026-01-14T12:00:30Z"
        assert "alerts[3].status" in broken["reason"]
        assert all(a["reason"] for a in found["alerts"])
        (execution,) = found["stackstorm_executions"]
        assert execution == {
            "st2_execution_id": "e1",
            "st2_workflow": WORKFLOW,
            "st2_rule": "poundcake.host_down",
            "alert_id": new["id"],
            "status": "succeeded",
            "started_at": "2026-01-14T12:00:10Z",
            "ended_at": "2026-01-14T12:00:12.500000Z",
            "duration_seconds": 2.5,
            "dry_run": False,
            "mutated": True,
            "verified": True,
            "stage": "done",
            "message": "web-1 answers",
            "url": "https://st2.example/#/history/e1",
        }

    def test_of_nothing(self, engine):
        for request_id in ("", "nothing", "\x00", "'", "x" * 50000):
            assert view(engine, queries.status, request_id) is None

    def test_dry_run_stands_beside_the_status(self, engine):
        request_id = record(engine, alert(fingerprint="f"))
        ran(
            engine,
            request_id,
            "f-1768392000000",
            result={"output": {"dry_run": True, "mutated": False, "message": "would run x"}},
        )
        (found,) = view(engine, queries.status, request_id)["stackstorm_executions"]
        assert "dry run: nothing was changed" in found["message"]
        assert "would run x" in found["message"]
        (active,) = view(engine, queries.alerts_active, 24)["active_alerts"]
        assert "dry run" in active["remediation_status"]

    @pytest.mark.parametrize(
        "body, status", [("no json", "failed"), ('{"alerts": []}', "completed")]
    )
    def test_of_what_needs_nothing_more(self, engine, body, status):
        found = view(engine, queries.status, record(engine, body=body))
        assert found["status"] == status
        assert found["completed_at"]
        assert ("error" in found) == (status == "failed")

    def test_of_one_that_waits(self, engine):
        request_id = record(engine, alert(fingerprint="f"))
        assert view(engine, queries.status, request_id)["status"] == "recorded"
        ran(engine, request_id, "f-1768392000000", status="running", end_timestamp=None)
        found = view(engine, queries.status, request_id)
        assert found["status"] == "running"
        assert found["stackstorm_executions"][0]["duration_seconds"] is None

    def test_of_one_that_is_only_in_the_journal(self, tmp_path):
        journal = Journal(str(tmp_path / "j"))
        request_id = journal.accept(request(alert()), "", "hash", 1)
        found = installation.pending_status(journal.find(request_id), "broker: away")
        journal.close()
        assert [key for key in found if key != "held_up_by"] == STATUS
        assert (found["status"], found["held_up_by"]) == ("accepted", "broker: away")
        assert (found["request_id"], found["received_at"]) == (request_id, "2026-01-14T12:00:00Z")

    def test_a_second_body_under_one_id_names_the_senders(self, engine):
        first = record(engine, alert("A"))
        record(engine, alert("B"), request_id=first)
        second = view(engine, queries.executions_recent)["executions"][0]["request_id"]
        assert view(engine, queries.status, second)["client_request_id"] == first


class TestRecent:
    def test_its_shape(self, engine, trail):
        found = view(engine, queries.executions_recent)
        assert list(found) == ["executions", "total"]
        assert found["total"] == 2
        for call in found["executions"]:
            assert list(call) == RECENT
            for one in call["alerts"]:
                assert list(one) == RECENT_ALERT
        newest = found["executions"][0]
        assert newest["request_id"] == trail
        assert (newest["alert_count"], newest["st2_execution_count"]) == (4, 1)
        assert newest["alerts"][0]["st2_workflow"] == WORKFLOW

    def test_pages(self, engine):
        ids = [record(engine, alert(), received_at=later(n)) for n in range(5)]
        pages = []
        for offset in range(0, 6, 2):
            found = view(engine, queries.executions_recent, limit=2, offset=offset)
            assert found["total"] == 5
            pages += [call["request_id"] for call in found["executions"]]
        assert pages == ids[::-1]

    def test_of_one_moment_they_come_in_order(self, engine):
        ids = [record(engine) for _ in range(5)]
        found = view(engine, queries.executions_recent)["executions"]
        assert [call["request_id"] for call in found] == ids[::-1]

    def test_empty(self, engine):
        assert view(engine, queries.executions_recent) == {"executions": [], "total": 0}


class TestActive:
    def test_its_shape(self, engine, trail):
        found = view(engine, queries.alerts_active, 24)
        assert list(found) == ["active_alerts", "count"]
        assert found["count"] == 1
        (one,) = found["active_alerts"]
        assert list(one) == ACTIVE
        assert (one["fingerprint"], one["episode"]) == ("new", "new-1768392000000")
        assert (one["st2_execution_id"], one["st2_workflow"]) == ("e1", WORKFLOW)
        assert (one["request_id"], one["remediation_status"]) == (trail, "succeeded")

    def test_filters_and_pages(self, engine):
        for name, severity in (("A", "critical"), ("B", "warning"), ("a", "critical")):
            record(engine, alert(name, labels={"severity": severity}))
        names = [a["alert_name"] for a in view(engine, queries.alerts_active, 24)["active_alerts"]]
        assert names == ["a", "B", "A"]
        for query, expected in (
            ({"severity": "critical"}, ["a", "A"]),
            ({"alert_name": "A"}, ["A"]),
            ({"alert_name": "A", "severity": "warning"}, []),
            ({"instance": "web-1:9100"}, ["a", "B", "A"]),
            ({"instance": "web-1"}, []),
            ({"alert_name": "%"}, []),
        ):
            found = view(engine, queries.alerts_active, 24, Filters(**query))
            assert [a["alert_name"] for a in found["active_alerts"]] == expected
            assert found["count"] == len(expected)
        found = view(engine, queries.alerts_active, 24, limit=1, offset=1)
        assert ([a["alert_name"] for a in found["active_alerts"]], found["count"]) == (["B"], 3)

    def test_stale(self, engine):
        now = datetime.datetime.now(UTC)
        record(engine, alert("Fresh"), received_at=now - datetime.timedelta(minutes=50))
        record(engine, alert("Stale"), received_at=now - datetime.timedelta(minutes=70))
        found = view(engine, queries.alerts_active, 1)["active_alerts"]
        assert {a["alert_name"]: a["stale"] for a in found} == {"Fresh": False, "Stale": True}

    def test_what_holds_a_remediation_back_is_said(self, engine):
        config = Config(max_remediations_per_hour=1)
        record_requests(engine, config, [request(alert("A"), alert("A", labels={"x": "y"}))])
        found = view(engine, queries.alerts_active, 24)["active_alerts"]
        assert any("limit of 1" in a["remediation_status"] for a in found)

    def test_a_resolve_ends_it(self, engine):
        record(engine, alert())
        record(engine, alert(status="resolved", ends_at=later(9)), received_at=later(10))
        assert view(engine, queries.alerts_active, 24) == {"active_alerts": [], "count": 0}


class TestExecutions:
    def test_its_shape(self, engine, trail):
        found = view(engine, queries.st2_executions, web_url="https://st2.example")
        assert list(found) == ["st2_executions", "count"]
        (one,) = found["st2_executions"]
        assert list(one) == LISTED
        assert one["alert"] == {"name": "New", "severity": "critical", "instance": "web-1:9100"}
        assert one["url"] == "https://st2.example/#/history/e1"
        assert one["triggered_at"].endswith("Z")

    def test_filter_and_pages(self, engine):
        for number, status in enumerate(["succeeded", "failed", "succeeded"]):
            name = f"f{number}"
            request_id = record(engine, alert(fingerprint=name))
            ran(engine, request_id, name + "-1768392000000", "e" + name, status=status)
        found = view(engine, queries.st2_executions, status="succeeded")
        assert ([e["st2_execution_id"] for e in found["st2_executions"]], found["count"]) == (
            ["ef2", "ef0"],
            2,
        )
        found = view(engine, queries.st2_executions, limit=1, offset=1)
        assert ([e["st2_execution_id"] for e in found["st2_executions"]], found["count"]) == (
            ["ef1"],
            3,
        )
        assert view(engine, queries.st2_executions, status="gone")["count"] == 0


def why(engine, name="HostDown", **query):
    return view(engine, queries.why, Filters(alert_name=name), **query)["episodes"]


class TestWhy:
    def test_its_shape(self, engine, trail):
        found = view(engine, queries.why, Filters(alert_name="New"), web_url="https://st2.example")
        assert list(found) == ["episodes", "count"]
        assert found["count"] == 1
        (one,) = found["episodes"]
        assert list(one) == EPISODE
        assert [list(notification) for notification in one["alerts"]] == [NOTIFICATION]
        assert [list(execution) for execution in one["stackstorm_executions"]] == [EXECUTION]
        assert one["stackstorm_executions"][0]["url"] == "https://st2.example/#/history/e1"

    def test_from_the_alert_to_what_was_done(self, engine, trail):
        (one,) = why(engine, "New")
        (notification,) = one.pop("alerts")
        (execution,) = one.pop("stackstorm_executions")
        assert one == {
            "episode": episode("new"),
            "fingerprint": "new",
            "alert_name": "New",
            "severity": "critical",
            "instance": "web-1:9100",
            "state": "firing",
            "starts_at": "2026-01-14T12:00:00Z",
            "ends_at": None,
            "last_seen_at": "2026-01-14T12:01:00Z",
            "notifications": 1,
        }
        assert notification == {
            "request_id": trail,
            "received_at": "2026-01-14T12:01:00Z",
            "id": execution["alert_id"],
            "status": "firing",
            "outcome": "admitted",
            "reason": "new incident",
            "st2_rule": "poundcake.host_down",
        }
        assert (execution["st2_execution_id"], execution["status"]) == ("e1", "succeeded")

    def test_one_that_was_resolved(self, engine, trail):
        (one,) = why(engine, "Old")
        assert (one["state"], one["ends_at"]) == ("resolved", "2026-01-14T12:00:30Z")
        assert (one["notifications"], one["last_seen_at"]) == (2, "2026-01-14T12:01:00Z")
        assert [a["outcome"] for a in one["alerts"]] == ["admitted", "duplicate", "resolved"]
        first, second, _ = one["alerts"]
        assert second["reason"] == "duplicate of " + first["request_id"]
        assert one["stackstorm_executions"] == []

    def test_the_one_heard_of_last_comes_first(self, engine):
        for n in range(3):
            record(engine, alert(fingerprint=f"f{n}"), received_at=later(n))
        record(engine, alert(fingerprint="f1"), received_at=later(60))
        assert [one["fingerprint"] for one in why(engine)] == ["f1", "f2", "f0"]

    def test_a_later_incident_takes_the_place_of_one(self, engine):
        record(engine, alert(fingerprint="f"))
        record(engine, alert(fingerprint="f", starts_at=later(600)), received_at=later(600))
        new, old = why(engine)
        assert (new["state"], old["state"], old["ends_at"]) == ("firing", "superseded", None)
        assert new["alerts"][0]["reason"] == "new incident, supersedes " + old["episode"]

    def test_what_is_no_incident_stands_for_itself(self, engine):
        record(engine, {"labels": {"alertname": "HostDown"}, "status": "?"})
        for n in (1, 2):
            resolve = alert(fingerprint="f", status="resolved", ends_at=later(n))
            record(engine, resolve, received_at=later(n))
        found = why(engine)
        assert [(one["episode"], one["state"]) for one in found] == [("", "")] * 3
        assert [one["alerts"][0]["reason"] for one in found[:2]] == ["nothing open"] * 2
        assert "alerts[0].status" in found[2]["alerts"][0]["reason"]
        assert [one["notifications"] for one in found] == [1] * 3

    def test_why_nothing_ran(self, engine):
        resolve = alert("Late", fingerprint="late", status="resolved", ends_at=later(1))
        record(engine, resolve, received_at=later(1))
        record(engine, alert("Late", fingerprint="late"), received_at=later(2))
        reason = why(engine, "Late")[0]["alerts"][0]["reason"]
        assert reason == "late: its resolve is already on record"

        config = Config(max_remediations_per_hour=1)
        sent = [alert("Many", fingerprint=f) for f in ("m1", "m2")]
        record(engine, *sent, config=config)
        (notification,) = why(engine, "Many")[0]["alerts"]
        assert (notification["outcome"], notification["reason"]) == (
            "rate_limited",
            "limit of 1 an hour for this alert name until 2026-01-14T13:00:00Z",
        )

        config = Config(cooldown_seconds=3600)
        record(engine, alert("Cool", fingerprint="c"), config=config)
        record(
            engine,
            alert("Cool", fingerprint="c", status="resolved", ends_at=later(9)),
            alert("Cool", fingerprint="c", starts_at=later(60)),
            received_at=later(60),
            config=config,
        )
        cooling, ended = why(engine, "Cool")
        (notification,) = cooling["alerts"]
        assert (notification["outcome"], notification["reason"]) == (
            "cooldown",
            "cooldown until 2026-01-14T13:00:00Z",
        )
        assert (cooling["state"], ended["state"]) == ("firing", "resolved")

        record(engine, alert("Nobody", fingerprint="n"))
        with database.transaction(engine) as connection:
            connection.execute(
                alerts.update()
                .where(alerts.c.fingerprint == "n")
                .values(explanation="no_rule", explanation_reason="no rule matched")
            )
        reason = why(engine, "Nobody")[0]["alerts"][0]["reason"]
        assert reason == "new incident; no rule matched"

    def test_an_incident_that_waited_for_its_cooldown(self, engine):
        config = Config(cooldown_seconds=100)
        record(engine, alert(fingerprint="f"), config=config)
        resolve = alert(fingerprint="f", status="resolved", ends_at=later(9))
        record(engine, resolve, received_at=later(10), config=config)
        again = alert(fingerprint="f", starts_at=later(20))
        for seconds in (30, 40, 90, 110, 120):
            record(engine, again, received_at=later(seconds), config=config)
        one = why(engine)[0]
        # The first, and of the others the newest.
        assert [a["outcome"] for a in one["alerts"]] == ["cooldown"] * 2 + ["admitted", "duplicate"]
        assert one["alerts"][2]["reason"] == "first notification after cooldown"
        assert (one["state"], one["notifications"]) == ("firing", 5)
        assert (one["starts_at"], one["last_seen_at"]) == (iso(later(20)), iso(later(120)))

    def test_of_many_repetitions_the_newest_are_shown(self, engine):
        first = record(engine, alert(fingerprint="f"))
        ran(engine, first, episode("f"))
        again = [request(alert(fingerprint="f"), received_at=later(n)) for n in range(1, 31)]
        record_requests(engine, Config(), again)
        for seconds in (None, 60):
            if seconds:
                resolve = alert(fingerprint="f", status="resolved", ends_at=later(55))
                record(engine, resolve, received_at=later(seconds))
            (one,) = why(engine)
            outcomes = [a["outcome"] for a in one["alerts"]]
            assert len(outcomes) < 10
            assert (outcomes[0], outcomes[-1]) == (
                "admitted",
                "resolved" if seconds else "duplicate",
            )
            assert set(outcomes[1:-1]) == {"duplicate"}
            assert one["alerts"][-2]["request_id"] in {r.request_id for r in again[-2:]}
            assert one["notifications"] == 31
            assert [e["st2_execution_id"] for e in one["stackstorm_executions"]] == ["e1"]

    def test_a_noisy_episode_hides_no_other(self, engine, monkeypatch):
        monkeypatch.setattr(queries, "_LOOKED_AT_WHY", 20)
        quiet = [request(alert(fingerprint="quiet"), received_at=later(n)) for n in range(8)]
        record_requests(engine, Config(), quiet)
        noise = [
            request(alert(fingerprint=f), received_at=later(n))
            for f, n in [("other", 9)] + [("noisy", n) for n in range(10, 40)]
        ]
        # Nothing is admitted any more: each notification of the noisy one says so again.
        record_requests(engine, Config(max_remediations_per_hour=1), noise)
        for until, number in ((later(12), 1), (None, 2)):
            found = []
            filters = Filters(alert_name="HostDown", until=until)
            walked = list(pages(engine, queries.why, filters=filters))
            found = [one for page in walked for one in page["episodes"]]
            assert len(walked) == number
            assert [one["fingerprint"] for one in found] == ["noisy", "other", "quiet"]
            assert [one["state"] for one in found] == ["firing"] * 3
            assert [one["notifications"] for one in found] == [30, 1, 8]
            assert found[2]["alerts"][0]["outcome"] == "admitted"

    def test_a_page_ends_between_two_episodes_of_a_request(self, engine):
        sent = [alert(fingerprint=f) for f in ("f1", "f2", "f3")]
        request_id = record(engine, *sent, received_at=later(1))
        record(engine, alert(fingerprint="f0"))
        found = []
        for page in pages(engine, queries.why, filters=Filters(alert_name="HostDown"), limit=1):
            (one,) = page["episodes"]
            found.append((one["fingerprint"], one["alerts"][0]["request_id"] == request_id))
        assert found == [("f3", True), ("f2", True), ("f1", True), ("f0", False)]

    def test_what_came_late_stands_where_it_belongs(self, engine):
        record(engine, alert(fingerprint="f"), received_at=later(10))
        record(engine, alert(fingerprint="f", starts_at=later(-5)), received_at=later(5))
        record(engine, alert(fingerprint="g"), received_at=later(7))
        found = why(engine)
        assert [one["fingerprint"] for one in found] == ["f", "g"]
        received = [a["received_at"] for a in found[0]["alerts"]]
        assert received == [iso(later(5)), iso(later(10))]


class TestAlertOf:
    def test_the_alert_of_a_workflow_is_verbatim(self, engine):
        hostile = "{{ st2kv.system.x }} <% x %>"
        labels = {"x": hostile}
        request_id = record(
            engine, alert(fingerprint="f", labels=labels, annotations={"s": hostile})
        )
        found = view(engine, queries.alert_of, request_id, episode("f"))
        assert found["labels"]["x"] == found["annotations"]["s"] == hostile
        assert view(engine, queries.alert_of, request_id, "x") is None
        assert view(engine, queries.alert_of, "x", episode("f")) is None

    def test_it_says_when_its_incident_ended(self, engine):
        request_id = record(engine, alert(fingerprint="f"), received_at=later(5))
        found = [view(engine, queries.alert_of, request_id, episode("f"))]
        # What takes the incident over does not end it.
        replay_request(engine, Config(), request_id)
        found.append(view(engine, queries.alert_of, request_id, episode("f")))
        ends = alert(status="resolved", fingerprint="f", ends_at=later(60))
        record(engine, ends, received_at=later(65))
        found.append(view(engine, queries.alert_of, request_id, episode("f")))
        assert [one["incident_ended_at"] for one in found] == [None, None, iso(later(65))]


def test_each_status_of_stackstorm_in_each_view(engine):
    sent = [alert(fingerprint=status) for status in STATUSES]
    request_id = record(engine, *sent)
    for status in STATUSES:
        end = iso(later(12.5)) if status in stackstorm.TERMINAL else None
        ran(engine, request_id, episode(status), "e-" + status, status=status, end_timestamp=end)
    trail = view(engine, queries.status, request_id)
    listed = view(engine, queries.st2_executions)
    active = view(engine, queries.alerts_active, 24)
    asked = view(engine, queries.why, Filters(alert_name="HostDown"), limit=len(STATUSES))
    for rows in (
        trail["stackstorm_executions"],
        listed["st2_executions"],
        [e for one in asked["episodes"] for e in one["stackstorm_executions"]],
    ):
        found = {row["st2_execution_id"]: row for row in rows}
        for status in STATUSES:
            row = found["e-" + status]
            ended = status in ("succeeded", "failed", "timeout", "abandoned", "canceled", "gone")
            assert (row["status"], row["duration_seconds"]) == (status, 2.5 if ended else None)
    for status in STATUSES:
        found = view(engine, queries.st2_executions, status=status)
        assert [e["st2_execution_id"] for e in found["st2_executions"]] == ["e-" + status]
        found = view(
            engine, queries.st2_executions, status=status, filters=Filters(severity="critical")
        )
        assert [e["st2_execution_id"] for e in found["st2_executions"]] == ["e-" + status]
    found = {a["fingerprint"]: a["remediation_status"] for a in active["active_alerts"]}
    assert found == {status: status for status in STATUSES}
    for shown in (text.status(trail), text.st2_executions(listed), text.why(asked)):
        lines = [re.split(r"[^\w-]+", line) for line in shown.split("\n")]
        for status in STATUSES:
            (line,) = [line for line in lines if "e-" + status in line]
            assert status in line
    lines = [line.split() for line in text.alerts_active(active).split("\n")]
    for status in STATUSES:
        (line,) = [line for line in lines if episode(status) in line]
        assert status in line


def test_an_empty_database(engine):
    assert view(engine, queries.status, "x") is None
    assert view(engine, queries.executions_recent) == {"executions": [], "total": 0}
    assert view(engine, queries.alerts_active, 24) == {"active_alerts": [], "count": 0}
    assert view(engine, queries.st2_executions) == {"st2_executions": [], "count": 0}
    assert view(engine, queries.why, Filters()) == {"episodes": [], "count": 0}
    assert view(engine, queries.alert_of, "x", "x") is None


def test_no_list_reads_what_can_be_a_megabyte_long(engine, trail):
    sent = []
    event.listen(engine, "before_cursor_execute", lambda c, r, text, *more: sent.append(text))
    view(engine, queries.executions_recent)
    view(engine, queries.executions_recent, Filters(alert_name="New"))
    view(engine, queries.alerts_active, 24)
    view(engine, queries.st2_executions)
    view(engine, queries.why, Filters(alert_name="New"))
    assert len(sent) > 10
    for statement in sent:
        assert not re.search("body|headers|labels|annotations|generator_url", statement)


def test_every_terminal_status_is_one_that_sync_writes():
    assert len("abandoned") <= executions.c.status.type.length
    assert set(stackstorm.TERMINAL) >= {"succeeded", "failed", "timeout", "abandoned", "canceled"}
