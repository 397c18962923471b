"""The views show the same over HTTP and with `st2 run`."""

from __future__ import annotations

import re

import pytest

from tests.lib.samples import as_inert
from tests.scenarios.notifications import alert, name_of, notification
from tests.scenarios.stack import ActionFailed

UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def trail(stack):
    """Return the trail of two alerts, one of them with text that StackStorm would evaluate."""
    plain_alert = alert("ScenarioLinked", labels={"severity": "page"})
    unusual_alert = alert("ScenarioUnmatched", labels={"instance": "<b>{odd}</b>", "severity": "{"})
    return stack.wait_until_completed(stack.send(notification(plain_alert, unusual_alert)))


def text_lines(text):
    """Return the lines after the first, which is empty because `st2 run` indents it less."""
    assert text.startswith("\n")
    return text.splitlines()[1:]


def test_status_shows_the_trail_of_a_request(stack, trail):
    assert stack.run("poundcake.status", request_id=trail["request_id"]) == as_inert(trail)
    assert trail["status"] == "completed"
    assert trail["completed_at"] > trail["received_at"]

    text = stack.run("poundcake.status", request_id=trail["request_id"], format="text")
    # An endpoint that requires credentials shows which one was used.
    lines = [line for line in text_lines(text) if not line.startswith("credential: ")]
    execution = trail["stackstorm_executions"][0]
    title = f"request {trail['request_id']} is completed: 2 alerts, 1 execution: succeeded"
    assert " ".join(text.split()).startswith(title)
    first_alert, unusual_alert = trail["alerts"]
    place = lines.index(f"{first_alert['alert_name']} {first_alert['instance']}  page, firing")
    block = lines[place : lines.index("", place)]
    assert "  admitted, new incident; rule poundcake_scenarios.linked" in block
    assert re.search(
        rf"\d\d:\d\d:\d\dZ poundcake_scenarios\.linked \({execution['st2_execution_id']}\):"
        r" succeeded after [\d.]+ s",
        " ".join(" ".join(block).split()),
    )
    assert "  admitted, new incident; no rule matched" in lines
    assert as_inert(unusual_alert["instance"]) in text
    assert lines[-1] == (
        f"next: st2 run poundcake.why format=text fingerprint={first_alert['fingerprint']}"
    )


def test_the_text_fits_the_width(stack, trail):
    query = {"request_id": trail["request_id"], "format": "text"}
    narrow = stack.run("poundcake.status", width=40, **query)
    wide = stack.run("poundcake.status", width=200, **query)
    assert max(len(line) for line in narrow.split("\n") if "st2 run" not in line) <= 40
    assert wide.count("\n") < stack.run("poundcake.status", **query).count("\n")
    with pytest.raises(AssertionError, match="39 is less than the minimum of 40"):
        stack.run("poundcake.status", width=39, **query)


def test_the_status_of_an_unknown_request_fails_with_one_line(stack):
    with pytest.raises(ActionFailed) as error:
        stack.run("poundcake.status", request_id=UNKNOWN_ID)
    assert str(error.value) == f"no request {UNKNOWN_ID} is recorded"


def test_executions_recent_lists_requests_newest_first(stack, trail):
    response = stack.get("/executions/recent", limit=50).json()
    matching_requests = [
        e for e in response["executions"] if e["request_id"] == trail["request_id"]
    ]
    assert len(matching_requests) == 1
    alerts = matching_requests[0].pop("alerts")
    assert matching_requests[0] == {
        "request_id": trail["request_id"],
        "received_at": trail["received_at"],
        "status": "completed",
        "alert_count": 2,
        "st2_execution_count": 1,
    }
    fields = ("id", "alert_name", "severity", "instance", "status", "outcome", "reason")
    assert [{k: a[k] for k in (*fields, "labels")} for a in alerts] == [
        {k: a[k] for k in (*fields, "labels")} for a in trail["alerts"]
    ]
    assert [a["st2_workflow"] for a in alerts] == ["poundcake_scenarios.linked", ""]
    received_times = [e["received_at"] for e in response["executions"]]
    assert received_times == sorted(received_times, reverse=True)
    assert response["total"] >= len(received_times)

    action_result = stack.run("poundcake.executions_recent", limit=50)
    matching_results = [
        e for e in action_result["executions"] if e["request_id"] == trail["request_id"]
    ]
    assert matching_results == [as_inert(dict(matching_requests[0], alerts=alerts))]
    text = stack.run("poundcake.executions_recent", limit=50, format="text")
    blocks = [block for block in text.split("\n\n") if trail["request_id"] in block]
    assert len(blocks) == 1
    rows = " ".join(blocks[0].split())
    assert "firing, admitted: poundcake_scenarios.linked: succeeded" in rows
    assert "firing, admitted: new incident; no rule matched" in rows


