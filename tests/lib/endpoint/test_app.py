"""The application serves its routes, and all responses have certain properties in common."""

from __future__ import annotations

import os
import sqlite3
import threading
import time

import pytest

from poundcake.endpoint import webhook as webhook_module
from tests.lib.endpoint.problem_documents import check_problem
from tests.lib.endpoints import ENDPOINT_CLASSES, message
from tests.lib.samples import webhook
from tests.waiting import wait_for

# Fixed, because all pytest workers must collect the same tests.
UNKNOWN_ID = "0b1e6f0a-5a1c-4c3e-9d5f-2f7a1c9e4b60"
ROUTES = {
    "/api/v1/webhook": "POST",
    "/api/v1/status/" + UNKNOWN_ID: "GET",
    "/api/v1/executions/recent": "GET",
    "/api/v1/alerts/active": "GET",
    "/api/v1/st2/executions": "GET",
    "/api/v1/health": "GET",
    "/api/v1/health/live": "GET",
    "/api/v1/health/ready": "GET",
    "/api/v1/openapi.json": "GET",
    "/metrics": "GET",
}


class TestRoutes:
    @pytest.mark.parametrize("path", sorted(ROUTES))
    def test_a_wrong_method_is_answered_with_the_allowed_methods(self, endpoint, path):
        allowed_method = ROUTES[path]
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "BREW", "get"):
            if method == allowed_method or (method, allowed_method) == ("HEAD", "GET"):
                continue
            response = endpoint.request(method, path, b"{}" if method == "POST" else None)
            assert response.status == 405
            assert allowed_method in response.headers["allow"].split(", ")
            if method != "HEAD":
                assert allowed_method in check_problem(response, 405)["detail"]

    @pytest.mark.parametrize(
        "path",
        [
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
            "//127.0.0.1/api/v1/webhook",
            "http://127.0.0.1/x",
        ],
    )
    def test_an_unknown_path_is_answered_with_the_existing_paths(self, endpoint, path):
        for method, body in (("GET", None), ("POST", b"{}")):
            problem = check_problem(endpoint.request(method, path, body), 404)
            assert "POST /api/v1/webhook" in problem["detail"]

    @pytest.mark.parametrize("path", ["/", "/board", "/metrics"])
    def test_a_webhook_on_the_path_of_another_route_is_answered_with_its_path(self, endpoint, path):
        problem = check_problem(endpoint.request("POST", path, b"{}"), 405)
        assert "/api/v1/webhook" in problem["detail"]

    @pytest.mark.parametrize(
        "path", [path for path, method in sorted(ROUTES.items()) if method == "GET"]
    )
    def test_head_has_the_headers_of_get(self, endpoint, path):
        get_response, head_response = endpoint.get(path), endpoint.request("HEAD", path)
        assert head_response.status == get_response.status
        assert head_response.headers["content-type"] == get_response.headers["content-type"]
        if "health" not in path and "metrics" not in path:
            assert head_response.headers["content-length"] == get_response.headers["content-length"]

    def test_options_for_the_server_lists_all_methods(self, endpoint):
        response = endpoint.request("OPTIONS", "*")
        assert (response.status, response.headers["allow"]) == (200, "GET, HEAD, POST")

    def test_the_request_target_may_be_a_url(self, endpoint):
        response = endpoint.request("GET", "http://127.0.0.1/api/v1/alerts/active?limit=1")
        assert response.status == 200
        assert len(response.json["active_alerts"]) <= 1

    def test_browsers_must_not_sniff_or_cache_responses(self, endpoint):
        for path in [*ROUTES, "/api/v1/alerts/active?x=1", "no path"]:
            response = endpoint.get(path)
            assert response.headers["x-content-type-options"] == "nosniff", path
            assert response.headers["cache-control"] == "no-store", path

    def test_live_reports_that_the_endpoint_is_running(self, endpoint):
        assert endpoint.get("/api/v1/health/live").json == {"status": "alive"}

    def test_health_reports_every_component(self, endpoint):
        response = endpoint.get("/api/v1/health")
        assert response.status == 200
        health = response.json
        assert health["status"] in ("ok", "degraded")
        assert health["address"] == f"http://127.0.0.1:{endpoint.port}"
        assert (health["authentication"], health["database"], health["dry_run"]) == (
            "none",
            "SQLite",
            True,
        )
        assert set(health["components"]) == {"journal", "broker", "database", "stackstorm"}
        for component in health["components"].values():
            assert {"state", "since", "detail", "waiting"} <= set(component)


