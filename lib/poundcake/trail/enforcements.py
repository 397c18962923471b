"""Read the rule enforcements of trigger instances with as few API calls as possible.

The API lists the enforcements of one trigger instance, or those of all rules in a time range. The
triggers of an alert storm are close together in time, so one page of the list covers a hundred
triggers. For a few old triggers, or if StackStorm is busy with other rules, single calls are
cheaper.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Callable, Sequence

from poundcake.stackstorm import (
    Page,
    RuleEnforcement,
    StackStormApi,
    StackStormError,
    TriggerInstance,
)
from poundcake.trail.sync_round import Deadline

# One process both receives triggers and enforces rules, but it rounds the times differently.
_SLACK = timedelta(seconds=10)
_FEW = 3  # up to this many instances are read with single calls
_MAX_PAGES = 20
_MAX_SINGLE = 100


@dataclass
class Enforcements:
    """The enforcements of trigger instances.

    An instance that is neither in `found` nor in `failed` was not read for lack of time.

    Attributes:
        found: Enforcements by trigger instance. The list is empty if no rule matched the instance.
        failed: Why the enforcements could not be read, by trigger instance.
    """

    found: dict[str, list[RuleEnforcement]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def read_enforcements(
    api: StackStormApi,
    instances: Sequence[TriggerInstance],
    deadline: Deadline,
    note: Callable[[str], None],
) -> Enforcements:
    """Read the enforcements of trigger instances that the rules engine has evaluated.

    Args:
        api: StackStorm's API.
        instances: The instances, most important first, because there may not be time for all.
        deadline: The deadline for reading.
        note: Called with a sentence if a list could not be read.

    Raises:
        StackStormError: The API is unavailable.
    """
    answer = Enforcements()
    if len(instances) > _FEW:
        newest_first = sorted(instances, key=lambda instance: instance.occurred_at, reverse=True)
        _read_list(api, newest_first, answer, deadline, note)
    left = [instance for instance in instances if instance.id not in answer.found]
    for instance in left[:_MAX_SINGLE]:
        if deadline.has_passed:
            break
        try:
            answer.found[instance.id] = api.get_enforcements(instance.id)
        except StackStormError as error:
            if error.is_outage:
                raise
            answer.failed[instance.id] = str(error)
    return answer


def _read_list(
    api: StackStormApi,
    instances: Sequence[TriggerInstance],
    answer: Enforcements,
    deadline: Deadline,
    note: Callable[[str], None],
) -> None:
    """Read pages of the list into `answer` while lists take fewer calls than single reads.

    Args:
        api: StackStorm's API.
        instances: The instances, newest first.
        answer: The result, to which the enforcements are added.
        deadline: The deadline for reading.
        note: Called with a sentence if a page could not be read.
    """
    by_instance: dict[str, list[RuleEnforcement]] = defaultdict(list)
    left = list(instances)
    before: datetime | None = None
    for _ in range(_MAX_PAGES):
        page = _page(api, instances[-1].occurred_at - _SLACK, before, note)
        if page is None:
            return
        for enforcement in page.items:
            found = by_instance[enforcement.trigger_instance_id]
            if enforcement not in found:  # pages overlap at the time of their last item
                found.append(enforcement)
        older = page.older
        covered = [i for i in left if older is None or i.occurred_at - _SLACK >= older]
        answer.found.update((instance.id, by_instance[instance.id]) for instance in covered)
        left = left[len(covered) :]
        if not left or older is None or deadline.has_passed:
            return
        if not is_list_worthwhile(left, older, (before or _newest(page.items, older)) - older):
            return
        before = older


def _page(
    api: StackStormApi, after: datetime, before: datetime | None, note: Callable[[str], None]
) -> Page[RuleEnforcement] | None:
    """Return a page of the list, or None if it cannot be read."""
    try:
        page = api.list_enforcements(after, before)
    except StackStormError as error:
        if error.is_outage:
            raise
        note(f"rule enforcements could not be listed: {error}")
        return None
    if page.unreadable:
        note(f"rule enforcements left out, without a trigger instance: {page.unreadable}")
    return page


def _newest(items: Sequence[RuleEnforcement], default: datetime) -> datetime:
    return max((item.enforced_at for item in items if item.enforced_at), default=default)


def is_list_worthwhile(left: Sequence[TriggerInstance], reached: datetime, span: timedelta) -> bool:
    """Return True if reading more pages takes fewer calls than reading instances singly.

    Args:
        left: The instances whose enforcements are still missing, newest first.
        reached: The time of the oldest enforcement that was read so far.
        span: The length of time that the last page covered.
    """
    return any(
        reached - (instance.occurred_at - _SLACK) < span * count
        for count, instance in enumerate(left, 1)
    )