def test_alerts_active_lists_the_open_incidents_that_match(stack, trail):
    first_alert, unusual_alert = trail["alerts"]
    response = stack.get("/alerts/active", alert_name=first_alert["alert_name"]).json()
    execution = trail["stackstorm_executions"][0]
    assert response == {
        "active_alerts": [
            {
                "fingerprint": first_alert["fingerprint"],
                "episode": first_alert["episode"],
                "alert_name": first_alert["alert_name"],
                "severity": "page",
                "instance": first_alert["instance"],
                "labels": first_alert["labels"],
                "summary": first_alert["summary"],
                "runbook_url": "",
                "verdict": "ran",
                "title": "RAN",
                "headline": "poundcake_scenarios.linked has succeeded; the alert still fires",
                "next_step": "see what it did; nothing else is started for this incident",
                "next_command": f"st2 execution get {execution['st2_execution_id']}",
                "next_at": None,
                "attention": "needs_person",
                "starts_at": first_alert["starts_at"],
                "last_seen_at": trail["received_at"],
                "notifications": 1,
                "stale": False,
                "request_id": trail["request_id"],
                "st2_workflow": "poundcake_scenarios.linked",
                "st2_execution_id": execution["st2_execution_id"],
                "remediation_status": "succeeded",
                "st2_execution_status": "succeeded",
                "result": "other",
            }
        ],
        "count": 1,
    }
    for query in (
        {
            "alert_name": first_alert["alert_name"],
            "severity": "page",
            "instance": first_alert["instance"],
        },
        {"alert_name": unusual_alert["alert_name"]},
        {"alert_name": unusual_alert["alert_name"], "instance": "<b>{odd}</b>"},
    ):
        expected = stack.get("/alerts/active", **query).json()
        assert expected["count"] == 1
        assert stack.run("poundcake.alerts_active", **query) == as_inert(expected)
    for query in (
        {"severity": "none"},
        {"instance": "elsewhere"},
        # A filter is not a pattern, and ignores the database's collation.
        {"alert_name": first_alert["alert_name"].upper()},
        {"alert_name": first_alert["alert_name"][:-1] + "%"},
        {"alert_name": first_alert["alert_name"] + " "},
    ):
        filters = {"alert_name": first_alert["alert_name"], **query}
        answer = stack.get("/alerts/active", **filters).json()
        assert (answer["active_alerts"], answer["count"]) == ([], 0)
        assert answer["near_misses"]

    text = stack.run(
        "poundcake.alerts_active", alert_name=unusual_alert["alert_name"], format="text"
    )
    assert text_lines(text)[0] == "1 active alert: 1 waiting for a person"
    assert f"NOTHING RAN {unusual_alert['alert_name']} " in " ".join(text.split())
    assert "no rule and no entry of" in text
    assert text_lines(text)[-1].startswith("next: st2 run poundcake.why format=text fingerprint=")
    empty_text = stack.run(
        "poundcake.alerts_active", alert_name=name_of(alert("ScenarioNever")), format="text"
    )
    assert text_lines(empty_text)[0].startswith("no active alerts: ")


def test_st2_executions_filters_by_status(stack, trail):
    execution, first_alert = trail["stackstorm_executions"][0], trail["alerts"][0]
    response = stack.get("/st2/executions", status="succeeded", limit=100).json()
    rows = [e for e in response["st2_executions"] if e["request_id"] == trail["request_id"]]
    assert len(rows) == 1
    assert rows[0].pop("triggered_at") >= trail["received_at"]
    assert rows[0] == {
        "request_id": trail["request_id"],
        "st2_execution_id": execution["st2_execution_id"],
        "st2_workflow": "poundcake_scenarios.linked",
        "st2_rule": "poundcake_scenarios.linked",
        "status": "succeeded",
        "duration_seconds": execution["duration_seconds"],
        "url": rows[0]["url"],
        "result": "other",
        "action": "",
        "target": "",
        "action_execution_id": "",
        "change_reason": "",
        "message": rows[0]["message"],
        "alert": {
            "name": first_alert["alert_name"],
            "severity": "page",
            "instance": first_alert["instance"],
            "labels": first_alert["labels"],
        },
    }
    assert {e["status"] for e in response["st2_executions"]} == {"succeeded"}
    failed_view = stack.get("/st2/executions", status="failed", limit=100).json()
    assert {e["status"] for e in failed_view["st2_executions"]} <= {"failed"}

    action_result = stack.run("poundcake.st2_executions", status="succeeded", limit=100)
    matching_results = [
        e for e in action_result["st2_executions"] if e["request_id"] == trail["request_id"]
    ]
    assert len(matching_results) == 1 and matching_results[0]["alert"] == rows[0]["alert"]
    text = stack.run("poundcake.st2_executions", limit=100, format="text")
    assert [line for line in text_lines(text) if execution["st2_execution_id"] in line]


