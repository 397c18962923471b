"""The endpoint accepts the payloads of all senders, and refuses others with a reason."""

from __future__ import annotations

import json
import pathlib

import pytest

from tests.scenarios.notifications import alert, fingerprint, name_of, notification, unique

SAMPLES = sorted((pathlib.Path(__file__).parent / "samples").glob("*.json"))


def load_sample(path):
    """Return a sample with a new alert name. If it has fingerprints, make them match the labels."""
    payload = json.loads(path.read_text())
    name = unique("ScenarioSample")
    for sample_alert in payload["alerts"]:
        sample_alert["labels"]["alertname"] = name
        if sample_alert.get("fingerprint"):
            sample_alert["fingerprint"] = fingerprint(sample_alert["labels"])
    return payload


@pytest.fixture(scope="module")
def sent_samples(stack):
    """Post every sample, and return {name: (payload, request_id)}."""
    sent = {}
    for path in SAMPLES:
        payload = load_sample(path)
        response = stack.post(payload)
        assert response.status_code == 202
        assert response.json()["alerts_received"] == len(payload["alerts"])
        sent[path.stem] = (payload, response.json()["request_id"])
    return sent


@pytest.mark.parametrize("name", [path.stem for path in SAMPLES])
def test_payloads_of_real_senders_are_accepted(stack, sent_samples, name):
    payload, request_id = sent_samples[name]
    trail = stack.wait_until_recorded(request_id)
    assert trail["receiver"] == payload["receiver"]
    assert len(trail["alerts"]) == len(payload["alerts"])
    for sent_alert, alert_view in zip(payload["alerts"], trail["alerts"]):
        assert alert_view["alert_name"] == sent_alert["labels"]["alertname"]
        assert alert_view["instance"] == sent_alert["labels"].get("instance", "")
        assert alert_view["severity"] == sent_alert["labels"].get("severity", "")
        if sent_alert.get("status", payload["status"]) == "firing":
            assert (alert_view["status"], alert_view["outcome"]) == ("firing", "admitted")
            assert alert_view["ends_at"] is None
        else:
            assert alert_view["status"] == "resolved"
            assert (alert_view["outcome"], alert_view["reason"]) == (
                "duplicate",
                "no open incident",
            )
            assert alert_view["ends_at"] == sent_alert["endsAt"].replace("Z", "000Z")
        assert alert_view["fingerprint"] == fingerprint(sent_alert["labels"])


def test_times_in_every_format_become_utc(stack):
    """Case A18 of docs/CASES.md."""
    utc_times = {
        "2026-01-14T12:00:00Z": "2026-01-14T12:00:00Z",
        "2026-01-14T12:00:00.123456789Z": "2026-01-14T12:00:00.123456Z",
        "2026-01-14T12:00:00.5+05:30": "2026-01-14T06:30:00.500000Z",
        "2026-01-14T23:59:59-03:00": "2026-01-15T02:59:59Z",
        "1969-12-31T23:59:59Z": "1969-12-31T23:59:59Z",
    }
    alerts = [alert("ScenarioTimes", startsAt=text) for text in utc_times]
    resolved_alert = alert(
        "ScenarioTimes", status="resolved", endsAt="2026-01-14T12:00:00.25+01:00"
    )
    trail = stack.wait_until_recorded(stack.send(notification(*alerts, resolved_alert)))

    alert_views = trail["alerts"]
    assert [a["outcome"] for a in alert_views] == ["admitted"] * len(utc_times) + ["duplicate"]
    assert [a["starts_at"] for a in alert_views[:-1]] == list(utc_times.values())
    assert [a["ends_at"] for a in alert_views] == [None] * len(utc_times) + [
        "2026-01-14T11:00:00.250000Z"
    ]
    assert alert_views[4]["episode"] == alerts[4]["fingerprint"] + "--1000"


def test_missing_fields_are_not_an_error(stack):
    """Case A18."""
    name = unique("ScenarioBare")
    bare_alert = {"labels": {"alertname": name}}
    trail = stack.wait_until_recorded(stack.send({"status": "firing", "alerts": [bare_alert]}))

    assert trail["receiver"] == ""
    assert len(trail["alerts"]) == 1
    alert_view = trail["alerts"][0]
    assert alert_view["alert_name"] == name
    assert alert_view["severity"] == alert_view["instance"] == ""
    assert (alert_view["status"], alert_view["outcome"]) == ("firing", "admitted")
    assert alert_view["starts_at"] == trail["received_at"]
    assert alert_view["ends_at"] is None

    repeat_trail = stack.wait_until_recorded(
        stack.send({"status": "firing", "alerts": [bare_alert]})
    )
    assert repeat_trail["alerts"][0]["outcome"] == "duplicate"
    assert repeat_trail["alerts"][0]["fingerprint"] == alert_view["fingerprint"]
    assert repeat_trail["alerts"][0]["episode"] == alert_view["episode"]

    resolve = {"status": "resolved", "alerts": [bare_alert]}
    resolve_trail = stack.wait_until_recorded(stack.send(resolve))
    assert resolve_trail["alerts"][0]["outcome"] == "resolved"
    assert resolve_trail["alerts"][0]["episode"] == alert_view["episode"]
    assert stack.active_alerts(name) == []


def test_a_duplicate_alert_in_one_payload_is_one_incident(stack):
    """Case A18: the trail has two rows for the alert."""
    firing_alert = alert("ScenarioTwice")
    trail = stack.wait_until_recorded(stack.send(notification(firing_alert, firing_alert)))

    alert_views = trail["alerts"]
    assert [a["outcome"] for a in alert_views] == ["admitted", "duplicate"]
    assert alert_views[1]["reason"] == "duplicate of " + trail["request_id"]
    assert alert_views[0]["id"] != alert_views[1]["id"]
    incidents = stack.active_alerts(name_of(firing_alert))
    assert [a["notifications"] for a in incidents] == [2]


