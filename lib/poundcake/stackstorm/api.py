"""The interface of the client of StackStorm's API. Tests can implement it without HTTP."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Callable, Generic, Iterator, Mapping, Protocol, Sequence, TypeVar

from poundcake.errors import PoundCakeError
from poundcake.stackstorm.execution import Execution
from poundcake.stackstorm.rules import RuleEnforcement, TriggerInstance

T = TypeVar("T")


class StackStormError(PoundCakeError):
    """A request to StackStorm's API failed.

    Attributes:
        status: The HTTP status of the response; 0 if there was none.
        timed_out: Whether the API accepted the request but did not respond in time.
        unsent: Whether no connection to the API was made, so that the request was not sent.
    """

    def __init__(
        self, message: str, status: int = 0, timed_out: bool = False, unsent: bool = False
    ):
        super().__init__(message)
        self.status = status
        self.timed_out = timed_out
        self.unsent = unsent

    @property
    def is_outage(self) -> bool:
        """Whether other requests would also fail now."""
        return self.status in (401, 502, 503, 504) or (self.status == 0 and not self.timed_out)

    @property
    def had_no_effect(self) -> bool:
        """Whether the request certainly changed nothing: it was not sent, or it was refused."""
        return self.unsent or 400 <= self.status < 500


@contextmanager
def noting_errors(note: Callable[[str], None], problem: str) -> Iterator[None]:
    """Note an error of the API that ends the block, unless other requests would also fail now.

    Args:
        note: Takes the problem with the error.
        problem: What could not be done, without a full stop.

    Raises:
        StackStormError: The API is unavailable.
    """
    try:
        yield
    except StackStormError as error:
        if error.is_outage:
            raise
        note(f"{problem}: {error}")


@dataclass(frozen=True)
class Page(Generic[T]):
    """One page of a list, newest entries first.

    Attributes:
        items: The entries.
        older: The argument `before` for the next page, which has older entries; None if this is the
            last page.
        unreadable: The number of entries that are left out because a required field is missing.
    """

    items: Sequence[T]
    older: datetime | None = None
    unreadable: int = 0


class StackStormApi(Protocol):
    """The requests that the pack sends. Each method raises StackStormError if its request fails."""

    def now(self) -> datetime:
        """Return the current time by the API's clock, for comparison with times in responses."""

    def get(self, path: str, **params: Any) -> Any:
        """Return the JSON response for a path below /v1, or None for 404."""

    def get_execution(self, execution_id: str) -> Execution | None:
        """Return an execution, or None if StackStorm does not have it."""

    def get_executions(self, ids: Sequence[str]) -> Mapping[str, Execution]:
        """Return executions by id.

        An execution that is missing from the result may still exist: check with get_execution().
        """

    def get_children(self, execution_id: str) -> list[Execution]:
        """Return the executions that a workflow's tasks started, oldest first."""

    def re_run(self, execution_id: str) -> str:
        """Start an ended execution again as the user of the current execution.

        The new execution has the same action and parameters, and no rule.

        Returns:
            The id of the new execution.
        """

    def list_pending_inquiries(self) -> list[Execution]:
        """Return the newest inquiries of core.ask that are waiting for an answer."""

    def respond(self, inquiry_id: str, response: Mapping[str, Any]) -> None:
        """Answer an inquiry as the user of the current execution."""

    def list_triggers(
        self, trigger: str, after: datetime, before: datetime | None
    ) -> Page[TriggerInstance]:
        """Return the newest instances of a trigger between two times by StackStorm's clock."""

    def get_triggers(self, ids: Sequence[str]) -> Mapping[str, TriggerInstance]:
        """Return trigger instances by id, without those that StackStorm does not have."""

    def list_enforcements(self, after: datetime, before: datetime | None) -> Page[RuleEnforcement]:
        """Return the newest enforcements of all rules between two times by StackStorm's clock."""

    def get_enforcements(self, trigger_instance_id: str) -> list[RuleEnforcement]:
        """Return the rule enforcements of a trigger instance."""

    def runs_link_task(self, action: str) -> bool:
        """Return True if an action is a workflow with a task that links it to the alert."""

    def find_rule_problem(self, rule: str, action: str) -> str:
        """Return why a rule cannot start its action, or '' if nothing prevents it."""

    def find_last_failure(self, action: str, since: datetime) -> str:
        """Return why the newest failed execution of an action failed, or '' if none failed."""

    def describe_stuck_execution(self, action: str, since: datetime) -> str:
        """Return an error if no process has picked up an action's newest execution, or ''."""
