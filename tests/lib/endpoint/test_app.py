"""The endpoint as its clients see it, on plain threads and patched as StackStorm does it."""

import base64
import hmac
import json
import os
import sqlite3
import threading
import time
import uuid

import pytest
from prometheus_client.parser import text_string_to_metric_families

from poundcake.endpoint import app
from tests.lib.endpoints import KINDS, WAYS, message
from tests.lib.samples import alert, webhook

# No new ones: several processes that share the tests must all find the same.
UNKNOWN = "0b1e6f0a-5a1c-4c3e-9d5f-2f7a1c9e4b60"
OTHER = "7c2d9e58-1f4b-4a6d-8e3c-91b5d0a7f213"
ROUTES = {
    "/api/v1/webhook": "POST",
    "/api/v1/status/" + UNKNOWN: "GET",
    "/api/v1/executions/recent": "GET",
    "/api/v1/alerts/active": "GET",
    "/api/v1/st2/executions": "GET",
    "/api/v1/health": "GET",
    "/api/v1/health/live": "GET",
    "/api/v1/health/ready": "GET",
    "/api/v1/openapi.json": "GET",
    "/metrics": "GET",
}
VIEWS = [
    p
    for p, verb in ROUTES.items()
    if verb == "GET" and "/v1/" in p and "health" not in p and "openapi" not in p
]


@pytest.fixture(scope="module", params=WAYS)
def endpoint(request, tmp_path_factory):
    """One that nobody stops."""
    found = KINDS[request.param](tmp_path_factory.mktemp(request.param)).start().ready()
    yield found
    found.stop()


@pytest.fixture(scope="module", params=WAYS)
def guarded(request, tmp_path_factory):
    """One that wants a token."""
    folder = tmp_path_factory.mktemp("guarded-" + request.param)
    found = KINDS[request.param](folder, auth_tokens=["old-token", "new-token"]).start().ready()
    yield found
    found.stop()


@pytest.fixture(scope="module", params=WAYS)
def basic(request, tmp_path_factory):
    """One that takes a user's password, or a token."""
    folder = tmp_path_factory.mktemp("basic-" + request.param)
    config = {"basic_auth": "on-call:pässword", "auth_tokens": ["old-token"]}
    found = KINDS[request.param](folder, **config).start().ready()
    yield found
    found.stop()


def basic_of(text):
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.fixture(params=WAYS)
def make(request, tmp_path):
    """A function that starts one as the test wants it."""
    made = []

    def factory(settings=None, ready=True, **config):
        found = KINDS[request.param](tmp_path, settings, **config).start()
        made.append(found)
        return found.ready() if ready else found

    yield factory
    for found in made:
        found.stop()


def check_problem(answer, status):
    """It is an RFC 9457 problem document with the request's id."""
    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json
    assert found["status"] == status
    assert found["title"] and found["type"] == "about:blank"
    assert str(uuid.UUID(found["request_id"])) == found["request_id"]
    assert answer.headers["x-request-id"] == found["request_id"]
    assert found["detail"]
    return found


