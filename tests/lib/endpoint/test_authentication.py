"""The endpoint accepts clients with valid credentials, and refuses all others."""

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
from tests.lib.endpoints import ENDPOINT_CLASSES, RUNTIMES, message
from tests.lib.samples import alert, webhook
from tests.waiting import wait_for

HEALTH = "/api/v1/health"
LIVE = "/api/v1/health/live"
PROTECTED_PATHS = (
    "/api/v1/status/x",
    "/api/v1/executions/recent",
    "/api/v1/alerts/active",
    "/api/v1/st2/executions",
    HEALTH,
    "/api/v1/health/ready",
    "/api/v1/openapi.json",
    "/metrics",
)


@pytest.fixture(scope="module", params=RUNTIMES)
def basic_endpoint(request, tmp_path_factory):
    """Return an endpoint that accepts a user name with a password, or a token."""
    folder = tmp_path_factory.mktemp("basic-" + request.param)
    config = {"basic_auth": "on-call:a-longer-pässword", "auth_tokens": ["the-old-token-01"]}
    new_endpoint = ENDPOINT_CLASSES[request.param](folder, **config).start().ready()
    yield new_endpoint
    new_endpoint.stop()


def basic_credentials(text):
    return "Basic " + base64.b64encode(text.encode()).decode()


