"""Check what the endpoint reports about itself, the broker and its own configuration."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any, Mapping

from poundcake import __version__
from poundcake.doctor.finding import Finding, ok, problem, unknown, warning
from poundcake.endpoint_client import Refused, Unreachable
from poundcake.timestamps import parse_timestamp
from poundcake.trail import commands
from poundcake.trail.text.health import REFUSAL_REMEDY, find_remedy, is_refusing

_RESTART = "st2ctl restart-component st2sensorcontainer"
_LOG = "grep poundcake /var/log/st2/st2sensorcontainer.log"
_STATUS = "st2 run poundcake.status format=text request_id="


def check_no_health(result: Refused | Unreachable) -> list[Finding]:
    """Report an endpoint that does not answer, or that does not show its health."""
    what = f"the endpoint does not answer: {result}"
    remedy = f"see why the sensor does not run ({_LOG}), or set endpoint_url"
    if isinstance(result, Refused):
        what = f"the endpoint does not show its health: {result}"
        remedy = "correct the credentials or endpoint_url in the configuration of the pack"
    return [
        problem("endpoint", what, remedy),
        unknown("endpoint.broker", "only the endpoint can check RabbitMQ", "repair the endpoint"),
    ]


def check_health(view: Mapping[str, Any]) -> list[Finding]:
    """Check the health view of an endpoint that answered.

    Args:
        view: The view, with the differences between its configuration and that of actions.
    """
    address = view.get("address") or "not listening"
    findings = [ok("endpoint", f"the endpoint answers ({address})"), _check_version(view)]
    for name, part in (view.get("components") or {}).items():
        findings += _check_component(name, part)
    findings += _check_disk((view.get("components") or {}).get("journal") or {})
    findings += _check_certificate(view.get("certificate_expires_at"))
    findings += _check_configuration(view.get("configuration") or {})
    findings += _check_webhooks(view)
    return findings


def _check_version(view: Mapping[str, Any]) -> Finding:
    version = view.get("version")
    if version == __version__:
        return ok("endpoint.version", f"the endpoint and the actions are version {version}")
    what = f"the endpoint is version {version}, and the actions are version {__version__}"
    return problem("endpoint.version", what, f"run: {_RESTART}")


def _check_component(name: str, part: Mapping[str, Any]) -> list[Finding]:
    check, state = f"endpoint.{name}", part.get("state")
    detail = str(part.get("detail") or "")
    findings = []
    if state in ("down", "full"):
        what = f"{name} is {state}: {detail}"
        findings.append(
            problem(check, what, find_remedy(name, part) or "see the log of the sensor")
        )
    elif state == "unknown":
        what = f"the endpoint has not used the component {name} yet"
        findings.append(unknown(check, what, "send an alert, then run doctor again"))
    elif detail:
        findings.append(warning(check, f"{name}: {detail}", "see docs/OPERATIONS.md, Health"))
    else:
        findings.append(ok(check, f"the component {name} works"))
    stuck = part.get("stuck_requests") or []
    if stuck:
        what = f"requests that cannot be recorded: {', '.join(map(str, stuck[:3]))}"
        findings.append(problem(check, what, f"run: {_STATUS}{stuck[0]}"))
    return findings


def _check_disk(journal: Mapping[str, Any]) -> list[Finding]:
    check = "endpoint.disk"
    free, size = journal.get("disk_free_bytes"), journal.get("disk_size_bytes")
    if free is None or not size:
        return []
    what = f"the disk of state_dir has {free / 1e9:.1f} of {size / 1e9:.1f} GB left"
    # As in etc/poundcake.rules.yml.
    if free < 0.1 * size and free < 2e9:
        remedy = "free some space; when the disk is full, webhooks are answered with 503"
        return [warning(check, what, remedy)]
    return [ok(check, what)]


def _check_certificate(text: Any) -> list[Finding]:
    check = "endpoint.certificate"
    expires_at = parse_timestamp(str(text or ""))
    if expires_at is None:
        return []
    remaining = expires_at - datetime.now(timezone.utc)
    what = f"the certificate of the endpoint expires at {text}"
    remedy = "replace the file in tls_certificate; the endpoint loads it without a restart"
    if remaining < timedelta(0):
        return [problem(check, what, remedy)]
    return [warning(check, what, remedy) if remaining < timedelta(days=7) else ok(check, what)]


def _check_configuration(configuration: Mapping[str, Any]) -> list[Finding]:
    check = "endpoint.configuration"
    findings = []
    if configuration.get("problem"):
        remedy = "correct it; the endpoint tries again every 20 seconds"
        findings.append(problem(check, f"endpoint: {configuration['problem']}", remedy))
    for key, values in (configuration.get("differences") or {}).items():
        what = (
            f"{key} is {json.dumps(values['actions'])} for actions and "
            f"{json.dumps(values['endpoint'])} for the endpoint"
        )
        remedy = "wait 30 seconds; if the difference stays, endpoint_url names another endpoint"
        findings.append(warning(check, what, remedy))
    return findings or [ok(check, "the endpoint and the actions use the same configuration")]


def _check_last_refusal(view: Mapping[str, Any], last: Mapping[str, Any], count: int) -> Finding:
    """Report the last refused webhook, by whether its sender is refused now."""
    check = "endpoint.webhooks"
    what = (
        f"webhooks refused since the endpoint started: {count}; the last one from {last['sender']} "
        f"at {last['refused_at']}: {last['status']}, {last['detail']}"
    )
    if last.get("accepted_at"):
        return ok(check, f"{what}; one from the same address was accepted at {last['accepted_at']}")
    if is_refusing(view, datetime.now(timezone.utc)):
        return problem(check, what, REFUSAL_REMEDY)
    return warning(check, what, REFUSAL_REMEDY)


def _check_webhooks(view: Mapping[str, Any]) -> list[Finding]:
    check = "endpoint.webhooks"
    findings = []
    refusals = view.get("refused") or {}
    if refusals.get("last"):
        findings.append(_check_last_refusal(view, refusals["last"], refusals["count"]))
    if view.get("paused"):
        what = f"all changes are paused: {view['paused'].get('reason', '')}"
        findings.append(warning("endpoint.pause", what, f"run: {commands.RESUME}"))
    newest = view.get("newest_webhook_at")
    if newest:
        findings.append(ok(check, f"the newest webhook was recorded at {newest}"))
    elif "newest_webhook_at" in view:
        remedy = "point Alertmanager at the endpoint (docs/ALERTMANAGER.md)"
        findings.append(warning(check, "no webhook has been recorded yet", remedy))
    return findings
