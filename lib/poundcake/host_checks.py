"""Parse the checks that run on a host, such as `disk:/var>90` in the keys `check` and `verify`.

Each check runs a StackStorm action: an action that the operator chooses for the kind `action`, and
otherwise one of the pack's own, over SSH. poundcake.remediation.findings reads the results.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

KINDS = ("disk", "memory", "cpu", "service", "action")
"""The kinds of checks that run on a host."""
SSH_ACTIONS = (
    "poundcake.check_disk",
    "poundcake.check_memory",
    "poundcake.check_cpu",
    "poundcake.check_service",
    "poundcake.clean_disk",
    "poundcake.restart_service",
)
"""The actions of the pack that connect to a host over SSH."""
READ_ONLY_ACTIONS = SSH_ACTIONS[:4]
"""The SSH actions that change nothing. They need not be in `allowed_actions`."""

REFERENCE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([^{}]+)\})")
"""Matches a reference to a label: `$service` or `${app.kubernetes.io/name}`."""
ACTION = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_.-]+\Z")
"""Matches the reference of an action: `pack.name`."""

_TEXT = re.compile(
    rf"(?:{'|'.join(KINDS)})(?::(?P<subject>[^>]+?))?(?:\s*>\s*(?P<above>[0-9]{{1,2}}))?"
)
# The patterns of the parameters `path` and `service` of the pack's actions.
_PATTERNS = {
    "disk": re.compile(r"(/|(/(?!\.\.?(/|\Z))[A-Za-z0-9._@+=-]+)+)\Z"),
    "service": re.compile(r"[A-Za-z0-9][A-Za-z0-9:_.@-]{0,127}\Z"),
    "action": ACTION,
}
_FORMS = {
    "disk": "disk:/var>90, with an absolute path and a percentage",
    "memory": "memory>90, with a percentage",
    "cpu": "cpu>95, with a percentage",
    "service": "service:nginx",
    "action": "action:pack.name",
}
_WITH_THRESHOLD = ("disk", "memory", "cpu")
# The parameters that omit the details of a check: large directories, processes, log lines.
_WITHOUT_DETAILS = {
    "disk": {"top": 0},
    "memory": {"top": 0},
    "cpu": {"top": 0},
    "service": {"lines": 0},
}


class HostCheck(NamedTuple):
    """A check of a host.

    A check holds if something is wrong: the file system is more than 90% full, or the service is
    not running. As a condition (`check`), it permits a change only if it holds. As a verification
    (`verify`), it confirms a change if it does not hold.

    Attributes:
        kind: One of KINDS.
        subject: The path, the service or the reference of the action; '' for memory and cpu. An
            entry may contain a label instead of a path or a service: `$service`.
        above: The percentage above which the check holds; 0 for service and action.
    """

    kind: str
    subject: str = ""
    above: int = 0

    def __str__(self) -> str:
        """Return the check as it is written in the configuration."""
        subject = f":{self.subject}" if self.subject else ""
        return f"{self.kind}{subject}" + (f">{self.above}" if self.has_threshold else "")

    @property
    def has_threshold(self) -> bool:
        """Whether the check compares a measured percentage with a threshold."""
        return self.kind in _WITH_THRESHOLD

    @property
    def action(self) -> str:
        """The reference of the action that runs the check."""
        return self.subject if self.kind == "action" else f"poundcake.check_{self.kind}"

    def parameters(self, host: str, with_details: bool = True) -> dict[str, Any]:
        """Return the parameters of the action.

        Args:
            host: The canonical host.
            with_details: Whether to collect details for people. They slow down a repeated check.
        """
        names = {"disk": "path", "service": "service"}
        subject = {names[self.kind]: self.subject} if self.kind in names else {}
        details = {} if with_details else _WITHOUT_DETAILS.get(self.kind, {})
        return {"host": host, **subject, **details}


def referenced_label(text: str) -> str:
    """Return the name of the label that a reference such as `$service` names, or ''."""
    match = REFERENCE.fullmatch(text)
    return (match[1] or match[2]) if match else ""


def is_host_check(text: str) -> bool:
    """Return True if the text is a check that runs on a host, valid or not."""
    return _parse_kind(text) in KINDS


def parse_host_check(text: str) -> HostCheck:
    """Parse a check in the configuration.

    Raises:
        ValueError: The text is invalid. The message shows the valid form.
    """
    kind = _parse_kind(text)
    match = _TEXT.fullmatch(text.strip())
    subject, above = (match["subject"] or "", match["above"]) if match else ("", None)
    pattern = _PATTERNS.get(kind)
    is_reference = kind in ("disk", "service") and bool(referenced_label(subject))
    is_valid = is_reference or (bool(pattern.match(subject)) if pattern else not subject)
    if not match or not is_valid or (above is None) == (kind in _WITH_THRESHOLD):
        raise ValueError(f"{text} must have the form {_FORMS[kind]}")
    return HostCheck(kind, subject, int(above or 0))


def _parse_kind(text: str) -> str:
    match = re.match(r"\s*([a-z]+)\b", text)
    return match[1] if match else ""
