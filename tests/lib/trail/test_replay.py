"""A replay records a request again. Without force, it never remediates an episode twice."""

from __future__ import annotations

import dataclasses
import datetime
import json
import uuid

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from poundcake import request_ids
from poundcake.config import Config
from poundcake.trail import admission, claims, database
from poundcake.trail.errors import TrackingError
from poundcake.trail.record import record_requests
from poundcake.trail.replay import replay_request
from poundcake.trail.schema import alerts, api_calls, links
from tests.lib.samples import UTC, alert, request
from tests.lib.trails import database_time, on_sqlite

WORKFLOW = "poundcake.host_down"
NOW = None


@pytest.fixture(autouse=True)
def now():
    """Set NOW to the time of the test instead of the time of the import."""
    global NOW
    NOW = datetime.datetime.now(UTC).replace(microsecond=0)


def ago(minutes):
    return NOW - datetime.timedelta(minutes=minutes)


def firing(name="A", start=60, **more):
    return alert(name, starts_at=ago(start), fingerprint=name, **more)


def resolved(name="A", start=60, end=30):
    return alert(name, "resolved", starts_at=ago(start), ends_at=ago(end), fingerprint=name)


def record(engine, *found, minutes=59, **config):
    """Record one request with these alerts, and return its id."""
    sent = request(*found, received_at=ago(minutes))
    config.setdefault("cooldown_seconds", 0)
    record_requests(engine, Config(**config), [sent])
    return sent.request_id


def replay(engine, request_id, force=False, execution="", **config):
    config.setdefault("cooldown_seconds", 0)
    return replay_request(engine, Config(**config), request_id, force, execution)


def rows(engine, request_id=None):
    """Return the alerts of a request, or all alerts, in order."""
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


def gets_claim(engine, request_id, execution, workflow=WORKFLOW):
    """Return True if an execution for the request's first alert gets the claim."""
    row = rows(engine, request_id)[0]
    return claims.link(engine, request_id, row.episode, workflow, execution)["claimed"]


def test_a_replay_is_a_separate_request(engine):
    first = record(engine, firing())
    replayed = replay(engine, first)
    assert replayed == {
        "request_id": replayed["request_id"],
        "replay_of": first,
        "outcomes": {"admitted": 1},
    }
    assert str(uuid.UUID(replayed["request_id"])) == replayed["request_id"] != first
    old, new = call(engine, first), call(engine, replayed["request_id"])
    assert (new.replay_of, old.replay_of) == (first, None)
    for column in ("method", "path", "headers", "body", "body_sha256", "receiver", "delivery_key"):
        assert getattr(new, column) == getattr(old, column)
    assert (new.client_host, new.client_request_id, new.error) == ("", None, None)
    assert new.created_at >= NOW
    assert new.completed_at is None


@on_sqlite
@pytest.mark.parametrize("request_id", [str(uuid.UUID(int=1)), "", "'%s"])
def test_an_unrecorded_request_is_an_error(engine, request_id):
    for execution in ("", "e1"):
        with pytest.raises(TrackingError, match=f"^request_id: {request_id} is not"):
            replay(engine, request_id, execution=execution)
    assert rows(engine) == []


def test_it_takes_over_the_open_incident(engine):
    first = record(engine, firing())
    new = replay(engine, first)["request_id"]
    old, row = rows(engine)
    assert (old.open_fingerprint, row.open_fingerprint) == (None, "A")
    assert old.closed_at == row.created_at
    assert (row.outcome, row.reason) == ("admitted", f"replay of {first}")
    assert (row.episode, row.starts_at, row.attempt) == (old.episode, old.starts_at, 1)
    # One execution works, regardless of which of the two requests started it.
    assert gets_claim(engine, first, "e1")
    assert not gets_claim(engine, new, "e2")
    # Later notifications refer to the same incident.
    again = record(engine, firing(), minutes=0)
    ended = record(engine, resolved(end=0), minutes=0)
    assert [rows(engine, r)[0].outcome for r in (again, ended)] == ["duplicate", "resolved"]
    assert rows(engine)[1].closed_at == ago(0)


