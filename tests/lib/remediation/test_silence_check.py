"""Alertmanager is asked immediately before a change whether a person has silenced the alert."""

from __future__ import annotations

from dataclasses import replace

import pytest

from poundcake.monitoring import Matcher, Silence, SilenceState
from poundcake.remediation.silence_check import SilenceCheck, check_silences
from poundcake.trail.silences import ChangeSilence
from tests.lib.fake_alertmanager import FakeAlertmanager
from tests.lib.samples import NOON

LABELS = {"alertname": "HostDown", "instance": "web-1:9100"}
SILENCE = Silence("s1", (Matcher("alertname", "HostDown"),), NOON, NOON, "anna", "a new disk")


def check(*silences, labels=LABELS):
    alertmanager = FakeAlertmanager()
    alertmanager.silences_by_id = dict(enumerate(silences))
    return check_silences([alertmanager], labels)


@pytest.mark.parametrize(
    "matchers, is_silenced",
    [
        ([Matcher("alertname", "HostDown")], True),
        ([Matcher("alertname", "HostDown"), Matcher("instance", "web-1:9100")], True),
        ([Matcher("alertname", "HostDown"), Matcher("instance", "web-2:9100")], False),
        ([Matcher("alertname", "Host")], False),
        ([Matcher("alertname", "Host.*", is_regex=True)], True),
        ([Matcher("alertname", "Host", is_regex=True)], False),
        ([Matcher("alertname", "DiskFull", is_equal=False)], True),
        ([Matcher("instance", "web-1.*", is_regex=True, is_equal=False)], False),
        ([Matcher("rack", "", is_equal=False)], False),
        ([Matcher("rack", "r1", is_equal=False)], True),
        # The pack cannot evaluate this expression.
        ([Matcher("alertname", r"\pL+", is_regex=True)], True),
    ],
)
def test_a_silence_applies_if_all_its_matchers_match(matchers, is_silenced):
    assert check(replace(SILENCE, matchers=tuple(matchers))).silenced_by == (
        "anna" if is_silenced else ""
    )


@pytest.mark.parametrize(
    "other_silence",
    [
        replace(SILENCE, state=SilenceState.EXPIRED),
        replace(SILENCE, state=SilenceState.PENDING),
        replace(SILENCE, comment=ChangeSilence("e1", "nginx", "linux.service", {}, 5).comment),
    ],
    ids=["expired", "pending", "of a change"],
)
def test_other_silences_do_not_count(other_silence):
    assert check(other_silence) == SilenceCheck()
    assert check(other_silence, SILENCE).silenced_by == "anna"


def test_a_silence_may_apply_if_a_label_is_too_long_for_its_expression():
    long_labels = {**LABELS, "alertname": "x" * 5000}
    matcher = Matcher("alertname", "y", is_regex=True)
    assert check(replace(SILENCE, matchers=(matcher,)), labels=long_labels).silenced_by == "anna"


def test_one_answer_is_enough():
    silent, answering = FakeAlertmanager("http://one.example"), FakeAlertmanager()
    silent.failing_methods.add("silences")
    assert check_silences([silent, answering], LABELS) == SilenceCheck()
    answering.failing_methods.add("silences")
    assert check_silences([silent, answering], LABELS).problem == (
        "alertmanagers, http://one.example: silences: connection refused; "
        "alertmanagers, http://alertmanager.example: silences: connection refused"
    )
