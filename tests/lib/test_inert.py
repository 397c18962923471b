"""No text that was made inert can become an expression of Jinja or YAQL."""

from __future__ import annotations

import itertools
import json

from hypothesis import example, given
from hypothesis import strategies as st

from poundcake.inert import make_inert
from tests.lib.samples import DELIMITERS

hostile_texts = st.text(alphabet="{%#<}>ab ", max_size=8) | st.text(max_size=8)
json_values = st.recursive(
    hostile_texts | st.integers() | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(hostile_texts, inner, max_size=3),
    max_leaves=8,
)


def has_delimiter(text):
    return any(delimiter in text for delimiter in DELIMITERS)


def strings_in(value):
    """Yield every string in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from strings_in(key)
            yield from strings_in(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from strings_in(inner)


@given(json_values)
@example([{delimiter: delimiter} for delimiter in DELIMITERS])
def test_no_string_anywhere_keeps_a_delimiter(value):
    assert not any(has_delimiter(text) for text in strings_in(make_inert(value)))


@given(st.lists(hostile_texts, min_size=2, max_size=4))
@example(["{", "{", "<", "%"])
def test_joined_texts_make_no_delimiter(texts):
    for order in itertools.permutations(make_inert(texts)):
        assert not has_delimiter("".join(order))


@given(json_values)
def test_text_without_delimiter_characters_is_unchanged(value):
    if not any("{" in text or "<" in text for text in strings_in(value)):
        assert make_inert(value) == value


@given(st.dictionaries(hostile_texts, st.integers(), max_size=5))
def test_two_keys_stay_two(value):
    assert len(make_inert(value)) == len(value)


def test_it_stays_inert_when_serialized_and_joined():
    value = make_inert({"{": ["{", {"<": "%"}], "a": "{"})
    assert not has_delimiter(json.dumps(value, separators=(",", ":")).replace('{"', ""))


def test_a_tuple_becomes_a_list():
    assert make_inert(("{",)) == ["{ "]


def test_a_lone_surrogate_becomes_a_question_mark():
    assert make_inert("a\ud800b") == "a?b"
