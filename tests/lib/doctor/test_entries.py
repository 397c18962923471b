"""Remediations that cannot work are found."""

from __future__ import annotations

import pytest

from poundcake.config import load
from poundcake.doctor.entries import check_approvers, check_entries
from poundcake.doctor.finding import Status

ENTRY = {
    "name": "nginx",
    "mode": "live",
    "action": "linux.service",
    "match": [],
    "problems": [],
    "stopped_by": [],
}


def check(errors=(), warnings=(), **changes):
    entries = [{**ENTRY, **changes}]
    return check_entries(
        {"remediations": entries, "errors": list(errors), "warnings": list(warnings)}
    )


def test_a_usable_entry_is_ok():
    (finding,) = check()
    assert (finding.status, finding.what) == (Status.OK, "1 remediation can be used")


def test_no_entry_is_ok():
    (finding,) = check_entries({"remediations": [], "errors": [], "warnings": []})
    assert finding.status is Status.OK


@pytest.mark.parametrize(
    "problems, status, what",
    [
        ({"errors": ["no rule starts entries"]}, "problem", "no rule starts entries"),
        ({"problems": ["there is no action linux.service"]}, "problem", "no action linux.service"),
        ({"warnings": ["allowed_actions contains x.y: correct it"]}, "warning", "contains x.y"),
        ({"stopped_by": ["dry_run is on"]}, "warning", "changes nothing: dry_run is on"),
    ],
)
def test_each_problem_is_found(problems, status, what):
    (finding,) = check(**problems)
    assert finding.status == status
    assert what in finding.what and finding.remedy


def ask(*approvers):
    entry = {"name": "x", "match": ["alertname=X"], "mode": "ask", "action": "linux.service"}
    config = load({"remediations": [{**entry, "approvers": list(approvers)}]})
    assert not config.remediation_errors
    return check_approvers(config, "stanley")


def test_approvers_cannot_be_checked_except_for_the_current_user():
    (finding,) = ask("anna", "stanley")
    assert finding.status is Status.UNKNOWN
    assert finding.what.endswith(": anna") and "st2 login anna" in finding.remedy
    (finding,) = ask("stanley")
    assert finding.status is Status.OK
    assert check_approvers(load({}), "stanley") == []