class TestTokens:
    def test_a_refused_webhook_says_where_alertmanager_has_its_credential(self, guarded_endpoint):
        hint = "in Alertmanager: http_config.authorization.credentials_file"
        assert hint in guarded_endpoint.post(webhook()).json["detail"]
        assert hint not in guarded_endpoint.get(HEALTH).json["detail"]

    @pytest.mark.parametrize("token", ["the-old-token-01", "the-new-token-01"])
    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
    def test_each_token_is_accepted(self, guarded_endpoint, scheme, token):
        credential = f"{scheme} {token}"
        assert guarded_endpoint.post(webhook(), Authorization=credential).status == 202
        assert guarded_endpoint.get(HEALTH, Authorization=credential).status == 200

    @pytest.mark.parametrize(
        "authorization",
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
    def test_other_credentials_are_refused_and_nothing_is_stored(
        self, guarded_endpoint, authorization
    ):
        entries_before = guarded_endpoint.entries()
        for response in (
            guarded_endpoint.post(webhook(alert()), Authorization=authorization),
            guarded_endpoint.post(b"no json", Authorization=authorization),
        ):
            check_problem(response, 401)
            assert response.headers["www-authenticate"].startswith("Bearer")
            assert "the-old-token-01" not in response.body.decode()
        for path in PROTECTED_PATHS:
            check_problem(guarded_endpoint.get(path, Authorization=authorization), 401)
        assert guarded_endpoint.entries() == entries_before

    @pytest.mark.parametrize(
        "method, path",
        [
            ("POST", "/"),
            ("GET", "/api/v1/no-such-path"),
            ("BREW", "/api/v1/webhook"),
            ("DELETE", "/api/v1/health"),
            ("POST", LIVE),
            ("OPTIONS", "*"),
            ("CONNECT", "127.0.0.1:80"),
        ],
    )
    def test_credentials_are_checked_before_the_path_and_the_method(
        self, guarded_endpoint, method, path
    ):
        response = guarded_endpoint.request(method, path)
        check_problem(response, 401)
        assert "allow" not in response.headers and "/api/" not in response.json["detail"]

    def test_a_duplicate_header_is_refused(self, guarded_endpoint):
        line = b"Authorization: Bearer the-old-token-01\r\n"
        with guarded_endpoint.client() as client:
            client.send(message("GET", HEALTH).replace(b"Host", line * 2 + b"Host"))
            assert client.read().status == 401

    @pytest.mark.parametrize("token", ["the-old-token-01", "the-new-token-01"])
    def test_metrics_require_a_token(self, guarded_endpoint, token):
        response = guarded_endpoint.get("/metrics", Authorization="Bearer " + token)
        assert response.status == 200
        families = text_string_to_metric_families(response.body.decode())
        assert "poundcake_failed_authentications" in {family.name for family in families}
        assert "the-old-token-01" not in response.body.decode()

    def test_live_requires_no_credentials(self, guarded_endpoint):
        assert guarded_endpoint.get(LIVE).status == 200
        assert guarded_endpoint.request("HEAD", LIVE).status == 200

    def test_health_shows_that_a_token_is_required(self, guarded_endpoint):
        response = guarded_endpoint.get(HEALTH, Authorization="Bearer the-old-token-01")
        assert response.json["authentication"] == "bearer"
        assert "the-old-token-01" not in response.body.decode()


class TestBasicAuthentication:
    def test_a_password_or_a_token_is_accepted(self, basic_endpoint):
        valid_credential = basic_credentials("on-call:a-longer-pässword")
        for credential in (
            valid_credential,
            valid_credential.replace("Basic", "basic"),
            "Bearer the-old-token-01",
        ):
            assert basic_endpoint.post(webhook(), Authorization=credential).status == 202
        response = basic_endpoint.get(HEALTH, Authorization=valid_credential)
        assert response.json["authentication"] == "bearer, basic"
        assert "a-longer-pässword" not in response.body.decode()

    @pytest.mark.parametrize(
        "authorization",
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
    def test_other_credentials_are_refused(self, basic_endpoint, authorization):
        entries_before = basic_endpoint.entries()
        response = basic_endpoint.post(webhook(), Authorization=authorization)
        check_problem(response, 401)
        assert response.headers["www-authenticate"] == (
            'Bearer realm="poundcake", Basic realm="poundcake"'
        )
        assert basic_endpoint.entries() == entries_before


NAMED_CREDENTIALS = [
    {"name": "alertmanager", "scope": "post", "token": "a-token-for-webhooks"},
    {"name": "prometheus", "scope": "read", "basic": "prometheus:a-password-to-read"},
    {"name": "on-call", "scope": "both", "token": "a-token-for-everything"},
    {"name": "grafana", "scope": "post", "hmac_sha256": "the-secret-of-grafana"},
    {"name": "grafana-2", "scope": "post", "hmac_sha256": "the-other-secret-01"},
]
POST_ONLY = "Bearer a-token-for-webhooks"
READ_ONLY = basic_credentials("prometheus:a-password-to-read")
ON_CALL = "Bearer a-token-for-everything"


@pytest.fixture(scope="module", params=RUNTIMES)
def named_endpoint(request, tmp_path_factory):
    """Return an endpoint whose credentials have names and scopes."""
    folder = tmp_path_factory.mktemp("named-" + request.param)
    new_endpoint = ENDPOINT_CLASSES[request.param](
        folder, credentials=NAMED_CREDENTIALS, max_body_bytes=200_000
    ).start()
    yield new_endpoint.wait_for_status(200, Authorization=ON_CALL)
    new_endpoint.stop()


def signature_headers(body, secret="the-secret-of-grafana", **headers):
    """Return the headers with which Grafana signs a body.

    If `headers` contains a timestamp, the signature covers it as well.
    """
    timestamp = headers.get("X_Grafana_Alerting_Timestamp")
    prefix = b"" if timestamp is None else timestamp.encode() + b":"
    signature = hmac.new(secret.encode(), prefix + body, "sha256").hexdigest()
    return {"X_Grafana_Alerting_Signature": signature, **headers}


class TestBoard:
    """A browser can sign in, and no more than that."""

    PATHS = ("/", "/board", "/board/static/board.css")

    @pytest.mark.parametrize("path", PATHS)
    @pytest.mark.parametrize(
        "authorization",
        [
            basic_credentials("anna:a-token-for-everything"),
            basic_credentials(":a-token-for-everything"),
            ON_CALL,
            READ_ONLY,
        ],
    )
    def test_a_token_is_accepted_as_the_password(self, named_endpoint, path, authorization):
        response = named_endpoint.get(path, Authorization=authorization)
        assert response.status == (302 if path == "/" else 200)

    @pytest.mark.parametrize("path", [*PATHS, "/board/no-such-page"])
    @pytest.mark.parametrize(
        "authorization",
        [
            None,
            basic_credentials("anna:"),
            basic_credentials("anna:a-token-for-everythin"),
            basic_credentials("a-token-for-everything:anna"),
            basic_credentials("a-token-for-everything"),
            basic_credentials("anna:a-password-to-read"),
            basic_credentials("anna:the-secret-of-grafana"),
            "Basic anna:a-token-for-everything",
        ],
    )
    def test_a_browser_is_asked_for_a_password(self, named_endpoint, path, authorization):
        failures = read_failures(named_endpoint)
        response = named_endpoint.get(path, Authorization=authorization)
        assert response.status == 401
        assert response.headers["www-authenticate"] == 'Basic realm="poundcake"'
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        assert "as the password a token with the scope read or both" in response.body.decode()
        assert "a-token-for-everything" not in response.body.decode()
        assert read_failures(named_endpoint) == failures + 1

    def test_a_token_for_webhooks_does_not_open_a_page(self, named_endpoint):
        credential = basic_credentials("anna:a-token-for-webhooks")
        response = named_endpoint.get("/board", Authorization=credential)
        assert response.status == 403
        assert "the credential alertmanager has the scope post" in response.body.decode()

    @pytest.mark.parametrize("path", PROTECTED_PATHS)
    def test_the_api_accepts_no_token_as_a_password(self, named_endpoint, path):
        credential = basic_credentials("anna:a-token-for-everything")
        check_problem(named_endpoint.get(path, Authorization=credential), 401)
        check_problem(named_endpoint.post(webhook(), Authorization=credential), 401)

    def test_a_browser_is_asked_although_only_tokens_are_configured(self, guarded_endpoint):
        response = guarded_endpoint.get("/board")
        assert response.headers["www-authenticate"] == 'Basic realm="poundcake"'
        response = guarded_endpoint.get("/api/v1/health")
        assert response.headers["www-authenticate"] == 'Bearer realm="poundcake"'

    def test_no_password_is_needed_without_credentials(self, endpoint):
        assert endpoint.get("/board").status == 200
        response = endpoint.get("/board", Host="board.example.org")
        assert response.status == 403 and b"no credentials" in response.body


class TestBoardProxy:
    """The header of a reverse proxy signs in to the board, from the proxy's addresses only."""

    SIGNED_IN = {"X_Forwarded_User": "anna"}

    @pytest.mark.parametrize("name", ["X_Forwarded_User", "x_forwarded_user"])
    def test_the_header_is_believed_from_the_proxy(self, start_endpoint, name):
        endpoint = start_endpoint(
            auth_tokens=["the-old-token-01"], board_proxy=proxy("127.0.0.0/8")
        )
        assert endpoint.get("/board", **{name: "anna"}).status == 200
        for headers in ({}, {name: ""}, {"X_User": "anna"}):
            response = endpoint.get("/board", **headers)
            assert response.status == 401
            assert b"at the address of the reverse proxy" in response.body
        # The API accepts tokens only.
        check_problem(endpoint.get("/api/v1/health", **{name: "anna"}), 401)
        check_problem(endpoint.post(webhook(), **{name: "anna"}), 401)
        assert endpoint.post(webhook(), Authorization="Bearer the-old-token-01").status == 202

    def test_the_header_is_not_believed_from_elsewhere(self, start_endpoint):
        endpoint = start_endpoint(auth_tokens=["the-old-token-01"], board_proxy=proxy("10.0.0.7"))
        response = endpoint.get("/board", **self.SIGNED_IN)
        assert response.status == 401
        assert b"X-Forwarded-User is believed only from the addresses" in response.body
        credential = basic_credentials("anna:the-old-token-01")
        assert endpoint.get("/board", Authorization=credential, **self.SIGNED_IN).status == 200

    def test_the_header_is_not_believed_without_board_proxy(self, guarded_endpoint):
        assert guarded_endpoint.get("/board", **self.SIGNED_IN).status == 401

    def test_with_a_proxy_the_board_is_closed_even_without_credentials(self, start_endpoint):
        endpoint = start_endpoint(board_proxy=proxy("127.0.0.1"))
        assert endpoint.get("/board").status == 401
        assert endpoint.get("/board", **self.SIGNED_IN).status == 200
        # A page of another site that resolves to 127.0.0.1 could send the header as well.
        rebound = {"Host": "evil.example", **self.SIGNED_IN}
        assert endpoint.get("/board", **rebound).status == 403
        assert endpoint.get("/api/v1/health").status == 200


def proxy(*addresses):
    return {"header": "X-Forwarded-User", "addresses": list(addresses)}


def read_failures(endpoint):
    text = endpoint.get("/metrics", Authorization=ON_CALL).body.decode()
    (sample,) = [
        sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "poundcake_failed_authentications_total"
    ]
    return sample.value


class TestScopes:
    @pytest.mark.parametrize(
        "authorization, name",
        [(POST_ONLY, "alertmanager"), (ON_CALL, "on-call")],
        ids=["post", "both"],
    )
    def test_the_name_of_the_credential_is_recorded(self, named_endpoint, authorization, name):
        request_id = named_endpoint.accept(webhook(), Authorization=authorization)
        assert named_endpoint.credentials()[-1] == name
        status = named_endpoint.get("/api/v1/status/" + request_id, Authorization=ON_CALL)
        assert status.json["credential"] == name

    @pytest.mark.parametrize("path", PROTECTED_PATHS)
    def test_a_credential_with_scope_post_cannot_read(self, named_endpoint, path):
        response = named_endpoint.get(path, Authorization=POST_ONLY)
        check_problem(response, 403)
        assert response.json["detail"] == (
            "the credential alertmanager has the scope post, but the request needs read: use a "
            "credential with the scope read or both"
        )
        for credential in (READ_ONLY, ON_CALL):
            assert named_endpoint.get(path, Authorization=credential).status in (200, 404)

    def test_a_credential_with_scope_read_cannot_post(self, named_endpoint):
        entries_before = named_endpoint.entries()
        response = named_endpoint.post(webhook(alert()), Authorization=READ_ONLY)
        check_problem(response, 403)
        assert "the credential prometheus has the scope read" in response.json["detail"]
        assert named_endpoint.entries() == entries_before
        last_refusal = named_endpoint.get(HEALTH, Authorization=READ_ONLY).json["refused"]["last"]
        assert (last_refusal["reason"], last_refusal["status"]) == ("wrong_scope", 403)

    def test_the_scope_is_checked_before_the_path(self, named_endpoint):
        assert named_endpoint.get("/no/such/path", Authorization=POST_ONLY).status == 403
        assert named_endpoint.get("/no/such/path", Authorization=READ_ONLY).status == 404
        assert named_endpoint.get("/api/v1/webhook", Authorization=POST_ONLY).status == 405
        assert named_endpoint.get("/api/v1/webhook", Authorization=READ_ONLY).status == 403

    def test_live_requires_no_credentials(self, named_endpoint):
        assert named_endpoint.get(LIVE).status == 200

    def test_health_lists_the_accepted_kinds_of_credential(self, named_endpoint):
        authentication = named_endpoint.get(HEALTH, Authorization=ON_CALL).json["authentication"]
        assert authentication == "bearer, basic, hmac"

    def test_unnamed_credentials_are_recorded_under_their_configuration_key(
        self, guarded_endpoint, basic_endpoint
    ):
        for endpoint, credential, name in (
            (guarded_endpoint, "Bearer the-old-token-01", "auth_tokens[1]"),
            (guarded_endpoint, "Bearer the-new-token-01", "auth_tokens[2]"),
            (basic_endpoint, basic_credentials("on-call:a-longer-pässword"), "basic_auth"),
        ):
            endpoint.accept(webhook(), Authorization=credential)
            assert endpoint.credentials()[-1] == name

    def test_no_name_is_recorded_without_credentials(self, endpoint):
        request_id = endpoint.accept(webhook())
        assert endpoint.credentials()[-1] == ""
        assert "credential" not in endpoint.get("/api/v1/status/" + request_id).json


class TestSignatures:
    """Grafana signs the body of a webhook with a shared secret."""

    BODY = json.dumps(webhook(alert())).encode()

    def timestamp_headers(self, seconds=0):
        return {"X_Grafana_Alerting_Timestamp": str(int(time.time()) + seconds)}

    @pytest.mark.parametrize("timestamp", [None, 0, -290, 290])
    def test_a_signed_webhook_is_accepted(self, named_endpoint, timestamp):
        headers = {} if timestamp is None else self.timestamp_headers(timestamp)
        assert (
            named_endpoint.post(self.BODY, **signature_headers(self.BODY, **headers)).status == 202
        )
        assert named_endpoint.credentials()[-1] == "grafana"
        other_signature = signature_headers(self.BODY, "the-other-secret-01", **headers)
        assert named_endpoint.post(self.BODY, **other_signature).status == 202
        assert named_endpoint.credentials()[-1] == "grafana-2"

    def test_openssl_computes_the_same_signatures(self):
        """Grafana signs either the body, or a timestamp, a colon and the body."""
        body, timestamp_and_body = b'{"a":1}', b'1700000000:{"a":1}'
        for signed_bytes, headers in (
            (body, {}),
            (timestamp_and_body, {"X_Grafana_Alerting_Timestamp": "1700000000"}),
        ):
            command = ["openssl", "dgst", "-sha256", "-hmac", "the-secret-of-grafana"]
            completed = subprocess.run(
                command, input=signed_bytes, stdout=subprocess.PIPE, check=True
            )
            signature = signature_headers(body, **headers)["X_Grafana_Alerting_Signature"]
            assert signature == completed.stdout.split()[-1].decode()

    def test_a_large_signed_body_is_accepted(self, named_endpoint):
        body = json.dumps(webhook(alert(annotations={"text": "x" * 100_000}))).encode()
        assert named_endpoint.post(body, **signature_headers(body)).status == 202

    @pytest.mark.parametrize("seconds", [-310, 310, -86400])
    def test_a_signature_timestamp_more_than_5_minutes_off_is_refused(
        self, named_endpoint, seconds
    ):
        entries_before = named_endpoint.entries()
        response = named_endpoint.post(
            self.BODY, **signature_headers(self.BODY, **self.timestamp_headers(seconds))
        )
        check_problem(response, 401)
        assert "more than 5 minutes from this machine's clock" in response.json["detail"]
        assert named_endpoint.entries() == entries_before

    @pytest.mark.parametrize("timestamp", ["", "now", "-1", "1e9", "1_0", "٣", "9" * 13])
    def test_an_invalid_timestamp_is_refused(self, named_endpoint, timestamp):
        headers = {"X_Grafana_Alerting_Timestamp": timestamp.encode().decode("latin-1")}
        prefix = timestamp.encode() + b":"
        key = b"the-secret-of-grafana"
        headers["X_Grafana_Alerting_Signature"] = hmac.new(
            key, prefix + self.BODY, "sha256"
        ).hexdigest()
        response = named_endpoint.post(self.BODY, **headers)
        check_problem(response, 401)
        assert "must be a Unix time in seconds" in response.json["detail"]

    def test_other_signatures_are_refused_and_nothing_is_stored(self, named_endpoint):
        entries_before = named_endpoint.entries()
        body = self.BODY
        valid_signature = signature_headers(body)["X_Grafana_Alerting_Signature"]
        timed_headers = signature_headers(body, **self.timestamp_headers())
        for headers in (
            signature_headers(body + b" "),
            signature_headers(body, "another-secret-01"),
            {"X_Grafana_Alerting_Signature": ""},
            {"X_Grafana_Alerting_Signature": "é"},
            {"X_Grafana_Alerting_Signature": valid_signature.upper()},
            {"X_Grafana_Alerting_Signature": "sha256=" + valid_signature},
            {"X_Grafana_Alerting_Signature": valid_signature + ", " + valid_signature},
            # The timestamp cannot be removed, added or changed, because the signature covers it.
            {"X_Grafana_Alerting_Signature": timed_headers["X_Grafana_Alerting_Signature"]},
            {"X_Grafana_Alerting_Signature": valid_signature, **self.timestamp_headers()},
            {**timed_headers, **self.timestamp_headers(1)},
            {"Authorization": "Bearer the-secret-of-grafana"},
            {"Authorization": basic_credentials("grafana:the-secret-of-grafana")},
        ):
            response = named_endpoint.post(body, **headers)
            check_problem(response, 401)
            assert "the-secret" not in response.body.decode()
        assert named_endpoint.entries() == entries_before

    def test_signatures_are_accepted_only_for_webhooks(self, named_endpoint):
        for path in PROTECTED_PATHS:
            check_problem(named_endpoint.get(path, **signature_headers(b"")), 401)
            check_problem(
                named_endpoint.request("POST", path, b"{}", **signature_headers(b"{}")), 401
            )
        check_problem(named_endpoint.get("/api/v1/webhook", **signature_headers(b"")), 401)

    def test_signatures_are_refused_without_a_shared_secret(self, guarded_endpoint):
        check_problem(guarded_endpoint.post(self.BODY, **signature_headers(self.BODY, "")), 401)

    @pytest.mark.parametrize(
        "headers, status",
        [({"Content_Length": "200001"}, 413), ({"Content_Type": "text/plain"}, 415)],
    )
    def test_an_unusable_body_is_not_read(self, named_endpoint, headers, status):
        with named_endpoint.client() as client:
            head = message("POST", "/api/v1/webhook", b"", **{**signature_headers(b""), **headers})
            client.send(head)
            check_problem(client.read(), status)

    def test_a_signature_is_compared_with_every_secret(self, tmp_path, monkeypatch):
        compared_secrets = []
        compare = hmac.compare_digest

        def record_and_compare(received, expected):
            compared_secrets.append(expected)
            return compare(received, expected)

        endpoint = ENDPOINT_CLASSES["threads"](tmp_path, credentials=NAMED_CREDENTIALS[2:]).start()
        try:
            endpoint.wait_for_status(200, Authorization=ON_CALL)
            monkeypatch.setattr(body_signatures.hmac, "compare_digest", record_and_compare)
            for headers in (
                signature_headers(self.BODY),
                signature_headers(self.BODY, "another-secret-01"),
            ):
                del compared_secrets[:]
                endpoint.post(self.BODY, **headers)
                assert len(compared_secrets) == 3  # the token, and both shared secrets
        finally:
            endpoint.stop()

    def test_unauthenticated_unfinished_bodies_do_not_block_others(self, start_endpoint):
        """Otherwise, such bodies could occupy every connection and exhaust the memory."""
        endpoint = start_endpoint(
            {"endpoint.body_signatures.MAX_UNVERIFIED": 2}, **GRAFANA_AND_ON_CALL
        )
        body = self.BODY
        head = message("POST", "/api/v1/webhook", body, **signature_headers(body))[: -len(body)]
        clients = [endpoint.client() for _ in range(2)]
        try:
            for client in clients:
                client.send(head)
            wait_for(lambda: endpoint.post(body, **signature_headers(body)).status == 503)
            assert endpoint.post(webhook(), Authorization=ON_CALL).status == 202
            for client in clients:
                client.send(body)
                assert client.read().status == 202
            assert endpoint.post(body, **signature_headers(body)).status == 202
        finally:
            for client in clients:
                client.socket.close()


# ready() authenticates with the token.
GRAFANA_AND_ON_CALL = {
    "credentials": [NAMED_CREDENTIALS[3]],
    "auth_tokens": ["a-token-for-everything"],
}


def test_a_credential_is_compared_with_every_known_credential(tmp_path, monkeypatch):
    compared_secrets = []
    compare = hmac.compare_digest

    def record_and_compare(received, expected):
        compared_secrets.append(expected)
        return compare(received, expected)

    credentials = {
        "auth_tokens": ["the-old-token-01", "the-new-token-01"],
        "basic_auth": "on-call:a-hidden-password",
    }
    endpoint = ENDPOINT_CLASSES["threads"](tmp_path, **credentials).start().ready()
    try:
        monkeypatch.setattr(authentication.hmac, "compare_digest", record_and_compare)
        for authorization, status in (
            ("Bearer the-old-token-01", 202),
            (basic_credentials("on-call:a-hidden-password"), 202),
            ("Bearer x", 401),
            (None, 401),
        ):
            del compared_secrets[:]
            assert endpoint.post(webhook(), Authorization=authorization).status == status
            assert compared_secrets == [
                b"the-old-token-01",
                b"the-new-token-01",
                b"on-call:a-hidden-password",
            ]
    finally:
        endpoint.stop()


def test_the_refusal_says_whether_there_was_a_credential(tmp_path):
    endpoint = ENDPOINT_CLASSES["threads"](tmp_path, auth_tokens=["the-old-token-01"]).start()
    try:
        endpoint.wait_for_status(200, Authorization="Bearer the-old-token-01")
        without = check_problem(endpoint.post(webhook()), 401)["detail"]
        wrong = check_problem(endpoint.post(webhook(), Authorization="Bearer other"), 401)["detail"]
    finally:
        endpoint.stop()
    assert without.startswith("the request has no credential; this endpoint accepts: bearer")
    assert wrong.startswith(
        "the credential in the request is none of the configured ones; this endpoint accepts: "
    )


def test_every_failure_is_counted_and_one_is_logged_without_the_credential(tmp_path, caplog):
    endpoint = ENDPOINT_CLASSES["threads"](
        tmp_path, basic_auth="on-call:a-hidden-password-1"
    ).start()
    try:
        valid_credential = basic_credentials("on-call:a-hidden-password-1")
        endpoint.wait_for_status(200, Authorization=valid_credential)
        invalid_credential = basic_credentials("on-call:a-hidden-password-2")
        for _ in range(5):
            assert endpoint.get("/metrics", Authorization=invalid_credential).status == 401
        text = endpoint.get("/metrics", Authorization=valid_credential).body.decode()
    finally:
        endpoint.stop()
    assert "poundcake_failed_authentications_total 5.0" in text
    lines = [line for line in caplog.text.splitlines() if "refused" in line]
    assert len(lines) == 1
    expected = "refused a request to /metrics: answered 401 to 127.0.0.1: the credential in the"
    assert expected in lines[0]
    assert "hidden-password" not in caplog.text and invalid_credential.split()[1] not in caplog.text
