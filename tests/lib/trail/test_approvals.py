"""Requests for approval expire, and the views show who may answer them."""

from __future__ import annotations

import types
from datetime import timedelta

import pytest

from poundcake.config import load
from poundcake.stackstorm import Execution, StackStormError
from poundcake.trail.approvals import (
    expire_approvals,
    find_pending_approval,
    read_approval,
    read_pending_approvals,
)
from tests.lib.fake_stackstorm import FakeStackStorm
from tests.lib.samples import NOON

MINUTES = 30
RESULT = {"route": "poundcake.approval", "users": ["anna", "ben", "stanley"]}


def add_inquiry(stackstorm, number=1, minutes=MINUTES, workflow_status="paused", **overrides):
    """Add an inquiry that started `minutes` ago, and its workflow."""
    fields = {
        "id": f"i{number}",
        "status": "pending",
        "action": "core.ask",
        "task_name": "approve",
        "parent_id": f"w{number}",
        "started_at": stackstorm.time - timedelta(minutes=minutes),
        "result": RESULT,
        **overrides,
    }
    execution = stackstorm.executions[fields["id"]] = Execution(**fields)
    stackstorm.executions[f"w{number}"] = Execution(f"w{number}", workflow_status)
    return execution


@pytest.fixture
def stackstorm():
    return FakeStackStorm()


@pytest.fixture
def sync_round():
    notes = []
    return types.SimpleNamespace(notes=notes, note=notes.append)


def expire_and_get_answers(stackstorm, sync_round):
    """Expire approvals as sync does, and return the answers that were sent to StackStorm."""
    config = load({"approval_minutes": MINUTES})
    count = expire_approvals(sync_round, stackstorm, config, read_pending_approvals(stackstorm))
    assert count == len(stackstorm.answers) - len(sync_round.notes)
    return stackstorm.answers


def test_a_request_for_approval_that_nobody_answers_in_time_is_rejected(stackstorm, sync_round):
    add_inquiry(stackstorm, 1, MINUTES)
    add_inquiry(stackstorm, 2, MINUTES - 1)
    assert expire_and_get_answers(stackstorm, sync_round) == [("i1", {"approve": False})]


@pytest.mark.parametrize(
    "fields",
    [
        {"result": {"route": "other"}},
        {"result": None},
        {"task_name": "ask"},
        {"started_at": None},
        {"workflow_status": "canceled"},
        {"workflow_status": "canceling"},
    ],
)
def test_other_inquiries_are_not_answered(stackstorm, sync_round, fields):
    add_inquiry(stackstorm, **fields)
    assert expire_and_get_answers(stackstorm, sync_round) == []


def test_a_request_that_sync_cannot_answer_does_not_affect_others(stackstorm, sync_round):
    add_inquiry(stackstorm, 1)
    add_inquiry(stackstorm, 2)
    stackstorm.errors["respond", "i1"] = StackStormError("no", 403)
    assert [answer[0] for answer in expire_and_get_answers(stackstorm, sync_round)] == ["i1", "i2"]
    assert sync_round.notes == ["approval i1 has expired, but sync cannot answer it: no"]


def test_the_step_fails_if_stackstorm_is_unavailable(stackstorm, sync_round):
    add_inquiry(stackstorm)
    stackstorm.errors["respond"] = StackStormError("refused")
    with pytest.raises(StackStormError):
        expire_and_get_answers(stackstorm, sync_round)


def test_a_view_shows_who_may_answer_until_when_and_how(stackstorm):
    approval = add_inquiry(stackstorm, started_at=NOON)
    assert (
        find_pending_approval([Execution("b", "succeeded", task_name="begin"), approval])
        == approval
    )
    assert read_approval(approval, "w1", [], MINUTES).describe() == (
        "waits for the approval of anna, ben until 2026-01-14T12:30:00Z: st2 inquiry respond i1"
    )
