"""Match RE2 regular expressions against whole strings, in linear time.

Alertmanager's matchers use Go's regular expressions (RE2). Python's `re` accepts a different
language, and an expression such as ``(a|a)*b`` can keep it busy for hours on a label that a sender
chose. So this module compiles each expression to a nondeterministic automaton, and follows all of
its states simultaneously. The time that a match takes is proportional to the length of the text,
and the result is the same as in Alertmanager.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Callable, FrozenSet, Tuple, Union

MAX_CHARACTERS = 1000
"""Maximum length of an expression."""
_MAX_STATES = 2000
_MAX_REPEAT = 1000  # as in RE2
_MAX_DEPTH = 50
_MAX_CACHED_STATES = 100_000  # in all cached sets together

_Predicate = Callable[[str], bool]
_Flags = FrozenSet[str]
_Range = Tuple[int, int]

_FLAGS = re.compile(r"\(\?([a-zA-Z]*)(?:-([a-zA-Z]+))?([:)])")
_NAMED_GROUP = re.compile(r"\(\?P?<[A-Za-z0-9_]+>")
_REPEAT = re.compile(r"\{([0-9]+)(,([0-9]*))?\}")
_HEX = re.compile(r"\\x(?:([0-9A-Fa-f]{2})|\{([0-9A-Fa-f]{1,6})\})")
_OCTAL = re.compile(r"\\(0[0-7]{0,2}|[1-7][0-7]{1,2})")
_POSIX_CLASS = re.compile(r"\[:(\^?)([a-z]+):\]")

_ESCAPES = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_DIGITS, _UPPER, _LOWER = (48, 57), (65, 90), (97, 122)
# In RE2, these classes contain only ASCII characters.
_PERL_CLASSES: dict[str, list[_Range]] = {
    "d": [_DIGITS],
    "s": [(9, 10), (12, 13), (32, 32)],
    "w": [_DIGITS, _UPPER, (95, 95), _LOWER],
}
_POSIX_CLASSES: dict[str, list[_Range]] = {
    "alnum": [_DIGITS, _UPPER, _LOWER],
    "alpha": [_UPPER, _LOWER],
    "ascii": [(0, 127)],
    "blank": [(9, 9), (32, 32)],
    "cntrl": [(0, 31), (127, 127)],
    "digit": [_DIGITS],
    "graph": [(33, 126)],
    "lower": [_LOWER],
    "print": [(32, 126)],
    "punct": [(33, 47), (58, 64), (91, 96), (123, 126)],
    "space": [(9, 13), (32, 32)],
    "upper": [_UPPER],
    "word": [_DIGITS, _UPPER, (95, 95), _LOWER],
    "xdigit": [_DIGITS, (65, 70), (97, 102)],
}
_MAX_CODE_POINT = 0x10FFFF


# -- the syntax tree


@dataclass(frozen=True)
class _Character:
    """One character for which a predicate holds."""

    accepts: _Predicate


@dataclass(frozen=True)
class _Anchor:
    """The start or the end of the text."""

    is_start: bool


@dataclass(frozen=True)
class _Sequence:
    parts: tuple[_Node, ...]


@dataclass(frozen=True)
class _Choice:
    options: tuple[_Node, ...]


@dataclass(frozen=True)
class _Repeat:
    part: _Node
    minimum: int
    maximum: int | None


_Node = Union[_Character, _Anchor, _Sequence, _Choice, _Repeat]


class Regex:
    """A compiled expression that must match the whole text, as in an Alertmanager matcher.

    Attributes:
        text: The expression.
    """

    def __init__(self, text: str) -> None:
        """Compile an expression.

        Raises:
            ValueError: RE2 rejects the expression, or this module does not support it.
        """
        self.text = text
        if len(text) > MAX_CHARACTERS:
            raise ValueError(f"must have at most {MAX_CHARACTERS} characters")
        self._automaton = _Automaton(_Parser(text).parse())

    @property
    def size(self) -> int:
        """The number of states, to which the longest time for one character is proportional."""
        return self._automaton.size

    def matches(self, text: str) -> bool:
        """Return True if the expression matches the whole text."""
        return self._automaton.matches(text)


class _Parser:
    """Parse an expression by recursive descent. A flag such as (?i) lasts until its group ends."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._depth = 0

    def parse(self) -> _Node:
        """Return the syntax tree of the whole expression."""
        node = self._parse_choice(frozenset())
        if self._position < len(self._text):
            raise ValueError("has an unmatched )")
        return node

    def _parse_choice(self, flags: _Flags) -> _Node:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ValueError(f"has more than {_MAX_DEPTH} nested groups")
        options: list[_Node] = []
        parts: list[_Node] = []
        while self._position < len(self._text) and self._peek() != ")":
            if self._peek() == "|":
                self._position += 1
                options.append(_Sequence(tuple(parts)))
                parts = []
                continue
            new_flags = self._parse_flags(flags)
            if new_flags is not None:
                flags = new_flags
                continue
            parts.append(self._parse_repeat(flags))
        self._depth -= 1
        options.append(_Sequence(tuple(parts)))
        return _Choice(tuple(options)) if len(options) > 1 else options[0]

    def _parse_flags(self, flags: _Flags) -> _Flags | None:
        """Parse flags such as (?i), and return those for the rest of the group; None if absent."""
        match = _FLAGS.match(self._text, self._position)
        if not match or match[3] == ":":
            return None
        self._position = match.end()
        return self._apply_flags(flags, match)

    def _apply_flags(self, flags: _Flags, match: re.Match[str]) -> _Flags:
        enabled, disabled = match[1], match[2] or ""
        for flag in enabled + disabled:
            if flag not in "is":
                raise ValueError(f"has the flag {flag}, but only i and s are supported")
        if match[3] == ")" and not enabled + disabled:
            raise ValueError("has (?) without a flag")
        return (flags | set(enabled)) - set(disabled)

    def _parse_repeat(self, flags: _Flags) -> _Node:
        """Parse one part and its quantifier."""
        if self._peek() in "*+?":
            raise ValueError(f"has a {self._peek()} with nothing before it to repeat")
        part = self._parse_part(flags)
        bounds = self._parse_quantifier()
        if bounds is None:
            return part
        if self._position < len(self._text) and self._peek() == "?":
            self._position += 1  # a lazy quantifier matches the same strings
        if self._parse_quantifier() is not None:
            raise ValueError("has two quantifiers in a row, such as a** or a++")
        return _Repeat(part, *bounds)

    def _parse_quantifier(self) -> tuple[int, int | None] | None:
        if self._position >= len(self._text):
            return None
        symbols: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        bounds = symbols.get(self._peek())
        if bounds:
            self._position += 1
            return bounds
        match = _REPEAT.match(self._text, self._position)
        if not match:
            return None
        self._position = match.end()
        minimum = int(match[1])
        maximum = minimum if match[2] is None else int(match[3]) if match[3] else None
        if max(minimum, maximum or 0) > _MAX_REPEAT or (maximum is not None and maximum < minimum):
            raise ValueError(f"has an invalid number of repetitions, {match[0]}")
        return minimum, maximum

    def _parse_part(self, flags: _Flags) -> _Node:
        character = self._peek()
        if character == "(":
            return self._parse_group(flags)
        if character == "[":
            return self._parse_class(flags)
        if character == "\\":
            return self._parse_escape(flags)
        self._position += 1
        if character == ".":
            return _Character(lambda c: c != "\n" or "s" in flags)
        if character in "^$":
            return _Anchor(character == "^")
        return _Character(_range_predicate([(ord(character), ord(character))], False, flags))

    def _parse_group(self, flags: _Flags) -> _Node:
        match = _FLAGS.match(self._text, self._position)
        named_group = _NAMED_GROUP.match(self._text, self._position)
        if match:
            flags = self._apply_flags(flags, match)
            self._position = match.end()
        elif named_group:
            self._position = named_group.end()
        elif self._text.startswith("(?", self._position):
            raise ValueError(
                f"has {self._text[self._position : self._position + 4]}, which RE2 does not have: "
                "lookaround, conditions and atomic groups are not supported"
            )
        else:
            self._position += 1
        node = self._parse_choice(flags)
        if self._position >= len(self._text):
            raise ValueError("has an unclosed (")
        self._position += 1
        return node

    def _parse_escape(self, flags: _Flags) -> _Node:
        letter = self._text[self._position + 1 : self._position + 2]
        if letter in ("A", "z"):
            self._position += 2
            return _Anchor(letter == "A")
        ranges = self._parse_perl_class()
        if ranges is None:
            code = self._parse_escaped_character()
            ranges = [(code, code)]
        return _Character(_range_predicate(ranges, False, flags))

    def _parse_perl_class(self) -> list[_Range] | None:
        r"""Parse a class such as \d or \W, and return its ranges; None if there is none."""
        letter = self._text[self._position + 1 : self._position + 2]
        if letter.lower() not in _PERL_CLASSES or not letter:
            return None
        self._position += 2
        ranges = _PERL_CLASSES[letter.lower()]
        return ranges if letter.islower() else _complement(ranges)

    def _parse_escaped_character(self) -> int:
        for pattern, base in ((_HEX, 16), (_OCTAL, 8)):
            match = pattern.match(self._text, self._position)
            if match:
                self._position = match.end()
                code = int(next(group for group in match.groups() if group), base)
                if code > _MAX_CODE_POINT:
                    raise ValueError(f"has {match[0]}, which is not a character")
                return code
        character = self._text[self._position + 1 : self._position + 2]
        self._position += 2
        if not character:
            raise ValueError("ends with an unescaped backslash")
        if character in _ESCAPES:
            return ord(_ESCAPES[character])
        if character.isascii() and not character.isalnum():
            return ord(character)
        if character.isdigit():
            raise ValueError(f"has \\{character}, but RE2 has no backreferences")
        raise ValueError(f"has \\{character}, which is not supported")

    def _parse_class(self, flags: _Flags) -> _Node:
        """Parse a character class in square brackets."""
        self._position += 1
        is_negated = self._text.startswith("^", self._position)
        self._position += is_negated
        ranges: list[_Range] = []
        is_first = True
        while is_first or self._peek_in_class() != "]":
            ranges += self._parse_class_item()
            is_first = False
        self._position += 1
        return _Character(_range_predicate(ranges, is_negated, flags))

    def _parse_class_item(self) -> list[_Range]:
        match = _POSIX_CLASS.match(self._text, self._position)
        if match:
            if match[2] not in _POSIX_CLASSES:
                raise ValueError(f"has {match[0]}, which is not a character class")
            self._position = match.end()
            ranges = _POSIX_CLASSES[match[2]]
            return _complement(ranges) if match[1] else ranges
        perl_class = self._parse_perl_class() if self._peek_in_class() == "\\" else None
        if perl_class is not None:
            return perl_class
        low = self._parse_class_character()
        if not self._is_range():
            return [(low, low)]
        self._position += 1
        high = self._parse_class_character()
        if high < low:
            raise ValueError(f"has the range {chr(low)}-{chr(high)}, which is empty")
        return [(low, high)]

    def _is_range(self) -> bool:
        next_two = self._text[self._position : self._position + 2]
        return len(next_two) == 2 and next_two[0] == "-" and next_two[1] != "]"

    def _parse_class_character(self) -> int:
        character = self._peek_in_class()
        if character == "\\":
            return self._parse_escaped_character()
        self._position += 1
        return ord(character)

    def _peek(self) -> str:
        return self._text[self._position]

    def _peek_in_class(self) -> str:
        if self._position >= len(self._text):
            raise ValueError("has an unclosed [")
        return self._peek()


