"""Inert text is never evaluated, cannot end a string or forge a line, and keeps its length."""

from __future__ import annotations

import ast
import itertools
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from poundcake.inert import FixedText, make_inert, make_lines_inert, one_line
from tests.lib.samples import BLANKS, DELIMITERS, as_inert

hostile_texts = st.text(alphabet="{%#<}>\"'\\*_NOE\n\r\u2028ab ", max_size=8) | st.text(max_size=8)
json_values = st.recursive(
    hostile_texts | st.integers() | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(hostile_texts, inner, max_size=3),
    max_leaves=8,
)
# StackStorm's filter use_none replaces null with this text, and its casts convert it back.
NONE_MARK = "%*****__%NONE%__*****%"
FORBIDDEN = "{}<>\"'\\"


def all_strings(value):
    """Yield every string in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from all_strings(key)
            yield from all_strings(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from all_strings(inner)


@given(json_values)
@example([{delimiter: delimiter} for delimiter in DELIMITERS])
@example({NONE_MARK: NONE_MARK})
@example({BLANKS: BLANKS})
def test_no_string_keeps_a_special_character(value):
    for text in all_strings(make_inert(value)):
        assert not set(text) & set(FORBIDDEN)
        assert text.isprintable() and not set(text) & set(BLANKS)
        assert NONE_MARK not in text


@given(st.lists(hostile_texts, min_size=2, max_size=4))
@example(["{", "{", "<", "%"])
@example(["%*****__%NONE", "%__*****%"])
@example(["%**", "***__%NONE%__*****%"])
def test_inert_strings_are_still_inert_when_joined(texts):
    for order in itertools.permutations(make_inert(texts)):
        joined = "".join(order)
        assert not any(delimiter in joined for delimiter in DELIMITERS)
        assert NONE_MARK not in joined


@given(hostile_texts)
def test_the_length_and_harmless_characters_of_text_are_kept(text):
    inert = make_inert(text)
    assert len(inert) == len(text)
    for before, after in zip(text, inert):
        assert before == after or before in FORBIDDEN + "*" + BLANKS or not before.isprintable()


@pytest.mark.parametrize(
    "text, inert",
    [
        ("/orders/{orderId}", "/orders/(orderId)"),
        ("<none>", "‹none›"),
        ('it\'s "x"', "it’s ”x”"),
        ("C:\\temp", "C:/temp"),
        ("one\ntwo\r\n\tthree", "one two   three"),
        ("a\u2028b\u202ec\x1b[31m\u200b\x00", "a b c [31m  "),
        ("a\ud800b", "a b"),
        ("/var/**/*.log", "/var/∗*/*.log"),
        (NONE_MARK, "%∗∗∗∗*__%NONE%__∗∗∗∗*%"),
        ("Größe 溫度 🔥 95% of [a, b] @x $(id) `id` | ; & #", None),
        ("", None),
    ],
)
def test_each_character_has_one_substitute(text, inert):
    assert make_inert(text) == (text if inert is None else inert)
    assert as_inert(text) == make_inert(text)  # the tests' own implementation


@given(json_values)
def test_text_that_is_already_inert_is_not_changed(value):
    inert = make_inert(value)
    assert make_inert(inert) == inert


@given(hostile_texts)
def test_inert_text_cannot_end_the_string_that_contains_it(text):
    inert = make_inert(text)
    assert json.loads('{"host": "' + inert + '"}') == {"host": inert}
    assert ast.literal_eval("{'host': '" + inert + "'}") == {"host": inert}


@given(st.dictionaries(hostile_texts, st.integers(), max_size=5))
@example({"{": 1, "(": 2, "(_": 3})
def test_distinct_keys_remain_distinct(value):
    inert = make_inert(value)
    assert list(inert.values()) == list(value.values())


def test_an_inert_key_does_not_overwrite_another_key():
    assert make_inert({"{a}": "first", "(a)": "second"}) == {"(a)_": "first", "(a)": "second"}


def test_a_tuple_becomes_a_list():
    assert make_inert(("{",)) == ["("]


def test_only_the_line_breaks_of_a_view_are_kept():
    assert make_lines_inert('a  "b"\n{\u2028}\r') == "a  ”b”\n( ) "
    assert make_lines_inert(FixedText('a  "b"\n{')) == 'a  "b"\n{'


@pytest.mark.parametrize(
    "text",
    ["a\nb", "a\rb", "a\r\nb", "a\u2028b", "a\u2029b", "a\x85b", "a\x0bb", "a\x0cb", "a\u202eb"]
    + ["a\x1bb", "a\x9bb", "a\u200bb", "a\u2066b", "a\ufeffb", "a\ud800b", "a\tb", "a   b"],
)
def test_text_stays_on_one_line_of_a_view(text):
    assert one_line(f" {text} ") == "a b"


def test_an_escaped_line_break_is_not_printed_as_one():
    assert one_line("a\\nb") == "a/nb"
