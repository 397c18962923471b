"""The view of active alerts lists the open incidents."""

from __future__ import annotations

import datetime

from poundcake.config import Config
from poundcake.trail import queries
from poundcake.trail.record import record_requests
from poundcake.trail.search import Filters
from tests.lib.samples import UTC, alert, later, request
from tests.lib.trails import WORKFLOW, database_time, record, record_execution, view

INCIDENT_KEYS = (
    "fingerprint episode alert_name severity instance starts_at last_seen_at notifications stale"
    " request_id st2_workflow st2_execution_id remediation_status st2_execution_status"
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
