"""Explain emitted alerts from StackStorm's data, and store the explanations in the trail."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Iterator, Mapping, NamedTuple, Sequence

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from poundcake.config import Config
from poundcake.stackstorm import CLOCK_ALLOWANCE, Execution, StackStormApi, StackStormError
from poundcake.trail import database
from poundcake.trail.claims import add_execution, find_incident_end
from poundcake.trail.clock import database_now
from poundcake.trail.evidence import Evidence, EvidenceReader, TrailFacts
from poundcake.trail.mirror import write_execution
from poundcake.trail.open_work import is_unexplained
from poundcake.trail.outcomes import Explanation
from poundcake.trail.schema import alerts, api_calls, cut, links
from poundcake.trail.sync_round import Deadline, SyncRound
from poundcake.trail.triggers import FoundTriggers, Span, find_triggers, trigger_ids
from poundcake.trail.verdict import (
    Clocks,
    Judgement,
    OpenAlert,
    StartedExecution,
    Verdict,
    apply_time_limits,
    judge_alert,
    judge_execution,
    judge_missing_trigger,
)

# How long a round may read triggers from StackStorm, and then evidence about alerts, in seconds.
TRIGGER_SECONDS = 10
EVIDENCE_SECONDS = 15
_BATCH_ALERTS = 200
_TRANSACTION_ALERTS = 50
_ALERT_COLUMNS = (
    alerts.c.id,
    alerts.c.episode,
    alerts.c.attempt,
    alerts.c.host,
    alerts.c.recorded_at,
    alerts.c.closed_at,
    alerts.c.acknowledged_at,
    alerts.c.checked_at,
    alerts.c.explanation,
    alerts.c.explanation_reason,
    alerts.c.trigger_instances,
    api_calls.c.request_id,
)


class ExplainCounts(NamedTuple):
    """How many alerts a round explained, and how many it left unexplained."""

    explained: int
    unexplained: int


def explain_alerts(sync_round: SyncRound, api: StackStormApi, config: Config) -> ExplainCounts:
    """Explain a batch of emitted alerts, least recently checked first.

    Give up on alerts that are unexplained after give_up_hours, even if StackStorm is unavailable.

    Raises:
        StackStormError: The API is unavailable, or cannot list the triggers. The verdicts that do
            not depend on it have been written.
    """
    given_up_count = give_up_overdue(sync_round, config)
    triggers = find_triggers(sync_round, api, Deadline(TRIGGER_SECONDS))
    batch = _start_batch(sync_round)
    try:
        verdicts = _Explainer(sync_round, api, config).decide_all(batch, triggers)
    except StackStormError as error:
        reason = f"StackStorm could not be queried: {error}"
        unchanged_verdicts = {alert.id: Verdict(alert.explanation, reason) for alert in batch}
        _write_verdicts(sync_round, config, batch, unchanged_verdicts)
        raise
    explained_count = _write_verdicts(sync_round, config, batch, verdicts)
    if triggers.failure:
        raise triggers.failure
    return ExplainCounts(given_up_count + explained_count, len(batch) - explained_count)


def give_up_overdue(sync_round: SyncRound, config: Config) -> int:
    """Give up on alerts that an earlier round began to check after give_up_hours had passed.

    That round did not finish, because StackStorm killed it or its machine failed. So this step runs
    first and does not need StackStorm. Alerts whose episodes have been claimed since are skipped,
    and checked again later.

    Returns:
        The number of alerts that this call gave up on.
    """
    give_up_after = timedelta(hours=config.give_up_hours)
    with database.reading(sync_round.engine) as connection:
        recorded_before = database_now(connection) - give_up_after
        old_alerts = _read_open_alerts(connection, alerts.c.recorded_at < recorded_before)
    overdue_alerts = [
        alert
        for alert in old_alerts
        if alert.checked_at and alert.checked_at > alert.recorded_at + give_up_after
    ]
    facts = TrailFacts(sync_round, overdue_alerts)
    overdue_alerts = [alert for alert in overdue_alerts if not facts.has_claim(alert)]
    return _write_verdicts(sync_round, config, overdue_alerts, {})


def _start_batch(sync_round: SyncRound) -> list[OpenAlert]:
    """Return the open alerts that this round checks, after marking them as checked.

    They are marked before any request to StackStorm. So if one of the alerts aborts the round, the
    next round checks other alerts first.
    """
    with sync_round.writing() as connection:
        batch = _read_open_alerts(connection)
        connection.execute(
            update(alerts)
            .where(alerts.c.id.in_([alert.id for alert in batch]))
            .values(checked_at=database_now(connection))
        )
    return batch


def _read_open_alerts(connection: Connection, *conditions: ColumnElement[bool]) -> list[OpenAlert]:
    rows = connection.execute(
        select(*_ALERT_COLUMNS)
        .join(api_calls, api_calls.c.id == alerts.c.api_call_id)
        .where(is_unexplained(), *conditions)
        # Check the least recently checked alerts first, so that no alert delays the others.
        .order_by(alerts.c.checked_at, alerts.c.id)
        .limit(_BATCH_ALERTS)
    )
    return [
        OpenAlert(
            id=row.id,
            request_id=row.request_id,
            episode=row.episode or "",
            attempt=row.attempt,
            host=row.host,
            recorded_at=row.recorded_at,
            closed_at=row.closed_at,
            is_acknowledged=row.acknowledged_at is not None,
            checked_at=row.checked_at,
            explanation=Explanation(row.explanation) if row.explanation else None,
            reason=row.explanation_reason or "",
            trigger_ids=trigger_ids(row.trigger_instances),
        )
        for row in rows
    ]


class _Explainer:
    """Decides the explanations of a batch of alerts, based on the evidence."""

    def __init__(self, sync_round: SyncRound, api: StackStormApi, config: Config):
        self._round = sync_round
        self._api = api
        self._config = config

    def decide_all(self, batch: Sequence[OpenAlert], triggers: FoundTriggers) -> dict[int, Verdict]:
        """Return the verdicts by alert id. Omit alerts for which there was not enough time.

        Raises:
            StackStormError: The API is unavailable.
        """
        facts = TrailFacts(self._round, batch)
        verdicts: dict[int, Verdict] = {}
        alerts_to_check: list[OpenAlert] = []
        for alert in batch:
            # The alert waits to be emitted again. Only a new trigger or a claim changes that.
            if alert.explanation is Explanation.RETRY and not facts.has_claim(alert):
                verdicts[alert.id] = Verdict(Explanation.RETRY, alert.reason)
            else:
                alerts_to_check.append(alert)
        if not alerts_to_check:
            return verdicts
        clocks = self._read_clocks()
        deadline = Deadline(EVIDENCE_SECONDS)
        reader = EvidenceReader(self._round, self._api, self._config, clocks, deadline)
        evidence = reader.read(alerts_to_check, facts, triggers.instances)
        judgements = self._judge_executions(alerts_to_check, evidence, clocks)
        for alert in alerts_to_check:
            alert_evidence = evidence[alert.id]
            if alert_evidence.problem:
                self._round.note(f"alert {alert.id}: {alert_evidence.problem}")
            if not alert_evidence.is_deferred:
                has_unread_trigger = may_have_unread_trigger(alert, triggers.unread, clocks)
                verdict = _decide_verdict(
                    alert, alert_evidence, judgements[alert.id], has_unread_trigger, clocks
                )
                verdicts[alert.id] = verdict
        return verdicts

    def _read_clocks(self) -> Clocks:
        stackstorm_now = self._api.now()
        with database.reading(self._round.engine) as connection:
            return Clocks(database_now(connection), stackstorm_now)

    def _judge_executions(
        self, batch: Sequence[OpenAlert], evidence: Mapping[int, Evidence], clocks: Clocks
    ) -> dict[int, list[Judgement]]:
        """Judge each alert's executions, and link those that do not link themselves."""
        judgements: dict[int, list[Judgement]] = {alert.id: [] for alert in batch}
        for chunk in _split_batch(batch):
            with self._round.writing() as connection:
                for alert in chunk:
                    for result in evidence[alert.id].results:
                        if result.started:
                            judgement = self._judge_and_link(
                                connection, alert, result.started, clocks
                            )
                            judgements[alert.id].append(judgement)
        return judgements

    def _judge_and_link(
        self, connection: Connection, alert: OpenAlert, started: StartedExecution, clocks: Clocks
    ) -> Judgement:
        judgement = judge_execution(alert, started, self._config, clocks)
        execution = started.execution if judgement.needs_link else None
        if execution and not link_execution(connection, alert, execution):
            # The next round sees its claim.
            return Judgement(None, f"execution {started.id} is linking itself now")
        return judgement


