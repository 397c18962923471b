"""The view of recent requests lists the newest first, with some alerts of each."""

from __future__ import annotations

import json

from poundcake.trail import queries
from poundcake.trail.queries import requests
from poundcake.trail.search import Filters
from tests.lib.samples import alert, later
from tests.lib.trails import WORKFLOW, episode, record, record_execution, view

REQUEST_KEYS = "request_id received_at status alert_count st2_execution_count alerts".split()
ALERT_KEYS = "id alert_name severity instance labels status outcome reason st2_workflow".split()
EXECUTION_KEYS = (
    "st2_execution_id result action target action_execution_id change_reason message"
).split()


def list_recent_requests(engine, **query):
    return view(engine, queries.executions_recent, **query)["executions"]


def test_the_view_has_the_documented_fields(engine, sample_request_id):
    page = view(engine, queries.executions_recent)
    assert list(page) == ["executions", "total"]
    assert page["total"] == 2
    for request in page["executions"]:
        assert list(request) == REQUEST_KEYS
        for row in request["alerts"]:
            keys = ALERT_KEYS + (EXECUTION_KEYS if row["st2_workflow"] else [])
            assert [name for name in row if name != "ended_by"] == keys
    newest = page["executions"][0]
    assert newest["request_id"] == sample_request_id
    assert (newest["alert_count"], newest["st2_execution_count"]) == (4, 1)
    assert newest["alerts"][0]["st2_workflow"] == WORKFLOW


def test_pages_are_selected_by_offset(engine):
    ids = [record(engine, alert(), received_at=later(n)) for n in range(5)]
    request_ids = []
    for offset in range(0, 6, 2):
        page = view(engine, queries.executions_recent, limit=2, offset=offset)
        assert page["total"] == 5
        request_ids += [request["request_id"] for request in page["executions"]]
    assert request_ids == ids[::-1]


def test_requests_received_at_the_same_time_are_sorted_by_when_they_were_recorded(engine):
    ids = [record(engine) for _ in range(5)]
    assert [request["request_id"] for request in list_recent_requests(engine)] == ids[::-1]


class TestLargeRequests:
    """A request may have 10,000 alerts, so a page shows some of them and counts the others."""

    def make_alerts(self, count):
        return [alert(f"Alert{n}", fingerprint=f"f{n}") for n in range(count)]

    def list_names(self, request):
        return [alert["alert_name"] for alert in request["alerts"]]

    def test_the_first_alerts_are_shown_and_the_others_are_counted(self, engine):
        record(engine, *self.make_alerts(50))
        (request_view,) = list_recent_requests(engine)
        assert self.list_names(request_view) == [f"Alert{n}" for n in range(20)]
        assert (request_view["alert_count"], request_view["alerts_left_out"]) == (50, 30)

    def test_the_matching_alert_is_shown(self, engine):
        record(engine, *self.make_alerts(50))
        (request_view,) = list_recent_requests(engine, filters=Filters(alert_name="Alert33"))
        assert self.list_names(request_view) == [f"Alert{n}" for n in range(20)] + ["Alert33"]
        assert request_view["alerts_left_out"] == 29
        (request_view,) = list_recent_requests(engine, filters=Filters(alert_name="Alert3"))
        assert len(self.list_names(request_view)) == 20

    def test_executions_of_omitted_alerts_are_counted(self, engine):
        request_id = record(engine, *self.make_alerts(50))
        record_execution(engine, request_id, episode("f0"), "first")
        record_execution(
            engine, request_id, episode("f40"), "last", status="running", end_timestamp=None
        )
        (request_view,) = list_recent_requests(engine)
        assert (request_view["st2_execution_count"], request_view["status"]) == (2, "running")

    def test_a_page_with_many_requests_shows_fewer_alerts_of_each(self, engine, monkeypatch):
        monkeypatch.setattr(requests, "_MAX_PAGE_ALERTS", 7)
        for _ in range(3):
            record(engine, *self.make_alerts(5))
        assert [len(request["alerts"]) for request in list_recent_requests(engine)] == [2, 2, 2]
        assert [len(request["alerts"]) for request in list_recent_requests(engine, limit=1)] == [5]
        monkeypatch.setattr(requests, "_MAX_PAGE_ALERTS", 2)
        assert [request["alerts_left_out"] for request in list_recent_requests(engine)] == [4, 4, 4]

    def test_the_size_of_a_page_does_not_grow_with_its_requests(self, engine):
        for _ in range(4):
            record(engine, *self.make_alerts(400))
        assert len(json.dumps(list_recent_requests(engine))) < 30_000
