"""The endpoint publishes each event of the outbox as a trigger, at least once."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from poundcake.config import Config
from poundcake.endpoint.metrics import LIMITS
from poundcake.trail import database, outbox
from poundcake.trail.outbox import Ending, EndResult
from poundcake.trail.schema import alerts, events
from tests.lib.samples import alert

ENDED = "poundcake.remediation_ended"
CLEAR_TIMES = "poundcake_remediation_seconds_to_clear"
HOSTILE_TEXT = "{{ st2kv.system.x }} \"'\\\n"


@pytest.fixture
def outbox_rig(rig):
    """Return a rig that has recorded an alert and published its triggers."""
    rig.request_id = rig.accept(alert("HostDown", fingerprint="f"))
    rig.advance()
    rig.set_explanation("execution")
    rig.advance()
    return rig


def end_remediation(rig, number=1, **fields):
    """Add the event for the end of a remediation to the outbox, as its workflow does."""
    ending = Ending(
        result=fields.pop("result", EndResult.REFUSED),
        request_id=rig.request_id,
        episode="f-1768392000000",
        execution_id=f"e{number}",
        remediation=fields.pop("remediation", "nginx"),
        **fields,
    )
    with database.transaction(rig.engine) as connection:
        outbox.add_ending(connection, ending)


def published_messages(rig):
    return [payload["message"] for payload in rig.bus.payloads(ENDED)]


def expire_leases(rig):
    with database.transaction(rig.engine) as connection:
        connection.execute(
            update(events).where(events.c.published_at.is_(None)).values(publisher_until=None)
        )


def unpublished_ids(rig):
    with database.reading(rig.engine) as connection:
        return connection.scalars(select(events.c.id).where(events.c.published_at.is_(None))).all()


def count_ended(rig, remediation, result):
    """Return the value of the metric for a remediation and a result."""
    labels = {"remediation": remediation, "result": result}
    return get_sample(rig, "poundcake_remediations_total", **labels)


def get_sample(rig, name, **labels):
    return rig.metrics._registry.get_sample_value(name, labels)


def test_an_event_is_published_once_with_the_request_id_as_its_trace_tag(outbox_rig):
    end_remediation(outbox_rig, message="why", target="web-1", action="linux.service")
    outbox_rig.advance(5)
    outbox_rig.advance(5)
    (payload,) = outbox_rig.bus.payloads(ENDED)
    assert {k: payload[k] for k in ("result", "message", "action", "target", "alert_name")} == {
        "result": "refused",
        "message": "why",
        "action": "linux.service",
        "target": "web-1",
        "alert_name": "HostDown",
    }
    assert [tag for name, _, tag in outbox_rig.bus.published if name == ENDED] == [
        outbox_rig.request_id
    ]
    assert unpublished_ids(outbox_rig) == []


def test_the_text_of_an_event_is_inert(outbox_rig):
    end_remediation(outbox_rig, message=HOSTILE_TEXT)
    outbox_rig.advance(5)
    assert published_messages(outbox_rig) == ["(( st2kv.system.x )) ”’/ "]


def test_events_wait_while_the_broker_is_down(outbox_rig):
    outbox_rig.bus.is_down = True
    end_remediation(outbox_rig, message="why")
    outbox_rig.advance(5)
    assert published_messages(outbox_rig) == []
    outbox_rig.bus.is_down = False
    expire_leases(outbox_rig)
    outbox_rig.advance(60)
    assert published_messages(outbox_rig) == ["why"]


def test_an_event_that_the_broker_refuses_does_not_delay_the_others(outbox_rig):
    outbox_rig.bus.refuses = lambda trigger, payload: payload.get("message") == "1"
    for number in range(3):
        end_remediation(outbox_rig, number, message=str(number))
    outbox_rig.advance(5)
    assert sorted(published_messages(outbox_rig)) == ["0", "2"]
    assert len(unpublished_ids(outbox_rig)) == 1


def test_an_event_that_could_not_be_marked_as_published_is_published_again(outbox_rig, monkeypatch):
    end_remediation(outbox_rig, message="why")
    with monkeypatch.context() as patch:

        def fail(engine, event_ids):
            raise database.DatabaseError("the database is down")

        patch.setattr(outbox, "mark_published", fail)
        outbox_rig.advance(5)
    first_payloads = outbox_rig.bus.payloads(ENDED)
    expire_leases(outbox_rig)
    outbox_rig.advance(60)
    assert {payload["event_id"] for payload in outbox_rig.bus.payloads(ENDED)} == {
        first_payloads[0]["event_id"]
    }
    assert unpublished_ids(outbox_rig) == []


def test_an_event_claimed_by_another_endpoint_is_not_published(outbox_rig):
    end_remediation(outbox_rig, message="why")
    assert len(outbox.claim(outbox_rig.engine, "other")) == 1
    outbox_rig.advance(5)
    assert published_messages(outbox_rig) == []


def test_ended_remediations_are_counted_by_name_and_result(outbox_rig):
    outbox_rig.bus.config = Config(allowed_actions=("linux.service",))
    end_remediation(outbox_rig, 1, remediation="linux.service")
    end_remediation(
        outbox_rig, 2, remediation="linux.service", result=EndResult.FAILED, follows_change=True
    )
    outbox_rig.advance(5)
    assert count_ended(outbox_rig, "linux.service", "refused") == 1
    assert count_ended(outbox_rig, "linux.service", "failed") == 1
    assert get_sample(outbox_rig, CLEAR_TIMES + "_count", remediation="linux.service") == 0


@pytest.mark.parametrize("seconds", [240, 0])
def test_the_time_to_clear_is_observed_for_changes_that_cleared_their_alert(outbox_rig, seconds):
    outbox_rig.bus.config = Config(allowed_actions=("linux.service",))
    with database.transaction(outbox_rig.engine) as connection:
        received_at = connection.scalar(select(alerts.c.created_at))
        closed_at = received_at + timedelta(seconds=seconds)
        connection.execute(update(alerts).values(closed_at=closed_at, open_fingerprint=None))
    end_remediation(outbox_rig, 1, remediation="linux.service", result=EndResult.CLEARED)
    end_remediation(outbox_rig, 2, remediation="linux.service", result=EndResult.NOT_CLEARED)
    outbox_rig.advance(5)
    labels = {"remediation": "linux.service"}
    assert get_sample(outbox_rig, CLEAR_TIMES + "_count", **labels) == 1
    assert get_sample(outbox_rig, CLEAR_TIMES + "_sum", **labels) == seconds
    published = {p["result"]: p["seconds_to_clear"] for p in outbox_rig.bus.payloads(ENDED)}
    assert published == {"cleared": seconds, "not_cleared": 0}


def test_an_event_of_an_earlier_release_has_no_time_to_clear(outbox_rig):
    outbox_rig.bus.config = Config(allowed_actions=("linux.service",))
    end_remediation(outbox_rig, remediation="linux.service", result=EndResult.CLEARED)
    with database.transaction(outbox_rig.engine) as connection:
        payload = json.loads(connection.scalar(select(events.c.payload)))
        del payload["seconds_to_clear"]
        connection.execute(update(events).values(payload=json.dumps(payload)))
    outbox_rig.advance(5)
    assert count_ended(outbox_rig, "linux.service", "cleared") == 1
    assert get_sample(outbox_rig, CLEAR_TIMES + "_count", remediation="linux.service") == 0


def test_limits_are_counted_by_name(outbox_rig):
    outbox_rig.bus.config = Config(max_remediations_per_hour=1)
    end_remediation(outbox_rig, refusal="storm")
    outbox_rig.accept(*[alert("A", fingerprint=name) for name in "ab"])
    outbox_rig.advance(5)
    name = "poundcake_limits_reached_total"
    counts = {limit: get_sample(outbox_rig, name, limit=limit) for limit in LIMITS}
    assert counts == {"storm": 1, "rate_limit": 1, "site_limit": 0, "breaker": 0}
