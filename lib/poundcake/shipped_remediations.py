"""The shipped remediations, such as poundcake.disk_cleanup, and their steps.

Each one is an action that runs the workflow of poundcake.remediate. A rule can start it, and an
entry of `remediations` can name it as its `action`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Mapping

from poundcake.host_checks import parse_host_check

_DEFAULT_THRESHOLD = 80  # percent


@dataclass(frozen=True)
class Steps:
    """The steps of a shipped remediation.

    Attributes:
        action: The action that makes the change, or '' if nothing is changed.
        parameters: The parameters of that action.
        check: The condition on the host, such as `disk:/var>80`, that must be true before the
            change and false after it.
        evidence: The actions that collect evidence.
    """

    action: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    check: str = ""
    evidence: tuple[str, ...] = ()


def find_steps(action: str, parameters: Mapping[str, Any]) -> Steps | None:
    """Return the steps of a shipped remediation, or None if the action is not one.

    Args:
        action: The reference of the action.
        parameters: The parameters in the entry or the rule.

    Raises:
        ValueError: A parameter is missing or invalid. The message begins with its name.
    """
    build_steps = _STEPS.get(action)
    return build_steps(parameters) if build_steps else None


def changing_action(action: str) -> str:
    """Return the action that makes the change of a shipped remediation, or the action itself."""
    return CHANGES.get(action, action)


def _build_disk_cleanup(parameters: Mapping[str, Any]) -> Steps:
    change_parameters = {
        name: value for name, value in parameters.items() if name not in ("path", "above")
    }
    directories = change_parameters.get("directories")
    if not isinstance(directories, list) or not directories:
        raise ValueError("directories: is missing; write directories: [/var/log/app]")
    if "older_than_days" not in change_parameters:
        raise ValueError("older_than_days: is missing; write older_than_days: 7")
    path_name = "path" if "path" in parameters else "directories"
    path = parameters.get("path", directories[0])
    above = parameters.get("above", _DEFAULT_THRESHOLD)
    if not _is_valid(f"disk:{path}>{_DEFAULT_THRESHOLD}"):
        raise ValueError(f"{path_name}: {path} must be an absolute path, such as /var/log/app")
    check = f"disk:{path}>{above}"
    if not _is_valid(check):
        raise ValueError(f"above: must be a percentage from 0 to 99, but is {above}")
    return Steps(CHANGES["poundcake.disk_cleanup"], change_parameters, check)


def _build_service_restart(parameters: Mapping[str, Any]) -> Steps:
    service = parameters.get("service")
    if not service:
        raise ValueError("service: is missing; write service: nginx")
    check = f"service:{service}"
    if not _is_valid(check):
        raise ValueError(f"service: {service} must be the name of a service, such as nginx")
    return Steps(CHANGES["poundcake.service_restart"], parameters, check)


def _is_valid(check: str) -> bool:
    """Return True if a text is a valid check of a host."""
    try:
        parse_host_check(check)
    except ValueError:
        return False
    return True


def _evidence_builder(action: str) -> Callable[[Mapping[str, Any]], Steps]:
    """Return a function that builds the steps of a remediation with one evidence action."""

    def build_steps(parameters: Mapping[str, Any]) -> Steps:
        if parameters:
            raise ValueError(f"{next(iter(parameters))}: is unknown; it takes no parameters")
        return Steps(evidence=(action,))

    return build_steps


CHANGES = {
    "poundcake.disk_cleanup": "poundcake.clean_disk",
    "poundcake.service_restart": "poundcake.restart_service",
}
"""The shipped remediations that change something, and the actions that make the change."""
_STEPS: Mapping[str, Callable[[Mapping[str, Any]], Steps]] = {
    "poundcake.disk_cleanup": _build_disk_cleanup,
    "poundcake.service_restart": _build_service_restart,
    "poundcake.memory_check": _evidence_builder("poundcake.check_memory"),
    "poundcake.cpu_check": _evidence_builder("poundcake.check_cpu"),
}
SHIPPED = tuple(_STEPS)
"""The references of the shipped remediations."""