def test_a_held_back_alert_is_admitted_after_the_limit_has_ended(engine):
    limit = {"max_remediations_per_hour": 1}
    several = [alert("A", starts_at=ago(70), fingerprint=f) for f in ("one", "two")]
    with database_time(ago(65)):
        first = record(engine, *several, minutes=65, **limit)
    assert [row.outcome for row in rows(engine)] == ["admitted", "rate_limited"]
    assert gets_claim(engine, first, "e1")
    new = replay(engine, first, **limit)["request_id"]
    assert [row.outcome for row in rows(engine, new)] == ["duplicate", "admitted"]
    assert rows(engine, new)[1].open_fingerprint == "two"


@on_sqlite
@pytest.mark.parametrize(
    "config, outcome",
    [({"cooldown_seconds": 7200}, "cooldown"), ({"max_remediations_per_hour": 1}, "rate_limited")],
)
def test_limits_apply_unless_forced(engine, config, outcome):
    first = record(engine, firing())
    assert replay(engine, first, **config)["outcomes"] == {outcome: 1}
    assert [row.open_fingerprint for row in rows(engine)] == ["A", None]
    assert replay(engine, first, force=True, **config)["outcomes"] == {"admitted": 1}


def test_an_episode_that_was_worked_on_is_left_alone(engine):
    first = record(engine, firing())
    assert gets_claim(engine, first, "e1")
    replayed = replay(engine, first)
    assert replayed["outcomes"] == {"duplicate": 1}
    (row,) = rows(engine, replayed["request_id"])
    assert row.reason == (
        f"replay of {first}: {WORKFLOW} (e1) has worked on this episode; force=true runs it again"
    )
    assert row.explanation == "none"
    assert call(engine, replayed["request_id"]).completed_at
    assert [row.open_fingerprint for row in rows(engine)] == ["A", None]


@on_sqlite
def test_a_released_episode_is_admitted_again(engine):
    first = record(engine, firing())
    assert gets_claim(engine, first, "e1")
    claims.release(engine, rows(engine)[0].episode, force=True)
    new = replay(engine, first)["request_id"]
    assert gets_claim(engine, new, "e2")


def test_each_forced_replay_is_another_attempt(engine):
    first = record(engine, firing())
    assert gets_claim(engine, first, "e1")
    for attempt in (2, 3):
        new = replay(engine, first, force=True)["request_id"]
        (row,) = rows(engine, new)
        assert (row.attempt, row.episode) == (attempt, rows(engine, first)[0].episode)
        assert gets_claim(engine, new, f"e{attempt}")
        assert not gets_claim(engine, new, "another")
        assert not gets_claim(engine, first, "another")
    with database.reading(engine) as connection:
        claim_keys = connection.scalars(select(links.c.claim).order_by(links.c.id)).all()
    key = f"{row.episode}|{WORKFLOW}"
    assert claim_keys == [key, key + "|2", key + "|3"]
    released = claims.release(engine, row.episode, force=True)
    assert [r["st2_execution_id"] for r in released] == ["e1", "e2", "e3"]
    assert gets_claim(engine, new, "e4")


@on_sqlite
def test_an_ended_incident_is_not_admitted(engine):
    first = record(engine, firing())
    record(engine, resolved(), minutes=29)
    replayed = replay(engine, first)
    (row,) = rows(engine, replayed["request_id"])
    assert (row.outcome, row.episode) == ("duplicate", rows(engine, first)[0].episode)
    assert row.reason == f"replay of {first}: the incident has ended"


def test_force_admits_an_ended_incident_which_stays_closed(engine):
    first = record(engine, firing())
    assert gets_claim(engine, first, "e1")
    record(engine, resolved(), minutes=29)
    new = replay(engine, first, force=True)["request_id"]
    (row,) = rows(engine, new)
    assert (row.outcome, row.attempt) == ("admitted", 2)
    assert (row.episode, row.starts_at) == (rows(engine)[0].episode, ago(60))
    assert [row.open_fingerprint for row in rows(engine)] == [None] * 3
    assert gets_claim(engine, new, "e2")


