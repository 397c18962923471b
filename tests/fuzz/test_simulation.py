"""Simulate Prometheus and Alertmanager, and check that a broken admission rule is detected.

README.md lists the cases in which no receiver has enough information to decide correctly.
"""

from __future__ import annotations

import datetime
import os
from collections import Counter
from dataclasses import replace

import pytest

from poundcake.alertmanager import episode_name
from poundcake.trail import admission, record
from tests.fuzz.simulation import Simulation, Violation

# `make fuzz` runs 10,000 seeds; SIMULATION_SEEDS=38 or 0-10000 selects others.
SEEDS = {"fuzz": "0-10000"}.get(os.environ.get("HYPOTHESIS_PROFILE", ""), "0-200")
SEED_COUNT = 600
"""This many seeds are enough to detect each broken rule."""


def selected_seeds():
    first, _, last = os.environ.get("SIMULATION_SEEDS", SEEDS).partition("-")
    return range(int(first), int(last or int(first) + 1))


def test_admission_keeps_every_invariant():
    case_counts, seeds = Counter(), selected_seeds()
    for seed in seeds:
        case_counts += Simulation(seed).run_all()
    print(*sorted(case_counts.items()), sep="\n")
    if len(seeds) >= 50:  # enough seeds to cover the interesting cases
        for name in ("admitted", "resolved", "duplicate", "unconfirmed", "confirmed", "superseded"):
            assert case_counts[name] >= len(seeds) // 50, name


def test_the_same_seed_produces_the_same_simulation():
    simulations = [Simulation(7) for _ in range(2)]
    assert simulations[0].run_all() == simulations[1].run_all()
    assert simulations[0].format_timeline() == simulations[1].format_timeline()
    assert simulations[0].format_timeline() != Simulation(8).format_timeline()


def test_a_violation_shows_the_seed_and_the_timeline(monkeypatch):
    monkeypatch.setattr(admission, "REFIRE_GRACE", datetime.timedelta(0))
    with pytest.raises(Violation) as raised:
        for seed in range(SEED_COUNT):
            Simulation(seed).run_all()
    lines = str(raised.value).splitlines()
    assert lines[0] == f"seed {seed}: {lines[-1]}"
    assert any("recorded #1: admitted, new incident" in line for line in lines)


decide_resolve = admission._decide_resolve
judge_refire = admission._judge_refire
belongs_to = admission._belongs_to
by_database_clock = record._convert_to_database_clock
FOREVER = datetime.datetime.max.replace(tzinfo=datetime.timezone.utc)


def resolve_whenever_received(alert, received_at, incident):
    return decide_resolve(alert, FOREVER, incident)


def resolve_of_any_occurrence(alert, received_at, incident):
    return decide_resolve(alert, received_at, incident and replace(incident, sender_starts_at=None))


def resolve_by_our_clock(alert, received_at, incident):
    by_our_clock = incident and replace(incident, sender_starts_at=incident.starts_at)
    return decide_resolve(alert, received_at, by_our_clock)


def refire_by_our_clock(alert, received_at, resolves):
    resolves = [replace(r, ends_at=r.received_at) for r in resolves]
    return judge_refire(replace(alert, starts_at=received_at), received_at, resolves)


def refire_without_late_resolves(alert, received_at, resolves):
    return judge_refire(alert, received_at, [r for r in resolves if r.received_at <= received_at])


def supersede_by_our_clock(alert, incident, skew):
    return belongs_to(alert, replace(incident, sender_starts_at=incident.starts_at), skew)


def sender_start(alert, received_at):
    return alert.starts_at or received_at


def name_by_start(fingerprint, starts_at, received_at, known_episodes):
    return episode_name(fingerprint, starts_at)


def unmeasured_clock(requests, offset, now):
    return by_database_clock(requests, datetime.timedelta(0), now)


BROKEN_RULES = {
    "resolves in the order of recording": (admission, "_decide_resolve", resolve_whenever_received),
    "resolves of any occurrence": (admission, "_decide_resolve", resolve_of_any_occurrence),
    "ends compared with our clock": (admission, "_decide_resolve", resolve_by_our_clock),
    "refires compared with our clock": (admission, "_judge_refire", refire_by_our_clock),
    "starts compared with our clock": (admission, "_belongs_to", supersede_by_our_clock),
    "no grace": (admission, "REFIRE_GRACE", datetime.timedelta(0)),
    "a third of the grace period": (admission, "REFIRE_GRACE", datetime.timedelta(seconds=30)),
    "confirmed immediately": (admission, "CONFIRM_AFTER", datetime.timedelta(0)),
    "confirmed after a minute": (admission, "CONFIRM_AFTER", datetime.timedelta(minutes=1)),
    "never confirmed": (admission, "CONFIRM_AFTER", datetime.timedelta(days=1)),
    "late duplicates": (admission, "_judge_refire", refire_without_late_resolves),
    "starts in the future": (admission, "compute_start", sender_start),
    "reused names": (admission, "_choose_episode_name", name_by_start),
    "clocks of the endpoints": (record, "_convert_to_database_clock", unmeasured_clock),
}


@pytest.mark.parametrize("rule", sorted(BROKEN_RULES))
def test_a_broken_rule_is_detected(rule, monkeypatch):
    monkeypatch.setattr(*BROKEN_RULES[rule])
    for seed in range(SEED_COUNT):
        try:
            Simulation(seed).run_all()
        except Violation as violation:
            print(seed, str(violation).splitlines()[-1])
            return
    raise AssertionError(f"{rule}: no violation was found with {SEED_COUNT} seeds")