class TestErrors:
    """The endpoint responds with 503 if a retry may succeed."""

    def test_the_response_to_an_internal_error_has_no_details(self, tmp_path, monkeypatch, caplog):
        def fail(raw, identity):
            raise RuntimeError("internal detail")

        endpoint = ENDPOINT_CLASSES["threads"](tmp_path).start().ready()
        try:
            monkeypatch.setattr(webhook_module.alertmanager, "parse", fail)
            response = endpoint.post(webhook())
            monkeypatch.undo()
            assert endpoint.post(webhook()).status == 202
        finally:
            endpoint.stop()
        problem = check_problem(response, 503)
        assert (
            "internal detail" not in response.body.decode()
            and "RuntimeError" not in response.body.decode()
        )
        # The log contains the details.
        assert problem["request_id"] in caplog.text and "internal detail" in caplog.text

    def test_an_unreadable_file_is_an_internal_error(self, tmp_path, monkeypatch):
        """The error is an OSError, like the error that a disconnected client causes."""

        def fail(self):
            raise PermissionError(13, "Permission denied", "/some/file")

        endpoint = ENDPOINT_CLASSES["threads"](tmp_path).start().ready()
        try:
            monkeypatch.setattr(type(endpoint.endpoint), "health", fail)
            check_problem(endpoint.get("/api/v1/health"), 503)
        finally:
            monkeypatch.undo()
            endpoint.stop()

    def test_webhooks_are_refused_while_the_backlog_is_full(self, start_endpoint):
        endpoint = start_endpoint(backlog_limit=2)
        endpoint.set_broker(up=False)
        statuses = [endpoint.post(webhook()).status for _ in range(4)]
        assert statuses[:2] == [202, 202] and statuses[2:] == [503, 503]
        problem = check_problem(endpoint.post(webhook()), 503)
        assert "backlog_limit" in problem["detail"]
        health = endpoint.get("/api/v1/health")
        assert health.status == 503
        assert health.json["components"]["journal"]["state"] == "full"
        assert endpoint.get("/api/v1/health/live").status == 200
        endpoint.set_broker(up=True)
        wait_for(lambda: endpoint.post(webhook()).status == 202)
        assert len({entry.request_id for entry in endpoint.entries()}) == 3

    def test_webhooks_are_refused_while_the_journal_is_locked(self, start_endpoint):
        endpoint = start_endpoint()
        path = os.path.join(endpoint.config["state_dir"], "journal.sqlite")
        with sqlite3.connect(path, isolation_level=None) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            with endpoint.client(timeout=30) as client:  # the announcer also waits for the lock
                client.send(message("POST", "/api/v1/webhook", b'{"alerts": []}'))
                problem = check_problem(client.read(), 503)
            assert "journal" in problem["detail"]
            connection.execute("ROLLBACK")
        assert endpoint.post(webhook()).status == 202
        assert len(endpoint.entries()) == 1

    def test_a_locked_tracking_database_does_not_block_webhooks(self, start_endpoint):
        endpoint = start_endpoint()
        assert endpoint.post(webhook()).status == 202
        # The fake broker records in the endpoint's process, so recording must finish first.
        wait_for(lambda: "poundcake.webhook" in [trigger for trigger, _, _ in endpoint.published()])
        endpoint.set_broker(up=False)
        path = os.path.join(endpoint.config["state_dir"], "tracking.sqlite")
        with sqlite3.connect(path, isolation_level=None) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            threads = [
                threading.Thread(target=endpoint.get, args=("/api/v1/executions/recent",))
                for _ in range(5)
            ]
            for thread in threads:
                thread.start()
            longest_wait = 0
            for _ in range(10):
                started_at = time.monotonic()
                assert endpoint.post(webhook()).status == 202
                longest_wait = max(longest_wait, time.monotonic() - started_at)
            connection.execute("ROLLBACK")
        for thread in threads:
            thread.join(20)
        assert longest_wait < 4  # a view times out after 5 seconds
