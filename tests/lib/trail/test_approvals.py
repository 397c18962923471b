"""Requests for approval expire, and the views show who may answer them."""

from __future__ import annotations

import types
from dataclasses import replace
from datetime import timedelta

import pytest

from poundcake import alertmanager
from poundcake.config import load
from poundcake.stackstorm import Execution, StackStormError
from poundcake.trail import audit, commands, database, search, text
from poundcake.trail.approvals import (
    answer_approval,
    expire_approvals,
    find_pending_approval,
    read_approval,
    read_pending_approvals,
)
from poundcake.trail.audit import Actor
from poundcake.trail.errors import TrackingError
from tests.lib.fake_stackstorm import FakeStackStorm
from tests.lib.samples import NOON, _fingerprint
from tests.lib.trail.text.on_call_states import World, host_down, waiting_for_approval
from tests.lib.trails import on_sqlite

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


@on_sqlite
class TestAnswer:
    """An approver answers by the episode."""

    @pytest.fixture
    def world(self, engine, monkeypatch):
        """Return a world in which a change of HostDown waits for an approval."""
        monkeypatch.setattr(alertmanager, "fingerprint", _fingerprint)
        new_world = World(engine)
        with new_world.stopped_clock():
            waiting_for_approval(new_world)
            yield new_world

    def episode(self, world):
        return world.why(alert_name="HostDown")["episodes"][0]["episode"]

    def answer(self, world, user="anna", has_approved=True, episode="", comment="", filters=None):
        actor = Actor(user, "e1")
        episode = "" if filters else episode or self.episode(world)
        parsed = search.parse(None, **(filters or {}))
        return answer_approval(
            world.engine, world.stackstorm, actor, episode, has_approved, comment, parsed
        )

    @pytest.mark.parametrize("has_approved", [True, False])
    def test_an_approver_answers_and_the_answer_is_on_record(self, world, has_approved):
        episode = self.episode(world)
        result = self.answer(world, "ben", has_approved, episode[:8], "as discussed")
        state = "approved" if has_approved else "rejected"
        assert result["state"] == state
        assert (result["episode"], result["by"]) == (episode, "ben")
        assert (result["alert_name"], result["instance"]) == ("HostDown", "web-21:9100")
        assert result["change"] == "ipmi.power_cycle on web-21"
        ((_, answer),) = world.stackstorm.answers
        assert answer == {"approve": has_approved}
        with database.reading(world.engine) as connection:
            (entry,) = audit.read_entries(connection, [episode])[episode]
        assert (entry.action, entry.st2_user) == ("approve" if has_approved else "reject", "ben")
        output = text.why(world.why(alert_name="HostDown"), world.now)
        assert f"ben {state} the change: as discussed" in output

    @pytest.mark.parametrize("user", ["eve", "stanley", ""])
    def test_anybody_else_is_refused_and_the_request_still_waits(self, world, user):
        """The service user could answer in StackStorm, which would discard the request."""
        with pytest.raises(TrackingError, match=r"not one of the approvers .*\(anna, ben\)"):
            self.answer(world, user)
        assert world.stackstorm.answers == []

    def test_an_episode_that_waits_for_nothing_is_refused(self, world):
        with pytest.raises(TrackingError, match="no change of episode beef waits for approval"):
            self.answer(world, episode="beef")
        with pytest.raises(TrackingError, match="at least 4"):
            self.answer(world, episode=self.episode(world)[:3])

    @pytest.mark.parametrize(
        "filters",
        [{"alert_name": "HostDown"}, {"instance": "web-21"}, {"alert_name": "Host*"}],
    )
    def test_the_alert_may_be_named_instead_of_the_episode(self, world, filters):
        """An incident that waits for nothing does not count, even if its alert matches."""
        world.notify(host_down(22))
        assert self.answer(world, filters=filters)["instance"] == "web-21:9100"
        assert len(world.stackstorm.answers) == 1

    def test_an_alert_that_waits_for_nothing_is_refused(self, world):
        with pytest.raises(TrackingError, match="no change of a matching alert waits"):
            self.answer(world, filters={"alert_name": "DiskFull"})
        with pytest.raises(TrackingError, match="identify the change: pass episode, or "):
            self.answer(world, filters={"status": "firing"})

    def test_several_alerts_wait_and_the_error_has_the_command_for_each(self, world):
        (row,) = world.notify(host_down(22))
        world.ask(row, remediation="dead-host")
        with pytest.raises(TrackingError) as caught:
            self.answer(world, has_approved=False, filters={"alert_name": "HostDown"})
        problem = str(caught.value)
        assert problem.startswith("the changes of 2 incidents wait for approval; choose one: ")
        command = commands.for_episode("approve", row.episode, "reject=true")
        assert f"HostDown web-22:9100: {command}" in problem
        assert world.stackstorm.answers == []

    def test_an_answer_that_fits_several_requests_is_refused(self, world):
        (inquiry,) = world.stackstorm.list_pending_inquiries()
        world.stackstorm.executions["i2"] = replace(inquiry, id="i2")
        with pytest.raises(TrackingError, match="^2 changes of episode .* st2 inquiry list$"):
            self.answer(world)
        assert world.stackstorm.answers == []

    def test_an_answer_that_stackstorm_refuses_is_not_recorded(self, world):
        (inquiry,) = world.stackstorm.list_pending_inquiries()
        world.stackstorm.errors["respond", inquiry.id] = StackStormError("403 no", 403)
        with pytest.raises(StackStormError, match="403 no"):
            self.answer(world)
        episode = self.episode(world)
        with database.reading(world.engine) as connection:
            assert audit.read_entries(connection, [episode]) == {}