class TestWebhook:
    def test_accepted(self, endpoint):
        answer = endpoint.post(webhook(alert(), alert("B")))
        assert answer.status == 202
        assert answer.headers["content-type"] == "application/json"
        found = answer.json
        assert set(found) == {"status", "request_id", "alerts_received", "message"}
        assert (found["status"], found["alerts_received"]) == ("accepted", 2)
        assert str(uuid.UUID(found["request_id"])) == found["request_id"]
        assert answer.headers["x-request-id"] == found["request_id"]
        assert found["request_id"] in [entry[0] for entry in endpoint.entries()]

    def test_without_alerts(self, endpoint):
        answer = endpoint.post({"alerts": []})
        assert (answer.status, answer.json["alerts_received"]) == (202, 0)

    def test_one_broken_alert_does_not_cost_the_others(self, endpoint):
        answer = endpoint.post(webhook(alert(), 5, {"labels": 3}))
        assert (answer.status, answer.json["alerts_received"]) == (202, 3)

    def test_the_body_is_kept_as_it_came(self, endpoint):
        body = '{ "alerts" : [ ],\n "x": "{{ st2kv.system.x }} é \\ud800" }'.encode()
        request_id = endpoint.accept(body)
        assert dict((e[0], e[1]) for e in endpoint.entries())[request_id] == body

    def test_its_trail(self, endpoint):
        request_id = endpoint.accept(webhook(alert("Trail")))
        deadline = time.monotonic() + 60
        while True:
            answer = endpoint.get("/api/v1/status/" + request_id)
            assert answer.status == 200
            if answer.json["status"] not in ("accepted", "announced"):
                break
            assert answer.json["alerts"] == []
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert [a["alert_name"] for a in answer.json["alerts"]] == ["Trail"]
        assert endpoint.get("/api/v1/status/" + request_id.upper()).status == 200

    @pytest.mark.parametrize(
        "media",
        [
            "application/json",
            "application/json; charset=utf-8",
            'Application/JSON;charset="UTF-8"',
            None,
        ],
    )
    def test_media_types(self, endpoint, media):
        assert endpoint.post(webhook(), Content_Type=media).status == 202

    @pytest.mark.parametrize(
        "headers",
        [
            {"Content_Type": "text/plain"},
            {"Content_Type": "application/x-www-form-urlencoded"},
            {"Content_Type": "application/json; charset=latin-1"},
            {"Content_Type": "application/jsonx"},
            {"Content_Encoding": "gzip"},
        ],
    )
    def test_other_media_types(self, endpoint, headers):
        check_problem(endpoint.post(webhook(), **headers), 415)

    @pytest.mark.parametrize(
        "body, field",
        [
            (b"", "body"),
            (b"{", "body"),
            (b"\xff\xfe", "body"),
            (b"[]", "body"),
            (b"null", "body"),
            (b'{"alerts": [], "x": NaN}', "body"),
            (b"{}", "alerts"),
            (b'{"alerts": null}', "alerts"),
            (b'{"alerts": {}}', "alerts"),
            (b'{"alerts": [], "status": "{{x}}"}', "status"),
            (b'{"alerts": [], "receiver": 1}', "receiver"),
            (b'{"alerts": [], "truncatedAlerts": "x"}', "truncatedAlerts"),
            (b"[" * 100000, "body"),
        ],
    )
    def test_what_can_never_be_used_names_its_field(self, endpoint, body, field):
        before = len(endpoint.entries())
        found = check_problem(endpoint.post(body), 400)
        assert found["field"] == field
        assert field in found["detail"]
        assert len(endpoint.entries()) == before

    def test_no_length(self, endpoint):
        check_problem(endpoint.ask("POST", "/api/v1/webhook"), 411)
        check_problem(endpoint.ask("POST", "/api/v1/webhook", b"{}", Content_Length=""), 411)

    def test_chunked(self, endpoint):
        with endpoint.client() as client:
            client.send(message("POST", "/api/v1/webhook", Transfer_Encoding="chunked"))
            client.send(b"e\r\n" + b'{"alerts": []}' + b"\r\n0\r\n\r\n")
            check_problem(client.read(), 411)
            assert client.closed()

    def test_too_large(self, make):
        endpoint = make(max_body_bytes=2000)
        body = json.dumps({"alerts": [], "x": "y"}).encode()
        assert endpoint.post(body + b" " * (2000 - len(body))).status == 202
        found = check_problem(endpoint.post(body + b" " * (2001 - len(body))), 413)
        assert "2000" in found["detail"] and "max_body_bytes" in found["detail"]
        with endpoint.client() as client:  # the answer arrives although the body is on its way
            client.send(message("POST", "/api/v1/webhook", b"x" * 900000))
            check_problem(client.read(), 413)
        for length in ("99999999999999999999", "9" * 5000):
            answer = endpoint.ask("POST", "/api/v1/webhook", b"{}", Content_Length=length)
            check_problem(answer, 413)


