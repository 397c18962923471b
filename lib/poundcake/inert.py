"""Make external text safe to pass to StackStorm, which evaluates expressions inside values.

StackStorm renders any Jinja or YAQL that it finds in a trigger's payload, a parameter or an
action's result. It also encodes parameters that are lists or objects as JSON, renders the JSON as
one string, and decodes it again. So all text from a sender or a host is made inert first. Inert
text has three properties:

* It contains no Jinja or YAQL delimiter, and cannot form one when joined with other inert text.
* It cannot end a JSON string or a Python string literal, or begin an escape sequence in one.
* It cannot start a new line, move the cursor or change the direction of the text after it.

Each character is replaced by exactly one other, so that text keeps its length and can still be
read and matched: the path ``/orders/{orderId}`` becomes ``/orders/(orderId)``.
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

# Characters that look like a space or are invisible, although str.isprintable() accepts them:
# Hangul fillers, the blank Braille pattern, and marks that Unicode calls default ignorable.
# Variation selectors are not included: many emojis contain them, and they only change the character
# before them.
_BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\uffa0]")

# StackStorm reads %*****__%NONE%__*****% as null. Replacing the asterisks, not the word, ensures
# that a rule that joins several inert strings cannot form this marker.
_ASTERISK_BEFORE_ANOTHER = re.compile(r"\*(?=\*)")
_ASTERISK_LOOKALIKE = "\N{ASTERISK OPERATOR}"

# Invisible. The text views put it around right-to-left text, so that only that text is reordered.
LEFT_TO_RIGHT_MARK = "\N{LEFT-TO-RIGHT MARK}"

# The delimiters of Jinja and YAQL, and StackStorm's marker for null.
_EVALUATED = re.compile(r"\{\{|\}\}|\{%|%\}|\{#|#\}|<%|%>|%NONE%")


class FixedText(str):
    """Text from the configuration or a rule, which make_inert() does not change.

    Unlike text from a sender, it may contain quotes and backslashes, as commands do. It contains no
    Jinja or YAQL delimiter: see `is_evaluated`.
    """


def is_evaluated(text: str) -> bool:
    """Return True if StackStorm would evaluate part of the text."""
    return bool(_EVALUATED.search(text))


def mark_as_fixed(value: Any) -> Any:
    """Return a JSON value whose strings are FixedText, except those that StackStorm evaluates."""
    if isinstance(value, str):
        return value if is_evaluated(value) else FixedText(value)
    if isinstance(value, dict):
        return {mark_as_fixed(key): mark_as_fixed(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [mark_as_fixed(inner) for inner in value]
    return value


def make_inert(value: Any) -> Any:
    """Return a JSON value in which every string is inert, keys included.

    If two keys of an object become equal, the second one gets a trailing underscore. A key that was
    already inert keeps its name.
    """
    if isinstance(value, FixedText):
        return str(value)
    if isinstance(value, str):
        return _inert_text(value)
    if isinstance(value, dict):
        names = _inert_keys(value)
        return {names[key]: make_inert(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [make_inert(inner) for inner in value]
    return value


def make_lines_inert(text: str) -> str:
    """Return multi-line text, such as a table, with every line made inert.

    The line breaks and the left-to-right marks are kept, so pass external text through `one_line`
    before inserting it. FixedText is returned unchanged.
    """
    if isinstance(text, FixedText):
        return str(text)
    kept = f"(\n|{LEFT_TO_RIGHT_MARK})"
    return "".join(
        part if part in ("\n", LEFT_TO_RIGHT_MARK) else _inert_text(part)
        for part in re.split(kept, text)
    )


def printable(text: str) -> str:
    """Return the text with every unprintable character replaced by a space.

    Unprintable characters are line breaks of any kind, control characters (as in ANSI sequences),
    marks that change the writing direction, invisible characters and lone surrogates.
    """
    text = _BLANK.sub(" ", text)
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else " " for character in text)


def one_line(text: str) -> str:
    r"""Return the text as one line, so that it cannot forge a line or a column of a table.

    `st2 run` prints a backslash and an n as a line break, so backslashes become slashes.
    """
    return " ".join(printable(text.replace("\\", "/")).split())


def inert_line(text: str) -> str:
    """Return the text as one inert line."""
    return str(make_inert(one_line(text)))


def _inert_text(text: str) -> str:
    text = printable(text).translate(_LOOKALIKES)
    return _ASTERISK_BEFORE_ANOTHER.sub(_ASTERISK_LOOKALIKE, text)


def _inert_keys(value: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the inert name of each key. The names are distinct."""
    names = {key: make_inert(key) for key in value}
    used_names = {key for key, name in names.items() if key == name}
    for key in value:
        if key in used_names:
            continue
        while names[key] in used_names:
            names[key] += "_"
        used_names.add(names[key])
    return names
