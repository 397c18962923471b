"""Decide what a remediation does for an alert, given its entry, its rule and the configuration."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Mapping, Sequence

from poundcake.config import Config
from poundcake.host_checks import READ_ONLY_ACTIONS, HostCheck
from poundcake.hosts import host_from_labels
from poundcake.inert import FixedText, mark_as_fixed
from poundcake.remediation.checks import TcpResult, TcpState
from poundcake.remediation.errors import RemediationError
from poundcake.remediation.inspections import INSPECT_TASK, Inspection, add_ssh_parameters
from poundcake.remediation.report import Report
from poundcake.remediation.safety import (
    LASTING_REFUSALS,
    PASSING_REFUSALS,
    ConditionsResult,
    Refusal,
    may_check_conditions,
    preview,
    with_conditions,
)
from poundcake.remediation.stage import Stage
from poundcake.remediation.verification import Verification
from poundcake.remediations import (
    LabelError,
    Mode,
    Remediation,
    check_parameters,
    nearest_misses,
)
from poundcake.shipped_remediations import SHIPPED
from poundcake.trail.change_tasks import APPROVAL_TASK
from poundcake.trail.claims import EndReport
from poundcake.trail.execution_results import ExecutionResult, end_result, result_of_stage
from poundcake.trail.limits import ChangeRequest, Situation
from poundcake.trail.outbox import Ending, EndResult

REMEDIATE = "poundcake.remediate"
HOST_DOWN = "poundcake.host_down"
"""Checks the alert's host over TCP before and after the change. It needs no action."""
DEFAULT = "poundcake.default"
"""Reports the alert. It has no action."""
_NEED_NO_ACTION = (HOST_DOWN, DEFAULT)

_SECRET_NAME = re.compile(
    "passw|passphrase|secret|token|api_?key|private_?key|credential", re.IGNORECASE
)

# The report of a workflow that ends before its tasks have reported.
_INTERRUPTED: Mapping[str, Any] = {
    "status": "failed",
    "mutated": "unknown",
    "dry_run": False,
    "verified": False,
    "stage": str(Stage.REMEDIATE),
    "message": "the workflow ended before its report; its tasks show why",
    "evidence": {},
}

SituationReader = Callable[[ChangeRequest], Situation]
"""Reads, from the tracking database, the facts on which a decision about a change depends."""

ConditionChecker = Callable[[Remediation], ConditionsResult]
"""Checks the conditions of an entry."""

HostChecker = Callable[[], TcpResult]
"""Checks once over TCP whether the alert's host answers."""


@dataclass(frozen=True)
class Alert:
    """The properties of an alert that the decision depends on.

    Attributes:
        labels: Its labels, as they were sent.
        read_situation: Reads its incident, the limits, the pause and other changes.
        check_conditions: Checks the conditions of an entry; None to skip them.
        check_host: Checks the host; None to skip the check.
    """

    labels: Mapping[str, str]
    read_situation: SituationReader
    check_conditions: ConditionChecker | None = None
    check_host: HostChecker | None = None


@dataclass(frozen=True)
class Request:
    """What a rule requests: an entry of `remediations`, or an action with its parameters.

    Attributes:
        remediation: The name of the entry, or ''.
        action: The reference of the action, or ''.
        parameters: The parameters of the action.
        host_parameter: The parameter of the action for the alert's host, or '' if there is none.
        mode: The most permissive mode that the rule allows.
        workflow: The action that the rule starts: poundcake.remediate, or another one that runs the
            same workflow.
        wait: For poundcake.host_down: seconds that the host may take to answer after the change.
    """

    remediation: str = ""
    action: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    host_parameter: str = ""
    mode: Mode = Mode.LIVE
    workflow: str = REMEDIATE
    wait: int = 0

    @property
    def checks_host(self) -> bool:
        """Whether the alert's host is checked over TCP, and only changed if it does not answer."""
        return self.workflow == HOST_DOWN

    @property
    def name(self) -> str:
        """The name of the remediation in events."""
        return self.remediation or self.action or self.workflow

    def claim_name(self, action: str) -> str:
        """Return the name of the claim and the link: a workflow, or the action that it runs.

        Args:
            action: The action that makes the change, or ''.
        """
        if self.workflow in _NEED_NO_ACTION:
            return self.workflow
        return action or self.action or self.workflow


