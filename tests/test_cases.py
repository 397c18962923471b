"""docs/CASES.md refers to existing tests, and the scenarios refer to existing cases."""

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


def read_tests(path):
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
    _situation, _requirement, tests_line = CASES[case].strip().splitlines()
    assert tests_line.startswith("Tested by ")
    references = re.findall(r"`([^`]+)`", tests_line)
    assert references
    for reference in references:
        file, _, function = reference.partition("::")
        path = ROOT / file if "/" in file else SCENARIOS / file
        assert path.exists(), reference
        if function:
            docstring = read_tests(path)[function]
            assert case in CASE_NAME.findall(docstring), f"{reference} does not name {case}"


def test_a_scenario_names_only_cases_that_exist():
    for path in SCENARIOS.glob("test_*.py"):
        for function, docstring in read_tests(path).items():
            assert set(CASE_NAME.findall(docstring)) <= set(CASES), f"{path.name}::{function}"
