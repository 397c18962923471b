"""Define what a defence is, and build the commands that run its test."""

from __future__ import annotations

from dataclasses import dataclass

from tests.defences.mutation import Mutation


@dataclass(frozen=True)
class Defence:
    """A property of the product, the change that removes it, and the test that then fails.

    Attributes:
        name: The promise of the product.
        mutation: The change that breaks the promise.
        test: The arguments of a Python command that exits with 0 on the unchanged tree, and with 1
            after the mutation.
    """

    name: str
    mutation: Mutation
    test: tuple[str, ...]

    @property
    def nodes(self) -> list[str]:
        """Return the pytest ids of the tests, or [] if another program guards the defence."""
        return [word for word in self.test if word.startswith("tests/")]


def faults(only: str, times: int, database: str) -> tuple[str, ...]:
    """Return the command that injects the faults whose name contains `only`."""
    options = ["--only", only, "--times", str(times), "--recovery", "75", "--database", database]
    return ("-m", "tests.faults", *options)


def test(node: str, only: str = "") -> tuple[str, ...]:
    """Return the command that runs a test, or only its variants that match `only`."""
    return ("-m", "pytest", "-q", "-x", node, *(["-k", only] if only else []))


test.__test__ = False  # pytest would collect it as a test