@dataclass(frozen=True)
class Decision:
    """The change that a remediation may make, or why it makes none.

    Attributes:
        stage: REMEDIATE if the change may be reserved; otherwise the stage at which the remediation
            ends.
        message: Why nothing is changed, or why the change would be refused now; otherwise ''.
        action: The action that makes the change, or '' if there is none.
        parameters: The parameters of the action, without the host.
        host_parameter: The parameter of the action for the host, or '' if there is none.
        host: The alert's host, or ''.
        target: What is changed: the host, `label=value,…`, or '' if the alert names none.
        dry_run: Whether changes are reported instead of made.
        refusal: The name of the control that would refuse the change, or ''.
        settle_seconds: Seconds that remain until `settle_seconds` have passed since the incident
            was opened.
        reservation: The parameters of poundcake.reserve that describe the limits of the change.
        verification: How the change is verified.
        approvers: The users who may approve the change. One of them must do so beforehand.
        may_inspect: Whether the host may be inspected: the alert has a host, and it is allowed.
        inspections: The actions that inspect the host, before the change or, if nothing is changed,
            for the report.
        checks_host: Whether poundcake.reserve checks the host over TCP.
        host_check: The result of the TCP check, or None if the host was not checked.
    """

    stage: Stage
    message: str = ""
    action: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    host_parameter: str = ""
    host: str = ""
    target: str = ""
    dry_run: bool = False
    refusal: str = ""
    settle_seconds: int = 0
    reservation: ChangeRequest = field(default_factory=ChangeRequest)
    verification: Verification = field(default_factory=Verification)
    approvers: tuple[str, ...] = ()
    may_inspect: bool = False
    inspections: tuple[Inspection, ...] = ()
    checks_host: bool = False
    host_check: TcpResult | None = None

    @property
    def next_task(self) -> str:
        """The workflow's next task, or '' if it ends.

        Before the task `approve`, the workflow inspects the host if there are `inspections`.
        """
        if not self.may_reserve:
            return INSPECT_TASK if self.inspections else ""
        if self.approvers:
            return APPROVAL_TASK
        return INSPECT_TASK if self.inspections else "reserve"

    @property
    def ends_as(self) -> str:
        """`succeeded` or `failed` if the workflow ends now; '' if it continues."""
        return "" if self.next_task else self.report().status

    @property
    def may_reserve(self) -> bool:
        """Whether the workflow may request the change from poundcake.reserve."""
        return self.stage is Stage.REMEDIATE

    @property
    def may_change(self) -> bool:
        """Whether the change would be allowed now."""
        return self.may_reserve and not self.message

    @property
    def ends_by_itself(self) -> bool:
        """Whether a refusal that ends by itself keeps the workflow from asking for approval.

        In the other modes, poundcake.reserve handles such a refusal.
        """
        is_refused = self.stage is Stage.REFUSED and bool(self.approvers)
        return is_refused and self.refusal in PASSING_REFUSALS

    @property
    def change(self) -> str:
        """The action, its parameters and its target in words; '' if there is no action."""
        if not self.action:
            return ""
        parameters = self.masked_parameters.items()
        arguments = ", ".join(f"{name}={_as_text(value)}" for name, value in parameters)
        target = f" on {self.target}" if self.target else ""
        if self.host and self.target == self.host and not self._passes_host:
            # Limits and the cooldown still count the change by the host.
            target = " (the action gets no host)"
        return self.action + (f" with {arguments}" if arguments else "") + target

    @property
    def _passes_host(self) -> bool:
        """Whether the action gets the host. A rule or a label can put it into any parameter."""
        return bool(self.host_parameter) or self.host in _as_text(dict(self.parameters)).lower()

    @property
    def masked_parameters(self) -> dict[str, Any]:
        """The parameters, with `***` in place of each value whose name suggests a secret."""
        return {
            name: "***" if _SECRET_NAME.search(name) else value
            for name, value in self.parameters.items()
        }

    @property
    def evidence(self) -> list[str]:
        """What the checks saw, one line each."""
        checks = [self.host_check.detail] if self.host_check else []
        return [*self.reservation.evidence, *checks]

    def with_host_check(self, result: TcpResult) -> Decision:
        """Return the decision after a TCP check of the host: change only a host that is down."""
        checked = replace(self, host_check=result)
        is_down, answers = result.state is TcpState.NO_ANSWER, result.state is TcpState.ANSWERS
        if self.may_reserve and is_down:
            return checked
        if self.may_reserve:
            message = result.detail if answers else f"{result.detail}, so nothing was changed"
            refusal = str(Refusal.NOT_CONFIRMED)
            return replace(checked, stage=Stage.EVIDENCE, message=message, refusal=refusal)
        if answers:
            return replace(checked, stage=Stage.EVIDENCE, message=result.detail)
        if self.stage is Stage.DRY_RUN and self.action and not is_down:
            return replace(checked, message=f"{result.detail}, so nothing would be changed")
        return replace(checked, message=f"{result.detail}; {self.message}")

    def end_at(self, stage: Stage, message: str) -> Decision:
        """Return a copy of this decision that ends at a stage, without a change."""
        return replace(self, stage=stage, message=message, inspections=())

    def report(self) -> Report:
        """Return the output of a workflow that ends without a change."""
        check = self.host_check
        answers = check is not None and check.state is TcpState.ANSWERS
        # A refusal by a condition or a limit is not a failure.
        is_expected = (
            self.dry_run
            or self.stage in (Stage.EVIDENCE, Stage.ENDED, Stage.NOT_CLAIMED)
            or bool(self.refusal and self.refusal not in LASTING_REFUSALS)
        )
        if self.stage is Stage.EVIDENCE and self.refusal == Refusal.NOT_CONFIRMED:
            is_expected = answers  # any other host needs a person, but nothing was changed
        return Report(
            status="succeeded" if is_expected else "failed",
            mutated=False,
            dry_run=self.dry_run,
            verified=answers and self.stage is Stage.EVIDENCE,
            stage=str(self.stage),
            message=self.message,
            evidence={"before": check.as_dict()} if check else {},
        )

    def interrupted_report(self) -> dict[str, Any]:
        """Return the output of a workflow that continues, but whose later tasks do not report."""
        if not self.may_reserve:
            return {**_INTERRUPTED, "dry_run": True, "mutated": False, "stage": "link"}
        # Sync then finds out whether the change was made, and how it ended.
        message = "the workflow ended before its report; the change may have been made"
        return {**_INTERRUPTED, "message": message}

    def canceled_report(self) -> dict[str, Any]:
        """Return the output of a workflow that is cancelled while it waits for an approval."""
        message = "the workflow was cancelled before its report"
        return {**self.interrupted_report(), "stage": "", "message": message}

    def end_report(self) -> EndReport | None:
        """Return the report as the trail stores it, or None if it is not final.

        That is the case if the workflow continues, or if its check of the host has failed.
        """
        report = self.report()
        has_failed_check = self.stage is Stage.EVIDENCE and report.status != "succeeded"
        if self.next_task or has_failed_check:
            return None
        return EndReport(report.stage, report.message, report.dry_run, report.verified)

    def build_ending(self, request: Request, execution: ChangeRequest) -> Ending | None:
        """Return how the remediation ends, or None if the workflow continues.

        Args:
            request: What the rule requests.
            execution: The request, the episode and the execution of the workflow.
        """
        if self.next_task:
            return None
        result = end_result(result_of_stage(self.stage) or ExecutionResult.REFUSED)
        if result is None or self.refusal == Refusal.NOT_CONFIRMED:
            result = EndResult.REFUSED
        return Ending(
            result=result,
            request_id=execution.request_id,
            episode=execution.episode,
            execution_id=execution.execution_id,
            remediation=request.name,
            action=self.action,
            target=self.target,
            refusal="" if result is EndResult.EVIDENCE else self.refusal,
            message=self.message,
            evidence=self.evidence,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the result of poundcake.begin."""
        return {
            "may_reserve": self.may_reserve,
            "may_change": self.may_change,
            "next_task": self.next_task,
            "action": self.action,
            "parameters": dict(self.parameters),
            "host_parameter": self.host_parameter,
            "host": self.host,
            "target": self.target,
            "change": self.change,
            "dry_run": self.dry_run,
            "stage": str(self.stage),
            "message": self.message,
            "refusal": self.refusal,
            "evidence": self.evidence,
            "settle_seconds": self.settle_seconds,
            "reservation": {
                "remediation": self.reservation.remediation,
                "needs_host": self.reservation.needs_host,
                "target": list(self.reservation.target_labels),
                "per_label": self.reservation.per_label,
                "at_once": self.reservation.at_once,
                "storm": self.reservation.storm,
                "check_host": self.checks_host,
            },
            "verification": self.verification.as_dict(),
            "approvers": list(self.approvers),
            "inspections": [inspection.as_dict() for inspection in self.inspections],
            "host_checks": [FixedText(i.check) for i in self.inspections if i.check],
            "ends_as": self.ends_as,
            "report": self.report().as_dict() if self.ends_as else self.interrupted_report(),
            "canceled_report": {} if self.ends_as else self.canceled_report(),
        }


def decide(config: Config, alert: Alert, request: Request) -> Decision:
    """Decide what a remediation does for an alert.

    Raises:
        RemediationError: The rule names neither an entry nor an action, or it names both. Or it
            sets host_parameter for an entry, or sets the parameter that receives the host.
    """
    is_optional = request.workflow in _NEED_NO_ACTION
    if bool(request.remediation) == bool(request.action) and not is_optional:
        raise RemediationError("name either a remediation or an action")
    _check_host_parameter(request)
    if request.remediation:
        entry = config.remediation(request.remediation)
        if entry is None:
            message = f"the configuration has no valid remediation {request.remediation}"
            return Decision(Stage.REFUSED, message, dry_run=config.dry_run)
        return decide_entry(config, alert, entry, request.mode)
    mode = _effective_mode(config, request.mode)
    if mode is Mode.ASK and request.action:
        return Decision(Stage.REFUSED, _NO_APPROVERS)
    if request.action in SHIPPED and not request.checks_host:
        return _decide_shipped(config, alert, request)
    host = host_from_labels(alert.labels, config.host_label)
    # StackStorm has already rendered the parameters, as it does for every rule.
    parameters = dict(mark_as_fixed(request.parameters))
    parameters.pop(request.host_parameter, None)
    draft = Decision(
        Stage.REMEDIATE,
        action=request.action,
        parameters=add_ssh_parameters(request.action, parameters, config.ssh_parameters),
        host_parameter=request.host_parameter,
        host=host,
        target=host,
    )
    if request.checks_host:
        return _decide_with_host_check(config, alert, draft, request, mode)
    return _apply_safety_rules(config, alert, draft, mode)


def _decide_with_host_check(
    config: Config, alert: Alert, draft: Decision, request: Request, mode: Mode
) -> Decision:
    """Decide on a change that one TCP check of the host must permit, and later ones must verify."""
    verification = Verification.of(
        Remediation(request.name, (), mode, action=request.action, verify="tcp", wait=request.wait)
    )
    draft = replace(draft, checks_host=True, verification=verification)
    decision = _apply_safety_rules(config, alert, draft, mode)
    # If the incident has to settle first, poundcake.reserve checks the host later instead.
    has_to_settle = decision.may_reserve and decision.settle_seconds > 0
    if alert.check_host and decision.may_inspect and not has_to_settle:
        return decision.with_host_check(alert.check_host())
    return decision


def _decide_shipped(config: Config, alert: Alert, request: Request) -> Decision:
    """Decide what a shipped remediation does for an alert if a rule starts it without an entry."""
    name, parameters = request.action, request.parameters
    try:
        check_parameters(parameters)
        entry = Remediation(name, (), Mode.LIVE, action=name, parameters=parameters).expanded
    except ValueError as error:
        return Decision(Stage.REFUSED, f"parameters.{error}", dry_run=config.dry_run)
    return decide_entry(config, alert, entry, request.mode)


def _check_host_parameter(request: Request) -> None:
    name = request.host_parameter
    if request.checks_host:
        return  # the host replaces a value in parameters, as it always has
    if name and request.remediation:
        raise RemediationError("host_parameter: belongs to the entry of remediations, not the rule")
    if name and name in request.parameters:
        raise RemediationError(f"parameters.{name}: is the parameter for the host; remove it")


def decide_entry(
    config: Config, alert: Alert, entry: Remediation, mode: Mode = Mode.LIVE
) -> Decision:
    """Decide what an entry of `remediations` does for an alert.

    Args:
        config: The pack's configuration.
        alert: The alert.
        entry: The entry.
        mode: The most permissive mode that the rule allows.
    """
    mode = _effective_mode(config, mode, entry.mode)
    if not entry.matches(alert.labels):
        (miss,) = nearest_misses([entry], alert.labels)
        message = f"the remediation does not match the alert: {miss}"
        return Decision(Stage.REFUSED, message, dry_run=config.dry_run)
    host = host_from_labels(alert.labels, config.host_label)
    if mode is Mode.EVIDENCE or not entry.action:
        message = f"the remediation {entry.name} changes nothing"
        if mode is Mode.EVIDENCE:
            message = f"the remediation {entry.name} is in mode evidence, so nothing is changed"
        draft = Decision(Stage.EVIDENCE, message, host=host)
        decision = _apply_safety_rules(config, alert, draft, mode)
        return _with_inspections(config, entry, decision)
    try:
        parameters = entry.resolve(alert.labels)
        target = entry.resolve_target(alert.labels, host)
        checks = entry.host_checks(alert.labels)
        verification = _build_verification(config, alert, entry, host)
    except LabelError as error:
        return Decision(
            Stage.REFUSED, str(error), entry.action, host=host, dry_run=mode is Mode.DRY_RUN
        )
    draft = Decision(
        Stage.REMEDIATE,
        action=entry.action,
        parameters=add_ssh_parameters(entry.action, parameters, config.ssh_parameters),
        host_parameter=entry.host_parameter,
        host=host,
        target=target,
        verification=verification,
    )
    decision = _apply_safety_rules(config, alert, draft, mode, entry)
    obstacle = describe_obstacle(config, entry.host_actions)
    if mode is Mode.ASK and not entry.approvers:
        obstacle = _NO_APPROVERS
    elif (checks or verification.action) and not decision.may_inspect:
        obstacle = _describe_missing_host(config)
    if decision.may_reserve and obstacle:
        return replace(decision, stage=Stage.REFUSED, message=obstacle)
    decision = _with_inspections(config, entry, decision, checks)
    if decision.may_reserve and mode is Mode.ASK:
        # Do not ask people to approve a change that would be refused anyway.
        if decision.message:
            return replace(decision, stage=Stage.REFUSED, approvers=entry.approvers, inspections=())
        return replace(decision, approvers=entry.approvers)
    return decision


_NO_APPROVERS = "mode `ask` needs approvers: use an entry of `remediations` that sets `approvers`"


def describe_obstacle(config: Config, actions: Sequence[str]) -> str:
    """Return why actions that inspect hosts prevent a change, or ''.

    An action that collects evidence may fail, but it must be allowed.
    """
    return _describe_unlisted_actions(config, actions, ", so nothing is changed")


def _describe_unlisted_actions(config: Config, actions: Sequence[str], effect: str = "") -> str:
    """Return a message with the actions that `allowed_actions` does not contain, or ''."""
    unlisted = [action for action in actions if not _is_allowed(config, action)]
    if not unlisted:
        return ""
    message = f"allowed_actions does not contain {', '.join(unlisted)}{effect}"
    return f"{message}: add the actions that inspect hosts to it"


def _describe_missing_host(config: Config) -> str:
    return (
        f"the alert names no host that may be checked (see {config.host_label}, allowed_hosts and "
        "denied_hosts)"
    )


def _is_allowed(config: Config, action: str) -> bool:
    return action in READ_ONLY_ACTIONS or action in config.allowed_actions


def _with_inspections(
    config: Config, entry: Remediation, decision: Decision, checks: Sequence[HostCheck] = ()
) -> Decision:
    """Return a decision with the inspections of the host that an entry requires.

    Nothing is inspected for a change that is refused. For a report, an inspection that is not
    possible is omitted, and the message says why.
    """
    is_report = decision.stage in (Stage.EVIDENCE, Stage.DRY_RUN)
    if not (decision.may_reserve or is_report) or not (checks or entry.evidence):
        return decision
    if not decision.may_inspect:
        problem = f"{decision.message}; nothing was inspected: {_describe_missing_host(config)}"
        return replace(decision, message=problem) if is_report else decision
    actions = [*(check.action for check in checks), *entry.evidence]
    problem = _describe_unlisted_actions(config, actions)
    ssh, host = config.ssh_parameters, decision.host
    inspections = [
        *(Inspection.for_check(c, host, ssh) for c in checks if _is_allowed(config, c.action)),
        *(Inspection.for_evidence(a, host, ssh) for a in entry.evidence if _is_allowed(config, a)),
    ]
    message = "; ".join(filter(None, [decision.message, problem]))
    return replace(decision, message=message, inspections=tuple(inspections))


def _build_verification(
    config: Config, alert: Alert, entry: Remediation, host: str
) -> Verification:
    check = entry.host_verification(alert.labels)
    if check is None:
        return Verification.of(entry)
    inspection = Inspection.for_check(check, host, config.ssh_parameters, with_details=False)
    return Verification.of(entry, inspection)


def _effective_mode(config: Config, *modes: Mode) -> Mode:
    return Mode.strictest(*modes, Mode.DRY_RUN if config.dry_run else Mode.LIVE)


def _apply_safety_rules(
    config: Config,
    alert: Alert,
    draft: Decision,
    mode: Mode,
    entry: Remediation | None = None,
) -> Decision:
    """Apply the safety rules to a draft, and return the resulting decision."""
    is_dry_run = mode is Mode.DRY_RUN
    action = draft.action if mode is not Mode.EVIDENCE else ""
    request = ChangeRequest(
        action=action,
        needs_host=draft.checks_host or bool(action and draft.host_parameter),
        change=draft.change,
        **(_read_entry_limits(entry) if entry else {}),
    )
    effective_config = replace(config, dry_run=is_dry_run)
    situation = alert.read_situation(request)
    permission = preview(effective_config, request, situation)
    has_conditions = action and entry and entry.has_conditions
    if entry and has_conditions and alert.check_conditions and may_check_conditions(permission):
        request = with_conditions(request, entry, alert.check_conditions(entry))
        permission = preview(effective_config, request, situation)
    stage, message = permission.stage, permission.message
    if permission.refusal is Refusal.NO_ACTION:
        stage = Stage.DRY_RUN if is_dry_run else Stage.EVIDENCE
        reason = "the mode evidence changes nothing" if draft.action else permission.message
        message = draft.message or reason
    elif permission.may_reserve and permission.refusal is not Refusal.NOT_CONFIRMED:
        stage = Stage.REMEDIATE
    return replace(
        draft,
        stage=stage,
        message=message,
        dry_run=is_dry_run or config.dry_run,
        refusal="" if permission.refusal is Refusal.NO_ACTION else permission.refusal_name,
        settle_seconds=permission.settle_seconds,
        may_inspect=permission.may_check,
        reservation=request,
    )


def _read_entry_limits(entry: Remediation) -> dict[str, Any]:
    """Return the attributes of ChangeRequest that an entry sets."""
    limits: dict[str, Any] = {"remediation": entry.name, "target_labels": entry.target}
    if entry.per:
        limits.update(
            per_label=entry.per.label, at_once=entry.per.at_once, storm=entry.per.storm or 0
        )
    return limits


def _as_text(value: Any) -> str:
    return str(value) if isinstance(value, str) else json.dumps(value)