class TestRequestIds:
    def test_a_senders_uuid_is_taken(self, endpoint):
        wanted = str(uuid.uuid4())
        for _ in range(2):
            assert endpoint.accept(webhook(), X_Request_ID=wanted) == wanted
        assert [e[0] for e in endpoint.entries()].count(wanted) == 1

    def test_with_another_body_it_is_the_clients(self, endpoint):
        wanted = str(uuid.uuid4())
        endpoint.post(webhook(), X_Request_ID=wanted)
        other = endpoint.accept(webhook(alert()), X_Request_ID=wanted)
        assert other != wanted
        assert dict((e[0], e[3]) for e in endpoint.entries())[other] == wanted

    @pytest.mark.parametrize(
        "given",
        [
            "",
            "x",
            "{{ st2kv.system.x }}",
            UNKNOWN.upper(),
            "{" + UNKNOWN + "}",
            "urn:uuid:" + UNKNOWN,
            UNKNOWN.replace("-", ""),
            UNKNOWN + "," + OTHER,
            "x" * 60000,
            "é" * 36,
        ],
    )
    def test_anything_else_is_ignored(self, endpoint, given):
        answer = endpoint.post(webhook(), X_Request_ID=given)
        assert answer.status == 202
        found = answer.json["request_id"]
        assert found != given and str(uuid.UUID(found)) == found

    def test_given_twice_it_is_ignored(self, endpoint):
        wanted = str(uuid.uuid4())
        line = f"X-Request-ID: {wanted}\r\n"
        body = b'{"alerts": []}'
        with endpoint.client() as client:
            client.send(
                message("POST", "/api/v1/webhook", body).replace(
                    b"Host: x\r\n", ("Host: x\r\n" + line * 2).encode()
                )
            )
            assert client.read().json["request_id"] != wanted


class TestHeaders:
    def test_only_those_on_the_list_are_kept(self, endpoint):
        secret = "hush-" + str(uuid.uuid4())
        answer = endpoint.post(
            webhook(),
            Authorization="Bearer " + secret,
            Cookie=secret,
            Proxy_Authorization=secret,
            X_Api_Key=secret,
            User_Agent="Alertmanager/0.25 {{x}}",
            Traceparent="00-abc",
            X_Forwarded_For="192.0.2.1",
        )
        kept = dict((e[0], e[2]) for e in endpoint.entries())[answer.json["request_id"]]
        assert secret not in kept
        found = json.loads(kept)
        assert set(found) == {
            "User-Agent",
            "Content-Type",
            "Content-Length",
            "X-Forwarded-For",
            "Traceparent",
        }
        assert found["User-Agent"] == "Alertmanager/0.25 {{x}}"
        for name in os.listdir(endpoint.config["state_dir"]):
            try:
                with open(os.path.join(endpoint.config["state_dir"], name), "rb") as file:
                    assert secret.encode() not in file.read()
            except FileNotFoundError:
                assert name.endswith(("-shm", "-wal"))  # SQLite takes them away when it is done

    def test_a_long_one_is_cut(self, endpoint):
        answer = endpoint.post(webhook(), User_Agent="x" * 50000)
        kept = dict((e[0], e[2]) for e in endpoint.entries())[answer.json["request_id"]]
        assert len(json.loads(kept)["User-Agent"]) <= 1024


