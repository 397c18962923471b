"""Format the findings as text for a terminal."""

from __future__ import annotations

from typing import Sequence

from poundcake.doctor.finding import Finding, Status, count_statuses
from poundcake.trail import commands
from poundcake.trail.text.layout import (
    DEFAULT_WIDTH,
    MAX_WIDTH,
    counted,
    join_lines,
    next_lines,
    sanitize,
    wrap,
)

_STATUS_COLUMNS = 9


def as_text(findings: Sequence[Finding], width: int = DEFAULT_WIDTH) -> str:
    """Return a line for each finding, the most urgent ones first.

    Args:
        findings: The findings, in the order of the checks.
        width: The number of columns of the terminal.
    """
    order = list(Status)
    lines = [_describe_counts(findings), ""]
    for finding in sorted(findings, key=lambda finding: order.index(finding.status)):
        text = sanitize(" - ".join(filter(None, [finding.what, finding.remedy])))
        status = finding.status.value.ljust(_STATUS_COLUMNS)
        lines += wrap(status + text, width, " " * _STATUS_COLUMNS)
    has_remedies = any(finding.status is Status.PROBLEM for finding in findings)
    lines += ["", *next_lines(commands.DOCTOR if has_remedies else commands.HEALTH)]
    return join_lines(lines, MAX_WIDTH)  # they are already wrapped


def _describe_counts(findings: Sequence[Finding]) -> str:
    counts = count_statuses(findings)
    parts = [
        counted(counts[Status.PROBLEM], "problem"),
        counted(counts[Status.WARNING], "warning"),
        f"{counts[Status.UNKNOWN]} unknown",
        f"{counts[Status.OK]} ok",
    ]
    return ", ".join(parts)
