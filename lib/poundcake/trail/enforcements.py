"""Read the rule enforcements of trigger instances with as few API calls as possible.

The API lists the enforcements of one trigger instance, or those of all rules in a time range. The
triggers of an alert storm are close together in time, so one page of the second list can cover a
hundred triggers. For a few old triggers, or if StackStorm is busy with other rules, one call per
trigger is cheaper.
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
    noting_errors,
)
from poundcake.trail.sync_round import Deadline

# One process both receives triggers and enforces rules, but it rounds the two times differently.
_ROUNDING_ALLOWANCE = timedelta(seconds=10)
_MAX_WITHOUT_LISTING = 3  # up to this many instances are read one by one
_MAX_PAGES = 20
_MAX_SINGLE_CALLS = 100


@dataclass
class Enforcements:
    """The enforcements of trigger instances.

    An instance that is neither in `by_instance` nor in `failures` was not read in time.

    Attributes:
        by_instance: The enforcements of each trigger instance. The list is empty if no rule matched
            the instance.
        failures: Why the enforcements could not be read, by trigger instance.
    """

    by_instance: dict[str, list[RuleEnforcement]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


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
        note: Called with a description of each problem.

    Raises:
        StackStormError: The API is unavailable.
    """
    enforcements = Enforcements()
    if len(instances) > _MAX_WITHOUT_LISTING:
        newest_first = sorted(instances, key=lambda instance: instance.occurred_at, reverse=True)
        _read_list(api, newest_first, enforcements, deadline, note)
    remaining_instances = [
        instance for instance in instances if instance.id not in enforcements.by_instance
    ]
    for instance in remaining_instances[:_MAX_SINGLE_CALLS]:
        if deadline.has_passed:
            break
        try:
            enforcements.by_instance[instance.id] = api.get_enforcements(instance.id)
        except StackStormError as error:
            if error.is_outage:
                raise
            enforcements.failures[instance.id] = str(error)
    return enforcements


def _read_list(
    api: StackStormApi,
    instances: Sequence[TriggerInstance],
    enforcements: Enforcements,
    deadline: Deadline,
    note: Callable[[str], None],
) -> None:
    """Read pages of the list into `enforcements`, until one call per instance is cheaper.

    Args:
        api: StackStorm's API.
        instances: The instances, newest first.
        enforcements: The result, to which the enforcements are added.
        deadline: The deadline for reading.
        note: Called with a description of each problem.
    """
    by_instance: dict[str, list[RuleEnforcement]] = defaultdict(list)
    remaining_instances = list(instances)
    before: datetime | None = None
    for _ in range(_MAX_PAGES):
        page = _read_page(api, instances[-1].occurred_at - _ROUNDING_ALLOWANCE, before, note)
        if page is None:
            return
        for enforcement in page.items:
            instance_enforcements = by_instance[enforcement.trigger_instance_id]
            # The next page repeats the enforcements that have the oldest time of this page.
            if enforcement not in instance_enforcements:
                instance_enforcements.append(enforcement)
        older = page.older
        covered_instances = [
            instance
            for instance in remaining_instances
            if older is None or instance.occurred_at - _ROUNDING_ALLOWANCE >= older
        ]
        enforcements.by_instance.update(
            (instance.id, by_instance[instance.id]) for instance in covered_instances
        )
        remaining_instances = remaining_instances[len(covered_instances) :]
        if not remaining_instances or older is None or deadline.has_passed:
            return
        if not is_listing_cheaper(
            remaining_instances, older, (before or _newest_time(page.items, older)) - older
        ):
            return
        before = older


def _read_page(
    api: StackStormApi, after: datetime, before: datetime | None, note: Callable[[str], None]
) -> Page[RuleEnforcement] | None:
    """Return a page of the list, or None if it cannot be read."""
    page = None
    with noting_errors(note, "rule enforcements could not be listed"):
        page = api.list_enforcements(after, before)
    if page and page.unreadable:
        note(f"skipped rule enforcements without a trigger instance: {page.unreadable}")
    return page


def _newest_time(items: Sequence[RuleEnforcement], default: datetime) -> datetime:
    return max((item.enforced_at for item in items if item.enforced_at), default=default)


def is_listing_cheaper(
    remaining_instances: Sequence[TriggerInstance], oldest_read_at: datetime, page_span: timedelta
) -> bool:
    """Return True if listing takes fewer calls than one call for each remaining instance.

    Args:
        remaining_instances: The instances whose enforcements have not been read, newest first.
        oldest_read_at: The time of the oldest enforcement that has been read.
        page_span: The length of the time range that the last page covered.
    """
    return any(
        oldest_read_at - (instance.occurred_at - _ROUNDING_ALLOWANCE) < page_span * count
        for count, instance in enumerate(remaining_instances, 1)
    )
