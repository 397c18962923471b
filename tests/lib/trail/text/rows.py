"""Views as JSON, with one row each."""

from __future__ import annotations


def alert(**overrides):
    view = {
        "request_id": "r",
        "received_at": "2026-01-14T12:00:00.123456Z",
        "alert_name": "HostDown",
        "severity": "critical",
        "instance": "web-1",
        "status": "firing",
        "outcome": "admitted",
        "reason": "",
        "st2_workflow": "poundcake.host_down",
        "id": 1,
        "fingerprint": "f",
        "st2_rule": "",
        "labels": {},
        "summary": "",
        "runbook_url": "",
    }
    view.update(overrides)
    return view


def execution(**overrides):
    view = {
        "st2_execution_id": "e",
        "st2_workflow": "poundcake.host_down",
        "st2_rule": "poundcake.host_down",
        "status": "succeeded",
        "duration_seconds": 1.5,
        "message": "done",
        "triggered_at": "2026-01-14T12:00:00.123456Z",
        "request_id": "r",
        "alert": {"name": "HostDown", "severity": "critical", "instance": "web-1", "labels": {}},
        "alert_id": 1,
        "started_at": "2026-01-14T12:00:00.123456Z",
        "result": "changed",
        "action": "ipmi.power_cycle",
        "target": "web-1",
        "action_execution_id": "a",
        "change_reason": "",
    }
    view.update(overrides)
    return view


def status(**overrides):
    view = {
        "request_id": "r",
        "received_at": "2026-01-14T12:00:00.123456Z",
        "completed_at": None,
        "status": "running",
        "receiver": "poundcake",
        "truncated_alerts": 0,
        "alerts": [alert()],
        "stackstorm_executions": [execution()],
    }
    view.update(overrides)
    return view


def active(**overrides):
    view = {
        "fingerprint": "f",
        "episode": "f-1",
        "alert_name": "HostDown",
        "severity": "critical",
        "instance": "web-1",
        "starts_at": "2026-01-14T12:00:00.123456Z",
        "last_seen_at": "2026-01-14T12:00:00Z",
        "notifications": 2,
        "stale": False,
        "request_id": "r",
        "st2_workflow": "poundcake.host_down",
        "st2_execution_id": "e",
        "remediation_status": "running",
        "labels": {},
        "summary": "",
        "runbook_url": "",
        "attention": "in_progress",
        "verdict": "running",
        "title": "RUNNING",
        "headline": "poundcake.host_down is running",
        "next_step": "wait for its result",
        "next_command": "st2 execution get e",
    }
    view.update(overrides)
    return view


def call(**overrides):
    view = {
        "request_id": "r",
        "received_at": "2026-01-14T12:00:00.123456Z",
        "status": "completed",
        "alert_count": 1,
        "st2_execution_count": 1,
        "alerts": [alert()],
    }
    view.update(overrides)
    return view


def health(**overrides):
    view = {
        "status": "ok",
        "version": "0.1.0",
        "address": "http://127.0.0.1:8000",
        "authentication": "none",
        "database": "SQLite",
        "dry_run": True,
        "literal_secrets": [],
        "components": {"journal": {"state": "ok", "since": "x", "detail": "", "waiting": 0}},
    }
    view.update(overrides)
    return view


def configuration(problem="", warnings=(), differences=None):
    return {
        "applied_at": "x",
        "problem": problem,
        "warnings": list(warnings),
        "in_force": {},
        "differences": differences or {},
    }


def refused_report(detail, count=1):
    last = {
        "reason": "too_large",
        "status": 413,
        "detail": detail,
        "sender": "127.0.0.1",
        "refused_at": "2026-01-14T12:00:00Z",
    }
    return {"count": count, "last": last}
