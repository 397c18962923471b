"""What StackStorm's rules engine did with a trigger."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Mapping

from poundcake.stackstorm import fields


class TriggerStatus(str, Enum):
    """How far the rules engine is with a trigger instance (st2common/constants/triggers.py)."""

    PENDING = "pending"
    """Stored. It stays so for ever if the rules engine was killed."""
    PROCESSING = "processing"
    """Its rules are being evaluated. It stays so for ever if the rules engine was killed."""
    PROCESSED = "processed"
    """Each rule on the trigger was evaluated."""
    PROCESSING_FAILED = "processing_failed"
    """An error ended the evaluation; rules may be missing."""


@dataclass(frozen=True)
class TriggerInstance:
    """A trigger that the rules engine received."""

    id: str
    status: str
    occurred_at: datetime
    """When the rules engine received it, by the clock of its host."""
    payload: Mapping[str, Any]

    @classmethod
    def parse(cls, answer: Any) -> TriggerInstance | None:
        """Return the instance that an answer of the API describes; None if it cannot be read."""
        instance_id = fields.text(answer, "id")
        occurred_at = fields.moment(answer, "occurrence_time")
        payload = fields.value(answer, "payload")
        if not instance_id or occurred_at is None or not isinstance(payload, dict):
            return None
        return cls(instance_id, fields.text(answer, "status"), occurred_at, payload)


@dataclass(frozen=True)
class RuleEnforcement:
    """What a rule made of a trigger instance: an execution, or a reason why there is none."""

    trigger_instance_id: str
    rule: str
    execution_id: str = ""
    failure_reason: str = ""
    enforced_at: datetime | None = None

    @classmethod
    def parse(cls, answer: Any) -> RuleEnforcement | None:
        """Return the enforcement in an answer of the API; None if it has no trigger instance."""
        instance_id = fields.text(answer, "trigger_instance_id")
        if not instance_id:
            return None
        return cls(
            trigger_instance_id=instance_id,
            rule=fields.text(answer, "rule", "ref"),
            execution_id=fields.text(answer, "execution_id"),
            failure_reason=fields.text(answer, "failure_reason"),
            enforced_at=fields.moment(answer, "enforced_at"),
        )
