"""Filters are applied to the columns with an index wherever that is possible."""

from __future__ import annotations

import pytest

from poundcake.matchers import parse_matcher
from poundcake.trail import alert_conditions, database, queries, search
from poundcake.trail.alert_conditions import resolve
from tests.lib.samples import alert
from tests.lib.trails import record, view

INSTANCES = ["web-1", "web-1:9100", "web-1:9115", "WEB-1:9100", "web-10:9100", "web-1.example:9100"]
INSTANCES += ["http://web-1:80/", "[2001:db8::7]:9100", "2001:db8::7"]


@pytest.fixture
def trail(engine):
    record(engine, *[alert("HostDown", labels={"instance": text}) for text in INSTANCES])
    record(engine, alert("HostSlow"), alert("DiskFull"), alert("hostdown"), {"labels": {"a": "b"}})
    return engine


def find_instances(engine, **filters):
    page = view(engine, queries.alerts_active, 24, search.parse(**filters))
    return sorted(row["instance"] for row in page["active_alerts"])


def conditions(engine, **filters):
    with database.reading(engine) as connection:
        return resolve(connection, search.parse(**filters))


@pytest.mark.parametrize(
    "text, expected",
    [
        ("web-1", ["web-1", "web-1:9100", "web-1:9115"]),
        ("web-1:9100", ["web-1:9100"]),
        ("WEB-1", ["WEB-1:9100"]),
        ("web", []),
        ("2001:db8::7", ["2001:db8::7", "[2001:db8::7]:9100"]),
        ("web-*", INSTANCES[:3] + INSTANCES[4:6]),
        ("*:9115", ["web-1:9115"]),
        ("*/*", ["http://web-1:80/"]),
    ],
)
def test_an_instance_may_be_a_host_or_a_pattern(trail, text, expected):
    assert find_instances(trail, instance=text, alert_name="HostDown") == sorted(expected)


def test_a_matcher_on_the_instance_is_exact(trail):
    assert find_instances(trail, labels="instance=web-1", alert_name="HostDown") == ["web-1"]


@pytest.mark.parametrize(
    "filters, names",
    [
        ({"alert_name": "Host*"}, {"HostDown", "HostSlow"}),
        ({"alert_name": "*Down"}, {"HostDown"}),
        ({"alert_name": "*ost*ow*"}, {"HostSlow", "HostDown", "hostdown"}),
        ({"alert_name": "HostDown"}, {"HostDown"}),
        ({"alert_name": '""'}, {""}),
        ({"labels": 'alertname=""'}, {""}),
        ({"labels": 'alertname!=""', "severity": '""'}, set()),
        ({"severity": '""'}, {""}),
        ({"labels": 'alertname=~"(?i)hostdown"'}, {"HostDown", "hostdown"}),
        ({"labels": 'alertname=~"Host.*",alertname!="HostDown"'}, {"HostSlow"}),
        ({"alert_name": "HostDown", "labels": "alertname=DiskFull"}, set()),
        ({"alert_name": "No*"}, set()),
    ],
)
def test_names_are_selected(trail, filters, names):
    page = view(trail, queries.why, search.parse(**filters), limit=100)
    assert {row["alert_name"] for row in page["episodes"]} == names


def test_conditions_use_columns_where_possible(trail):
    assert conditions(trail, labels='alertname="HostDown",team="x"', alert_name="Host*") == (
        alert_conditions.AlertConditions(
            {"alert_name": ("HostDown",)}, (parse_matcher('team="x"'),)
        )
    )
    assert conditions(trail, labels='alertname=~"Disk.*|Host.*"').values == {
        "alert_name": ("DiskFull", "HostDown", "HostSlow")
    }


def test_a_pattern_with_many_values_is_applied_to_the_labels(trail, monkeypatch):
    monkeypatch.setattr(alert_conditions, "MAX_VALUES", 1)
    for filters, count in (({"alert_name": "Host*"}, 10), ({"instance": "web-1"}, 6)):
        assert conditions(trail, **filters).has_matchers
        page = view(trail, queries.alerts_active, 24, search.parse(**filters))
        assert page["count"] == count
    monkeypatch.setattr(alert_conditions, "_MAX_DISTINCT", 1)
    assert view(trail, queries.alerts_active, 24, search.parse(alert_name="Host*"))["count"] == 10


def test_a_truncated_value_is_compared_with_the_whole_label(engine):
    names = ["N" * 255 + end for end in ("", "a", "b")]
    record(engine, *map(alert, names))
    for name in names:
        page = view(engine, queries.alerts_active, 24, search.parse(labels=f"alertname={name}"))
        assert page["count"] == 1
    assert view(engine, queries.why, search.parse(labels='alertname=~"N*b"'))["count"] == 1
