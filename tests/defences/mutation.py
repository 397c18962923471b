"""Change the source of one named function, class attribute or constant.

A change refers to its target by name ("poundcake.hosts:canonical_host"), never by line number or
formatting. It replaces text in the source file, so that it takes effect however the file is loaded.
If a name or an expression does not occur exactly once, the change raises MutationError.
"""

from __future__ import annotations

import ast
import pathlib
import re
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SOURCES = ("lib", "actions", "sensors")
WILDCARD = re.compile(r"_[0-9]?\Z")


class MutationError(Exception):
    """A change does not fit the current source of its target."""


@dataclass(frozen=True)
class Mutation:
    """A change to `target`, which has the form "package.module:Class.method".

    Without a colon, the target is the whole module. Use that for statements outside definitions.
    """

    target: str

    def file(self, root: pathlib.Path = ROOT) -> pathlib.Path:
        """Return the path of the module, relative to the root."""
        module = self.target.partition(":")[0].replace(".", "/")
        for source in SOURCES:
            for name in (f"{source}/{module}.py", f"{source}/{module}/__init__.py"):
                if (root / name).is_file():
                    return pathlib.Path(name)
        raise MutationError(f"{self.target}: no such module; if it was renamed, use its new name")

    def apply(self, source: str) -> str:
        """Return the source of the module with the change applied."""
        symbol = find_definition(ast.parse(source), self.target)
        mutant = self.change(Text(source), symbol)
        ast.parse(mutant)
        if mutant == source:
            raise MutationError(f"{self.target}: the change has no effect")
        return mutant

    def change(self, text: Text, symbol: ast.AST) -> str:
        """Return the changed source, given the statement that defines the target."""
        raise NotImplementedError


@dataclass(frozen=True)
class Returns(Mutation):
    """Make a function only return the value of an expression."""

    expression: str

    def change(self, text, symbol):
        if not isinstance(symbol, ast.FunctionDef):
            raise MutationError(f"{self.target}: not a function")
        return text.replace(symbol.body[0], symbol.body[-1], f"return {self.expression}")


@dataclass(frozen=True)
class Becomes(Mutation):
    """Give the constant or attribute another value. `_` stands for the current value."""

    expression: str

    def change(self, text, symbol):
        value = getattr(symbol, "value", None)
        if not isinstance(value, ast.expr):
            raise MutationError(f"{self.target}: not an assignment")
        new = fill(self.expression, {"_": text.source_of(value)})
        return text.replace(value, value, f"({new})")


@dataclass(frozen=True)
class Edit(Mutation):
    """Replace the only place in the function that matches `old` with `new`.

    `old` is an expression, an assignment (which also matches a keyword argument) or `{key: value}`
    (which matches an item of a dictionary). The names `_` and `_1` to `_9` in it match anything;
    `new` may use those with a number.
    """

    old: str
    new: str

    def change(self, text, symbol):
        pattern = ast.parse(self.old).body[0]
        if isinstance(pattern, ast.Expr):
            pattern = pattern.value
        replacements = [
            replacement
            for node in ast.walk(symbol)
            for replacement in self.find_replacements(node, pattern, text)
        ]
        if len(replacements) != 1:
            raise MutationError(
                f"{self.target}: {self.old!r} occurs {len(replacements)} times; "
                "rewrite the expression so that it matches exactly one place"
            )
        return text.replace(*replacements[0])

    def find_replacements(self, node, pattern, text):
        """Yield (first node, last node, replacement) where a node matches the pattern."""
        captured = {}
        if isinstance(node, ast.keyword) and isinstance(pattern, ast.Assign):
            name = pattern.targets[0]
            has_same_name = isinstance(name, ast.Name) and name.id == node.arg
            if has_same_name and matches(pattern.value, node.value, captured, text):
                value = ast.get_source_segment(self.new, ast.parse(self.new).body[0].value)
                yield node.value, node.value, f"({fill(value, captured)})"
        elif isinstance(node, ast.Dict) and isinstance(pattern, ast.Dict):
            new = ast.parse(self.new, mode="eval").body
            value = ast.get_source_segment(self.new, new.values[0])
            for key, old in zip(node.keys, node.values):
                if matches(pattern.keys[0], key, captured, text) and matches(
                    pattern.values[0], old, captured, text
                ):
                    yield old, old, f"({fill(value, captured)})"
        elif matches(pattern, node, captured, text):
            new = fill(self.new, captured)
            yield node, node, f"({new})" if isinstance(node, ast.expr) else new


def find_definition(tree: ast.Module, target: str) -> ast.AST:
    """Return the statement that defines a symbol of a module, or the module."""
    scope: ast.AST = tree
    for name in filter(None, target.partition(":")[2].split(".")):
        nodes = [node for node in getattr(scope, "body", []) if name in names_defined_by(node)]
        if len(nodes) != 1:
            raise MutationError(
                f"{target}: {name} is defined {len(nodes)} times; if it was renamed or moved, "
                "use its current name and module"
            )
        scope = nodes[0]
    return scope


def names_defined_by(node: ast.AST) -> set[str]:
    """Return the names that a statement defines."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def matches(pattern, node, captured, text) -> bool:
    """Return True if a node matches a pattern. Store what wildcards match in `captured`."""
    if isinstance(pattern, ast.Name) and WILDCARD.match(pattern.id):
        if not isinstance(node, ast.expr):
            return False
        captured[pattern.id] = text.source_of(node)
        return True
    if type(pattern) is not type(node):
        return False
    if isinstance(pattern, list):
        return len(pattern) == len(node) and all(
            matches(p, n, captured, text) for p, n in zip(pattern, node)
        )
    if isinstance(pattern, ast.AST):
        return all(
            matches(getattr(pattern, field, None), getattr(node, field, None), captured, text)
            for field in pattern._fields
            if field not in ("ctx", "kind", "type_comment")
        )
    return pattern == node


def fill(template: str, captured: dict[str, str]) -> str:
    """Return a template with the wildcards replaced by the captured source."""
    return re.sub(r"\b_[0-9]?\b", lambda match: captured.get(match[0], match[0]), template)


class Text:
    """The text of a source file whose nodes can be replaced."""

    def __init__(self, source: str):
        self._lines = source.encode().splitlines(keepends=True)

    def source_of(self, node: ast.expr) -> str:
        """Return the source of a node."""
        start, end = self._start(node), self._end(node)
        return b"".join(self._lines)[start:end].decode()

    def replace(self, first: ast.AST, last: ast.AST, new: str) -> str:
        """Return the source with new text from the start of one node to the end of another."""
        source = b"".join(self._lines)
        start, end = self._start(first), self._end(last)
        return (source[:start] + new.encode() + source[end:]).decode()

    def _start(self, node) -> int:
        return sum(map(len, self._lines[: node.lineno - 1])) + node.col_offset

    def _end(self, node) -> int:
        return sum(map(len, self._lines[: node.end_lineno - 1])) + node.end_col_offset
