"""A client of StackStorm's API, and the types of its responses.

`StackStormApi` is the interface. `client_for_action()` and `client_for_sensor()` return its
implementation.
"""

from __future__ import annotations

from poundcake.stackstorm.api import Page, StackStormApi, StackStormError, noting_errors
from poundcake.stackstorm.client import (
    CLOCK_ALLOWANCE,
    LINK,
    StackStorm,
    client_for_action,
    client_for_sensor,
)
from poundcake.stackstorm.execution import (
    Execution,
    OutputValue,
    action_result,
    describe_failure,
    failure_reason,
    workflow_output,
)
from poundcake.stackstorm.rules import RuleEnforcement, TriggerInstance, TriggerStatus

__all__ = [
    "CLOCK_ALLOWANCE",
    "LINK",
    "Execution",
    "OutputValue",
    "Page",
    "RuleEnforcement",
    "StackStorm",
    "StackStormApi",
    "StackStormError",
    "TriggerInstance",
    "TriggerStatus",
    "action_result",
    "client_for_action",
    "client_for_sensor",
    "describe_failure",
    "failure_reason",
    "noting_errors",
    "workflow_output",
]
