"""Tests of the result of an execution, given what is recorded about it."""

from __future__ import annotations

from itertools import product

import pytest

from poundcake.execution_status import STATUSES, TERMINAL, WAITING
from poundcake.remediation.safety import Refusal
from poundcake.remediation.stage import Stage
from poundcake.trail.changes import UNDECIDED, ChangeResult
from poundcake.trail.execution_results import (
    CHANGES,
    ExecutionResult,
    end_result,
    execution_result,
    has_cleared,
    result_of_refusal,
)
from poundcake.trail.outbox import EndResult
from tests.lib.samples import NOON, later

R = ExecutionResult
FLAGS = (None, False, True)
FAILURES = ("failed", "timeout", "abandoned")
ENDED_STATUSES = ("succeeded", *FAILURES, "canceled", "gone")


def result(status="succeeded", **facts):
    return execution_result(status, **facts)


class TestOpenExecutions:
    @pytest.mark.parametrize("status", [s for s in STATUSES if s not in TERMINAL])
    def test_an_open_execution_is_running_or_waits_for_a_person(self, status):
        expected = R.WAITING if status in WAITING else R.RUNNING
        for stage, mutated, change_result in product(
            ("", *Stage), (None, True), (None, "", *ChangeResult)
        ):
            facts = {"stage": stage, "mutated": mutated, "change_result": change_result}
            assert result(status, **facts) is expected, facts

    @pytest.mark.parametrize("status", ["running", "requested", "unknown", "gone", "succeeded"])
    @pytest.mark.parametrize(
        "stage, expected",
        [
            ("evidence", R.EVIDENCE),
            ("dry_run", R.DRY_RUN),
            ("refused", R.REFUSED),
            ("ended", R.REFUSED),
        ],
    )
    def test_a_recorded_report_counts_before_stackstorm_has_ended_the_workflow(
        self, status, stage, expected
    ):
        assert result(status, stage=stage, mutated=False) is expected

    @pytest.mark.parametrize("stage", ["", "remediate", "verify", "done", "link"])
    def test_other_stages_say_nothing_about_the_end(self, stage):
        assert result("running", stage=stage, mutated=False) is R.RUNNING

    def test_a_recorded_report_does_not_hide_that_the_workflow_waits_or_failed(self):
        report = {"stage": "evidence", "mutated": False}
        assert result("paused", **report) is R.WAITING
        assert result("failed", **report) is R.FAILED
        assert result("running", change_result="", **report) is R.RUNNING

    def test_a_status_that_a_later_release_of_stackstorm_adds_counts_as_running(self):
        assert result("backfilling") is R.RUNNING

    @pytest.mark.parametrize("status", ENDED_STATUSES)
    def test_a_change_in_flight_is_running_although_its_workflow_has_ended(self, status):
        for mutated in FLAGS:
            assert result(status, mutated=mutated, change_result="") is R.RUNNING


class TestChanges:
    @pytest.mark.parametrize(
        "change_result, expected",
        [
            ("cleared", R.CLEARED),
            ("not_cleared", R.NOT_CLEARED),
            ("not_verified", R.NOT_VERIFIED),
            ("failed", R.FAILED),
            ("released", R.UNKNOWN),
            ("unknown", R.UNKNOWN),
        ],
    )
    @pytest.mark.parametrize("status", ENDED_STATUSES)
    def test_the_recorded_result_of_a_change_decides(self, status, change_result, expected):
        for stage, cleared in product(("", "done", "verify", "remediate"), FLAGS):
            facts = {"stage": stage, "mutated": True, "cleared": cleared}
            assert result(status, change_result=change_result, **facts) is expected, facts

    @pytest.mark.parametrize(
        "facts",
        [{"change_result": "verified"}, {"change_result": "succeeded"}, {"mutated": True}],
    )
    def test_until_then_the_end_of_the_alert_decides(self, facts):
        assert result(**facts) is R.CHANGED
        assert result(**facts, cleared=True) is R.CLEARED
        assert result(**facts, cleared=False) is R.NOT_CLEARED

    @pytest.mark.parametrize(
        "status, stage, expected",
        [
            ("succeeded", "done", R.CHANGED),
            ("succeeded", "restarted", R.CHANGED),
            ("succeeded", "evidence", R.CHANGED),
            ("canceled", "remediate", R.CHANGED),
            ("failed", "verify", R.NOT_VERIFIED),
            ("failed", "remediate", R.FAILED),
            ("failed", "", R.FAILED),
            ("timeout", "refused", R.FAILED),
        ],
    )
    def test_a_reported_change_without_a_record_of_it(self, status, stage, expected):
        for dry_run in FLAGS:
            assert result(status, stage=stage, dry_run=dry_run, mutated=True) is expected

    def test_a_change_that_was_made_despite_a_refusal_counts_as_a_change(self):
        facts = {"change_result": "refused", "refusal": "storm"}
        assert result(mutated=True, **facts) is R.CHANGED

    @pytest.mark.parametrize(
        "status, stage, expected",
        [
            ("canceled", "link", R.CANCELED),
            ("failed", "link", R.FAILED),
            ("failed", "refused", R.REFUSED),
        ],
    )
    def test_a_granted_change_that_was_not_made_is_no_change(self, status, stage, expected):
        facts = {"stage": stage, "mutated": False, "change_result": "unknown"}
        assert result(status, **facts) is expected


