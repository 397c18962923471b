"""Requests that wait in the journal are found by their alerts, with the reason why they wait."""

from __future__ import annotations

import json

import pytest

from poundcake.alertmanager import Identity
from poundcake.endpoint import waiting_requests
from poundcake.endpoint.journal import Journal
from poundcake.endpoint.waiting_requests import find_waiting, read_candidates
from poundcake.trail import search
from poundcake.trail.queries.waiting_alerts import waiting_alerts
from tests.lib.endpoint.problem_documents import check_problem
from tests.lib.endpoints import InThreads
from tests.lib.samples import NOON, alert, later, request, webhook
from tests.waiting import wait_for

PATH = "/api/v1/requests/waiting"
SENT = {
    "labels": {"instance": "web-1:9100", "team": "infra", "cluster": "eu-1"},
    "annotations": {"summary": "web-1 is down", "runbook_url": "https://runbooks.example/host"},
}


@pytest.fixture
def journal(tmp_path):
    new_journal = Journal(str(tmp_path / "journal"))
    yield new_journal
    new_journal.close()


def accept(journal, *alerts, received_at=NOON, **fields):
    new_request = request(*alerts, received_at=received_at, **fields)
    return journal.accept(new_request, "", new_request.request_id, len(alerts))


def find(journal, limit=20, offset=0, blocked_by="", **filters):
    parsed = search.parse(**filters)
    candidates = read_candidates(journal, parsed, limit, offset, lambda entry: blocked_by)
    return find_waiting(candidates, Identity(), parsed, limit)


def names(view):
    return [[alert["alert_name"] for alert in request["alerts"]] for request in view["requests"]]


def test_a_waiting_request_shows_its_alerts_and_why_it_waits(journal):
    request_id = accept(journal, alert(**SENT))
    view = find(journal, blocked_by="broker: connection refused", alert_name="HostDown")
    assert view["count"] == 1 and "at_least" not in view
    (found,) = view["requests"]
    (found_alert,) = found.pop("alerts")
    assert found == {
        "request_id": request_id,
        "received_at": "2026-01-14T12:00:00Z",
        "status": "accepted",
        "attempts": 0,
        "stuck": False,
        "blocked_by": "broker: connection refused",
    }
    assert len(found_alert.pop("fingerprint")) == 16
    assert found_alert == {
        "alert_name": "HostDown",
        "severity": "critical",
        "instance": "web-1:9100",
        "status": "firing",
        "labels": {"team": "infra", "cluster": "eu-1"},
        "summary": "web-1 is down",
        "runbook_url": "https://runbooks.example/host",
    }


@pytest.mark.parametrize(
    "filters, expected",
    [
        ({"alert_name": "A"}, [["A"]]),
        ({"alert_name": "C"}, []),
        ({"severity": "warning"}, [["B"]]),
        ({"status": "resolved"}, [["B"]]),
        ({"instance": "web-2"}, [["B"]]),
        ({"outcome": "admitted"}, []),
        ({"alert_name": "*"}, [["A", "B"]]),
        ({"instance": "web-1"}, [["A"]]),
        ({"labels": 'instance=~"web-.*",severity!="critical"'}, [["B"]]),
        ({"annotations": "summary=down"}, [["A", "B"]]),
        ({"annotations": "summary=up"}, []),
        ({"request_id": "0000"}, []),
        ({"episode": "f-1"}, []),
        ({"since": "2026-01-14T12:00:01Z"}, []),
        ({"until": "2026-01-14T12:00:00Z"}, []),
        ({"since": "2026-01-14T12:00:00Z", "until": "2026-01-14T12:00:01Z"}, [["A", "B"]]),
    ],
)
def test_only_matching_alerts_are_shown(journal, filters, expected):
    second = alert("B", "resolved", labels={"severity": "warning", "instance": "web-2"})
    accept(journal, alert("A"), second)
    assert names(find(journal, **filters)) == expected


def test_the_fingerprint_is_the_one_that_the_alert_gets_when_it_is_recorded(journal):
    accept(journal, alert(fingerprint="f1"))
    assert names(find(journal, fingerprint="f1")) == [["HostDown"]]
    assert names(find(journal, fingerprint="f2")) == []


