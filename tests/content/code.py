"""Read the definitions in a pack's Python files without executing them."""

from __future__ import annotations

import ast


def parse(path):
    """Return the syntax tree of a file."""
    with open(path, encoding="utf-8") as file:
        return ast.parse(file.read(), path)


def find_classes(path):
    """Return {class: {method name: its syntax node}} for a file."""
    return {
        node.name: {part.name: part for part in node.body if isinstance(part, ast.FunctionDef)}
        for node in parse(path).body
        if isinstance(node, ast.ClassDef)
    }


def find_entry_points(path, folders):
    """Return the methods of each class that StackStorm would use as the action.

    StackStorm uses a class with a `run` method. If a class inherits `run` from a base class in one
    of the folders, that method passes the parameters to the class's own `work`.
    """
    return [
        methods
        for name, methods in find_classes(path).items()
        if "run" in methods or inherits_run(path, name, folders)
    ]


def inherits_run(path, name, folders):
    """Return True if a class inherits `run` from a base class that its file imports."""
    tree = parse(path)
    imported = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    bases = [
        imported.get(getattr(base, "id", None))
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == name
        for base in node.bases
    ]
    for module, original in filter(None, bases):
        for folder in folders:
            source = folder.joinpath(*module.split(".")).with_suffix(".py")
            if source.is_file() and "run" in find_classes(source).get(original, {}):
                return True
    return False


def check_signature(methods, parameters):
    """Yield the differences between a class's entry method and an action's parameters."""
    entry_method = methods.get("run") or methods.get("work")
    if entry_method is None:
        yield "its class has neither run nor work"
        return
    arguments = entry_method.args
    positional = [argument.arg for argument in arguments.args[1:]]
    names = {*positional, *(argument.arg for argument in arguments.kwonlyargs)}
    if not arguments.kwarg:
        for name in sorted(parameters - names):
            yield f"its code does not take the parameter {name}"
    required = positional[: len(positional) - len(arguments.defaults)]
    for name in sorted(set(required) - parameters):
        yield f"its code needs {name}, which is not a parameter"
