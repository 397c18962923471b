"""The text of the health says what is wrong, what to do, and how the endpoint is set up."""

from __future__ import annotations

import pytest

from poundcake.endpoint_client import Refused, Unreachable
from poundcake.trail import text
from tests.lib.samples import later
from tests.lib.trail.text.rows import configuration, health, refused_report

NOW = later(3600)


def render(**fields):
    return text.health(health(**fields), NOW)


def test_the_last_refused_webhook_is_shown():
    assert "refused" not in render(refused={"count": 0, "last": None})
    output = " ".join(render(refused=refused_report("the body has 9 bytes", 2)).split())
    assert "refused since the endpoint started: 2 webhooks" in output
    assert "at 12:00:00Z from 127.0.0.1: 413, the body has 9 bytes" in output
    assert "sends what still fires again at the next group_interval" in output


ALL_WORKS = "OK: webhooks are accepted, and everything works"
REFUSING = "OK: the endpoint works, but it refuses webhooks from 127.0.0.1 with 413, the last one"


@pytest.mark.parametrize(
    "seconds, newest, headline, command",
    [
        (15, {}, f"{REFUSING} 15 s ago", "doctor"),
        (15, {"newest_webhook_at": "2026-01-14T12:00:10Z"}, f"{REFUSING} 15 s ago", "doctor"),
        (7200, {"newest_webhook_at": "2026-01-14T11:59:59Z"}, f"{REFUSING} 2 h ago", "doctor"),
        (7200, {"newest_webhook_at": None}, f"{REFUSING} 2 h ago", "doctor"),
        (
            900,
            {"newest_webhook_at": "2026-01-14T12:00:01Z"},
            "OK: webhooks are accepted, but one from 127.0.0.1 was refused with 413, 15 min ago",
            "alerts_active",
        ),
        (3601, {"newest_webhook_at": "2026-01-14T12:00:01Z"}, ALL_WORKS, "alerts_active"),
        (3601, {}, ALL_WORKS, "alerts_active"),
    ],
)
def test_a_webhook_that_was_refused_is_in_the_headline(seconds, newest, headline, command):
    view = health(refused=refused_report("x"), **newest)
    output = text.health(view, later(seconds), width=120)
    assert output.startswith(f"\n{headline}\n")
    is_problem = "  webhooks from 127.0.0.1 are refused with 413" in output
    assert is_problem == headline.startswith(REFUSING)
    assert f"next: st2 run poundcake.{command} format=text" in output


def test_a_refusal_is_history_once_its_sender_is_accepted():
    refused = refused_report("x")
    refused["last"]["accepted_at"] = "2026-01-14T12:00:10Z"
    view = health(refused=refused, newest_webhook_at="2026-01-14T11:00:00Z")
    output = text.health(view, later(15), width=200)
    assert output.startswith(f"\n{ALL_WORKS}\n")
    shown = " ".join(output.split())
    assert "from 127.0.0.1: 413, x; one from the same address was accepted at 12:00:10Z" in shown
    assert "next: st2 run poundcake.alerts_active format=text" in output


def test_the_headline_says_how_to_correct_the_url_of_an_alertmanager():
    detail = (
        "alertmanagers, http://127.0.0.1:9093: it holds the alert of x-1, but the notification came"
        " from another URL: set external_url to http://vm:19093, or add the Alertmanager with that"
        " URL"
    )
    part = {"state": "down", "since": "2026-01-14T12:00:00Z", "detail": detail}
    output = " ".join(render(status="degraded", components={"monitoring": part}).split())
    assert "the URL of an Alertmanager is wrong: set external_url to http://vm:19093 " in output
    assert "monitoring has been down for 60 min: set external_url to http://vm:19093 " in output


@pytest.mark.parametrize(
    "name, detail",
    [
        ("journal", "another endpoint uses this state_dir"),
        ("database", "the tracking database has no tables: run `st2 run poundcake.migrate`"),
        ("stackstorm", "rule poundcake.record is disabled: st2 rule enable poundcake.record"),
    ],
)
def test_the_remedy_of_a_component_leads_to_the_detail_that_names_the_cause(name, detail):
    part = {"state": "down", "since": "2026-01-14T12:00:00Z", "detail": detail}
    output = " ".join(render(status="degraded", components={name: part}).split())
    assert "do what its detail says" in output.partition(detail[:20])[0]
    assert "start st2api" not in output


