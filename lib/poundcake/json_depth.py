"""Detect JSON that is nested too deeply, before json.loads() reads it.

On deeply nested JSON, json.loads() raises RecursionError. Python 3.8 can abort the process instead
if the garbage collector calls Python code near the limit ("Cannot recover from stack overflow").
"""

from __future__ import annotations

MAX_DEPTH = 100
"""Maximum depth of lists and objects. An Alertmanager webhook has a depth of 4."""

_QUOTES_AND_BRACKETS = b'"[]{}'
_OTHER_BYTES = bytes(set(range(256)) - set(_QUOTES_AND_BRACKETS))


def is_too_deep(text: bytes) -> bool:
    """Return True if lists and objects in a JSON text are nested deeper than MAX_DEPTH.

    This is faster than json.loads(). In invalid JSON, brackets after the first error also count.

    Args:
        text: JSON in UTF-8.
    """
    unescaped = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside_strings = unescaped.translate(None, _OTHER_BYTES).split(b'"')[::2]
    depth = 0
    for bracket in b"".join(outside_strings):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            return True
    return False
