"""What the endpoint reports becomes findings."""

from __future__ import annotations

import copy
from datetime import datetime, timedelta, timezone

import pytest

from poundcake import __version__
from poundcake.doctor import endpoint_state
from poundcake.doctor.finding import Status, worst_status
from poundcake.endpoint_client import Refused, Unreachable
from poundcake.timestamps import format_timestamp

URL = "http://127.0.0.1:8000"
HEALTHY = {
    "status": "ok",
    "version": __version__,
    "address": "http://127.0.0.1:8000",
    "components": {
        name: {"state": "ok", "detail": "", "stuck_requests": []}
        for name in ("journal", "broker", "database", "stackstorm")
    },
    "configuration": {"problem": "", "differences": {}},
    "paused": None,
    "refused": {"count": 0, "last": None},
    "newest_webhook_at": "2026-11-27T22:00:00Z",
}
REFUSAL = {
    "sender": "192.0.2.7",
    "status": 413,
    "detail": "too large",
    "refused_at": "2026-11-27T21:00:00Z",
    "accepted_at": None,
}


def change(path, value):
    """Return the healthy view with one value changed, and check that the view is changed."""
    view = copy.deepcopy(HEALTHY)
    *parents, last = path.split("/")
    inner = view
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    return view


def test_a_healthy_endpoint_is_all_ok():
    findings = endpoint_state.check_health(HEALTHY)
    assert {finding.status for finding in findings} == {Status.OK}
    assert "http://127.0.0.1:8000" in findings[0].what


@pytest.mark.parametrize(
    ("free", "size", "status"),
    [(int(1e9), int(20e9), "warning"), (int(3e9), int(90e9), "ok"), (int(1e9), int(5e9), "ok")],
)
def test_a_nearly_full_disk_is_found(free, size, status):
    view = change("components/journal/disk_free_bytes", free)
    view["components"]["journal"]["disk_size_bytes"] = size
    (finding,) = [f for f in endpoint_state.check_health(view) if f.check == "endpoint.disk"]
    assert finding.status == status and f"{free / 1e9:.1f} of" in finding.what


@pytest.mark.parametrize(("days", "status"), [(-1, "problem"), (6, "warning"), (8, "ok")])
def test_the_end_of_the_certificate_is_found(days, status):
    expires_at = format_timestamp(datetime.now(timezone.utc) + timedelta(days=days))
    view = {**HEALTHY, "certificate_expires_at": expires_at}
    (finding,) = [f for f in endpoint_state.check_health(view) if "certificate" in f.check]
    assert finding.status == status and expires_at in finding.what


@pytest.mark.parametrize(
    "path, value, status, what, remedy",
    [
        ("version", "0.2.0", "problem", "version 0.2.0", "restart-component"),
        ("components/broker/state", "down", "problem", "broker is down", "start RabbitMQ"),
        ("components/journal/state", "full", "problem", "journal is full", ""),
        ("components/database/state", "unknown", "unknown", "database", "send an alert"),
        ("components/journal/detail", "on tmpfs", "warning", "on tmpfs", "docs/OPERATIONS.md"),
        ("components/journal/stuck_requests", ["r1"], "problem", "r1", "request_id=r1"),
        ("configuration/problem", "port: in use", "problem", "port: in use", "correct it"),
        (
            "configuration/differences",
            {"dry_run": {"endpoint": True, "actions": False}},
            "warning",
            "dry_run is false for actions and true for the endpoint",
            "30 seconds",
        ),
        ("paused", {"reason": "maintenance"}, "warning", "maintenance", "poundcake.resume"),
        ("refused", {"count": 3, "last": REFUSAL}, "warning", "413, too large", "sender"),
        ("newest_webhook_at", None, "warning", "no webhook", "docs/ALERTMANAGER.md"),
    ],
)
def test_each_problem_is_found(path, value, status, what, remedy):
    findings = endpoint_state.check_health(change(path, value))
    (finding,) = [finding for finding in findings if finding.status is not Status.OK]
    assert finding.status == status
    assert what in finding.what
    assert remedy in finding.remedy and finding.remedy


@pytest.mark.parametrize(
    ("refused_at", "accepted_at", "status"),
    [
        ("2026-11-27T21:00:00Z", None, "warning"),
        ("2026-11-27T22:00:01Z", None, "problem"),
        ("2026-11-27T22:00:01Z", "2026-11-27T22:00:02Z", "ok"),
    ],
)
def test_a_sender_is_a_problem_while_its_webhooks_are_refused(refused_at, accepted_at, status):
    last = {**REFUSAL, "refused_at": refused_at, "accepted_at": accepted_at}
    findings = endpoint_state.check_health(change("refused", {"count": 1, "last": last}))
    (finding,) = [finding for finding in findings if "refused" in finding.what]
    assert finding.status == status and refused_at in finding.what
    assert accepted_at is None or accepted_at in finding.what


def test_a_recent_refusal_is_a_problem_although_other_webhooks_are_accepted():
    now = datetime.now(timezone.utc)
    last = {**REFUSAL, "refused_at": format_timestamp(now - timedelta(minutes=4))}
    view = {
        **HEALTHY,
        "refused": {"count": 1, "last": last},
        "newest_webhook_at": format_timestamp(now),
    }
    (finding,) = [f for f in endpoint_state.check_health(view) if "refused" in f.what]
    assert finding.status is Status.PROBLEM


def test_an_endpoint_that_does_not_answer_is_a_problem():
    findings = endpoint_state.check_no_health(Unreachable(URL, "Connection refused"))
    assert worst_status(findings) is Status.PROBLEM
    assert "no answer from http://127.0.0.1:8000" in findings[0].what
    assert "st2sensorcontainer.log" in findings[0].remedy
    assert findings[1].status is Status.UNKNOWN, "only the endpoint can check RabbitMQ"


def test_an_endpoint_that_refuses_the_credentials_is_not_reported_as_down():
    finding, _ = endpoint_state.check_no_health(Refused(URL, 401))
    assert finding.status is Status.PROBLEM
    assert f"{URL} answered 401" in finding.what and "does not answer" not in finding.what
    assert "credentials" in finding.remedy and "sensor" not in finding.remedy
