"""Text that StackStorm cannot evaluate."""

from typing import Any


def make_inert(value: Any) -> Any:
    """The value with every string in it, keys included, made unable to be an expression.

    StackStorm evaluates Jinja and YAQL that it finds inside of values, not only in templates. A
    space after every ``{`` and ``<`` breaks each opening delimiter of both, also when two such
    strings are joined. Lone surrogates become question marks: StackStorm cannot store them.
    """
    if isinstance(value, str):
        value = value.encode("utf-8", "replace").decode()
        return value.replace("{", "{ ").replace("<", "< ")
    if isinstance(value, dict):
        return {make_inert(k): make_inert(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [make_inert(v) for v in value]
    return value
