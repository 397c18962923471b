"""The endpoint: its routes, its credentials, its health, and concurrent requests."""

from __future__ import annotations

import json
import threading
import uuid

import pytest

from tests.scenarios import conftest
from tests.scenarios import stack as stacks
from tests.scenarios.notifications import alert, name_of, notification, unique
from tests.scenarios.test_payloads import problem

PATHS = ("/executions/recent", "/alerts/active", "/st2/executions", "/health", "/health/ready")


def test_an_unknown_path_is_answered_with_the_routes_that_exist(stack):
    details = problem(stack.get("/webhooks"), 404)
    assert "POST /api/v1/webhook" in details["detail"]


def test_a_wrong_method_is_answered_with_the_right_one(stack):
    answer = stack.get("/webhook")
    assert problem(answer, 405)["detail"] == "/api/v1/webhook accepts POST, not GET"
    assert answer.headers["Allow"] == "POST"


def test_the_status_of_an_unknown_request_is_not_found(stack):
    for request_id in (str(uuid.uuid4()), "1", "%7B%7B%20x%20%7D%7D", "' OR 1=1 --"):
        problem(stack.get("/status/" + request_id), 404)


@pytest.mark.parametrize("path", ["/executions/recent", "/alerts/active", "/st2/executions"])
def test_limits_and_offsets_are_bounded_and_unknown_filters_are_named(stack, path):
    """Case A19 of docs/CASES.md."""
    assert stack.get(path, limit=1, offset=0).ok
    assert stack.get(path, limit=1000, offset=1000).ok
    for query in (
        {"limit": 0},
        {"limit": 1001},
        {"limit": -1},
        {"limit": "all"},
        {"limit": "1e2"},
        {"limit": ""},
        {"offset": -1},
        {"offset": 2001},
        {"offset": 10**20},
        {"colour": "red"},
    ):
        details = problem(stack.get(path, **query), 400)
        (parameter,) = query
        assert details["field"] == parameter
        assert parameter in details["detail"]


def test_health_names_every_component(stack):
    """Case A16."""
    stack.recorded(stack.accepted(notification(alert("ScenarioUnmatched"))))

    def states():
        return [each["state"] for each in stack.get("/health").json()["components"].values()]

    # A component is unknown until its first use.
    stack.wait_until(states, lambda found: set(found) == {"ok"})
    answer = stack.get("/health")
    assert answer.status_code == 200
    health = answer.json()
    assert health["status"] == "ok"
    assert {name: each["state"] for name, each in health["components"].items()} == {
        "journal": "ok",
        "broker": "ok",
        "database": "ok",
        "stackstorm": "ok",
    }
    for each in health["components"].values():
        assert each["since"].endswith("Z")
        assert each["detail"] == ""
    assert health["components"]["journal"]["backlog_limit"] == 100000
    assert health["components"]["stackstorm"]["stuck"] == []
    assert health["version"]
    assert health["dry_run"] is True or stack.live
    assert stack.get("/health/live").json() == {"status": "alive"}
    assert stack.get("/health/ready").status_code == 200


def test_the_action_health_matches_the_route(stack):
    shown, served = stack.run("poundcake.health"), stack.get("/health").json()
    for name in ("status", "version", "address", "authentication", "database", "dry_run"):
        assert shown[name] == served[name]
    assert list(shown["components"]) == list(served["components"])
    text = stack.run("poundcake.health", format="text")
    assert f"PoundCake {served['version']}: ok" in text
    assert "endpoint " + served["address"] in text


def test_health_names_the_kind_of_database(stack, kind):
    shown = stack.get("/health").json()["database"]
    assert shown == {"sqlite": "SQLite", "mariadb": "MariaDB"}.get(kind, shown)