def _decide_verdict(
    alert: OpenAlert,
    evidence: Evidence,
    judgements: Sequence[Judgement],
    has_unread_trigger: bool,
    clocks: Clocks,
) -> Verdict:
    if evidence.problem:
        return Verdict(None, f"StackStorm could not be queried: {evidence.problem}")
    if not evidence.instances:
        return judge_missing_trigger(alert, has_unread_trigger, clocks)
    return judge_alert(evidence.instances, evidence.results, judgements, clocks)


def link_execution(connection: Connection, alert: OpenAlert, execution: Execution) -> bool:
    """Link an execution that does not link itself. Return False if it is already linked."""
    now = database_now(connection)
    try:
        with connection.begin_nested():
            started_at = execution.started_at or now
            add_execution(connection, execution.id, execution.action, "requested", started_at)
            connection.execute(
                links.insert().values(
                    request_id=alert.request_id,
                    alert_id=alert.id,
                    st2_execution_id=execution.id,
                    st2_action_ref=cut(execution.action, links.c.st2_action_ref),
                    created_at=now,
                )
            )
            write_execution(connection, execution, now)
    except IntegrityError:
        return False
    return True


def may_have_unread_trigger(alert: OpenAlert, unread: Span | None, clocks: Clocks) -> bool:
    """Return True if the alert may have a trigger that has not been read yet."""
    if unread is None or unread.before is None:
        return unread is not None
    # The alert was emitted after it was recorded. Use its age to convert recorded_at to
    # StackStorm's clock.
    earliest_emission = clocks.stackstorm - (clocks.database - alert.recorded_at) - CLOCK_ALLOWANCE
    return unread.before > earliest_emission


