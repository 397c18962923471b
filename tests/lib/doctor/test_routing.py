"""Mistakes in Alertmanager's configuration are found."""

from __future__ import annotations

import copy

import pytest
import yaml

from poundcake.config import load
from poundcake.doctor.finding import Status
from poundcake.doctor.routing import check_routing
from tests.documents import ROOT, find_code_blocks

URL = "http://alertmanager.example"
WEBHOOK = {"url": "http://127.0.0.1:8000/api/v1/webhook", "send_resolved": True}
GOOD = {
    "route": {
        "receiver": "people",
        "group_by": ["alertname", "instance"],
        "group_interval": "1m",
        "repeat_interval": "1h",
        "routes": [
            {"receiver": "poundcake", "continue": True},
            {"receiver": "people", "matchers": ['severity="critical"']},
        ],
    },
    "receivers": [{"name": "poundcake", "webhook_configs": [WEBHOOK]}, {"name": "people"}],
}
SERVERS = [{"url": URL}]


def find_others(document, config=None, seen=()):
    text = document if isinstance(document, str) else yaml.safe_dump(document)
    settings = load(config or {"alertmanagers": SERVERS})
    findings = check_routing(text, URL, settings, seen)
    return [finding for finding in findings if finding.status is not Status.OK]


def changed(path, value):
    """Return the good configuration with one value changed; None removes it."""
    document = copy.deepcopy(GOOD)
    *parents, last = [int(step) if step.isdigit() else step for step in path.split("/")]
    inner = document
    for parent in parents:
        inner = inner[parent]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return document


def test_a_good_configuration_is_all_ok():
    assert find_others(GOOD) == []


def test_the_documented_configuration_is_all_ok():
    (text,) = [
        block
        for block in find_code_blocks(ROOT / "docs" / "ESCALATION.md", "yaml")
        if block.startswith("# alertmanager.yml")
    ]
    assert find_others(text) == []


def test_the_shipped_example_lacks_only_a_route_to_people():
    text = (ROOT / "etc" / "alertmanager.yml").read_text(encoding="utf-8")
    (finding,) = find_others(text)
    assert finding.status is Status.WARNING
    assert "notify nobody else" in finding.what


@pytest.mark.parametrize(
    "path, value, status, what, remedy",
    [
        (
            "receivers/0/webhook_configs/0/url",
            "http://127.0.0.1:8000/webhook",
            "problem",
            "no receiver",
            "http://127.0.0.1:8000/api/v1/webhook",
        ),
        (
            "receivers/0/webhook_configs/0/send_resolved",
            False,
            "problem",
            "no incident ever ends",
            "send_resolved: true",
        ),
        (
            "receivers/0/webhook_configs/0/max_alerts",
            20,
            "warning",
            "all but 20 alerts",
            "max_alerts",
        ),
        ("route/repeat_interval", "1d", "problem", "stale_after_hours", "repeat_interval: 1h"),
        ("route/routes/0/repeat_interval", "30h", "problem", "every 30h", "repeat_interval: 1h"),
        ("route/group_by", None, "warning", "no group_by", "group_by: [alertname"),
        ("route/routes/0/continue", False, "warning", "notify nobody else", "continue: true"),
        ("route/routes/0/receiver", "people", "problem", "no route leads", "add a route"),
    ],
)
def test_each_mistake_is_found(path, value, status, what, remedy):
    (finding,) = find_others(changed(path, value))
    assert finding.status == status
    assert what in finding.what and remedy in finding.remedy


def test_a_long_group_interval_is_compared_with_two_keys():
    findings = find_others(changed("route/group_interval", "20m"))
    texts = " ".join(finding.what for finding in findings)
    assert "fresh_minutes" in texts and "gone_after_seconds" in texts
    config = {"fresh_minutes": 30, "gone_after_seconds": 3600, "alertmanagers": SERVERS}
    assert find_others(changed("route/group_interval", "20m"), config) == []


def test_the_root_alone_is_a_warning_only_without_another_receiver():
    root = {"receiver": "poundcake", "group_by": ["alertname"]}
    document = {"route": root, "receivers": GOOD["receivers"][:1]}
    (finding,) = find_others(document)
    assert "notify nobody else" in finding.what
    assert find_others({**document, "receivers": GOOD["receivers"]}) == []


