"""The results of host checks and evidence actions are read from a workflow's executions."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from poundcake.host_checks import parse_host_check
from poundcake.inert import make_inert
from poundcake.remediation import host_facts
from poundcake.remediation.build_report import build_report
from poundcake.remediation.errors import RemediationError
from poundcake.remediation.findings import read_check, read_conditions, read_findings
from poundcake.remediation.polls import Change, CheckedAlert, poll
from poundcake.stackstorm import Execution, StackStormError
from tests.lib.remediation.test_host_facts import CPU, DISK, MEMORY, SERVICE, execution_result
from tests.lib.samples import NOON, iso

BEGIN_RESULT = {
    "claimed": True,
    "reason": "",
    "may_reserve": False,
    "dry_run": False,
    "stage": "evidence",
    "message": "nothing is changed",
}


def execution(
    result, action="mypack.inspect", status="succeeded", task="inspect", item=None, age=60
):
    """Return an execution that ended `age` seconds before NOON."""
    orquesta = {"task_name": task} if item is None else {"task_name": task, "item_id": item}
    return Execution.parse(
        {
            "id": f"{task}-{item}",
            "status": status,
            "action": {"ref": action},
            "context": {"orquesta": orquesta},
            "end_timestamp": iso(NOON - timedelta(seconds=age)),
            "result": result,
        }
    )


class FakeApi:
    """StackStorm's API with a workflow that has run inspections.

    Each inspection is a pair: a check or an action's reference, and its execution or None.
    """

    def __init__(self, *inspections, **begin_fields):
        checks = [name if ":" in name or ">" in name else "" for name, _ in inspections]
        items = [
            {"action": "mypack.inspect" if check else name, "parameters": {}, "check": check}
            for check, (name, _) in zip(checks, inspections)
        ]
        result = {"result": {**BEGIN_RESULT, "inspections": items, **begin_fields}}
        self.children = [execution(result, "poundcake.begin", task="begin")]
        self.children += [e for _, e in inspections if e]

    def now(self):
        return NOON

    def get_children(self, execution_id):
        assert execution_id == "e1"
        return self.children


def read_objection(api, checks):
    return read_conditions(api, "e1", checks).objection


def read_objection_of(check, result, status="succeeded", age=60):
    """Return the objection that a check with this result raises."""
    api = FakeApi((check, execution(result, "mypack.inspect", status, item=0, age=age)))
    return read_objection(api, [check])


class TestChecks:
    @pytest.mark.parametrize(
        "check, facts, detail",
        [
            ("disk:/var>93", DISK, "/var is 93% full, 1.5 GB of 20.0 GB free; 7% of the inodes"),
            ("memory>95", MEMORY, "95% of memory used, 420 MB of 8.0 GB available; largest: j"),
            ("cpu>97", CPU, "4 processors 97% busy, load 9.50; 2% waiting for disks; busiest: sp"),
            ("service:nginx", {**SERVICE, "state": "active"}, "nginx.service: active (failed)"),
        ],
    )
    def test_a_healthy_host_prevents_a_change(self, check, facts, detail):
        reason = read_objection_of(check, execution_result(facts))
        assert reason.startswith(detail)
        assert make_inert(reason) == reason

    @pytest.mark.parametrize(
        "check, facts",
        [
            ("disk:/var>92", DISK),
            ("memory>94", MEMORY),
            ("cpu>96", CPU),
            ("service:nginx", SERVICE),
            ("service:nginx", {**SERVICE, "state": "inactive"}),
        ],
    )
    def test_an_unhealthy_host_permits_a_change(self, check, facts):
        assert read_objection_of(check, execution_result(facts)) == ""

    @pytest.mark.parametrize("state", ["activating", "unknown", "deactivating"])
    def test_a_service_in_another_state_neither_permits_nor_confirms_a_change(self, state):
        result = execution_result({**SERVICE, "state": state})
        assert f"nginx.service: {state}" in read_objection_of("service:nginx", result)
        polled = poll_host("service:nginx", result)
        assert (polled.done, polled.cleared) == (False, False)

    @pytest.mark.parametrize(
        "result, status, expected_reason",
        [
            (execution_result({"error": "no such directory"}), "failed", "no such directory"),
            ({"error": "Unable to connect"}, "failed", "Unable to connect"),
            (execution_result("plain text"), "succeeded", "the host printed no JSON: plain text"),
            (execution_result(DISK), "failed", "has the status failed"),
            (
                execution_result({**DISK, "used_percent": "9"}),
                "succeeded",
                "no valid used_percent",
            ),
            (None, "canceled", "the execution has no result"),
        ],
    )
    def test_a_check_with_an_unreadable_result_prevents_a_change(
        self, result, status, expected_reason
    ):
        reason = read_objection_of("disk:/var>90", result, status)
        assert reason.startswith("the host could not be checked for disk:/var above 90%: ")
        assert expected_reason in reason

    def test_a_check_that_has_not_run_prevents_a_change(self):
        assert "it has not run" in read_objection(FakeApi(("cpu>95", None)), ["cpu>95"])
        assert "was not checked for cpu above 95%" in read_objection(FakeApi(), ["cpu>95"])

    def test_an_old_check_prevents_a_change(self):
        assert "more than 10 min ago" in read_objection_of("cpu>9", execution_result(CPU), age=601)

    def test_an_unavailable_stackstorm_prevents_a_change(self):
        api = FakeApi()
        api.now = api.get_children = lambda *_: raise_error(StackStormError("connection refused"))
        assert "could not be read: connection refused" in read_objection(api, ["cpu>95"])

    def test_the_inspections_before_the_approval_do_not_permit_the_change(self):
        summary = host_facts.read_cpu(execution_result(CPU)).summary
        first = execution(execution_result(CPU), item=0, task="inspect_first")
        api = FakeApi(("cpu>95", first))
        result = read_conditions(api, "e1", ["cpu>95"], before_approval=True)
        assert result == ("", (f"{summary} (more than 95%)",))
        assert "it has not run" in read_objection(api, ["cpu>95"])

    def test_a_change_needs_the_permission_of_every_check(self):
        api = FakeApi(
            ("cpu>95", execution(execution_result(CPU), item=0)),
            ("memory>95", execution(execution_result(MEMORY), item=1)),
        )
        assert read_objection(api, ["cpu>95"]) == ""
        assert "not more than 95%" in read_objection(api, ["cpu>95", "memory>95"])


def raise_error(error):
    raise error


class TestActions:
    """A check may run an operator's own action, whose output contains the field `holds`."""

    CHECK = "action:mypack.inspect"

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda output: {"result": output, "exit_code": 0, "stdout": "", "stderr": ""},
            lambda output: {"output": output},
            lambda output: {"stdout": output, "return_code": 0},
            lambda output: {"stdout": json.dumps(output), "return_code": 0},
            lambda output: {"web-1": {"stdout": json.dumps(output), "return_code": 0}},
        ],
        ids=["python", "workflow", "parsed", "command", "host"],
    )
    def test_the_field_holds_decides(self, wrap):
        assert read_objection_of(self.CHECK, wrap({"holds": True})) == ""
        reason = read_objection_of(self.CHECK, wrap({"holds": False, "detail": "lag {{ 3 }} s"}))
        assert reason == "mypack.inspect: lag (( 3 )) s"

    @pytest.mark.parametrize(
        "output", [None, {}, True, "holds", {"holds": "true"}, {"holds": 1}, [], "{" * 100_000]
    )
    def test_any_other_output_prevents_a_change(self, output):
        for result in ({"result": output}, {"stdout": output}, output):
            reason = read_objection_of(self.CHECK, result)
            assert "mypack.inspect did not return holds: true or holds: false" in reason

    def test_a_failed_action_prevents_a_change(self):
        result = {"result": {"holds": True}, "error": "no {{ route }}"}
        reason = read_objection_of(self.CHECK, result, status="failed")
        assert "mypack.inspect has the status failed: no (( route ))" in reason


