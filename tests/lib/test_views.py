"""The reads, in exactly the shapes that the HTTP contract promises."""

import datetime
import json

import pytest

from poundcake import database, stackstorm, sync, tracking, views
from poundcake.config import Config
from poundcake.journal import Journal
from poundcake.schema import executions
from poundcake.stackstorm import StackStormError
from tests.lib.samples import UTC, alert, iso, later, request

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
WORKFLOW = "poundcake.host_down"


@pytest.fixture
def engine(database_url):
    found = database.open_engine(database_url)
    database.prepare(found)
    yield found
    found.dispose()


def record(engine, *alerts, **more):
    sent = request(*alerts, **more)
    tracking.record(engine, Config(), [sent])
    return sent.request_id


def view(engine, function, *args, **query):
    with database.reading(engine) as connection:
        found = function(connection, *args, **query)
    json.dumps(found)  # it is what a URL answers
    return found


def ran(engine, request_id, episode, execution="e1", **more):
    """An execution that claimed the episode and ended."""
    tracking.link(engine, request_id, episode, WORKFLOW, execution)
    found = {
        "id": execution,
        "status": "succeeded",
        "start_timestamp": iso(later(10)),
        "end_timestamp": iso(later(12.5)),
        "rule": {"ref": "poundcake.host_down"},
        "result": {
            "output": {
                "dry_run": False,
                "mutated": True,
                "verified": True,
                "stage": "done",
                "message": "web-1 answers",
            }
        },
    }
    found.update(more)
    with database.transaction(engine) as connection:
        sync.write_execution(connection, found)


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
        found = view(engine, views.status, trail, web_url="https://st2.example/")
        assert list(found) == STATUS
        assert [list(a) for a in found["alerts"]] == [ALERT] * 4
        assert [list(e) for e in found["stackstorm_executions"]] == [EXECUTION]

    def test_what_it_says(self, engine, trail):
        found = view(engine, views.status, trail, web_url="https://st2.example/")
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
            assert view(engine, views.status, request_id) is None

    def test_dry_run_stands_beside_the_status(self, engine):
        request_id = record(engine, alert(fingerprint="f"))
        ran(
            engine,
            request_id,
            "f-1768392000000",
            result={"output": {"dry_run": True, "mutated": False, "message": "would run x"}},
        )
        (found,) = view(engine, views.status, request_id)["stackstorm_executions"]
        assert "dry run: nothing was changed" in found["message"]
        assert "would run x" in found["message"]
        (active,) = view(engine, views.alerts_active, 24)["active_alerts"]
        assert "dry run" in active["remediation_status"]

    @pytest.mark.parametrize(
        "body, status", [("no json", "failed"), ('{"alerts": []}', "completed")]
    )
    def test_of_what_needs_nothing_more(self, engine, body, status):
        found = view(engine, views.status, record(engine, body=body))
        assert found["status"] == status
        assert found["completed_at"]
        assert ("error" in found) == (status == "failed")

    def test_of_one_that_waits(self, engine):
        request_id = record(engine, alert(fingerprint="f"))
        assert view(engine, views.status, request_id)["status"] == "recorded"
        ran(engine, request_id, "f-1768392000000", status="running", end_timestamp=None)
        found = view(engine, views.status, request_id)
        assert found["status"] == "running"
        assert found["stackstorm_executions"][0]["duration_seconds"] is None

    def test_of_one_that_is_only_in_the_journal(self, tmp_path):
        journal = Journal(str(tmp_path / "j"))
        request_id = journal.accept(request(alert()), "", "hash", 1)
        found = views.accepted(journal.find(request_id), "broker: away")
        journal.close()
        assert [key for key in found if key != "held_up_by"] == STATUS
        assert (found["status"], found["held_up_by"]) == ("accepted", "broker: away")
        assert (found["request_id"], found["received_at"]) == (request_id, "2026-01-14T12:00:00Z")

    def test_a_second_body_under_one_id_names_the_senders(self, engine):
        first = record(engine, alert("A"))
        record(engine, alert("B"), request_id=first)
        second = view(engine, views.executions_recent)["executions"][0]["request_id"]
        assert view(engine, views.status, second)["client_request_id"] == first


class TestRecent:
    def test_its_shape(self, engine, trail):
        found = view(engine, views.executions_recent)
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
            found = view(engine, views.executions_recent, limit=2, offset=offset)
            assert found["total"] == 5
            pages += [call["request_id"] for call in found["executions"]]
        assert pages == ids[::-1]

    def test_of_one_moment_they_come_in_order(self, engine):
        ids = [record(engine) for _ in range(5)]
        found = view(engine, views.executions_recent)["executions"]
        assert [call["request_id"] for call in found] == ids[::-1]

    def test_empty(self, engine):
        assert view(engine, views.executions_recent) == {"executions": [], "total": 0}


