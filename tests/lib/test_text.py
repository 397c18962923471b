"""The views as a terminal shows them."""

import pytest

from poundcake import text

HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\x08\x9b31m\u202e\nforged line\x00"


def alert(**more):
    found = {
        "request_id": "r",
        "received_at": "2026-01-14T12:00:00Z",
        "alert_name": "HostDown",
        "severity": "critical",
        "instance": "web-1",
        "status": "firing",
        "outcome": "admitted",
        "reason": "",
        "st2_workflow": "poundcake.host_down",
        "stackstorm_executions": [],
    }
    found.update(more)
    return found


def execution(**more):
    found = {
        "st2_execution_id": "e",
        "st2_workflow": "poundcake.host_down",
        "st2_rule": "poundcake.host_down",
        "status": "succeeded",
        "duration_seconds": 1.5,
        "message": "done",
        "triggered_at": "2026-01-14T12:00:00Z",
        "request_id": "r",
        "alert": {"name": "HostDown", "severity": "critical", "instance": "web-1"},
    }
    found.update(more)
    return found


def status(**more):
    found = {
        "request_id": "r",
        "received_at": "2026-01-14T12:00:00Z",
        "completed_at": None,
        "status": "running",
        "receiver": "poundcake",
        "truncated_alerts": 0,
        "alerts": [alert()],
        "stackstorm_executions": [execution()],
    }
    found.update(more)
    return found


def active(**more):
    found = {
        "fingerprint": "f",
        "episode": "f-1",
        "alert_name": "HostDown",
        "severity": "critical",
        "instance": "web-1",
        "starts_at": "2026-01-14T12:00:00Z",
        "last_seen_at": "2026-01-14T12:00:00Z",
        "notifications": 2,
        "stale": False,
        "request_id": "r",
        "st2_workflow": "poundcake.host_down",
        "st2_execution_id": "e",
        "remediation_status": "running",
    }
    found.update(more)
    return found


def call(**more):
    found = {
        "request_id": "r",
        "received_at": "2026-01-14T12:00:00Z",
        "status": "completed",
        "alert_count": 1,
        "st2_execution_count": 1,
        "alerts": [alert()],
    }
    found.update(more)
    return found


def health(**more):
    found = {
        "status": "ok",
        "version": "0.1.0",
        "address": "http://127.0.0.1:8000",
        "authentication": "none",
        "database": "SQLite",
        "dry_run": True,
        "literal_secrets": [],
        "components": {"journal": {"state": "ok", "since": "x", "detail": "", "waiting": 0}},
    }
    found.update(more)
    return found


TEXTS = [
    text.status(status()),
    text.status(status(alerts=[], stackstorm_executions=[])),
    text.why({"alerts": [alert(stackstorm_executions=[execution()])]}),
    text.why({"alerts": []}),
    text.executions_recent({"executions": [call(), call(alerts=[])], "total": 2}),
    text.executions_recent({"executions": [], "total": 0}),
    text.alerts_active({"active_alerts": [active(stale=True)], "count": 1}),
    text.alerts_active({"active_alerts": [], "count": 0}),
    text.st2_executions({"st2_executions": [execution()], "count": 1}),
    text.st2_executions({"st2_executions": [], "count": 0}),
    text.health(health()),
]


@pytest.mark.parametrize("found", TEXTS)
def test_it_starts_on_a_line_of_its_own(found):
    assert found.startswith("\n") and not found.startswith("\n\n")
    assert not found.endswith("\n")
    assert all(line == line.rstrip() for line in found.split("\n"))


@pytest.mark.parametrize(
    "found",
    [
        lambda h: text.status(status(receiver=h, error=h, held_up_by=h, stackstorm=h)),
        lambda h: text.status(status(alerts=[alert(alert_name=h, reason=h, instance=h)])),
        lambda h: text.status(status(stackstorm_executions=[execution(message=h)])),
        lambda h: text.why({"alerts": [alert(alert_name=h, instance=h, reason=h)]}),
        lambda h: text.why({"alerts": [alert(stackstorm_executions=[execution(message=h)])]}),
        lambda h: text.executions_recent(
            {"executions": [call(alerts=[alert(alert_name=h, instance=h)])], "total": 1}
        ),
        lambda h: text.alerts_active(
            {"active_alerts": [active(alert_name=h, remediation_status=h)], "count": 1}
        ),
        lambda h: text.st2_executions(
            {"st2_executions": [execution(alert={"name": h, "instance": h})], "count": 1}
        ),
        lambda h: text.health(health(address=h)),
        lambda h: text.health(
            health(components={"broker": {"state": "down", "since": "", "detail": h}})
        ),
    ],
)
def test_nothing_in_it_moves_the_cursor_or_forges_a_line(found):
    plain = found("harmless")
    hostile = found(HOSTILE)
    assert "harmless" in plain and "forged line" in hostile
    for character in hostile:
        assert character == "\n" or character.isprintable()
    assert hostile.count("\n") == plain.count("\n")
    assert "\nforged" not in hostile


def test_a_status_names_what_there_is_to_know():
    found = text.status(
        status(truncated_alerts=22, error="the error", completed_at="2026-01-14T12:01:00Z")
    )
    for word in ("22", "the error", "2026-01-14T12:01:00Z", "HostDown", "poundcake.host_down"):
        assert word in found
    assert "nothing was run" in text.status(status(stackstorm_executions=[]))
    assert "no alerts" in text.status(status(alerts=[]))


def test_why_says_why_nothing_ran():
    assert "no rule matched" in text.why({"alerts": [alert(reason="no rule matched")]})
    assert "nothing was run for it" in text.why({"alerts": [alert()]})
    assert "no such alert" in text.why({"alerts": []})


def test_a_table_keeps_its_columns():
    lines = text.table(("a", "long heading"), [("wide cell", None), ("", 5)])
    assert lines == ["A          LONG HEADING", "wide cell", "           5"]
