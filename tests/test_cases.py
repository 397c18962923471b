"""docs/CASES.md and the scenarios name each other, and only existing cases and tests."""

from __future__ import annotations

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SCENARIOS = ROOT / "tests" / "scenarios"
TEXT = (ROOT / "docs" / "CASES.md").read_text(encoding="utf-8")
CASES = dict(re.findall(r"^### (A\d+): .*\n((?:(?!#).+\n?)+)", TEXT, re.MULTILINE))
CASE_NAME = re.compile(r"\bA\d+\b")


def functions_of(path):
    """Return the test functions of a file, with their docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name: ast.get_docstring(node) or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_the_cases_are_numbered_without_gaps():
    assert set(CASES) == {f"A{number}" for number in range(1, len(CASES) + 1)}


@pytest.mark.parametrize("case", sorted(CASES, key=lambda name: int(name[1:])))
def test_a_case_names_tests_that_exist(case):
    _happens, _must_hold, tested = CASES[case].strip().splitlines()
    assert tested.startswith("Tested by ")
    places = re.findall(r"`([^`]+)`", tested)
    assert places
    for place in places:
        file, _, function = place.partition("::")
        path = ROOT / file if "/" in file else SCENARIOS / file
        assert path.exists(), place
        if function:
            docstring = functions_of(path)[function]
            assert case in CASE_NAME.findall(docstring), f"{place} does not name {case}"


def test_a_scenario_names_only_cases_that_exist():
    for path in SCENARIOS.glob("test_*.py"):
        for function, docstring in functions_of(path).items():
            assert set(CASE_NAME.findall(docstring)) <= set(CASES), f"{path.name}::{function}"
