"""Sync reads rule enforcements with few calls to StackStorm."""

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


def make_triggers(count, gap=0.1, first=0):
    """Return triggers at intervals of `gap` seconds, starting `first` seconds after NOON."""
    return [
        TriggerInstance(f"t{first}-{n}", "processed", later(first + gap * n), {})
        for n in range(count)
    ]


def add_enforcements(stackstorm, instances, delay=0.01):
    for instance in instances:
        at = instance.occurred_at + timedelta(seconds=delay)
        rule_enforcement = RuleEnforcement(instance.id, "pack.rule", "e-" + instance.id, "", at)
        stackstorm.enforcements.append(rule_enforcement)


def read_all(stackstorm, instances, seconds=60):
    notes = []
    return read_enforcements(stackstorm, instances, Deadline(seconds), notes.append), notes


def test_many_triggers_take_few_calls(stackstorm):
    instances = make_triggers(250)
    add_enforcements(stackstorm, instances)
    answer, _ = read_all(stackstorm, instances)
    assert {
        instance_id: len(enforcements) for instance_id, enforcements in answer.by_instance.items()
    } == {instance.id: 1 for instance in instances}
    assert len(stackstorm.calls) == 3


def test_triggers_that_no_rule_matched_have_no_enforcements(stackstorm):
    instances = make_triggers(50)
    answer, _ = read_all(stackstorm, instances)
    assert answer.by_instance == {instance.id: [] for instance in instances}
    assert len(stackstorm.calls) == 1


@pytest.mark.parametrize("count", [1, 3])
def test_a_few_triggers_are_queried_one_by_one(stackstorm, count):
    instances = make_triggers(count)
    add_enforcements(stackstorm, instances)
    answer, _ = read_all(stackstorm, instances)
    assert len(answer.by_instance) == count and stackstorm.count("get_enforcements") == count
    assert stackstorm.count("list_enforcements") == 0


def test_an_old_trigger_among_many_new_ones_is_queried_separately(stackstorm):
    old, new = make_triggers(1, first=-86400), make_triggers(150)
    noise = make_triggers(2000, gap=40, first=-86000)
    add_enforcements(stackstorm, old + noise + new)
    answer, _ = read_all(stackstorm, old + new)
    assert len(answer.by_instance) == 151 and answer.by_instance[old[0].id]
    assert stackstorm.count("get_enforcements") == 1
    assert stackstorm.count("list_enforcements") < 5


def test_many_enforcements_of_other_triggers_do_not_take_more_calls(stackstorm):
    relevant, noise = make_triggers(10, gap=60), make_triggers(5000, gap=0.12)
    noise = [
        TriggerInstance(f"noise{n}", "processed", t.occurred_at, {}) for n, t in enumerate(noise)
    ]
    add_enforcements(stackstorm, relevant + noise)
    answer, _ = read_all(stackstorm, relevant)
    assert all(answer.by_instance[instance.id] for instance in relevant)
    assert len(stackstorm.calls) <= 11


def test_triggers_are_queried_one_by_one_if_the_list_cannot_be_read(stackstorm):
    instances = make_triggers(20)
    add_enforcements(stackstorm, instances)
    stackstorm.errors["list_enforcements"] = refusal()
    answer, notes = read_all(stackstorm, instances)
    assert len(answer.by_instance) == 20 and "the fault" in notes[0]


def test_an_unreadable_trigger_is_reported_and_the_others_are_read(stackstorm):
    stackstorm.errors["get_enforcements", "t0-1"] = refusal()
    answer, _ = read_all(stackstorm, make_triggers(3))
    assert set(answer.by_instance) == {"t0-0", "t0-2"} and "the fault" in answer.failures["t0-1"]


@pytest.mark.parametrize("call, count", [("list_enforcements", 9), ("get_enforcements", 2)])
def test_an_outage_stops_the_queries(stackstorm, call, count):
    stackstorm.errors[call] = OUTAGE
    with pytest.raises(StackStormError):
        read_all(stackstorm, make_triggers(count))


def test_the_number_of_single_queries_is_limited(stackstorm):
    stackstorm.errors["list_enforcements"] = refusal()
    answer, _ = read_all(stackstorm, make_triggers(250))
    assert len(answer.by_instance) == 100
    assert read_all(stackstorm, make_triggers(250), seconds=0)[0].by_instance == {}


@pytest.mark.parametrize(
    "ages, span, expected",
    [
        ([60], 120, True),  # one more page reaches the trigger
        ([600], 60, False),  # ten pages for one trigger
        ([600] * 20, 60, True),  # ten pages for twenty triggers
        ([60, 86400], 100, True),  # one page reaches the newest trigger
    ],
)
def test_another_page_is_read_only_if_it_saves_calls(ages, span, expected):
    remaining = [TriggerInstance("t", "processed", later(-age), {}) for age in ages]
    assert is_listing_cheaper(remaining, NOON, timedelta(seconds=span)) is expected
