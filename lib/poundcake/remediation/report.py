"""What a remediation workflow did, read from the executions of its tasks."""

from __future__ import annotations

from typing import Any

from poundcake.stackstorm import StackStorm


def report(stackstorm: StackStorm, execution_id: str) -> dict[str, Any]:
    """What a remediation workflow did, read from the executions of its tasks.

    Returns {status, mutated, dry_run, verified, stage, message, evidence}. Only values of this
    pack's own actions are passed on; of any other action only whether it succeeded.
    """
    tasks = {_task(child): child for child in stackstorm.children(execution_id)}
    linked = _result(tasks.get("link"))
    permitted = _result(tasks.get("alert"))
    before = _result(tasks.get("evidence"))
    after = _result(tasks.get("verify"))
    evidence: dict[str, Any] = {}
    if before:
        evidence["before"] = before
    if after:
        evidence["after"] = after
    dry_run = bool(permitted.get("dry_run", True))
    answer: dict[str, Any] = {
        "mutated": False,
        "dry_run": dry_run,
        "verified": False,
        "evidence": evidence,
    }

    def ends(status: str, stage: str, message: str) -> dict[str, Any]:
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


def _task(child: dict[str, Any]) -> str:
    return ((child.get("context") or {}).get("orquesta") or {}).get("task_name", "")


def _result(child: dict[str, Any] | None) -> dict[str, Any]:
    """What an action of this pack returned; {} where it failed or is none of ours."""
    if not child or child.get("status") != "succeeded":
        return {}
    if not child["action"]["ref"].startswith("poundcake."):
        return {}
    result = child.get("result")
    found = result.get("result") if isinstance(result, dict) else None
    return found if isinstance(found, dict) else {}
