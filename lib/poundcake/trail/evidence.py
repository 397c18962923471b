"""Collect evidence about a batch of open alerts from StackStorm and the trail."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Mapping, Sequence

from sqlalchemy import or_, select

from poundcake.config import Config
from poundcake.shipped_remediations import changing_action
from poundcake.stackstorm import (
    Execution,
    RuleEnforcement,
    StackStormApi,
    StackStormError,
    TriggerInstance,
    workflow_output,
)
from poundcake.trail import database
from poundcake.trail.claims import HostCooldown, last_host_claim
from poundcake.trail.enforcements import Enforcements, read_enforcements
from poundcake.trail.read_executions import read_executions
from poundcake.trail.schema import alerts, cut, links
from poundcake.trail.sync_round import Deadline, SyncRound
from poundcake.trail.triggers import read_triggers
from poundcake.trail.verdict import (
    NOT_CLAIMED,
    Clocks,
    LinkState,
    OpenAlert,
    RuleResult,
    StartedExecution,
    is_decided,
)

REMEDIATE = "poundcake.remediate"
_PAGE = 100  # maximum entries in a list of StackStorm's API
# How many of an alert's newest triggers to read if the alert was emitted repeatedly.
_NEWEST_TRIGGERS = 3


@dataclass(frozen=True)
class Evidence:
    """The evidence about one alert.

    Attributes:
        instances: Its newest triggers, newest first.
        results: The result of each rule for the newest trigger that it matched; empty while the
            rules engine is still processing the trigger.
        problem: Why the evidence could not be read from StackStorm, or '' if it could.
        is_deferred: Whether there was no time to read all of the evidence.
    """

    instances: Sequence[TriggerInstance] = ()
    results: Sequence[RuleResult] = ()
    problem: str = ""
    is_deferred: bool = False


class TrailFacts:
    """The links of the alerts of a batch, and the claims on their episodes, from the trail."""

    def __init__(self, sync_round: SyncRound, batch: Sequence[OpenAlert]):
        self._links: dict[tuple[int, str], LinkState] = {}
        self._claims: set[tuple[str, int, int, str]] = set()
        is_claimed = or_(links.c.claim.is_not(None), links.c.released_at.is_not(None))
        alert_links = select(
            links.c.alert_id, links.c.st2_execution_id, is_claimed.label("is_claimed")
        )
        claims = (
            select(alerts.c.episode, alerts.c.attempt, links.c.alert_id, links.c.st2_action_ref)
            .join(alerts, alerts.c.id == links.c.alert_id)
            .where(is_claimed)
        )
        with database.reading(sync_round.engine) as connection:
            for ids in database.batched([alert.id for alert in batch]):
                for row in connection.execute(alert_links.where(links.c.alert_id.in_(ids))):
                    link = LinkState.CLAIMED if row.is_claimed else LinkState.UNCLAIMED
                    self._links[row.alert_id, row.st2_execution_id] = link
            for episodes in database.batched(sorted({alert.episode for alert in batch})):
                for row in connection.execute(claims.where(alerts.c.episode.in_(episodes))):
                    self._claims.add((row.episode, row.attempt, row.alert_id, row.st2_action_ref))

    def link(self, alert: OpenAlert, execution_id: str) -> LinkState:
        """Return how an execution is linked to an alert."""
        return self._links.get((alert.id, execution_id), LinkState.NONE)

    def has_claim(self, alert: OpenAlert) -> bool:
        """Return True if an execution claimed the episode through this alert."""
        return any(alert_id == alert.id for _, _, alert_id, _ in self._claims)

    def claiming_alert_ids(self, alert: OpenAlert, workflow: str) -> set[int]:
        """Return the alerts through which a workflow claimed the attempt at the episode."""
        name = cut(workflow, links.c.st2_action_ref)
        return {
            alert_id
            for episode, attempt, alert_id, action in self._claims
            # A claim on an earlier attempt does not count for a replay.
            if episode == alert.episode and attempt >= alert.attempt and action == name
        }


class _UnknownError(Exception):
    """The evidence about one alert could not be read. The message gives the reason."""


class EvidenceReader:
    """Reads the evidence about a batch of alerts from StackStorm, from lists where possible."""

    def __init__(
        self,
        sync_round: SyncRound,
        api: StackStormApi,
        config: Config,
        clocks: Clocks,
        deadline: Deadline,
    ):
        self._round = sync_round
        self._api = api
        self._config = config
        self._clocks = clocks
        self._deadline = deadline
        self._runs_link_task: dict[str, bool] = {}
        self._triggers: dict[str, TriggerInstance | None] = {}
        self._enforcements = Enforcements()
        self._executions: dict[str, Execution | None] = {}

    def read(
        self,
        batch: Sequence[OpenAlert],
        facts: TrailFacts,
        known_instances: Mapping[str, TriggerInstance],
    ) -> dict[int, Evidence]:
        """Return the evidence by alert id.

        Args:
            batch: The alerts.
            facts: The links and claims of these alerts.
            known_instances: Trigger instances that this round has already read, by id.

        Raises:
            StackStormError: The API is unavailable.
        """
        self._read_triggers(batch, known_instances)
        self._read_enforcements(batch)
        self._read_executions(batch, facts)
        return {alert.id: self._evidence(alert, facts) for alert in batch}

    def _read_triggers(
        self, batch: Sequence[OpenAlert], known_instances: Mapping[str, TriggerInstance]
    ) -> None:
        ids = [trigger_id for alert in batch for trigger_id in alert.trigger_ids[:_NEWEST_TRIGGERS]]
        self._triggers.update(
            (trigger_id, known_instances[trigger_id])
            for trigger_id in ids
            if trigger_id in known_instances
        )
        missing_ids = [trigger_id for trigger_id in ids if trigger_id not in known_instances]
        read_instances = read_triggers(self._api, missing_ids, self._deadline, self._round.note)
        self._triggers.update(read_instances)

    def _read_enforcements(self, batch: Sequence[OpenAlert]) -> None:
        decided_instances = []
        for alert in batch:
            instances = self._known_instances(alert)
            if instances and is_decided(instances[0], self._clocks):
                decided_instances += instances
        self._enforcements = read_enforcements(
            self._api, decided_instances, self._deadline, self._round.note
        )

    def _read_executions(self, batch: Sequence[OpenAlert], facts: TrailFacts) -> None:
        ids = []
        for alert in batch:
            for enforcement in self._newest_by_rule(self._known_instances(alert)):
                execution_id = enforcement.execution_id
                # An execution that claimed the episode explains the alert in any state.
                if execution_id and facts.link(alert, execution_id) is not LinkState.CLAIMED:
                    ids.append(execution_id)
        for start in range(0, len(ids), _PAGE):
            # Always read at least one page. Otherwise no alert might ever be explained.
            if start and self._deadline.has_passed:
                break
            page_ids = ids[start : start + _PAGE]
            read_by_id = read_executions(self._api, page_ids, self._deadline, self._round.note)
            self._executions.update(read_by_id)

    def _known_instances(self, alert: OpenAlert) -> list[TriggerInstance]:
        """Return the newest readable triggers of an alert, newest first."""
        instances = (self._triggers.get(i) for i in alert.trigger_ids[:_NEWEST_TRIGGERS])
        return sorted((i for i in instances if i), key=lambda i: i.occurred_at, reverse=True)

    def _newest_by_rule(self, instances: Sequence[TriggerInstance]) -> list[RuleEnforcement]:
        """Return each rule's enforcement of the newest trigger that it matched."""
        by_rule: dict[str, RuleEnforcement] = {}
        for instance in instances:
            for enforcement in self._enforcements.by_instance.get(instance.id, []):
                by_rule.setdefault(enforcement.rule, enforcement)
        return list(by_rule.values())

    def _evidence(self, alert: OpenAlert, facts: TrailFacts) -> Evidence:
        try:
            return self._collect(alert, facts)
        except _UnknownError as problem:
            return Evidence(problem=str(problem), is_deferred=self._deadline.has_passed)

    def _collect(self, alert: OpenAlert, facts: TrailFacts) -> Evidence:
        if any(i not in self._triggers for i in alert.trigger_ids[:_NEWEST_TRIGGERS]):
            raise _UnknownError("its triggers could not be read")
        instances = self._known_instances(alert)
        if not instances or not is_decided(instances[0], self._clocks):
            return Evidence(instances)
        for instance in instances:
            if instance.id not in self._enforcements.by_instance:
                reason = self._enforcements.failures.get(instance.id, "not read in time")
                raise _UnknownError(f"the enforcements of trigger {instance.id}: {reason}")
        results = [
            self._result(alert, enforcement, facts)
            for enforcement in self._newest_by_rule(instances)
        ]
        return Evidence(instances, results)

    def _result(
        self, alert: OpenAlert, enforcement: RuleEnforcement, facts: TrailFacts
    ) -> RuleResult:
        if not enforcement.execution_id:
            failure = enforcement.failure_reason or "no reason given"
            return RuleResult(enforcement.rule, failure=failure)
        started = self._started(alert, enforcement.execution_id, facts)
        return RuleResult(enforcement.rule, started)

    def _started(self, alert: OpenAlert, execution_id: str, facts: TrailFacts) -> StartedExecution:
        link = facts.link(alert, execution_id)
        if link is LinkState.CLAIMED:
            return StartedExecution(execution_id, None, link)
        if execution_id not in self._executions:
            raise _UnknownError(f"execution {execution_id} could not be read")
        execution = self._executions[execution_id]
        if execution is None:
            return StartedExecution(execution_id, None, link)
        workflow = claiming_workflow(execution, self._config)
        claiming_alert_ids = facts.claiming_alert_ids(alert, workflow)
        return StartedExecution(
            execution_id,
            execution,
            link,
            runs_link_task=self._links_itself(execution.action),
            is_episode_claimed=bool(claiming_alert_ids),
            is_claimed_for_alert=alert.id in claiming_alert_ids,
            cooldown_until=self._cooldown_until(alert, execution, workflow),
        )

    def _links_itself(self, action: str) -> bool:
        """Return True if an action is a workflow that links itself. Cache the result."""
        if action not in self._runs_link_task:
            try:
                self._runs_link_task[action] = bool(action) and self._api.runs_link_task(action)
            except StackStormError as error:
                if error.is_outage:
                    raise
                raise _UnknownError(f"the workflow {action} could not be read: {error}") from None
        return self._runs_link_task[action]

    def _cooldown_until(
        self, alert: OpenAlert, execution: Execution, workflow: str
    ) -> datetime | None:
        """Return the end of the cooldown that may have caused the refusal, or None."""
        config = self._config
        cooldown = HostCooldown.configured(config)
        is_refused = workflow_output(execution.result).get("stage") == NOT_CLAIMED
        if not cooldown.duration or not alert.host or not is_refused:
            return None
        with database.reading(self._round.engine) as connection:
            blocking_claim = last_host_claim(
                connection, alert.host, workflow, cooldown, self._clocks.database
            )
        return blocking_claim.until if blocking_claim else None


def claiming_workflow(execution: Execution, config: Config) -> str:
    """Return the name under which an execution claims an episode.

    poundcake.remediate and the shipped remediations claim under the name of the action that they
    run. The parameters or the entry of `remediations` name that action.
    """
    if execution.action != REMEDIATE:
        return changing_action(execution.action)
    parameters = execution.parameters or {}
    name = parameters.get("remediation")
    entry = config.remediation(str(name or ""))
    action = parameters.get("action") or (entry and entry.action) or execution.action
    return changing_action(str(action))
