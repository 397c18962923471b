"""Collect evidence about a batch of open alerts from StackStorm and the trail."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Mapping, NamedTuple, Sequence

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
from poundcake.trail.claims import HostCooldown, find_blocking_claim
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
_PAGE = 100  # maximum entries in a list that StackStorm's API returns
# If an alert was emitted repeatedly, read at most this many of its newest triggers.
_MAX_TRIGGERS = 3


@dataclass(frozen=True)
class Evidence:
    """The evidence about one alert.

    Attributes:
        instances: The alert's newest trigger instances, newest first.
        results: The result of each rule for the newest instance that it matched. Empty if none
            matched, or if the rules engine may still be processing the newest instance.
        problem: Why the evidence could not be read from StackStorm, or '' if it could.
        is_deferred: Whether there was not enough time to read all of the evidence.
    """

    instances: Sequence[TriggerInstance] = ()
    results: Sequence[RuleResult] = ()
    problem: str = ""
    is_deferred: bool = False


class _Claim(NamedTuple):
    """A workflow's claim on an attempt at an episode, through one of the episode's alerts."""

    episode: str
    attempt: int
    alert_id: int
    workflow: str


class TrailFacts:
    """The recorded links of a batch of alerts, and the claims on the episodes of these alerts."""

    def __init__(self, sync_round: SyncRound, batch: Sequence[OpenAlert]):
        self._links: dict[tuple[int, str], LinkState] = {}
        self._claims: set[_Claim] = set()
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
                    self._claims.add(_Claim(*row))

    def link_state(self, alert: OpenAlert, execution_id: str) -> LinkState:
        """Return how an execution is linked to an alert."""
        return self._links.get((alert.id, execution_id), LinkState.NONE)

    def has_claim(self, alert: OpenAlert) -> bool:
        """Return True if an execution claimed the episode through this alert."""
        return any(claim.alert_id == alert.id for claim in self._claims)

    def claiming_alert_ids(self, alert: OpenAlert, workflow: str) -> set[int]:
        """Return the ids of the alerts through which a workflow claimed the alert's episode."""
        stored_workflow = cut(workflow, links.c.st2_action_ref)
        return {
            claim.alert_id
            for claim in self._claims
            if claim.episode == alert.episode
            and claim.workflow == stored_workflow
            # For a replay, ignore claims on earlier attempts.
            and claim.attempt >= alert.attempt
        }


class _UnreadableError(Exception):
    """The evidence about one alert could not be read. The message gives the reason."""


