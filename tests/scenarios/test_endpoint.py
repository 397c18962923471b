"""The endpoint's routes, credentials and health, and simultaneous requests."""

from __future__ import annotations

import threading

import pytest

from tests.scenarios import conftest
from tests.scenarios.notifications import alert, name_of, notification, unique
from tests.scenarios.test_payloads import check_problem

PROTECTED_PATHS = (
    "/executions/recent",
    "/alerts/active",
    "/st2/executions",
    "/health",
    "/health/ready",
)


def test_health_shows_every_component(stack):
    """Case A16."""
    stack.wait_until_recorded(stack.send(notification(alert("ScenarioUnmatched"))))

    def states():
        return [
            component["state"] for component in stack.get("/health").json()["components"].values()
        ]

    # A component is unknown until its first use.
    stack.wait_until(states, lambda component_states: set(component_states) == {"ok"})
    response = stack.get("/health")
    assert response.status_code == 200
    health = response.json()
    assert health["status"] == "ok"
    assert {name: component["state"] for name, component in health["components"].items()} == {
        "journal": "ok",
        "broker": "ok",
        "database": "ok",
        "stackstorm": "ok",
    }
    for component in health["components"].values():
        assert component["since"].endswith("Z")
        assert component["detail"] == ""
    assert health["components"]["journal"]["backlog_limit"] == 100000
    assert health["components"]["stackstorm"]["stuck"] == []
    assert health["version"]
    assert health["dry_run"] is True or stack.is_live
    assert stack.get("/health/live").json() == {"status": "alive"}
    assert stack.get("/health/ready").status_code == 200


def test_the_action_health_matches_the_route(stack):
    result, health = stack.run("poundcake.health"), stack.get("/health").json()
    for name in ("status", "version", "address", "authentication", "database", "dry_run"):
        assert result[name] == health[name]
    assert list(result["components"]) == list(health["components"])
    text = stack.run("poundcake.health", format="text")
    assert text.startswith("\nOK: webhooks are accepted, and everything works\n")
    assert f"\nendpoint  {health['address']}\n" in text
    assert f"\nversion   {health['version']}, " in text


def test_health_shows_the_kind_of_database(stack, kind):
    database = stack.get("/health").json()["database"]
    assert database == {"sqlite": "SQLite", "mariadb": "MariaDB"}.get(kind, database)


def test_webhooks_are_accepted_without_the_database_and_recorded_later(stack):
    """Cases A8 and A16."""
    if stack.mariadb is None:
        pytest.skip("no database server that the tests can stop")
    firing_alert = alert("ScenarioLinked")
    stack.mariadb.stop()
    try:
        response = stack.post(notification(firing_alert))
        assert response.status_code == 202
        request_id = response.json()["request_id"]

        def health():
            response = stack.get("/health")
            return dict(response.json(), code=response.status_code)

        degraded_health = stack.wait_until(
            health, lambda h: h["components"]["database"]["state"] == "down"
        )
        assert (degraded_health["status"], degraded_health["code"]) == ("degraded", 200)
        assert degraded_health["components"]["database"]["detail"]
        assert degraded_health["components"]["database"]["waiting"] >= 1
        assert degraded_health["components"]["journal"]["state"] == "ok"
        trail = stack.get_trail(request_id)
        assert trail["status"] in ("accepted", "announced")
        assert trail["blocked_by"].startswith("database: ")
        response = check_problem(stack.get("/alerts/active"), 503)
        assert "webhooks are still accepted" in response["detail"]
    finally:
        stack.mariadb.start()

    trail = stack.wait_for_trail(request_id, lambda t: t["stackstorm_executions"], timeout=90)
    assert [a["outcome"] for a in trail["alerts"]] == ["admitted"]
    stack.wait_until_completed(request_id)
    assert len(stack.work_executions(trail["alerts"][0]["episode"])) == 1
    stack.wait_until(lambda: stack.get("/health").json(), lambda h: h["status"] == "ok")


@pytest.mark.parametrize(
    "header",
    [None, "bearer {}x", "Basic {}"],
)
def test_missing_or_wrong_credentials_are_refused_and_nothing_is_stored(guarded_stack, header):
    """Case A14."""
    headers = {} if header is None else {"Authorization": header.format(guarded_stack.token)}
    headers = {name: value.encode("latin-1") for name, value in headers.items()}
    firing_alert = alert("ScenarioUnmatched")
    response = guarded_stack.post(notification(firing_alert), headers, token=False)

    details = check_problem(response, 401)
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="poundcake"'
    assert guarded_stack.token not in response.text
    for path in (*PROTECTED_PATHS, "/status/" + details["request_id"]):
        assert guarded_stack.get(path, headers, token=False).status_code == 401
    assert guarded_stack.active_alerts(name_of(firing_alert)) == []
    assert guarded_stack.get("/status/" + details["request_id"]).status_code == 404
    # The liveness check requires no token.
    assert guarded_stack.get("/health/live", token=False).status_code == 200


def test_each_of_several_tokens_is_accepted(guarded_stack):
    """Case A14: an operator can replace a token without downtime."""
    tokens = [guarded_stack.token] if guarded_stack.is_live else conftest.TOKENS
    for token in tokens:
        for scheme in ("Bearer", "bearer"):
            headers = {"Authorization": f"{scheme} {token}"}
            response = guarded_stack.post(notification(), headers, token=False)
            assert response.status_code == 202
    assert guarded_stack.get("/health").json()["authentication"] == "bearer"
    # The action reads the token from the pack's configuration.
    assert guarded_stack.run("poundcake.health")["components"]["journal"]["state"] == "ok"


def test_each_of_a_hundred_simultaneous_requests_has_an_id_and_a_trace(stack):
    name = unique("ScenarioBurst")
    responses = []

    def send():
        for _ in range(5):
            responses.append(
                stack.post(notification(alert("ScenarioBurst", labels={"alertname": name})))
            )

    senders = [threading.Thread(target=send) for _ in range(20)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()

    assert [r.status_code for r in responses] == [202] * 100
    request_ids = {r.json()["request_id"] for r in responses}
    assert len(request_ids) == 100

    untraced_ids = set(request_ids)

    def remaining_ids():
        for request_id in list(untraced_ids):
            if stack.traces(request_id):
                untraced_ids.discard(request_id)
        return untraced_ids

    stack.wait_until(remaining_ids, lambda untraced: not untraced, timeout=180)
    incidents = stack.get("/alerts/active", alert_name=name, limit=1000).json()
    assert incidents["count"] == 100
    assert {a["request_id"] for a in incidents["active_alerts"]} == request_ids
