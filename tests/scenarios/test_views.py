"""The views, over HTTP and with `st2 run`."""

from __future__ import annotations

import pytest

from tests.lib.samples import as_inert as inert
from tests.scenarios.notifications import alert, name_of, notification
from tests.scenarios.stack import ActionFailed

UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def shown(stack):
    """Return the trail of two alerts, one of them with text that StackStorm would evaluate."""
    plain = alert("ScenarioLinked", labels={"severity": "page"})
    odd = alert("ScenarioUnmatched", labels={"instance": "<b>{odd}</b>", "severity": "{"})
    return stack.completed(stack.accepted(notification(plain, odd)))


def lines(text):
    """Return the lines of a text. The first one is empty, because `st2 run` indents it less."""
    assert text.startswith("\n")
    return text.splitlines()[1:]


def words(line):
    return line.split()


def test_status(stack, shown):
    assert stack.run("poundcake.status", request_id=shown["request_id"]) == inert(shown)
    assert shown["status"] == "completed"
    assert shown["completed_at"] > shown["received_at"]

    text = stack.run("poundcake.status", request_id=shown["request_id"], format="text")
    shown_lines = lines(text)
    execution = shown["stackstorm_executions"][0]
    received_at, completed_at = shown["received_at"], shown["completed_at"]
    assert shown_lines[0] == f"request {shown['request_id']}: completed"
    assert shown_lines[1] == f"received {received_at} by poundcake, completed {completed_at}"
    assert words(shown_lines[3]) == ["ALERT", "SEVERITY", "INSTANCE", "STATUS", "OUTCOME", "REASON"]
    first = shown["alerts"][0]
    assert words(shown_lines[4]) == [
        *(first["alert_name"], "page", first["instance"]),
        *("firing", "admitted", "new", "incident"),
    ]
    assert shown_lines[5].endswith("admitted  new incident; no rule matched")
    assert words(shown_lines[7])[:5] == ["EXECUTION", "WORKFLOW", "RULE", "STATUS", "SECONDS"]
    assert words(shown_lines[8])[:4] == [
        execution["st2_execution_id"],
        "poundcake_scenarios.linked",
        "poundcake_scenarios.linked",
        "succeeded",
    ]
    assert float(words(shown_lines[8])[4]) == execution["duration_seconds"]


def test_the_status_of_an_unknown_request_fails_with_one_line(stack):
    with pytest.raises(ActionFailed) as failed:
        stack.run("poundcake.status", request_id=UNKNOWN)
    assert str(failed.value) == f"no request {UNKNOWN} is recorded"


def test_executions_recent(stack, shown):
    answer = stack.get("/executions/recent", limit=50).json()
    matching = [e for e in answer["executions"] if e["request_id"] == shown["request_id"]]
    assert len(matching) == 1
    alerts = matching[0].pop("alerts")
    assert matching[0] == {
        "request_id": shown["request_id"],
        "received_at": shown["received_at"],
        "status": "completed",
        "alert_count": 2,
        "st2_execution_count": 1,
    }
    kept = ("id", "alert_name", "severity", "instance", "status", "outcome", "reason")
    assert [{k: a[k] for k in kept} for a in alerts] == [
        {k: a[k] for k in kept} for a in shown["alerts"]
    ]
    assert [a["st2_workflow"] for a in alerts] == ["poundcake_scenarios.linked", ""]
    received = [e["received_at"] for e in answer["executions"]]
    assert received == sorted(received, reverse=True)
    assert answer["total"] >= len(received)

    listed = stack.run("poundcake.executions_recent", limit=50)
    same = [e for e in listed["executions"] if e["request_id"] == shown["request_id"]]
    assert same == [inert(dict(matching[0], alerts=alerts))]
    text = stack.run("poundcake.executions_recent", limit=50, format="text")
    rows = [words(line) for line in lines(text) if shown["request_id"] in line]
    assert [row[-1] for row in rows] == ["poundcake_scenarios.linked", "matched"]


