"""POST /api/v1/webhook stores each request that it accepts, and explains each refusal."""

from __future__ import annotations

import json
import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from poundcake import alertmanager
from poundcake.request_ids import collision_id, confirmation_id, replay_id
from tests.lib.endpoint.problem_documents import check_problem
from tests.lib.endpoints import InThreads, message
from tests.lib.samples import alert, unique_body, webhook
from tests.waiting import wait_for

WEBHOOK = "/api/v1/webhook"
# Fixed, because all pytest workers must collect the same tests.
SOME_ID = "0b1e6f0a-5a1c-4c3e-9d5f-2f7a1c9e4b60"
OTHER_ID = "7c2d9e58-1f4b-4a6d-8e3c-91b5d0a7f213"


class TestAccepted:
    def test_the_response_contains_the_request_id(self, endpoint):
        response = endpoint.post(webhook(alert(), alert("B")))
        assert response.status == 202
        assert response.headers["content-type"] == "application/json"
        document = response.json
        assert set(document) == {"status", "request_id", "alerts_received", "message"}
        assert (document["status"], document["alerts_received"]) == ("accepted", 2)
        assert str(uuid.UUID(document["request_id"])) == document["request_id"]
        assert response.headers["x-request-id"] == document["request_id"]
        assert document["request_id"] in [entry.request_id for entry in endpoint.entries()]

    def test_a_webhook_without_alerts_is_accepted(self, endpoint):
        response = endpoint.post({"alerts": []})
        assert (response.status, response.json["alerts_received"]) == (202, 0)

    def test_one_malformed_alert_does_not_affect_the_others(self, endpoint):
        response = endpoint.post(webhook(alert(), 5, {"labels": 3}))
        assert (response.status, response.json["alerts_received"]) == (202, 3)

    def test_the_body_is_stored_verbatim(self, endpoint):
        body = '{ "alerts" : [ ],\n "x": "{{ st2kv.system.x }} é \\ud800" }'.encode()
        request_id = endpoint.accept(body)
        assert {entry.request_id: entry.body for entry in endpoint.entries()}[request_id] == body

    def test_an_accepted_request_is_recorded(self, endpoint):
        request_id = endpoint.accept(webhook(alert("Trail")))
        status = "/api/v1/status/" + request_id
        wait_for(lambda: endpoint.get(status).json["status"] not in ("accepted", "announced"))
        alerts = endpoint.get(status).json["alerts"]
        assert [row["alert_name"] for row in alerts] == ["Trail"]
        assert endpoint.get("/api/v1/status/" + request_id.upper()).status == 200

    @pytest.mark.parametrize(
        "media_type",
        [
            "application/json",
            "application/json; charset=utf-8",
            'Application/JSON;charset="UTF-8"',
        ],
    )
    def test_every_spelling_of_the_media_type_is_accepted(self, endpoint, media_type):
        assert endpoint.post(webhook(), Content_Type=media_type).status == 202


def test_large_bodies_are_parsed_one_at_a_time(tmp_path, monkeypatch):
    parse, parsing, concurrent_counts = alertmanager.parse, [], []

    def slow_parse(body, identity):
        if identity:  # the action that records the alerts also calls parse()
            return parse(body, identity)
        parsing.append(body)
        concurrent_counts.append(len(parsing))
        time.sleep(0.05)  # another thread can enter meanwhile
        try:
            return parse(body, identity)
        finally:
            parsing.pop()

    monkeypatch.setattr(alertmanager, "parse", slow_parse)
    endpoint = InThreads(tmp_path).start().ready()
    try:
        large_webhook = webhook(alert(annotations={"x": "y" * 100_000}))
        with ThreadPoolExecutor(5) as pool:
            responses = list(pool.map(endpoint.post, [large_webhook] * 5))
        assert [response.status for response in responses] == [202] * 5
        assert set(concurrent_counts) == {1}
    finally:
        endpoint.stop()