class TestRoutes:
    @pytest.mark.parametrize("path", sorted(ROUTES))
    @pytest.mark.parametrize(
        "method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "BREW", "get"]
    )
    def test_another_method_is_told_which(self, endpoint, path, method):
        verb = ROUTES[path]
        if method == verb or (method, verb) == ("HEAD", "GET"):
            return
        answer = endpoint.ask(method, path, b"{}" if method == "POST" else None)
        assert verb in answer.headers["allow"].split(", ")
        assert answer.status == 405
        if method != "HEAD":
            found = check_problem(answer, 405)
            assert verb in found["detail"]

    @pytest.mark.parametrize(
        "path",
        [
            "/",
            "/api/v1/webhook/",
            "/api/v1/webhooks",
            "/api/v2/webhook",
            "/webhook",
            "/api/v1/status",
            "/api/v1/status/",
            "/metricsx",
            "/api/v1/health/x",
            "/%00",
            "/../../etc/passwd",
            "/{{x}}",
            "*",
        ],
    )
    def test_another_path_is_told_which_there_are(self, endpoint, path):
        for method, body in (("GET", None), ("POST", b"{}")):
            found = check_problem(endpoint.ask(method, path, body), 404)
            assert "POST /api/v1/webhook" in found["detail"]

    @pytest.mark.parametrize("path", [p for p, verb in sorted(ROUTES.items()) if verb == "GET"])
    def test_head_is_get_without_the_body(self, endpoint, path):
        got, headed = endpoint.get(path), endpoint.ask("HEAD", path)
        assert headed.status == got.status
        assert headed.headers["content-type"] == got.headers["content-type"]
        if path in VIEWS and "status" not in path:
            assert headed.headers["content-length"] == got.headers["content-length"]

    def test_live(self, endpoint):
        assert endpoint.get("/api/v1/health/live").json == {"status": "alive"}

    def test_health(self, endpoint):
        answer = endpoint.get("/api/v1/health")
        assert answer.status == 200
        found = answer.json
        assert found["status"] in ("ok", "degraded")
        assert found["address"] == f"http://127.0.0.1:{endpoint.port}"
        assert (found["authentication"], found["database"], found["dry_run"]) == (
            "none",
            "SQLite",
            True,
        )
        assert set(found["components"]) == {"journal", "broker", "database", "stackstorm"}
        for part in found["components"].values():
            assert {"state", "since", "detail", "waiting"} <= set(part)

    @pytest.mark.parametrize("path", VIEWS)
    def test_views(self, endpoint, path):
        answer = endpoint.get(path)
        if "status" in path:
            check_problem(answer, 404)
        else:
            assert answer.status == 200
            assert answer.headers["cache-control"] == "no-store"
            assert isinstance(answer.json, dict)

    @pytest.mark.parametrize(
        "path",
        [
            "/api/v1/status/x",
            "/api/v1/status/%27%3B%20DROP",
            "/api/v1/status/%00",
            "/api/v1/status/" + "x" * 50000,
            "/api/v1/status/a/b",
            "/api/v1/status/\xe9\xff",
        ],
    )
    def test_a_status_of_nothing(self, endpoint, path):
        check_problem(endpoint.get(path), 404)

    @pytest.mark.parametrize(
        "query, field",
        [
            ("limit=0", "limit"),
            ("limit=-1", "limit"),
            ("limit=1001", "limit"),
            ("limit=x", "limit"),
            ("limit=", "limit"),
            ("limit=1.5", "limit"),
            ("limit=%D9%A1", "limit"),
            ("limit=" + "9" * 5000, "limit"),
            ("offset=-1", "offset"),
            ("offset=1001", "offset"),
            ("offset=99999999999999999999", "offset"),
            ("since=yesterday", "since"),
            ("since=1h&until=2h", "until"),
            ("before=x", "before"),
            ("before=2026-01-14T12:00:00Z/e/1/1", "before"),
            ("before=2026-01-14T12:00:00Z/" + "9" * 19, "before"),
            ("nonsense=1", "nonsense"),
            ("LIMIT=1", "LIMIT"),
            ("limit=1&limit=x", "limit"),
        ],
    )
    @pytest.mark.parametrize("path", [p for p in VIEWS if "status/" not in p])
    def test_a_query_that_is_wrong_names_its_parameter(self, endpoint, path, query, field):
        found = check_problem(endpoint.get(path + "?" + query), 400)
        assert found["field"] == field

    @pytest.mark.parametrize("query", ["limit=1", "limit=1000&offset=0", "offset=1000"])
    @pytest.mark.parametrize("path", [p for p in VIEWS if "status/" not in p])
    def test_the_bounds_of_a_page(self, endpoint, path, query):
        assert endpoint.get(path + "?" + query).status == 200

    @pytest.mark.parametrize(
        "query",
        [
            "severity=%27%20OR%201=1",
            "alert_name=%00",
            "instance=%ff%fe",
            "severity=" + "x" * 20000,
            "alert_name=%25s&instance=%3Ax",
            "severity=%F0%9F%8D%B0",
        ],
    )
    def test_a_hostile_filter_finds_nothing(self, endpoint, query):
        answer = endpoint.get("/api/v1/alerts/active?" + query)
        assert (answer.status, answer.json) == (200, {"active_alerts": [], "count": 0})

    def test_too_many_parameters(self, endpoint):
        check_problem(endpoint.get("/api/v1/alerts/active?" + "limit=1&" * 50), 400)


