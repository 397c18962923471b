"""Judge an episode: what its state is, what happens next by itself, and what a person has to do.

`judge` is a pure function: it reads neither a database nor StackStorm, and takes the time as an
argument. All renderings of an episode show its judgement.

Several things may be true of an episode: an action failed, and somebody has acknowledged the
incident since. The rules in `_RULES` are tried in order, and the first one that applies decides:

1. An alert that is no incident, or whose incident has ended, needs no action. Only a change that
   is still being made is reported first.
2. If a person has acknowledged the incident or silenced the alert, nothing new is started for it,
   and that person handles it. If no notification has arrived for a long time, the alert may have
   ended unnoticed.
3. Then come the states that wait for a person, and then those in which PoundCake is at work.
4. Then the newest result of each workflow counts, the result that needs a person most urgently
   first: a change that did not help, a failure, an unknown result, a refusal.
5. The remaining episodes are those for which nothing was tried.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import AbstractSet, Any, Callable, NamedTuple, Sequence

from poundcake.alertmanager import RESOLVED
from poundcake.config import Config
from poundcake.string_enum import StringEnum
from poundcake.timestamps import format_timestamp
from poundcake.trail import commands
from poundcake.trail.changes import NOT_CLAIMED, Change, ChangeResult
from poundcake.trail.clock import format_deadline
from poundcake.trail.execution_results import (
    NOT_HELPED,
    ExecutionResult,
    execution_result,
    has_cleared,
)
from poundcake.trail.outcomes import EMITTED, Explanation, Outcome
from poundcake.trail.pause import Pause
from poundcake.trail.queries.episode import FIRING, Episode
from poundcake.trail.queries.rows import AlertRow, Execution

# A value that needs no quotes in a shell.
_PLAIN = re.compile(r"[\w.:/@+-]+\Z", re.ASCII)
_DEFAULTS = Config()


class EpisodeVerdict(StringEnum):
    """The verdict on an episode, the field `verdict` of the view `why`.

    The members are in the order of their priority, except that the rules look at the incident
    before they look at what ran for it; see the docstring of the module.
    """

    MALFORMED = "malformed"
    """The alert cannot be read, so it opened no incident."""
    NOT_AN_INCIDENT = "not_an_incident"
    """The alert opened no incident, for example because it is a resolve of an unknown incident."""
    CLEARED = "cleared"
    """A change was made, and the alert was resolved after it."""
    CLEARED_BY_ITSELF = "cleared_by_itself"
    """The alert was resolved, and no change that was made for it had helped."""
    SUPERSEDED = "superseded"
    """The alert fired again with a later start, although no resolve had arrived."""
    CLOSED = "closed"
    """A person closed the incident."""
    EXPIRED = "expired"
    """The incident was closed, because no notification arrived for `expire_stale_hours`."""
    GONE = "gone"
    """The incident was closed, because no Alertmanager holds the alert any more."""
    ACKNOWLEDGED = "acknowledged"
    """A person handles the incident. Nothing new is started for it."""
    SILENCED = "silenced"
    """A person silenced the alert in Alertmanager. No change is made for it."""
    STALE = "stale"
    """No notification has arrived for `stale_after_hours`, so the alert may have ended."""
    WAITING_FOR_APPROVAL = "waiting_for_approval"
    """A change waits for the answer of an approver."""
    WORKFLOW_PAUSED = "workflow_paused"
    """A workflow waits for a person, but not for an approval: somebody paused it, or it asks a
    question."""
    RUNNING = "running"
    """A workflow is at work, or a change is being made or verified."""
    DID_NOT_HELP = "did_not_help"
    """A change was made, and the alert still fires."""
    FAILED = "failed"
    """A workflow or its action failed."""
    RESULT_UNKNOWN = "result_unknown"
    """A workflow ended without a report. It may have made a change."""
    CANCELED = "canceled"
    """A person cancelled the workflow before it made a change."""
    REFUSED = "refused"
    """A control refused the change, so nothing was changed."""
    CHANGED = "changed"
    """A change was made, and it is not known yet whether it helps."""
    DRY_RUN = "dry_run"
    """It was a dry run, so nothing was changed."""
    EVIDENCE = "evidence"
    """The remediation only collected evidence, so nothing was changed."""
    RAN = "ran"
    """An action that reports nothing has succeeded, and the alert still fires."""
    LOST = "lost"
    """StackStorm kept losing the alert, so it is no longer emitted, and nothing ran."""
    RULE_FAILED = "rule_failed"
    """A rule matched, but could not start its action."""
    RETRYING = "retrying"
    """StackStorm lost the alert or cannot process it now. It is emitted again."""
    WAITING_FOR_STACKSTORM = "waiting_for_stackstorm"
    """The alert was admitted, and StackStorm has not reported yet what it did with it."""
    NO_RULE = "no_rule"
    """No rule matched the alert, so nothing ran."""
    HELD_BACK = "held_back"
    """The outcome of the alert holds it back: a cooldown, a rate limit, a receiver that is not
    listed, or a recent resolve."""
    NOTHING_RAN = "nothing_ran"
    """Nothing ran, for a reason that no other verdict names."""
    WAITING_TO_BE_RECORDED = "waiting_to_be_recorded"
    """The request is in the endpoint's journal, and is not recorded yet. Such a request is no
    episode yet, so `judge` never returns this verdict."""


_TITLES = {
    EpisodeVerdict.WAITING_FOR_APPROVAL: "WAITING FOR YOU",
    EpisodeVerdict.REFUSED: "NOT TOUCHED",
    EpisodeVerdict.NO_RULE: "NOTHING RAN",
    EpisodeVerdict.EVIDENCE: "EVIDENCE ONLY",
}
# A refusal that poundcake.begin did not name, such as a rule with an error.
_UNNAMED = "refused"
# The refusals that only a change of the configuration lifts.
_CONFIGURED_REFUSALS = (
    "action_invalid",
    "action_not_allowed",
    "host_denied",
    "host_not_allowed",
    "no_host",
    "no_target",
    _UNNAMED,
    "stackstorm_host",
)
_REFUSAL_TITLES = {NOT_CLAIMED: "NO CLAIM", "approval_missing": "NOT APPROVED"}
_ENDED = {
    "superseded": (EpisodeVerdict.SUPERSEDED, "the alert fired again with a later start"),
    "expired": (EpisodeVerdict.EXPIRED, "no notification arrived for expire_stale_hours"),
    "gone": (EpisodeVerdict.GONE, "no Alertmanager holds the alert any more, and no resolve came"),
}
# What the message of a dry run says if no change would have been made.
_NO_CHANGE = ("but not now: ", "nothing would be changed")
NOTHING_TO_DO = "nothing to be done"
_WAIT_FOR_NOTIFICATION = (
    "wait: the next notification after that is admitted; to admit it now, replay the request"
)


@dataclass(frozen=True)
class Judgement:
    """The verdict on an episode, in words.

    Attributes:
        verdict: The verdict.
        headline: What the state of the episode is, in one line.
        next_step: What happens by itself, or what a person has to do.
        next_command: The command that a person runs next, or '' if none is useful.
        next_at: When the next step happens by itself or is due, or None.
        detail: What the title says after the verdict, such as the control that refused the change.
    """

    verdict: EpisodeVerdict
    headline: str
    next_step: str = NOTHING_TO_DO
    next_command: str = ""
    next_at: datetime | None = None
    detail: str = ""

    @property
    def title(self) -> str:
        """The verdict in capitals, with its detail."""
        name = _TITLES.get(self.verdict, self.verdict.value.replace("_", " ").upper())
        return f"{name}: {self.detail.upper()}" if self.detail else name

    def as_json(self) -> dict[str, Any]:
        """Return the judgement as JSON, as all renderings of an episode show it."""
        return {
            "verdict": str(self.verdict),
            "title": self.title,
            "headline": self.headline,
            "next_step": self.next_step,
            "next_command": self.next_command,
            "next_at": format_timestamp(self.next_at) if self.next_at else None,
        }


class Circumstances(NamedTuple):
    """What a judgement depends on besides the episode.

    Attributes:
        now: The current time by the database's clock.
        pause: The current pause of all changes, or None.
        stale_after_hours: The configured value.
        not_cleared_minutes: The configured value.
        breaker_failures: The configured value.
        settle_seconds: The configured value.
        dry_run: The configured value.
        dry_run_entries: The names of the entries in `remediations` whose mode is dry_run.
        allows_no_host: Whether allowed_hosts is empty.
        entries_without_host: The names of the entries whose action does not get the alert's host.
    """

    now: datetime
    pause: Pause | None = None
    stale_after_hours: int = _DEFAULTS.stale_after_hours
    not_cleared_minutes: int = _DEFAULTS.not_cleared_minutes
    breaker_failures: int = _DEFAULTS.breaker_failures
    settle_seconds: int = _DEFAULTS.settle_seconds
    dry_run: bool = _DEFAULTS.dry_run
    dry_run_entries: AbstractSet[str] = frozenset()
    allows_no_host: bool = False
    entries_without_host: AbstractSet[str] = frozenset()

    def is_stale(self, episode: Episode) -> bool:
        """Return True if an episode has had no notification for `stale_after_hours`."""
        return episode.last_seen_at < self.now - timedelta(hours=self.stale_after_hours)


class Run(NamedTuple):
    """An execution of an episode, and what it achieved.

    Attributes:
        execution: The execution.
        result: What it achieved.
        change: The change that it requested, or None.
        refusal: The control that refused the change, or ''.
        gets_host: Whether the action that makes the change gets the target of the change.
    """

    execution: Execution
    result: ExecutionResult
    change: Change | None
    refusal: str
    gets_host: bool = True

    @property
    def has_changed_nothing(self) -> bool:
        """Whether it is a remediation of the pack whose change is not decided, or is refused."""
        is_undecided = self.change is None or self.change.result == ChangeResult.REFUSED
        return self.execution.is_remediation and is_undecided and not self.execution.mutated

    @property
    def command(self) -> str:
        """The command that shows the action that made the change or, if none did, the workflow."""
        action_id = self.change.action_execution_id if self.change else None
        return f"st2 execution get {action_id or self.execution.st2_execution_id}"

    @property
    def action(self) -> str:
        """What was run, in words: the action and its target, or the workflow."""
        if self.change and self.change.result != ChangeResult.REFUSED:
            target = f" on {self.change.target}" if self.gets_host else ""
            return f"{self.change.action}{target}"
        return self.execution.st2_workflow


class _Case(NamedTuple):
    """An episode to judge, and what the rules ask about it.

    Attributes:
        episode: The episode.
        circumstances: The circumstances.
        runs: The newest execution of each workflow, the oldest first.
        row: The notification that decides what may run: the newest one that was emitted, or that of
            the incident.
    """

    episode: Episode
    circumstances: Circumstances
    runs: Sequence[Run]
    row: AlertRow

    @property
    def now(self) -> datetime:
        return self.circumstances.now

    def newest_run(self, *results: ExecutionResult) -> Run | None:
        """Return the newest run with one of these results, or None."""
        return next((run for run in reversed(self.runs) if run.result in results), None)

    def plan_command(self) -> str:
        return commands.plan(self.episode.name)

    def episode_command(self, action: str, *parameters: str) -> str:
        return commands.for_episode(action, self.episode.name, *parameters)

    def replay_command(self) -> str:
        return commands.replay(self.row.request_id)


_Rule = Callable[[_Case], "Judgement | None"]


def judge(episode: Episode, circumstances: Circumstances) -> Judgement:
    """Return the judgement of an episode."""
    runs = _newest_runs(episode, circumstances)
    case = _Case(episode, circumstances, runs, _deciding_row(episode))
    for rule in _RULES:
        judgement = rule(case)
        if judgement:
            return judgement
    return Judgement(
        EpisodeVerdict.NOTHING_RAN,
        case.row.full_reason or "nothing ran for it",
        "handle it by hand",
        case.plan_command(),
    )


def list_runs(episode: Episode, circumstances: Circumstances) -> list[Run]:
    """Return the executions of an episode with what they achieved, oldest first."""
    changes = {change.st2_execution_id: change for change in episode.changes}
    return [
        _make_run(episode, execution, changes.get(execution.st2_execution_id), circumstances)
        for execution in episode.executions
    ]


def _newest_runs(episode: Episode, circumstances: Circumstances) -> list[Run]:
    """Return the newest execution of each workflow that worked on an episode, oldest first.

    Executions that did not get the claim did nothing, so an earlier one of the same workflow
    counts.
    """
    newest: dict[str, Run] = {}
    for run in list_runs(episode, circumstances):
        if run.result is not ExecutionResult.NOT_CLAIMED:
            newest.pop(run.execution.st2_workflow, None)
            newest[run.execution.st2_workflow] = run
    return list(newest.values())


def _make_run(
    episode: Episode, execution: Execution, change: Change | None, circumstances: Circumstances
) -> Run:
    end = episode.reported_ends.get(execution.st2_execution_id)
    refusal = change.refusal if change else end.refusal if end else ""
    incident = episode.incident
    result = execution_result(
        execution.status,
        execution.stage,
        execution.dry_run,
        execution.mutated,
        change.result if change else None,
        refusal,
        has_cleared(
            change.ended_at if change else execution.ended_at,
            incident.closed_at if incident else None,
            episode.state == FIRING,
            circumstances.now,
            circumstances.not_cleared_minutes,
        ),
    )
    gets_host = change is None or change.remediation not in circumstances.entries_without_host
    return Run(execution, result, change, refusal, gets_host)


def _deciding_row(episode: Episode) -> AlertRow:
    rows = [notification.row for notification in episode.notifications]
    emitted = [row for row in rows if row.outcome in EMITTED and row.status == FIRING]
    if episode.incident and episode.incident.outcome not in EMITTED:
        return episode.incident
    return emitted[-1] if emitted else episode.incident or rows[-1]


# -- the alert and its incident


def _judge_no_incident(case: _Case) -> Judgement | None:
    if case.episode.state:
        return None
    row = case.episode.newest_row
    command = commands.show_request(row.request_id)
    if row.outcome == Outcome.MALFORMED:
        return Judgement(
            EpisodeVerdict.MALFORMED,
            f"the alert cannot be read: {row.full_reason}",
            "correct the field in the sender",
            command,
        )
    event = "the resolve ended" if row.status == RESOLVED else "the alert opened"
    return Judgement(
        EpisodeVerdict.NOT_AN_INCIDENT,
        f"{event} no incident: {row.full_reason or row.outcome}",
        NOTHING_TO_DO,
        command,
    )


def _judge_late_change(case: _Case) -> Judgement | None:
    """Report a change that is still being made although the incident has ended."""
    run = case.newest_run(ExecutionResult.RUNNING)
    if case.episode.state == FIRING or run is None or not run.change:
        return None
    if run.change.result != "":
        return None
    return Judgement(
        EpisodeVerdict.RUNNING,
        f"the alert is {case.episode.state}, and {run.action} still runs",
        "nothing to be done: the action ends by itself",
        f"st2 execution get {run.execution.st2_execution_id}",
    )


def _judge_ended(case: _Case) -> Judgement | None:
    episode = case.episode
    if episode.state == FIRING:
        return None
    if episode.state in _ENDED:
        verdict, headline = _ENDED[episode.state]
        return Judgement(verdict, headline)
    if episode.state == "closed":
        incident = episode.incident
        person = (incident.closed_by if incident else None) or "somebody"
        comment = incident.closed_comment if incident else None
        return Judgement(
            EpisodeVerdict.CLOSED, f"{person} closed it" + (f": {comment}" if comment else "")
        )
    helped = case.newest_run(ExecutionResult.CLEARED, ExecutionResult.CHANGED)
    if helped:
        headline = f"{helped.action} was run, and the alert was resolved"
        return Judgement(EpisodeVerdict.CLEARED, headline)
    changed = case.newest_run(*NOT_HELPED)
    if changed:
        headline = f"the alert was resolved later; {changed.action} had not helped"
    elif case.newest_run(ExecutionResult.FAILED, ExecutionResult.UNKNOWN):
        headline = "the alert was resolved; what ran for it failed or did not report"
    else:
        headline = "the alert was resolved, and nothing was changed for it"
    return Judgement(EpisodeVerdict.CLEARED_BY_ITSELF, headline)


def _judge_acknowledged(case: _Case) -> Judgement | None:
    incident = case.episode.incident
    if incident is None or not incident.acknowledged_at:
        return None
    comment = f": {incident.acknowledged_comment}" if incident.acknowledged_comment else ""
    return Judgement(
        EpisodeVerdict.ACKNOWLEDGED,
        f"{incident.acknowledged_by or 'somebody'} handles it{comment}",
        "nothing to be done; nothing new is started for it until the acknowledgement is withdrawn",
        case.episode_command("acknowledge", "undo=true"),
    )


def _judge_silenced(case: _Case) -> Judgement | None:
    incident = case.episode.incident
    if incident is None or not incident.silence_id:
        return None
    if incident.silenced_until and incident.silenced_until <= case.now:
        return None
    comment = f": {incident.silenced_comment}" if incident.silenced_comment else ""
    return Judgement(
        EpisodeVerdict.SILENCED,
        f"silenced in Alertmanager by {incident.silenced_by or 'somebody'}{comment}",
        f"nothing to be done; nothing is changed for it{_until(incident.silenced_until)}, "
        "unless somebody ends the silence",
        case.episode_command("unsilence"),
        incident.silenced_until,
    )


def _judge_stale(case: _Case) -> Judgement | None:
    if not case.circumstances.is_stale(case.episode):
        return None
    hours = case.circumstances.stale_after_hours
    return Judgement(
        EpisodeVerdict.STALE,
        f"no notification for more than {hours} h, so the alert may have ended unnoticed",
        "check it in Alertmanager; if it has ended, close the incident",
        case.episode_command("close", "comment=ended"),
    )


# -- what waits for a person, and what is at work


def _judge_approval(case: _Case) -> Judgement | None:
    if not case.episode.approvals:
        return None
    approval = case.episode.approvals[0]
    return Judgement(
        EpisodeVerdict.WAITING_FOR_APPROVAL,
        f"{approval.change or 'a change'} waits for approval",
        f"{_list_names(approval.approvers)} may answer{_until(approval.until)}",
        commands.answer_inquiry(approval.st2_inquiry_id),
        approval.until,
    )


def _judge_paused_workflow(case: _Case) -> Judgement | None:
    run = case.newest_run(ExecutionResult.WAITING)
    if run is None:
        return None
    execution = run.execution
    return Judgement(
        EpisodeVerdict.WORKFLOW_PAUSED,
        f"{execution.st2_workflow} is {execution.status} until a person acts",
        "answer its inquiry (`st2 inquiry list`) or resume it",
        f"st2 execution resume {execution.st2_execution_id}",
    )


def _judge_running(case: _Case) -> Judgement | None:
    run = case.newest_run(ExecutionResult.RUNNING)
    if run is None:
        return None
    if run.has_changed_nothing:
        return _judge_checks(case, run)
    headline = f"{run.execution.st2_workflow} is {run.execution.status}"
    if run.change and run.change.result == "":
        headline = f"{run.action} is being run and verified"
    return Judgement(
        EpisodeVerdict.RUNNING,
        headline,
        "wait for its result",
        f"st2 execution get {run.execution.st2_execution_id}",
    )


def _judge_checks(case: _Case, run: Run) -> Judgement:
    """Judge an episode whose remediation has not decided whether to change anything."""
    execution = run.execution
    question, next_step, next_at = "", "wait for its result", None
    if execution.has_claim:  # without the claim, it changes nothing
        if execution.st2_workflow != execution.action:
            question = f" whether to run {execution.st2_workflow}"
        opened_at = case.episode.notifications[0].row.received_at
        settled_at = opened_at + timedelta(seconds=case.circumstances.settle_seconds)
        next_step = "wait for its decision"
        if settled_at > case.now:
            next_step += f", once settle_seconds have passed at {format_deadline(settled_at)}"
            next_at = settled_at
    return Judgement(
        EpisodeVerdict.RUNNING,
        f"{execution.action} is checking{question}; nothing has been changed yet",
        next_step,
        f"st2 execution get {execution.st2_execution_id}",
        next_at,
    )


# -- what the workflows achieved


def _judge_unhelpful_change(case: _Case) -> Judgement | None:
    run = case.newest_run(*NOT_HELPED)
    if run is None:
        return None
    minutes = case.circumstances.not_cleared_minutes
    headline = f"{run.action} was run, and the alert still fires {minutes} min later"
    if run.result is ExecutionResult.NOT_VERIFIED:
        headline = f"{run.action} was run, but the check afterwards failed"
        if run.execution.message:
            headline += f": {run.execution.message}"
    return _judge_failed_change(case, EpisodeVerdict.DID_NOT_HELP, run, headline)


def _judge_failure(case: _Case) -> Judgement | None:
    run = case.newest_run(ExecutionResult.FAILED)
    if run is None or _will_be_emitted_again(case):
        return None
    message = run.execution.message or f"it ended with status {run.execution.status}"
    headline = message if _names_action(run, message) else f"{run.action} failed: {message}"
    return _judge_failed_change(case, EpisodeVerdict.FAILED, run, headline)


def _names_action(run: Run, message: str) -> bool:
    """Return True if a message already says which action failed."""
    return bool(run.change and message.startswith(run.change.action))


def _judge_failed_change(
    case: _Case, verdict: EpisodeVerdict, run: Run, headline: str
) -> Judgement:
    limit, failures = case.circumstances.breaker_failures, case.episode.failures_in_a_row
    next_step = "handle it by hand; nothing else is tried for this incident"
    if run.change and limit and failures >= limit:
        next_step = (
            f"handle it by hand; {run.change.remediation} changes nothing more until "
            f"you run `{commands.release_breaker(run.change.remediation)}`"
        )
    if run.change and failures > 1:
        headline += f" ({_ordinal(failures)} time in a row)"
    return Judgement(verdict, headline, next_step, run.command)


def _judge_unknown_result(case: _Case) -> Judgement | None:
    run = case.newest_run(ExecutionResult.UNKNOWN)
    if run is None:
        return None
    return Judgement(
        EpisodeVerdict.RESULT_UNKNOWN,
        f"{run.action} ended without a report, and may have changed something",
        "check by hand what it did",
        run.command,
    )


def _judge_canceled(case: _Case) -> Judgement | None:
    run = case.newest_run(ExecutionResult.CANCELED)
    if run is None:
        return None
    return Judgement(
        EpisodeVerdict.CANCELED,
        f"somebody cancelled {run.execution.st2_workflow} before it changed anything",
        "handle it by hand, or replay the request",
        case.replay_command(),
    )


def _judge_refusal(case: _Case) -> Judgement | None:
    run = case.newest_run(ExecutionResult.REFUSED)
    lost = [change for change in case.episode.changes if change.refusal == NOT_CLAIMED]
    if run is None and (case.runs or not lost):
        return None
    change = run.change if run else lost[-1]
    refusal = (run.refusal if run else NOT_CLAIMED) or _UNNAMED
    reason = (change.reason if change else "") or (run.execution.message if run else "")
    step, command = _lift_refusal(case, refusal, change)
    next_at = None
    if change and change.retry_at:
        next_at = change.retry_at
        retry = f"the change is tried again after {format_deadline(next_at)}"
        if refusal == "storm":
            step = f"{step}; {retry}, if the storm is over"
        else:
            step = f"{NOTHING_TO_DO}: {retry}; the command shows what stops it now"
            command = case.plan_command()
    return Judgement(
        EpisodeVerdict.REFUSED,
        reason or "the change was refused",
        step,
        command,
        next_at,
        detail="" if refusal == _UNNAMED else _describe_refusal(refusal),
    )


def _lift_refusal(case: _Case, refusal: str, change: Change | None) -> tuple[str, str]:
    """Return what a person does about a refusal, and the command for it."""
    name = case.episode.alert_name
    name_filter = f" alert_name={name}" if _PLAIN.match(name) else ""
    replay = "then replay the request with force=true"
    if refusal == "paused" and case.circumstances.pause:
        return f"allow changes again, {replay}", commands.RESUME
    if refusal == "breaker" and change and _PLAIN.match(change.remediation):
        command = commands.release_breaker(change.remediation)
        return f"find out why the remediation failed, release it, {replay}", command
    steps = {
        "paused": ("the pause has ended; replay the request", case.replay_command()),
        "storm": (
            "handle the common cause by hand",
            f"st2 run poundcake.alerts_active format=text{name_filter}",
        ),
        "approval_missing": ("replay the request and approve the change", case.replay_command()),
        "acknowledged": (
            f"withdraw the acknowledgement, {replay}",
            case.episode_command("acknowledge", "undo=true"),
        ),
        "silenced": (f"end the silence, {replay}", case.episode_command("unsilence")),
        "episode_taken": (
            "see what the other change did; if it did nothing, release the episode",
            case.episode_command("release"),
        ),
        NOT_CLAIMED: (
            "see what the other execution did; if it did nothing, release the episode",
            case.episode_command("release"),
        ),
        "incident_ended": (NOTHING_TO_DO, ""),
        "resolved": (NOTHING_TO_DO, ""),
        "alertmanager_unavailable": (
            "start Alertmanager, or correct `alertmanagers` in the configuration",
            commands.HEALTH,
        ),
        "database_unavailable": (
            f"repair the database, {replay}",
            commands.HEALTH,
        ),
    }
    step = "handle it by hand; the command shows what would be done now"
    if refusal in _CONFIGURED_REFUSALS:
        step = "handle it by hand, or change the configuration and check it with the command"
    return steps.get(refusal, (step, case.plan_command()))


def _judge_change(case: _Case) -> Judgement | None:
    run = case.newest_run(ExecutionResult.CHANGED, ExecutionResult.CLEARED)
    if run is None:
        return None
    ended_at = run.change.ended_at if run.change else run.execution.ended_at
    wait = timedelta(minutes=case.circumstances.not_cleared_minutes)
    next_at = ended_at + wait if ended_at else None
    return Judgement(
        EpisodeVerdict.CHANGED,
        f"{run.action} was run; the resolve of the alert has not arrived yet",
        f"nothing to be done yet: the alert has time to end{_until(next_at)}",
        run.command,
        next_at,
    )


def _judge_unchanged(case: _Case) -> Judgement | None:
    run = case.newest_run(ExecutionResult.DRY_RUN)
    if run:
        return Judgement(
            EpisodeVerdict.DRY_RUN,
            run.execution.message or "nothing was changed",
            f"{_describe_way_to_go_live(case, run)}; the command shows what would be done now",
            case.plan_command(),
        )
    run = case.newest_run(ExecutionResult.EVIDENCE)
    if run:
        return Judgement(
            EpisodeVerdict.EVIDENCE,
            run.execution.message or "evidence was collected, and nothing was changed",
            "handle it by hand; the command shows what was found",
            run.command,
        )
    run = case.newest_run(ExecutionResult.OTHER)
    if run:
        return Judgement(
            EpisodeVerdict.RAN,
            f"{run.execution.st2_workflow} has succeeded; the alert still fires",
            "see what it did; nothing else is started for this incident",
            run.command,
        )
    return None


def _describe_way_to_go_live(case: _Case, run: Run) -> str:
    """Return what has to be set so that the change of a dry run is made.

    A person has to act if no change would have been made, or if nothing that is known held it back.
    """
    end = case.episode.reported_ends.get(run.execution.st2_execution_id)
    source = run.change or end
    message = run.execution.message
    would_change = source and source.action and not any(text in message for text in _NO_CHANGE)
    needed = ["dry_run is false"] if case.circumstances.dry_run else []
    if source and source.remediation in case.circumstances.dry_run_entries:
        needed.append(f"the entry {source.remediation} has mode: live")
    if case.circumstances.allows_no_host:
        needed.append("allowed_hosts contains the host")
    if not would_change or not needed:
        return "handle it by hand"
    return f"nothing is changed until {' and '.join(needed)}"


# -- episodes for which nothing was tried


def _will_be_emitted_again(case: _Case) -> bool:
    return case.row.explanation == Explanation.RETRY


def _judge_emission(case: _Case) -> Judgement | None:
    """Judge an admitted alert for which no execution is known."""
    row = case.row
    reason = row.explanation_reason or ""
    if row.outcome not in EMITTED:
        return None
    if row.explanation == Explanation.LOST:
        return Judgement(
            EpisodeVerdict.LOST,
            reason or "StackStorm lost the alert",
            "find the cause, then replay the request",
            f"st2 run poundcake.replay request_id={row.request_id}",
        )
    if row.explanation == Explanation.FAILED:
        return Judgement(
            EpisodeVerdict.RULE_FAILED,
            reason or "a rule could not start its action",
            "correct the rule or its action, then replay the request",
            f"st2 run poundcake.replay request_id={row.request_id}",
        )
    if row.explanation == Explanation.RETRY:
        step = "nothing to be done: the alert is emitted again within an hour"
        headline = reason or "StackStorm lost the alert"
        return Judgement(EpisodeVerdict.RETRYING, headline, step, commands.HEALTH)
    if row.explanation is None:
        headline = "StackStorm has not reported yet what it did with the alert"
        return Judgement(
            EpisodeVerdict.WAITING_FOR_STACKSTORM,
            f"{headline}: {reason}" if reason else headline,
            "nothing to be done; if this takes several minutes, check StackStorm",
            commands.HEALTH,
        )
    if row.explanation == Explanation.NO_RULE:
        return Judgement(
            EpisodeVerdict.NO_RULE,
            "no rule and no entry of `remediations` matches the alert",
            "handle it by hand; the command shows what nearly matched",
            case.plan_command(),
        )
    return None


def _judge_held_back(case: _Case) -> Judgement | None:
    row = case.row
    steps = {
        Outcome.COOLDOWN: (
            "cooldown",
            "the same alert was admitted a short time ago: ",
            _WAIT_FOR_NOTIFICATION,
            case.replay_command(),
        ),
        Outcome.RATE_LIMITED: (
            "rate limit",
            "too many alerts of this name were admitted: ",
            _WAIT_FOR_NOTIFICATION,
            case.replay_command(),
        ),
        Outcome.OBSERVED: (
            "receiver not listed",
            "",
            "handle it by hand, or add its receiver to `receivers`",
            commands.show_request(row.request_id),
        ),
        Outcome.UNCONFIRMED: (
            "unconfirmed",
            "",
            "wait: it is admitted with the next notification, or within six minutes",
            "",
        ),
    }
    if row.outcome not in steps:
        return None
    detail, introduction, step, command = steps[Outcome(row.outcome)]
    headline = introduction + row.full_reason
    return Judgement(
        EpisodeVerdict.HELD_BACK, headline, step, command, row.held_until, detail=detail
    )


_RULES: Sequence[_Rule] = (
    _judge_no_incident,
    _judge_late_change,
    _judge_ended,
    _judge_acknowledged,
    _judge_silenced,
    _judge_stale,
    _judge_approval,
    _judge_paused_workflow,
    _judge_running,
    _judge_unhelpful_change,
    _judge_failure,
    _judge_unknown_result,
    _judge_canceled,
    _judge_refusal,
    _judge_change,
    _judge_unchanged,
    _judge_emission,
    _judge_held_back,
)


def _describe_refusal(refusal: str) -> str:
    return _REFUSAL_TITLES.get(refusal, refusal.replace("_", " "))


def _until(moment: datetime | None) -> str:
    return f" until {format_deadline(moment)}" if moment else ""


def _list_names(names: Sequence[str]) -> str:
    """Return names as text: "anna", "anna or ben", "anna, ben or eve"."""
    if len(names) < 2:
        return names[0] if names else "nobody"
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _ordinal(number: int) -> str:
    """Return an ordinal number: 1st, 2nd, 3rd, 4th, 11th."""
    suffixes = {1: "st", 2: "nd", 3: "rd"}
    suffix = "th" if number % 100 in (11, 12, 13) else suffixes.get(number % 10, "th")
    return f"{number}{suffix}"
