"""Who may send a request, and what everybody else is told."""

from __future__ import annotations

import base64
import hmac

import pytest
from prometheus_client.parser import text_string_to_metric_families

from poundcake.endpoint import authentication
from tests.lib.endpoint.problem_documents import check_problem
from tests.lib.endpoints import KINDS, WAYS, message
from tests.lib.samples import alert, webhook

HEALTH = "/api/v1/health"
LIVE = "/api/v1/health/live"
PROTECTED = (
    "/api/v1/status/x",
    "/api/v1/executions/recent",
    "/api/v1/alerts/active",
    "/api/v1/st2/executions",
    HEALTH,
    "/api/v1/health/ready",
    "/api/v1/openapi.json",
    "/metrics",
)


@pytest.fixture(scope="module", params=WAYS)
def basic(request, tmp_path_factory):
    """One that takes a user's password, or a token."""
    folder = tmp_path_factory.mktemp("basic-" + request.param)
    config = {"basic_auth": "on-call:pässword", "auth_tokens": ["old-token"]}
    running = KINDS[request.param](folder, **config).start().ready()
    yield running
    running.stop()


def basic_credentials(text):
    return "Basic " + base64.b64encode(text.encode()).decode()


class TestTokens:
    @pytest.mark.parametrize("token", ["old-token", "new-token"])
    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
    def test_each_of_them_is_enough(self, guarded, scheme, token):
        given = f"{scheme} {token}"
        assert guarded.post(webhook(), Authorization=given).status == 202
        assert guarded.get(HEALTH, Authorization=given).status == 200

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
    def test_nothing_else_is_and_nothing_is_stored(self, guarded, given):
        before = guarded.entries()
        for answer in (
            guarded.post(webhook(alert()), Authorization=given),
            guarded.post(b"no json", Authorization=given),
        ):
            check_problem(answer, 401)
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert "token1" not in answer.body.decode() and "old-token" not in answer.body.decode()
        for path in PROTECTED:
            check_problem(guarded.get(path, Authorization=given), 401)
        assert guarded.entries() == before

    @pytest.mark.parametrize(
        "method, path",
        [
            ("GET", "/"),
            ("GET", "/api/v1/no-such-path"),
            ("BREW", "/api/v1/webhook"),
            ("DELETE", "/api/v1/health"),
            ("POST", LIVE),
            ("OPTIONS", "*"),
            ("CONNECT", "127.0.0.1:80"),
        ],
    )
    def test_a_stranger_does_not_learn_what_there_is(self, guarded, method, path):
        """Credentials come first: also for what does not exist."""
        answer = guarded.ask(method, path)
        check_problem(answer, 401)
        assert "allow" not in answer.headers and "/api/" not in answer.json["detail"]

    def test_given_twice_it_is_not_one(self, guarded):
        line = b"Authorization: Bearer old-token\r\n"
        with guarded.client() as client:
            client.send(message("GET", HEALTH).replace(b"Host", line * 2 + b"Host"))
            assert client.read().status == 401

    @pytest.mark.parametrize("token", ["old-token", "new-token"])
    def test_metrics_are_for_those_who_have_one(self, guarded, token):
        answer = guarded.get("/metrics", Authorization="Bearer " + token)
        assert answer.status == 200
        families = text_string_to_metric_families(answer.body.decode())
        assert "poundcake_failed_authentications" in {family.name for family in families}
        assert "old-token" not in answer.body.decode()

    def test_live_is_open(self, guarded):
        assert guarded.get(LIVE).status == 200
        assert guarded.ask("HEAD", LIVE).status == 200

    def test_health_says_that_one_is_needed(self, guarded):
        answer = guarded.get(HEALTH, Authorization="Bearer old-token")
        assert answer.json["authentication"] == "bearer"
        assert "old-token" not in answer.body.decode()


class TestBasicAuthentication:
    def test_user_and_password_are_enough_and_so_is_a_token(self, basic):
        good = basic_credentials("on-call:pässword")
        for given in (good, good.replace("Basic", "basic"), "Bearer old-token"):
            assert basic.post(webhook(), Authorization=given).status == 202
        answer = basic.get(HEALTH, Authorization=good)
        assert answer.json["authentication"] == "bearer, basic"
        assert "pässword" not in answer.body.decode()

    @pytest.mark.parametrize(
        "given",
        [
            None,
            basic_credentials("on-call:"),
            basic_credentials("on-call:passwor"),
            basic_credentials("ON-CALL:pässword"),
            basic_credentials("on-call:pässword "),
            basic_credentials("old-token"),
            basic_credentials("on-call:pässword") + "x",
            "Basic on-call:p",
            "Basic \u00e9",
            "Basic",
            "Bearer " + base64.b64encode("on-call:pässword".encode()).decode(),
        ],
    )
    def test_nothing_else_is(self, basic, given):
        before = basic.entries()
        answer = basic.post(webhook(), Authorization=given)
        check_problem(answer, 401)
        assert answer.headers["www-authenticate"] == (
            'Bearer realm="poundcake", Basic realm="poundcake"'
        )
        assert basic.entries() == before


def test_the_time_that_it_takes_tells_nothing(tmp_path, monkeypatch):
    compared = []
    compare = hmac.compare_digest

    def watched(given, known):
        compared.append(known)
        return compare(given, known)

    known = {"auth_tokens": ["old-token", "new-token"], "basic_auth": "on-call:hush"}
    endpoint = KINDS["threads"](tmp_path, **known).start().ready()
    try:
        monkeypatch.setattr(authentication.hmac, "compare_digest", watched)
        for given, status in (
            ("Bearer old-token", 202),
            (basic_credentials("on-call:hush"), 202),
            ("Bearer x", 401),
            (None, 401),
        ):
            del compared[:]
            assert endpoint.post(webhook(), Authorization=given).status == status
            assert compared == [b"old-token", b"new-token", b"on-call:hush"]
    finally:
        endpoint.stop()


def test_failures_are_counted_and_logged_once_without_what_was_given(tmp_path, caplog):
    endpoint = KINDS["threads"](tmp_path, basic_auth="on-call:hush-word").start()
    try:
        right = basic_credentials("on-call:hush-word")
        endpoint.reaches(200, Authorization=right)
        given = basic_credentials("on-call:hush-wort")
        for _ in range(5):
            assert endpoint.get("/metrics", Authorization=given).status == 401
        text = endpoint.get("/metrics", Authorization=right).body.decode()
    finally:
        endpoint.stop()
    assert "poundcake_failed_authentications_total 5.0" in text
    assert caplog.text.count("missing or invalid credentials from 127.0.0.1") == 1
    assert "hush" not in caplog.text and given.split()[1] not in caplog.text
