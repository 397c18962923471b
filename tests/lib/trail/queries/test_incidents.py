"""The view of active alerts lists the open incidents."""

from __future__ import annotations

import datetime

from poundcake.config import Config
from poundcake.trail import database, interventions, queries, text
from poundcake.trail.audit import Actor
from poundcake.trail.open_counts import count_open_incidents
from poundcake.trail.queries.incidents import read_incidents_at_work
from poundcake.trail.record import record_requests
from poundcake.trail.search import Filters
from tests.lib.samples import NOON, UTC, alert, iso, later, request
from tests.lib.trails import WORKFLOW, database_time, episode, record, record_execution, view

INCIDENT_KEYS = (
    "fingerprint episode alert_name severity instance labels summary runbook_url verdict title"
    " headline next_step next_command next_at attention starts_at last_seen_at notifications stale"
    " request_id st2_workflow st2_execution_id remediation_status st2_execution_status result"
).split()


def list_active_alerts(engine, *args, stale_after_hours=24, **query):
    return view(engine, queries.alerts_active, stale_after_hours, *args, **query)


def list_names(answer):
    return [incident["alert_name"] for incident in answer["active_alerts"]]


def test_the_view_has_the_documented_fields(engine, sample_request_id):
    page = list_active_alerts(engine)
    assert list(page) == ["active_alerts", "count"]
    assert page["count"] == 1
    (incident,) = page["active_alerts"]
    assert list(incident) == INCIDENT_KEYS
    assert (incident["fingerprint"], incident["episode"]) == ("new", "new-1768392000000")
    assert (incident["st2_execution_id"], incident["st2_workflow"]) == ("e1", WORKFLOW)
    assert (incident["request_id"], incident["remediation_status"]) == (
        sample_request_id,
        "succeeded",
    )
    assert incident["st2_execution_status"] == "succeeded"


def test_the_newest_execution_is_shown(engine, sample_request_id):
    fields = {"status": "running", "end_timestamp": None}
    record_execution(
        engine, sample_request_id, "new-1768392000000", "e2", "operations.notify", **fields
    )
    (incident,) = list_active_alerts(engine)["active_alerts"]
    assert (incident["st2_execution_id"], incident["st2_workflow"]) == ("e2", "operations.notify")
    assert (incident["remediation_status"], incident["st2_execution_status"]) == (
        "running",
        "running",
    )


def test_incidents_are_filtered_and_paged(engine):
    for name, severity in (("A", "critical"), ("B", "warning"), ("a", "critical")):
        record(engine, alert(name, labels={"severity": severity}))
    assert list_names(list_active_alerts(engine)) == ["a", "B", "A"]
    for query, expected in (
        ({"severity": "critical"}, ["a", "A"]),
        ({"alert_name": "A"}, ["A"]),
        ({"alert_name": "A", "severity": "warning"}, []),
        ({"instance": "web-1:9100"}, ["a", "B", "A"]),
        ({"instance": "web-1"}, ["a", "B", "A"]),
        ({"instance": "web"}, []),
        ({"alert_name": "%"}, []),
    ):
        page = list_active_alerts(engine, Filters(**query))
        assert (list_names(page), page["count"]) == (expected, len(expected))
    page = list_active_alerts(engine, limit=1, offset=1)
    assert (list_names(page), page["count"]) == (["B"], 3)


def test_an_incident_without_recent_notifications_is_stale(engine):
    now = datetime.datetime.now(UTC)
    record(engine, alert("Fresh"), received_at=now - datetime.timedelta(minutes=50))
    record(engine, alert("Stale"), received_at=now - datetime.timedelta(minutes=70))
    incidents = list_active_alerts(engine, stale_after_hours=1)["active_alerts"]
    stale = {incident["alert_name"]: incident["stale"] for incident in incidents}
    assert stale == {"Fresh": False, "Stale": True}


def test_staleness_is_measured_by_the_databases_clock(engine):
    record(engine, alert())
    for seconds, stale in ((3599, False), (3601, True)):
        with database_time(later(seconds)):
            (incident,) = list_active_alerts(engine, stale_after_hours=1)["active_alerts"]
        assert incident["stale"] is stale


def test_the_reason_why_nothing_runs_is_shown(engine):
    config = Config(max_remediations_per_hour=1)
    record_requests(engine, config, [request(alert("A"), alert("A", labels={"x": "y"}))])
    incidents = list_active_alerts(engine)["active_alerts"]
    assert any("limit of 1" in incident["remediation_status"] for incident in incidents)
    assert {incident["st2_execution_status"] for incident in incidents} == {""}


def test_a_resolve_ends_an_incident(engine):
    record(engine, alert())
    record(engine, alert(status="resolved", ends_at=later(9)), received_at=later(10))
    assert list_active_alerts(engine) == {"active_alerts": [], "count": 0}


def test_pods_with_the_same_name_are_told_apart_by_their_labels(engine):
    for pod in ("api-1", "api-2", "web-1"):
        labels = {"instance": "", "namespace": "shop", "pod": pod}
        record(
            engine, alert("KubePodNotReady", labels=labels, annotations={"summary": "not ready"})
        )
    rows = list_active_alerts(engine)["active_alerts"]
    assert [row["labels"] for row in rows] == [
        {"pod": pod, "namespace": "shop"} for pod in ("web-1", "api-2", "api-1")
    ]
    assert {(row["instance"], row["summary"]) for row in rows} == {("", "not ready")}
    lines = text.alerts_active(list_active_alerts(engine), later(60)).split("\n")
    titles = [line for line in lines if "KubePodNotReady" in line]
    assert len(titles) == 3 and len(set(titles)) == 1
    assert [line.strip() for line in lines if "pod=" in line] == [
        f"pod={pod} namespace=shop" for pod in ("web-1", "api-2", "api-1")
    ]


