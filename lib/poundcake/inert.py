"""Make text from outside safe to hand to StackStorm, which evaluates text inside of values.

StackStorm renders Jinja and YAQL that it finds in a trigger's payload, in a parameter and in an
action's result. Parameters that are lists or objects it also encodes as JSON, renders as one text
and decodes again. So every text that came from a sender or from a host is made inert first:

* No delimiter of Jinja or YAQL can stand in it, whatever it is joined with.
* It cannot end a string of JSON or of a Python literal, nor begin an escape sequence in it.
* It cannot begin a line, move the cursor or change the direction of what follows.

Characters are replaced one for one, so that a text keeps its length and can still be read and
matched: the path ``/orders/{orderId}`` becomes ``/orders/(orderId)``.
"""

from __future__ import annotations

import re
from typing import Any, Mapping

_LOOKALIKES = str.maketrans(
    {
        "{": "(",
        "}": ")",
        "<": "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}",
        ">": "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}",
        '"': "\N{RIGHT DOUBLE QUOTATION MARK}",
        "'": "\N{RIGHT SINGLE QUOTATION MARK}",
        "\\": "/",
    }
)

# StackStorm takes %*****__%NONE%__*****% for a null. The asterisks are replaced, and not the word,
# because that leaves no text that becomes the mark once a rule joins two or three of them.
_ASTERISK_BEFORE_ANOTHER = re.compile(r"\*(?=\*)")
_OTHER_ASTERISK = "\N{ASTERISK OPERATOR}"


def make_inert(value: Any) -> Any:
    """Return a JSON value in which every string, key or value, is inert.

    Of two keys of one object that become the same, the second gets an underscore at its end; a key
    that was inert before always keeps its name.
    """
    if isinstance(value, str):
        return _inert_text(value)
    if isinstance(value, dict):
        names = _inert_keys(value)
        return {names[key]: make_inert(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [make_inert(inner) for inner in value]
    return value


def make_lines_inert(text: str) -> str:
    r"""Return a text of several lines, such as a table, with each line inert.

    The line breaks must be the caller's own: text from outside goes through `one_line` before it is
    laid out.
    """
    return "\n".join(_inert_text(line) for line in text.split("\n"))


def printable(text: str) -> str:
    """Return the text with a space for every character that is not printable.

    Those are line breaks of any kind, control characters such as those of an ANSI sequence, marks
    that change the direction of writing, invisible characters and lone surrogates.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else " " for character in text)


def one_line(text: str) -> str:
    r"""Return the text as one line of a text view, in which it can forge neither line nor column.

    `st2 run` prints a backslash and an n as a line break, so backslashes become slashes.
    """
    return " ".join(printable(text.replace("\\", "/")).split())


def _inert_text(text: str) -> str:
    text = printable(text).translate(_LOOKALIKES)
    return _ASTERISK_BEFORE_ANOTHER.sub(_OTHER_ASTERISK, text)


def _inert_keys(value: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the inert name of each key."""
    names = {key: make_inert(key) for key in value}
    taken = {key for key, name in names.items() if key == name}
    for key in value:
        if key in taken:
            continue
        while names[key] in taken:
            names[key] += "_"
        taken.add(names[key])
    return names