class TestRefused:
    @pytest.mark.parametrize(
        "headers, hint",
        [
            ({"Content_Type": None}, "Content-Type: application/json"),
            ({"Content_Type": ""}, "Content-Type: application/json"),
            ({"Content_Type": "text/plain"}, "Content-Type: application/json"),
            ({"Content_Type": "application/x-www-form-urlencoded"}, "application/json"),
            ({"Content_Type": "application/json; charset=latin-1"}, "UTF-8"),
            ({"Content_Type": "application/jsonx"}, "application/json"),
            ({"Content_Encoding": "gzip"}, "Content-Encoding"),
        ],
    )
    def test_the_refusal_of_a_content_type_suggests_an_accepted_one(self, endpoint, headers, hint):
        body = unique_body()
        assert hint in check_problem(endpoint.post(body, **headers), 415)["detail"]
        assert not endpoint.has_stored(body)

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
            (b"[" * 100000, "body"),
        ],
    )
    def test_the_refusal_of_an_unusable_body_names_the_field(self, endpoint, body, field):
        problem = check_problem(endpoint.post(body), 400)
        assert problem["field"] == field
        assert field in problem["detail"]
        assert not endpoint.has_stored(body)

    def test_a_body_without_a_length_is_refused(self, endpoint):
        problem = check_problem(endpoint.request("POST", WEBHOOK), 411)
        assert "Content-Length" in problem["detail"]

    def test_a_body_over_the_limit_is_refused(self, start_endpoint):
        endpoint = start_endpoint(max_body_bytes=2000)
        body = json.dumps({"alerts": [], "x": "y"}).encode()
        assert endpoint.post(body + b" " * (2000 - len(body))).status == 202
        problem = check_problem(endpoint.post(body + b" " * (2001 - len(body))), 413)
        assert "2000" in problem["detail"] and "max_body_bytes" in problem["detail"]


class TestRequestIDs:
    def test_a_senders_uuid_is_used(self, endpoint):
        sender_request_id = str(uuid.uuid4())
        for _ in range(2):
            assert endpoint.accept(webhook(), X_Request_ID=sender_request_id) == sender_request_id
        assert [entry.request_id for entry in endpoint.entries()].count(sender_request_id) == 1

    def test_a_reused_id_is_replaced_and_stored_as_the_client_request_id(self, endpoint):
        sender_request_id = str(uuid.uuid4())
        endpoint.post(webhook(), X_Request_ID=sender_request_id)
        other_id = endpoint.accept(webhook(alert()), X_Request_ID=sender_request_id)
        assert other_id != sender_request_id
        assert {entry.request_id: entry.client_request_id for entry in endpoint.entries()}[
            other_id
        ] == sender_request_id

    @pytest.mark.parametrize(
        "header",
        [
            "",
            "x",
            "{{ st2kv.system.x }}",
            SOME_ID.upper(),
            "{" + SOME_ID + "}",
            "urn:uuid:" + SOME_ID,
            SOME_ID.replace("-", ""),
            SOME_ID + "," + OTHER_ID,
            "x" * 60000,
            "é" * 36,
            # Ids that PoundCake itself derives.
            confirmation_id(SOME_ID, 0),
            replay_id(SOME_ID, "e1"),
            collision_id(SOME_ID, "0" * 64),
        ],
    )
    def test_any_other_id_is_ignored(self, endpoint, header):
        response = endpoint.post(webhook(), X_Request_ID=header)
        assert response.status == 202
        request_id = response.json["request_id"]
        assert request_id != header and str(uuid.UUID(request_id)) == request_id

    def test_duplicate_ids_are_ignored(self, endpoint):
        sender_request_id = str(uuid.uuid4())
        headers = f"X-Request-ID: {sender_request_id}\r\n" * 2
        data = message("POST", WEBHOOK, b'{"alerts": []}').replace(
            b"Host", headers.encode() + b"Host"
        )
        with endpoint.client() as client:
            client.send(data)
            assert client.read().json["request_id"] != sender_request_id


class TestStoredHeaders:
    def test_only_headers_on_the_allow_list_are_stored(self, endpoint):
        secret = "secret-" + str(uuid.uuid4())
        response = endpoint.post(
            webhook(),
            Authorization="Bearer " + secret,
            Cookie=secret,
            Proxy_Authorization=secret,
            X_Api_Key=secret,
            User_Agent="Alertmanager/0.25 {{x}}",
            Traceparent="00-abc",
            X_Forwarded_For="192.0.2.1",
        )
        stored = {entry.request_id: entry.headers for entry in endpoint.entries()}[
            response.json["request_id"]
        ]
        assert secret not in stored
        headers = json.loads(stored)
        assert set(headers) == {
            "User-Agent",
            "Content-Type",
            "Content-Length",
            "X-Forwarded-For",
            "Traceparent",
        }
        assert headers["User-Agent"] == "Alertmanager/0.25 {{x}}"
        folder = endpoint.config["state_dir"]
        for name in os.listdir(folder):
            try:
                with open(os.path.join(folder, name), "rb") as file:
                    assert secret.encode() not in file.read()
            except FileNotFoundError:
                assert name.endswith(("-shm", "-wal"))  # SQLite removed it meanwhile

    def test_a_long_header_is_truncated(self, endpoint):
        response = endpoint.post(webhook(), User_Agent="x" * 50000)
        stored = {entry.request_id: entry.headers for entry in endpoint.entries()}[
            response.json["request_id"]
        ]
        assert len(json.loads(stored)["User-Agent"]) <= 1024
