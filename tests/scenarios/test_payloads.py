"""What senders send, good and bad, and what the endpoint makes of it."""

import json
import pathlib
import uuid

import pytest

from tests.scenarios.notifications import alert, name_of, notification, unique

SAMPLES = sorted((pathlib.Path(__file__).parent / "samples").glob("*.json"))


def sample(path):
    """A sample, made a new one by its alerts' name and, where they have some, fingerprints."""
    payload = json.loads(path.read_text())
    name = unique("ScenarioSample")
    for one in payload["alerts"]:
        one["labels"]["alertname"] = name
        if one.get("fingerprint"):
            one["fingerprint"] = uuid.uuid4().hex[:16]
    return payload


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_what_real_senders_send_is_taken(stack, path):
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
            assert (shown["outcome"], shown["reason"]) == ("duplicate", "nothing open")
            assert shown["ends_at"] == sent["endsAt"].replace("Z", "000Z")
        if sent.get("fingerprint"):
            assert shown["fingerprint"] == sent["fingerprint"]
        else:
            assert len(shown["fingerprint"]) == 16
            int(shown["fingerprint"], 16)


def test_times_of_all_kinds_become_utc(stack):
    """A18."""
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


def test_what_is_left_out_is_missing_and_no_error(stack):
    """A18: no endsAt, annotations, severity, instance, fingerprint, generatorURL or startsAt."""
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


def test_an_alert_twice_in_one_payload_is_two_rows_and_one_incident(stack):
    """A18."""
    firing = alert("ScenarioTwice")
    trail = stack.recorded(stack.accepted(notification(firing, firing)))

    shown = trail["alerts"]
    assert [a["outcome"] for a in shown] == ["admitted", "duplicate"]
    assert shown[1]["reason"] == "duplicate of " + trail["request_id"]
    assert shown[0]["id"] != shown[1]["id"]
    active = stack.active(name_of(firing))
    assert [a["notifications"] for a in active] == [2]


def test_truncated_alerts_are_shown(stack):
    """A22."""
    request_id = stack.accepted(notification(alert("ScenarioTruncated"), truncatedAlerts=7))
    assert stack.recorded(request_id)["truncated_alerts"] == 7
    text = stack.run("poundcake.status", request_id=request_id, format="text")
    assert "Alertmanager left out 7 alerts of this group" in text


def test_no_alerts_at_all_is_a_notification_too(stack):
    answer = stack.post(notification())
    assert answer.status_code == 202
    assert answer.json()["alerts_received"] == 0
    assert answer.json()["message"] == "0 alerts on record"
    trail = stack.recorded(answer.json()["request_id"])
    assert (trail["status"], trail["alerts"]) == ("completed", [])


def test_unknown_fields_are_no_fault(stack):
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
    "status": (dict(GROUP, status="pending"), 400, "status"),
    "status of a number": (dict(GROUP, status=1), 400, "status"),
    "receiver": (dict(GROUP, receiver=["a"]), 400, "receiver"),
    "truncated": (dict(GROUP, truncatedAlerts="many"), 400, "truncatedAlerts"),
    "truncated below zero": (dict(GROUP, truncatedAlerts=-1), 400, "truncatedAlerts"),
}


def problem(answer, status):
    """The problem document of an answer that is no success."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    found = answer.json()
    assert found["status"] == status
    assert found["title"] and found["detail"]
    assert found["request_id"] == answer.headers["X-Request-ID"]
    return found


@pytest.mark.parametrize("case", sorted(BAD))
def test_a_body_that_can_never_be_used_is_refused_with_the_reason(stack, case):
    """A13: never a 5xx, which would bring it again."""
    body, status, field = BAD[case]
    found = problem(stack.post(body), status)

    if field:
        assert found["field"] == field
        assert found["detail"].startswith(field + ": ")
    assert stack.get("/status/" + found["request_id"]).status_code == 404


@pytest.mark.parametrize(
    "one",
    [
        {},
        {"labels": []},
        {"labels": None},
        {"labels": {"alertname": 7}},
        {"labels": {"alertname": None}},
        {"labels": {}, "annotations": "none"},
        {"labels": {}, "status": 1},
        {"labels": {}, "status": "pending"},
        {"labels": {}, "startsAt": 1768392000},
        {"labels": {}, "startsAt": "2026-02-30T00:00:00Z"},
        {"labels": {}, "endsAt": "soon"},
        None,
        [],
        7,
    ],
    ids=json.dumps,
)
def test_an_alert_that_cannot_be_used_is_malformed_and_says_why(stack, malformed, one):
    """A13."""
    shown = malformed[json.dumps(one)]
    assert shown["outcome"] == "malformed"
    assert shown["reason"].startswith("alerts[")
    assert shown["episode"] == ""


@pytest.fixture(scope="module")
def malformed(stack, request):
    """All of them in one notification, by what they are; and beside them one that is good."""
    marks = test_an_alert_that_cannot_be_used_is_malformed_and_says_why.pytestmark
    ones = marks[0].args[1]
    good = alert("ScenarioUnmatched")
    trail = stack.recorded(stack.accepted(notification(*ones, good)))
    assert trail["alerts"][-1]["outcome"] == "admitted"
    return dict(zip([json.dumps(one) for one in ones], trail["alerts"]))


def test_a_body_of_another_kind_is_refused(stack):
    """A13."""
    payload = notification()
    found = problem(stack.post(payload, {"Content-Type": "text/plain"}), 415)
    assert "application/json" in found["detail"]
    problem(stack.post(payload, {"Content-Type": "application/json; charset=latin-1"}), 415)
    problem(stack.post(payload, {"Content-Encoding": "gzip"}), 415)
    assert stack.post(payload, {"Content-Type": "application/json; charset=UTF-8"}).ok


def test_a_body_that_is_too_large_is_refused(stack):
    """A13: and so is one that does not say how large it is."""
    found = problem(stack.post(b"x" * (1048576 + 1)), 413)
    assert "1048576" in found["detail"] and "max_body_bytes" in found["detail"]
    found = problem(stack.post(iter([b'{"alerts":', b"[]}"])), 411)
    assert "Content-Length" in found["detail"]
