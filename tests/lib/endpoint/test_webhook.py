"""POST /api/v1/webhook: what is accepted, what is refused, and what is stored."""

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
from tests.lib.samples import alert, webhook
from tests.waiting import wait_for

HOOK = "/api/v1/webhook"
# Fixed, because all pytest workers must collect the same tests.
SOME_ID = "0b1e6f0a-5a1c-4c3e-9d5f-2f7a1c9e4b60"
OTHER_ID = "7c2d9e58-1f4b-4a6d-8e3c-91b5d0a7f213"


class TestAccepted:
    def test_answer(self, endpoint):
        answer = endpoint.post(webhook(alert(), alert("B")))
        assert answer.status == 202
        assert answer.headers["content-type"] == "application/json"
        accepted = answer.json
        assert set(accepted) == {"status", "request_id", "alerts_received", "message"}
        assert (accepted["status"], accepted["alerts_received"]) == ("accepted", 2)
        assert str(uuid.UUID(accepted["request_id"])) == accepted["request_id"]
        assert answer.headers["x-request-id"] == accepted["request_id"]
        assert accepted["request_id"] in [entry[0] for entry in endpoint.entries()]

    def test_without_alerts(self, endpoint):
        answer = endpoint.post({"alerts": []})
        assert (answer.status, answer.json["alerts_received"]) == (202, 0)

    def test_one_malformed_alert_does_not_affect_the_others(self, endpoint):
        answer = endpoint.post(webhook(alert(), 5, {"labels": 3}))
        assert (answer.status, answer.json["alerts_received"]) == (202, 3)

    def test_the_body_is_stored_verbatim(self, endpoint):
        body = '{ "alerts" : [ ],\n "x": "{{ st2kv.system.x }} é \\ud800" }'.encode()
        request_id = endpoint.accept(body)
        assert {e[0]: e[1] for e in endpoint.entries()}[request_id] == body

    def test_the_trail_of_an_accepted_request(self, endpoint):
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
    def test_media_types(self, endpoint, media_type):
        assert endpoint.post(webhook(), Content_Type=media_type).status == 202


def test_large_bodies_are_parsed_one_at_a_time(tmp_path, monkeypatch):
    parse, parsing, most = alertmanager.parse, [], []

    def observed(body, identity):
        if identity:  # recording, which is an action
            return parse(body, identity)
        parsing.append(body)
        most.append(len(parsing))
        time.sleep(0.05)  # lets another thread enter
        try:
            return parse(body, identity)
        finally:
            parsing.pop()

    monkeypatch.setattr(alertmanager, "parse", observed)
    endpoint = InThreads(tmp_path).start().ready()
    try:
        large = webhook(alert(annotations={"x": "y" * 100_000}))
        with ThreadPoolExecutor(5) as pool:
            answers = list(pool.map(endpoint.post, [large] * 5))
        assert [answer.status for answer in answers] == [202] * 5
        assert set(most) == {1}
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
    def test_another_content_type_is_refused_with_the_right_one(self, endpoint, headers, hint):
        before = len(endpoint.entries())
        assert hint in check_problem(endpoint.post(webhook(), **headers), 415)["detail"]
        assert len(endpoint.entries()) == before

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
        before = len(endpoint.entries())
        problem = check_problem(endpoint.post(body), 400)
        assert problem["field"] == field
        assert field in problem["detail"]
        assert len(endpoint.entries()) == before

    def test_no_length(self, endpoint):
        problem = check_problem(endpoint.request("POST", HOOK), 411)
        assert "Content-Length" in problem["detail"]

    def test_too_large(self, make):
        endpoint = make(max_body_bytes=2000)
        body = json.dumps({"alerts": [], "x": "y"}).encode()
        assert endpoint.post(body + b" " * (2000 - len(body))).status == 202
        problem = check_problem(endpoint.post(body + b" " * (2001 - len(body))), 413)
        assert "2000" in problem["detail"] and "max_body_bytes" in problem["detail"]


class TestRequestIDs:
    def test_a_senders_uuid_is_used(self, endpoint):
        wanted = str(uuid.uuid4())
        for _ in range(2):
            assert endpoint.accept(webhook(), X_Request_ID=wanted) == wanted
        assert [e[0] for e in endpoint.entries()].count(wanted) == 1

    def test_with_a_different_body_the_senders_id_is_only_stored(self, endpoint):
        wanted = str(uuid.uuid4())
        endpoint.post(webhook(), X_Request_ID=wanted)
        other = endpoint.accept(webhook(alert()), X_Request_ID=wanted)
        assert other != wanted
        assert {e[0]: e[3] for e in endpoint.entries()}[other] == wanted

    @pytest.mark.parametrize(
        "given",
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
            # The ids that PoundCake derives.
            confirmation_id(SOME_ID, 0),
            replay_id(SOME_ID, "e1"),
            collision_id(SOME_ID, "0" * 64),
        ],
    )
    def test_anything_else_is_ignored(self, endpoint, given):
        answer = endpoint.post(webhook(), X_Request_ID=given)
        assert answer.status == 202
        request_id = answer.json["request_id"]
        assert request_id != given and str(uuid.UUID(request_id)) == request_id

    def test_two_are_ignored(self, endpoint):
        wanted = str(uuid.uuid4())
        twice = f"X-Request-ID: {wanted}\r\n" * 2
        data = message("POST", HOOK, b'{"alerts": []}').replace(b"Host", twice.encode() + b"Host")
        with endpoint.client() as client:
            client.send(data)
            assert client.read().json["request_id"] != wanted


class TestStoredHeaders:
    def test_only_headers_on_the_allow_list_are_stored(self, endpoint):
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
        stored = {e[0]: e[2] for e in endpoint.entries()}[answer.json["request_id"]]
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
                assert name.endswith(("-shm", "-wal"))  # SQLite removes them when it is done

    def test_a_long_header_is_truncated(self, endpoint):
        answer = endpoint.post(webhook(), User_Agent="x" * 50000)
        stored = {e[0]: e[2] for e in endpoint.entries()}[answer.json["request_id"]]
        assert len(json.loads(stored)["User-Agent"]) <= 1024