@on_sqlite
def test_a_resolve_does_not_close_a_later_incident(engine):
    record(engine, firing())
    ended = record(engine, resolved(), minutes=29)
    record(engine, firing(start=20), minutes=19)
    assert replay(engine, ended)["outcomes"] == {"duplicate": 1}
    # With its old start, as after an outage of Prometheus.
    record(engine, resolved(start=20, end=18), minutes=17)
    record(engine, firing(), minutes=5)
    assert rows(engine)[-1].open_fingerprint == "A"
    assert replay(engine, ended)["outcomes"] == {"duplicate": 1}
    assert [row.open_fingerprint for row in rows(engine) if row.open_fingerprint] == ["A"]


@on_sqlite
def test_a_resolve_does_not_close_an_incident_with_a_later_notification(engine):
    ended = record(engine, resolved(), minutes=29)
    record(engine, firing(), minutes=15)
    assert replay(engine, ended)["outcomes"] == {"duplicate": 1}
    assert (
        rows(engine)[-1].reason == f"replay of {ended}: the open incident has a later notification"
    )
    assert rows(engine)[1].open_fingerprint == "A"


@on_sqlite
def test_the_replay_of_a_failed_resolve_closes_its_incident(engine, monkeypatch):
    record(engine, firing(), minutes=59)
    with monkeypatch.context() as broken:
        broken.setattr(admission, "decide", None)
        ended = record(engine, resolved(), minutes=29)
    assert call(engine, ended).error
    record(engine, firing("B"), minutes=59)
    assert replay(engine, ended)["outcomes"] == {"resolved": 1}
    with monkeypatch.context() as broken:
        broken.setattr(admission, "decide", None)
        ended = record(engine, resolved("B"), minutes=29)
    record(engine, firing("B"), minutes=15)
    assert replay(engine, ended)["outcomes"] == {"duplicate": 1}


@on_sqlite
def test_a_replay_does_not_count_as_a_notification(engine):
    """A resolve that was received before the replay and recorded after it ends the incident."""
    first = record(engine, firing(), minutes=59)
    replay(engine, first)
    assert rows(engine)[-1].last_seen_at == ago(59)
    record(engine, resolved(), minutes=1)
    assert rows(engine)[-1].outcome == "resolved"


@on_sqlite
def test_a_replayed_resolve_does_not_make_the_next_notification_unconfirmed(engine):
    first = record(engine, firing())
    ended = record(engine, resolved(), minutes=29)
    replay(engine, ended)
    # Prometheus sends the alert again, with the old start.
    again = request(firing(), received_at=datetime.datetime.now(UTC))
    assert record_requests(engine, Config(cooldown_seconds=0), [again])["outcomes"] == {
        "admitted": 1
    }
    assert rows(engine)[-1].episode != rows(engine, first)[0].episode


@on_sqlite
def test_alerts_of_all_kinds_in_one_request(engine):
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


@on_sqlite
def test_a_formerly_malformed_alert_is_decided_as_a_new_one(engine, monkeypatch):
    """An older release may have accepted fewer payloads."""
    decide = admission.decide

    def narrower(found, *args):
        return decide(dataclasses.replace(found, problem="alerts[0]: unknown"), *args)

    with monkeypatch.context() as patch:
        patch.setattr(admission, "decide", narrower)
        first = record(engine, firing())
    assert [row.outcome for row in rows(engine)] == ["malformed"]
    assert replay(engine, first)["outcomes"] == {"admitted": 1}


@on_sqlite
def test_force_admits_an_ended_episode_once(engine):
    first = record(engine, firing("A"), firing("A", start=61))
    record(engine, resolved(), minutes=29)
    new = replay(engine, first, force=True)["request_id"]
    assert [row.outcome for row in rows(engine, new)] == ["admitted", "duplicate"]


@on_sqlite
def test_a_replay_of_a_replay_names_the_replay(engine):
    first = record(engine, firing())
    second = replay(engine, first)["request_id"]
    third = replay(engine, second)["request_id"]
    assert call(engine, third).replay_of == second
    assert len({row.episode for row in rows(engine)}) == 1