class EvidenceReader:
    """Reads the evidence about a batch of alerts from StackStorm, with as few calls as possible."""

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
        self._link_task_cache: dict[str, bool] = {}
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
        return {alert.id: self._collect_or_report_problem(alert, facts) for alert in batch}

    def _read_triggers(
        self, batch: Sequence[OpenAlert], known_instances: Mapping[str, TriggerInstance]
    ) -> None:
        ids = [trigger_id for alert in batch for trigger_id in alert.trigger_ids[:_MAX_TRIGGERS]]
        self._triggers.update(
            (trigger_id, known_instances[trigger_id])
            for trigger_id in ids
            if trigger_id in known_instances
        )
        missing_ids = [trigger_id for trigger_id in ids if trigger_id not in known_instances]
        read_instances = read_triggers(self._api, missing_ids, self._deadline, self._round.note)
        self._triggers.update(read_instances)

    def _read_enforcements(self, batch: Sequence[OpenAlert]) -> None:
        processed_instances = []
        for alert in batch:
            instances = self._find_newest_instances(alert)
            if instances and is_decided(instances[0], self._clocks):
                processed_instances += instances
        self._enforcements = read_enforcements(
            self._api, processed_instances, self._deadline, self._round.note
        )

    def _read_executions(self, batch: Sequence[OpenAlert], facts: TrailFacts) -> None:
        ids = []
        for alert in batch:
            for enforcement in self._find_newest_by_rule(self._find_newest_instances(alert)):
                execution_id = enforcement.execution_id
                # Do not read executions that claimed the episode: they explain the alert whatever
                # their status is.
                if execution_id and facts.link_state(alert, execution_id) is not LinkState.CLAIMED:
                    ids.append(execution_id)
        for start in range(0, len(ids), _PAGE):
            # Always read at least one page, so that every round makes progress.
            if start and self._deadline.has_passed:
                break
            page_ids = ids[start : start + _PAGE]
            executions_by_id = read_executions(
                self._api, page_ids, self._deadline, self._round.note
            )
            self._executions.update(executions_by_id)

    def _find_newest_instances(self, alert: OpenAlert) -> list[TriggerInstance]:
        """Return the newest trigger instances of an alert that could be read, newest first."""
        instances = (self._triggers.get(i) for i in alert.trigger_ids[:_MAX_TRIGGERS])
        return sorted((i for i in instances if i), key=lambda i: i.occurred_at, reverse=True)

    def _find_newest_by_rule(self, instances: Sequence[TriggerInstance]) -> list[RuleEnforcement]:
        """Return the enforcement of each rule for the newest instance that it matched."""
        by_rule: dict[str, RuleEnforcement] = {}
        for instance in instances:
            for enforcement in self._enforcements.by_instance.get(instance.id, []):
                by_rule.setdefault(enforcement.rule, enforcement)
        return list(by_rule.values())

    def _collect_or_report_problem(self, alert: OpenAlert, facts: TrailFacts) -> Evidence:
        try:
            return self._collect(alert, facts)
        except _UnreadableError as problem:
            return Evidence(problem=str(problem), is_deferred=self._deadline.has_passed)

    def _collect(self, alert: OpenAlert, facts: TrailFacts) -> Evidence:
        if any(i not in self._triggers for i in alert.trigger_ids[:_MAX_TRIGGERS]):
            raise _UnreadableError("its triggers could not be read")
        instances = self._find_newest_instances(alert)
        if not instances or not is_decided(instances[0], self._clocks):
            return Evidence(instances)
        for instance in instances:
            if instance.id not in self._enforcements.by_instance:
                reason = self._enforcements.failures.get(instance.id, "not read in time")
                raise _UnreadableError(f"the enforcements of trigger {instance.id}: {reason}")
        results = [
            self._rule_result(alert, enforcement, facts)
            for enforcement in self._find_newest_by_rule(instances)
        ]
        return Evidence(instances, results)

    def _rule_result(
        self, alert: OpenAlert, enforcement: RuleEnforcement, facts: TrailFacts
    ) -> RuleResult:
        if not enforcement.execution_id:
            failure = enforcement.failure_reason or "no reason given"
            return RuleResult(enforcement.rule, failure=failure)
        started = self._started_execution(alert, enforcement.execution_id, facts)
        return RuleResult(enforcement.rule, started)

    def _started_execution(
        self, alert: OpenAlert, execution_id: str, facts: TrailFacts
    ) -> StartedExecution:
        link = facts.link_state(alert, execution_id)
        if link is LinkState.CLAIMED:
            return StartedExecution(execution_id, None, link)
        if execution_id not in self._executions:
            raise _UnreadableError(f"execution {execution_id} could not be read")
        execution = self._executions[execution_id]
        if execution is None:
            return StartedExecution(execution_id, None, link)
        workflow = claiming_workflow(execution, self._config)
        claiming_alert_ids = facts.claiming_alert_ids(alert, workflow)
        return StartedExecution(
            execution_id,
            execution,
            link,
            runs_link_task=self._runs_link_task(execution.action),
            is_episode_claimed=bool(claiming_alert_ids),
            is_claimed_for_alert=alert.id in claiming_alert_ids,
            cooldown_until=self._read_cooldown_end(alert, execution, workflow),
        )

    def _runs_link_task(self, action: str) -> bool:
        """Return True if an action is a workflow with a task that links its execution."""
        if action not in self._link_task_cache:
            try:
                self._link_task_cache[action] = bool(action) and self._api.runs_link_task(action)
            except StackStormError as error:
                if error.is_outage:
                    raise
                message = f"the workflow {action} could not be read: {error}"
                raise _UnreadableError(message) from None
        return self._link_task_cache[action]

    def _read_cooldown_end(
        self, alert: OpenAlert, execution: Execution, workflow: str
    ) -> datetime | None:
        """Return the end of the cooldown that may have caused the refused claim, or None."""
        config = self._config
        cooldown = HostCooldown.from_config(config)
        is_refused = workflow_output(execution.result).get("stage") == NOT_CLAIMED
        if not cooldown.duration or not alert.host or not is_refused:
            return None
        with database.reading(self._round.engine) as connection:
            blocking_claim = find_blocking_claim(
                connection, alert.host, workflow, cooldown, self._clocks.database
            )
        return blocking_claim.until if blocking_claim else None


def claiming_workflow(execution: Execution, config: Config) -> str:
    """Return the name under which an execution claims an episode.

    That is usually the name of its own action. poundcake.remediate and the shipped remediations use
    the name of the action that they run, which their parameters or their entry in `remediations`
    determine.
    """
    if execution.action != REMEDIATE:
        return changing_action(execution.action)
    parameters = execution.parameters or {}
    name = parameters.get("remediation")
    entry = config.remediation(str(name or ""))
    action = parameters.get("action") or (entry and entry.action) or execution.action
    return changing_action(str(action))
