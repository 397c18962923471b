"""Refused webhooks are counted, logged and shown, because Alertmanager does not retry them."""

from __future__ import annotations

import logging
from datetime import timedelta
from http import HTTPStatus

import pytest

from poundcake.endpoint.metrics import Metrics
from poundcake.endpoint.refused_webhooks import RefusalReason, RefusedWebhooks
from tests.lib.endpoint.wire import exchange
from tests.lib.endpoints import ENDPOINT_CLASSES, RUNTIMES, message
from tests.lib.samples import alert, webhook
from tests.waiting import wait_for

WEBHOOK = "/api/v1/webhook"
TOKEN = {"Authorization": "Bearer the-token-in-use"}
UNCACHED_HEALTH = {
    "endpoint.metrics._HEALTH_REUSE_SECONDS": 0,
    "endpoint.metrics._HEALTH_REUSE_FACTOR": 0,
}


@pytest.fixture(scope="module", params=RUNTIMES)
def endpoint(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("refusals-" + request.param)
    config = {"auth_tokens": ["the-token-in-use"], "max_body_bytes": 2000}
    new_endpoint = (
        ENDPOINT_CLASSES[request.param](folder, UNCACHED_HEALTH, **config).start().ready()
    )
    yield new_endpoint
    new_endpoint.stop()


def count_refused(endpoint, reason):
    text = endpoint.get("/metrics", **TOKEN).body.decode()
    name = f'poundcake_refused_webhooks_total{{reason="{reason}"}} '
    (line,) = [line for line in text.splitlines() if line.startswith(name)]
    return float(line.rpartition(" ")[2])


def get_refused_in_health(endpoint):
    return endpoint.get("/api/v1/health", **TOKEN).json["refused"]


@pytest.mark.parametrize(
    "reason, status, data",
    [
        ("unauthenticated", 401, message("POST", WEBHOOK, b"{}")),
        ("invalid_payload", 400, message("POST", WEBHOOK, b"{", **TOKEN)),
        ("too_large", 413, message("POST", WEBHOOK, b"x" * 2001, **TOKEN)),
        ("media_type", 415, message("POST", WEBHOOK, b"{}", Content_Type=None, **TOKEN)),
        ("no_length", 411, message("POST", WEBHOOK, **TOKEN)),
        ("no_length", 411, message("POST", WEBHOOK, Transfer_Encoding="chunked", **TOKEN)),
        ("wrong_path", 404, message("POST", "/webhook", b"{}", **TOKEN)),
        ("wrong_path", 404, message("POST", WEBHOOK + "/", b"{}", **TOKEN)),
        ("wrong_path", 405, message("POST", "/api/v1/health", b"{}", **TOKEN)),
        ("wrong_method", 405, message("GET", WEBHOOK, **TOKEN)),
        ("invalid_http", 400, message("POST", WEBHOOK, b"{}", Content_Length="x", **TOKEN)),
        ("invalid_http", 431, message("POST", WEBHOOK, b"{}", X="x" * 70000, **TOKEN)),
    ],
)
def test_each_refusal_is_counted_with_its_reason(endpoint, reason, status, data):
    total_before = count_refused(endpoint, reason)
    count_before = get_refused_in_health(endpoint)["count"]
    assert exchange(endpoint, data).startswith(b"HTTP/1.1 %d " % status)
    assert count_refused(endpoint, reason) == total_before + 1
    refusals = get_refused_in_health(endpoint)
    assert refusals["count"] == count_before + 1
    last_refusal = refusals["last"]
    assert (last_refusal["reason"], last_refusal["status"], last_refusal["sender"]) == (
        reason,
        status,
        "127.0.0.1",
    )
    assert last_refusal["detail"] and last_refusal["refused_at"].endswith("Z")


def test_the_health_has_only_the_reason_for_a_wrong_path(endpoint):
    response = endpoint.request("POST", "/webhook", b"{}", **TOKEN)
    assert "GET /api/v1/health" in response.json["detail"], "the sender gets all paths"
    detail = get_refused_in_health(endpoint)["last"]["detail"]
    assert detail == "unknown path; post webhooks to /api/v1/webhook"


def test_a_refusal_names_when_its_sender_was_accepted_again(start_endpoint):
    endpoint = start_endpoint(auth_tokens=["the-token-in-use"])
    assert endpoint.post(webhook(), Authorization="Bearer another-token-in-use").status == 401
    assert get_refused_in_health(endpoint)["last"]["accepted_at"] is None
    assert endpoint.post(webhook(), **TOKEN).status == 202
    last_refusal = get_refused_in_health(endpoint)["last"]
    assert last_refusal["status"] == 401
    assert last_refusal["accepted_at"] > last_refusal["refused_at"]
    assert endpoint.post(webhook(), **TOKEN).status == 202
    assert get_refused_in_health(endpoint)["last"] == last_refusal, "the first one counts"


def test_only_the_same_sender_ends_a_refusal():
    refused = RefusedWebhooks(Metrics(dict, tuple), logging.getLogger("test"))
    refused.add(RefusalReason.UNAUTHENTICATED, HTTPStatus.UNAUTHORIZED, "x", "192.0.2.7")
    refused.note_accepted("192.0.2.8")
    assert refused.report()["last"]["accepted_at"] is None
    refused.note_accepted("192.0.2.7")
    assert refused.report()["last"]["accepted_at"]


def test_a_sender_whose_webhooks_are_refused_and_accepted_by_turns_is_still_refused():
    refused = RefusedWebhooks(Metrics(dict, tuple), logging.getLogger("test"))
    too_large = (RefusalReason.TOO_LARGE, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "x")
    for _ in range(3):
        refused.add(*too_large, "192.0.2.7")
        refused.note_accepted("192.0.2.7")
    assert refused.report()["last"]["accepted_at"] is None
    refused.add(*too_large, "192.0.2.8")
    refused.note_accepted("192.0.2.8")
    assert refused.report()["last"]["accepted_at"], "another sender is judged by itself"


def test_a_refusal_of_long_ago_does_not_make_the_next_one_recurring(monkeypatch):
    refused = RefusedWebhooks(Metrics(dict, tuple), logging.getLogger("test"))
    monkeypatch.setattr("poundcake.endpoint.refused_webhooks._RECURRENCE", timedelta(0))
    for _ in range(2):
        refused.add(RefusalReason.UNAUTHENTICATED, HTTPStatus.UNAUTHORIZED, "x", "192.0.2.7")
        refused.note_accepted("192.0.2.7")
    assert refused.report()["last"]["accepted_at"]


def test_a_webhook_from_another_site_is_refused_as_cross_site(start_endpoint):
    endpoint = start_endpoint()
    assert endpoint.post(webhook(), Origin="http://evil.example").status == 403
    assert get_refused_in_health(endpoint)["last"]["reason"] == "cross_site"


def test_a_wrong_path_is_the_reason_even_if_the_scope_forbids_the_request(start_endpoint):
    post_credential = {"name": "alertmanager", "scope": "post", "token": "the-token-to-post-with"}
    endpoint = start_endpoint(auth_tokens=["the-token-in-use"], credentials=[post_credential])
    response = endpoint.request(
        "POST", "/alerts", b"{}", Authorization="Bearer the-token-to-post-with"
    )
    assert response.status == 403
    last_refusal = get_refused_in_health(endpoint)["last"]
    assert (last_refusal["reason"], last_refusal["status"]) == ("wrong_path", 403)


def test_a_storm_is_accepted_by_default(start_endpoint):
    """A notification of 2,500 alerts used to be refused for its size, and was never sent again."""
    storm = webhook(
        *[
            alert(f"HostDown{n}", fingerprint=f"f{n}", annotations={"summary": "x" * 200})
            for n in range(2500)
        ]
    )
    endpoint = start_endpoint()
    response = endpoint.post(storm)
    assert (response.status, response.json["alerts_received"]) == (202, 2500)
    assert get_refused_in_health(endpoint) == {"count": 0, "last": None}


def test_other_refusals_are_not_counted(start_endpoint):
    endpoint = start_endpoint()
    assert endpoint.get("/api/v1/no-such-path").status == 404
    assert endpoint.request("OPTIONS", "/webhook").status == 404
    assert endpoint.get("/api/v1/alerts/active?x=1").status == 400
    assert endpoint.post(webhook()).status == 202
    assert get_refused_in_health(endpoint) == {"count": 0, "last": None}


def test_a_full_backlog_is_not_a_refusal(start_endpoint):
    """The response is a 503, so Alertmanager retries the webhook."""
    endpoint = start_endpoint(backlog_limit=1)
    endpoint.set_broker(up=False)
    wait_for(lambda: endpoint.post(webhook()).status == 503)
    assert get_refused_in_health(endpoint)["count"] == 0


def test_the_log_shows_the_client_and_the_reason_once_a_minute(tmp_path, caplog):
    endpoint = ENDPOINT_CLASSES["threads"](tmp_path, max_body_bytes=2000).start().ready()
    try:
        for _ in range(5):
            assert endpoint.post(b"x" * 2001).status == 413
        assert endpoint.post(b"{}", Content_Type="text/plain").status == 415
    finally:
        endpoint.stop()
    lines = [line for line in caplog.text.splitlines() if "refused a webhook" in line]
    assert len(lines) == 2
    assert "127.0.0.1" in lines[0] and "max_body_bytes is 2000" in lines[0]
    assert "media_type" in lines[1]


@pytest.mark.parametrize("authorization", [None, "Bearer the-token-to-read"])
def test_a_webhook_with_a_wrong_credential_is_logged_once(tmp_path, caplog, authorization):
    credentials = [
        {"name": "alertmanager", "scope": "post", "token": "the-token-to-post"},
        {"name": "prometheus", "scope": "read", "token": "the-token-to-read"},
    ]
    endpoint = ENDPOINT_CLASSES["threads"](tmp_path, credentials=credentials).start()
    try:
        endpoint.wait_for_status(200, Authorization="Bearer the-token-to-read")
        caplog.clear()
        response = endpoint.post(webhook(), Authorization=authorization)
        assert response.status == (403 if authorization else 401)
    finally:
        endpoint.stop()
    lines = [line for line in caplog.text.splitlines() if "127.0.0.1" in line]
    assert len(lines) == 1 and f"answered {response.status} to 127.0.0.1" in lines[0]