def test_why_explains_an_alert_found_by_any_filter(stack, trail):
    first_alert = trail["alerts"][0]
    for query in (
        {"alert_name": first_alert["alert_name"]},
        {"instance": first_alert["instance"]},
        {"fingerprint": first_alert["fingerprint"]},
    ):
        history = stack.run("poundcake.why", **query)
        assert history["count"] == 1
        (episode,) = history["episodes"]
        assert (episode["episode"], episode["state"]) == (first_alert["episode"], "firing")
        assert episode["stackstorm_executions"] == as_inert(trail["stackstorm_executions"])
        (alert_view,) = episode["alerts"]
        for name in ("outcome", "reason"):
            assert alert_view[name] == first_alert[name]
        assert alert_view["request_id"] == trail["request_id"]
    text = stack.run("poundcake.why", fingerprint=first_alert["fingerprint"], format="text")
    execution = trail["stackstorm_executions"][0]["st2_execution_id"]
    assert text_lines(text)[0].startswith(f"{episode['title']}  {first_alert['alert_name']}")
    assert episode["headline"] in " ".join(text.split())
    assert "  episode " + first_alert["episode"] in text_lines(text)
    assert [s for s in text_lines(text) if s.endswith("Z  firing: admitted, new incident")]
    assert "  request " + trail["request_id"] in text_lines(text)
    assert f"poundcake_scenarios.linked ({execution}) succeeded" in " ".join(text.split())
    assert f"  run: {episode['next_command']}" in text_lines(text)
    assert all(len(line) <= 80 for line in text_lines(text))


def test_why_requires_an_alert(stack):
    with pytest.raises(ActionFailed) as error:
        stack.run("poundcake.why")
    assert str(error.value) == (
        "alert_name: specify the alert by one of alert_name, instance, fingerprint, episode, "
        "request_id, labels, annotations, for example alert_name=HostDown"
    )


def test_why_and_stats_return_the_same_over_http(stack, trail):
    first_alert = trail["alerts"][0]
    expected = stack.get("/why", alert_name=first_alert["alert_name"]).json()
    assert expected["count"] == 1
    for query in (
        {"alert_name": first_alert["alert_name"]},
        {"alert_name": first_alert["alert_name"][:-1] + "*", "severity": "page"},
        {"instance": first_alert["instance"].partition(":")[0]},
        {"episode": first_alert["episode"][:12]},
        {"fingerprint": first_alert["fingerprint"][:12]},
        {"request_id": trail["request_id"][:13], "severity": "page"},
        {"labels": f"""severity=page,alertname=~"{first_alert["alert_name"]}" """},
    ):
        assert stack.get("/why", **query).json() == expected, query
        assert stack.run("poundcake.why", **query) == as_inert(expected), query
    until = trail["completed_at"]
    query = {"alert_name": first_alert["alert_name"], "since": "1d"}
    statistics = stack.get("/stats", until=until, **query).json()
    assert statistics["workflows"][0]["workflow"] == "poundcake_scenarios.linked"
    action_result = stack.run("poundcake.stats", until=until, **query)
    assert action_result["workflows"] == as_inert(statistics["workflows"])
    assert set(action_result) == set(statistics)


def test_a_short_request_id_finds_the_request(stack, trail):
    short_id = trail["request_id"][:13]
    assert stack.get_trail(short_id) == trail
    assert stack.run("poundcake.status", request_id=short_id) == as_inert(trail)


def test_an_invalid_matcher_is_explained(stack):
    with pytest.raises(ActionFailed) as error:
        stack.run("poundcake.why", labels="team")
    assert str(error.value).startswith("labels: team is not a matcher: write it as name=")
    response = stack.get("/why", labels="team")
    assert (response.status_code, response.json()["field"]) == (400, "labels")


def test_get_alert_returns_an_alert_with_its_labels_and_host(stack, trail):
    first_alert = trail["alerts"][0]
    result = stack.run(
        "poundcake.get_alert", request_id=trail["request_id"], episode=first_alert["episode"]
    )
    assert result["host"] == first_alert["instance"].split(":")[0]
    assert result["port"] == 9100
    assert result["labels"]["alertname"] == first_alert["alert_name"]
    assert result["may_change"] is False
