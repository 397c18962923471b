"""The text says first what is wrong, and how to put it right."""

from __future__ import annotations

from poundcake.doctor import Finding, Status, as_json, as_text, worst_status
from poundcake.trail.text.layout import display_width

FINDINGS = [
    Finding("a", Status.OK, "the endpoint answers"),
    Finding("b", Status.UNKNOWN, "the settings are unknown", "compare them"),
    Finding("c", Status.PROBLEM, "the rule is disabled", "run: st2 rule enable poundcake.sync"),
    Finding("d", Status.WARNING, "no webhook " * 12, "point Alertmanager at the endpoint"),
]


def test_each_finding_is_a_line_and_the_most_urgent_come_first():
    lines = as_text(FINDINGS).strip().split("\n")
    assert lines[0] == "1 problem, 1 warning, 1 unknown, 1 ok"
    statuses = [line.split()[0] for line in lines[2:] if line and not line.startswith(" ")]
    assert statuses == ["problem", "warning", "unknown", "ok", "next:"]
    assert "problem  the rule is disabled - run: st2 rule enable poundcake.sync" in lines
    assert lines[-1] == "next: st2 run poundcake.doctor format=text"


def test_without_a_problem_the_next_step_is_neither_doctor_nor_plan():
    findings = [finding for finding in FINDINGS if finding.status is not Status.PROBLEM]
    assert as_text(findings).endswith("next: st2 run poundcake.health format=text")


def test_long_lines_are_wrapped_behind_the_status():
    for width in (40, 80):
        *lines, command = as_text(FINDINGS, width).split("\n")
        assert command.startswith("next: ")
        assert all(display_width(line) <= width for line in lines)
        assert any(line.startswith(" " * 9) and "webhook" in line for line in lines)


def test_text_of_a_server_cannot_forge_a_line():
    hostile = Finding("x", Status.PROBLEM, "bad\nok       all is well", "none")
    assert "\nok " not in as_text([hostile]).split("next:")[0]


def test_json_keeps_the_order_of_the_checks():
    document = as_json(FINDINGS)
    assert document["status"] == "problem"
    assert document["counts"] == {"problem": 1, "warning": 1, "unknown": 1, "ok": 1}
    assert [check["check"] for check in document["checks"]] == ["a", "b", "c", "d"]
    assert set(document["checks"][0]) == {"check", "status", "what", "remedy"}


def test_the_worst_status_counts():
    assert worst_status(FINDINGS[:2]) is Status.UNKNOWN
    assert worst_status(FINDINGS[:1]) is Status.OK
    assert worst_status([]) is Status.OK