class TestActive:
    def test_its_shape(self, engine, trail):
        found = view(engine, views.alerts_active, 24)
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
        names = [a["alert_name"] for a in view(engine, views.alerts_active, 24)["active_alerts"]]
        assert names == ["a", "B", "A"]
        for query, expected in (
            ({"severity": "critical"}, ["a", "A"]),
            ({"alert_name": "A"}, ["A"]),
            ({"alert_name": "A", "severity": "warning"}, []),
            ({"instance": "web-1:9100"}, ["a", "B", "A"]),
            ({"instance": "web-1"}, []),
            ({"alert_name": "%"}, []),
        ):
            found = view(engine, views.alerts_active, 24, **query)
            assert [a["alert_name"] for a in found["active_alerts"]] == expected
            assert found["count"] == len(expected)
        found = view(engine, views.alerts_active, 24, limit=1, offset=1)
        assert ([a["alert_name"] for a in found["active_alerts"]], found["count"]) == (["B"], 3)

    def test_stale(self, engine):
        now = datetime.datetime.now(UTC)
        record(engine, alert("Fresh"), received_at=now - datetime.timedelta(minutes=50))
        record(engine, alert("Stale"), received_at=now - datetime.timedelta(minutes=70))
        found = view(engine, views.alerts_active, 1)["active_alerts"]
        assert {a["alert_name"]: a["stale"] for a in found} == {"Fresh": False, "Stale": True}

    def test_what_holds_a_remediation_back_is_said(self, engine):
        config = Config(max_remediations_per_hour=1)
        tracking.record(engine, config, [request(alert("A"), alert("A", labels={"x": "y"}))])
        found = view(engine, views.alerts_active, 24)["active_alerts"]
        assert any("limit of 1" in a["remediation_status"] for a in found)

    def test_a_resolve_ends_it(self, engine):
        record(engine, alert())
        record(engine, alert(status="resolved", ends_at=later(9)), received_at=later(10))
        assert view(engine, views.alerts_active, 24) == {"active_alerts": [], "count": 0}


class TestExecutions:
    def test_its_shape(self, engine, trail):
        found = view(engine, views.st2_executions, web_url="https://st2.example")
        assert list(found) == ["st2_executions", "count"]
        (one,) = found["st2_executions"]
        assert list(one) == LISTED
        assert one["alert"] == {"name": "New", "severity": "critical", "instance": "web-1:9100"}
        assert one["url"] == "https://st2.example/#/history/e1"
        assert one["triggered_at"].endswith("Z")

    def test_filter_and_pages(self, engine):
        for number, status in enumerate(["succeeded", "failed", "succeeded"]):
            name = "f{}".format(number)
            request_id = record(engine, alert(fingerprint=name))
            ran(engine, request_id, name + "-1768392000000", "e" + name, status=status)
        found = view(engine, views.st2_executions, status="succeeded")
        assert ([e["st2_execution_id"] for e in found["st2_executions"]], found["count"]) == (
            ["ef2", "ef0"],
            2,
        )
        found = view(engine, views.st2_executions, limit=1, offset=1)
        assert ([e["st2_execution_id"] for e in found["st2_executions"]], found["count"]) == (
            ["ef1"],
            3,
        )
        assert view(engine, views.st2_executions, status="x")["count"] == 0


class TestWhy:
    def test_from_the_alert_to_what_was_done(self, engine, trail):
        found = view(engine, views.why, alert_name="New")
        assert found["count"] == 1
        (one,) = found["alerts"]
        assert one["request_id"] == trail
        assert [e["st2_execution_id"] for e in one["stackstorm_executions"]] == ["e1"]
        assert view(engine, views.why, fingerprint="old")["count"] == 3
        assert view(engine, views.why, alert_name="Old", limit=1)["count"] == 1
        assert view(engine, views.why, alert_name="nothing") == {"alerts": [], "count": 0}

    def test_the_alert_of_a_workflow_is_verbatim(self, engine):
        text = "{{ st2kv.system.x }} <% x %>"
        labels = {"x": text}
        request_id = record(engine, alert(fingerprint="f", labels=labels, annotations={"s": text}))
        found = view(engine, views.alert_of, request_id, "f-1768392000000")
        assert found["labels"]["x"] == found["annotations"]["s"] == text
        assert view(engine, views.alert_of, request_id, "x") is None
        assert view(engine, views.alert_of, "x", "f-1768392000000") is None


class Live:
    """StackStorm as a view asks it."""

    def __init__(self, found=None):
        self.found = found
        self.asked = []

    def executions(self, ids):
        self.asked.append(list(ids))
        if self.found is None:
            raise StackStormError("no route")
        return {i: self.found.get(i) for i in ids}


class TestLive:
    @pytest.fixture
    def answer(self, engine):
        request_id = record(engine, alert(fingerprint="f"))
        tracking.link(engine, request_id, "f-1768392000000", WORKFLOW, "e1")
        return view(engine, views.status, request_id)

    def test_what_is_open_is_asked_for(self, answer):
        live = Live(
            {
                "e1": {
                    "status": "succeeded",
                    "elapsed_seconds": 1.23456,
                    "end_timestamp": "2026-01-14T12:00:12Z",
                    "web_url": "https://st2/e1",
                    "rule": {"ref": "pack.rule"},
                    "result": {"output": {"stage": "done", "mutated": True, "other": "x"}},
                }
            }
        )
        views.ask_live(live, answer)
        (found,) = answer["stackstorm_executions"]
        assert list(found) == EXECUTION
        assert (found["status"], found["stage"], found["mutated"]) == ("succeeded", "done", True)
        assert (found["duration_seconds"], found["url"]) == (1.235, "https://st2/e1")
        assert found["st2_rule"] == "pack.rule"

    def test_what_ended_is_not(self, engine, trail):
        live = Live({})
        views.ask_live(live, view(engine, views.status, trail))
        assert live.asked == []

    def test_stackstorm_away_is_said(self, answer):
        views.ask_live(Live(), answer)
        assert "no route" in answer["stackstorm"]
        assert answer["stackstorm_executions"][0]["status"] == "running"

    @pytest.mark.parametrize("found", [{}, {"e1": {}}, {"e1": {"result": "x", "rule": None}}])
    def test_odd_answers(self, answer, found):
        views.ask_live(Live(found), answer)
        assert answer["stackstorm_executions"][0]["status"] == "running"


def test_every_terminal_status_is_one_that_sync_writes():
    assert len("abandoned") <= executions.c.status.type.length
    assert set(stackstorm.TERMINAL) >= {"succeeded", "failed", "timeout", "abandoned", "canceled"}