def poll_host(check, result, age=100, wait=300):
    """Return the poll of a check after a change, with the result of its execution."""
    change = Change(timedelta(seconds=age), host_check=execution(result, task="verify_host"))
    return poll(check, wait, CheckedAlert({}, "web-1"), (), change)


class TestVerification:
    def test_a_check_that_no_longer_holds_confirms_a_change(self):
        polled = poll_host("disk:/var>93", execution_result(DISK))
        assert (polled.done, polled.cleared) == (True, True)
        assert polled.detail.endswith("(not more than 93%)")

    def test_a_check_that_still_holds_is_repeated_until_the_wait_ends(self):
        assert not poll_host("disk:/var>90", execution_result(DISK)).done
        last_poll = poll_host("disk:/var>90", execution_result(DISK), age=300)
        assert (last_poll.done, last_poll.cleared) == (True, False)
        assert last_poll.detail.startswith("not verified within 300 s: /var is 93% full")

    def test_a_host_that_cannot_be_checked_confirms_nothing(self):
        polled = poll_host("disk:/var>90", {"error": "Unable to connect"})
        assert (polled.done, polled.detail) == (False, "Unable to connect")
        polled = poll("cpu>95", 300, CheckedAlert({}, "web-1"), (), Change(timedelta(seconds=1)))
        assert (polled.done, polled.detail) == (False, "the host was not checked after the change")


