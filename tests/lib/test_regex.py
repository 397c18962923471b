"""Regular expressions mean the same as in RE2, and take linear time on any text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poundcake.regex import MAX_CHARACTERS, Regex


@pytest.mark.parametrize(
    "expression, matching, not_matching",
    [
        ("", [""], ["a"]),
        ("nginx|app-.*", ["nginx", "app-", "app-1"], ["nginx2", "my-app-1", "app-\n"]),
        ("a|ab", ["a", "ab"], ["abb"]),
        ("web-[0-9]+", ["web-1", "web-20"], ["web-", "web-1a"]),
        ("[^a-c]+", ["def", "\n"], ["", "dea"]),
        ("[]a-]+", ["]a-"], ["b"]),
        (r"[\d.]+", ["1.5"], ["٣"]),
        (r"\w+\s\S+", ["a_1 é"], ["é b"]),
        ("[[:alpha:]][[:^digit:]]", ["aB", "a!"], ["1a", "a1"]),
        ("a{2}", ["aa"], ["a", "aaa"]),
        ("a{2,}", ["aa", "aaaa"], ["a"]),
        ("a{0,2}b?", ["", "a", "aab"], ["aaa", "bb"]),
        ("x{,2}", ["x{,2}"], ["x", "xx"]),  # as in RE2; not in Python
        ("(?:a+?)*(b|c)", ["b", "aac"], ["a"]),
        ("(?P<name>a)(?<other>b)", ["ab"], ["b"]),
        ("(?i)Host(?-i)X", ["hOSTX"], ["HOSTx"]),
        ("(?i:[a-c])D", ["aD", "BD"], ["bd"]),
        ("(?i)straße", ["STRAßE"], ["strasse"]),
        ("(?i)k", ["K", "K"], ["c"]),  # the second is the Kelvin sign
        ("(?s).", ["\n", "a"], [""]),
        ("^(a$|ab)", ["a", "ab"], ["ab\n"]),
        (r"\Aa\z", ["a"], ["a\n"]),
        ("a^b", [], ["ab", "a^b"]),
        (r"\x41\x{1F600}\101\n", ["A\U0001f600A\n"], []),
        (r"\.\*\/\-", [".*/-"], ["a"]),
        ("((){1000}){1000}", [""], ["a"]),
    ],
)
def test_the_whole_text_must_match(expression, matching, not_matching):
    regex = Regex(expression)
    assert [text for text in [*matching, *not_matching] if regex.matches(text)] == matching


@pytest.mark.parametrize(
    "expression, reason",
    [
        ("(?=a)b", "has (?=a, which RE2 does not have"),
        ("(?<!a)b", "has (?<!, which RE2 does not have"),
        ("(?>a)", "has (?>a, which RE2 does not have"),
        (r"(a)\1", r"has \1, but RE2 has no backreferences"),
        ("a++", "has two quantifiers in a row"),
        ("a**", "has two quantifiers in a row"),
        ("*a", "has a * with nothing before it"),
        ("a|+", "has a + with nothing before it"),
        ("[z-a]", "has the range z-a, which is empty"),
        ("[a", "has an unclosed ["),
        ("[[:letter:]]", "has [:letter:], which is not a character class"),
        ("(a", "has an unclosed ("),
        ("a)", "has an unmatched )"),
        ("a\\", "ends with an unescaped backslash"),
        (r"\bweb", r"has \b, which is not supported"),
        (r"\pL", r"has \p, which is not supported"),
        ("(?m)a", "has the flag m"),
        (r"\x{110000}", "which is not a character"),
        ("a{3,2}", "has an invalid number of repetitions"),
        ("a{1001}", "has an invalid number of repetitions"),
        ("(a{1000}){1000}", "is too large"),
        ("(" * 60 + ")" * 60, "has more than 50 nested groups"),
        ("a" * (MAX_CHARACTERS + 1), "must have at most 1000 characters"),
    ],
)
def test_unsupported_expressions_are_refused_with_a_reason(expression, reason):
    with pytest.raises(ValueError) as caught:
        Regex(expression)
    assert str(caught.value).startswith(reason) or reason in str(caught.value)


@pytest.mark.parametrize("expression", ["(a|a)*b", "(a*)*b", "(a|aa)+b", "(.*a){20}b", "(a?){25}c"])
def test_expressions_that_defeat_backtracking_take_linear_time(expression):
    """With `re`, each of these would take longer than the whole test suite."""
    assert not Regex(expression).matches("a" * 5000)


PIECES = st.sampled_from(
    ["a", "b", ".", "[ab]", "[^a]", "(a|b)", "(ab)*", "a*", "b+", "a?", "(a|)", "b{1,2}", "^", "$"]
)


@given(st.lists(PIECES, max_size=6), st.text("abc\n", max_size=6), st.booleans())
def test_python_agrees_on_the_common_syntax(pieces, text, joined_by_bar):
    expression = ("|" if joined_by_bar else "").join(pieces)
    # Python's $ also matches before a final line break.
    python_matches = re.fullmatch(expression.replace("$", r"\Z"), text) is not None
    assert Regex(expression).matches(text) == python_matches
