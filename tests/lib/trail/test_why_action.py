"""The action why also shows the requests that wait in the endpoint's journal."""

from __future__ import annotations

import pytest

from poundcake import endpoint_client
from poundcake.endpoint_client import Answered, Unreachable
from tests.lib.samples import alert, waiting_requests
from tests.lib.trails import on_sqlite, record

pytestmark = on_sqlite
WAITING = waiting_requests("2026-01-14T12:00:00Z", fingerprint="f")


@pytest.fixture
def why(engine, run_action, monkeypatch):
    """Return a function that runs the action, and the requests to the endpoint."""
    asked = []

    def run(result, **parameters):
        def ask(config, filters, limit=20):
            asked.append(dict(filters))
            return result

        monkeypatch.setattr(endpoint_client, "waiting_requests", ask)
        return run_action("why", "e", **{"alert_name": "HostDown", **parameters})

    return run, asked


def test_waiting_requests_are_shown(engine, why):
    run, asked = why
    record(engine, alert())
    answer = Answered(WAITING)
    view = run(answer, severity="critical", limit=5)
    assert [row["verdict"] for row in view["waiting"]] == ["waiting_to_be_recorded"]
    assert len(view["episodes"]) == 1
    assert asked == [{"alert_name": "HostDown", "severity": "critical"}]
    output = run(answer, format="text", alert_name="NoSuchName")
    assert output.startswith("\nWAITING TO BE RECORDED  HostDown  web-1  critical, received ")
    assert output.endswith("\nno other matching alert is recorded"), "and no near misses"


def test_without_waiting_requests_the_view_is_unchanged(why):
    run, _ = why
    view = run(Answered({"requests": [], "count": 0}))
    assert view["episodes"] == [] and "waiting" not in view and "endpoint" not in view


def test_an_unreachable_endpoint_is_noted(why):
    run, _ = why
    view = run(Unreachable("http://127.0.0.1:1", "Connection refused"))
    assert (
        view["endpoint"] == "no answer from http://127.0.0.1:1 (endpoint_url): Connection refused"
    )


def test_unreadable_credentials_are_noted(engine, run_action):
    config = {"auth_tokens": ["file:/no/such/file"]}
    view = run_action("why", "e", config, alert_name="HostDown")
    assert "/no/such/file" in view["endpoint"] and view["episodes"] == []


@pytest.mark.parametrize(
    "parameters", [{"outcome": "admitted"}, {"offset": 1}, {"before": "2026-01-14T12:00:00Z/1/1"}]
)
def test_only_the_first_page_without_an_outcome_asks_the_endpoint(why, parameters):
    run, asked = why
    run(Answered(WAITING), **parameters)
    assert asked == []


@pytest.mark.parametrize("width", [40, 200])
def test_the_text_has_the_width_of_the_terminal(engine, why, width):
    run, _ = why
    record(engine, alert(annotations={"summary": "word " * 60}))
    output = run(Answered({"requests": [], "count": 0}), format="text", width=width)
    longest = max(len(line) for line in output.split("\n") if "st2 run" not in line)
    assert width - 20 < longest <= width
