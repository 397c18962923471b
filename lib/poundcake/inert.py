"""Make text from outside safe to hand to StackStorm, which evaluates text inside of values.

StackStorm renders Jinja and YAQL that it finds in a trigger's payload, in a parameter and in an
action's result. So every text that came from a sender or from a host is made inert first.
"""

from __future__ import annotations

from typing import Any


def make_inert(value: Any) -> Any:
    """Return the JSON value with no string left in it, key or value, that could be an expression.

    A space after each ``{`` and ``<`` breaks every opening delimiter of Jinja and YAQL, also when
    a template joins two such strings. Lone surrogates become question marks, because StackStorm
    cannot store them.
    """
    if isinstance(value, str):
        value = value.encode("utf-8", "replace").decode()
        return value.replace("{", "{ ").replace("<", "< ")
    if isinstance(value, dict):
        return {make_inert(k): make_inert(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [make_inert(v) for v in value]
    return value
