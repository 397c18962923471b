"""Each trigger of an open alert is read once, and stored with its alert."""

from __future__ import annotations

from datetime import timedelta

import pytest

from poundcake.stackstorm import CLOCK_ALLOWANCE, TriggerInstance
from poundcake.trail import sync_round, triggers
from poundcake.trail.schema import alerts
from poundcake.trail.sync_round import Deadline
from poundcake.trail.triggers import Progress, Span, find_triggers, merge_spans, spans_to_read
from tests.lib.fake_stackstorm import OUTAGE, refusal
from tests.lib.samples import NOON, alert, later
from tests.lib.sync_trail import SyncTrail, ago

HOUR = 3600
ALLOWANCE = CLOCK_ALLOWANCE.total_seconds()


@pytest.fixture
def trail(engine):
    return SyncTrail(engine)


def read_triggers(trail, deadline=None):
    """Read triggers once, as a round does."""
    new_round = sync_round.start_round(trail.engine, "test")
    triggers_found = find_triggers(new_round, trail.stackstorm, deadline or Deadline(60))
    new_round.finish()
    return triggers_found, new_round.problems


def add_other_triggers(stackstorm, count, since, seconds):
    """Add triggers of other requests, spread evenly over `seconds`."""
    for n in range(count):
        moment = since + timedelta(seconds=seconds * n / count)
        payload = {"request_id": "other", "episode": "e", "status": "firing"}
        stackstorm.triggers[f"other{n}"] = TriggerInstance(
            f"other{n}", "processed", moment, payload
        )


def test_triggers_are_read_newest_first_and_stored_once(trail):
    request_id, (row,) = trail.record(alert(), seconds=300)
    for seconds in (200, 100):
        trail.stackstorm.emit(row, request_id, seconds=seconds)
    assert read_triggers(trail)[0].unread is None
    assert trail.one().trigger_instances == "t1,t0"
    trail.stackstorm.emit(row, request_id)
    read_triggers(trail)
    assert trail.one().trigger_instances == "t2,t1,t0"


def test_an_alert_keeps_its_newest_triggers(trail):
    request_id, (row,) = trail.record(alert(), seconds=300)
    for n in range(12):
        trail.stackstorm.emit(row, request_id, seconds=200 - n)
    read_triggers(trail)
    assert trail.one().trigger_instances == "t11,t10,t9,t8,t7,t6,t5,t4"


def test_triggers_on_several_pages_are_stored_in_order_of_time(trail):
    request_id, (row,) = trail.record(alert(), seconds=3000)
    trail.stackstorm.page = 2
    for n in range(6):
        trail.stackstorm.emit(row, request_id, seconds=2000 - n)
    read_triggers(trail)
    assert trail.one().trigger_instances == "t5,t4,t3,t2,t1,t0"


def test_nothing_is_requested_without_open_alerts(trail):
    assert read_triggers(trail)[0].unread is None
    assert trail.stackstorm.calls == []


def test_triggers_are_read_once_for_alerts_of_any_age(trail, monkeypatch):
    """An alert open for 20 h once made each round read all triggers since then: 201 pages."""
    monkeypatch.setattr(triggers, "_MAX_PAGES", 10)
    request_id, (row,) = trail.record(alert(), seconds=20 * HOUR)
    add_other_triggers(trail.stackstorm, 2000, ago(19 * HOUR), 18 * HOUR)
    trail.stackstorm.emit(row, request_id, seconds=20 * HOUR - 5)
    pages, results = [], []
    for _ in range(4):
        trail.stackstorm.calls.clear()
        answer, problems = read_triggers(trail)
        pages.append(trail.stackstorm.count("list_triggers"))
        results.append((bool(answer.unread), bool(problems), trail.one().trigger_instances))
    assert pages[:2] == [10, 10] and pages[2] < 5 and pages[3] == 1
    assert results[:2] == [(True, True, None)] * 2
    assert results[2:] == [(False, False, "t0")] * 2


def test_new_triggers_are_read_before_those_that_an_earlier_round_left_unread(trail, monkeypatch):
    monkeypatch.setattr(triggers, "_MAX_PAGES", 2)
    trail.record(alert("Old"), seconds=20 * HOUR)
    add_other_triggers(trail.stackstorm, 1000, ago(19 * HOUR), 18 * HOUR)
    read_triggers(trail)
    request_id, (row,) = trail.record(alert("New"))
    trail.stackstorm.emit(row, request_id)
    assert read_triggers(trail)[0].unread
    assert trail.rows(alerts)[1].trigger_instances == "t0"