def test_long_labels_and_annotations_are_cut(engine):
    labels = {f"label{n:02}": "x" * 300 for n in range(30)}
    url = "https://runbooks.example/" + "x" * 2000
    annotations = {"summary": "y" * 9000, "runbook_url": url}
    record(engine, alert(labels=labels, annotations=annotations))
    record(
        engine,
        alert(
            "Huge", labels={"a": "x" * 15_000, "b": "x" * 15_000}, annotations={"summary": "fits"}
        ),
    )
    huge, long = list_active_alerts(engine)["active_alerts"]
    assert (len(long["labels"]), long["labels_left_out"]) == (20, 10)
    assert set(map(len, long["labels"].values())) == {200}
    assert (len(long["summary"]), long["summary"][-1], long["runbook_url"]) == (500, "…", "")
    assert (huge["labels"], huge["summary"]) == ({}, "fits")


def test_an_incident_says_who_takes_care_of_it(engine):
    record(engine, alert("Running", fingerprint="r"))
    (running,) = list_active_alerts(engine)["active_alerts"]
    record_execution(
        engine, running["request_id"], running["episode"], status="running", end_timestamp=None
    )
    request_id = record(engine, alert("Dry", fingerprint="d"))
    output = {"dry_run": True, "mutated": False, "message": "would run x"}
    record_execution(
        engine, request_id, "d-1768392000000", "e2", "other.flow", result={"output": output}
    )
    record(engine, alert("Known", fingerprint="k"))
    interventions.acknowledge(
        engine, Actor("anna", "e"), filters=Filters(alert_name="Known"), comment="on it"
    )
    with database_time(later(60)):
        rows = list_active_alerts(engine)["active_alerts"]
    assert {row["alert_name"]: (row["attention"], row["result"]) for row in rows} == {
        "Running": ("in_progress", "running"),
        "Dry": ("needs_person", "dry_run"),
        "Known": ("handled", ""),
    }
    lines = text.alerts_active(list_active_alerts(engine), later(60)).split("\n")
    names = [word for line in lines for word in ("Dry", "Running", "Known") if f" {word} " in line]
    assert names == ["Dry", "Running", "Known"]


def start(engine, name, execution, status, started_at, starts_at=NOON):
    """Record an alert and a workflow for it, and return its episode."""
    request_id = record(engine, alert(name, labels={"id": name}), received_at=started_at)
    fields = {"status": status, "start_timestamp": iso(started_at), "end_timestamp": None}
    record_execution(engine, request_id, episode(name, starts_at), execution, **fields)
    return request_id


class TestIncidentsAtWork:
    def read(self, engine, limit=100):
        with database.reading(engine) as connection, database_time(later(300)):
            return read_incidents_at_work(connection, limit).as_json()

    def test_incidents_whose_workflow_waits_come_before_those_whose_workflow_runs(self, engine):
        start(engine, "a", "e1", "paused", later(60))
        start(engine, "b", "e2", "running", later(120))
        start(engine, "c", "e3", "pending", later(180))
        start(engine, "e", "e4", "requested", later(200))
        record(engine, alert("d"), received_at=later(240))
        page = self.read(engine)
        assert (list_names(page), page["count"]) == (["c", "a", "e", "b"], 4)
        verdicts = [row["verdict"] for row in page["active_alerts"]]
        assert verdicts == ["workflow_paused", "workflow_paused", "running", "running"]

    def test_the_limit_does_not_change_the_count(self, engine):
        for number in range(3):
            start(engine, f"a{number}", f"e{number}", "paused", later(number))
        page = self.read(engine, limit=2)
        assert (list_names(page), page["count"]) == (["a2", "a1"], 3)

    def test_an_incident_that_has_ended_is_left_out(self, engine):
        start(engine, "a", "e1", "paused", later(60))
        resolved = alert("a", "resolved", ends_at=later(90), labels={"id": "a"})
        record(engine, resolved, received_at=later(100))
        assert self.read(engine) == {"active_alerts": [], "count": 0}

    def test_an_incident_with_two_workflows_is_found_once(self, engine):
        request_id = start(engine, "a", "e1", "paused", later(60))
        fields = {"status": "paused", "end_timestamp": None}
        record_execution(engine, request_id, episode("a"), "e2", "operations.ask", **fields)
        assert self.read(engine)["count"] == 1


def test_open_incidents_are_counted_by_name(engine):
    for name, count in (("A", 1), ("B", 3), ("", 2)):
        for number in range(count):
            record(engine, alert(name, labels={"id": f"{name}{number}"}))
    ended = {"labels": {"id": "B2"}}
    record(engine, alert("B", "resolved", ends_at=later(9), **ended), received_at=later(10))
    with database.reading(engine) as connection:
        counts = count_open_incidents(connection)
    assert [tuple(row) for row in counts] == [("", 2), ("B", 2), ("A", 1)]
