"""Each listed defence fits the tree: its change can be applied, and its test exists."""

from __future__ import annotations

import ast
import functools
import sys

import pytest

from tests.defences import __main__ as mutate
from tests.defences.defence import Defence
from tests.defences.mutation import ROOT, Becomes, Edit, MutationError, Returns, find_definition

DEFENCES = [d for kind in sorted(mutate.KINDS) for d in mutate.KINDS[kind]]


@pytest.mark.parametrize("defence", DEFENCES, ids=lambda d: d.name)
def test_the_change_can_be_applied(defence):
    source = (ROOT / defence.mutation.file()).read_text()
    assert defence.mutation.apply(source) != source


@pytest.mark.parametrize("defence", DEFENCES, ids=lambda d: d.name)
def test_the_test_of_a_defence_exists(defence):
    for node in defence.nodes:
        path, *names = node.split("::")
        find_definition(parse_file(path), f"{path}:{'.'.join(names)}")


@functools.lru_cache(maxsize=None)
def parse_file(path):
    return ast.parse((ROOT / path).read_text())


def test_names_are_unique():
    names = [d.name for d in DEFENCES]
    assert len(set(names)) == len(names)


SOURCE = """\
LIMIT = 10
DELIMITERS = {"open": "Ä {", "close": "}"}


class Wall:
    height: int = 3

    def is_stable(self, name, *, strict=True):
        \"\"\"Return True if it is stable.\"\"\"
        é = self.height; over = é > LIMIT
        if é > 2 and name in ("north", "south"):
            self.supports(name, strict=True)
            over = False
        return over
"""


def changed_lines(mutation):
    """Return the lines that differ after a change."""
    before, after = SOURCE.splitlines(), mutation.apply(SOURCE).splitlines()
    return [line.strip() for line in after if line not in before]


@pytest.mark.parametrize(
    "mutation, lines",
    [
        (Returns("m:Wall.is_stable", "True"), ["return True"]),
        (Becomes("m:LIMIT", "_ * 2"), ["LIMIT = (10 * 2)"]),
        (Becomes("m:LIMIT", "(10)"), ["LIMIT = ((10))"]),
        (Becomes("m:Wall.height", "0"), ["height: int = (0)"]),
        (
            Edit("m:Wall.is_stable", "_ > LIMIT", "False"),
            ["é = self.height; over = (False)"],
        ),
        (
            Edit("m:Wall.is_stable", "_1 > 2 and _2", "_2 or _1"),
            ['if (name in ("north", "south") or é):'],
        ),
        (
            Edit("m:Wall.is_stable", "strict=_", "strict=False"),
            ["self.supports(name, strict=(False))"],
        ),
        (Edit("m:Wall.is_stable", "over = False", "pass"), ["pass"]),
        (
            Edit("m:DELIMITERS", "{'open': _1}", "{'open': _1 * 2}"),
            ['DELIMITERS = {"open": ("Ä {" * 2), "close": "}"}'],
        ),
        (Edit("m", "LIMIT = _1", "LIMIT = -_1"), ["LIMIT = -10"]),
    ],
)
def test_a_change_replaces_only_its_target(mutation, lines):
    assert changed_lines(mutation) == lines


@pytest.mark.parametrize(
    "mutation, expected_error",
    [
        (Returns("m:Wall.is_broken", "True"), "is_broken is defined 0 times"),
        (Returns("m:Fence.is_stable", "True"), "Fence is defined 0 times"),
        (Returns("m:LIMIT", "True"), "not a function"),
        (Becomes("m:Wall", "True"), "not an assignment"),
        (Edit("m:Wall.is_stable", "_ < 2", "True"), "occurs 0 times"),
        (Edit("m:Wall.is_stable", "_1 > _2", "True"), "occurs 2 times"),
    ],
)
def test_a_change_that_cannot_be_applied_is_an_error(mutation, expected_error):
    with pytest.raises(MutationError, match=expected_error):
        mutation.apply(SOURCE)


def test_a_missing_module_is_an_error():
    with pytest.raises(MutationError, match="no such module"):
        Returns("poundcake.missing:function", "None").file()


REMOVE_WALL = Becomes("wall:HIGH", "False")


@pytest.fixture
def check_defence(tmp_path, monkeypatch):
    """Return a function that checks one defence of a small tree and returns the exit code."""
    wall = tmp_path / "tree" / "lib" / "wall.py"
    wall.parent.mkdir(parents=True)
    wall.write_text("HIGH = True\n")
    check = "import sys; sys.path.append('lib'); import wall; sys.exit(not wall.HIGH)\n"
    (tmp_path / "tree" / "check.py").write_text(check)
    monkeypatch.setattr(mutate, "ROOT", tmp_path / "tree")

    def run(mutation=REMOVE_WALL, test=("check.py",)):
        defence = Defence("the wall is high", mutation, test)
        monkeypatch.setattr(mutate, "KINDS", {"delivery": [defence]})
        monkeypatch.setattr(sys, "argv", ["mutate", "--log", str(tmp_path / "logs")])
        code = mutate.main()
        assert wall.read_text() == "HIGH = True\n"
        return code

    return run


@pytest.mark.parametrize(
    "arguments, code, expected_output",
    [
        ({}, 0, "caught          the wall is high"),
        ({"mutation": Becomes("wall:HIGH", "1")}, 1, "NOT CAUGHT      the wall is high"),
        ({"mutation": Becomes("wall:LOW", "1")}, 1, "NOT REMOVED     the wall is high: wall:LOW"),
        ({"test": ("no_such.py",)}, 1, "FAILS UNCHANGED"),
        (
            {
                "test": (
                    "-c",
                    "import sys; sys.exit('True' not in open('lib/wall.py').read() and 2)",
                )
            },
            1,
            "ENDED WITH 2",
        ),
    ],
)
def test_the_verdict_on_a_defence(check_defence, capsys, arguments, code, expected_output):
    assert check_defence(**arguments) == code
    assert expected_output in capsys.readouterr().out
