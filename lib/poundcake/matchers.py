"""Parse and apply Alertmanager's label matchers: `severity="critical"`, `service=~"app-.*"`.

The syntax is that of Alertmanager's configuration in its default mode. A matcher that the classic
parser accepts has its classic meaning. Any other matcher is parsed in the UTF-8 syntax of
Alertmanager 0.27, in which the name of a label may be quoted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Mapping, Sequence

from poundcake.regex import Regex
from poundcake.string_enum import StringEnum

MAX_LABEL_CHARACTERS = 4096
"""Maximum length of a value that a regular expression is applied to.

A matcher with a regular expression, even a negated one, rejects longer values.
"""

_CLASSIC = re.compile(
    r"\s*([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(=~|=|!=|!~)\s*(.*?)\s*\Z", re.DOTALL | re.ASCII
)
_QUOTED = r'"(?:[^"\\\n]|\\.)*"'
# In the UTF-8 syntax, these characters end an unquoted name or value.
_UNQUOTED = r"[^\s{}!=~,\\\"'`]+"
_UTF8 = re.compile(rf"\s*({_QUOTED}|{_UNQUOTED})\s*(=~|=|!=|!~)\s*({_QUOTED}|{_UNQUOTED})\s*\Z")
_SIMPLE_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_GO_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\\"])|x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([0-7]{3})|(.?))",
    re.DOTALL,
)
_GO_CHARACTERS = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"
}  # fmt: skip


class MatchType(StringEnum):
    """The operator of a matcher."""

    EQUAL = "="
    """The label has this value."""
    NOT_EQUAL = "!="
    """The label has another value."""
    REGEX = "=~"
    """The regular expression matches the whole value of the label."""
    NOT_REGEX = "!~"
    """The regular expression does not match the whole value of the label."""

    @property
    def is_regex(self) -> bool:
        """Whether the value of the matcher is a regular expression."""
        return self in (MatchType.REGEX, MatchType.NOT_REGEX)


_OPPOSITE = {MatchType.REGEX: MatchType.NOT_REGEX, MatchType.EQUAL: MatchType.NOT_EQUAL}


@dataclass(frozen=True)
class Matcher:
    """A condition on one label. A label that an alert does not have counts as an empty string.

    Raises:
        ValueError: The type needs a regular expression, and the value is not a valid one.
    """

    name: str
    type: MatchType
    value: str
    _regex: Regex | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        """Compile the regular expression."""
        if self.type.is_regex:
            try:
                object.__setattr__(self, "_regex", Regex(self.value))
            except ValueError as error:
                raise ValueError(f"the regular expression {self.value} {error}") from None

    def __str__(self) -> str:
        """Return the matcher as Alertmanager formats it."""
        name = self.name if _SIMPLE_NAME.match(self.name) else _quote(self.name)
        return f"{name}{self.type}{_quote(self.value)}"

    @property
    def size(self) -> int:
        """The size of the regular expression, or 0 if there is none."""
        return self._regex.size if self._regex else 0

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return True if the labels satisfy the condition."""
        return self.accepts(labels.get(self.name, ""))

    def accepts(self, value: str) -> bool:
        """Return True if a label with this value satisfies the condition."""
        if self._regex is None:
            return (value == self.value) == (self.type is MatchType.EQUAL)
        if len(value) > MAX_LABEL_CHARACTERS:
            return False
        return self._regex.matches(value) == (self.type is MatchType.REGEX)


def parse_matchers(text: str) -> tuple[Matcher, ...]:
    """Parse one or more matchers, separated by commas, with or without {} around them.

    Raises:
        ValueError: The text contains no matcher, or a matcher is invalid.
    """
    body = text.strip()
    if body.startswith("{") != body.endswith("}"):
        raise ValueError(
            f"{text} begins or ends with a brace: quote the value, or remove the brace"
        )
    body = body[1:-1] if body.startswith("{") else body
    matchers = tuple(map(parse_matcher, _split_at_commas(body)))
    if not matchers:
        raise ValueError("must contain a matcher, such as alertname=DiskFull")
    return matchers


