"""The view of StackStorm executions lists those that ran for alerts, newest first."""

from __future__ import annotations

import pytest
from sqlalchemy import event, text

from poundcake.trail import queries, search
from poundcake.trail.schema import ALERTS_BY_ID
from poundcake.trail.search import Filters
from tests.lib.samples import alert, iso, later
from tests.lib.trails import on_mariadb, record, record_execution, view

EXECUTION_KEYS = (
    "request_id st2_execution_id st2_workflow st2_rule status triggered_at duration_seconds url"
    " result action target action_execution_id change_reason message alert"
).split()


def list_executions(engine, **query):
    return view(engine, queries.st2_executions, **query)


def list_ids(answer):
    return [execution["st2_execution_id"] for execution in answer["st2_executions"]]


def test_the_view_has_the_documented_fields(engine, sample_request_id):
    page = list_executions(engine, web_url="https://st2.example")
    assert list(page) == ["st2_executions", "count"]
    (row,) = page["st2_executions"]
    assert list(row) == EXECUTION_KEYS
    assert row["alert"] == {
        "name": "New",
        "severity": "critical",
        "instance": "web-1:9100",
        "labels": {"id": "new"},
    }
    assert row["url"] == "https://st2.example/#/history/e1"
    assert row["triggered_at"] == "2026-01-14T12:00:10Z"


def test_executions_are_filtered_by_status_and_paged_by_offset(engine):
    for number, status in enumerate(["succeeded", "failed", "succeeded"]):
        name = f"f{number}"
        request_id = record(engine, alert(fingerprint=name))
        record_execution(engine, request_id, name + "-1768392000000", "e" + name, status=status)
    page = list_executions(engine, status="succeeded")
    assert (list_ids(page), page["count"]) == (["ef2", "ef0"], 2)
    page = list_executions(engine, limit=1, offset=1)
    assert (list_ids(page), page["count"]) == (["ef1"], 3)
    assert list_executions(engine, status="gone")["count"] == 0


@pytest.mark.parametrize("depth", [1000, 2])
@pytest.mark.parametrize("filters", [Filters(), Filters(severity="critical")])
def test_executions_are_sorted_by_the_displayed_time(engine, monkeypatch, filters, depth):
    """The order of the alerts and the order of the links do not matter."""
    monkeypatch.setattr("poundcake.trail.queries.bounded_search.DEPTH", depth)
    for name, received, started in (("a", 0, 100), ("b", 1, 50), ("c", 2, 70)):
        request_id = record(engine, alert(fingerprint=name), received_at=later(received))
        record_execution(
            engine, request_id, f"{name}-1768392000000", name, start_timestamp=iso(later(started))
        )
    rows, cursor = [], ""
    while True:
        page = list_executions(
            engine,
            filters=Filters(severity=filters.severity, before=search.parse(before=cursor).before),
            limit=1,
        )
        rows += page["st2_executions"]
        cursor = page.get("next", "")
        if not cursor:
            break
    assert [execution["triggered_at"] for execution in rows] == [
        iso(later(started)) for started in (100, 70, 50)
    ]


@on_mariadb
def test_a_filter_reads_the_alerts_from_an_index_once_it_is_built(engine, monkeypatch):
    monkeypatch.setattr("poundcake.trail.queries.bounded_search.DEPTH", 2)
    for number, name in enumerate(["A", "B", "A", "A"]):
        request_id = record(engine, alert(name, fingerprint=f"f{number}"))
        record_execution(engine, request_id, f"f{number}-1768392000000", f"e{number}")
    statements = []
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    rows = list_executions(engine, filters=Filters(alert_name="A"))
    assert list_ids(rows) == ["e3", "e2"] and rows["at_least"]
    assert any(f"FORCE INDEX ({ALERTS_BY_ID})" in statement for statement in statements)
    with engine.begin() as connection:
        connection.execute(text(f"DROP INDEX {ALERTS_BY_ID} ON poundcake_alerts"))
        connection.execute(text("UPDATE poundcake_meta SET value = '7' WHERE name = 'indexes'"))
    assert list_executions(engine, filters=Filters(alert_name="A")) == rows