def test_alerts_active(stack, shown):
    first, odd = shown["alerts"]
    answer = stack.get("/alerts/active", alert_name=first["alert_name"]).json()
    execution = shown["stackstorm_executions"][0]
    assert answer == {
        "active_alerts": [
            {
                "fingerprint": first["fingerprint"],
                "episode": first["episode"],
                "alert_name": first["alert_name"],
                "severity": "page",
                "instance": first["instance"],
                "starts_at": first["starts_at"],
                "last_seen_at": shown["received_at"],
                "notifications": 1,
                "stale": False,
                "request_id": shown["request_id"],
                "st2_workflow": "poundcake_scenarios.linked",
                "st2_execution_id": execution["st2_execution_id"],
                "remediation_status": "succeeded",
                "st2_execution_status": "succeeded",
            }
        ],
        "count": 1,
    }
    for query in (
        {"alert_name": first["alert_name"], "severity": "page", "instance": first["instance"]},
        {"alert_name": odd["alert_name"]},
        {"alert_name": odd["alert_name"], "instance": "<b>{odd}</b>"},
    ):
        there = stack.get("/alerts/active", **query).json()
        assert there["count"] == 1
        assert stack.run("poundcake.alerts_active", **query) == inert(there)
    for query in (
        {"severity": "none"},
        {"instance": "elsewhere"},
        # A filter is not a pattern, and ignores the database's collation.
        {"alert_name": first["alert_name"].upper()},
        {"alert_name": first["alert_name"][:-1] + "%"},
        {"alert_name": first["alert_name"] + " "},
    ):
        filters = {"alert_name": first["alert_name"], **query}
        assert stack.get("/alerts/active", **filters).json() == {"active_alerts": [], "count": 0}

    text = stack.run("poundcake.alerts_active", alert_name=odd["alert_name"], format="text")
    assert words(lines(text)[0])[:5] == ["SINCE", "ALERT", "SEVERITY", "INSTANCE", "SEEN"]
    assert odd["alert_name"] in lines(text)[1] and "no rule matched" in lines(text)[1]
    assert lines(text)[-1] == "1 active"
    none = stack.run(
        "poundcake.alerts_active", alert_name=name_of(alert("ScenarioNever")), format="text"
    )
    assert lines(none) == ["no active alerts"]


def test_st2_executions(stack, shown):
    execution, first = shown["stackstorm_executions"][0], shown["alerts"][0]
    answer = stack.get("/st2/executions", status="succeeded", limit=100).json()
    rows = [e for e in answer["st2_executions"] if e["request_id"] == shown["request_id"]]
    assert len(rows) == 1
    assert rows[0].pop("triggered_at") >= shown["received_at"]
    assert rows[0] == {
        "request_id": shown["request_id"],
        "st2_execution_id": execution["st2_execution_id"],
        "st2_workflow": "poundcake_scenarios.linked",
        "st2_rule": "poundcake_scenarios.linked",
        "status": "succeeded",
        "duration_seconds": execution["duration_seconds"],
        "url": rows[0]["url"],
        "alert": {
            "name": first["alert_name"],
            "severity": "page",
            "instance": first["instance"],
        },
    }
    assert {e["status"] for e in answer["st2_executions"]} == {"succeeded"}
    failed = stack.get("/st2/executions", status="failed", limit=100).json()
    assert {e["status"] for e in failed["st2_executions"]} <= {"failed"}

    listed = stack.run("poundcake.st2_executions", status="succeeded", limit=100)
    same = [e for e in listed["st2_executions"] if e["request_id"] == shown["request_id"]]
    assert len(same) == 1 and same[0]["alert"] == rows[0]["alert"]
    text = stack.run("poundcake.st2_executions", limit=100, format="text")
    assert [line for line in lines(text) if execution["st2_execution_id"] in line]


def test_why(stack, shown):
    first = shown["alerts"][0]
    for query in (
        {"alert_name": first["alert_name"]},
        {"instance": first["instance"]},
        {"fingerprint": first["fingerprint"]},
    ):
        answer = stack.run("poundcake.why", **query)
        assert answer["count"] == 1
        (episode,) = answer["episodes"]
        assert (episode["episode"], episode["state"]) == (first["episode"], "firing")
        assert episode["stackstorm_executions"] == inert(shown["stackstorm_executions"])
        (alert_shown,) = episode["alerts"]
        for name in ("outcome", "reason"):
            assert alert_shown[name] == first[name]
        assert alert_shown["request_id"] == shown["request_id"]
    text = stack.run("poundcake.why", fingerprint=first["fingerprint"], format="text")
    execution = shown["stackstorm_executions"][0]["st2_execution_id"]
    assert f"firing since {first['starts_at']}, seen once" in lines(text)[0]
    assert "  episode " + first["episode"] in lines(text)
    assert f"  {shown['received_at']}  firing: admitted, new incident" in lines(text)
    assert "    request " + shown["request_id"] in lines(text)
    assert [s for s in lines(text) if f"poundcake_scenarios.linked ({execution}): succeeded" in s]


def test_why_requires_an_alert(stack):
    with pytest.raises(ActionFailed) as failed:
        stack.run("poundcake.why")
    assert str(failed.value) == (
        "name the alert: alert_name=NAME, instance=INSTANCE or fingerprint=FINGERPRINT"
    )


def test_get_alert_returns_an_alert_with_its_labels_and_host(stack, shown):
    first = shown["alerts"][0]
    result = stack.run(
        "poundcake.get_alert", request_id=shown["request_id"], episode=first["episode"]
    )
    assert result["host"] == first["instance"].split(":")[0]
    assert result["port"] == 9100
    assert result["labels"]["alertname"] == first["alert_name"]
    assert result["may_change"] is False
