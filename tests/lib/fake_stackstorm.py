"""An in-memory StackStorm that answers like the API and records its calls."""

from __future__ import annotations

import datetime

from poundcake.execution_status import TERMINAL
from poundcake.stackstorm import Execution, Page, RuleEnforcement, StackStormError, TriggerInstance

UTC = datetime.timezone.utc
MILLISECOND = datetime.timedelta(milliseconds=1)
OUTAGE = StackStormError("nobody answers")


def refusal(status=500):
    """Return an error that affects only one call, unlike OUTAGE."""
    return StackStormError(f"GET /x: {status} the fault", status)


class FakeStackStorm:
    """An implementation of StackStormApi, which tests fill with emit(), enforce() and run().

    Attributes:
        calls: The calls, as (method name, first argument).
        errors: The error to raise, by method name or by (name, first argument).
        unlisted: The ids of the executions that get_executions() omits.
        answers: The answers to inquiries, as (id, response).
        re_runs: The ids of the executions that were re-run. The ids of the new executions are
            `again-1`, `again-2`, …
        clock_offset: How far StackStorm's clock is ahead of this machine's.
    """

    page = 100

    def __init__(self):
        self.calls = []
        self.errors = {}
        self.unlisted = set()
        self.clock_offset = datetime.timedelta(0)
        self.triggers, self.emitted = {}, 0
        self.enforcements = []
        self.executions = {}
        self.parents = {}
        self.linking = set()
        self.unreadable = 0
        self.answers = []
        self.re_runs = []

    # -- for tests

    @property
    def time(self):
        return datetime.datetime.now(UTC) + self.clock_offset

    def emit(self, alert, request_id, status="processed", seconds=1, payload=()):
        """Add a trigger for an alert, emitted some seconds ago, and return the trigger's id."""
        trigger_id = f"t{self.emitted}"
        self.emitted += 1
        payload = {
            "request_id": request_id,
            "episode": alert.episode,
            "status": alert.status,
            **dict(payload),
        }
        occurred_at = self.time - datetime.timedelta(seconds=seconds)
        self.triggers[trigger_id] = TriggerInstance(trigger_id, status, occurred_at, payload)
        return trigger_id

    def enforce(self, trigger_id, execution="", reason="", rule="pack.rule"):
        """Add the enforcement of a rule that matched a trigger."""
        trigger = self.triggers.get(trigger_id)
        enforced_at = trigger.occurred_at + MILLISECOND if trigger else self.time
        self.enforcements.append(RuleEnforcement(trigger_id, rule, execution, reason, enforced_at))

    def run(self, execution_id, status="succeeded", action="pack.workflow", seconds=1, **fields):
        """Add an execution that started some seconds ago.

        With links=True, its action has a link task. With parent="e1", it belongs to workflow e1.
        """
        self.parents[execution_id] = fields.pop("parent", "")
        if fields.pop("links", False):
            self.linking.add(action)
        started_at = self.time - datetime.timedelta(seconds=seconds)
        self.executions[execution_id] = Execution(
            id=execution_id,
            status=status,
            action=action,
            rule="pack.rule",
            started_at=started_at,
            ended_at=self.time if status in TERMINAL else None,
            **{"result": {}, **fields},
        )

    # -- the API

    def _record_call(self, name, argument=None):
        self.calls.append((name, argument))
        for key in (name, (name, argument)):
            if key in self.errors:
                raise self.errors[key]

    def now(self):
        if "now" in self.errors:
            raise self.errors["now"]
        return self.time

    def get_execution(self, execution_id):
        self._record_call("get_execution", execution_id)
        return self.executions.get(execution_id)

    def get_executions(self, ids):
        assert len(ids) <= self.page
        self._record_call("get_executions", tuple(ids))
        listed = set(ids) - self.unlisted
        return {id_: e for id_, e in self.executions.items() if id_ in listed}

    def get_children(self, execution_id):
        self._record_call("get_children", execution_id)
        return [self.executions[i] for i, parent in self.parents.items() if parent == execution_id]

    def re_run(self, execution_id):
        self._record_call("re_run", execution_id)
        self.re_runs.append(execution_id)
        original = self.executions[execution_id]
        new_id = f"again-{len(self.re_runs)}"
        self.run(new_id, "requested", original.action)
        return new_id

    def list_pending_inquiries(self):
        self._record_call("list_pending_inquiries")
        inquiries = [e for e in self.executions.values() if e.action == "core.ask"]
        return [e for e in inquiries if e.status == "pending"]

    def respond(self, inquiry_id, response):
        self.answers.append((inquiry_id, dict(response)))
        self._record_call("respond", inquiry_id)

    def list_triggers(self, trigger, after, before):
        assert trigger == "poundcake.alert"
        self._record_call("list_triggers", before)
        matching = [t for t in self.triggers.values() if _is_between(t.occurred_at, after, before)]
        return self._page(matching, lambda t: t.occurred_at)

    def get_triggers(self, ids):
        assert len(ids) <= self.page
        self._record_call("get_triggers", tuple(ids))
        return {i: self.triggers[i] for i in ids if i in self.triggers}

    def list_enforcements(self, after, before):
        self._record_call("list_enforcements", before)
        matching = [e for e in self.enforcements if _is_between(e.enforced_at, after, before)]
        return self._page(matching, lambda e: e.enforced_at)

    def get_enforcements(self, trigger_instance_id):
        self._record_call("get_enforcements", trigger_instance_id)
        return [e for e in self.enforcements if e.trigger_instance_id == trigger_instance_id]

    def runs_link_task(self, action):
        self._record_call("runs_link_task", action)
        return action in self.linking

    def _page(self, matching, get_time):
        items = sorted(matching, key=get_time, reverse=True)[: self.page]
        is_full = len(items) == self.page
        next_before = get_time(items[-1]) + MILLISECOND if is_full else None
        return Page(items, next_before, self.unreadable)

    def count(self, name):
        """Return how many times a method was called."""
        return sum(method_name == name for method_name, _ in self.calls)


def _is_between(moment, after, before):
    return moment > after and (before is None or moment < before)
