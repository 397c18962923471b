"""Check the remediations, and who may approve their changes."""

from __future__ import annotations

from typing import Any, Mapping

from poundcake.config import Config
from poundcake.doctor.finding import Finding, ok, problem, unknown, warning
from poundcake.remediations import Mode
from poundcake.trail.text.layout import counted

_PLAN = "run: st2 run poundcake.plan format=text"


def check_entries(plan: Mapping[str, Any]) -> list[Finding]:
    """Check the plan without an alert, which has each entry with its problems.

    Args:
        plan: The plan, as `remediation.plan.check_entries` returns it.
    """
    check = "remediations"
    findings = [problem(check, str(error), _PLAN) for error in plan["errors"]]
    findings += [warning("allowed_actions", *str(text).split(": ", 1)) for text in plan["warnings"]]
    for entry in plan["remediations"]:
        name = f"remediation {entry['name']}"
        findings += [problem(check, f"{name}: {text}", _PLAN) for text in entry["problems"]]
        if entry["stopped_by"] and not entry["problems"]:
            what = f"{name} changes nothing: {'; '.join(entry['stopped_by'])}"
            findings.append(warning(check, what, "change that if it is meant to change something"))
    if findings:
        return findings
    count = len(plan["remediations"])
    if not count:
        return [ok(check, "no remediation is configured (docs/REMEDIATION.md)")]
    return [ok(check, f"{counted(count, 'remediation')} can be used")]


def check_approvers(config: Config, service_user: str) -> list[Finding]:
    """Check the approvers of the entries in mode ask.

    Args:
        config: The configuration.
        service_user: The StackStorm user as whom doctor runs, or ''.
    """
    check = "remediations.approvers"
    entries = [entry for entry in config.remediations if entry.mode is Mode.ASK]
    approvers = list(dict.fromkeys(name for entry in entries for name in entry.approvers))
    if not approvers:
        return []
    others = [name for name in approvers if name != service_user]
    if not others:
        return [ok(check, f"the only approver is {service_user}, who runs this action")]
    what = (
        f"the API of StackStorm does not list its users, so the approvers may not exist: "
        f"{', '.join(others)}"
    )
    return [unknown(check, what, f"let each of them log in once: st2 login {others[0]}")]