def parse_matcher(text: str) -> Matcher:
    """Parse one matcher.

    Raises:
        ValueError: The text is not a matcher, or its regular expression is invalid.
    """
    try:
        name, operator, value = _parse_classic(text)
    except ValueError as error:
        parts = _parse_utf8(text)
        if parts is None:
            raise ValueError(f"{text or 'an empty text'} is not a matcher: {error}") from None
        name, operator, value = parts
    return Matcher(name, MatchType(operator), value)


def find_contradiction(matchers: Sequence[Matcher]) -> tuple[Matcher, Matcher] | None:
    """Return two matchers that contradict each other, or None if no contradiction is found.

    It detects a matcher with `=` whose value another matcher excludes, and two opposite matchers
    with the same value. It detects no other contradictions.
    """
    for matcher in matchers:
        for other in (other for other in matchers if other.name == matcher.name):
            is_excluded = matcher.type is MatchType.EQUAL and not other.accepts(matcher.value)
            is_opposite = other.type is _OPPOSITE.get(matcher.type)
            if is_excluded or (is_opposite and other.value == matcher.value):
                return matcher, other
    return None


def _split_at_commas(text: str) -> list[str]:
    """Split at the commas outside quotes, as Alertmanager does."""
    parts, part = [], ""
    is_quoted = is_escaped = False
    for character in text:
        if character == "," and not is_quoted:
            parts.append(part)
            part = ""
            continue
        if character == '"' and not is_escaped:
            is_quoted = not is_quoted
        is_escaped = character == "\\" and not is_escaped
        part += character
    return [*parts, part] if part.strip() else parts


def _parse_classic(text: str) -> tuple[str, str, str]:
    r"""Parse a matcher as Alertmanager's classic parser does.

    A value may be unquoted. A backslash escapes a quote, a backslash and `n`. Before any other
    character it is a literal backslash, so that "\d+" needs no second backslash.
    """
    match = _CLASSIC.match(text)
    if not match:
        raise ValueError('write it as name="value", with one of =, !=, =~ and !~')
    name, operator, raw = match[1], match[2], match[3]
    needs_closing_quote = raw.startswith('"')
    raw = raw[1:] if needs_closing_quote else raw
    value, is_escaped = "", False
    for position, character in enumerate(raw):
        is_last = position == len(raw) - 1
        if is_escaped:
            is_escaped = False
            value += {"n": "\n", '"': '"', "\\": "\\"}.get(character, "\\" + character)
        elif character == "\\" and not is_last:
            is_escaped = True
        elif character == '"':
            if not needs_closing_quote or not is_last:
                raise ValueError("its value contains an unescaped quote")
            needs_closing_quote = False
        else:
            value += character
    if needs_closing_quote:
        raise ValueError("its value has no closing quote")
    return name, operator, value


def _parse_utf8(text: str) -> tuple[str, str, str] | None:
    """Parse a matcher in the UTF-8 syntax, or return None if it is invalid."""
    match = _UTF8.match(text)
    if not match:
        return None
    try:
        name, value = (_unquote(match[1]), _unquote(match[3]))
    except ValueError:
        return None
    return (name, match[2], value) if name else None


def _unquote(text: str) -> str:
    """Return the content of a Go string literal, or an unquoted text unchanged."""
    if not text.startswith('"'):
        return text

    def unescape(match: re.Match[str]) -> str:
        letter, hex_byte, short_code, long_code, octal_byte, _ = match.groups()
        if letter:
            return _GO_CHARACTERS.get(letter, letter)
        if short_code or long_code:
            code_point = int(short_code or long_code, 16)
            if 0xD800 <= code_point <= 0xDFFF:
                raise ValueError(f"{match[0]} is half of a surrogate pair")
            return chr(code_point)
        code = int(hex_byte, 16) if hex_byte else int(octal_byte, 8) if octal_byte else None
        if code is None or code > 127:  # one byte of a UTF-8 sequence
            raise ValueError(f"{match[0]} is not an escape sequence")
        return chr(code)

    return _GO_ESCAPE.sub(unescape, text[1:-1])


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