class TestEvidence:
    def test_the_report_contains_what_each_action_returned(self):
        api = FakeApi(
            ("poundcake.check_cpu", execution(execution_result(CPU), item=0)),
            ("mypack.snapshot", execution({"result": {"queue": ["{{x}}"]}}, item=1)),
            ("mypack.broken", execution({"error": "no route"}, status="failed", item=2)),
        )
        report = build_report(api, "e1")
        summary = host_facts.read_cpu(execution_result(CPU)).summary
        assert (report.status, report.stage, report.mutated) == ("succeeded", "evidence", False)
        assert report.message == f"{summary}; nothing is changed"
        snapshot = "mypack.snapshot: (”queue”: [”((x))”])"
        assert report.seen == (summary, snapshot, "mypack.broken: status failed: no route")
        assert read_conditions(api, "e1", []) == ("", report.seen)
        assert report.evidence == {
            "poundcake.check_cpu": summary,
            "mypack.snapshot": "(”queue”: [”((x))”])",
            "mypack.broken": "status failed: no route",
        }

    def test_long_evidence_is_truncated(self):
        (finding,) = read_findings(
            FakeApi(("mypack.snapshot", execution({"result": "x" * 5000}, item=0))).children
        )
        assert finding.detail == "x" * 2000 + " …"

    @pytest.mark.parametrize(
        "limit, message",
        [
            (90, "would run x"),
            (95, "so nothing would be changed"),
        ],
    )
    def test_a_dry_run_reports_whether_the_checks_permit_the_change(self, limit, message):
        check = f"disk:/var>{limit}"
        dry_run = {"stage": "dry_run", "message": "would run x", "dry_run": True}
        report = build_report(
            FakeApi((check, execution(execution_result(DISK), item=0)), **dry_run), "e1"
        )
        assert (report.status, report.stage) == ("succeeded", "dry_run")
        assert report.message.startswith("/var is 93% full")
        assert report.message.endswith(message)
        assert list(make_inert(report.evidence)) == [check]


def test_a_check_is_read_from_the_execution_of_its_action():
    reading = read_check(parse_host_check("cpu>50"), execution(execution_result(CPU)))
    assert reading.holds
    with pytest.raises(RemediationError, match="printed no valid"):
        read_check(parse_host_check("cpu>50"), execution(execution_result({"check": "cpu"})))
