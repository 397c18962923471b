"""Usable and unusable payloads of senders, and the endpoint's responses."""

from __future__ import annotations

import json
import pathlib

import pytest

from tests.scenarios.notifications import alert, fingerprint, name_of, notification, unique

SAMPLES = sorted((pathlib.Path(__file__).parent / "samples").glob("*.json"))


def sample(path):
    """Return a sample with a new alert name and, if its alerts have fingerprints, new ones."""
    payload = json.loads(path.read_text())
    name = unique("ScenarioSample")
    for item in payload["alerts"]:
        item["labels"]["alertname"] = name
        if item.get("fingerprint"):
            item["fingerprint"] = fingerprint(item["labels"])
    return payload


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_payloads_of_real_senders_are_accepted(stack, path):
    payload = sample(path)
    answer = stack.post(payload)

    assert answer.status_code == 202
    assert answer.json()["alerts_received"] == len(payload["alerts"])
    trail = stack.recorded(answer.json()["request_id"])
    assert trail["receiver"] == payload["receiver"]
    assert len(trail["alerts"]) == len(payload["alerts"])
    for sent, shown in zip(payload["alerts"], trail["alerts"]):
        assert shown["alert_name"] == sent["labels"]["alertname"]
        assert shown["instance"] == sent["labels"].get("instance", "")
        assert shown["severity"] == sent["labels"].get("severity", "")
        if sent.get("status", payload["status"]) == "firing":
            assert (shown["status"], shown["outcome"]) == ("firing", "admitted")
            assert shown["ends_at"] is None
        else:
            assert shown["status"] == "resolved"
            assert (shown["outcome"], shown["reason"]) == ("duplicate", "no open incident")
            assert shown["ends_at"] == sent["endsAt"].replace("Z", "000Z")
        assert shown["fingerprint"] == fingerprint(sent["labels"])


def test_times_of_every_form_become_utc(stack):
    """Case A18 of docs/CASES.md."""
    given = {
        "2026-01-14T12:00:00Z": "2026-01-14T12:00:00Z",
        "2026-01-14T12:00:00.123456789Z": "2026-01-14T12:00:00.123456Z",
        "2026-01-14T12:00:00.5+05:30": "2026-01-14T06:30:00.500000Z",
        "2026-01-14T23:59:59-03:00": "2026-01-15T02:59:59Z",
        "1969-12-31T23:59:59Z": "1969-12-31T23:59:59Z",
    }
    alerts = [alert("ScenarioTimes", startsAt=text) for text in given]
    ended = alert("ScenarioTimes", status="resolved", endsAt="2026-01-14T12:00:00.25+01:00")
    trail = stack.recorded(stack.accepted(notification(*alerts, ended)))

    shown = trail["alerts"]
    assert [a["outcome"] for a in shown] == ["admitted"] * len(given) + ["duplicate"]
    assert [a["starts_at"] for a in shown[:-1]] == list(given.values())
    assert [a["ends_at"] for a in shown] == [None] * len(given) + ["2026-01-14T11:00:00.250000Z"]
    assert shown[4]["episode"] == alerts[4]["fingerprint"] + "--1000"


def test_missing_fields_are_not_an_error(stack):
    """Case A18."""
    name = unique("ScenarioBare")
    bare = {"labels": {"alertname": name}}
    trail = stack.recorded(stack.accepted({"status": "firing", "alerts": [bare]}))

    assert trail["receiver"] == ""
    assert len(trail["alerts"]) == 1
    shown = trail["alerts"][0]
    assert shown["alert_name"] == name
    assert shown["severity"] == shown["instance"] == ""
    assert (shown["status"], shown["outcome"]) == ("firing", "admitted")
    assert shown["starts_at"] == trail["received_at"]
    assert shown["ends_at"] is None

    again = stack.recorded(stack.accepted({"status": "firing", "alerts": [bare]}))
    assert again["alerts"][0]["outcome"] == "duplicate"
    assert again["alerts"][0]["fingerprint"] == shown["fingerprint"]
    assert again["alerts"][0]["episode"] == shown["episode"]

    end = {"status": "resolved", "alerts": [bare]}
    ended = stack.recorded(stack.accepted(end))
    assert ended["alerts"][0]["outcome"] == "resolved"
    assert ended["alerts"][0]["episode"] == shown["episode"]
    assert stack.active(name) == []


def test_an_alert_twice_in_one_payload_is_one_incident(stack):
    """Case A18: the alert has two rows."""
    firing = alert("ScenarioTwice")
    trail = stack.recorded(stack.accepted(notification(firing, firing)))

    shown = trail["alerts"]
    assert [a["outcome"] for a in shown] == ["admitted", "duplicate"]
    assert shown[1]["reason"] == "duplicate of " + trail["request_id"]
    assert shown[0]["id"] != shown[1]["id"]
    active = stack.active(name_of(firing))
    assert [a["notifications"] for a in active] == [2]


def test_truncated_alerts_are_shown(stack):
    """Case A22."""
    request_id = stack.accepted(notification(alert("ScenarioTruncated"), truncatedAlerts=7))
    assert stack.recorded(request_id)["truncated_alerts"] == 7
    text = stack.run("poundcake.status", request_id=request_id, format="text")
    assert "Alertmanager left out 7 alerts of this group" in text


def test_a_notification_without_alerts_is_accepted(stack):
    answer = stack.post(notification())
    assert answer.status_code == 202
    assert answer.json()["alerts_received"] == 0
    assert answer.json()["message"] == "0 alerts accepted"
    trail = stack.recorded(answer.json()["request_id"])
    assert (trail["status"], trail["alerts"]) == ("completed", [])


