"""A replay records a request anew, and is never by itself a second remediation of an episode."""

import dataclasses
import datetime
import json
import uuid

import pytest
from sqlalchemy import select

from poundcake.config import Config
from poundcake.trail import admission, claims, database
from poundcake.trail.record import TrackingError, record_requests
from poundcake.trail.replay import replay_request
from poundcake.trail.schema import alerts, api_calls, links
from tests.lib.samples import UTC, alert, request

WORKFLOW = "poundcake.host_down"
NOW = None


@pytest.fixture(autouse=True)
def now():
    """A replay comes now: at the time of the test, not of the file's import."""
    global NOW
    NOW = datetime.datetime.now(UTC).replace(microsecond=0)


def ago(minutes):
    return NOW - datetime.timedelta(minutes=minutes)


def firing(name="A", start=60, **more):
    return alert(name, starts_at=ago(start), fingerprint=name, **more)


def resolved(name="A", start=60, end=30):
    return alert(name, "resolved", starts_at=ago(start), ends_at=ago(end), fingerprint=name)


def record(engine, *found, minutes=59, **config):
    """Records one request with these alerts; returns its id."""
    sent = request(*found, received_at=ago(minutes))
    record_requests(engine, Config(**config), [sent])
    return sent.request_id


def replay(engine, request_id, force=False, **config):
    return replay_request(engine, Config(**config), request_id, force)


def rows(engine, request_id=None):
    """The alerts of a request, or all, in their order."""
    wanted = select(alerts).join(api_calls, api_calls.c.id == alerts.c.api_call_id)
    if request_id:
        wanted = wanted.where(api_calls.c.request_id == request_id)
    with database.reading(engine) as connection:
        return connection.execute(wanted.order_by(alerts.c.id)).all()


def call(engine, request_id):
    with database.reading(engine) as connection:
        return connection.execute(
            select(api_calls).where(api_calls.c.request_id == request_id)
        ).one()


def work(engine, request_id, execution, workflow=WORKFLOW):
    """Whether an execution that the request's first alert has started may work."""
    row = rows(engine, request_id)[0]
    return claims.link(engine, request_id, row.episode, workflow, execution)["claimed"]


def test_a_request_of_its_own(engine):
    first = record(engine, firing())
    found = replay(engine, first)
    assert found == {
        "request_id": found["request_id"],
        "replay_of": first,
        "outcomes": {"admitted": 1},
    }
    assert str(uuid.UUID(found["request_id"])) == found["request_id"] != first
    old, new = call(engine, first), call(engine, found["request_id"])
    assert (new.replay_of, old.replay_of) == (first, None)
    for column in ("method", "path", "headers", "body", "body_sha256", "receiver", "delivery_key"):
        assert getattr(new, column) == getattr(old, column)
    assert (new.client_host, new.client_request_id, new.error) == ("", None, None)
    assert new.created_at >= NOW
    assert new.completed_at is None


@pytest.mark.parametrize("request_id", [str(uuid.UUID(int=1)), "", "'%s"])
def test_what_is_not_on_record(engine, request_id):
    with pytest.raises(TrackingError, match=f"^request_id: {request_id} is not"):
        replay(engine, request_id)
    assert rows(engine) == []


def test_it_takes_over_the_open_incident(engine):
    first = record(engine, firing())
    new = replay(engine, first)["request_id"]
    old, row = rows(engine)
    assert (old.open_fingerprint, row.open_fingerprint) == (None, "A")
    assert old.closed_at == row.created_at
    assert (row.outcome, row.reason) == ("admitted", f"replay of {first}")
    assert (row.episode, row.starts_at, row.attempt) == (old.episode, old.starts_at, 1)
    # One execution works, whichever of the two requests has started it.
    assert work(engine, first, "e1")
    assert not work(engine, new, "e2")
    # What comes next is about the incident as it was.
    again = record(engine, firing(), minutes=0)
    ended = record(engine, resolved(end=0), minutes=0)
    assert [rows(engine, r)[0].outcome for r in (again, ended)] == ["duplicate", "resolved"]
    assert rows(engine)[1].closed_at == ago(0)


def test_a_limited_one_is_let_through_once_the_limit_has_gone(engine):
    limit = {"max_remediations_per_hour": 1}
    several = [alert("A", starts_at=ago(70), fingerprint=f) for f in ("one", "two")]
    first = record(engine, *several, minutes=65, **limit)
    assert [row.outcome for row in rows(engine)] == ["admitted", "rate_limited"]
    assert work(engine, first, "e1")
    new = replay(engine, first, **limit)["request_id"]
    assert [row.outcome for row in rows(engine, new)] == ["duplicate", "admitted"]
    assert rows(engine, new)[1].open_fingerprint == "two"


