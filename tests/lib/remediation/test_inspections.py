"""What the checks of a host and evidence actions show, from the executions of a workflow."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from poundcake.host_checks import parse_host_check
from poundcake.inert import make_inert
from poundcake.remediation import host_facts
from poundcake.remediation.errors import RemediationError
from poundcake.remediation.inspections import read_check, read_findings, read_objection
from poundcake.remediation.polls import Change, CheckedAlert, poll
from poundcake.remediation.report import build_report
from poundcake.stackstorm import Execution, StackStormError
from tests.lib.remediation.test_host_facts import CPU, DISK, MEMORY, SERVICE, execution_result
from tests.lib.samples import NOON, iso

BEGUN = {
    "claimed": True,
    "reason": "",
    "may_reserve": False,
    "dry_run": False,
    "stage": "evidence",
    "message": "nothing is changed",
}


def execution(result, action="mypack.look", status="succeeded", task="inspect", item=None, age=60):
    """Return an execution that ended some seconds before NOON."""
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


class Api:
    """StackStorm's API, with a workflow that has made these inspections.

    Each is a check or the reference of an action, with its execution or None.
    """

    def __init__(self, *inspections, **begun):
        checks = [name if ":" in name or ">" in name else "" for name, _ in inspections]
        items = [
            {"action": "mypack.look" if check else name, "parameters": {}, "check": check}
            for check, (name, _) in zip(checks, inspections)
        ]
        result = {"result": {**BEGUN, "inspections": items, **begun}}
        self.children = [execution(result, "poundcake.begin", task="begin")]
        self.children += [e for _, e in inspections if e]

    def now(self):
        return NOON

    def get_children(self, execution_id):
        assert execution_id == "e1"
        return self.children


def objection(check, result, status="succeeded", age=60):
    """Return the objection of a check with this result."""
    api = Api((check, execution(result, "mypack.look", status, item=0, age=age)))
    return read_objection(api, "e1", [check])


class TestChecks:
    @pytest.mark.parametrize(
        "check, facts, detail",
        [
            ("disk:/var>93", DISK, "/var is 93% full, 1.5 GB of 20.0 GB free; 7% of the inodes"),
            ("memory>95", MEMORY, "95% of the memory used, 420 MB of 8.0 GB available; largest: j"),
            ("cpu>97", CPU, "4 processors 97% busy, load 9.50; 2% waiting for disks; busiest: sp"),
            ("service:nginx", {**SERVICE, "state": "active"}, "nginx.service is active (failed)"),
        ],
    )
    def test_a_healthy_host_permits_no_change(self, check, facts, detail):
        reason = objection(check, execution_result(facts))
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
    def test_a_host_in_trouble_permits_a_change(self, check, facts):
        assert objection(check, execution_result(facts)) == ""

    @pytest.mark.parametrize("state", ["activating", "unknown", "deactivating"])
    def test_a_service_in_another_state_neither_permits_nor_confirms_a_change(self, state):
        result = execution_result({**SERVICE, "state": state})
        assert f"nginx.service is {state}" in objection("service:nginx", result)
        polled = poll_host("service:nginx", result)
        assert (polled.done, polled.cleared) == (False, False)

    @pytest.mark.parametrize(
        "result, status, reason",
        [
            (execution_result({"error": "no such directory"}), "failed", "no such directory"),
            ({"error": "Unable to connect"}, "failed", "Unable to connect"),
            (execution_result("rubbish"), "succeeded", "the host printed no JSON: rubbish"),
            (execution_result(DISK), "failed", "has the status failed"),
            (
                execution_result({**DISK, "used_percent": "9"}),
                "succeeded",
                "no valid used_percent",
            ),
            (None, "canceled", "the execution has no result"),
        ],
    )
    def test_a_check_that_cannot_be_read_permits_no_change(self, result, status, reason):
        found = objection("disk:/var>90", result, status)
        assert found.startswith("the host could not be checked for disk:/var above 90%: ")
        assert reason in found

    def test_a_check_that_has_not_run_permits_no_change(self):
        assert "it has not run" in read_objection(Api(("cpu>95", None)), "e1", ["cpu>95"])
        assert "was not checked for cpu above 95%" in read_objection(Api(), "e1", ["cpu>95"])

    def test_an_old_check_permits_no_change(self):
        assert "more than 10 min ago" in objection("cpu>9", execution_result(CPU), age=601)

    def test_without_stackstorm_nothing_is_changed(self):
        api = Api()
        api.now = api.get_children = lambda *_: fail(StackStormError("nobody answers"))
        assert "could not be read: nobody answers" in read_objection(api, "e1", ["cpu>95"])

    def test_all_checks_have_to_agree(self):
        api = Api(
            ("cpu>95", execution(execution_result(CPU), item=0)),
            ("memory>95", execution(execution_result(MEMORY), item=1)),
        )
        assert read_objection(api, "e1", ["cpu>95"]) == ""
        assert "not more than 95%" in read_objection(api, "e1", ["cpu>95", "memory>95"])


def fail(error):
    raise error


class TestActions:
    """Actions of the operator, whose output contains `holds`."""

    CHECK = "action:mypack.look"

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
    def test_holds_decides(self, wrap):
        assert objection(self.CHECK, wrap({"holds": True})) == ""
        reason = objection(self.CHECK, wrap({"holds": False, "detail": "lag {{ 3 }} s"}))
        assert reason == "mypack.look: lag (( 3 )) s"

    @pytest.mark.parametrize(
        "output", [None, {}, True, "holds", {"holds": "true"}, {"holds": 1}, [], "{" * 100_000]
    )
    def test_any_other_output_permits_no_change(self, output):
        for result in ({"result": output}, {"stdout": output}, output):
            reason = objection(self.CHECK, result)
            assert "mypack.look did not return holds: true or holds: false" in reason

    def test_a_failed_action_permits_no_change(self):
        result = {"result": {"holds": True}, "error": "no {{ route }}"}
        reason = objection(self.CHECK, result, status="failed")
        assert "mypack.look has the status failed: no (( route ))" in reason


def poll_host(check, result, age=100, wait=300):
    change = Change(timedelta(seconds=age), host_check=execution(result, task="verify_host"))
    return poll(check, wait, CheckedAlert({}, "web-1"), (), change)


class TestVerification:
    def test_a_check_that_no_longer_holds_confirms_a_change(self):
        polled = poll_host("disk:/var>93", execution_result(DISK))
        assert (polled.done, polled.cleared) == (True, True)
        assert polled.detail.endswith("(not more than 93%)")

    def test_a_check_that_still_holds_is_repeated_until_the_time_is_over(self):
        assert not poll_host("disk:/var>90", execution_result(DISK)).done
        late = poll_host("disk:/var>90", execution_result(DISK), age=300)
        assert (late.done, late.cleared) == (True, False)
        assert late.detail.startswith("not verified within 300 s: /var is 93% full")

    def test_a_host_that_cannot_be_checked_confirms_nothing(self):
        polled = poll_host("disk:/var>90", {"error": "Unable to connect"})
        assert (polled.done, polled.detail) == (False, "Unable to connect")
        polled = poll("cpu>95", 300, CheckedAlert({}, "web-1"), (), Change(timedelta(seconds=1)))
        assert (polled.done, polled.detail) == (False, "the host was not checked after the change")


class TestEvidence:
    def test_the_report_contains_what_each_action_returned(self):
        api = Api(
            ("poundcake.check_cpu", execution(execution_result(CPU), item=0)),
            ("mypack.snapshot", execution({"result": {"queue": ["{{x}}"]}}, item=1)),
            ("mypack.broken", execution({"error": "no route"}, status="failed", item=2)),
        )
        report = build_report(api, "e1")
        summary = host_facts.read_cpu(execution_result(CPU)).summary
        assert (report.status, report.stage, report.mutated) == ("succeeded", "evidence", False)
        assert report.message == f"{summary}; nothing is changed"
        assert report.evidence == {
            "poundcake.check_cpu": summary,
            "mypack.snapshot": "(”queue”: [”((x))”])",
            "mypack.broken": "status failed: no route",
        }

    def test_long_evidence_is_cut(self):
        (finding,) = read_findings(
            Api(("mypack.snapshot", execution({"result": "x" * 5000}, item=0))).children
        )
        assert finding.detail == "x" * 2000 + " …"

    @pytest.mark.parametrize(
        "above, message",
        [
            (90, "would run x"),
            (95, "so nothing would be changed"),
        ],
    )
    def test_a_dry_run_says_whether_the_checks_permit_the_change(self, above, message):
        check = f"disk:/var>{above}"
        dry_run = {"stage": "dry_run", "message": "would run x", "dry_run": True}
        report = build_report(
            Api((check, execution(execution_result(DISK), item=0)), **dry_run), "e1"
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
