"""The routes of the trail check their parameters and limit the size of their pages."""

from __future__ import annotations

import pytest

from poundcake.config import Config
from poundcake.endpoint.http_messages import HTTPRequest
from poundcake.endpoint.trail_routes import MAX_PAGE_BYTES, TrailRoutes
from tests.lib.endpoint.problem_documents import check_problem

LISTS = ("/api/v1/executions/recent", "/api/v1/alerts/active", "/api/v1/st2/executions")
UNKNOWN_ID = "0b1e6f0a-5a1c-4c3e-9d5f-2f7a1c9e4b60"


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/status/" + UNKNOWN_ID,
        "/api/v1/status/x",
        "/api/v1/status/%27%3B%20DROP",
        "/api/v1/status/%00",
        "/api/v1/status/" + "x" * 50000,
        "/api/v1/status/a/b",
    ],
)
def test_the_status_of_an_unknown_id_is_404(endpoint, path):
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
def test_the_response_to_an_invalid_query_names_the_parameter(endpoint, query, field):
    for path in LISTS:
        assert check_problem(endpoint.get(path + "?" + query), 400)["field"] == field


class TestWhy:
    @pytest.mark.parametrize(
        "query", ["", "limit=5", "severity=critical&status=firing", "since=1h", "labels=&episode="]
    )
    def test_a_query_without_an_identifying_filter_is_refused(self, endpoint, query):
        problem = check_problem(endpoint.get("/api/v1/why?" + query), 400)
        assert problem["field"] == "alert_name"
        for name in ("alert_name", "instance", "fingerprint", "episode", "request_id", "labels"):
            assert name in problem["detail"]

    @pytest.mark.parametrize(
        "query",
        [
            "alert_name=A",
            "instance=web-1",
            "fingerprint=3f9c",
            "episode=3f9c",
            "request_id=8f1b2543",
            "labels=team%3Dinfra",
            "annotations=summary%3D~%22.*%22",
        ],
    )
    def test_one_identifying_filter_suffices(self, endpoint, query):
        response = endpoint.get("/api/v1/why?" + query)
        assert response.status == 200
        assert (response.json["episodes"], response.json["count"]) == ([], 0)


@pytest.mark.parametrize(
    "path", [*LISTS, "/api/v1/why", "/api/v1/stats"], ids=lambda path: path.rpartition("/")[2]
)
@pytest.mark.parametrize("field", ["labels", "annotations"])
@pytest.mark.parametrize(
    "matchers, problem",
    [
        ("team", "team is not a matcher"),
        ("team=%22infra", "its value has no closing quote"),
        ("team=~%22(%22", "the regular expression ( has an unclosed ("),
        ("{team=infra", "begins or ends with a brace"),
        (",", "an empty text is not a matcher"),
        ("a=" + "x" * 2000, "must have at most 1000 characters"),
    ],
)
def test_the_response_to_an_invalid_matcher_shows_a_valid_one(
    endpoint, path, field, matchers, problem
):
    response = check_problem(endpoint.get(f"{path}?{field}={matchers}"), 400)
    assert response["field"] == field
    assert response["detail"].startswith(field + ": ") and problem in response["detail"]
    assert f"for example: {field}=" in response["detail"] or "at most" in problem


@pytest.mark.parametrize(
    "query, field", [("limit=1", "limit"), ("before=x", "before"), ("since=x", "since")]
)
def test_stats_refuses_what_it_does_not_support(endpoint, query, field):
    assert check_problem(endpoint.get("/api/v1/stats?" + query), 400)["field"] == field


@pytest.mark.parametrize("query", ["limit=1", "limit=1000&offset=0", "offset=1000"])
def test_the_smallest_and_largest_pages_are_accepted(endpoint, query):
    for path in LISTS:
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
def test_a_hostile_filter_matches_nothing(endpoint, query):
    response = endpoint.get("/api/v1/alerts/active?" + query)
    assert response.status == 200
    assert (response.json["active_alerts"], response.json["count"]) == ([], 0)


def test_too_many_parameters_are_refused(endpoint):
    check_problem(endpoint.get("/api/v1/alerts/active?" + "limit=1&" * 50), 400)


class FakeTrail:
    """A trail whose rows all have the same size."""

    def __init__(self, row_bytes):
        self.row_bytes = row_bytes
        self.requested_limits = []

    def read(self, view, filters, limit, offset, **options):
        self.requested_limits.append(limit)
        return {"rows": ["x" * self.row_bytes] * limit, "next": f"after {limit}"}


def read_page(trail, limit):
    routes = {route.template: route for route in TrailRoutes(Config(), trail).routes()}
    request = HTTPRequest("GET", LISTS[0], f"limit={limit}", "", {}, "192.0.2.1", False, None)
    return routes[LISTS[0]].handler(request, "")


class TestPageSize:
    """A page of four requests with 10,000 alerts used to take 8.8 MB."""

    def test_a_page_that_is_too_large_is_queried_again_with_fewer_rows(self):
        trail = FakeTrail(MAX_PAGE_BYTES // 10)
        response = read_page(trail, 1000)
        assert len(response.body) <= MAX_PAGE_BYTES
        assert trail.requested_limits[0] == 1000 and 1 < trail.requested_limits[-1] <= 10
        assert f"after {trail.requested_limits[-1]}".encode() in response.body

    def test_a_single_row_of_any_size_is_shown(self):
        trail = FakeTrail(2 * MAX_PAGE_BYTES)
        assert len(read_page(trail, 4).body) > MAX_PAGE_BYTES
        assert trail.requested_limits[-1] == 1

    def test_a_page_within_the_limit_is_queried_once(self):
        trail = FakeTrail(10)
        read_page(trail, 1000)
        assert trail.requested_limits == [1000]
