"""Whether a remediation may change anything."""

from __future__ import annotations

import fnmatch
import re
from typing import Any

from poundcake.alertmanager import FIRING
from poundcake.config import Config
from poundcake.hosts import host_of

_REF = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_.-]+\Z")


def permit(
    config: Config, alert: dict[str, Any], action: str, needs_host: bool = True
) -> dict[str, Any]:
    """Whether a remediation may change anything for an alert, and by which action.

    Returns {host, port, may_change, dry_run, stage, message}; stage says what ends the
    remediation where it may not: `ended` (the incident has), `refused`, `dry_run`, or `evidence`
    where no action is named.
    """
    target = host_of(alert["instance"])
    refusal = ""
    if action or needs_host:
        refusal = _refusal(config, alert, target["host"], needs_host)
    if action and alert["incident_ended_at"]:
        stage, message = "ended", f"the incident ended at {alert['incident_ended_at']}"
    elif not refusal and not action:
        stage = "dry_run" if config.dry_run else "evidence"
        message = "the rule names no action, so none would be run"
    elif refusal or _forbidden(config, action):
        stage, message = "refused", refusal or _forbidden(config, action)
    elif config.dry_run:
        stage, message = "dry_run", f"would run {action} for {target['host'] or 'the alert'}"
    else:
        stage, message = "remediate", ""
    return {
        **target,
        "may_change": stage == "remediate",
        "dry_run": config.dry_run,
        "stage": stage,
        "message": message,
    }


def _refusal(config: Config, alert: dict[str, Any], host: str, needs_host: bool) -> str:
    if alert["status"] != FIRING:
        return "the alert is resolved"
    allowed = config.allowed_hosts
    if not host and (needs_host or allowed):
        return "the alert's instance names no host"
    if allowed and not any(fnmatch.fnmatchcase(host.lower(), p.lower()) for p in allowed):
        return f"allowed_hosts does not name {host}"
    return ""


def _forbidden(config: Config, action: str) -> str:
    if not _REF.match(action):
        return "action is no reference of an action (pack.name)"
    if action not in config.allowed_actions:
        return f"allowed_actions does not name {action}"
    return ""
