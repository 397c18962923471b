"""Decide what a remediation does for an alert, from its entry, its rule and the configuration."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Mapping

from poundcake.config import Config
from poundcake.hosts import host_or_empty
from poundcake.remediation.errors import RemediationError
from poundcake.remediation.report import Report
from poundcake.remediation.safety import (
    LASTING,
    Refusal,
    may_check_conditions,
    preview,
    with_conditions,
)
from poundcake.remediation.stage import Stage
from poundcake.remediation.verification import Verification
from poundcake.remediations import (
    BUILT_IN_CHECKS,
    NO_VERIFICATION,
    LabelError,
    Mode,
    Remediation,
    nearest_misses,
)
from poundcake.trail.limits import ChangeRequest, Situation

REMEDIATE = "poundcake.remediate"

_SECRET_NAME = re.compile(
    "passw|passphrase|secret|token|api_?key|private_?key|credential", re.IGNORECASE
)

SituationReader = Callable[[ChangeRequest], Situation]
"""Reads what a decision about a change depends on from the tracking database."""

FindObjection = Callable[[Remediation], str]
"""Returns why a condition of an entry does not permit its change, or ''."""


@dataclass(frozen=True)
class Alert:
    """The properties of an alert that the decision depends on.

    Attributes:
        labels: Its labels, as they were sent.
        read_situation: Reads its incident, the limits, the pause and other changes.
        find_objection: Checks the conditions of an entry. None leaves them out.
    """

    labels: Mapping[str, str]
    read_situation: SituationReader
    find_objection: FindObjection | None = None


@dataclass(frozen=True)
class Request:
    """What a rule requests: an entry of `remediations`, or an action with its parameters.

    Attributes:
        remediation: The name of the entry, or ''.
        action: The reference of the action, or ''.
        parameters: The parameters of the action.
        mode: The most permissive mode that the rule allows.
    """

    remediation: str = ""
    action: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    mode: Mode = Mode.LIVE


@dataclass(frozen=True)
class Decision:
    """What a remediation does, and if it changes nothing, why not.

    Attributes:
        action: The action that makes the change, '' if there is none.
        parameters: Its parameters, without the host.
        host_parameter: Its parameter for the host, '' if it gets no host.
        host: The alert's host, or ''.
        target: What is changed: the host, `label=value,…`, or '' if the alert names none.
        dry_run: Whether changes are reported instead of made.
        stage: REMEDIATE if the change may be reserved; otherwise the stage at which the remediation
            ends.
        message: What would refuse the change now; '' if nothing would.
        refusal: The name of the control that would refuse it, or ''.
        settle_seconds: Seconds until the incident has been known for long enough.
        reservation: The parameters of poundcake.reserve that describe the limits of the change.
        verification: How the change is verified.
        approvers: The users who may approve the change. One of them has to, before it is made.
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

    @property
    def may_reserve(self) -> bool:
        """Whether the workflow may request the change from poundcake.reserve."""
        return self.stage is Stage.REMEDIATE

    @property
    def may_change(self) -> bool:
        """Whether nothing would refuse the change now."""
        return self.may_reserve and not self.message

    @property
    def change(self) -> str:
        """The action, its parameters and its target in words; '' if there is no action."""
        if not self.action:
            return ""
        parameters = self.shown_parameters.items()
        arguments = ", ".join(f"{name}={_as_text(value)}" for name, value in parameters)
        target = f" on {self.target}" if self.target else ""
        return self.action + (f" with {arguments}" if arguments else "") + target

    @property
    def shown_parameters(self) -> dict[str, Any]:
        """The parameters, with `***` in place of each value whose name suggests a secret."""
        return {
            name: "***" if _SECRET_NAME.search(name) else value
            for name, value in self.parameters.items()
        }

    def end_at(self, stage: Stage, message: str) -> Decision:
        """Return this decision, but ending at a stage without a change."""
        return replace(self, stage=stage, message=message)

    def report(self) -> Report:
        """Return the output of a workflow that ends without a change."""
        # A refusal by a condition or a limit is not a failure.
        is_expected = (
            self.dry_run
            or self.stage in (Stage.EVIDENCE, Stage.ENDED, Stage.NOT_CLAIMED)
            or bool(self.refusal and self.refusal not in LASTING)
        )
        return Report(
            status="succeeded" if is_expected else "failed",
            mutated=False,
            dry_run=self.dry_run,
            verified=False,
            stage=str(self.stage),
            message=self.message,
            evidence={},
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the result of poundcake.begin."""
        return {
            "may_reserve": self.may_reserve,
            "may_change": self.may_change,
            "action": self.action,
            "parameters": dict(self.parameters),
            "host_parameter": self.host_parameter,
            "host": self.host,
            "target": self.target,
            "dry_run": self.dry_run,
            "stage": str(self.stage),
            "message": self.message,
            "refusal": self.refusal,
            "settle_seconds": self.settle_seconds,
            "reservation": {
                "remediation": self.reservation.remediation,
                "needs_host": self.reservation.needs_host,
                "target": list(self.reservation.target_labels),
                "per_label": self.reservation.per_label,
                "at_once": self.reservation.at_once,
                "storm": self.reservation.storm,
            },
            "verification": self.verification.as_dict(),
            "approvers": list(self.approvers),
            "report": self.report().as_dict(),
        }


def decide(config: Config, alert: Alert, request: Request) -> Decision:
    """Decide what a remediation does for an alert.

    Raises:
        RemediationError: The rule names neither an entry nor an action, or both.
    """
    if bool(request.remediation) == bool(request.action):
        raise RemediationError("name either a remediation or an action")
    if request.remediation:
        entry = config.remediation(request.remediation)
        if entry is None:
            message = f"the configuration has no valid remediation {request.remediation}"
            return Decision(Stage.REFUSED, message, dry_run=config.dry_run)
        return decide_entry(config, alert, entry, request.mode)
    mode = _effective_mode(config, request.mode)
    if mode is Mode.ASK:
        return Decision(Stage.REFUSED, _NO_APPROVERS)
    host = host_or_empty(alert.labels, config.host_label)
    draft = Decision(Stage.REMEDIATE, "", request.action, request.parameters, "", host, host)
    return _apply_safety_rules(config, alert, draft, mode)


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
    host = host_or_empty(alert.labels, config.host_label)
    if mode is Mode.EVIDENCE or not entry.action:
        reason = f"is in mode {mode}" if mode is Mode.EVIDENCE else "names no action"
        message = f"the remediation {entry.name} {reason}, so nothing is changed"
        draft = Decision(Stage.EVIDENCE, message, host=host)
        return _apply_safety_rules(config, alert, draft, mode)
    try:
        parameters = entry.resolve(alert.labels)
        target = entry.target_of(alert.labels, host)
    except LabelError as error:
        return Decision(
            Stage.REFUSED, str(error), entry.action, host=host, dry_run=mode is Mode.DRY_RUN
        )
    draft = Decision(
        Stage.REMEDIATE,
        action=entry.action,
        parameters=parameters,
        host_parameter=entry.host_parameter,
        host=host,
        target=target,
        verification=Verification.of(entry),
    )
    decision = _apply_safety_rules(config, alert, draft, mode, entry)
    unsupported = missing_support(entry)
    if mode is Mode.ASK and not entry.approvers:
        unsupported = _NO_APPROVERS
    if decision.may_reserve and unsupported:
        return replace(decision, stage=Stage.REFUSED, message=unsupported)
    if decision.may_reserve and mode is Mode.ASK:
        # Do not ask people to approve a change that would be refused anyway.
        stage = Stage.REFUSED if decision.message else Stage.REMEDIATE
        return replace(decision, stage=stage, approvers=entry.approvers)
    return decision


_NO_APPROVERS = (
    "the mode ask needs approvers: name an entry of remediations that has the key approvers"
)


def missing_support(entry: Remediation) -> str:
    """Return why this release does not make the change of an entry, or '' if it does.

    A change without a check that the entry requires would be unsafe.
    """
    kinds = [check.partition(":")[0] for check in entry.check]
    unsupported = [f"check: {kind}" for kind in kinds if kind not in BUILT_IN_CHECKS]
    kind = entry.verify.partition(":")[0]
    if kind and kind != NO_VERIFICATION and kind not in BUILT_IN_CHECKS:
        unsupported.append(f"verify: {kind}")
    if not unsupported:
        return ""
    verb = "is" if len(unsupported) == 1 else "are"
    return f"{', '.join(unsupported)} {verb} not available in this release; set mode: dry_run"


def _effective_mode(config: Config, *modes: Mode) -> Mode:
    return Mode.strictest(*modes, Mode.DRY_RUN if config.dry_run else Mode.LIVE)


def _apply_safety_rules(
    config: Config,
    alert: Alert,
    draft: Decision,
    mode: Mode,
    entry: Remediation | None = None,
) -> Decision:
    """Apply the safety rules to a draft of a decision, and return the decision."""
    is_dry_run = mode is Mode.DRY_RUN
    action = draft.action if mode is not Mode.EVIDENCE else ""
    request = ChangeRequest(
        action=action,
        needs_host=bool(action and draft.host_parameter),
        change=draft.change,
        **(_entry_limits(entry) if entry else {}),
    )
    effective, situation = replace(config, dry_run=is_dry_run), alert.read_situation(request)
    permission = preview(effective, request, situation)
    is_checked = action and entry and entry.has_conditions and not missing_support(entry)
    if entry and is_checked and alert.find_objection and may_check_conditions(permission):
        request = with_conditions(request, entry, alert.find_objection(entry))
        permission = preview(effective, request, situation)
    stage, message = permission.stage, permission.message
    if not action:
        stage = Stage.DRY_RUN if is_dry_run else Stage.EVIDENCE
        message = draft.message or "the mode evidence changes nothing"
    elif permission.may_reserve and permission.refusal is not Refusal.NOT_CONFIRMED:
        stage = Stage.REMEDIATE
    return replace(
        draft,
        stage=stage,
        message=message,
        dry_run=is_dry_run or config.dry_run,
        refusal=permission.refusal_name if action else "",
        settle_seconds=permission.settle_seconds,
        reservation=request,
    )


def _entry_limits(entry: Remediation) -> dict[str, Any]:
    """Return the attributes of ChangeRequest that an entry sets."""
    limits: dict[str, Any] = {"remediation": entry.name, "target_labels": entry.target}
    if entry.per:
        limits.update(
            per_label=entry.per.label, at_once=entry.per.at_once, storm=entry.per.storm or 0
        )
    return limits


def _as_text(value: Any) -> str:
    return str(value) if isinstance(value, str) else json.dumps(value)