def _complement(ranges: list[_Range]) -> list[_Range]:
    complement, start = [], 0
    for low, high in sorted(ranges):
        if start < low:
            complement.append((start, low - 1))
        start = high + 1
    return [*complement, (start, _MAX_CODE_POINT)]


def _range_predicate(ranges: list[_Range], is_negated: bool, flags: _Flags) -> _Predicate:
    """Return a predicate that is true for the characters in the ranges."""
    ignore_case = "i" in flags

    def is_in(character: str) -> bool:
        code = ord(character)
        return any(low <= code <= high for low, high in ranges)

    def accepts(character: str) -> bool:
        is_member = is_in(character)
        if ignore_case and not is_member:
            is_member = any(map(is_in, _case_variants(character)))
        return is_member != is_negated

    return accepts


def _case_variants(character: str) -> set[str]:
    """Return the lower-case and upper-case forms of a character that are single characters."""
    cases = {character.lower(), character.upper()}
    cases |= {case.lower() for case in cases if len(case) == 1}
    return {case for case in cases if len(case) == 1}


_States = FrozenSet[int]


class _Automaton:
    """A nondeterministic automaton that caches its transitions between sets of states.

    A state has either a predicate and one next state, an anchor and one next state, or any number
    of next states that are reached without consuming a character. State 0 is the accepting state.
    """

    def __init__(self, node: _Node) -> None:
        self._accepts: list[_Predicate | None] = [None]
        self._anchors: list[bool | None] = [None]  # True for the start of the text
        self._next: list[list[int]] = [[]]
        self._start = self._compile(node, 0)
        self._steps: dict[tuple[_States, str], _States] = {}
        self._cached_states = 0

    @property
    def size(self) -> int:
        """The number of states."""
        return len(self._next)

    def matches(self, text: str) -> bool:
        """Return True if the whole text leads from the first state to the accepting state."""
        states = self._epsilon_closure({self._start}, is_start=True, is_end=not text)
        last_position = len(text) - 1
        for position, character in enumerate(text):
            if position == last_position:
                states = self._step(states, character, is_end=True)
                break
            key = (states, character)
            next_states = self._steps.get(key)
            if next_states is None:
                next_states = self._step(states, character, is_end=False)
                self._cache_step(key, next_states)
            states = next_states
            if not states:
                return False
        return 0 in states

    def _cache_step(self, key: tuple[_States, str], next_states: _States) -> None:
        size = len(key[0]) + len(next_states) + 1
        if self._cached_states + size > _MAX_CACHED_STATES:
            self._steps.clear()
            self._cached_states = 0
        self._steps[key] = next_states
        self._cached_states += size

    def _step(self, states: _States, character: str, is_end: bool) -> _States:
        next_states: set[int] = set()
        for state in states:
            accepts = self._accepts[state]
            if accepts and accepts(character):
                next_states.update(self._next[state])
        return self._epsilon_closure(next_states, is_start=False, is_end=is_end)

    def _epsilon_closure(self, states: set[int], is_start: bool, is_end: bool) -> _States:
        """Return the states, and all states they reach without consuming a character."""
        closure: set[int] = set()
        pending = list(states)
        while pending:
            state = pending.pop()
            if state in closure:
                continue
            closure.add(state)
            is_start_anchor = self._anchors[state]
            can_pass = is_start_anchor is None or (is_start if is_start_anchor else is_end)
            if self._accepts[state] is None and can_pass:
                pending += self._next[state]
        return frozenset(closure)

    def _new_state(
        self, next_states: list[int], accepts: _Predicate | None = None, anchor: bool | None = None
    ) -> int:
        if len(self._next) >= _MAX_STATES:
            raise ValueError("is too large: write fewer or smaller repetitions")
        self._accepts.append(accepts)
        self._anchors.append(anchor)
        self._next.append(next_states)
        return len(self._next) - 1

    def _compile(self, node: _Node, next_state: int) -> int:
        """Add the states of a node that continues with `next_state`, and return its first state."""
        if isinstance(node, _Character):
            return self._new_state([next_state], accepts=node.accepts)
        if isinstance(node, _Anchor):
            return self._new_state([next_state], anchor=node.is_start)
        if isinstance(node, _Sequence):
            for part in reversed(node.parts):
                next_state = self._compile(part, next_state)
            return next_state
        if isinstance(node, _Choice):
            return self._new_state([self._compile(option, next_state) for option in node.options])
        return self._compile_repeat(node, next_state)

    def _compile_repeat(self, node: _Repeat, next_state: int) -> int:
        if node.maximum is None:
            loop = self._new_state([next_state])
            self._next[loop].append(self._compile(node.part, loop))
            next_state = loop
        else:
            end = next_state
            for _ in range(node.maximum - node.minimum):
                next_state = self._new_state([self._compile(node.part, next_state), end])
        for _ in range(node.minimum):
            part_state = self._compile(node.part, next_state)
            if part_state == next_state:  # the part is empty, however often it is repeated
                break
            next_state = part_state
        return next_state
