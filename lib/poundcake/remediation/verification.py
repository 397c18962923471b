"""How a change is verified: the keys `verify` and `wait` of an entry."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Mapping

from poundcake.inert import FixedText
from poundcake.remediation.inspections import Inspection
from poundcake.remediations import NO_VERIFICATION, Remediation
from poundcake.trail.changes import is_power_action

VERIFY_TASK = "verify"
VERIFY_HOST_TASK = "verify_host"
"""The task that checks the host before each poll, if a check of the host verifies the change."""

# The default values of `wait`, and the bounds of the pause between two polls, in seconds.
_POWER_WAIT, _TARGET_WAIT, _DISK_WAIT, _DEFAULT_WAIT = 900, 600, 180, 300
_MIN_PAUSE, _MAX_PAUSE = 2, 30
_DESIRED_POLLS = 20


@dataclass(frozen=True)
class Verification:
    """How a change is verified.

    Attributes:
        check: `alert`, `expression`, `tcp`, `tcp:PORT` or a check of the host (`disk:/var>90`); ''
            if the change is not verified.
        wait: Seconds after the end of the change until it counts as not verified.
        pause: Seconds between two polls.
        polls: The maximum number of repeated polls.
        action: The action that checks the host before each poll; '' if `check` needs none.
        parameters: The parameters of `action`.
    """

    check: str = ""
    wait: int = 0
    pause: int = 0
    polls: int = 0
    action: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, entry: Remediation, inspection: Inspection | None = None) -> Verification:
        """Return how the change of an entry is verified.

        Args:
            entry: The entry.
            inspection: The inspection of the host that verifies it, or None if `verify` is not a
                check of the host.
        """
        if entry.verify in ("", NO_VERIFICATION):
            return cls()
        wait = _default_wait(entry) if entry.wait is None else entry.wait
        pause = max(_MIN_PAUSE, min(_MAX_PAUSE, wait // _DESIRED_POLLS))
        polls = wait // pause + 2
        if inspection is None:
            return cls(entry.verify, wait, pause, polls)
        # A parsed check contains nothing that StackStorm would evaluate.
        check, parameters = FixedText(inspection.check), inspection.parameters
        return cls(check, wait, pause, polls, inspection.action, parameters)

    def as_dict(self) -> dict[str, Any]:
        """Return the verification as JSON."""
        # If a check of the host precedes each poll, the pause is before that check instead.
        return {**asdict(self), "delay": 0 if self.action else self.pause}


def _default_wait(entry: Remediation) -> int:
    if is_power_action(entry.action):
        return _POWER_WAIT
    if entry.target:
        return _TARGET_WAIT
    return _DISK_WAIT if "disk" in entry.action else _DEFAULT_WAIT
