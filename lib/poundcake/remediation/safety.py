"""Decide whether a remediation may change anything."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from poundcake.alertmanager import FIRING
from poundcake.config import ANY_HOST, Config
from poundcake.hosts import HostPort, host_and_port, is_host_in, refusal_of_target
from poundcake.remediation.stage import Stage

_ACTION_REFERENCE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_.-]+\Z")


class AlertState(NamedTuple):
    """The properties of an alert that the decision depends on."""

    named_host: str
    """Its label host_label, as the sender wrote it; empty if it has none."""
    status: str
    """``firing`` or ``resolved``."""
    incident_ended_at: str | None
    """When its incident ended, or None while it is open."""


@dataclass(frozen=True)
class Permission:
    """Whether a remediation may change anything, and if not, why not."""

    target: HostPort | None
    """The host that the alert names, or None."""
    may_check: bool
    """Whether the host may be checked: it is allowed and is not StackStorm's own machine."""
    action: str
    """The action that would make the change; empty if only evidence is collected."""
    dry_run: bool
    stage: Stage
    """REMEDIATE if the change is allowed; otherwise the stage at which the remediation ends."""
    message: str
    """Why the change is not allowed; empty if it is."""

    @property
    def may_change(self) -> bool:
        """Whether the action may be run."""
        return self.stage is Stage.REMEDIATE

    def as_dict(self) -> dict[str, Any]:
        """Return the result of poundcake.get_alert. A missing host is '', a missing port 0."""
        return {
            "host": self.target.host if self.target else "",
            "port": self.target.port if self.target else 0,
            "may_check": self.may_check,
            "may_change": self.may_change,
            "action": self.action,
            "dry_run": self.dry_run,
            "stage": str(self.stage),
            "message": self.message,
        }


def permit(config: Config, alert: AlertState, action: str, needs_host: bool = True) -> Permission:
    """Decide whether a remediation may change anything for an alert.

    Args:
        config: The pack's configuration.
        alert: The alert that started the remediation.
        action: The reference of the action that makes the change; empty to only collect evidence.
        needs_host: Refuse an alert without a usable host.
    """
    target = host_and_port(alert.named_host)
    refusal = _refusal_of_target(config, target)
    stage, message = _decide(config, alert, target, action, needs_host, refusal)
    may_check = target is not None and not refusal
    return Permission(target, may_check, action, config.dry_run, stage, message)


def _decide(
    config: Config,
    alert: AlertState,
    target: HostPort | None,
    action: str,
    needs_host: bool,
    refusal_of_target: str,
) -> tuple[Stage, str]:
    if action and alert.incident_ended_at:
        return Stage.ENDED, f"the incident ended at {alert.incident_ended_at}"
    refusal = ""
    if action or needs_host:
        if alert.status != FIRING:
            refusal = "the alert is resolved"
        elif target is None and (needs_host or _restricts_hosts(config)):
            refusal = f"the label {config.host_label} of the alert contains no host"
        else:
            refusal = refusal_of_target
    if action:
        refusal = refusal or _refusal_of_action(config, action) or _refusal_for_all_hosts(config)
    if refusal:
        return Stage.REFUSED, refusal
    if not action:
        stage = Stage.DRY_RUN if config.dry_run else Stage.EVIDENCE
        return stage, "the rule names no action, so nothing would be changed"
    if config.dry_run:
        would = f"would run {action} for {target.host if target else 'the alert'}"
        if not config.allowed_hosts:
            would += ", but allowed_hosts is empty: with dry_run: false it allows no host"
        return Stage.DRY_RUN, would
    return Stage.REMEDIATE, ""


def _refusal_of_target(config: Config, target: HostPort | None) -> str:
    """Return why the alert's host must not be changed or checked, or an empty string."""
    if target is None:
        return ""
    if config.allowed_hosts and not is_host_in(target.host, config.allowed_hosts):
        return f"allowed_hosts does not contain {target.host}"
    return refusal_of_target(target.host)


def _restricts_hosts(config: Config) -> bool:
    """Return True if only some hosts are allowed, so that an alert without a host is refused."""
    return bool(config.allowed_hosts) and ANY_HOST not in config.allowed_hosts


def _refusal_for_all_hosts(config: Config) -> str:
    """Return why no host may be changed, or an empty string."""
    if config.allowed_hosts or config.dry_run:
        return ""
    return 'allowed_hosts is empty, which allows no host: list the hosts in it, or "*" for any'


def _refusal_of_action(config: Config, action: str) -> str:
    """Return why the action may not be run, or an empty string."""
    if not _ACTION_REFERENCE.match(action):
        return "action must be a reference of the form pack.name"
    if action not in config.allowed_actions:
        return f"allowed_actions does not contain {action}"
    return ""