def _write_verdicts(
    sync_round: SyncRound,
    config: Config,
    batch: Sequence[OpenAlert],
    verdicts: Mapping[int, Verdict],
) -> int:
    """Write the verdicts of a batch.

    Args:
        sync_round: The round.
        config: The configuration.
        batch: The alerts.
        verdicts: The verdicts by alert id. If an alert without a verdict is older than
            give_up_hours, this function gives up on it. Otherwise the next round checks it first.

    Returns:
        The number of alerts that this call explained.
    """
    explained_count = 0
    for chunk in _split_batch(batch):
        with sync_round.writing() as connection:
            for alert in chunk:
                verdict = verdicts.get(alert.id)
                explained_count += _write_verdict(connection, config, alert, verdict)
    return explained_count


def _write_verdict(
    connection: Connection, config: Config, alert: OpenAlert, new_verdict: Verdict | None
) -> bool:
    """Write the verdict on one alert. Return True if the alert is now explained."""
    now = database_now(connection)
    verdict = new_verdict or Verdict(alert.explanation, alert.reason)
    is_retry = verdict.explanation is Explanation.RETRY
    incident_ended_at = find_incident_end(connection, alert) if is_retry else None
    verdict = apply_time_limits(verdict, alert, incident_ended_at, config.give_up_hours, now)
    values: dict[str, Any] = {
        "explanation": verdict.explanation,
        "explanation_reason": cut(verdict.reason, alerts.c.explanation_reason),
        "checked_at": now if new_verdict else alert.checked_at,
    }
    if verdict.rules:
        values["st2_rule_matched"] = cut(verdict.rules, alerts.c.st2_rule_matched)
    connection.execute(
        update(alerts).where(alerts.c.id == alert.id, is_unexplained()).values(values)
    )
    return verdict.explanation not in (None, Explanation.RETRY)


def _split_batch(batch: Sequence[OpenAlert]) -> Iterator[Sequence[OpenAlert]]:
    """Split a batch into one part per transaction, so that no transaction takes long."""
    for start in range(0, len(batch), _TRANSACTION_ALERTS):
        yield batch[start : start + _TRANSACTION_ALERTS]
