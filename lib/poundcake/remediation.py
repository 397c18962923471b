"""What a remediation may do, and what it did: the checks behind the pack's workflows.

Workflows hold nothing but ids. Alert text is read from the database here, and what comes back is
checked, because StackStorm evaluates what an action returns.
"""

import fnmatch
import ipaddress
import re
import socket
import time
from typing import Any, Dict, List, Optional, Sequence

from poundcake.alertmanager import FIRING
from poundcake.config import Config
from poundcake.errors import PoundCakeError
from poundcake.stackstorm import StackStorm

# RFC 1123, section 2.1, with the underscores that some names have.
_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    r"(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\Z"
)
_PORT = re.compile(r"[0-9]{1,5}\Z")
_REF = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_.-]+\Z")
CONNECT_TIME = 3  # seconds


class RemediationError(PoundCakeError):
    """A task was asked for something that does not fit what is on record."""


def host_of(instance: str) -> Dict[str, Any]:
    """The host and port of an ``instance`` label: {host, port}; host '' where there is none that
    can be trusted as an argument, port 0 where none is named."""
    host, port = instance, ""
    if instance.startswith("["):
        host, bracket, rest = instance[1:].partition("]")
        if not bracket or ":" not in host or (rest and not rest.startswith(":")):
            return {"host": "", "port": 0}
        port = rest[1:]
    elif instance.count(":") == 1:
        host, _, port = instance.partition(":")
    if port and not (_PORT.match(port) and 0 < int(port) < 65536):
        return {"host": "", "port": 0}
    if not _is_host(host):
        return {"host": "", "port": 0}
    return {"host": host, "port": int(port or 0)}


def _is_host(host: str) -> bool:
    # ipaddress takes any text for the scope of an IPv6 address, from Python 3.9 on.
    if "%" in host:
        return False
    try:
        ipaddress.ip_address(host)
        return True
    except ValueError:
        return bool(_NAME.match(host))


def permit(
    config: Config, alert: Dict[str, Any], action: str, needs_host: bool = True
) -> Dict[str, Any]:
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


def _refusal(config: Config, alert: Dict[str, Any], host: str, needs_host: bool) -> str:
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


def check_host(host: str, ports: Sequence[int], wait: float) -> Dict[str, Any]:
    """Whether a host answers on any of the ports, by TCP; tried again for ``wait`` seconds.

    A refused connection is an answer too: the host is up. Returns {reachable, port, seconds}.
    Raises RemediationError for what is no host.
    """
    if not _is_host(host):
        raise RemediationError("host: a host name or an IP address is expected")
    began = time.monotonic()
    while True:
        for port in ports:
            if _answers(host, port):
                seconds = round(time.monotonic() - began, 3)
                return {"reachable": True, "port": port, "seconds": seconds}
        if time.monotonic() - began >= wait:
            seconds = round(time.monotonic() - began, 3)
            return {"reachable": False, "port": 0, "seconds": seconds}
        time.sleep(1)


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=CONNECT_TIME).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True


def report(stackstorm: StackStorm, execution_id: str) -> Dict[str, Any]:
    """What a remediation workflow did, read from the executions of its tasks.

    Returns {status, mutated, dry_run, verified, stage, message, evidence}. Only values of this
    pack's own actions are passed on; of any other action only whether it succeeded.
    """
    tasks = {_task(child): child for child in stackstorm.children(execution_id)}
    linked = _result(tasks.get("link"))
    permitted = _result(tasks.get("alert"))
    before = _result(tasks.get("evidence"))
    after = _result(tasks.get("verify"))
    evidence: Dict[str, Any] = {}
    if before:
        evidence["before"] = before
    if after:
        evidence["after"] = after
    dry_run = bool(permitted.get("dry_run", True))
    answer: Dict[str, Any] = {
        "mutated": False,
        "dry_run": dry_run,
        "verified": False,
        "evidence": evidence,
    }

    def ends(status: str, stage: str, message: str) -> Dict[str, Any]:
        return {"status": status, "stage": stage, "message": message, **answer}

    if not linked.get("claimed"):
        return ends("succeeded", "not_claimed", str(linked.get("reason", "")))
    if not permitted:
        return ends("failed", "alert", "the alert could not be read; its task says why")
    host = permitted.get("host", "")
    harmless = "succeeded" if dry_run else "failed"
    changed = tasks.get("remediate")
    if changed is None:
        if before.get("reachable"):
            answer["verified"] = True
            return ends("succeeded", "evidence", f"{host} answers on port {before['port']}")
        if permitted["may_change"] and not before:
            return ends("failed", "evidence", "the host could not be checked; its task says why")
        found = f"{host} does not answer; " if before else ""
        ended = "succeeded" if permitted["stage"] in ("evidence", "ended") else harmless
        return ends(ended, permitted["stage"], found + permitted["message"])
    answer["mutated"] = True
    if changed["status"] != "succeeded":
        action = changed["action"]["ref"]
        return ends("failed", "remediate", f"{action} ended as {changed['status']}")
    if after:
        answer["verified"] = bool(after.get("reachable"))
        if not answer["verified"]:
            seconds = after.get("seconds", 0)
            return ends("failed", "verify", f"{host} still does not answer after {seconds} s")
        return ends("succeeded", "done", f"{host} answers again after {after['seconds']} s")
    return ends("succeeded", "done", "the action succeeded")


def _task(child: Dict[str, Any]) -> str:
    return ((child.get("context") or {}).get("orquesta") or {}).get("task_name", "")


def _result(child: Optional[Dict[str, Any]]) -> Dict[str, Any]:
    """What an action of this pack returned; {} where it failed or is none of ours."""
    if not child or child.get("status") != "succeeded":
        return {}
    if not child["action"]["ref"].startswith("poundcake."):
        return {}
    result = child.get("result")
    found = result.get("result") if isinstance(result, dict) else None
    return found if isinstance(found, dict) else {}


def ports_of(port: int) -> List[int]:
    """Where a host is asked whether it is up: SSH, and the port that its metrics come from."""
    return [22] + ([port] if port and port != 22 else [])
