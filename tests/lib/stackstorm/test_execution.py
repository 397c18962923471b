"""The status and the result of an execution are read from StackStorm's response."""

from __future__ import annotations

import json

import pytest

from poundcake.execution_status import STATUSES, TERMINAL, WAITING, ExecutionStatus
from poundcake.stackstorm import Execution, failure_reason, workflow_output
from tests.lib.samples import iso, later

DOCUMENT = {
    "id": "e1",
    "status": "succeeded",
    "action": {"ref": "pack.flow"},
    "rule": {"ref": "pack.rule"},
    "start_timestamp": iso(later(1)),
    "end_timestamp": iso(later(2.5)),
    "elapsed_seconds": 1.5,
    "web_url": "https://st2/e1",
    "context": {"orquesta": {"task_name": "check"}},
    "parameters": {"host": "web-1"},
    "result": {"output": None},
}


def test_an_execution_is_parsed():
    assert Execution.parse(DOCUMENT) == Execution(
        id="e1",
        status="succeeded",
        action="pack.flow",
        rule="pack.rule",
        started_at=later(1),
        ended_at=later(2.5),
        elapsed_seconds=1.5,
        web_url="https://st2/e1",
        task_name="check",
        parameters={"host": "web-1"},
        result={"output": None},
    )


@pytest.mark.parametrize("malformed_value", [None, 5.5j, ["x"], {"ref": 5, "orquesta": "x"}])
def test_malformed_and_missing_fields_are_empty(malformed_value):
    malformed_fields = {
        name: malformed_value for name in DOCUMENT if name not in ("id", "result", "parameters")
    }
    assert Execution.parse({"id": "e1", "parameters": "x", **malformed_fields}) == Execution("e1")
    assert Execution.parse({"id": "e1"}) == Execution("e1")
    assert Execution.parse({"id": "e1", "start_timestamp": "yesterday"}) == Execution("e1")


@pytest.mark.parametrize("document", [None, [], "e1", {}, {"id": None}, {"id": 5}, {"id": ""}])
def test_a_response_without_an_id_is_not_an_execution(document):
    assert Execution.parse(document) is None


def test_the_statuses_are_those_of_stackstorm():
    """They are LIVEACTION_STATUSES in st2common/constants/action.py, and `gone`."""
    assert set(STATUSES) == set(
        "requested scheduled delayed running succeeded failed timeout abandoned canceling canceled"
        " pending pausing paused resuming gone".split()
    )


@pytest.mark.parametrize("status", ExecutionStatus)
def test_each_status_has_its_properties(status):
    assert f"{status}" == str(status) == json.loads(json.dumps(status)) == status.value
    assert status.is_terminal is (status.value in TERMINAL)
    assert status.needs_a_person is (status.value in WAITING)
    assert Execution("e1", status.value).is_terminal is status.is_terminal


def test_an_unknown_status_counts_as_open():
    assert not Execution("e1", "hibernating").is_terminal


@pytest.mark.parametrize(
    "result, reason",
    [
        (None, ""),
        ("no route", "no route"),
        (5, "5"),
        ([], ""),
        ({}, ""),
        ({"stderr": "warning\nno route to host\n"}, "no route to host"),
        ({"error": " ", "stderr": "", "message": "m"}, "m"),
        ({"errors": [None]}, ""),
        ({"errors": [{"message": "no database"}]}, "no database"),
        (
            {
                "errors": [
                    {"task_id": "ping", "message": "failed", "result": {"stderr": "no route"}}
                ]
            },
            "task ping: no route",
        ),
        ({"errors": [{"task_id": "ping", "message": "failed"}]}, "task ping: failed"),
        ({"stderr": "x" * 5000}, "x" * 1000),
        ({"web-1": {"failed": True, "stderr": "no route"}}, "no route"),
        ({"web-1": {"failed": True, "stderr": "", "stdout": {"error": "no disk"}}}, "no disk"),
        ({"web-1": {"failed": False, "stderr": "a warning"}}, ""),
        ({"result": {"error": "the action's own output"}}, ""),
    ],
)
def test_the_reason_of_a_failed_execution_is_read_from_its_result(result, reason):
    assert failure_reason(result) == reason


@pytest.mark.parametrize(
    "output, expected",
    [
        (None, {}),
        ("text", {}),
        ({"dry_run": True, "stage": "done", "other": 1}, {"dry_run": True, "stage": "done"}),
        ({"mutated": 1, "verified": None, "message": ["m"]}, {}),
    ],
)
def test_only_valid_fields_of_a_workflows_report_are_read(output, expected):
    assert workflow_output({"output": output}) == expected


@pytest.mark.parametrize("result", [None, 5, "text", []])
def test_a_result_without_an_output_has_no_report(result):
    assert workflow_output(result) == {}