class TestTokens:
    @pytest.mark.parametrize("token", ["old-token", "new-token"])
    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
    def test_each_of_them_will_do(self, guarded, scheme, token):
        given = f"{scheme} {token}"
        assert guarded.post(webhook(), Authorization=given).status == 202
        assert guarded.get("/api/v1/health", Authorization=given).status == 200

    @pytest.mark.parametrize(
        "given",
        [
            None,
            "",
            "Bearer",
            "Bearer ",
            "Bearer x",
            "Bearer old-toke",
            "Bearer old-token1",
            "Bearer OLD-TOKEN",
            "Bearer old-token, Bearer old-token",
            "Bearer old-token new-token",
            "Basic b2xkLXRva2Vu",
            "old-token",
            "Token old-token",
            "Bearer é",
            "Bearer " + "x" * 60000,
        ],
    )
    def test_anything_else_will_not_and_nothing_is_stored(self, guarded, given):
        before = guarded.entries()
        for answer in (
            guarded.post(webhook(alert()), Authorization=given),
            guarded.post(b"no json", Authorization=given),
        ):
            check_problem(answer, 401)
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert "token1" not in answer.body.decode() and "old-token" not in answer.body.decode()
        more = ["/api/v1/health", "/api/v1/health/ready", "/api/v1/openapi.json", "/metrics"]
        for path in VIEWS + more:
            check_problem(guarded.get(path, Authorization=given), 401)
        assert guarded.entries() == before

    def test_the_time_that_it_takes_tells_nothing(self, tmp_path, monkeypatch):
        compared = []
        compare = hmac.compare_digest

        def watched(given, known):
            compared.append(known)
            return compare(given, known)

        known = {"auth_tokens": ["old-token", "new-token"], "basic_auth": "on-call:hush"}
        endpoint = KINDS["threads"](tmp_path, **known).start().ready()
        try:
            monkeypatch.setattr(app.hmac, "compare_digest", watched)
            for given, status in (
                ("Bearer old-token", 202),
                (basic_of("on-call:hush"), 202),
                ("Bearer x", 401),
                (None, 401),
            ):
                del compared[:]
                assert endpoint.post(webhook(), Authorization=given).status == status
                assert compared == [b"old-token", b"new-token", b"on-call:hush"]
        finally:
            endpoint.stop()

    def test_given_twice_it_will_not(self, guarded):
        line = b"Authorization: Bearer old-token\r\n"
        with guarded.client() as client:
            client.send(
                message("GET", "/api/v1/health").replace(b"\r\n\r\n", b"\r\n" + line * 2) + b"\r\n"
            )
            assert client.read().status == 401

    @pytest.mark.parametrize("token", ["old-token", "new-token"])
    def test_metrics_are_given_to_those_who_have_one(self, guarded, token):
        answer = guarded.get("/metrics", Authorization="Bearer " + token)
        assert answer.status == 200
        families = text_string_to_metric_families(answer.body.decode())
        assert "poundcake_failed_authentications" in {family.name for family in families}
        assert "old-token" not in answer.body.decode()

    def test_live_needs_none(self, guarded):
        assert guarded.get("/api/v1/health/live").status == 200

    def test_health_says_that_one_is_wanted(self, guarded):
        answer = guarded.get("/api/v1/health", Authorization="Bearer old-token")
        assert answer.json["authentication"] == "bearer"
        assert "old-token" not in answer.body.decode()

    def test_a_refused_body_is_not_read_as_the_next_request(self, guarded):
        inner = message("GET", "/api/v1/health/live")
        with guarded.client() as client:
            client.send(message("POST", "/api/v1/webhook", inner))
            check_problem(client.read(), 401)
            assert client.closed()