@pytest.mark.parametrize(
    "config, outcome",
    [({"cooldown_seconds": 7200}, "cooldown"), ({"max_remediations_per_hour": 1}, "rate_limited")],
)
def test_limits_apply_but_for_force(engine, config, outcome):
    first = record(engine, firing())
    assert replay(engine, first, **config)["outcomes"] == {outcome: 1}
    assert [row.open_fingerprint for row in rows(engine)] == ["A", None]
    assert replay(engine, first, force=True, **config)["outcomes"] == {"admitted": 1}


def test_what_was_worked_on_is_not_worked_on_again(engine):
    first = record(engine, firing())
    assert work(engine, first, "e1")
    found = replay(engine, first)
    assert found["outcomes"] == {"duplicate": 1}
    (row,) = rows(engine, found["request_id"])
    assert row.reason == (
        f"replay of {first}: {WORKFLOW} (e1) has worked on this episode; force=true runs it again"
    )
    assert row.explanation == "none"
    assert call(engine, found["request_id"]).completed_at
    assert [row.open_fingerprint for row in rows(engine)] == ["A", None]


def test_released_it_is_worked_on_again(engine):
    first = record(engine, firing())
    assert work(engine, first, "e1")
    claims.release(engine, rows(engine)[0].episode)
    new = replay(engine, first)["request_id"]
    assert work(engine, new, "e2")


def test_by_force_it_is_worked_on_once_more_each_time(engine):
    first = record(engine, firing())
    assert work(engine, first, "e1")
    for attempt in (2, 3):
        new = replay(engine, first, force=True)["request_id"]
        (row,) = rows(engine, new)
        assert (row.attempt, row.episode) == (attempt, rows(engine, first)[0].episode)
        assert work(engine, new, f"e{attempt}")
        assert not work(engine, new, "another")
        assert not work(engine, first, "another")
    with database.reading(engine) as connection:
        found = connection.scalars(select(links.c.claim).order_by(links.c.id)).all()
    key = f"{row.episode}|{WORKFLOW}"
    assert found == [key, key + "|2", key + "|3"]
    released = claims.release(engine, row.episode)
    assert [r["st2_execution_id"] for r in released] == ["e1", "e2", "e3"]
    assert work(engine, new, "e4")


def test_a_long_workflow_name_keeps_its_attempts_apart():
    keys = {claims.claim_key("e" * 96, "w" * 255, attempt) for attempt in (1, 2, 3)}
    assert len(keys) == 3
    assert max(map(len, keys)) <= 255


def test_what_has_ended_is_not_worked_on(engine):
    first = record(engine, firing())
    record(engine, resolved(), minutes=29)
    found = replay(engine, first)
    (row,) = rows(engine, found["request_id"])
    assert (row.outcome, row.episode) == ("duplicate", rows(engine, first)[0].episode)
    assert row.reason == f"replay of {first}: nothing open, the incident has ended"


def test_what_has_ended_is_worked_on_by_force_and_opens_nothing(engine):
    first = record(engine, firing())
    assert work(engine, first, "e1")
    record(engine, resolved(), minutes=29)
    new = replay(engine, first, force=True)["request_id"]
    (row,) = rows(engine, new)
    assert (row.outcome, row.attempt) == ("admitted", 2)
    assert (row.episode, row.starts_at) == (rows(engine)[0].episode, ago(60))
    assert [row.open_fingerprint for row in rows(engine)] == [None] * 3
    assert work(engine, new, "e2")


def test_a_resolve_closes_nothing_that_came_later(engine):
    record(engine, firing())
    ended = record(engine, resolved(), minutes=29)
    record(engine, firing(start=20), minutes=19)
    assert replay(engine, ended)["outcomes"] == {"duplicate": 1}
    # Under its old start, as after an outage of Prometheus.
    record(engine, resolved(start=20, end=18), minutes=17)
    record(engine, firing(), minutes=5)
    assert rows(engine)[-1].open_fingerprint == "A"
    assert replay(engine, ended)["outcomes"] == {"duplicate": 1}
    assert [row.open_fingerprint for row in rows(engine) if row.open_fingerprint] == ["A"]


