"""One round of sync: poll StackStorm for the outcome of emitted alerts and store it in the trail.

StackStorm may lose a trigger after acknowledging it. Sync detects this, because an alert counts as
handled only once StackStorm reports how it was handled.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import asdict, dataclass
from typing import Any, Callable, Sequence

from sqlalchemy.engine import Engine

from poundcake.config import Config
from poundcake.monitoring import AlertmanagerApi
from poundcake.stackstorm import StackStormApi
from poundcake.trail import database
from poundcake.trail.approvals import expire_approvals, read_pending_approvals, report_approvals
from poundcake.trail.complete import complete_requests
from poundcake.trail.confirm import admit_unconfirmed
from poundcake.trail.expire import expire_incidents
from poundcake.trail.explain import explain_alerts
from poundcake.trail.mirror import MIRROR_SECONDS, mirror_open_executions
from poundcake.trail.reconcile import reconcile_incidents
from poundcake.trail.retry_refused import RETRY_SECONDS, retry_refused
from poundcake.trail.settle_changes import SETTLE_SECONDS, settle_changes
from poundcake.trail.sync_round import Deadline, LeaseLostError, SyncRound, start_round


@dataclass
class SyncCounts:
    """The counts of a round."""

    executions: int = 0
    """Open executions whose state was read."""
    explained: int = 0
    """Alerts that were explained."""
    unexplained: int = 0
    """Alerts that were checked and are still unexplained."""
    completed: int = 0
    """Requests that were completed."""
    confirmed: int = 0
    """Unconfirmed incidents that were processed."""
    expired: int = 0
    """Incidents that were closed because no notification arrived for expire_stale_hours."""
    gone: int = 0
    """Incidents that were closed because no Alertmanager holds their alerts any more."""
    silenced: int = 0
    """Open incidents whose alert is silenced in Alertmanager."""
    changes: int = 0
    """Changes that were ended, or for which it was decided whether they cleared their alert."""
    retried: int = 0
    """Workflows of refused changes that were started again."""
    expired_approvals: int = 0
    """Requests for approval that nobody answered within approval_minutes."""
    problems: tuple[str, ...] = ()
    """A sentence for each problem, such as a request to StackStorm that failed."""

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as JSON."""
        return {**asdict(self), "problems": list(self.problems)}


def sync(
    engine: Engine,
    config: Config,
    stackstorm: StackStormApi,
    alertmanagers: Sequence[AlertmanagerApi] = (),
) -> SyncCounts:
    """Run one round: mirror open executions, explain emitted alerts, complete requests.

    Also admit unconfirmed incidents and close stale ones when they are due, end the changes whose
    workflow could not report, try refused changes again, and compare the open incidents with the
    alerts that the Alertmanagers hold.

    The steps are independent: if one of them fails, the next ones still run. The work of each step
    is bounded, and the next round continues where this round stopped.

    Returns:
        The counts of the round; all zero if another round is already running.

    Raises:
        StackStormError: The API is unavailable. Results that do not depend on it are stored.
        LeaseLostError: This round took too long, and another round may have taken over.
        DatabaseError: The tracking database is unavailable.
    """
    database.prepare(engine, create=config.auto_migrate)
    owner = os.environ.get("ST2_ACTION_EXECUTION_ID") or str(uuid.uuid4())
    sync_round = start_round(engine, owner)
    if sync_round is None:
        return SyncCounts()
    counts = SyncCounts()
    try:
        _run_steps(sync_round, config, stackstorm, alertmanagers, counts)
        sync_round.finish()
    except BaseException:
        sync_round.abandon()
        raise
    return counts


def _run_steps(
    sync_round: SyncRound,
    config: Config,
    stackstorm: StackStormApi,
    alertmanagers: Sequence[AlertmanagerApi],
    counts: SyncCounts,
) -> None:
    def mirror() -> None:
        deadline = Deadline(MIRROR_SECONDS)
        counts.executions = mirror_open_executions(sync_round, stackstorm, deadline)

    def explain() -> None:
        counts.explained, counts.unexplained = explain_alerts(sync_round, stackstorm, config)

    def complete() -> None:
        counts.completed = complete_requests(sync_round)

    def confirm() -> None:
        counts.confirmed = admit_unconfirmed(sync_round, config)

    def expire() -> None:
        counts.expired = expire_incidents(sync_round, config)

    def reconcile() -> None:
        counts.gone, counts.silenced = reconcile_incidents(sync_round, config, alertmanagers)

    def settle() -> None:
        deadline = Deadline(SETTLE_SECONDS)
        counts.changes = settle_changes(sync_round, stackstorm, config, deadline, alertmanagers)

    def retry() -> None:
        deadline = Deadline(RETRY_SECONDS)
        counts.retried = retry_refused(sync_round, stackstorm, config, deadline)

    def update_approvals() -> None:
        # A workflow that waits for an approval is an open execution.
        has_approvals = bool(counts.executions)
        counts.expired_approvals = _update_approvals(sync_round, config, stackstorm, has_approvals)

    steps = (mirror, explain, complete, confirm, expire, reconcile, settle, retry, update_approvals)
    try:
        _run_each(steps)
    finally:
        counts.problems = tuple(sync_round.problems)


def _update_approvals(
    sync_round: SyncRound, config: Config, stackstorm: StackStormApi, has_approvals: bool
) -> int:
    if not has_approvals:
        return 0
    pending = read_pending_approvals(stackstorm)
    report_approvals(sync_round, stackstorm, config, pending)
    return expire_approvals(sync_round, stackstorm, config, pending)


def _run_each(steps: Sequence[Callable[[], None]]) -> None:
    """Run all steps, and then raise the first error."""
    first_error: Exception | None = None
    for step in steps:
        try:
            step()
        except LeaseLostError:
            raise
        # An error in one step must not stop the next steps.
        except Exception as error:
            first_error = first_error or error
    if first_error:
        raise first_error
