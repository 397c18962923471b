"""The checks that run on a host: texts such as `disk:/var>90` in the keys `check` and `verify`.

Each of them is an action of StackStorm. Except for `action`, the actions belong to the pack and run
over SSH. poundcake.remediation.inspections reads their results.
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
"""Those of them that change nothing. They need not be in `allowed_actions`."""

REFERENCE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([^{}]+)\})")
"""A label, as the configuration names it: `$service` or `${app.kubernetes.io/name}`."""
ACTION = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_.-]+\Z")
"""The reference of an action."""

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
# The parameters that keep a check short: no search for large directories, no processes, no log.
_SHORT = {"disk": {"top": 0}, "memory": {"top": 0}, "cpu": {"top": 0}, "service": {"lines": 0}}


class HostCheck(NamedTuple):
    """A check of a host.

    As a condition (`check`), it permits a change if it holds: the file system is more than 90%
    full, the service does not run. As a verification (`verify`), it confirms a change if it does
    not hold.

    Attributes:
        kind: One of KINDS.
        subject: The path, the service or the reference of the action; '' for memory and cpu. An
            entry may name a label instead of a path or a service: `$service`.
        above: The percentage above which the check holds; 0 for service and action.
    """

    kind: str
    subject: str = ""
    above: int = 0

    def __str__(self) -> str:
        """Return the check as the configuration contains it."""
        subject = f":{self.subject}" if self.subject else ""
        return f"{self.kind}{subject}" + (f">{self.above}" if self.has_threshold else "")

    @property
    def has_threshold(self) -> bool:
        """Whether the check compares a percentage."""
        return self.kind in _WITH_THRESHOLD

    @property
    def action(self) -> str:
        """The reference of the action that checks."""
        return self.subject if self.kind == "action" else f"poundcake.check_{self.kind}"

    def parameters(self, host: str, is_short: bool = False) -> dict[str, Any]:
        """Return the parameters of the action.

        Args:
            host: The canonical host.
            is_short: Whether to leave out what only helps people, because the check is repeated.
        """
        names = {"disk": "path", "service": "service"}
        kind_parameters = {names[self.kind]: self.subject} if self.kind in names else {}
        return {"host": host, **kind_parameters, **(_SHORT.get(self.kind, {}) if is_short else {})}


def label_of(text: str) -> str:
    """Return the label that a text names, or '' if the text is not the name of a label."""
    match = REFERENCE.fullmatch(text)
    return (match[1] or match[2]) if match else ""


def is_host_check(text: str) -> bool:
    """Return True if a check runs on a host, whether or not it is valid."""
    return _kind_of(text) in KINDS


def parse_host_check(text: str) -> HostCheck:
    """Return the check that a text of the configuration describes.

    Raises:
        ValueError: The text is not valid. The message contains the valid form.
    """
    kind = _kind_of(text)
    match = _TEXT.fullmatch(text.strip())
    subject, above = (match["subject"] or "", match["above"]) if match else ("", None)
    pattern = _PATTERNS.get(kind)
    may_be_label = kind in ("disk", "service") and bool(label_of(subject))
    is_valid = may_be_label or (bool(pattern.match(subject)) if pattern else not subject)
    if not match or not is_valid or (above is None) == (kind in _WITH_THRESHOLD):
        raise ValueError(f"{text} must have the form {_FORMS[kind]}")
    return HostCheck(kind, subject, int(above or 0))


def _kind_of(text: str) -> str:
    match = re.match(r"\s*([a-z]+)\b", text)
    return match[1] if match else ""