class TestBasicAuth:
    def test_user_and_password_will_do_and_a_token_too(self, basic):
        good = basic_of("on-call:pässword")
        for given in (good, good.replace("Basic", "basic"), "Bearer old-token"):
            assert basic.post(webhook(), Authorization=given).status == 202
        answer = basic.get("/api/v1/health", Authorization=good)
        assert answer.json["authentication"] == "bearer, basic"
        assert "pässword" not in answer.body.decode()

    @pytest.mark.parametrize(
        "given",
        [
            None,
            basic_of("on-call:"),
            basic_of("on-call:passwor"),
            basic_of("ON-CALL:pässword"),
            basic_of("on-call:pässword "),
            basic_of("old-token"),
            basic_of("on-call:pässword") + "x",
            "Basic on-call:p",
            "Basic \u00e9",
            "Basic",
            "Bearer " + base64.b64encode("on-call:pässword".encode()).decode(),
        ],
    )
    def test_anything_else_will_not(self, basic, given):
        before = basic.entries()
        answer = basic.post(webhook(), Authorization=given)
        check_problem(answer, 401)
        assert answer.headers["www-authenticate"] == (
            'Bearer realm="poundcake", Basic realm="poundcake"'
        )
        assert basic.entries() == before

    def test_failures_are_counted_and_logged_once_without_what_was_given(self, tmp_path, caplog):
        endpoint = KINDS["threads"](tmp_path, basic_auth="on-call:hush-word").start()
        try:
            endpoint.reaches(200, Authorization=basic_of("on-call:hush-word"))
            given = basic_of("on-call:hush-wort")
            for _ in range(5):
                assert endpoint.get("/metrics", Authorization=given).status == 401
            right = basic_of("on-call:hush-word")
            text = endpoint.get("/metrics", Authorization=right).body.decode()
        finally:
            endpoint.stop()
        assert "poundcake_failed_authentications_total 5.0" in text
        assert caplog.text.count("unauthenticated request from 127.0.0.1") == 1
        assert "hush" not in caplog.text and given.split()[1] not in caplog.text


class TestOwnTrouble:
    """503 for our own state, and only for that."""

    def test_a_fault_of_ours_is_told_without_what_it_was(self, tmp_path, monkeypatch, caplog):
        def fails(raw):
            raise RuntimeError("hush-word")

        endpoint = KINDS["threads"](tmp_path).start().ready()
        try:
            monkeypatch.setattr(app.alertmanager, "parse", fails)
            answer = endpoint.post(webhook())
            monkeypatch.undo()
            assert endpoint.post(webhook()).status == 202
        finally:
            endpoint.stop()
        found = check_problem(answer, 503)
        assert "hush" not in answer.body.decode() and "RuntimeError" not in answer.body.decode()
        # Who looks for it finds it.
        assert found["request_id"] in caplog.text and "hush-word" in caplog.text

    def test_the_backlog_is_full(self, make):
        endpoint = make(backlog_limit=2)
        endpoint.set_broker(up=False)
        statuses = [endpoint.post(webhook()).status for _ in range(4)]
        assert statuses[:2] == [202, 202] and statuses[2:] == [503, 503]
        found = check_problem(endpoint.post(webhook()), 503)
        assert "backlog_limit" in found["detail"]
        health = endpoint.get("/api/v1/health")
        assert health.status == 503
        assert health.json["components"]["journal"]["state"] == "full"
        assert endpoint.get("/api/v1/health/live").status == 200
        endpoint.set_broker(up=True)
        deadline = time.monotonic() + 60
        while endpoint.post(webhook()).status != 202:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert len(set(e[0] for e in endpoint.entries())) == 3

    def test_the_journal_is_locked_and_free_again(self, make, tmp_path):
        endpoint = make()
        path = os.path.join(endpoint.config["state_dir"], "journal.sqlite")
        with sqlite3.connect(path, isolation_level=None) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            with endpoint.client(timeout=30) as client:  # the relay waits for its turn, too
                client.send(message("POST", "/api/v1/webhook", b'{"alerts": []}'))
                found = check_problem(client.read(), 503)
            assert "journal" in found["detail"]
            connection.execute("ROLLBACK")
        assert endpoint.post(webhook()).status == 202
        assert len(endpoint.entries()) == 1

    def test_a_locked_tracking_database_holds_up_no_webhook(self, make):
        endpoint = make()
        assert endpoint.post(webhook()).status == 202
        # The stub behind the broker records in the endpoint's own process: it must be through.
        deadline = time.monotonic() + 60
        while "poundcake.webhook" not in [trigger for trigger, _, _ in endpoint.published()]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        endpoint.set_broker(up=False)
        path = os.path.join(endpoint.config["state_dir"], "tracking.sqlite")
        with sqlite3.connect(path, isolation_level=None) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            views = [
                threading.Thread(target=endpoint.get, args=("/api/v1/executions/recent",))
                for _ in range(5)
            ]
            for view in views:
                view.start()
            slowest = 0
            for _ in range(10):
                began = time.monotonic()
                assert endpoint.post(webhook()).status == 202
                slowest = max(slowest, time.monotonic() - began)
            connection.execute("ROLLBACK")
        for view in views:
            view.join(20)
        assert slowest < 4  # a view gives up after 5
