"""The StackStorm API: what the pack asks it, and what the answers mean.

`StackStormApi` is the interface, `in_action()` and `in_sensor()` return what implements it.
"""

from __future__ import annotations

from typing import Any

from poundcake.stackstorm.api import Page, StackStormApi, StackStormError
from poundcake.stackstorm.client import CLOCK_ALLOWANCE, LINK, StackStorm, in_action, in_sensor
from poundcake.stackstorm.execution import (
    STATUSES,
    TERMINAL,
    WAITING,
    Execution,
    ExecutionStatus,
    failure_reason,
    workflow_output,
)
from poundcake.stackstorm.rules import RuleEnforcement, TriggerInstance, TriggerStatus

__all__ = [
    "CLOCK_ALLOWANCE",
    "LINK",
    "STATUSES",
    "TERMINAL",
    "WAITING",
    "Execution",
    "ExecutionStatus",
    "Page",
    "RuleEnforcement",
    "StackStorm",
    "StackStormApi",
    "StackStormError",
    "TriggerInstance",
    "TriggerStatus",
    "failure",
    "failure_reason",
    "in_action",
    "in_sensor",
    "report",
    "workflow_output",
]


def failure(execution: dict[str, Any]) -> str:
    """Return failure_reason() of an execution's raw answer."""
    return failure_reason(execution.get("result"))


def report(execution: dict[str, Any]) -> dict[str, Any]:
    """Return workflow_output() of an execution's raw answer."""
    return dict(workflow_output(execution.get("result")))
