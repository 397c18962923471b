"""What a defence is, and how the commands that hold it are written."""

import pathlib
from dataclasses import dataclass
from typing import List

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


@dataclass
class Defence:
    """file: below the root. old: the text that is there exactly once; new: what breaks it.
    test: what holds it, words for Python, which must end with 0 as it is and with 1 when broken.
    """

    name: str
    file: str
    old: str
    new: str
    test: List[str]

    @property
    def nodes(self) -> List[str]:
        """The tests' names for pytest; none where it is another program that holds it."""
        return [word for word in self.test if word.startswith("tests/")]


def faults(only, times, database):
    """Rows of the fault suite."""
    options = ["--only", only, "--times", str(times), "--heal", "75", "--database", database]
    return ["-m", "tests.faults", *options]


def test(node, only=""):
    """A test, or those of its variants that have a word in their name."""
    return ["-m", "pytest", "-q", "-x", node, *(["-k", only] if only else [])]


test.__test__ = False  # pytest would take it for one
