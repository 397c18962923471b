"""JSON that is nested too deeply is detected before it is parsed."""

from __future__ import annotations

import gc
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poundcake.alertmanager import PayloadError, parse
from poundcake.json_depth import MAX_DEPTH, is_too_deep

values = st.recursive(
    st.none() | st.integers() | st.text(alphabet=st.sampled_from('[]{}"\\,:é')),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


def depth_of(value):
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


@given(values, st.integers(0, MAX_DEPTH + 2), st.booleans())
def test_only_text_over_the_maximum_depth_is_too_deep(value, levels, ascii_only):
    for _ in range(levels):
        value = {"a": value} if levels % 2 else [value]
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert is_too_deep(text) == (depth_of(value) > MAX_DEPTH)


@pytest.mark.parametrize("suffix", [b"", b"]" * 200, b"\\", b'"', b'"\\', b"\xff", b"x"])
def test_unclosed_brackets_count(suffix):
    assert is_too_deep(b"[" * 101 + suffix)
    assert not is_too_deep(b"[" * 100 + suffix)


@pytest.mark.parametrize("text", [b"", b'"', b'"[[[["', b"]" * 300, b'"\\"' + b"[" * 300 + b'"'])
def test_brackets_in_a_string_and_unmatched_brackets_do_not_count(text):
    assert not is_too_deep(text)


class GarbageWithFinalizer:
    """An unreachable object whose collection calls Python functions."""

    def __init__(self):
        self.cycle = self

    def __del__(self):
        self.call(3)

    def call(self, times):
        if times:
            self.call(times - 1)


def test_collecting_garbage_while_parsing_does_not_abort_the_process():
    """Without the check, json.loads() raises RecursionError or, on Python 3.8, aborts."""
    threshold = gc.get_threshold()
    gc.disable()
    try:
        for allocations in range(900, 1010, 10):
            GarbageWithFinalizer()
            gc.collect(0)
            GarbageWithFinalizer()
            gc.set_threshold(allocations)
            gc.enable()
            with pytest.raises(PayloadError):
                parse(b"[" * 100_000)
            gc.disable()
    finally:
        gc.set_threshold(*threshold)
        gc.enable()
