"""The view of one alert contains everything that its sender sent."""

from __future__ import annotations

import pytest

from poundcake.config import Config
from poundcake.trail import queries
from poundcake.trail.replay import replay_request
from poundcake.trail.search import FilterError
from tests.lib.samples import alert, iso, later
from tests.lib.trails import episode, record, record_execution, view


def test_labels_and_annotations_are_verbatim(engine):
    hostile = "{{ st2kv.system.x }} <% x %>"
    hostile_alert = alert(fingerprint="f", labels={"x": hostile}, annotations={"s": hostile})
    request_id = record(engine, hostile_alert)
    alert_view = view(engine, queries.alert_of_request, request_id, episode("f"))
    assert alert_view["labels"]["x"] == alert_view["annotations"]["s"] == hostile
    assert list(alert_view)[:5] == ["request_id", "episode", "fingerprint", "status", "outcome"]
    assert (alert_view["starts_at"], alert_view["ends_at"]) == ("2026-01-14T12:00:00Z", None)
    assert view(engine, queries.alert_of_request, request_id, "x") is None
    assert view(engine, queries.alert_of_request, "x", episode("f")) is None


def test_an_alert_shows_when_its_incident_ended(engine):
    request_id = record(engine, alert(fingerprint="f"), received_at=later(5))
    views = [view(engine, queries.alert_of_request, request_id, episode("f"))]
    # A replay takes over the incident without ending it.
    replay_request(engine, Config(), request_id)
    views.append(view(engine, queries.alert_of_request, request_id, episode("f")))
    resolve = alert(status="resolved", fingerprint="f", ends_at=later(60))
    record(engine, resolve, received_at=later(65))
    views.append(view(engine, queries.alert_of_request, request_id, episode("f")))
    assert [alert_view["incident_ended_at"] for alert_view in views] == [None, None, iso(later(65))]


def test_an_alert_shows_whether_its_work_has_ended(engine):
    request_id = record(engine, alert(fingerprint="f"))

    def has_ended_work():
        return view(engine, queries.alert_of_episode, episode("f"))["has_ended_work"]

    assert not has_ended_work()  # nothing has worked on it yet
    record_execution(engine, request_id, episode("f"), status="running")
    assert not has_ended_work()
    record_execution(engine, request_id, episode("f"), status="succeeded")
    assert has_ended_work()
    replay_request(engine, Config(), request_id, force=True)
    assert not has_ended_work()  # the replay starts a workflow


def test_an_episode_is_found_by_its_name_or_a_unique_prefix(engine):
    record(engine, alert(fingerprint="ab1c", labels={"n": "1"}))
    original_id = record(engine, alert(fingerprint="ab1d"))
    replay_id = replay_request(engine, Config(), original_id)["request_id"]
    resolve = alert(status="resolved", fingerprint="ab1d", ends_at=later(60))
    record(engine, resolve, received_at=later(65))
    alert_view = view(engine, queries.alert_of_episode, "ab1c")
    assert (alert_view["episode"], alert_view["labels"]["n"]) == (episode("ab1c"), "1")
    for name in (episode("ab1d"), "ab1d"):
        alert_view = view(engine, queries.alert_of_episode, name)
        assert (alert_view["status"], alert_view["request_id"]) == ("firing", replay_id)
        assert alert_view["incident_ended_at"] == iso(later(65))
    assert view(engine, queries.alert_of_episode, "ab1_") is None
    assert view(engine, queries.alert_of_episode, "ab1") is None  # too short
    record(engine, alert(fingerprint="ab1d0"))
    with pytest.raises(FilterError, match="^episode: ab1d is ambiguous; pass more characters of "):
        view(engine, queries.alert_of_episode, "ab1d")
