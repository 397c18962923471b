"""The result of one check."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Sequence

from poundcake.string_enum import StringEnum


class Status(StringEnum):
    """Whether something is as an installation needs it. The members are ordered by urgency."""

    PROBLEM = "problem"
    """Something does not work, or will not work when it is needed."""
    WARNING = "warning"
    """Everything works, but something is probably not meant like this."""
    UNKNOWN = "unknown"
    """It cannot be checked from here."""
    OK = "ok"


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: What was checked, as a short name for programs (`files.state_dir`).
        status: Whether it is as it should be.
        what: What was found, in one sentence. Results of actions are made inert, so it contains
            no apostrophes, quotes or brackets of its own.
        remedy: How to put it right, or ''.
    """

    check: str
    status: Status
    what: str
    remedy: str = ""

    def as_json(self) -> dict[str, str]:
        """Return the finding as JSON."""
        return {
            "check": self.check,
            "status": self.status.value,
            "what": self.what,
            "remedy": self.remedy,
        }


def ok(check: str, what: str) -> Finding:
    """Return a finding that something is as it should be."""
    return Finding(check, Status.OK, what)


def warning(check: str, what: str, remedy: str) -> Finding:
    """Return a finding that something is probably a mistake."""
    return Finding(check, Status.WARNING, what, remedy)


def problem(check: str, what: str, remedy: str) -> Finding:
    """Return a finding that something does not work."""
    return Finding(check, Status.PROBLEM, what, remedy)


def unknown(check: str, what: str, remedy: str) -> Finding:
    """Return a finding that something cannot be checked from here."""
    return Finding(check, Status.UNKNOWN, what, remedy)


def worst_status(findings: Sequence[Finding]) -> Status:
    """Return the most urgent status among the findings."""
    statuses = {finding.status for finding in findings}
    return next((status for status in Status if status in statuses), Status.OK)


def count_statuses(findings: Sequence[Finding]) -> dict[Status, int]:
    """Return the number of findings with each status, the most urgent status first."""
    counts = Counter(finding.status for finding in findings)
    return {status: counts[status] for status in Status}


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the findings as JSON, in the order of the checks."""
    return {
        "status": worst_status(findings).value,
        "counts": {status.value: count for status, count in count_statuses(findings).items()},
        "checks": [finding.as_json() for finding in findings],
    }