class TestRequestingExecution:
    """After a broken connection, it does not know whether its transaction was committed."""

    def test_an_execution_replays_a_request_once(self, engine):
        first = record(engine, firing("A"), firing("B"))
        replays = [replay(engine, first, True, "execution-1") for _ in range(2)]
        assert replays[0] == replays[1]
        assert replays[0]["outcomes"] == {"admitted": 2}
        assert len(rows(engine)) == 4

    def test_a_broken_commit_is_retried_without_a_second_attempt(self, engine):
        """The server commits, and the connection breaks before the confirmation arrives."""
        first = record(engine, firing())
        assert gets_claim(engine, first, "e1")
        breaks = [True]

        def after_commit(connection):
            if breaks and breaks.pop():
                raise OperationalError("COMMIT", {}, Exception(2013, "Lost connection"))

        commit = type(engine.dialect).do_commit

        def do_commit(connection):
            commit(engine.dialect, connection)
            after_commit(connection)

        engine.dialect.do_commit = do_commit
        result = database.retry_while_unavailable(
            lambda: replay(engine, first, True, "execution-1"), 30
        )
        assert not breaks
        assert [row.attempt for row in rows(engine)] == [1, 2]
        assert call(engine, result["request_id"]).replay_of == first

    @on_sqlite
    def test_another_execution_replays_the_request_again(self, engine):
        first = record(engine, firing())
        replays = {replay(engine, first, True, f"execution-{n}")["request_id"] for n in range(3)}
        assert len(replays) == 3

    @on_sqlite
    def test_an_execution_can_replay_several_requests(self, engine):
        requests = [record(engine, firing(name)) for name in "AB"]
        replays = {
            replay(engine, request_id, True, "execution-1")["request_id"] for request_id in requests
        }
        assert len(replays) == 2

    @on_sqlite
    def test_the_action_passes_its_own_execution(self, engine, database_url, run_action):
        first = record(engine, firing())
        replays = [
            run_action("replay", execution, request_id=first, force=True)["request_id"]
            for execution in ("one", "one", "other")
        ]
        assert replays[0] == replays[1] != replays[2]
        assert replays[0] == request_ids.replay_id(first, "one")

    @on_sqlite
    def test_the_action_passes_the_workflow_that_runs_it(self, engine, run_action):
        first = record(engine, firing())
        replays = [
            run_action("replay", execution, request_id=first, force=True, execution_id="flow")
            for execution in ("task one", "task two")
        ]
        assert replays[0]["request_id"] == replays[1]["request_id"]


class TestFailed:
    """The original is recorded with an error and without alerts."""

    @pytest.fixture
    def failed(self, engine, monkeypatch):
        def faulty(*_):
            raise ValueError("a fault")

        with monkeypatch.context() as patch:
            patch.setattr(admission, "decide", faulty)
            return record(engine, firing("A"), firing("B"))

    @pytest.mark.parametrize("force", [False, True])
    def test_it_is_recorded_as_a_new_request(self, engine, failed, force):
        record(engine, firing("B"))
        replayed = replay(engine, failed, force)
        assert replayed["outcomes"] == {"admitted": 1, "duplicate": 1}
        first, _ = rows(engine, replayed["request_id"])
        assert (first.reason, first.open_fingerprint, first.attempt) == ("new incident", "A", 1)
        assert call(engine, replayed["request_id"]).replay_of == failed
        assert call(engine, failed).error == "a fault"

    def test_a_replay_can_fail_again(self, engine):
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

    def test_headers_and_text_are_unchanged(self, engine):
        text = "{{ x }} \ud800 日本 '; --"
        sent = request(firing(labels={"x": text}), headers={"User-Agent": text})
        record_requests(engine, Config(), [sent])
        new = replay(engine, sent.request_id)["request_id"]
        assert json.loads(call(engine, new).headers) == {"User-Agent": text}
        assert json.loads(rows(engine, new)[0].labels)["x"] == text
