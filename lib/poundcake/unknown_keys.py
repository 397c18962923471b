"""Refuse keys of a mapping that are probably misspelt."""

from __future__ import annotations

import difflib
from typing import Any, Iterable


def refuse_unknown_keys(keys: Iterable[Any], valid_keys: Iterable[str]) -> None:
    """Refuse keys that are not valid.

    Args:
        keys: The keys, or a mapping with these keys.
        valid_keys: The valid keys.

    Raises:
        ValueError: A key is unknown. The message contains it and the most similar valid key.
    """
    names = list(valid_keys)
    for key in keys:
        if key in names:
            continue
        nearest = difflib.get_close_matches(str(key), names, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(names)}"
        raise ValueError(f"unknown key {key}; {hint}")