def test_webhooks_are_accepted_without_the_database_and_recorded_later(stack):
    """Cases A8 and A16."""
    if stack.mariadb is None:
        pytest.skip("no database server that the tests can stop")
    firing = alert("ScenarioLinked")
    stack.mariadb.stop()
    try:
        answer = stack.post(notification(firing))
        assert answer.status_code == 202
        request_id = answer.json()["request_id"]

        def health():
            details = stack.get("/health")
            return dict(details.json(), code=details.status_code)

        down = stack.wait_until(health, lambda h: h["components"]["database"]["state"] == "down")
        assert (down["status"], down["code"]) == ("degraded", 200)
        assert down["components"]["database"]["detail"]
        assert down["components"]["database"]["waiting"] >= 1
        assert down["components"]["journal"]["state"] == "ok"
        trail = stack.trail(request_id)
        assert trail["status"] in ("accepted", "announced")
        assert trail["blocked_by"].startswith("database: ")
        details = problem(stack.get("/alerts/active"), 503)
        assert "webhooks are still accepted" in details["detail"]
    finally:
        stack.mariadb.start()

    trail = stack.trail_when(request_id, lambda t: t["stackstorm_executions"], timeout=90)
    assert [a["outcome"] for a in trail["alerts"]] == ["admitted"]
    stack.completed(request_id)
    assert len(stack.done(trail["alerts"][0]["episode"])) == 1
    stack.wait_until(lambda: stack.get("/health").json(), lambda h: h["status"] == "ok")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "bearer {}x",
        "Basic {}",
        "{}",
        "Bearer " + "x" * 8000,
        "Bearer \xff",
    ],
)
def test_missing_or_wrong_credentials_are_refused_and_nothing_is_stored(guarded, header):
    """Case A14."""
    headers = {} if header is None else {"Authorization": header.format(guarded.token)}
    headers = {name: value.encode("latin-1") for name, value in headers.items()}
    firing = alert("ScenarioUnmatched")
    answer = guarded.post(notification(firing), headers, token=False)

    details = problem(answer, 401)
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="poundcake"'
    assert guarded.token not in answer.text
    for path in (*PATHS, "/status/" + details["request_id"]):
        assert guarded.get(path, headers, token=False).status_code == 401
    assert guarded.active(name_of(firing)) == []
    assert guarded.get("/status/" + details["request_id"]).status_code == 404
    # The liveness check needs no token.
    assert guarded.get("/health/live", token=False).status_code == 200


def test_each_of_several_tokens_is_accepted(guarded):
    """Case A14: a token can be replaced without an interruption."""
    tokens = [guarded.token] if guarded.live else conftest.TOKENS
    for token in tokens:
        for scheme in ("Bearer", "bearer"):
            headers = {"Authorization": f"{scheme} {token}"}
            answer = guarded.post(notification(), headers, token=False)
            assert answer.status_code == 202
    assert guarded.get("/health").json()["authentication"] == "bearer"
    # The action reads the token from the pack's configuration.
    assert guarded.run("poundcake.health")["components"]["journal"]["state"] == "ok"


def test_no_token_is_stored_anywhere(guarded):
    """Case A14: not in the tables, in StackStorm or in the log."""
    firing = alert("ScenarioLinked")
    began = stacks.now()
    request_id = guarded.accepted(notification(firing), {"X-Auth-Token": "secret-of-theirs"})
    guarded.completed(request_id)

    kept = [guarded.listed("/executions", timestamp_gt=began)]
    for trigger in ("poundcake.announce", "poundcake.webhook", "poundcake.alert"):
        instances = guarded.listed("/triggerinstances", trigger=trigger, timestamp_gt=began)
        assert instances, trigger
        kept.append(instances)
    kept.append(guarded.log())
    kept += [guarded.get(path).text for path in PATHS]
    if not guarded.live:
        rows = guarded.rows("SELECT * FROM poundcake_api_calls")
        assert [r for r in rows if r["request_id"] == request_id]
        kept.append(rows)
        kept.append(guarded.rows("SELECT * FROM poundcake_alerts"))
    tokens = [guarded.token] if guarded.live else conftest.TOKENS
    for secret in [*tokens, "secret-of-theirs"]:
        assert secret not in json.dumps(kept, default=str)


def test_each_of_a_hundred_simultaneous_requests_has_an_id_and_a_trace(stack):
    name = unique("ScenarioBurst")
    answers = []

    def send():
        for _ in range(5):
            answers.append(
                stack.post(notification(alert("ScenarioBurst", labels={"alertname": name})))
            )

    senders = [threading.Thread(target=send) for _ in range(20)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()

    assert [a.status_code for a in answers] == [202] * 100
    request_ids = {a.json()["request_id"] for a in answers}
    assert len(request_ids) == 100

    waiting = set(request_ids)

    def without_a_trace():
        for request_id in list(waiting):
            if stack.traces(request_id):
                waiting.discard(request_id)
        return waiting

    stack.wait_until(without_a_trace, lambda left: not left, timeout=180)
    incidents = stack.get("/alerts/active", alert_name=name, limit=1000).json()
    assert incidents["count"] == 100
    assert {a["request_id"] for a in incidents["active_alerts"]} == request_ids