def test_truncated_alerts_are_shown_and_unknown_fields_are_accepted(stack):
    """Cases A13 and A22."""
    unknown_fields = {"payload": {"own": [1, {"two": None}]}, "newer": True}
    firing_alert = alert("ScenarioTruncated", newer={"still": "fine"})
    request_id = stack.send(notification(firing_alert, truncatedAlerts=7, **unknown_fields))
    trail = stack.wait_until_recorded(request_id)
    assert trail["truncated_alerts"] == 7
    assert trail["alerts"][0]["outcome"] == "admitted"
    text = stack.run("poundcake.status", request_id=request_id, format="text")
    assert "Alertmanager left out 7 alerts of this group" in text


def test_a_notification_without_alerts_is_accepted(stack):
    response = stack.post(notification())
    assert response.status_code == 202
    assert response.json()["alerts_received"] == 0
    assert response.json()["message"] == "0 alerts accepted"
    trail = stack.wait_until_recorded(response.json()["request_id"])
    assert (trail["status"], trail["alerts"]) == ("completed", [])


GROUP = notification()
UNUSABLE_BODIES = {
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
    "alerts is an object": (dict(GROUP, alerts={}), 400, "alerts"),
    "alerts is null": (dict(GROUP, alerts=None), 400, "alerts"),
}


def check_problem(response, status):
    """Check that a response is a problem document with a status, and return it."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    details = response.json()
    assert details["status"] == status
    assert details["title"] and details["detail"]
    assert details["request_id"] == response.headers["X-Request-ID"]
    return details


@pytest.mark.parametrize("case", sorted(UNUSABLE_BODIES))
def test_an_unusable_body_is_refused_with_the_reason(stack, case):
    """Case A13: the status is not 5xx, because the sender would retry."""
    body, status, field = UNUSABLE_BODIES[case]
    details = check_problem(stack.post(body), status)

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
def malformed_alerts(stack):
    """Send unusable alerts with a usable one, and return {alert as JSON: its view in the trail}."""
    usable_alert = alert("ScenarioUnmatched")
    trail = stack.wait_until_recorded(stack.send(notification(*UNUSABLE_ALERTS, usable_alert)))
    assert trail["alerts"][-1]["outcome"] == "admitted"
    return dict(
        zip([json.dumps(unusable_alert) for unusable_alert in UNUSABLE_ALERTS], trail["alerts"])
    )


@pytest.mark.parametrize("unusable", UNUSABLE_ALERTS, ids=json.dumps)
def test_an_unusable_alert_is_recorded_as_malformed_with_a_reason(malformed_alerts, unusable):
    """Case A13."""
    alert_view = malformed_alerts[json.dumps(unusable)]
    assert alert_view["outcome"] == "malformed"
    assert alert_view["reason"].startswith("alerts[")
    assert alert_view["episode"] == ""


UNUSUAL_GROUPS = (
    {"truncatedAlerts": "0"},
    {"truncatedAlerts": "many"},
    {"status": "Firing"},
    {"status": "alerting"},
    {"receiver": None, "groupKey": 7},
)


def test_malformed_optional_fields_cause_no_refusal(stack):
    """Case A23."""
    sent = []
    for group in UNUSUAL_GROUPS:
        unusual_alerts = [
            alert("ScenarioOdd", labels={"port": 8080, "up": True, "team": None, "zone": ""}),
            alert("ScenarioOdd", status="FIRING", annotations={"value": 91.4, "summary": None}),
            dict(alert("ScenarioOdd"), annotations=None, fingerprint=["of", "a", "relay"]),
            alert("ScenarioOdd", startsAt="yesterday", endsAt=1768392000),
        ]
        sent.append((unusual_alerts, stack.send(notification(*unusual_alerts, **group))))
    for unusual_alerts, request_id in sent:
        trail = stack.wait_until_recorded(request_id)
        alert_views = trail["alerts"]
        assert [a["outcome"] for a in alert_views] == ["admitted"] * 4
        for sent_alert, alert_view in zip(unusual_alerts[1:], alert_views[1:]):
            assert alert_view["fingerprint"] == fingerprint(sent_alert["labels"])
        assert ["notes" in alert_view for alert_view in alert_views] == [False, False, False, True]
        assert (
            alert_views[3]["notes"]
            == "startsAt: not a time: 'yesterday'; endsAt: not a time: 1768392000"
        )
        assert alert_views[3]["starts_at"] == trail["received_at"]
    text = stack.run("poundcake.status", request_id=request_id, format="text")
    assert "not read: startsAt: not a time: " in text


def test_an_unsupported_media_type_is_refused(stack):
    """Case A13."""
    payload = notification()
    details = check_problem(stack.post(payload, {"Content-Type": "text/plain"}), 415)
    assert "application/json" in details["detail"]
    check_problem(stack.post(payload, {"Content-Type": "application/json; charset=latin-1"}), 415)
    check_problem(stack.post(payload, {"Content-Encoding": "gzip"}), 415)
    assert stack.post(payload, {"Content-Type": "application/json; charset=UTF-8"}).ok


def test_a_body_that_is_too_large_is_refused(stack):
    """Case A13: a body without a Content-Length is refused as well."""
    details = check_problem(stack.post(b"x" * (7340032 + 1)), 413)
    assert "7340032" in details["detail"] and "max_body_bytes" in details["detail"]
    details = check_problem(stack.post(iter([b'{"alerts":', b"[]}"])), 411)
    assert "Content-Length" in details["detail"]
