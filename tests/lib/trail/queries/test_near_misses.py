"""An answer without rows says which alerts nearly match, and what excludes them."""

from __future__ import annotations

import pytest

from poundcake.trail import queries, search, stats
from tests.lib.samples import NOON, alert, iso, later
from tests.lib.trails import episode, record, record_execution, view


@pytest.fixture
def trail(engine):
    request_id = record(
        engine,
        alert("HostDown", fingerprint="3f9c01", labels={"team": "web"}),
        alert("DiskFull", fingerprint="77aa00", labels={"instance": "db-1.example:9100"}),
        request_id="8f1b2543-0000-4000-8000-000000000001",
    )
    record_execution(engine, request_id, episode("3f9c01"), "e1", start_timestamp=iso(later(5)))
    return engine


def misses(engine, function=queries.why, *args, **filters):
    """Return the near misses: the name of the alert and what excludes it."""
    answer = view(engine, function, *args, search.parse(**filters))
    return [
        (miss.get("alert_name"), *[tuple(exclusion.values()) for exclusion in miss["excluded_by"]])
        for miss in answer.get("near_misses", [])
    ]


@pytest.mark.parametrize(
    "filters, expected",
    [
        (
            {"alert_name": "hostdown"},
            [("HostDown", ("alert_name", "hostdown", "HostDown"))],
        ),
        ({"alert_name": "HostDwn"}, [("HostDown", ("alert_name", "HostDwn", "HostDown"))]),
        ({"alert_name": "Disk"}, [("DiskFull", ("alert_name", "Disk", "DiskFull"))]),
        ({"alert_name": "Nothing"}, [(None, ("alert_name", "Nothing", ""))]),
        (
            {"instance": "web-1:9115"},
            [("HostDown", ("instance", "web-1:9115", "web-1:9100"))],
        ),
        ({"instance": "WEB-1"}, [("HostDown", ("instance", "WEB-1", "web-1:9100"))]),
        ({"instance": "db-1"}, [("DiskFull", ("instance", "db-1", "db-1.example:9100"))]),
        (
            {"alert_name": "HostDown", "severity": "warning"},
            [("HostDown", ("severity", "warning", "critical"))],
        ),
        (
            {"alert_name": "HostDown", "instance": "db-1.example:9100"},
            [
                ("DiskFull", ("alert_name", "HostDown", "DiskFull")),
                ("HostDown", ("instance", "db-1.example:9100", "web-1:9100")),
            ],
        ),
        (
            {"alert_name": "HostDown", "labels": "team=infra"},
            [("HostDown", ("labels", "team=infra", "team=web"))],
        ),
        (
            {"labels": 'team=~"i.*"', "alert_name": "DiskFull"},
            [("DiskFull", ("labels", 'team=~"i.*"', 'team=""'))],
        ),
        (
            {"alert_name": "HostDown", "annotations": "summary=up"},
            [("HostDown", ("annotations", "summary=up", "summary=down"))],
        ),
        (
            {"alert_name": "HostDown", "since": iso(later(60))},
            [("HostDown", ("since", iso(later(60)), iso(NOON)))],
        ),
        (
            {"alert_name": "HostDown", "until": iso(NOON)},
            [("HostDown", ("until", iso(NOON), iso(NOON)))],
        ),
        (
            {"alert_name": "hostdown", "severity": "warning"},
            [
                (
                    "HostDown",
                    ("severity", "warning", "critical"),
                    ("alert_name", "hostdown", "HostDown"),
                )
            ],
        ),
        ({"episode": "3f9d"}, [(None, ("episode", "3f9d", ""))]),
        ({"request_id": "8f1c"}, [(None, ("request_id", "8f1c", ""))]),
        ({"fingerprint": "3f"}, [(None, ("fingerprint", "3f", ""))]),
        (
            {"request_id": "8f1b2543", "status": "resolved", "alert_name": "DiskFull"},
            [("DiskFull", ("status", "resolved", "firing"))],
        ),
    ],
)
def test_why_names_the_nearest_alerts(trail, filters, expected):
    assert sorted(misses(trail, **filters), key=str) == sorted(expected, key=str)


@pytest.mark.parametrize(
    "filters, found",
    [
        ({"labels": "team=webb"}, "team=web"),
        ({"labels": "team=WEB"}, "team=web"),
        ({"severity": "critcal"}, "critical"),
    ],
)
def test_a_similar_spelling_comes_first(trail, filters, found):
    record(trail, alert("Slow", severity="info", labels={"team": "db"}), received_at=later(60))
    record(trail, alert("Late", severity="", labels={}), received_at=later(120))
    first = misses(trail, queries.alerts_active, 24, **filters)[0]
    assert first[1][2] == found


def test_an_answer_with_rows_has_no_near_misses(trail):
    assert "near_misses" not in view(trail, queries.why, search.parse(alert_name="HostDown"))
    answer = view(trail, queries.why, search.parse(alert_name="HostDown"), offset=5)
    assert answer["episodes"] == [] and "near_misses" not in answer


def test_a_near_miss_shows_the_newest_alert(trail):
    record(trail, alert("HostDown", fingerprint="3f9c01"), received_at=later(60))
    answer = view(trail, queries.why, search.parse(alert_name="HostDown", severity="warning"))
    assert answer["near_misses"] == [
        {
            "excluded_by": [{"filter": "severity", "given": "warning", "found": "critical"}],
            "alert_name": "HostDown",
            "instance": "web-1:9100",
            "severity": "critical",
            "episode": episode("3f9c01"),
            "received_at": iso(later(60)),
        }
    ]


def test_active_alerts_name_ended_incidents(trail):
    active = (queries.alerts_active, 24)
    assert misses(trail, *active, alert_name="HostDown", severity="warning") == [
        ("HostDown", ("severity", "warning", "critical"))
    ]
    resolve = alert("HostDown", "resolved", fingerprint="3f9c01", ends_at=later(60))
    record(trail, resolve, received_at=later(60))
    assert misses(trail, *active, alert_name="HostDown") == [
        ("HostDown", ("state", "open", "ended"))
    ]


def test_executions_name_what_did_not_run(trail):
    executions = (queries.st2_executions, "")
    assert misses(trail, *executions, alert_name="DiskFull") == [
        ("DiskFull", ("executions", "any", "none"))
    ]
    assert misses(trail, queries.st2_executions, "failed", alert_name="HostDown") == [
        ("HostDown", ("status", "failed", "succeeded"))
    ]
    assert misses(trail, *executions, alert_name="HostDown", since=iso(later(60))) == [
        ("HostDown", ("since", iso(later(60)), iso(later(5))))
    ]


def test_statistics_name_what_did_not_run(trail):
    filters = search.parse(alert_name="DiskFull", since=iso(NOON), until=iso(later(60)))
    (miss,) = view(trail, stats.stats, filters, 15)["near_misses"]
    assert miss["excluded_by"][0]["filter"] == "executions"
    nothing = search.parse(since=iso(later(60)), until=iso(later(90)))
    assert "near_misses" not in view(trail, stats.stats, nothing, 15)


def test_recent_requests_name_the_nearest_alerts(trail):
    assert misses(trail, queries.executions_recent, labels="team=infra", status="firing")
