"""The rules in docs/NOTIFICATIONS.md match the right events and send valid requests.

A test server receives the requests that `core.http` would send.
"""

from __future__ import annotations

import functools
import http.server
import json
import re
import threading
import types
import urllib.request
from pathlib import Path

import pytest
import yaml

from poundcake.inert import make_inert
from scripts import check_rules
from standalone import expressions, rules
from tests import content

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "NOTIFICATIONS.md").read_text(encoding="utf-8")
RULES = {
    rule["name"]: rule
    for rule in map(
        yaml.safe_load, re.findall(r"^```yaml\n# rule\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    )
}
# Hostile text from a sender, in the inert form that a trigger contains.
HOSTILE = make_inert('{{ st2kv.system.x }} <!channel> "\\\n')
KEYS = {"slack_webhook_url": "http://slack/hook", "pagerduty_routing_key": "R1"}


@functools.lru_cache(maxsize=None)
def read_triggers():
    """Return the triggers of the pack. Reading the pack takes longer than each of these tests."""
    return content.Pack(str(ROOT)).triggers


def declared_fields(trigger):
    """Return {field: a value of its type} for the fields that the sensor declares for a trigger."""
    values = {
        "string": HOSTILE,
        "integer": 3,
        "number": 0.0,
        "array": [HOSTILE, HOSTILE],
        "object": {},
    }
    properties = read_triggers()[trigger]["payload_schema"]["properties"]
    return {name: values[schema["type"]] for name, schema in properties.items()}


def make_payload(trigger, **fields):
    return {**declared_fields(trigger), **fields}


def matches(name, payload):
    rule = {"ref": "mypack.rule", "enabled": True, "type": {"ref": "standard"}, **RULES[name]}
    engine = rules.RulesEngine(
        types.SimpleNamespace(rules={"mypack.rule": rule}),
        types.SimpleNamespace(keys={}),
        executor=None,
    )
    trigger = rule["trigger"]["type"]
    return bool(engine.find_matching({"id": "i", "trigger": trigger, "payload": payload}))


def render(name, payload):
    """Return the parameters that the action of a rule gets."""
    scope = {"trigger": payload, "st2kv": {"system": expressions.Datastore(KEYS)}}
    parameters = RULES[name]["action"]["parameters"]
    return expressions.render_parameters(parameters, {}, scope)


@pytest.fixture
def receiver():
    """Return the URL of a server, and the list of the JSON documents posted to it."""
    received = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(json.loads(body))
            self.send_response(202)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", received
    server.shutdown()
    thread.join()
    server.server_close()


def send(url, parameters):
    """Send a request as core.http does, which decodes a JSON body and encodes it again."""
    body = json.dumps(json.loads(parameters["body"])).encode()
    request = urllib.request.Request(url, body, parameters["headers"], method=parameters["method"])
    with urllib.request.urlopen(request, timeout=10) as response:
        assert response.status == 202


def test_each_block_with_a_rule_is_tested():
    assert TEXT.count("trigger:\n") == len(RULES) == 9


@pytest.mark.parametrize("name", RULES)
def test_check_rules_accepts_each_rule(name):
    assert check_rules.check_rule(RULES[name]) == []


@pytest.mark.parametrize(
    "result, refusal, expected",
    [
        ("cleared", "", {"slack_remediation_ended", "pagerduty_cleared"}),
        (
            "not_cleared",
            "",
            {"slack_remediation_ended", "mail_remediation_ended", "pagerduty_not_helped"},
        ),
        (
            "failed",
            "",
            {"slack_remediation_ended", "mail_remediation_ended", "pagerduty_not_helped"},
        ),
        (
            "approval_expired",
            "approval_missing",
            {"slack_remediation_ended", "mail_remediation_ended", "pagerduty_not_helped"},
        ),
        ("refused", "cooldown", {"slack_remediation_ended", "pagerduty_not_helped"}),
        ("refused", "storm", set()),
        ("refused", "acknowledged", {"slack_remediation_ended"}),
        ("dry_run", "", set()),
        ("evidence", "", set()),
    ],
)
def test_the_expected_rules_match_the_end_of_a_remediation(result, refusal, expected):
    trigger = "poundcake.remediation_ended"
    payload = make_payload(trigger, result=result, refusal=refusal)
    names = [name for name, rule in RULES.items() if rule["trigger"]["type"] == trigger]
    assert {name for name in names if matches(name, payload)} == expected


@pytest.mark.parametrize("name", [n for n, r in RULES.items() if r["action"]["ref"] == "core.http"])
def test_a_rule_posts_json_whatever_text_the_event_contains(name, receiver):
    url, received = receiver
    payload = make_payload(RULES[name]["trigger"]["type"])
    send(url, render(name, payload))
    (document,) = received
    assert HOSTILE in json.dumps(document, ensure_ascii=False)
    assert "{{" not in json.dumps(document)


def test_a_slack_message_has_the_verdict_the_reason_and_the_command(receiver):
    url, received = receiver
    payload = make_payload(
        "poundcake.remediation_ended",
        summary="HostDown web-1:9100: still open after ipmi.power_cycle on web-1",
        severity="critical",
        message="the incident is still open 15 min after the change",
        evidence=["ports 22 and 9100 do not answer", "the incident is still open"],
        retry_at="",
        open_incidents=2,
        command="st2 run poundcake.why format=text fingerprint=f",
        execution_url="https://st2.example.org/#/history/6b07",
    )
    parameters = render("slack_remediation_ended", payload)
    assert parameters["url"] == "http://slack/hook"
    send(url, parameters)
    assert received == [
        {
            "text": "*HostDown web-1:9100: still open after ipmi.power_cycle on web-1* (critical)\n"
            "the incident is still open 15 min after the change\n"
            "• ports 22 and 9100 do not answer\n"
            "open incidents with this name: 2\n"
            "`st2 run poundcake.why format=text fingerprint=f` https://st2.example.org/#/history/6b07"
        }
    ]


def test_a_request_for_approval_shows_what_the_checks_saw():
    payload = make_payload(
        "poundcake.approval_wanted",
        summary="HostDown web-1:9100: ipmi.power_cycle waits",
        evidence=["the alert is firing", "ports 22 and 9100 do not answer"],
        command="st2 inquiry respond i1",
    )
    assert json.loads(render("slack_approval_wanted", payload)["body"])["text"] == (
        "*HostDown web-1:9100: ipmi.power_cycle waits*\n"
        "• the alert is firing\n"
        "• ports 22 and 9100 do not answer\n"
        "`st2 inquiry respond i1`"
    )


def test_an_email_and_a_page_show_what_the_checks_saw():
    payload = make_payload(
        "poundcake.remediation_ended",
        message="not verified within 8 s: /srv is 93% full",
        evidence=["/srv is 94% full", "the alert is firing", "/srv is 93% full"],
    )
    body = render("mail_remediation_ended", payload)["body"]
    assert "- /srv is 94% full" in body and "- the alert is firing" in body
    assert body.count("/srv is 93% full") == 1
    document = json.loads(render("pagerduty_not_helped", payload)["body"])
    assert document["payload"]["custom_details"]["evidence"] == (
        "/srv is 94% full; the alert is firing; /srv is 93% full"
    )


def test_the_message_about_a_refusal_says_when_the_change_is_tried_again():
    payload = make_payload("poundcake.remediation_ended", retry_at="2026-01-14T12:10:00Z")
    body = render("slack_remediation_ended", payload)["body"]
    assert "(tried again after 2026-01-14T12:10:00Z)" in json.loads(body)["text"]
    document = json.loads(render("pagerduty_not_helped", payload)["body"])
    details = document["payload"]["custom_details"]
    assert details["tried again after"] == "2026-01-14T12:10:00Z"


def test_pagerduty_has_one_incident_for_each_episode(receiver):
    url, received = receiver
    ended = make_payload("poundcake.remediation_ended", episode="e", severity="critical")
    resolved = make_payload("poundcake.alert", episode="e", status="resolved")
    assert matches("pagerduty_resolved", resolved)
    assert not matches("pagerduty_resolved", {**resolved, "status": "firing"})
    send(url, render("pagerduty_not_helped", ended))
    send(url, render("pagerduty_cleared", ended))
    send(url, render("pagerduty_resolved", resolved))
    assert [(d["routing_key"], d["event_action"], d["dedup_key"]) for d in received] == [
        ("R1", "trigger", "e"),
        ("R1", "resolve", "e"),
        ("R1", "resolve", "e"),
    ]
    assert received[0]["payload"]["severity"] == "critical"


@pytest.mark.parametrize("severity", ["warning", "page", ""])
def test_pagerduty_gets_a_valid_severity(severity):
    payload = make_payload("poundcake.remediation_ended", severity=severity)
    document = json.loads(render("pagerduty_not_helped", payload)["body"])
    assert document["payload"]["severity"] == "warning"


def test_the_subject_of_an_email_is_one_line():
    payload = make_payload("poundcake.remediation_ended", summary=HOSTILE)
    parameters = render("mail_remediation_ended", payload)
    assert parameters["subject"] == HOSTILE
    assert "\n" not in parameters["subject"]
    assert payload["command"] in parameters["body"]
