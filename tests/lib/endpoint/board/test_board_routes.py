"""What all pages of the board have in common: headers, versions, and the files that they load."""

from __future__ import annotations

import re

import pytest

from poundcake.endpoint import query_parameters
from tests.lib.endpoints import ENDPOINT_CLASSES
from tests.lib.samples import webhook

PAGES = ["/board", "/board/health"]


class TestPages:
    def test_the_root_leads_to_the_board(self, endpoint):
        response = endpoint.get("/")
        assert (response.status, response.headers["location"]) == (302, "/board")

    @pytest.mark.parametrize("path", PAGES)
    def test_a_page_loads_only_its_own_files_and_sends_nothing_elsewhere(self, endpoint, path):
        response = endpoint.get(path)
        assert response.status == 200
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'self'; script-src 'self';")
        assert "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["x-content-type-options"] == "nosniff"
        text = response.body.decode()
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script[^>]*>[^<]", text)
        sources = re.findall(r'(?:src|href)="([^"]*)"', text)
        assert [source for source in sources if source.startswith("/board/static/")]
        assert not [source for source in sources if not re.match(r"/board|#", source)]

    @pytest.mark.parametrize("path", PAGES)
    def test_a_page_that_the_browser_has_is_not_sent_again(self, endpoint, path):
        page = endpoint.get(path)
        for tags in (page.headers["etag"], f'"x", {page.headers["etag"]}'):
            response = endpoint.get(path, If_None_Match=tags)
            assert (response.status, response.body) == (304, b"")
            assert "content-length" not in response.headers
            assert response.headers["etag"] == page.headers["etag"]
        assert endpoint.get(path, If_None_Match='W/"x"').status == 200
        assert page.headers["cache-control"] == "private, no-cache"
        assert page.headers["etag"].replace('"', "&#34;") in page.body.decode()

    def test_a_connection_goes_on_after_a_page_that_is_not_sent_again(self, endpoint):
        tag = endpoint.get("/board").headers["etag"]
        with endpoint.client() as client:
            request = b"GET /board HTTP/1.1\r\nHost: 127.0.0.1\r\nIf-None-Match: %s\r\n\r\n"
            client.send(request % tag.encode() * 2)
            assert [client.read().status for _ in range(2)] == [304, 304]

    def test_pages_are_counted_by_route(self, endpoint):
        endpoint.get("/board")
        text = endpoint.get("/metrics").body.decode()
        assert 'http_requests_total{code="200",method="GET",route="/board"}' in text

    def test_a_long_query_is_refused(self, endpoint):
        parameters = "&".join(f"a{number}=" for number in range(query_parameters._MAX_PARAMETERS))
        assert endpoint.get(f"/board?{parameters}&x=").status == 400

    def test_posting_to_a_page_is_refused_as_a_webhook_with_a_wrong_url(self, tmp_path):
        endpoint = ENDPOINT_CLASSES["threads"](tmp_path).start().ready()
        try:
            assert endpoint.request("POST", "/board", b"{}").status == 405
            assert endpoint.get("/api/v1/health").json["refused"]["last"]["reason"] == "wrong_path"
            endpoint.accept(webhook())
        finally:
            endpoint.stop()


class TestFiles:
    @pytest.mark.parametrize(
        "name, media_type",
        [
            ("board.css", "text/css; charset=utf-8"),
            ("board.js", "text/javascript; charset=utf-8"),
            ("icon.svg", "image/svg+xml"),
        ],
    )
    def test_a_file_is_kept_until_it_changes(self, endpoint, name, media_type):
        (url,) = re.findall(
            rf'"(/board/static/{name}\?v=\w+)"', endpoint.get("/board").body.decode()
        )
        response = endpoint.get(url)
        assert response.headers["content-type"] == media_type
        assert response.headers["cache-control"] == "private, max-age=31536000"
        assert response.body

    @pytest.mark.parametrize("name", ["", "..", "../templates/base.html", "%2e%2e/x", "Board.css"])
    def test_only_these_files_are_served(self, endpoint, name):
        assert endpoint.get(f"/board/static/{name}").status == 404