def test_a_resolve_that_was_overtaken_closes_what_it_is_about(engine):
    ended = record(engine, resolved(), minutes=29)
    record(engine, firing(), minutes=15)
    assert rows(engine)[-1].open_fingerprint == "A"
    assert replay(engine, ended)["outcomes"] == {"resolved": 1}
    assert rows(engine)[1].closed_at == rows(engine)[2].created_at


def test_a_replayed_resolve_makes_no_notification_late(engine):
    first = record(engine, firing())
    ended = record(engine, resolved(), minutes=29)
    replay(engine, ended)
    # Prometheus is heard again, with the old start.
    again = request(firing(), received_at=datetime.datetime.now(UTC))
    assert record_requests(engine, Config(), [again])["outcomes"] == {"admitted": 1}
    assert rows(engine)[-1].episode == rows(engine, first)[0].episode


def test_all_kinds_in_one_request(engine):
    first = record(
        engine,
        firing("A"),
        firing("B"),
        firing("A"),
        {"labels": "broken"},
        firing("B", start=61),
        resolved("C"),
    )
    new = replay(engine, first)["request_id"]
    assert [row.outcome for row in rows(engine, new)] == [
        "admitted",
        "admitted",
        "duplicate",
        "malformed",
        "duplicate",
        "duplicate",
    ]
    assert "alerts[3].labels" in rows(engine, new)[3].reason
    assert rows(engine, new)[4].reason == f"duplicate of {new}"
    forced = replay(engine, first, force=True)["request_id"]
    assert [row.outcome for row in rows(engine, forced)].count("admitted") == 2


def test_what_was_malformed_and_can_be_read_now_is_as_if_it_came_now(engine, monkeypatch):
    """An older release may have read less."""
    decide = admission.decide

    def narrower(found, *args):
        return decide(dataclasses.replace(found, problem="alerts[0]: unknown"), *args)

    with monkeypatch.context() as patch:
        patch.setattr(admission, "decide", narrower)
        first = record(engine, firing())
    assert [row.outcome for row in rows(engine)] == ["malformed"]
    assert replay(engine, first)["outcomes"] == {"admitted": 1}


def test_by_force_an_episode_that_has_ended_is_admitted_once(engine):
    first = record(engine, firing("A"), firing("A", start=61))
    record(engine, resolved(), minutes=29)
    new = replay(engine, first, force=True)["request_id"]
    assert [row.outcome for row in rows(engine, new)] == ["admitted", "duplicate"]


def test_a_replay_of_a_replay_names_the_one_it_was_asked_for(engine):
    first = record(engine, firing())
    second = replay(engine, first)["request_id"]
    third = replay(engine, second)["request_id"]
    assert call(engine, third).replay_of == second
    assert len({row.episode for row in rows(engine)}) == 1


class TestFailed:
    """The original is on record with an error and without its alerts."""

    @pytest.fixture
    def failed(self, engine, monkeypatch):
        def faulty(*_):
            raise ValueError("a fault")

        with monkeypatch.context() as patch:
            patch.setattr(admission, "decide", faulty)
            return record(engine, firing("A"), firing("B"))

    @pytest.mark.parametrize("force", [False, True])
    def test_it_is_recorded_as_if_it_came_now(self, engine, failed, force):
        record(engine, firing("B"))
        found = replay(engine, failed, force)
        assert found["outcomes"] == {"admitted": 1, "duplicate": 1}
        first, second = rows(engine, found["request_id"])
        assert (first.reason, first.open_fingerprint, first.attempt) == ("new incident", "A", 1)
        assert call(engine, found["request_id"]).replay_of == failed
        assert call(engine, failed).error == "a fault"

    def test_it_fails_again(self, engine):
        sent = request(body="no json", received_at=ago(1))
        record_requests(engine, Config(), [sent])
        with pytest.raises(TrackingError, match="cannot be read") as caught:
            replay(engine, sent.request_id)
        assert str(caught.value).startswith(f"request_id: {sent.request_id}")
        with database.reading(engine) as connection:
            (again,) = connection.execute(
                select(api_calls).where(api_calls.c.replay_of == sent.request_id)
            ).all()
        assert again.request_id in str(caught.value)
        assert "cannot be read" in again.error

    def test_headers_and_text_come_as_they_were(self, engine):
        text = "{{ x }} \ud800 日本 '; --"
        sent = request(firing(labels={"x": text}), headers={"User-Agent": text})
        record_requests(engine, Config(), [sent])
        new = replay(engine, sent.request_id)["request_id"]
        assert json.loads(call(engine, new).headers) == {"User-Agent": text}
        assert json.loads(rows(engine, new)[0].labels)["x"] == text
