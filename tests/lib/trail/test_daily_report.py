"""The daily report names what needs a person's attention, and why."""

from __future__ import annotations

import pytest

from poundcake.config import Config
from poundcake.trail import pause
from poundcake.trail.audit import Actor
from poundcake.trail.daily_report import MAX_ITEMS, daily_report
from poundcake.trail.release import release_breaker
from poundcake.trail.search import Filters
from tests.lib.recorded_day import RecordedDay, before_noon, record_day
from tests.lib.samples import NOON
from tests.lib.trails import database_time, view


def read_report(engine, filters=Filters(), **config):
    with database_time(NOON):
        return view(engine, daily_report, filters, Config(**config))


def titles(section):
    return [f"{item['alert_name']} {item['instance']}" for item in section["items"]]


@pytest.fixture
def day(engine):
    return record_day(engine)


def test_what_failed_and_what_did_not_help_has_a_reason_and_an_execution(day):
    report = read_report(day.engine)
    assert titles(report["not_helped"]) == ["ServiceDown web-24:9100", "ServiceDown web-23:9100"]
    (failure,) = report["failed"]["items"]
    assert failure == {
        "alert_name": "DiskFull",
        "instance": "db-3:9100",
        "severity": "critical",
        "fingerprint": "db-3",
        "result": "failed",
        "st2_workflow": "poundcake.clean_disk",
        "remediation": "disk",
        "action": "poundcake.clean_disk",
        "target": "db-3",
        "message": "poundcake.clean_disk ended with status failed: No space left on device",
        "st2_execution_id": "e-db-3",
        "ended_at": "2026-01-14T08:41:12Z",
    }
    (alert,) = report["not_started"]["items"]
    assert alert["alert_name"] == "BackupFailed"
    assert "could not start its action" in alert["reason"]


def test_refusals_are_listed_with_their_alerts_most_frequent_first(day):
    assert read_report(day.engine)["refused"] == {
        "count": 4,
        "items": [
            {"refusal": "host_not_allowed", "alert_name": "HostDown", "count": 2},
            {"refusal": "approval_missing", "alert_name": "HostDown", "count": 1},
            {"refusal": "storm", "alert_name": "HostDown", "count": 1},
        ],
    }


def test_the_totals_and_the_unmatched_names_are_those_of_the_statistics(day):
    report = read_report(day.engine)
    assert (report["totals"]["admitted"], report["totals"]["changed"]) == (21, 4)
    assert report["no_rule"]["count"] == 4
    names = [item["alert_name"] for item in report["no_rule"]["items"]]
    assert names == ["KubePodNotReady", "CertificateExpires"]


def test_only_an_approval_that_expired_is_listed_as_such(day):
    found = day.add_alert("rack-7", "HostDown", "rack-7:9100", 50)
    fields = {"refusal": "approval_missing", "action": "ipmi.power"}
    day.add_change("rack-7", found, 45, "refused", **fields)
    day.add_ending("rack-7", found, 45, "refused", **fields)  # an approver declined it
    (approval,) = read_report(day.engine)["expired_approvals"]["items"]
    assert (approval["instance"], approval["action"]) == ("rack-9:9100", "ipmi.power")
    assert approval["time"] == "2026-01-14T10:01:00Z"


def test_incidents_that_have_been_open_for_more_than_a_day_are_listed_oldest_first(day):
    day.add_alert("older", "DiskFull", "db-9:9100", 5 * 24 * 60)
    day.add_alert("young", "DiskFull", "db-8:9100", 24 * 60 - 1)
    day.add_alert("ended", "DiskFull", "db-7:9100", 5 * 24 * 60)
    day.resolve("ended", 60)
    incidents = read_report(day.engine)["open_incidents"]
    assert titles(incidents) == ["DiskFull db-9:9100", "HostDown web-99:9100"]
    assert incidents["items"][1]["acknowledged_by"] == "anna"


def test_a_pause_and_open_breakers_are_listed_until_somebody_lifts_them(day):
    report = read_report(day.engine)
    assert report["paused"]["reason"] == "maintenance of rack 12"
    (breaker,) = report["breakers"]
    assert (breaker["remediation"], breaker["failures"]) == ("nginx", 3)
    assert read_report(day.engine, breaker_failures=4)["breakers"] == []
    assert read_report(day.engine, breaker_failures=0)["breakers"] == []
    pause.resume(day.engine, Actor("anna", "r"))
    release_breaker(day.engine, "nginx")
    report = read_report(day.engine)
    assert (report["paused"], report["breakers"]) == (None, [])


def test_failures_before_a_release_do_not_count_for_the_breaker(day):
    release_breaker(day.engine, "nginx")
    for number in range(2):
        day.add_change(f"new-{number}", f"new-{number}", 30, "failed", "nginx")
    assert read_report(day.engine)["breakers"] == []
    day.add_change("new-2", "new-2", 30, "failed", "nginx")
    assert len(read_report(day.engine)["breakers"]) == 1


def test_a_workflow_of_the_user_that_reported_nothing_is_listed_if_its_change_did_not_help(day):
    found = day.add_alert("queue-2", "QueueStuck", "queue-2:9100", 60)
    day.add_change("queue-2", found, 59, "not_cleared", action="mypack.restart_queue")
    day.add_execution("queue-2", found, 59, "mypack.restart_queue")
    assert titles(read_report(day.engine)["not_helped"])[0] == "QueueStuck queue-2:9100"


@pytest.mark.parametrize("result", ["unknown", "released"])
def test_a_cancelled_workflow_whose_change_may_have_been_made_is_listed(day, result):
    found = day.add_alert("rack-1", "HostDown", "rack-1:9100", 60)
    day.add_change("rack-1", found, 59, result, "power", action="ipmi.power")
    day.add_execution("rack-1", found, 59, "poundcake.remediate", "canceled")
    failed = read_report(day.engine)["failed"]
    assert (failed["count"], len(failed["items"])) == (2, 2)
    assert titles(failed)[0] == "HostDown rack-1:9100"
    assert failed["items"][0]["result"] == "unknown"


def test_a_success_after_the_failures_closes_the_breaker(day):
    day.add_change("web-25", "later-1", 30, "verified", "nginx", action="linux.service")
    assert read_report(day.engine)["breakers"] == []


def test_the_report_covers_only_its_time_range(day):
    filters = Filters(since=before_noon(250), until=before_noon(100))
    report = read_report(day.engine, filters)
    assert report["not_helped"] == {"count": 0, "items": []}
    assert titles(report["failed"]) == ["DiskFull db-3:9100"]
    assert report["not_started"]["count"] == report["no_rule"]["count"] == 0
    # What prevents changes, and what is open, is reported as of now.
    assert report["paused"] and report["breakers"] and report["open_incidents"]["count"] == 1


def test_a_long_section_is_cut_and_counted(engine):
    day = RecordedDay(engine)
    for number in range(MAX_ITEMS + 5):
        day.add_alert(f"f{number}", f"A{number}", f"db-{number}", 60, explanation="failed")
    section = read_report(engine)["not_started"]
    assert (section["count"], len(section["items"])) == (MAX_ITEMS + 5, MAX_ITEMS)


def test_a_day_without_alerts_has_empty_sections(engine):
    report = read_report(engine)
    sections = [value for value in report.values() if isinstance(value, dict) and "items" in value]
    assert len(sections) == 7 and all(not section["count"] for section in sections)
    assert report["totals"]["admitted"] == 0
