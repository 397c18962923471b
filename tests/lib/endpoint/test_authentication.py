"""Which clients are accepted, and how the others are refused."""

from __future__ import annotations

import base64
import hmac
import json
import subprocess
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from poundcake.endpoint import authentication, body_signatures
from tests.lib.endpoint.problem_documents import check_problem
from tests.lib.endpoints import KINDS, WAYS, message
from tests.lib.samples import alert, webhook
from tests.waiting import wait_for

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
    """Return an endpoint that accepts a user's password or a token."""
    folder = tmp_path_factory.mktemp("basic-" + request.param)
    config = {"basic_auth": "on-call:a-longer-pässword", "auth_tokens": ["the-old-token-01"]}
    running = KINDS[request.param](folder, **config).start().ready()
    yield running
    running.stop()


def basic_credentials(text):
    return "Basic " + base64.b64encode(text.encode()).decode()


class TestTokens:
    @pytest.mark.parametrize("token", ["the-old-token-01", "the-new-token-01"])
    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
    def test_each_token_is_enough(self, guarded, scheme, token):
        credential = f"{scheme} {token}"
        assert guarded.post(webhook(), Authorization=credential).status == 202
        assert guarded.get(HEALTH, Authorization=credential).status == 200

    @pytest.mark.parametrize(
        "given",
        [
            None,
            "",
            "Bearer",
            "Bearer ",
            "Bearer x",
            "Bearer the-old-token-0",
            "Bearer the-old-token-01-011",
            "Bearer THE-OLD-TOKEN-01",
            "Bearer the-old-token-01, Bearer the-old-token-01",
            "Bearer the-old-token-01 the-new-token-01",
            "Basic dGhlLW9sZC10b2tlbi0wMQ==",
            "the-old-token-01",
            "Token the-old-token-01",
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
            assert "the-old-token-01" not in answer.body.decode()
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
    def test_credentials_are_checked_before_path_and_method(self, guarded, method, path):
        """Credentials are checked first, even for unknown paths and methods."""
        answer = guarded.request(method, path)
        check_problem(answer, 401)
        assert "allow" not in answer.headers and "/api/" not in answer.json["detail"]

    def test_a_duplicate_header_is_not_a_credential(self, guarded):
        line = b"Authorization: Bearer the-old-token-01\r\n"
        with guarded.client() as client:
            client.send(message("GET", HEALTH).replace(b"Host", line * 2 + b"Host"))
            assert client.read().status == 401

    @pytest.mark.parametrize("token", ["the-old-token-01", "the-new-token-01"])
    def test_metrics_require_a_token(self, guarded, token):
        answer = guarded.get("/metrics", Authorization="Bearer " + token)
        assert answer.status == 200
        families = text_string_to_metric_families(answer.body.decode())
        assert "poundcake_failed_authentications" in {family.name for family in families}
        assert "the-old-token-01" not in answer.body.decode()

    def test_live_is_open(self, guarded):
        assert guarded.get(LIVE).status == 200
        assert guarded.request("HEAD", LIVE).status == 200

    def test_health_shows_that_a_token_is_required(self, guarded):
        answer = guarded.get(HEALTH, Authorization="Bearer the-old-token-01")
        assert answer.json["authentication"] == "bearer"
        assert "the-old-token-01" not in answer.body.decode()


class TestBasicAuthentication:
    def test_user_and_password_or_a_token_is_enough(self, basic):
        good = basic_credentials("on-call:a-longer-pässword")
        for credential in (good, good.replace("Basic", "basic"), "Bearer the-old-token-01"):
            assert basic.post(webhook(), Authorization=credential).status == 202
        answer = basic.get(HEALTH, Authorization=good)
        assert answer.json["authentication"] == "bearer, basic"
        assert "a-longer-pässword" not in answer.body.decode()

    @pytest.mark.parametrize(
        "given",
        [
            None,
            basic_credentials("on-call:"),
            basic_credentials("on-call:a-longer-passwor"),
            basic_credentials("ON-CALL:a-longer-pässword"),
            basic_credentials("on-call:a-longer-pässword "),
            basic_credentials("the-old-token-01"),
            basic_credentials("on-call:a-longer-pässword") + "x",
            "Basic on-call:p",
            "Basic \u00e9",
            "Basic",
            "Bearer " + base64.b64encode("on-call:a-longer-pässword".encode()).decode(),
        ],
    )
    def test_other_credentials_are_refused(self, basic, given):
        before = basic.entries()
        answer = basic.post(webhook(), Authorization=given)
        check_problem(answer, 401)
        assert answer.headers["www-authenticate"] == (
            'Bearer realm="poundcake", Basic realm="poundcake"'
        )
        assert basic.entries() == before


NAMED = [
    {"name": "alertmanager", "scope": "post", "token": "a-token-for-webhooks"},
    {"name": "prometheus", "scope": "read", "basic": "prometheus:a-password-to-read"},
    {"name": "on-call", "scope": "both", "token": "a-token-for-everything"},
    {"name": "grafana", "scope": "post", "hmac_sha256": "the-secret-of-grafana"},
    {"name": "grafana-2", "scope": "post", "hmac_sha256": "the-other-secret-01"},
]
POSTER = "Bearer a-token-for-webhooks"
READER = basic_credentials("prometheus:a-password-to-read")
ON_CALL = "Bearer a-token-for-everything"


@pytest.fixture(scope="module", params=WAYS)
def with_names(request, tmp_path_factory):
    """Return an endpoint whose credentials have names and scopes."""
    folder = tmp_path_factory.mktemp("named-" + request.param)
    running = KINDS[request.param](folder, credentials=NAMED, max_body_bytes=200_000).start()
    yield running.wait_for_status(200, Authorization=ON_CALL)
    running.stop()


def signed(body, secret="the-secret-of-grafana", **headers):
    """Return the headers of a body signed by Grafana, with a timestamp if one is given."""
    timestamp = headers.get("X_Grafana_Alerting_Timestamp")
    prefix = b"" if timestamp is None else timestamp.encode() + b":"
    signature = hmac.new(secret.encode(), prefix + body, "sha256").hexdigest()
    return {"X_Grafana_Alerting_Signature": signature, **headers}


class TestScopes:
    @pytest.mark.parametrize(
        "given, name", [(POSTER, "alertmanager"), (ON_CALL, "on-call")], ids=["post", "both"]
    )
    def test_the_name_of_the_credential_is_recorded(self, with_names, given, name):
        request_id = with_names.accept(webhook(), Authorization=given)
        assert with_names.credentials()[-1] == name
        status = with_names.get("/api/v1/status/" + request_id, Authorization=ON_CALL)
        assert status.json["credential"] == name

    @pytest.mark.parametrize("path", PROTECTED)
    def test_a_credential_with_scope_post_cannot_read(self, with_names, path):
        answer = with_names.get(path, Authorization=POSTER)
        check_problem(answer, 403)
        assert answer.json["detail"] == (
            "the credential alertmanager has the scope post, but this needs read: use a credential "
            "with the scope read or both"
        )
        for credential in (READER, ON_CALL):
            assert with_names.get(path, Authorization=credential).status in (200, 404)

    def test_a_credential_with_scope_read_cannot_post(self, with_names):
        before = with_names.entries()
        answer = with_names.post(webhook(alert()), Authorization=READER)
        check_problem(answer, 403)
        assert "the credential prometheus has the scope read" in answer.json["detail"]
        assert with_names.entries() == before
        refused = with_names.get(HEALTH, Authorization=READER).json["refused"]["last"]
        assert (refused["reason"], refused["status"]) == ("wrong_scope", 403)

    def test_the_scope_is_checked_before_the_path(self, with_names):
        assert with_names.get("/no/such/path", Authorization=POSTER).status == 403
        assert with_names.get("/no/such/path", Authorization=READER).status == 404
        assert with_names.get("/api/v1/webhook", Authorization=POSTER).status == 405
        assert with_names.get("/api/v1/webhook", Authorization=READER).status == 403

    def test_live_is_open(self, with_names):
        assert with_names.get(LIVE).status == 200

    def test_health_lists_the_accepted_credentials(self, with_names):
        authentication = with_names.get(HEALTH, Authorization=ON_CALL).json["authentication"]
        assert authentication == "bearer, basic, hmac"

    def test_unnamed_credentials_are_recorded_by_their_key(self, guarded, basic):
        for endpoint, credential, name in (
            (guarded, "Bearer the-old-token-01", "auth_tokens[1]"),
            (guarded, "Bearer the-new-token-01", "auth_tokens[2]"),
            (basic, basic_credentials("on-call:a-longer-pässword"), "basic_auth"),
        ):
            endpoint.accept(webhook(), Authorization=credential)
            assert endpoint.credentials()[-1] == name

    def test_without_credentials_no_name_is_recorded(self, endpoint):
        request_id = endpoint.accept(webhook())
        assert endpoint.credentials()[-1] == ""
        assert "credential" not in endpoint.get("/api/v1/status/" + request_id).json


class TestSignatures:
    """Grafana signs the body of a webhook with a shared secret."""

    BODY = json.dumps(webhook(alert())).encode()

    def now(self, seconds=0):
        return {"X_Grafana_Alerting_Timestamp": str(int(time.time()) + seconds)}

    @pytest.mark.parametrize("timestamp", [None, 0, -290, 290])
    def test_a_signed_webhook_is_accepted(self, with_names, timestamp):
        more = {} if timestamp is None else self.now(timestamp)
        assert with_names.post(self.BODY, **signed(self.BODY, **more)).status == 202
        assert with_names.credentials()[-1] == "grafana"
        other = signed(self.BODY, "the-other-secret-01", **more)
        assert with_names.post(self.BODY, **other).status == 202
        assert with_names.credentials()[-1] == "grafana-2"

    def test_the_signature_is_the_one_that_grafana_computes(self):
        """OpenSSL computed these from the body, and from the time, a colon and the body."""
        body, time_and_body = b'{"a":1}', b'1700000000:{"a":1}'
        for text, headers in (
            (body, {}),
            (time_and_body, {"X_Grafana_Alerting_Timestamp": "1700000000"}),
        ):
            command = ["openssl", "dgst", "-sha256", "-hmac", "the-secret-of-grafana"]
            printed = subprocess.run(command, input=text, stdout=subprocess.PIPE, check=True)
            signature = signed(body, **headers)["X_Grafana_Alerting_Signature"]
            assert signature == printed.stdout.split()[-1].decode()

    def test_a_large_signed_body_is_accepted(self, with_names):
        body = json.dumps(webhook(alert(annotations={"text": "x" * 100_000}))).encode()
        assert with_names.post(body, **signed(body)).status == 202

    @pytest.mark.parametrize("seconds", [-310, 310, -86400])
    def test_an_old_signed_webhook_cannot_be_replayed(self, with_names, seconds):
        before = with_names.entries()
        answer = with_names.post(self.BODY, **signed(self.BODY, **self.now(seconds)))
        check_problem(answer, 401)
        assert "more than 5 minutes from this machine's clock" in answer.json["detail"]
        assert with_names.entries() == before

    @pytest.mark.parametrize("timestamp", ["", "now", "-1", "1e9", "1_0", "٣", "9" * 13])
    def test_an_invalid_timestamp(self, with_names, timestamp):
        headers = {"X_Grafana_Alerting_Timestamp": timestamp.encode().decode("latin-1")}
        prefix = timestamp.encode() + b":"
        key = b"the-secret-of-grafana"
        headers["X_Grafana_Alerting_Signature"] = hmac.new(
            key, prefix + self.BODY, "sha256"
        ).hexdigest()
        answer = with_names.post(self.BODY, **headers)
        check_problem(answer, 401)
        assert "must be a Unix time in seconds" in answer.json["detail"]

    def test_nothing_else_is_and_nothing_is_stored(self, with_names):
        before = with_names.entries()
        body = self.BODY
        good = signed(body)["X_Grafana_Alerting_Signature"]
        timed = signed(body, **self.now())
        for headers in (
            signed(body + b" "),
            signed(body, "another-secret-01"),
            {"X_Grafana_Alerting_Signature": ""},
            {"X_Grafana_Alerting_Signature": "é"},
            {"X_Grafana_Alerting_Signature": good.upper()},
            {"X_Grafana_Alerting_Signature": "sha256=" + good},
            {"X_Grafana_Alerting_Signature": good + ", " + good},
            # The timestamp is signed, so it cannot be removed, added or changed.
            {"X_Grafana_Alerting_Signature": timed["X_Grafana_Alerting_Signature"]},
            {"X_Grafana_Alerting_Signature": good, **self.now()},
            {**timed, **self.now(1)},
            {"Authorization": "Bearer the-secret-of-grafana"},
            {"Authorization": basic_credentials("grafana:the-secret-of-grafana")},
        ):
            answer = with_names.post(body, **headers)
            check_problem(answer, 401)
            assert "the-secret" not in answer.body.decode()
        assert with_names.entries() == before

    def test_signatures_are_only_for_webhooks(self, with_names):
        for path in PROTECTED:
            check_problem(with_names.get(path, **signed(b"")), 401)
            check_problem(with_names.request("POST", path, b"{}", **signed(b"{}")), 401)
        check_problem(with_names.get("/api/v1/webhook", **signed(b"")), 401)

    def test_without_a_shared_secret_no_body_is_read(self, guarded):
        check_problem(guarded.post(self.BODY, **signed(self.BODY, "")), 401)

    @pytest.mark.parametrize(
        "headers, status",
        [({"Content_Length": "200001"}, 413), ({"Content_Type": "text/plain"}, 415)],
    )
    def test_an_unusable_body_is_not_read(self, with_names, headers, status):
        with with_names.client() as client:
            head = message("POST", "/api/v1/webhook", b"", **{**signed(b""), **headers})
            client.send(head)
            check_problem(client.read(), status)

    def test_the_time_to_check_a_credential_leaks_nothing(self, tmp_path, monkeypatch):
        compared = []
        compare = hmac.compare_digest

        def watched(given, known):
            compared.append(known)
            return compare(given, known)

        endpoint = KINDS["threads"](tmp_path, credentials=NAMED[2:]).start()
        try:
            endpoint.wait_for_status(200, Authorization=ON_CALL)
            monkeypatch.setattr(body_signatures.hmac, "compare_digest", watched)
            for headers in (signed(self.BODY), signed(self.BODY, "another-secret-01")):
                del compared[:]
                endpoint.post(self.BODY, **headers)
                assert len(compared) == 3  # the token, and both shared secrets
        finally:
            endpoint.stop()

    def test_unauthenticated_unfinished_bodies_do_not_block_others(self, make):
        """Otherwise, they could occupy every connection and exhaust the memory."""
        endpoint = make({"endpoint.body_signatures.MAX_UNVERIFIED": 2}, **GRAFANA_AND_ON_CALL)
        body = self.BODY
        head = message("POST", "/api/v1/webhook", body, **signed(body))[: -len(body)]
        clients = [endpoint.client() for _ in range(2)]
        try:
            for client in clients:
                client.send(head)
            wait_for(lambda: endpoint.post(body, **signed(body)).status == 503)
            assert endpoint.post(webhook(), Authorization=ON_CALL).status == 202
            for client in clients:
                client.send(body)
                assert client.read().status == 202
            assert endpoint.post(body, **signed(body)).status == 202
        finally:
            for client in clients:
                client.socket.close()


# `ready` uses the second credential.
GRAFANA_AND_ON_CALL = {"credentials": [NAMED[3]], "auth_tokens": ["a-token-for-everything"]}


def test_the_time_to_check_a_credential_leaks_nothing(tmp_path, monkeypatch):
    compared = []
    compare = hmac.compare_digest

    def watched(given, known):
        compared.append(known)
        return compare(given, known)

    known = {
        "auth_tokens": ["the-old-token-01", "the-new-token-01"],
        "basic_auth": "on-call:hush-hush-hush-hush",
    }
    endpoint = KINDS["threads"](tmp_path, **known).start().ready()
    try:
        monkeypatch.setattr(authentication.hmac, "compare_digest", watched)
        for given, status in (
            ("Bearer the-old-token-01", 202),
            (basic_credentials("on-call:hush-hush-hush-hush"), 202),
            ("Bearer x", 401),
            (None, 401),
        ):
            del compared[:]
            assert endpoint.post(webhook(), Authorization=given).status == status
            assert compared == [
                b"the-old-token-01",
                b"the-new-token-01",
                b"on-call:hush-hush-hush-hush",
            ]
    finally:
        endpoint.stop()


def test_failures_are_counted_and_logged_once_without_the_credential(tmp_path, caplog):
    endpoint = KINDS["threads"](tmp_path, basic_auth="on-call:hush-hush-hush-word").start()
    try:
        right = basic_credentials("on-call:hush-hush-hush-word")
        endpoint.wait_for_status(200, Authorization=right)
        credential = basic_credentials("on-call:hush-hush-hush-wort")
        for _ in range(5):
            assert endpoint.get("/metrics", Authorization=credential).status == 401
        text = endpoint.get("/metrics", Authorization=right).body.decode()
    finally:
        endpoint.stop()
    assert "poundcake_failed_authentications_total 5.0" in text
    assert caplog.text.count("missing or invalid credentials from 127.0.0.1") == 1
    assert "hush" not in caplog.text and credential.split()[1] not in caplog.text