@pytest.mark.parametrize("error", [OUTAGE, refusal()])
def test_an_unreadable_page_is_read_again_in_the_next_round(trail, error):
    request_id, (row,) = trail.record(alert(), seconds=2 * HOUR)
    add_other_triggers(trail.stackstorm, 150, ago(HOUR), 600)
    trail.stackstorm.emit(row, request_id, seconds=2 * HOUR - 5)
    second_page = sorted(t.occurred_at for t in trail.stackstorm.triggers.values())[-100]
    second_page += timedelta(milliseconds=1)
    trail.stackstorm.errors["list_triggers", second_page] = error
    triggers_found, _ = read_triggers(trail)
    assert triggers_found.unread.before == second_page and triggers_found.failure is error
    trail.stackstorm.errors.clear()
    assert read_triggers(trail)[0].unread is None
    assert trail.one().trigger_instances == "t0"


def test_a_round_that_has_no_time_left_reads_nothing_and_reports_it(trail):
    trail.record(alert())
    triggers_found, problems = read_triggers(trail, Deadline(0))
    assert triggers_found.unread.before is None and "no time" in problems[0]


@pytest.mark.parametrize(
    "payload",
    [
        {"request_id": None},
        {"request_id": ["x"], "episode": {}, "status": 5},
        {"request_id": "\ud800" * 36},
        {"request_id": "x" * 100_000},
        {"request_id": "a\x00b"},
    ],
)
def test_malformed_payloads_are_skipped(trail, payload):
    request_id, (row,) = trail.record(alert())
    trail.stackstorm.emit(row, request_id, payload=payload)
    trail.stackstorm.emit(row, request_id)
    invalid_id = trail.stackstorm.emit(row, request_id)
    trigger = trail.stackstorm.triggers.pop(invalid_id)
    trail.stackstorm.triggers["a,b"] = TriggerInstance(
        "a,b", "x", trigger.occurred_at, trigger.payload
    )
    read_triggers(trail)
    assert trail.one().trigger_instances == "t1"


def test_triggers_without_an_id_or_a_time_are_reported(trail):
    trail.record(alert())
    trail.stackstorm.unreadable = 3
    assert read_triggers(trail)[1] == ["left out 3 triggers without an id, time or payload"]


def test_the_clocks_of_the_database_and_of_stackstorm_are_never_compared(trail):
    """Sync once searched for triggers in the future if the database was ahead of StackStorm."""
    for offset in (-2, 2):
        trail.stackstorm.clock_offset = timedelta(hours=offset)
        request_id, (row,) = trail.record(alert(f"Offset{offset}"))
        trail.stackstorm.emit(row, request_id, seconds=1)
        read_triggers(trail)
        assert trail.rows(alerts)[-1].trigger_instances


def test_new_triggers_are_found_after_stackstorms_clock_was_set_back(trail):
    request_id, (row,) = trail.record(alert(), seconds=600)
    trail.stackstorm.emit(row, request_id)
    read_triggers(trail)
    trail.stackstorm.clock_offset = timedelta(hours=-2)
    trail.stackstorm.emit(row, request_id)
    read_triggers(trail)
    assert "t1" in trail.one().trigger_instances


@pytest.mark.parametrize(
    "progress, start, recent, gap",
    [
        (Progress(), 0, 0, None),
        (Progress(later(3600)), 0, 3600 - ALLOWANCE, None),
        (Progress(later(3600)), 3500, 3500, None),
        (Progress(later(9999)), 0, 4000 - ALLOWANCE, None),
        (Progress(later(3600), Span(later(100), later(200))), 0, 3600 - ALLOWANCE, (100, 200)),
        (Progress(later(3600), Span(later(100), later(200))), 150, 3600 - ALLOWANCE, (150, 200)),
        (Progress(later(3600), Span(later(100), later(200))), 200, 3600 - ALLOWANCE, None),
    ],
)
def test_a_round_reads_new_triggers_and_those_that_earlier_rounds_left_unread(
    progress, start, recent, gap
):
    expected = Span(later(gap[0]), later(gap[1])) if gap else None
    spans = spans_to_read(progress, later(start), later(4000))
    assert spans == (Span(later(recent), None), expected)


@pytest.mark.parametrize(
    "newer, older, expected",
    [
        (None, None, None),
        ((5, 9), None, (5, 9)),
        (None, (1, 2), (1, 2)),
        ((5, 9), (1, 2), (1, 9)),
        ((5, None), (1, 2), (1, None)),
    ],
)
def test_unread_spans_are_merged(newer, older, expected):
    def span(pair):
        return pair and Span(*(None if n is None else NOON + timedelta(seconds=n) for n in pair))

    assert merge_spans(span(newer), span(older)) == span(expected)
