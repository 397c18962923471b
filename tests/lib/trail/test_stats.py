"""The tests compare the statistics of remediations with figures computed by hand."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from sqlalchemy import event, select

from poundcake.timestamps import parse_timestamp
from poundcake.trail import database, search, stats, text
from poundcake.trail.schema import alerts, executions, links
from poundcake.trail.search import Filters
from tests.lib.recorded_day import record_day
from tests.lib.samples import NOON, UTC, alert, iso, later
from tests.lib.trails import (
    STATUSES,
    database_time,
    episode,
    record,
    record_execution,
    view,
)

DAY = Filters(since=NOON, until=later(86400))
FIGURES = (
    "count succeeded failed running other not_cleared success_rate mean_seconds p95_seconds"
).split()

RESULT_FIGURES = "changed results refusals help_rate mean_seconds_to_clear".split()
ADMITTED_FIGURES = "admitted open cleared_by_themselves no_rule not_started lost".split()


def read_stats(engine, filters=DAY, minutes=15):
    return view(engine, stats.stats, filters, minutes)


def read_stats_by_workflow(engine, filters=DAY, minutes=15):
    return {row["workflow"]: row for row in read_stats(engine, filters, minutes)["workflows"]}


def list_figures(row):
    return [row[name] for name in FIGURES]


def add_executions(engine, workflow, *durations):
    """Add successful executions for one alert, one for each duration in seconds."""
    record(engine, alert(fingerprint=workflow))
    with database.transaction(engine) as connection:
        alert_id = connection.scalar(select(alerts.c.id).where(alerts.c.fingerprint == workflow))
        for number, duration in enumerate(durations):
            name = f"{workflow}-{number}"
            connection.execute(
                executions.insert().values(
                    id=name,
                    action=workflow,
                    status="succeeded",
                    start_timestamp=NOON,
                    end_timestamp=later(duration),
                )
            )
            connection.execute(
                links.insert().values(
                    request_id="x",
                    alert_id=alert_id,
                    st2_execution_id=name,
                    st2_action_ref=workflow,
                    created_at=NOON,
                )
            )


def test_the_view_has_the_documented_fields(engine):
    record_execution(engine, record(engine, alert(fingerprint="f")), episode("f"))
    stats = read_stats(engine)
    assert list(stats) == ["since", "until", "workflows", "alerts", "totals", "no_rule"]
    assert (stats["since"], stats["until"]) == ("2026-01-14T12:00:00Z", "2026-01-15T12:00:00Z")
    figures = FIGURES + RESULT_FIGURES
    assert [list(row) for row in stats["workflows"]] == [["workflow"] + figures]
    assert [list(row) for row in stats["alerts"]] == [["alert_name"] + figures]
    assert list(stats["totals"]) == ADMITTED_FIGURES + figures


def test_each_status_counts_once_in_its_column(engine):
    request_id = record(engine, *[alert(fingerprint=status) for status in STATUSES])
    for status in STATUSES:
        has_ended = status in "succeeded failed timeout abandoned canceled gone".split()
        end = iso(later(12.5)) if has_ended else None
        record_execution(
            engine, request_id, episode(status), status, status=status, end_timestamp=end
        )
    stats = read_stats(engine)
    for row in stats["workflows"] + stats["alerts"]:
        # Nine statuses count as running: requested, scheduled, delayed, running, canceling,
        # pending, pausing, paused and resuming.
        assert list_figures(row)[:5] == [15, 1, 3, 9, 2]
        assert list_figures(row)[6:] == [0.25, 2.5, 2.5]


def test_workflows_and_alert_names_are_sorted_by_frequency(engine):
    names = ["A", "B", "B", "C", "B"]
    for number, name in enumerate(names):
        key = f"f{number}"
        request_id = record(engine, alert(name, fingerprint=key))
        status = "failed" if number in (1, 3) else "succeeded"
        workflow = "x.many" if number < 3 else "x.a" if number == 3 else "x.b"
        end = iso(later(10 + 2**number))
        record_execution(
            engine, request_id, episode(key), key, workflow, status=status, end_timestamp=end
        )
    stats = read_stats(engine)
    # The executions took 1, 2, 4, 8 and 16 seconds, and all alerts are still open.
    assert [(row["workflow"], list_figures(row)) for row in stats["workflows"]] == [
        ("x.many", [3, 2, 1, 0, 0, 2, 0.6667, 2.333, 4.0]),
        ("x.a", [1, 0, 1, 0, 0, 0, 0.0, 8.0, 8.0]),
        ("x.b", [1, 1, 0, 0, 0, 1, 1.0, 16.0, 16.0]),
    ]
    assert [(row["alert_name"], list_figures(row)) for row in stats["alerts"]] == [
        ("B", [3, 2, 1, 0, 0, 2, 0.6667, 7.333, 16.0]),
        ("A", [1, 1, 0, 0, 0, 1, 1.0, 1.0, 1.0]),
        ("C", [1, 0, 1, 0, 0, 0, 0.0, 8.0, 8.0]),
    ]


def test_the_95th_percentile_uses_the_nearest_rank(engine):
    expected = {1: 1, 2: 2, 19: 19, 20: 19, 21: 20, 40: 38, 100: 95}
    for count in expected:
        add_executions(engine, str(count), *reversed(range(1, count + 1)))
    stats = read_stats_by_workflow(engine)
    assert {int(name): row["p95_seconds"] for name, row in stats.items()} == expected
    assert {int(name): row["mean_seconds"] for name, row in stats.items()} == {
        count: (count + 1) / 2 for count in expected
    }


def test_remediations_that_did_not_clear_their_alerts_are_counted(engine):
    ended_at = 12.5
    time_limit = ended_at + 15 * 60
    for name, closed_after in (
        ("early", ended_at - 1),
        ("soon", ended_at + 60),
        ("in time", time_limit),
        ("late", time_limit + 0.000001),
        ("failed", time_limit + 60),
        ("running", time_limit + 60),
    ):
        key = name.replace(" ", "-")
        request_id = record(engine, alert(fingerprint=key))
        status = name if name in ("failed", "running") else "succeeded"
        fields = {"end_timestamp": None} if name == "running" else {}
        record_execution(engine, request_id, episode(key), key, name, status=status, **fields)
        resolve = alert(fingerprint=key, status="resolved", ends_at=later(closed_after))
        resolve_id = record(engine, resolve, received_at=later(closed_after))
    # An execution for a resolve has no alert to clear.
    record_execution(engine, resolve_id, episode("running"), "resolve", "resolve")
    request_id = record(engine, alert(fingerprint="superseded"))
    record_execution(engine, request_id, episode("superseded"), "superseded", "superseded")
    refire = alert(fingerprint="superseded", starts_at=later(1200))
    record(engine, refire, received_at=later(1200))
    stats = read_stats_by_workflow(engine)
    assert len(stats) == 8
    assert {name for name, row in stats.items() if row["not_cleared"]} == {"late", "superseded"}
    stats = read_stats_by_workflow(engine, minutes=0)
    assert {name for name, row in stats.items() if row["not_cleared"]} == {
        "soon",
        "in time",
        "late",
        "superseded",
    }


def test_an_alert_that_still_fires_long_after_its_remediation_is_not_cleared(engine):
    now = datetime.now(UTC)
    for name, minutes in (("long", 60), ("short", 5)):
        at = now - timedelta(minutes=minutes)
        request_id = record(engine, alert(fingerprint=name, starts_at=at), received_at=at)
        times = {"start_timestamp": iso(at), "end_timestamp": iso(at)}
        record_execution(engine, request_id, episode(name, at), name, name, **times)
    stats = read_stats_by_workflow(engine, Filters())
    assert {name: row["not_cleared"] for name, row in stats.items()} == {"long": 1, "short": 0}


def test_a_time_range_includes_its_start_but_not_its_end(engine):
    for number, seconds in enumerate((0, 60, 120)):
        key = f"f{number}"
        request_id = record(engine, alert(fingerprint=key))
        start = iso(later(seconds))
        record_execution(engine, request_id, episode(key), key, key, start_timestamp=start)
    for since, until, expected in (
        (0, 121, "f0 f1 f2"),
        (0, 120, "f0 f1"),
        (60, 120, "f1"),
        (60.000001, 120, ""),
        (60, 120.000001, "f1 f2"),
        (121, 999, ""),
    ):
        stats = read_stats_by_workflow(engine, Filters(since=later(since), until=later(until)))
        assert sorted(stats) == expected.split()


def test_the_default_time_range_is_a_day(engine):
    now = datetime.now(UTC)
    for name, hours in (("new", 1), ("day", 23), ("old", 25), ("older", 47), ("oldest", 49)):
        at = iso(now - timedelta(hours=hours))
        request_id = record(engine, alert(fingerprint=name))
        times = {"start_timestamp": at, "end_timestamp": at}
        record_execution(engine, request_id, episode(name), name, name, **times)
    stats = read_stats(engine, Filters())
    assert sorted(row["workflow"] for row in stats["workflows"]) == ["day", "new"]
    since, until = (parse_timestamp(stats[name]) for name in ("since", "until"))
    assert until - since == timedelta(days=1) and until >= now
    assert sorted(read_stats_by_workflow(engine, search.parse(since="2d"))) == [
        "day",
        "new",
        "old",
        "older",
    ]
    assert sorted(read_stats_by_workflow(engine, search.parse(until="24h"))) == ["old", "older"]


def test_statistics_are_filtered(engine):
    for number, (name, severity, instance) in enumerate(
        (("A", "critical", "i1"), ("A", "warning", "i2"), ("a", "critical", "i2"))
    ):
        key = f"f{number}"
        labels = {"severity": severity, "instance": instance}
        request_id = record(engine, alert(name, fingerprint=key, labels=labels))
        record_execution(engine, request_id, episode(key), key, key)
    for query, expected in (
        ({"alert_name": "A"}, "f0 f1"),
        ({"alert_name": "a"}, "f2"),
        ({"alert_name": "A "}, ""),
        ({"severity": "critical"}, "f0 f2"),
        ({"instance": "i2"}, "f1 f2"),
        ({"fingerprint": "f1"}, "f1"),
        ({"alert_name": "A", "severity": "critical", "instance": "i1"}, "f0"),
        ({"alert_name": "A", "severity": "critical", "fingerprint": "f1"}, ""),
        ({"severity": "%"}, ""),
    ):
        filters = search.parse(since=iso(NOON), until=iso(later(60)), **query)
        stats = read_stats(engine, filters)
        assert sorted(row["workflow"] for row in stats["workflows"]) == expected.split(), query
        assert sum(row["count"] for row in stats["alerts"]) == len(expected.split())


@pytest.mark.parametrize("name", ["alert_name", "instance", "severity", "fingerprint"])
def test_a_filter_does_not_read_the_whole_history(engine, name):
    statements = []
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2:4]))
    filters = search.parse(since=iso(NOON), until=iso(later(60)), **{name: "web-1"})
    with database.reading(engine) as connection:
        stats.remediation_stats(connection, filters, 15)
    *_, of_executions, of_alerts = [s for s in statements if "poundcake_alerts" in s[0]]
    steps = read_plan(engine, *of_executions)
    table, index = steps[0]
    assert table == "execution_db" and "ix_execution_db_start" in index
    (index,) = [index for table, index in steps if table == "poundcake_alerts"]
    assert "PRIMARY" in index
    (table, index), *_ = read_plan(engine, *of_alerts)
    assert table == "poundcake_alerts" and "ix_poundcake_alerts_by_" in index


def read_plan(engine, statement, parameters):
    """Return the tables that a statement reads in turn, each with the index."""
    with database.reading(engine) as connection:
        if engine.dialect.name == "mysql":
            plan = connection.exec_driver_sql("EXPLAIN " + statement, parameters).mappings()
            return [(step["table"], step["key"]) for step in plan]
        plan = connection.exec_driver_sql("EXPLAIN QUERY PLAN " + statement, parameters)
        # SQLite before 3.36 prints SEARCH TABLE name instead of SEARCH name.
        details = [step.detail.replace("SEARCH TABLE", "SEARCH") for step in plan]
        return [(detail.split()[1], detail) for detail in details]


def test_a_time_range_without_executions_has_no_statistics(engine):
    for _ in range(2):
        stats = read_stats(engine, Filters(since=later(-60), until=NOON))
        assert (stats["workflows"], stats["alerts"]) == ([], [])
        assert "nothing ran" in text.stats(stats)
        record_execution(engine, record(engine, alert(fingerprint="f")), episode("f"))


@pytest.fixture
def day(engine):
    return record_day(engine)


def read_day(day, minutes=15, **query):
    with database_time(NOON):
        return read_stats(day.engine, search.parse(now=NOON, **query), minutes)


def nonzero(results):
    return {name: count for name, count in results.items() if count}


def test_the_results_of_executions_are_counted_apart(day):
    stats = read_day(day)
    assert nonzero(stats["totals"]["results"]) == {
        "cleared": 2,
        "not_cleared": 1,
        "not_verified": 1,
        "dry_run": 4,
        "evidence": 1,
        "refused": 4,
        "failed": 1,
        "waiting": 1,
        "other": 1,
    }
    by_workflow = {row["workflow"]: row for row in stats["workflows"]}
    assert nonzero(by_workflow["linux.service"]["results"]) == {
        "cleared": 2,
        "not_cleared": 1,
        "not_verified": 1,
    }
    assert by_workflow["poundcake.host_down"]["changed"] == 0
    assert by_workflow["linux.service"]["changed"] == stats["totals"]["changed"] == 4
    by_name = {row["alert_name"]: row for row in stats["alerts"]}
    assert nonzero(by_name["DiskFull"]["results"]) == {"failed": 1}
    # A dry run is still a success of its execution.
    assert by_workflow["poundcake.host_down"]["success_rate"] == 1.0


def test_the_share_of_changes_that_helped_ignores_executions_that_changed_nothing(day):
    stats = read_day(day)
    by_name = {row["alert_name"]: row for row in stats["alerts"]}
    assert (by_name["ServiceDown"]["help_rate"], by_name["HostDown"]["help_rate"]) == (0.5, None)
    # web-21 was cleared 6 minutes after its alert arrived, and web-22 after 4 minutes.
    assert by_name["ServiceDown"]["mean_seconds_to_clear"] == 300.0
    assert by_name["HostDown"]["mean_seconds_to_clear"] is None


def test_refusals_are_counted_by_control_wherever_they_were_decided(day):
    stats = read_day(day)
    expected = {"host_not_allowed": 2, "approval_missing": 1, "storm": 1}
    assert list(stats["totals"]["refusals"].items()) == list(expected.items())
    by_name = {row["alert_name"]: row["refusals"] for row in stats["alerts"]}
    assert by_name["HostDown"] == expected and by_name["ServiceDown"] == {}


def test_a_refusal_without_a_record_of_its_control_is_counted_as_unknown(engine):
    request_id = record(engine, alert(fingerprint="f"))
    record_execution(engine, request_id, episode("f"), status="running", end_timestamp=None)
    with database.transaction(engine) as connection:
        connection.execute(executions.update().values(status="failed", stage="refused"))
    assert read_stats(engine)["totals"]["refusals"] == {"unknown": 1}


def test_alerts_that_no_rule_matched_are_listed_most_frequent_first(day):
    stats = read_day(day)
    assert stats["no_rule"] == [
        {"alert_name": "KubePodNotReady", "count": 3, "last_at": "2026-01-14T10:32:00Z"},
        {"alert_name": "CertificateExpires", "count": 1, "last_at": "2026-01-14T00:20:00Z"},
    ]
    assert read_day(day, alert_name="CertificateExpires")["no_rule"] == stats["no_rule"][1:]
    assert read_day(day, since="80m")["no_rule"] == []


def test_admitted_alerts_are_counted_with_what_became_of_them(day):
    totals = read_day(day)["totals"]
    assert {name: totals[name] for name in ADMITTED_FIGURES} == {
        "admitted": 21,
        "open": 16,
        "cleared_by_themselves": 2,  # web-1, which was only checked, and pod-0
        "no_rule": 4,
        "not_started": 1,
        "lost": 0,
    }


def test_an_alert_has_not_cleared_by_itself_if_any_execution_may_have_changed_something(engine):
    request_id = record(engine, alert(fingerprint="f"))
    nothing = {"output": {"dry_run": False, "mutated": False, "stage": "evidence"}}
    record_execution(engine, request_id, episode("f"), "e1", "x.check", result=nothing)
    resolve = alert(fingerprint="f", status="resolved", ends_at=later(60))
    record(engine, resolve, received_at=later(60))
    assert read_stats(engine)["totals"]["cleared_by_themselves"] == 1
    for number, output in enumerate(({}, {"output": {"mutated": True}})):
        add_link(engine, f"own-{number}", **output)
        assert read_stats(engine)["totals"]["cleared_by_themselves"] == 0


def add_link(engine, name, output=None):
    """Link another ended execution to the first alert, as sync does."""
    with database.transaction(engine) as connection:
        connection.execute(
            executions.insert().values(
                id=name,
                action="x.own",
                status="succeeded",
                start_timestamp=NOON,
                end_timestamp=NOON,
                mutated=(output or {}).get("mutated"),
            )
        )
        connection.execute(
            links.insert().values(
                request_id="x",
                alert_id=connection.scalar(select(alerts.c.id).limit(1)),
                st2_execution_id=name,
                st2_action_ref="x.own",
                created_at=NOON,
            )
        )


def test_a_change_whose_effect_is_not_known_yet_counts_neither_as_cleared_nor_as_not(engine):
    record_execution(engine, record(engine, alert(fingerprint="f")), episode("f"))
    with database_time(later(60)):
        totals = read_stats(engine)["totals"]
    assert nonzero(totals["results"]) == {"changed": 1}
    assert (totals["changed"], totals["help_rate"]) == (1, None)
    with database_time(later(16 * 60)):
        assert read_stats(engine)["totals"]["help_rate"] == 0.0


def test_a_resolved_alert_that_no_rule_matched_is_not_listed(engine):
    record(engine, alert(fingerprint="f"))
    resolve = alert(fingerprint="f", status="resolved", ends_at=later(60))
    record(engine, resolve, received_at=later(60))
    with database.transaction(engine) as connection:
        connection.execute(alerts.update().values(explanation="no_rule"))
    assert [row["count"] for row in read_stats(engine)["no_rule"]] == [1]
