"""Match RE2 regular expressions against whole texts, in linear time.

Alertmanager's matchers use Go's regular expressions (RE2). Python's `re` accepts a different
language, and an expression such as ``(a|a)*b`` can keep it busy for hours on a label that a sender
chose. So this module compiles the expressions itself: to a nondeterministic automaton, whose
states are followed all at once. A match takes time in proportion to the length of the text, and
the same text always gives the same answer as in Alertmanager.
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
_MAX_CACHED = 100_000  # states in all cached sets

_Predicate = Callable[[str], bool]
_Flags = FrozenSet[str]
_Range = Tuple[int, int]

_FLAGS = re.compile(r"\(\?([a-zA-Z]*)(?:-([a-zA-Z]+))?([:)])")
_NAMED_GROUP = re.compile(r"\(\?P?<[A-Za-z0-9_]+>")
_REPEAT = re.compile(r"\{([0-9]+)(,([0-9]*))?\}")
_HEX = re.compile(r"\\x(?:([0-9A-Fa-f]{2})|\{([0-9A-Fa-f]{1,6})\})")
_OCTAL = re.compile(r"\\(0[0-7]{0,2}|[1-7][0-7]{1,2})")
_POSIX = re.compile(r"\[:(\^?)([a-z]+):\]")

_ESCAPES = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_DIGITS, _UPPER, _LOWER = (48, 57), (65, 90), (97, 122)
# In RE2, these are ASCII only.
_PERL: dict[str, list[_Range]] = {
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
_HIGHEST = 0x10FFFF


# -- the syntax tree


@dataclass(frozen=True)
class _Character:
    """One character for which a predicate holds."""

    accepts: _Predicate


@dataclass(frozen=True)
class _Edge:
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
    least: int
    most: int | None


_Node = Union[_Character, _Edge, _Sequence, _Choice, _Repeat]


class Regex:
    """A compiled expression, which has to match a whole text, as a matcher of Alertmanager does.

    Attributes:
        text: The expression.
    """

    def __init__(self, text: str) -> None:
        """Compile an expression.

        Raises:
            ValueError: RE2 refuses the expression, or this module does not support it.
        """
        self.text = text
        if len(text) > MAX_CHARACTERS:
            raise ValueError(f"must have at most {MAX_CHARACTERS} characters")
        self._automaton = _Automaton(_Parser(text).parse())

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
        node = self._choice(frozenset())
        if self._position < len(self._text):
            raise ValueError("has a ) without its (")
        return node

    def _choice(self, flags: _Flags) -> _Node:
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
            changed = self._changed_flags(flags)
            if changed is not None:
                flags = changed
                continue
            parts.append(self._repeated(flags))
        self._depth -= 1
        options.append(_Sequence(tuple(parts)))
        return _Choice(tuple(options)) if len(options) > 1 else options[0]

    def _changed_flags(self, flags: _Flags) -> _Flags | None:
        """Read (?i) and the like, and return the flags for the rest of the group."""
        match = _FLAGS.match(self._text, self._position)
        if not match or match[3] == ":":
            return None
        self._position = match.end()
        return self._with(flags, match)

    def _with(self, flags: _Flags, match: re.Match[str]) -> _Flags:
        on, off = match[1], match[2] or ""
        for flag in on + off:
            if flag not in "is":
                raise ValueError(f"has the flag {flag}, but only i and s are supported")
        if match[3] == ")" and not on + off:
            raise ValueError("has (?) without a flag")
        return (flags | set(on)) - set(off)

    def _repeated(self, flags: _Flags) -> _Node:
        """Read one part and its quantifier."""
        if self._peek() in "*+?":
            raise ValueError(f"has a {self._peek()} with nothing before it to repeat")
        part = self._part(flags)
        bounds = self._quantifier()
        if bounds is None:
            return part
        if self._position < len(self._text) and self._peek() == "?":
            self._position += 1  # lazy: the same texts match
        if self._quantifier() is not None:
            raise ValueError("has two quantifiers in a row, such as a** or a++")
        return _Repeat(part, *bounds)

    def _quantifier(self) -> tuple[int, int | None] | None:
        if self._position >= len(self._text):
            return None
        simple: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        found = simple.get(self._peek())
        if found:
            self._position += 1
            return found
        match = _REPEAT.match(self._text, self._position)
        if not match:
            return None
        self._position = match.end()
        least = int(match[1])
        most = least if match[2] is None else int(match[3]) if match[3] else None
        if max(least, most or 0) > _MAX_REPEAT or (most is not None and most < least):
            raise ValueError(f"has an invalid number of repetitions, {match[0]}")
        return least, most

    def _part(self, flags: _Flags) -> _Node:
        character = self._peek()
        if character == "(":
            return self._group(flags)
        if character == "[":
            return self._class(flags)
        if character == "\\":
            return self._escape(flags)
        self._position += 1
        if character == ".":
            return _Character(lambda c: c != "\n" or "s" in flags)
        if character in "^$":
            return _Edge(character == "^")
        return _Character(_one_of([(ord(character), ord(character))], False, flags))

    def _group(self, flags: _Flags) -> _Node:
        match = _FLAGS.match(self._text, self._position)
        named = _NAMED_GROUP.match(self._text, self._position)
        if match:
            flags = self._with(flags, match)
            self._position = match.end()
        elif named:
            self._position = named.end()
        elif self._text.startswith("(?", self._position):
            raise ValueError(
                f"has {self._text[self._position : self._position + 4]}, which RE2 does not have: "
                "look-around, conditions and atomic groups cannot be used"
            )
        else:
            self._position += 1
        node = self._choice(flags)
        if self._position >= len(self._text):
            raise ValueError("has a ( without its )")
        self._position += 1
        return node

    def _escape(self, flags: _Flags) -> _Node:
        following = self._text[self._position + 1 : self._position + 2]
        if following in ("A", "z"):
            self._position += 2
            return _Edge(following == "A")
        ranges = self._perl_class()
        if ranges is None:
            code = self._escaped_character()
            ranges = [(code, code)]
        return _Character(_one_of(ranges, False, flags))

    def _perl_class(self) -> list[_Range] | None:
        r"""Read \d, \w or the like, and return its ranges, or None if it is something else."""
        following = self._text[self._position + 1 : self._position + 2]
        if following.lower() not in _PERL or not following:
            return None
        self._position += 2
        ranges = _PERL[following.lower()]
        return ranges if following.islower() else _complement(ranges)

    def _escaped_character(self) -> int:
        for pattern, base in ((_HEX, 16), (_OCTAL, 8)):
            match = pattern.match(self._text, self._position)
            if match:
                self._position = match.end()
                code = int(next(group for group in match.groups() if group), base)
                if code > _HIGHEST:
                    raise ValueError(f"has {match[0]}, which is no character")
                return code
        following = self._text[self._position + 1 : self._position + 2]
        self._position += 2
        if not following:
            raise ValueError("ends with a single backslash")
        if following in _ESCAPES:
            return ord(_ESCAPES[following])
        if following.isascii() and not following.isalnum():
            return ord(following)
        if following.isdigit():
            raise ValueError(
                f"has \\{following}: RE2 has no references to what another group matched"
            )
        raise ValueError(f"has \\{following}, which is not supported")

    def _class(self, flags: _Flags) -> _Node:
        """Read a class of characters in square brackets."""
        self._position += 1
        is_negated = self._text.startswith("^", self._position)
        self._position += is_negated
        ranges: list[_Range] = []
        is_first = True
        while is_first or self._peek_in_class() != "]":
            ranges += self._class_item()
            is_first = False
        self._position += 1
        return _Character(_one_of(ranges, is_negated, flags))

    def _class_item(self) -> list[_Range]:
        posix = _POSIX.match(self._text, self._position)
        if posix:
            if posix[2] not in _POSIX_CLASSES:
                raise ValueError(f"has {posix[0]}, which is no class of characters")
            self._position = posix.end()
            ranges = _POSIX_CLASSES[posix[2]]
            return _complement(ranges) if posix[1] else ranges
        perl = self._perl_class() if self._peek_in_class() == "\\" else None
        if perl is not None:
            return perl
        low = self._class_character()
        if not self._is_range():
            return [(low, low)]
        self._position += 1
        high = self._class_character()
        if high < low:
            raise ValueError(f"has the range {chr(low)}-{chr(high)}, which is empty")
        return [(low, high)]

    def _is_range(self) -> bool:
        rest = self._text[self._position : self._position + 2]
        return len(rest) == 2 and rest[0] == "-" and rest[1] != "]"

    def _class_character(self) -> int:
        character = self._peek_in_class()
        if character == "\\":
            return self._escaped_character()
        self._position += 1
        return ord(character)

    def _peek(self) -> str:
        return self._text[self._position]

    def _peek_in_class(self) -> str:
        if self._position >= len(self._text):
            raise ValueError("has a [ without its ]")
        return self._peek()


def _complement(ranges: list[_Range]) -> list[_Range]:
    found, start = [], 0
    for low, high in sorted(ranges):
        if start < low:
            found.append((start, low - 1))
        start = high + 1
    return [*found, (start, _HIGHEST)]


def _one_of(ranges: list[_Range], is_negated: bool, flags: _Flags) -> _Predicate:
    """Return a predicate that holds for the characters in the ranges."""
    ignore_case = "i" in flags

    def is_in(character: str) -> bool:
        code = ord(character)
        return any(low <= code <= high for low, high in ranges)

    def accepts(character: str) -> bool:
        found = is_in(character)
        if ignore_case and not found:
            found = any(map(is_in, _other_cases(character)))
        return found != is_negated

    return accepts


def _other_cases(character: str) -> set[str]:
    """Return the single characters that differ from a character only in case."""
    cases = {character.lower(), character.upper()}
    cases |= {case.lower() for case in cases if len(case) == 1}
    return {case for case in cases if len(case) == 1}


_States = FrozenSet[int]


class _Automaton:
    """A nondeterministic automaton. A step from a set of states is computed once, and cached.

    Each state has either a predicate and the next state, an edge of the text and the next state,
    or any number of next states that need no character. State 0 is the end.
    """

    def __init__(self, node: _Node) -> None:
        self._accepts: list[_Predicate | None] = [None]
        self._edges: list[bool | None] = [None]  # True for the start of the text
        self._next: list[list[int]] = [[]]
        self._start = self._add(node, 0)
        self._steps: dict[tuple[_States, str], _States] = {}
        self._cached = 0

    def matches(self, text: str) -> bool:
        """Return True if the whole text leads from the first state to the end."""
        states = self._reached({self._start}, is_start=True, is_end=not text)
        last = len(text) - 1
        for position, character in enumerate(text):
            if position == last:
                states = self._step(states, character, is_end=True)
                break
            key = (states, character)
            found = self._steps.get(key)
            if found is None:
                found = self._step(states, character, is_end=False)
                self._remember(key, found)
            states = found
            if not states:
                return False
        return 0 in states

    def _remember(self, key: tuple[_States, str], found: _States) -> None:
        size = len(key[0]) + len(found) + 1
        if self._cached + size > _MAX_CACHED:
            self._steps.clear()
            self._cached = 0
        self._steps[key] = found
        self._cached += size

    def _step(self, states: _States, character: str, is_end: bool) -> _States:
        following: set[int] = set()
        for state in states:
            accepts = self._accepts[state]
            if accepts and accepts(character):
                following.update(self._next[state])
        return self._reached(following, is_start=False, is_end=is_end)

    def _reached(self, states: set[int], is_start: bool, is_end: bool) -> _States:
        """Return the states and those that they reach without a character."""
        found: set[int] = set()
        waiting = list(states)
        while waiting:
            state = waiting.pop()
            if state in found:
                continue
            found.add(state)
            edge = self._edges[state]
            is_open = edge is None or (is_start if edge else is_end)
            if self._accepts[state] is None and is_open:
                waiting += self._next[state]
        return frozenset(found)

    def _new(
        self, following: list[int], accepts: _Predicate | None = None, edge: bool | None = None
    ) -> int:
        if len(self._next) >= _MAX_STATES:
            raise ValueError("is too large: write fewer or smaller repetitions")
        self._accepts.append(accepts)
        self._edges.append(edge)
        self._next.append(following)
        return len(self._next) - 1

    def _add(self, node: _Node, following: int) -> int:
        """Add the states of a node that continues with `following`, and return its first state."""
        if isinstance(node, _Character):
            return self._new([following], accepts=node.accepts)
        if isinstance(node, _Edge):
            return self._new([following], edge=node.is_start)
        if isinstance(node, _Sequence):
            for part in reversed(node.parts):
                following = self._add(part, following)
            return following
        if isinstance(node, _Choice):
            return self._new([self._add(option, following) for option in node.options])
        return self._add_repeat(node, following)

    def _add_repeat(self, node: _Repeat, following: int) -> int:
        if node.most is None:
            again = self._new([following])
            self._next[again].append(self._add(node.part, again))
            following = again
        else:
            end = following
            for _ in range(node.most - node.least):
                following = self._new([self._add(node.part, following), end])
        for _ in range(node.least):
            first = self._add(node.part, following)
            if first == following:  # the part is empty, however often it is repeated
                break
            following = first
        return following
