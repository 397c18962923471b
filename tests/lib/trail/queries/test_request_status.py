"""The status of a request shows its alerts and executions, with the documented fields."""

from __future__ import annotations

import pytest

from poundcake.trail import database, queries
from poundcake.trail.schema import alerts
from tests.lib.samples import alert, later
from tests.lib.trails import WORKFLOW, record, record_execution, view

STATUS_KEYS = (
    "request_id received_at completed_at status receiver truncated_alerts alerts"
    " stackstorm_executions"
).split()
ALERT_KEYS = (
    "id fingerprint episode alert_name severity instance labels summary runbook_url"
    " status outcome reason starts_at ends_at"
    " st2_rule st2_workflow"
).split()
EXECUTION_KEYS = (
    "st2_execution_id st2_workflow st2_rule alert_id status started_at ended_at duration_seconds"
    " dry_run mutated verified stage message url result action target action_execution_id"
    " change_reason"
).split()


def test_the_view_has_the_documented_fields(engine, sample_request_id):
    status_view = view(engine, queries.status, sample_request_id, web_url="https://st2.example/")
    assert list(status_view) == STATUS_KEYS
    assert [list(alert) for alert in status_view["alerts"]] == [ALERT_KEYS] * 4
    assert [list(execution) for execution in status_view["stackstorm_executions"]] == [
        EXECUTION_KEYS
    ]


def test_the_status_shows_alerts_and_executions(engine, sample_request_id):
    status_view = view(engine, queries.status, sample_request_id, web_url="https://st2.example/")
    assert status_view["request_id"] == sample_request_id
    assert status_view["received_at"] == "2026-01-14T12:01:00Z"
    assert (status_view["receiver"], status_view["truncated_alerts"]) == ("poundcake", 22)
    outcomes = [alert["outcome"] for alert in status_view["alerts"]]
    assert outcomes == ["admitted", "duplicate", "resolved", "malformed"]
    new_alert, _, old_alert, broken_alert = status_view["alerts"]
    assert (new_alert["st2_workflow"], new_alert["st2_rule"]) == (WORKFLOW, "poundcake.host_down")
    assert (new_alert["starts_at"], new_alert["ends_at"]) == ("2026-01-14T12:00:00Z", None)
    assert old_alert["ends_at"] == "2026-01-14T12:00:30Z"
    assert "alerts[3].status" in broken_alert["reason"]
    assert all(alert["reason"] for alert in status_view["alerts"])
    (execution,) = status_view["stackstorm_executions"]
    assert execution == {
        "st2_execution_id": "e1",
        "st2_workflow": WORKFLOW,
        "st2_rule": "poundcake.host_down",
        "alert_id": new_alert["id"],
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
        "result": "changed",
        "action": "",
        "target": "",
        "action_execution_id": "",
        "change_reason": "",
    }


@pytest.mark.parametrize("request_id", ["", "nothing", "\x00", "'", "x" * 50000])
def test_an_unknown_request_has_no_status(engine, request_id):
    assert view(engine, queries.status, request_id) is None


def test_a_dry_run_is_noted_beside_the_status(engine):
    request_id = record(engine, alert(fingerprint="f"))
    output = {"dry_run": True, "mutated": False, "message": "would run x"}
    record_execution(engine, request_id, "f-1768392000000", result={"output": output})
    (execution,) = view(engine, queries.status, request_id)["stackstorm_executions"]
    assert execution["message"] == "dry run: nothing was changed. would run x"
    (incident,) = view(engine, queries.alerts_active, 24)["active_alerts"]
    assert incident["remediation_status"] == "succeeded (dry run: nothing was changed)"
    assert incident["st2_execution_status"] == "succeeded"


@pytest.mark.parametrize("body, status", [("no json", "failed"), ('{"alerts": []}', "completed")])
def test_a_request_without_alerts_is_complete_when_recorded(engine, body, status):
    status_view = view(engine, queries.status, record(engine, body=body))
    assert status_view["status"] == status
    assert status_view["completed_at"]
    assert ("error" in status_view) == (status == "failed")


def test_a_request_is_recorded_and_then_running(engine):
    request_id = record(engine, alert(fingerprint="f"))
    assert view(engine, queries.status, request_id)["status"] == "recorded"
    record_execution(engine, request_id, "f-1768392000000", status="running", end_timestamp=None)
    status_view = view(engine, queries.status, request_id)
    assert status_view["status"] == "running"
    assert status_view["stackstorm_executions"][0]["duration_seconds"] is None


@pytest.mark.parametrize("count", [1, 25])
def test_a_request_with_an_alert_that_stackstorm_lost_is_lost(engine, count):
    request_id = record(engine, *[alert(fingerprint=f"f{n}") for n in range(count)])
    with database.transaction(engine) as connection:
        last = alerts.c.fingerprint == f"f{count - 1}"
        connection.execute(alerts.update().where(last).values(explanation="lost"))
    assert view(engine, queries.status, request_id)["status"] == "lost"
    (request_view,) = view(engine, queries.executions_recent)["executions"]
    assert request_view["status"] == "lost"


def test_a_second_body_with_the_same_id_shows_the_senders_id(engine):
    request_id = record(engine, alert("A"))
    record(engine, alert("B"), request_id=request_id, received_at=later(1))
    second_id = view(engine, queries.executions_recent)["executions"][0]["request_id"]
    assert view(engine, queries.status, second_id)["client_request_id"] == request_id
