"""Enforcements of rules, read with few calls."""

from __future__ import annotations

from datetime import timedelta

import pytest

from poundcake.stackstorm import RuleEnforcement, StackStormError, TriggerInstance
from poundcake.trail.enforcements import is_listing_cheaper, read_enforcements
from poundcake.trail.sync_round import Deadline
from tests.lib.fake_stackstorm import OUTAGE, FakeStackStorm, refusal
from tests.lib.samples import NOON, later


@pytest.fixture
def stackstorm():
    return FakeStackStorm()


def triggers(count, gap=0.1, first=0):
    """Return a number of triggers, each `gap` seconds after the previous one."""
    return [
        TriggerInstance(f"t{first}-{n}", "processed", later(first + gap * n), {})
        for n in range(count)
    ]


def enforce(stackstorm, instances, delay=0.01):
    for instance in instances:
        at = instance.occurred_at + timedelta(seconds=delay)
        rule_enforcement = RuleEnforcement(instance.id, "pack.rule", "e-" + instance.id, "", at)
        stackstorm.enforcements.append(rule_enforcement)


def read(stackstorm, instances, seconds=60):
    notes = []
    return read_enforcements(stackstorm, instances, Deadline(seconds), notes.append), notes


def test_many_triggers_need_only_a_few_pages(stackstorm):
    storm = triggers(250)
    enforce(stackstorm, storm)
    answer, _ = read(stackstorm, storm)
    assert {i: len(enforcements) for i, enforcements in answer.by_instance.items()} == {
        t.id: 1 for t in storm
    }
    assert len(stackstorm.calls) == 3


def test_triggers_that_no_rule_matched_have_no_enforcements(stackstorm):
    storm = triggers(50)
    answer, _ = read(stackstorm, storm)
    assert answer.by_instance == {t.id: [] for t in storm} and len(stackstorm.calls) == 1


@pytest.mark.parametrize("count", [1, 3])
def test_a_few_triggers_are_queried_one_by_one(stackstorm, count):
    instances = triggers(count)
    enforce(stackstorm, instances)
    answer, _ = read(stackstorm, instances)
    assert len(answer.by_instance) == count and stackstorm.count("get_enforcements") == count
    assert stackstorm.count("list_enforcements") == 0


def test_an_old_trigger_among_many_new_ones_is_queried_separately(stackstorm):
    old, new = triggers(1, first=-86400), triggers(150)
    noise = triggers(2000, gap=40, first=-86000)
    enforce(stackstorm, old + noise + new)
    answer, _ = read(stackstorm, old + new)
    assert len(answer.by_instance) == 151 and answer.by_instance[old[0].id]
    assert stackstorm.count("get_enforcements") == 1
    assert stackstorm.count("list_enforcements") < 5


def test_other_rules_do_not_make_the_list_cost_more_than_single_calls(stackstorm):
    relevant, noise = triggers(10, gap=60), triggers(5000, gap=0.12)
    noise = [
        TriggerInstance(f"noise{n}", "processed", t.occurred_at, {}) for n, t in enumerate(noise)
    ]
    enforce(stackstorm, relevant + noise)
    answer, _ = read(stackstorm, relevant)
    assert all(answer.by_instance[t.id] for t in relevant)
    assert len(stackstorm.calls) <= 11


def test_an_unreadable_list_falls_back_to_single_calls(stackstorm):
    storm = triggers(20)
    enforce(stackstorm, storm)
    stackstorm.errors["list_enforcements"] = refusal()
    answer, notes = read(stackstorm, storm)
    assert len(answer.by_instance) == 20 and "the fault" in notes[0]


def test_an_unreadable_trigger_is_reported_and_the_others_are_read(stackstorm):
    stackstorm.errors["get_enforcements", "t0-1"] = refusal()
    answer, _ = read(stackstorm, triggers(3))
    assert set(answer.by_instance) == {"t0-0", "t0-2"} and "the fault" in answer.failures["t0-1"]


@pytest.mark.parametrize("call, count", [("list_enforcements", 9), ("get_enforcements", 2)])
def test_an_outage_stops_the_queries(stackstorm, call, count):
    stackstorm.errors[call] = OUTAGE
    with pytest.raises(StackStormError):
        read(stackstorm, triggers(count))


def test_single_calls_are_bounded(stackstorm):
    stackstorm.errors["list_enforcements"] = refusal()
    answer, _ = read(stackstorm, triggers(250))
    assert len(answer.by_instance) == 100
    assert read(stackstorm, triggers(250), seconds=0)[0].by_instance == {}


@pytest.mark.parametrize(
    "ages, span, expected",
    [
        ([60], 120, True),  # one more page is enough
        ([600], 60, False),  # ten pages for one
        ([600] * 20, 60, True),  # ten pages for twenty
        ([60, 86400], 100, True),  # the first is worth a page
    ],
)
def test_another_page_is_read_only_if_it_saves_calls(ages, span, expected):
    remaining = [TriggerInstance("t", "processed", later(-age), {}) for age in ages]
    assert is_listing_cheaper(remaining, NOON, timedelta(seconds=span)) is expected
