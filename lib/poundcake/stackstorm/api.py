"""What the pack asks of StackStorm, as an interface that tests can implement without HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Mapping, Protocol, Sequence, TypeVar

from poundcake.errors import PoundCakeError
from poundcake.stackstorm.execution import Execution
from poundcake.stackstorm.rules import RuleEnforcement, TriggerInstance

T = TypeVar("T")


class StackStormError(PoundCakeError):
    """StackStorm's API could not be asked, or refused.

    Attributes:
        status: The HTTP status of the answer; 0 if there was none.
        timed_out: The API took the question and did not answer it in time.
    """

    def __init__(self, message: str, status: int = 0, timed_out: bool = False):
        super().__init__(message)
        self.status = status
        self.timed_out = timed_out

    @property
    def is_outage(self) -> bool:
        """Return True if no other question would be answered now either."""
        return self.status in (401, 502, 503, 504) or (self.status == 0 and not self.timed_out)


@dataclass(frozen=True)
class Page(Generic[T]):
    """One page of a list that is read from its newest entry to older ones."""

    items: Sequence[T]
    older: datetime | None = None
    """Where the next page begins: its `before`. None on the last page."""
    unreadable: int = 0
    """How many entries were left out because they have no id or no time."""


class StackStormApi(Protocol):
    """The questions. Each raises StackStormError if it cannot be asked."""

    def now(self) -> datetime:
        """Return the time by the clock of StackStorm's API, to compare with times in answers."""

    def get(self, path: str, **params: Any) -> Any:
        """Return what a path below /v1 answers, as JSON; None if there is nothing."""

    def get_execution(self, execution_id: str) -> Execution | None:
        """Return an execution; None if StackStorm does not have it."""

    def get_executions(self, ids: Sequence[str]) -> Mapping[str, Execution]:
        """Return executions by id. One that is missing may still exist: get_execution() tells."""

    def get_children(self, execution_id: str) -> list[Execution]:
        """Return the executions that a workflow's tasks started, oldest first."""

    def list_triggers(
        self, trigger: str, after: datetime, before: datetime | None
    ) -> Page[TriggerInstance]:
        """Return the newest instances of a trigger between two moments of StackStorm's clock."""

    def get_triggers(self, ids: Sequence[str]) -> Mapping[str, TriggerInstance]:
        """Return trigger instances by id; those that StackStorm does not have are missing."""

    def list_enforcements(self, after: datetime, before: datetime | None) -> Page[RuleEnforcement]:
        """Return the newest enforcements of all rules between two moments."""

    def get_enforcements(self, trigger_instance_id: str) -> list[RuleEnforcement]:
        """Return what each rule made of a trigger instance."""

    def runs_link_task(self, action: str) -> bool:
        """Return True if an action is a workflow with a task that runs poundcake.link."""

    def problem_with(self, rule: str, action: str) -> str:
        """Return why a rule cannot start its action; empty if nothing is in the way."""

    def last_failure(self, action: str, since: datetime) -> str:
        """Return why the newest failed execution of an action failed; empty if none did."""

    def not_taken(self, action: str, since: datetime) -> str:
        """Return which process did not take the newest execution of an action; empty if one did."""
