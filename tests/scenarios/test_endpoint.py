"""The endpoint itself: its routes, who may use it, how it says it is, and many at once."""

import json
import threading
import uuid

import pytest

from tests.scenarios import conftest
from tests.scenarios import stack as stacks
from tests.scenarios.notifications import alert, name_of, notification, unique
from tests.scenarios.test_payloads import problem

PATHS = ("/executions/recent", "/alerts/active", "/st2/executions", "/health", "/health/ready")


def test_an_unknown_path_says_which_there_are(stack):
    found = problem(stack.get("/webhooks"), 404)
    assert "POST /api/v1/webhook" in found["detail"]


def test_a_wrong_method_says_which_is_right(stack):
    answer = stack.get("/webhook")
    assert "/api/v1/webhook takes POST, not GET" == problem(answer, 405)["detail"]
    assert answer.headers["Allow"] == "POST"


def test_a_status_that_is_not_there_is_not_found(stack):
    for request_id in (str(uuid.uuid4()), "1", "%7B%7B%20x%20%7D%7D", "' OR 1=1 --"):
        problem(stack.get("/status/" + request_id), 404)


@pytest.mark.parametrize("path", ["/executions/recent", "/alerts/active", "/st2/executions"])
def test_limits_and_offsets_are_bounded_and_unknown_filters_named(stack, path):
    """A19."""
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
        found = problem(stack.get(path, **query), 400)
        assert found["field"] == list(query)[0]
        assert list(query)[0] in found["detail"]


def test_health_names_every_part(stack):
    """A16."""
    stack.recorded(stack.accepted(notification(alert("ScenarioUnmatched"))))

    def states():
        return [part["state"] for part in stack.get("/health").json()["components"].values()]

    # Each is unknown until it was first used.
    stack.wait_until(states, lambda found: set(found) == {"ok"})
    answer = stack.get("/health")
    assert answer.status_code == 200
    health = answer.json()
    assert health["status"] == "ok"
    assert {name: part["state"] for name, part in health["components"].items()} == {
        "journal": "ok",
        "broker": "ok",
        "database": "ok",
        "stackstorm": "ok",
    }
    for part in health["components"].values():
        assert part["since"].endswith("Z")
        assert part["detail"] == ""
    assert health["components"]["journal"]["backlog_limit"] == 100000
    assert health["components"]["stackstorm"]["stuck"] == []
    assert health["version"]
    assert health["dry_run"] is True or stack.live
    assert stack.get("/health/live").json() == {"status": "alive"}
    assert stack.get("/health/ready").status_code == 200


def test_health_as_an_action_says_the_same(stack):
    shown, asked = stack.run("poundcake.health"), stack.get("/health").json()
    for name in ("status", "version", "address", "authentication", "database", "dry_run"):
        assert shown[name] == asked[name]
    assert list(shown["components"]) == list(asked["components"])
    text = stack.run("poundcake.health", format="text")
    assert "PoundCake {}: ok".format(asked["version"]) in text
    assert "endpoint " + asked["address"] in text


def test_the_kind_of_database_is_what_it_is(stack, kind):
    shown = stack.get("/health").json()["database"]
    assert shown == {"sqlite": "SQLite", "mariadb": "MariaDB"}.get(kind, shown)


def test_without_the_database_webhooks_are_taken_and_recorded_later(stack):
    """A16 and A8: the part that is down is named, and nothing is lost."""
    if stack.mariadb is None:
        pytest.skip("there is no database server here that could be stopped")
    firing = alert("ScenarioLinked")
    stack.mariadb.stop()
    try:
        answer = stack.post(notification(firing))
        assert answer.status_code == 202
        request_id = answer.json()["request_id"]

        def health():
            found = stack.get("/health")
            return dict(found.json(), code=found.status_code)

        down = stack.wait_until(health, lambda h: h["components"]["database"]["state"] == "down")
        assert (down["status"], down["code"]) == ("degraded", 200)
        assert down["components"]["database"]["detail"]
        assert down["components"]["database"]["waiting"] >= 1
        assert down["components"]["journal"]["state"] == "ok"
        trail = stack.trail(request_id)
        assert trail["status"] in ("accepted", "announced")
        assert trail["held_up_by"].startswith("database: ")
        found = problem(stack.get("/alerts/active"), 503)
        assert "webhooks are still taken" in found["detail"]
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
def test_without_a_right_token_nothing_is_taken(guarded, header):
    """A14."""
    headers = {} if header is None else {"Authorization": header.format(guarded.token)}
    headers = {name: value.encode("latin-1") for name, value in headers.items()}
    firing = alert("ScenarioUnmatched")
    answer = guarded.post(notification(firing), headers, token=False)

    found = problem(answer, 401)
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="poundcake"'
    assert guarded.token not in answer.text
    for path in PATHS + ("/status/" + found["request_id"],):
        assert guarded.get(path, headers, token=False).status_code == 401
    assert guarded.active(name_of(firing)) == []
    assert guarded.get("/status/" + found["request_id"]).status_code == 404
    # Whether it lives is asked by those that have no token.
    assert guarded.get("/health/live", token=False).status_code == 200


def test_each_of_several_tokens_is_right(guarded):
    """A14: one can be replaced without a gap."""
    tokens = [guarded.token] if guarded.live else conftest.TOKENS
    for token in tokens:
        for scheme in ("Bearer", "bearer"):
            headers = {"Authorization": f"{scheme} {token}"}
            answer = guarded.post(notification(), headers, token=False)
            assert answer.status_code == 202
    assert guarded.get("/health").json()["authentication"] == "bearer"
    # The action has the token from the pack's configuration.
    assert guarded.run("poundcake.health")["components"]["journal"]["state"] == "ok"


def test_no_token_is_kept_anywhere(guarded):
    """A14: neither in the tables, nor in what StackStorm keeps, nor in the log."""
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
    for secret in tokens + ["secret-of-theirs"]:
        assert secret not in json.dumps(kept, default=str)


def test_a_hundred_requests_at_once(stack):
    """Each is answered with an id of its own, and each id is found as a trace tag."""
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

    def look():
        for request_id in list(waiting):
            if stack.traces(request_id):
                waiting.discard(request_id)
        return waiting

    stack.wait_until(look, lambda left: not left, timeout=180)
    found = stack.get("/alerts/active", alert_name=name, limit=1000).json()
    assert found["count"] == 100
    assert {a["request_id"] for a in found["active_alerts"]} == request_ids
