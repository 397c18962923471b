"""A person names an incident by the filters of the view why, and exactly one must match."""

from __future__ import annotations

import pytest

from poundcake.trail import commands, database, search
from poundcake.trail.audit import Actor
from poundcake.trail.errors import TrackingError
from poundcake.trail.interventions import close
from poundcake.trail.open_incident import (
    command_for_episode,
    find_matching_episodes,
    find_open_incident,
)
from poundcake.trail.search import FilterError
from tests.lib.samples import alert
from tests.lib.trails import episode, on_sqlite, record

ACTION = command_for_episode("silence", "minutes=30", comment="a new disk")


def find(engine, **filters):
    """Return the episode of the incident that the filters select."""
    with database.reading(engine) as connection:
        return find_open_incident(connection, search.parse(None, **filters), ACTION).episode


def find_problem(engine, **filters):
    with pytest.raises(TrackingError) as caught:
        find(engine, **filters)
    return str(caught.value)


@pytest.fixture
def trail(engine):
    """Return a database with three open incidents: two of HostDown, and one of DiskFull."""
    labels = {"instance": "db-1:9100", "severity": "warning"}
    record(engine, alert(fingerprint="aaaa1"), alert(fingerprint="aaaa2", labels=labels))
    record(engine, alert("DiskFull", fingerprint="bbbb", labels=labels))
    return engine


@pytest.mark.parametrize(
    "filters, fingerprint",
    [
        ({"alert_name": "DiskFull"}, "bbbb"),
        ({"alert_name": "Disk*"}, "bbbb"),
        ({"alert_name": "HostDown", "instance": "db-1"}, "aaaa2"),
        ({"alert_name": "HostDown", "severity": "warning"}, "aaaa2"),
        ({"instance": "web-1:9100"}, "aaaa1"),
        ({"fingerprint": "bbbb"}, "bbbb"),
        ({"episode": "bbbb"}, "bbbb"),
        ({"episode": "aaaa", "instance": "web-1"}, "aaaa1"),
    ],
)
def test_the_filters_select_an_incident(trail, filters, fingerprint):
    assert find(trail, **filters) == episode(fingerprint)


@on_sqlite
def test_a_request_selects_the_incident_of_which_it_notified(engine):
    record(engine, alert(fingerprint="aaaa"))
    record(engine, alert(fingerprint="cccc"))
    repeat = record(engine, alert(fingerprint="aaaa"))
    assert find(engine, request_id=repeat[:8]) == episode("aaaa")
    close(engine, Actor("anna", ""), "gone", episode("aaaa"))
    assert find_problem(engine, request_id=repeat).startswith("no open incident matches")


@on_sqlite
@pytest.mark.parametrize("filters", [{"alert_name": "Unknown"}, {"request_id": "f" * 36}])
def test_nothing_matches(trail, filters):
    assert find_problem(trail, **filters) == (
        "no open incident matches; list them: st2 run poundcake.alerts_active format=text"
    )


@on_sqlite
def test_several_match_and_the_error_has_the_command_for_each(trail):
    names = episode("aaaa1"), episode("aaaa2")
    first, second = (
        f"{commands.for_episode('silence', name)} minutes=30 comment=…" for name in names
    )
    assert find_problem(trail, alert_name="HostDown") == (
        "more than one open incident matches; choose one: "
        f"HostDown web-1:9100: {first}; HostDown db-1:9100: {second}"
    )


@on_sqlite
def test_a_long_list_of_candidates_is_cut(engine):
    record(engine, *(alert(fingerprint=f"aaaa{number}") for number in range(7)))
    problem = find_problem(engine, alert_name="HostDown")
    assert problem.count("st2 run") == 5
    assert problem.endswith("; and others")


@on_sqlite
@pytest.mark.parametrize("filters", [{}, {"status": "firing"}])
def test_a_filter_must_identify_an_incident(trail, filters):
    assert find_problem(trail, **filters).startswith("identify the incident: pass episode, or ")


@on_sqlite
def test_an_ambiguous_short_id_is_named(trail):
    with pytest.raises(FilterError, match="fingerprint: aaaa is ambiguous"):
        find(trail, fingerprint="aaaa")


@on_sqlite
def test_only_listed_episodes_match_and_they_need_not_be_open(trail):
    close(trail, Actor("anna", ""), "gone", episode("aaaa1"))
    listed = [episode("aaaa1"), episode("bbbb")]
    with database.reading(trail) as connection:

        def matching(**filters):
            return find_matching_episodes(connection, search.parse(None, **filters), listed)

        assert matching(alert_name="HostDown") == {episode("aaaa1")}
        assert matching(instance="db-1") == {episode("bbbb")}
        assert matching(episode="aaaa") == {episode("aaaa1")}