def test_recorded_requests_do_not_wait(journal):
    request_id = accept(journal, alert("A"))
    accept(journal, alert("B"))
    entry = journal.find(request_id)
    journal.mark_announced([entry.id], "batch")
    assert [r["status"] for r in find(journal)["requests"]] == ["accepted", "announced"]
    journal.mark_recorded([entry.id])
    assert names(find(journal)) == [["B"]]


def test_the_newest_requests_come_first_on_pages(journal):
    for number in range(5):
        accept(journal, alert(f"A{number}"), received_at=later(number))
    assert names(find(journal, limit=2)) == [["A4"], ["A3"]]
    assert names(find(journal, limit=2, offset=4)) == [["A0"]]
    assert find(journal, limit=2)["count"] == 5


def test_the_search_is_bounded(journal, monkeypatch):
    monkeypatch.setattr(waiting_requests, "MAX_SCANNED", 3)
    for number in range(3):
        accept(journal, alert(f"A{number}"))
    assert "at_least" not in find(journal)
    accept(journal, alert("A3"))
    view = find(journal)
    assert (view["count"], view["at_least"]) == (3, True)
    assert find(journal, alert_name="A0")["requests"] == []


def test_the_alerts_of_a_request_are_limited(journal):
    accept(journal, *(alert(f"A{number}") for number in range(25)))
    (found,) = find(journal)["requests"]
    assert (len(found["alerts"]), found["alerts_left_out"]) == (20, 5)


def test_labels_that_are_not_shown_are_counted(journal):
    accept(journal, alert(labels={f"label{number:02}": "x" for number in range(23)}))
    (found,) = find(journal)["requests"][0]["alerts"]
    assert (len(found["labels"]), found["labels_left_out"]) == (20, 3)


def test_a_body_that_cannot_be_read_is_left_out(journal):
    accept(journal, body="[")
    accept(journal, alert("A"))
    assert names(find(journal)) == [["A"]]


@pytest.fixture
def endpoint(tmp_path):
    new_endpoint = InThreads(tmp_path)
    yield new_endpoint.start().ready()
    new_endpoint.stop()


def test_the_route_shows_what_waits_for_the_broker(endpoint):
    endpoint.set_broker(up=False)
    request_id = endpoint.accept(webhook(alert("Waits", **SENT)))
    path = f"{PATH}?alert_name=Waits"
    wait_for(lambda: "broker" in endpoint.get(path).json["requests"][0]["blocked_by"])
    document = endpoint.get(path).json
    assert [found["request_id"] for found in document["requests"]] == [request_id]
    (row,) = waiting_alerts(document)
    assert (row["verdict"], row["title"]) == ("waiting_to_be_recorded", "WAITING TO BE RECORDED")
    assert row["headline"].startswith("nothing can run for it yet") and "broker" in row["headline"]
    assert row["next_command"] == "st2 run poundcake.health format=text"
    assert endpoint.get(f"{PATH}?alert_name=Other").json == {"requests": [], "count": 0}


@pytest.mark.parametrize("query", ["outcome=admitted", "before=x", "limit=0", "since=x"])
def test_an_invalid_query_is_refused(endpoint, query):
    name = query.partition("=")[0]
    assert check_problem(endpoint.get(f"{PATH}?{query}"), 400)["field"] == name


@pytest.mark.parametrize(
    "fields, step",
    [
        ({"status": "announced"}, "nothing to be done; if this takes several minutes"),
        ({"blocked_by": "database: down"}, "repair that component"),
        ({"blocked_by": "alone", "stuck": True}, "correct what keeps it from being recorded"),
    ],
)
def test_the_next_step_depends_on_what_the_request_waits_for(fields, step):
    waiting = {"request_id": "r", "received_at": "t", "status": "accepted", "stuck": False}
    waiting.update(blocked_by="", alerts=[{"alert_name": "A"}])
    (row,) = waiting_alerts({"requests": [{**waiting, **fields}]})
    assert row["next_step"].startswith(step)
    json.dumps(row)


def test_without_filters_only_the_bodies_of_the_page_are_read(journal, monkeypatch):
    for number in range(5):
        accept(journal, alert(f"A{number}"), received_at=later(number))
    accept(journal, received_at=later(9))
    read = []

    def load_requests(entries, load=journal.load_requests):
        read.extend(entries)
        return load(entries)

    monkeypatch.setattr(journal, "load_requests", load_requests)
    view = find(journal, limit=2, offset=1)
    assert names(view) == [["A3"], ["A2"]]
    assert view["count"] == 5 and len(read) == 2
