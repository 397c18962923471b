"""Decide whether a remediation may change anything."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from poundcake.alertmanager import FIRING
from poundcake.config import ANY_HOST, Config
from poundcake.hosts import HostPort, host_and_port
from poundcake.remediation.stage import Stage

_ACTION_REFERENCE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_.-]+\Z")


class AlertState(NamedTuple):
    """What the decision needs to know of an alert."""

    instance: str
    """Its label ``instance``, as it was sent."""
    status: str
    """``firing`` or ``resolved``."""
    incident_ended_at: str | None
    """When its incident ended, or None while it is open."""


@dataclass(frozen=True)
class Permission:
    """Whether a remediation may change anything, and if not, why."""

    target: HostPort | None
    """The host that the alert names, or None."""
    dry_run: bool
    stage: Stage
    """REMEDIATE if it may; otherwise the stage with which the remediation ends."""
    message: str
    """Why it may not; empty if it may."""

    @property
    def may_change(self) -> bool:
        """Whether the action may be run."""
        return self.stage is Stage.REMEDIATE

    def as_dict(self) -> dict[str, Any]:
        """Return the result of poundcake.get_alert: host '' and port 0 mean that none is named."""
        return {
            "host": self.target.host if self.target else "",
            "port": self.target.port if self.target else 0,
            "may_change": self.may_change,
            "dry_run": self.dry_run,
            "stage": str(self.stage),
            "message": self.message,
        }


def permit(config: Config, alert: AlertState, action: str, needs_host: bool = True) -> Permission:
    """Decide whether a remediation may change anything for an alert.

    Args:
        config: The pack's configuration.
        alert: The alert that started the remediation.
        action: The reference of the action that makes the change; empty for evidence only.
        needs_host: Whether the remediation works on the alert's host, so that an alert without a
            usable host is refused.
    """
    target = host_and_port(alert.instance)
    stage, message = _decide(config, alert, target, action, needs_host)
    return Permission(target, config.dry_run, stage, message)


def _decide(
    config: Config, alert: AlertState, target: HostPort | None, action: str, needs_host: bool
) -> tuple[Stage, str]:
    if action and alert.incident_ended_at:
        return Stage.ENDED, f"the incident ended at {alert.incident_ended_at}"
    refusal = ""
    if action or needs_host:
        refusal = _refusal_of_host(config, alert, target, needs_host)
    if action:
        refusal = refusal or _refusal_of_action(config, action) or _refusal_of_any_host(config)
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


def _refusal_of_host(
    config: Config, alert: AlertState, target: HostPort | None, needs_host: bool
) -> str:
    """Return why the alert's host may not be changed, or an empty string."""
    if alert.status != FIRING:
        return "the alert is resolved"
    is_limited = bool(config.allowed_hosts) and ANY_HOST not in config.allowed_hosts
    if target is None and (needs_host or is_limited):
        return "the alert's instance names no host"
    host = target.host if target else ""
    patterns = config.allowed_hosts
    if is_limited and not any(fnmatch.fnmatchcase(host.lower(), p.lower()) for p in patterns):
        return f"allowed_hosts does not contain {host}"
    return ""


def _refusal_of_any_host(config: Config) -> str:
    """Return why nothing may be changed on any host, or an empty string."""
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
