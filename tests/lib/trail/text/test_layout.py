"""Text fits its width, shows every cell, and cannot be forged by what a sender writes."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wcwidth import wcwidth

from poundcake.inert import make_lines_inert
from poundcake.trail.text import layout
from poundcake.trail.text.layout import display_width, pad, sanitize, shorten, table, wrap
from tests.lib.samples import later

REQUEST_ID = "6b3a1c1e-9c51-4f0e-a3a4-0d0f6a1f7a10"
EXECUTION_ID = "6b07571f6f1ddeba7bba81d1"
COMMAND = "st2 run poundcake.why format=text fingerprint=6b07571f6f1ddeba"
HEBREW = "שרת"
MARK = "\N{LEFT-TO-RIGHT MARK}"

# Letters of one and of two columns, accents, right-to-left letters and digits, an emoji with its
# modifiers, line breaks, escape sequences, and the marks that change the direction of text.
hostile_texts = st.text(
    alphabet="ab 1-=\"'\\n中文áشء٣e\u0301\u0336\u200b\u200d\u2066\u202e\u2069"
    "👩🏽\ufe0f🇩🇪\n\r\x1b[\x9b\x00\u2028\u3000",
    max_size=60,
) | st.text(max_size=30)
widths = st.integers(min_value=layout.MIN_WIDTH, max_value=120)


@given(hostile_texts)
@example("\x1b[2J\x1b]0;owned\x07\r\x08\x9b31m\u202e\nforged\x00\\nforged\u2028x")
def test_sanitized_text_is_one_printable_line(text):
    safe = sanitize(text)
    assert all(character == MARK or character.isprintable() for character in safe)
    assert "\\" not in safe  # `st2 run` prints a backslash and an n as a line break
    assert "  " not in safe
    assert not any(wcwidth(character) < 0 for character in safe)
    assert sanitize(safe) == safe


def test_keys_are_sanitized_too():
    assert sanitize({"labels": {"a\nb": ["c\nd"]}}) == {"labels": {"a b": ["c d"]}}


def test_a_character_keeps_two_accents():
    assert sanitize("e" + "\u0336" * 50 + "x") == "e\u0336\u0336x"
    assert sanitize("\u1ec7") == "\u1ec7"


@given(hostile_texts)
def test_text_is_padded_and_shortened_to_a_number_of_columns(text):
    safe = sanitize(text)
    for columns in (1, 5, 20):
        assert display_width(shorten(safe, columns)) <= columns
        assert display_width(pad(shorten(safe, columns), columns)) == columns


def test_shortened_text_ends_with_an_ellipsis():
    assert shorten("HostDown", 8) == "HostDown"
    assert shorten("HostDown", 7) == "HostDo…"
    assert shorten("中文中文", 6) == "中文…"
    assert shorten("a bcd", 3) == "a…"


@given(hostile_texts, widths)
def test_wrapped_text_fits_and_loses_nothing(text, width):
    safe = sanitize(text)
    lines = wrap(safe, width, "    ")
    assert all(display_width(line) <= width for line in lines)
    assert all(line.startswith((" ", MARK)) for line in lines[1:])
    letters = "".join(lines).replace(MARK, "").replace(" ", "")
    assert letters == safe.replace(MARK, "").replace(" ", "")


@pytest.mark.parametrize("whole", [REQUEST_ID, EXECUTION_ID, "6b07571f6f1ddeba-1768392000000"])
def test_an_id_is_never_broken(whole):
    for length in range(60):
        assert any(whole in line for line in wrap("x" * length + f" ({whole}), y", 40, "  "))


def test_a_command_and_a_url_are_never_broken():
    for length in range(90):
        lines = wrap("x" * length + " " + layout.unbreakable(COMMAND), 80, "  ")
        assert any(COMMAND in line for line in lines)
    url = "https://runbooks.example/" + "kubernetes/" * 10
    assert wrap(f"runbook {url}", 80, "  ") == ["runbook", f"  {url}"]
    assert len(wrap("x" * 100, 80)) == 2
    assert len(wrap("a" * 100, 80)) == 2  # longer than any id, so it is not one


def test_the_indentation_and_the_columns_of_a_line_are_kept():
    assert wrap("  22:01:04Z  disk full", 80) == ["  22:01:04Z  disk full"]
    assert wrap("  22:01:04Z  disk full", 20, "    ") == ["  22:01:04Z  disk", "    full"]
    assert layout.wrap_all(["", "  one two", "x"], 7) == ["", "  one", "    two", "x"]


cells = st.lists(hostile_texts, min_size=3, max_size=3)


@given(st.lists(cells, max_size=4), widths)
def test_a_table_fits_and_shows_every_cell(rows, width):
    safe_rows = sanitize(rows)
    lines = table(("one", "two", "id"), safe_rows, width, fixed=("two",))
    fixed_width = max([0, *(display_width(row[1]) for row in safe_rows)])
    for line in lines:
        assert display_width(line) <= max(width, fixed_width + 2)
        assert line.replace(MARK, "").isprintable()
    shown = "".join(lines)
    for row in safe_rows:
        for cell in row:
            assert all(character in shown for character in cell if character != MARK)


def test_the_columns_of_a_table_are_aligned():
    lines = table(("a", "long heading"), [("wide cell", None), ("", 5), ("中文", "x")])
    assert lines == ["A          LONG HEADING", "wide cell", "           5", "中文       x"]


def test_a_table_wraps_its_widest_text():
    row = [EXECUTION_ID, "web-1", "the service did not come back within sixty seconds"]
    assert table(("execution", "host", "message"), [row], 60, fixed=("execution",)) == [
        "EXECUTION                 HOST   MESSAGE",
        "6b07571f6f1ddeba7bba81d1  web-1  the service did not come",
        "                                 back within sixty seconds",
    ]


def test_a_table_that_cannot_fit_has_a_block_for_each_row():
    rows = [[REQUEST_ID, EXECUTION_ID, "done"], [REQUEST_ID, "", "failed"]]
    assert table(("request", "execution", "result"), rows, 60, ("request", "execution")) == [
        f"REQUEST    {REQUEST_ID}",
        f"EXECUTION  {EXECUTION_ID}",
        "RESULT     done",
        "",
        f"REQUEST    {REQUEST_ID}",
        "RESULT     failed",
    ]


def on_screen(line):
    """Return a line as a terminal with support for right-to-left text shows it.

    This is the part of the Unicode bidirectional algorithm (UAX 9) that the views need: no
    explicit marks, and letters, digits and neutral characters on one line.
    """
    types = [unicodedata.bidirectional(character) for character in line]
    types = ["R" if kind == "AL" else kind for kind in types]
    strong = next((kind for kind in types if kind in "LR"), "L")
    last_strong = strong
    for position, kind in enumerate(types):  # W7: digits after L become L
        if kind in ("L", "R"):
            last_strong = kind
        elif kind == "EN" and last_strong == "L":
            types[position] = "L"
    position = 0
    # N1, N2: neutral characters between two of the same direction take that direction, and others
    # take the direction of the line.
    while position < len(types):
        end = position
        while end < len(types) and types[end] not in ("L", "R", "EN", "AN"):
            end += 1
        if end > position:
            before = types[position - 1] if position else strong
            after = types[end] if end < len(types) else strong
            sides = {"R" if side in ("EN", "AN") else side for side in (before, after)}
            types[position:end] = [sides.pop() if len(sides) == 1 else strong] * (end - position)
        position = end + 1
    base = 1 if strong == "R" else 0
    levels = []
    for kind in types:
        right_to_left = {"L": base + base % 2, "R": 1, "EN": 2, "AN": 2}
        levels.append(right_to_left[kind])
    order = list(range(len(line)))
    for level in range(max([0, *levels]), 0, -1):  # L2
        start = 0
        while start < len(order):
            end = start
            while end < len(order) and levels[order[end]] >= level:
                end += 1
            order[start:end] = reversed(order[start:end])
            start = max(end, start + 1)
    return "".join(line[n] for n in order if line[n] != MARK)


def test_right_to_left_text_cannot_swap_columns():
    raw = f"{HEBREW}  12 alerts"
    assert on_screen(raw) != f"{HEBREW[::-1]}  12 alerts"  # what happens without the marks
    assert on_screen(sanitize(HEBREW) + "  12 alerts") == f"{HEBREW[::-1]}  12 alerts"
    rows = sanitize([[HEBREW, HEBREW, "5"], ["web-1", f"{HEBREW} 7", "6"]])
    lines = table(("alert", "instance", "count"), rows)
    assert [on_screen(line).split() for line in lines[1:]] == [
        [HEBREW[::-1], HEBREW[::-1], "5"],
        ["web-1", "7", HEBREW[::-1], "6"],
    ]
    assert on_screen(shorten(sanitize(HEBREW * 9), 6) + "  12") == (
        (HEBREW * 9)[:5][::-1] + "…  12"
    )
    for line in wrap(sanitize(f"{HEBREW} " * 20) + " 12 alerts", 40):
        assert on_screen(line).strip().endswith("12 alerts") or "alerts" not in line


def test_the_marks_reach_the_terminal():
    line = sanitize(f"{HEBREW}\u202e\u200f")
    assert make_lines_inert(line) == line == f"{MARK}{HEBREW}{MARK}"


@pytest.mark.parametrize(
    "labels, shown",
    [
        ({"cluster": "eu-1", "team": "infra"}, "cluster=eu-1 team=infra"),
        ({"path": "/a team=infra"}, 'path="/a team=infra"'),
        ({"path": '/a" team="infra'}, "path=\"/a' team='infra\""),
        ({"empty": ""}, 'empty=""'),
        ({}, ""),
    ],
)
def test_a_label_cannot_imitate_a_second_one(labels, shown):
    assert layout.label_text(labels) == shown


def test_the_next_commands_are_aligned():
    lines = layout.next_lines("st2 run one", "st2 run two")
    assert layout.wrap_all(lines, 80) == ["next: st2 run one", "      st2 run two"]
    assert layout.wrap_all(layout.next_lines(COMMAND), 40) == ["next:", f"  {COMMAND}"]


@pytest.mark.parametrize(
    "moment, shown",
    [
        ("2026-01-14T12:00:04.123456Z", "12:00:04Z"),
        ("2026-01-14T13:30:00.5+02:00", "11:30:00Z"),
        ("2026-01-13T23:59:59.999999Z", "2026-01-13 23:59:59Z"),
        ("x", "x"),
        (None, ""),
    ],
)
def test_times_have_seconds_and_a_date_unless_it_is_today(moment, shown):
    assert layout.format_time(moment, later(0)) == shown


def test_ages():
    assert layout.format_age("2026-01-14T12:00:00Z", later(720)) == "12 min ago"
    assert layout.format_elapsed("2026-01-14T12:00:00Z", later(172_800)) == "2 days"


@pytest.mark.parametrize(
    "seconds, duration",
    [(None, ""), (0.04, "after 0.0 s"), (9.9, "after 9.9 s"), (179, "after 179 s")]
    + [(180, "after 3 min")],
)
def test_a_duration_stays_with_its_unit(seconds, duration):
    text = layout.format_seconds(seconds, "after ")
    assert wrap(text, 80) == [duration]
    assert not duration or wrap("x" * 32 + " " + text, 41)[-1] == duration.split(" ", 1)[1]
