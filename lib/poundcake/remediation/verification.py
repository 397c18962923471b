"""How a change is verified: the keys `verify` and `wait` of an entry."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from poundcake.remediations import NO_VERIFICATION, Remediation
from poundcake.trail.changes import is_power_action

CHANGE_TASKS = ("remediate", "remediate_host")
"""The tasks of a workflow that make its change."""
VERIFY_TASK = "verify"

_POWER_SECONDS, _TARGET_SECONDS, _DISK_SECONDS, _SECONDS = 900, 600, 180, 300
_MIN_PAUSE, _MAX_PAUSE, _POLLS = 2, 30, 20


@dataclass(frozen=True)
class Verification:
    """How a change is verified.

    Attributes:
        check: `alert`, `expression`, `tcp` or `tcp:PORT`; '' if the change is not verified.
        wait: Seconds after the end of the change until it counts as not verified.
        pause: Seconds between two polls.
        polls: The maximum number of repeated polls.
    """

    check: str = ""
    wait: int = 0
    pause: int = 0
    polls: int = 0

    @classmethod
    def of(cls, entry: Remediation) -> Verification:
        """Return how the change of an entry is verified."""
        if entry.verify in ("", NO_VERIFICATION):
            return cls()
        wait = _default_wait(entry) if entry.wait is None else entry.wait
        pause = max(_MIN_PAUSE, min(_MAX_PAUSE, wait // _POLLS))
        return cls(entry.verify, wait, pause, wait // pause + 2)

    def as_dict(self) -> dict[str, Any]:
        """Return the verification as JSON."""
        return asdict(self)


def _default_wait(entry: Remediation) -> int:
    if is_power_action(entry.action):
        return _POWER_SECONDS
    if entry.target:
        return _TARGET_SECONDS
    return _DISK_SECONDS if "disk" in entry.action else _SECONDS