def test_unknown_fields_are_accepted(stack):
    """Case A13."""
    more = {"payload": {"ours": [1, {"two": None}]}, "newer": True}
    firing = alert("ScenarioNewer", newer={"still": "fine"})
    trail = stack.recorded(stack.accepted(notification(firing, **more)))
    assert trail["alerts"][0]["outcome"] == "admitted"


GROUP = notification()
BAD = {
    "empty": (b"", 400, "body"),
    "no json": (b"alerts", 400, "body"),
    "half": (b'{"alerts": [', 400, "body"),
    "not utf-8": (b'{"alerts": ["\xff"]}', 400, "body"),
    "nan": (b'{"alerts": [], "x": NaN}', 400, "body"),
    "deep": (b"[" * 100000 + b"]" * 100000, 400, "body"),
    "a list": ([GROUP], 400, "body"),
    "a string": ("alerts", 400, "body"),
    "null": (None, 400, "body"),
    "no alerts": ({"status": "firing"}, 400, "alerts"),
    "alerts of an object": (dict(GROUP, alerts={}), 400, "alerts"),
    "alerts of null": (dict(GROUP, alerts=None), 400, "alerts"),
}


def problem(answer, status):
    """Return the problem document of a response with this status."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    details = answer.json()
    assert details["status"] == status
    assert details["title"] and details["detail"]
    assert details["request_id"] == answer.headers["X-Request-ID"]
    return details


@pytest.mark.parametrize("case", sorted(BAD))
def test_an_unusable_body_is_refused_with_the_reason(stack, case):
    """Case A13: never with a 5xx, because the sender would retry that."""
    body, status, field = BAD[case]
    details = problem(stack.post(body), status)

    if field:
        assert details["field"] == field
        assert details["detail"].startswith(field + ": ")
    assert stack.get("/status/" + details["request_id"]).status_code == 404


UNUSABLE_ALERTS = [
    {},
    {"labels": []},
    {"labels": None},
    {"labels": {}},
    {"labels": {"alertname": None, "team": ""}},
    {"labels": {"alertname": "A"}, "status": 1},
    {"labels": {"alertname": "A"}, "status": "pending"},
    None,
    [],
    7,
]


@pytest.fixture(scope="module")
def malformed(stack):
    """Return the trail of the unusable alerts, which are sent together with a usable one."""
    usable = alert("ScenarioUnmatched")
    trail = stack.recorded(stack.accepted(notification(*UNUSABLE_ALERTS, usable)))
    assert trail["alerts"][-1]["outcome"] == "admitted"
    return dict(zip([json.dumps(each) for each in UNUSABLE_ALERTS], trail["alerts"]))


@pytest.mark.parametrize("unusable", UNUSABLE_ALERTS, ids=json.dumps)
def test_an_unusable_alert_is_malformed_with_the_reason(malformed, unusable):
    """Case A13."""
    shown = malformed[json.dumps(unusable)]
    assert shown["outcome"] == "malformed"
    assert shown["reason"].startswith("alerts[")
    assert shown["episode"] == ""


@pytest.mark.parametrize(
    "group",
    [
        {"truncatedAlerts": "0"},
        {"truncatedAlerts": "many"},
        {"status": "Firing"},
        {"status": "alerting"},
        {"receiver": None, "groupKey": 7},
    ],
    ids=json.dumps,
)
def test_fields_that_affect_no_decision_cause_no_refusal(stack, group):
    """Case A23."""
    odd = [
        alert("ScenarioOdd", labels={"port": 8080, "up": True, "team": None, "zone": ""}),
        alert("ScenarioOdd", status="FIRING", annotations={"value": 91.4, "summary": None}),
        dict(alert("ScenarioOdd"), annotations=None, fingerprint=["of", "a", "relay"]),
        alert("ScenarioOdd", startsAt="yesterday", endsAt=1768392000),
    ]
    trail = stack.recorded(stack.accepted(notification(*odd, **group)))
    shown = trail["alerts"]
    assert [a["outcome"] for a in shown] == ["admitted"] * 4
    for sent, row in zip(odd[1:], shown[1:]):
        assert row["fingerprint"] == fingerprint(sent["labels"])
    assert ["notes" in row for row in shown] == [False, False, False, True]
    assert shown[3]["notes"] == "startsAt: not a time: 'yesterday'; endsAt: not a time: 1768392000"
    assert shown[3]["starts_at"] == trail["received_at"]
    text = stack.run("poundcake.status", request_id=trail["request_id"], format="text")
    assert "not read: startsAt: not a time: " in text


def test_another_media_type_is_refused(stack):
    """Case A13."""
    payload = notification()
    details = problem(stack.post(payload, {"Content-Type": "text/plain"}), 415)
    assert "application/json" in details["detail"]
    problem(stack.post(payload, {"Content-Type": "application/json; charset=latin-1"}), 415)
    problem(stack.post(payload, {"Content-Encoding": "gzip"}), 415)
    assert stack.post(payload, {"Content-Type": "application/json; charset=UTF-8"}).ok


def test_a_body_that_is_too_large_is_refused(stack):
    """Case A13: a body without a Content-Length is refused as well."""
    details = problem(stack.post(b"x" * (7340032 + 1)), 413)
    assert "7340032" in details["detail"] and "max_body_bytes" in details["detail"]
    details = problem(stack.post(iter([b'{"alerts":', b"[]}"])), 411)
    assert "Content-Length" in details["detail"]
