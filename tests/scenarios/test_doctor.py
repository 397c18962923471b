"""The action doctor: it finds what is wrong with an installation, and its remedies work."""

from __future__ import annotations

import json

import pytest

from tests import services
from tests.cluster import world
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
        times = {"repeat_interval": "1h", "group_interval": "1m"}
        http_config = {"authorization": {"credentials": TOKEN}}
        super().__init__(webhook_url, http_config, receiver="people", **times)

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


class WrongAlertmanager(services.Alertmanager):
    """An Alertmanager with a different mistake in each receiver that posts to the endpoint."""

    def prepare(self):
        (webhook,) = self.configuration["receivers"][0]["webhook_configs"]
        token = {"authorization": {"credentials": TOKEN}}
        mistakes = {
            "no-resolves": {"send_resolved": False, "http_config": token},
            "few-alerts": {"max_alerts": 5, "http_config": token},
            "no-credential": {},
            "wrong-credential": {"http_config": {"authorization": {"credentials": "wrong"}}},
            "without-route": {"http_config": token},
            "out-of-reach": {"http_config": token},
        }
        self.configuration["receivers"] = [
            {"name": "people"},
            *(
                {"name": name, "webhook_configs": [{**webhook, **mistake}]}
                for name, mistake in mistakes.items()
            ),
        ]
        self.configuration["route"]["receiver"] = "people"
        self.configuration["route"]["routes"] = [
            *(
                {"receiver": name, "matchers": [f'alertname="{name}"'], "continue": True}
                for name in list(mistakes)[:4]
            ),
            {"receiver": "people"},
            {"receiver": "out-of-reach"},
        ]
        super().prepare()

    def remove_receivers(self):
        self.configuration["receivers"] = [{"name": "people"}]
        self.configuration["route"] = {"receiver": "people"}
        with open(self.path("alertmanager.yml"), "w") as file:
            json.dump(self.configuration, file)  # JSON is YAML
        self.request("/-/reload", {})


@pytest.mark.services
def test_mistakes_in_the_monitoring_servers_are_found(healthy_stack, request):
    alertmanager = start(WrongAlertmanager, healthy_stack.url + "/api/v1/webhook")
    request.addfinalizer(alertmanager.close)
    prometheus = start(world.Prometheus, "Fault", services.free_port(), [])
    request.addfinalizer(prometheus.close)
    prometheus_url = f"http://{services.LOOPBACK}:{prometheus.port}"
    alertmanager.fire(alertname="wrong-credential")
    healthy_stack.wait_until(
        lambda: healthy_stack.get("/health").json()["refused"]["last"] or {},
        lambda refused: refused.get("reason") == "unauthenticated",
    )

    def find(**changed_keys):
        servers = {
            "alertmanagers": [{"url": alertmanager.url}],
            "prometheus": [{"url": prometheus_url}],
        }
        with healthy_stack.configured(**servers, **changed_keys):
            checks = healthy_stack.run("poundcake.doctor")["checks"]
        findings = [f"{c['status']}: {c['what']} - {c['remedy']}" for c in checks]
        return [finding for finding in findings if not finding.startswith("ok: ")]

    def assert_found(findings, *expected):
        for texts in expected:
            found = [f for f in findings if all(text in f for text in texts)]
            assert len(found) == 1, (texts, findings)

    assert_found(
        find(receivers=["few-alerts"]),
        ("problem: the receiver no-resolves has send_resolved: false", "send_resolved: true"),
        ("warning: the receiver few-alerts leaves out all but 5 alerts", "max_alerts to 5000"),
        (
            "problem: the receiver no-credential sends no credential, and the endpoint accepts:"
            " bearer",
            "set http_config.authorization.credentials_file",
        ),
        ("problem: no route leads to the receiver without-route", "add a route to it"),
        ("problem: no alert reaches the receiver out-of-reach", "move the route to it before"),
        ("problem: not listed in the key receivers", "no-resolves, no-credential, "),
        (
            "problem: webhooks refused since the endpoint started",
            "401, the credential in the request is none of the configured ones",
            "http_config.authorization.credentials_file",
            "correct the sender",
        ),
        (f"warning: rules of {prometheus_url} without the label severity: Fault", "add it"),
        ("warning: Prometheus has no alerts about PoundCake", "load etc/poundcake.rules.yml"),
    )
    alertmanager.remove_receivers()
    assert_found(
        find(),
        (
            f"problem: no receiver of {alertmanager.url} posts to /api/v1/webhook",
            "add a receiver with the url http://127.0.0.1:",
        ),
    )
    alertmanager.stop()
    prometheus.stop()
    assert_found(
        find(),
        (
            f"problem: alertmanagers, {alertmanager.url}",
            "start Alertmanager, or correct alertmanagers",
        ),
        (f"problem: prometheus, {prometheus_url}", "start Prometheus, or correct prometheus"),
    )


def test_a_new_installation_says_what_is_missing(new_stack, kind):
    if kind == "live":
        pytest.skip("live: not a new installation")
    new = new_stack()
    assert isinstance(new, stack.Stack)
    text = " ".join(new.run("poundcake.doctor", format="text").split())
    assert text.startswith("0 problems, ")
    assert "warning no webhook has been recorded yet - point Alertmanager at the endpoint" in text
    assert "unknown the configuration lists no Alertmanagers" in text