class TestWithoutChange:
    @pytest.mark.parametrize("refusal", list(Refusal))
    @pytest.mark.parametrize("status", ENDED_STATUSES)
    def test_a_refusal_decides(self, status, refusal):
        special = {
            "dry_run": R.DRY_RUN,
            "no_action": R.EVIDENCE,
            "not_claimed": R.NOT_CLAIMED,
        }
        expected = special.get(str(refusal), R.REFUSED)
        for mutated, change_result in product((None, False), ("refused", None)):
            facts = {"mutated": mutated, "change_result": change_result}
            assert result(status, refusal=str(refusal), **facts) is expected

    @pytest.mark.parametrize(
        "stage, expected",
        [
            ("dry_run", R.DRY_RUN),
            ("refused", R.REFUSED),
            ("ended", R.REFUSED),
            ("not_claimed", R.NOT_CLAIMED),
        ],
    )
    def test_the_stage_decides_whether_or_not_the_workflow_failed(self, stage, expected):
        for status, dry_run, mutated in product(ENDED_STATUSES, FLAGS, (None, False)):
            assert result(status, stage=stage, dry_run=dry_run, mutated=mutated) is expected

    def test_evidence_that_could_not_be_collected_is_a_failure(self):
        assert result(stage="evidence", dry_run=True, mutated=False) is R.EVIDENCE
        assert result("failed", stage="evidence", dry_run=True, mutated=False) is R.FAILED

    @pytest.mark.parametrize("stage", ["", "alert", "link", "remediate", "verify", "done", "mine"])
    def test_the_status_decides_at_any_other_stage(self, stage):
        for dry_run, mutated in product(FLAGS, (None, False)):
            facts = {"stage": stage, "dry_run": dry_run, "mutated": mutated}
            for status in FAILURES:
                assert result(status, **facts) is R.FAILED
            assert result("canceled", **facts) is R.CANCELED
            for status in ("gone", "unknown", ""):
                assert result(status, **facts) is R.UNKNOWN
            expected = R.EVIDENCE if mutated is False else R.OTHER
            assert result("succeeded", **facts) is (R.DRY_RUN if dry_run else expected)


def test_every_combination_has_a_result_and_only_changes_claim_to_have_changed_something():
    combinations = list(
        product(
            ("", "unknown", *STATUSES),
            ("", *map(str, Stage)),
            FLAGS,
            FLAGS,
            (None, "", *map(str, ChangeResult)),
            ("", "dry_run", "storm"),
            FLAGS,
        )
    )
    seen = set()
    for status, stage, dry_run, mutated, change_result, refusal, cleared in combinations:
        found = execution_result(status, stage, dry_run, mutated, change_result, refusal, cleared)
        seen.add(found)
        is_granted = change_result in ("", *ChangeResult) and change_result != "refused"
        if found in CHANGES:
            assert mutated or is_granted
        if found in (R.DRY_RUN, R.EVIDENCE, R.REFUSED, R.NOT_CLAIMED):
            assert not mutated
    assert seen == set(ExecutionResult)


class TestEvents:
    def test_every_end_of_an_execution_is_reported_under_one_name(self):
        reported = {found: end_result(found) for found in ExecutionResult}
        unreported = {R.CHANGED, R.OTHER, R.RUNNING, R.WAITING, R.NOT_CLAIMED}
        assert {found for found, end in reported.items() if end is None} == unreported
        # Whether an approval expired or was declined, its change is refused.
        assert set(EndResult) - set(reported.values()) == {EndResult.APPROVAL_EXPIRED}

    def test_an_ended_change_is_reported_as_failed_until_its_effect_is_known(self):
        for change_result in ChangeResult:
            found = result("failed", change_result=str(change_result), refusal="storm")
            if change_result in UNDECIDED:
                assert end_result(found) is None
            elif change_result in (ChangeResult.CLEARED, ChangeResult.NOT_CLEARED):
                assert str(end_result(found)) == str(change_result)
            elif change_result is not ChangeResult.REFUSED:
                assert end_result(found) is EndResult.FAILED

    def test_a_dry_run_is_not_reported_as_a_refusal(self):
        assert end_result(result_of_refusal("dry_run")) is EndResult.DRY_RUN
        assert end_result(result_of_refusal("storm")) is EndResult.REFUSED


class TestHasCleared:
    @pytest.mark.parametrize(
        "closed_after, expected",
        [(-1, True), (0, True), (900, True), (900.000001, False)],
    )
    def test_an_ended_alert_has_cleared_if_it_ended_in_time(self, closed_after, expected):
        assert has_cleared(NOON, later(closed_after), False, later(9000), 15) is expected

    @pytest.mark.parametrize("now, expected", [(60, None), (900, None), (900.000001, False)])
    def test_an_open_alert_has_not_cleared_once_its_time_is_over(self, now, expected):
        assert has_cleared(NOON, None, True, later(now), 15) is expected

    def test_nothing_is_known_before_the_change_has_ended_or_without_an_incident(self):
        assert has_cleared(None, None, True, NOON, 15) is None
        assert has_cleared(NOON, None, False, later(9000), 15) is None