def test_the_state_of_the_configuration_is_shown():
    assert "configuration" not in render(configuration=configuration())
    differences = {"allowed_hosts": {"endpoint": ["web-1"], "actions": []}}
    report = configuration("kept", ["odd"], differences)
    report["remediation_errors"] = ["remediations, entry 2: is wrong"]
    output = render(configuration=report, literal_secrets=["token"])
    assert "\nconfiguration: kept\nconfiguration: odd\n" in output
    assert "\nconfiguration: remediations, entry 2: is wrong\n" in output
    assert (
        'configuration: allowed_hosts is [] for actions and ["web-1"] for the endpoint, which'
        " applies a change within 30 seconds"
    ) in " ".join(output.split())
    assert "\ntoken is in plain text in the configuration: " in output


@pytest.mark.parametrize(
    "fields, verdict",
    [
        ({"status": "ok"}, "OK: webhooks are accepted, and everything works"),
        (
            {
                "status": "degraded",
                "components": {
                    name: {"state": "down", "since": "", "detail": ""}
                    for name in ("broker", "database")
                },
            },
            "DEGRADED: webhooks are accepted, but broker and database are down",
        ),
        (
            {"status": "degraded", "configuration": configuration("kept")},
            "DEGRADED: webhooks are accepted, but the configuration has a problem",
        ),
        (
            {
                "status": "degraded",
                "components": {
                    "database": {"state": "ok", "since": "", "detail": "", "pending": "x"}
                },
            },
            "DEGRADED: webhooks are accepted, but the tracking database needs a migration",
        ),
        (
            {
                "status": "degraded",
                "components": {"journal": {"state": "ok", "since": "", "detail": "it is late"}},
            },
            "DEGRADED: webhooks are accepted, but it is late\n",
        ),
        ({"status": "new"}, "NEW: the endpoint reports an unknown status"),
    ],
)
def test_the_first_line_is_the_verdict(fields, verdict):
    assert render(**fields).startswith(f"\n{verdict}")


@pytest.mark.parametrize(
    "result, verdict, next_command",
    [
        (
            Unreachable("http://127.0.0.1:8000", "Connection refused"),
            "the endpoint does not answer; Alertmanager sends its webhooks again",
            "grep poundcake /var/log/st2/st2sensorcontainer.log",
        ),
        (
            Refused("http://127.0.0.1:8000", 401),
            "the endpoint answers, but does not show its health to this action",
            "st2 run poundcake.doctor format=text",
        ),
    ],
)
def test_an_endpoint_that_refuses_the_credentials_is_not_shown_as_down(
    result, verdict, next_command
):
    output = render(status="unknown", address=str(result))
    assert output.startswith(f"\nUNKNOWN: {verdict}\n")
    assert output.endswith(f"next: {next_command}")
    assert ("restart the sensor" in output) == isinstance(result, Unreachable)


@pytest.mark.parametrize(
    "fields, mode",
    [
        ({}, "dry run: nothing is changed until dry_run is false"),
        ({"dry_run": False}, "live: remediations change hosts"),
        (
            {"dry_run": False, "paused": {"by": "a", "at": "x", "until": None, "reason": "r"}},
            "paused: no changes until `st2 run poundcake.resume format=text`",
        ),
    ],
)
def test_the_mode_says_whether_changes_are_made(fields, mode):
    assert f"\nmode      {mode}\n" in render(**fields)


def test_the_age_of_the_newest_webhook_is_shown():
    output = render(newest_webhook_at="2026-01-14T12:48:00.5Z")
    assert "\nwebhooks  newest recorded one: 12:48:00Z, 11 min ago\n" in output
    assert "\nwebhooks  newest recorded one: none yet\n" in render(newest_webhook_at=None)
    assert "webhooks  " not in render()  # the database could not be read
