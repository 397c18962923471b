"""Interpret the trigger instances and rule enforcements of StackStorm's rules engine."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Mapping

from poundcake.stackstorm import fields
from poundcake.string_enum import StringEnum


class TriggerStatus(StringEnum):
    """The status of a trigger instance in the rules engine (st2common/constants/triggers.py)."""

    PENDING = "pending"
    """The instance is stored. If the rules engine is killed, it stays `pending` forever."""
    PROCESSING = "processing"
    """Rules are being evaluated. If the rules engine is killed, it stays `processing` forever."""
    PROCESSED = "processed"
    """Every rule of the trigger was evaluated."""
    PROCESSING_FAILED = "processing_failed"
    """An error aborted the evaluation; some rules may not have been evaluated."""


@dataclass(frozen=True)
class TriggerInstance:
    """A trigger that the rules engine received.

    Attributes:
        id: Its id.
        status: Its status: see TriggerStatus.
        occurred_at: When the rules engine received it, by the clock of the engine's host.
        payload: The published payload.
    """

    id: str
    status: str
    occurred_at: datetime
    payload: Mapping[str, Any]

    @classmethod
    def parse(cls, response: Any) -> TriggerInstance | None:
        """Return the instance in a response of the API, or None if it is malformed."""
        instance_id = fields.text(response, "id")
        occurred_at = fields.moment(response, "occurrence_time")
        payload = fields.value(response, "payload")
        if not instance_id or occurred_at is None or not isinstance(payload, dict):
            return None
        return cls(instance_id, fields.text(response, "status"), occurred_at, payload)


@dataclass(frozen=True)
class RuleEnforcement:
    """The result of a rule that matched a trigger instance.

    Attributes:
        trigger_instance_id: The id of the trigger instance.
        rule: The reference of the rule.
        execution_id: The id of the execution that the rule started, or '' if it started none.
        failure_reason: Why the rule could not start an execution.
        enforced_at: When the rule was enforced.
    """

    trigger_instance_id: str
    rule: str
    execution_id: str = ""
    failure_reason: str = ""
    enforced_at: datetime | None = None

    @classmethod
    def parse(cls, response: Any) -> RuleEnforcement | None:
        """Return the enforcement in a response, or None if it has no trigger instance."""
        instance_id = fields.text(response, "trigger_instance_id")
        if not instance_id:
            return None
        return cls(
            trigger_instance_id=instance_id,
            rule=fields.text(response, "rule", "ref"),
            execution_id=fields.text(response, "execution_id"),
            failure_reason=fields.text(response, "failure_reason"),
            enforced_at=fields.moment(response, "enforced_at"),
        )