def test_a_route_before_it_that_continues_tells_people():
    routes = [{"receiver": "people", "continue": True}, {"receiver": "poundcake"}]
    assert find_others(changed("route/routes", routes)) == []


@pytest.mark.parametrize(
    "routes",
    [
        [{"receiver": "people"}, {"receiver": "poundcake", "continue": True}],
        [{"receiver": "people"}, {"receiver": "people", "routes": [{"receiver": "poundcake"}]}],
        [{"receiver": "poundcake", "routes": [{"receiver": "people"}]}],
    ],
)
def test_a_route_that_no_alert_reaches_is_found(routes):
    (finding,) = find_others(changed("route/routes", routes))
    assert finding.status is Status.PROBLEM
    assert "no alert reaches the receiver poundcake" in finding.what


@pytest.mark.parametrize(
    "changes", [{"matchers": ['severity="page"']}, {"match": {"a": "b"}}, {"continue": True}]
)
def test_a_route_behind_one_that_takes_only_some_alerts_is_reached(changes):
    routes = [{"receiver": "people", **changes}, {"receiver": "poundcake", "continue": True}]
    routes.append({"receiver": "people"})
    assert find_others(changed("route/routes", routes)) == []


def test_a_receiver_that_is_not_listed_in_the_configuration_is_found():
    (finding,) = find_others(GOOD, {"alertmanagers": SERVERS, "receivers": ["other"]})
    assert finding.status is Status.PROBLEM
    assert "not listed in the key receivers" in finding.what
    assert find_others(GOOD, {"alertmanagers": SERVERS, "receivers": ["poundcake"]}) == []


@pytest.mark.parametrize(
    ("http_config", "is_ok"),
    [
        (None, False),
        ({"follow_redirects": True}, False),
        ({"authorization": {"type": "Bearer", "credentials": "<secret>"}}, True),
        ({"basic_auth": {"username": "a", "password_file": "/b"}}, True),
        ({"tls_config": {"ca_file": "/ca.pem"}}, False),
        ({"tls_config": {"cert_file": "/c.pem", "key_file": "/k.pem"}}, True),
    ],
)
def test_a_receiver_without_a_credential_is_found(http_config, is_ok):
    document = changed("receivers/0/webhook_configs/0/http_config", http_config or {})
    findings = find_others(document, {"alertmanagers": SERVERS, "auth_tokens": ["a" * 16]})
    assert [("sends no credential" in finding.what) for finding in findings] == [True] * (not is_ok)


def test_a_nested_route_inherits_the_settings():
    nested = [{"receiver": "people", "repeat_interval": "2d", "continue": True}]
    nested[0]["routes"] = [{"receiver": "poundcake"}]
    document = changed("route/routes", [*nested, {"receiver": "people"}])
    (finding,) = find_others(document)
    assert "every 2d" in finding.what


@pytest.mark.parametrize("hidden", [{"url": "<secret>"}, {"url_file": "/etc/url"}])
def test_a_hidden_url_is_known_from_the_recorded_webhooks(hidden):
    document = changed("receivers/0/webhook_configs/0", hidden)
    (finding,) = find_others(document)
    assert finding.status is Status.UNKNOWN
    assert "poundcake" in finding.what
    assert find_others(document, seen=["poundcake"]) == []
    document["receivers"][0]["webhook_configs"][0]["send_resolved"] = False
    (finding,) = find_others(document, seen=["poundcake"])
    assert finding.status is Status.PROBLEM


@pytest.mark.parametrize(
    "text", ["", "a: [", "route: 1", "receivers: []", "route: {}\nreceivers: 1"]
)
def test_an_unreadable_configuration_is_unknown(text):
    (finding,) = find_others(text)
    assert finding.status is Status.UNKNOWN


@pytest.mark.services
def test_a_real_alertmanager_shows_its_configuration(alertmanager):
    from poundcake.monitoring import alertmanagers

    server = alertmanager(WEBHOOK["url"], repeat_interval="3d", group_by=["alertname"])
    config = load({"alertmanagers": [{"url": server.url}]})
    (client,) = alertmanagers(config)
    findings = check_routing(client.configuration(), server.url, config)
    others = {finding.what for finding in findings if finding.status is not Status.OK}
    assert any("repeats only every 3d" in what for what in others)
    assert any("notify nobody else" in what for what in others)
    assert len(others) == 2
