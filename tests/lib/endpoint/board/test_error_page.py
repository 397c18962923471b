"""A page that cannot be shown says why, on a page."""

from __future__ import annotations

import html
import os
import re
import uuid
from http import HTTPStatus

import pytest

from poundcake.endpoint.board.error_page import render_error
from poundcake.endpoint.problems import ProblemError
from tests.lib.samples import webhook

REQUEST_ID = str(uuid.uuid4())


def check_error_page(response, status):
    """Assert that a response is an error page, and return its text."""
    assert response.status == status
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "script-src 'self'" in response.headers["content-security-policy"]
    request_id = response.headers["x-request-id"]
    assert str(uuid.UUID(request_id)) == request_id
    text = response.body.decode()
    assert text.startswith("<!doctype html>") and request_id in text
    return text_of(text)


def text_of(document):
    """Return the text of an HTML document."""
    document = re.sub("</(?:td|th|dt|dd|li|h[1-6])>", " ", document)
    return html.unescape(re.sub("<[^>]*>", "", document))


class TestErrorPages:
    @pytest.mark.parametrize(
        "path", ["/board/", "/board/no-such-page", "/board/static/x", "/board/static/../board.css"]
    )
    def test_an_unknown_page_is_not_found(self, endpoint, path):
        text = check_error_page(endpoint.get(path), 404)
        assert "Not found" in text and "/api/" not in text

    def test_an_unknown_parameter_is_named(self, endpoint):
        text = check_error_page(endpoint.get("/board?nonsense=1"), 400)
        assert "nonsense: unknown parameter" in text and "parameter nonsense" in text

    def test_hostile_text_stays_text(self, endpoint):
        response = endpoint.get("/board?%3Cscript%3Ealert(1)%3C/script%3E=1")
        check_error_page(response, 400)
        assert b"<script>alert" not in response.body
        assert b"&lt;script&gt;alert(1)" in response.body

    def test_a_request_that_is_not_allowed_says_why(self, endpoint):
        text = check_error_page(endpoint.get("/board", Host="evil.example"), 403)
        assert "this endpoint has no credentials" in text and "private window" in text

    def test_the_page_of_a_browser_that_has_not_signed_in_loads_nothing(self, guarded_endpoint):
        """The browser could not load it without a credential, and each try counts as failed."""
        response = guarded_endpoint.get("/board")
        text = check_error_page(response, 401)
        assert "Sign in to see this page" in text
        assert b"<script" not in response.body and b"<link" not in response.body

    def test_head_has_the_headers_of_get(self, endpoint):
        responses = [endpoint.request(method, "/board/x") for method in ("GET", "HEAD")]
        assert [response.status for response in responses] == [404, 404]
        assert len({response.headers["content-type"] for response in responses}) == 1
        assert responses[1].body == b""

    def test_webhooks_are_accepted_while_the_database_cannot_be_read(self, start_endpoint):
        endpoint = start_endpoint()
        path = os.path.join(endpoint.config["state_dir"], "tracking.sqlite")
        with open(path, "r+b") as file:
            file.write(b"no database" * 1000)
        response = endpoint.get("/board/episodes")
        text = check_error_page(response, 503)
        assert "This page cannot be shown now" in text
        assert "webhooks are still accepted" in text
        assert response.headers["retry-after"] == "5"
        endpoint.accept(webhook())

    def test_an_unexpected_error_has_no_details(self, start_endpoint):
        endpoint = start_endpoint({"endpoint.board.board_process._FUNCTIONS": None})
        text = check_error_page(endpoint.get("/board"), 503)
        assert "the endpoint failed unexpectedly" in text and "NoneType" not in text


class TestText:
    def test_commands_are_marked(self):
        response = render_error(
            ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, "run `st2 x`, then <b>"), REQUEST_ID
        )
        assert b"run <code>st2 x</code>, then &lt;b&gt;" in response.body
