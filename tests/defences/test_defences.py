"""The list of defences fits the tree: each text is there once, each test is one."""

import subprocess
import sys

import pytest

from tests.defences import __main__ as mutate
from tests.defences.defence import ROOT, Defence

DEFENCES = [d for kind in sorted(mutate.KINDS) for d in mutate.KINDS[kind]]


@pytest.mark.parametrize("defence", DEFENCES, ids=lambda d: d.name)
def test_its_text_is_there_once(defence):
    text = (ROOT / defence.file).read_text()
    assert text.count(defence.old) == 1
    assert defence.new != defence.old


def test_no_name_is_given_twice():
    names = [d.name for d in DEFENCES]
    assert len(set(names)) == len(names)


def test_their_tests_are_there():
    nodes = sorted({node for d in DEFENCES for node in d.nodes})
    assert len(nodes) > 30
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *nodes]
    found = subprocess.run(
        command, cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert found.returncode == 0, found.stdout[-2000:]


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A small tree in the place of this one, and what is printed of its defences."""
    (tmp_path / "wall.py").write_text("HIGH = True\n")
    (tmp_path / "check.py").write_text("import sys, wall\nsys.exit(not wall.HIGH)\n")
    monkeypatch.setattr(mutate, "ROOT", tmp_path)

    def run(**changes):
        given = dict(name="it is high", file="wall.py", old="True", new="False", test=["check.py"])
        defence = Defence(**{**given, **changes})
        monkeypatch.setattr(mutate, "KINDS", {"delivery": [defence]})
        monkeypatch.setattr(sys, "argv", ["mutate", "--log", str(tmp_path / "logs")])
        code = mutate.main()
        assert (tmp_path / "wall.py").read_text() == "HIGH = True\n"
        return code

    return run


@pytest.mark.parametrize(
    "changes, code, said",
    [
        ({}, 0, "caught          it is high"),
        ({"new": "1"}, 1, "NOT CAUGHT      it is high"),
        ({"old": "LOW"}, 1, "ENDED WITH its text 0 times"),
        ({"test": ["no_such.py"]}, 1, "FAILS UNBROKEN"),
        ({"test": ["-c", "import sys, wall; sys.exit(0 if wall.HIGH else 2)"]}, 1, "ENDED WITH 2"),
    ],
)
def test_what_is_said_of_one(tree, capsys, changes, code, said):
    assert tree(**changes) == code
    assert said in capsys.readouterr().out
