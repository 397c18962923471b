"""The action doctor: it finds what is wrong with an installation, and its remedies work."""

from __future__ import annotations

import pytest

from tests import services
from tests.conftest import start
from tests.scenarios import conftest, stack
from tests.scenarios.notifications import alert, notification, unique

# The checks of the database have their own tests, on both kinds.
pytestmark = pytest.mark.parametrize("kind", conftest.KINDS[:1], indirect=True, scope="package")
TOKEN = "doctor-token-0123456789"
# What cannot be known on the stand-in: it has neither st2.conf nor a Prometheus.
UNKNOWN = {"stackstorm.settings", "prometheus"}


class RoutingAlertmanager(services.Alertmanager):
    """An Alertmanager that notifies the endpoint and people, as docs/ESCALATION.md shows."""

    def __init__(self, webhook_url):
        super().__init__(webhook_url, receiver="people", repeat_interval="1h", group_interval="1m")

    def prepare(self):
        self.configuration["receivers"].append({"name": "people"})
        self.configuration["route"]["routes"] = [
            {"receiver": "poundcake", "continue": True},
            {"receiver": "people"},
        ]
        super().prepare()


@pytest.fixture(scope="module")
def healthy_stack(request, kind, new_stack, tmp_path_factory):
    """Return an installation without problems, to which a real Alertmanager posts."""
    if kind == "live":
        pytest.skip("live: the installation is not known to have no problems")
    secret = tmp_path_factory.mktemp("doctor") / "token"
    secret.touch(mode=0o600)
    secret.write_text(TOKEN)
    url = f"http://127.0.0.1:{services.free_port()}/api/v1/webhook"
    server = start(RoutingAlertmanager, url)
    request.addfinalizer(server.close)
    config = {"auth_tokens": [f"file:{secret}"], "alertmanagers": [{"url": server.url}]}
    healthy = new_stack(config, TOKEN)
    healthy.wait_until_completed(healthy.send(notification(alert(unique("Doctor")))))
    return healthy


def examine(on_stack):
    """Return the findings that are not ok as {check: [what]}, without those that stay unknown."""
    view = on_stack.run("poundcake.doctor")
    others = {}
    for check in view["checks"]:
        if check["status"] != "ok" and check["check"] not in UNKNOWN:
            others.setdefault(check["check"], []).append(f"{check['status']}: {check['what']}")
    return others


@pytest.mark.services
def test_an_installation_without_problems_is_all_ok(healthy_stack):
    view = healthy_stack.run("poundcake.doctor")
    others = [check for check in view["checks"] if check["status"] != "ok"]
    assert {check["check"] for check in others} == UNKNOWN, others
    assert view["status"] == "unknown"
    assert view["counts"]["ok"] > 25
    assert healthy_stack.execute("poundcake.doctor", fail_on="problem")["status"] == "succeeded"


@pytest.mark.services
def test_a_disabled_rule_is_found_and_the_remedy_repairs_it(healthy_stack):
    def set_enabled(enabled):
        rule = healthy_stack.api("/rules/poundcake.sync")
        healthy_stack.api("/rules/poundcake.sync", "PUT", {**rule, "enabled": enabled})

    set_enabled(False)
    try:
        ((check, (what,)),) = examine(healthy_stack).items()
        assert check == "stackstorm.rules"
        assert "the rule poundcake.sync is disabled" in what
        failed = healthy_stack.execute("poundcake.doctor", fail_on="problem")
        assert failed["status"] == "failed"
        assert failed["result"]["result"]["counts"]["problem"] == 1
        text = healthy_stack.run("poundcake.doctor", format="text")
        assert "run: st2 rule enable poundcake.sync" in " ".join(text.split())
    finally:
        set_enabled(True)
    assert examine(healthy_stack) == {}


@pytest.mark.services
def test_mistakes_in_the_configuration_are_found(healthy_stack):
    with healthy_stack.configured(allowed_host=["web-1"]):
        found = examine(healthy_stack)["configuration"]
    assert "problem: unknown key allowed_host; did you mean allowed_hosts?" in found[0]
    with healthy_stack.configured(endpoint_url="http://127.0.0.1:1"):
        found = examine(healthy_stack)
    assert "the endpoint does not answer: no answer from http://127.0.0.1:1" in found["endpoint"][0]
    with healthy_stack.configured(alertmanagers=[{"url": "http://127.0.0.1:1"}]):
        found = examine(healthy_stack)
    assert "http://127.0.0.1:1" in found["alertmanager"][0]
    with healthy_stack.configured(st2_api_url="http://127.0.0.1:1"):
        found = examine(healthy_stack)
    assert "actions cannot use the StackStorm API" in found["stackstorm"][0]


@pytest.mark.services
def test_a_pause_and_a_refused_webhook_are_found(healthy_stack):
    healthy_stack.run("poundcake.pause", reason="maintenance")
    try:
        found = examine(healthy_stack)
    finally:
        healthy_stack.run("poundcake.resume")
    assert found["endpoint.pause"] == ["warning: all changes are paused: maintenance"]
    assert healthy_stack.post(b"[]").status_code == 400
    found = examine(healthy_stack)
    assert "webhooks refused since the endpoint started: 1" in found["endpoint.webhooks"][0]


def test_a_new_installation_says_what_is_missing(new_stack, kind):
    if kind == "live":
        pytest.skip("live: not a new installation")
    new = new_stack()
    assert isinstance(new, stack.Stack)
    text = " ".join(new.run("poundcake.doctor", format="text").split())
    assert text.startswith("0 problems, ")
    assert "warning no webhook has been recorded yet - point Alertmanager at the endpoint" in text
    assert "unknown the configuration lists no Alertmanagers" in text
