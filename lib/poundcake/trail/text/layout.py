"""Lay out text for a terminal: lines, tables, times, and the frame of a view.

The text of a view fits into a number of columns, 80 by default. `sanitize` makes all text in a view
safe first, because text from a sender or a host must not break the layout. Widths are those of a
terminal: a Chinese character takes two columns, and an accent takes none.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import datetime, timedelta, timezone
from typing import Any, Mapping, Sequence

from wcwidth import wcwidth

from poundcake.inert import LEFT_TO_RIGHT_MARK, one_line
from poundcake.timestamps import format_duration, format_timestamp, parse_timestamp
from poundcake.trail.clock import format_deadline

DEFAULT_WIDTH = 80
MIN_WIDTH = 40
MAX_WIDTH = 500

_COLUMN_GAP = "  "
# The narrowest column into which a table wraps text.
_MIN_TEXT_COLUMN = 16
_NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"
# What a person copies from a line: a command, an id or a URL. The limits on the lengths keep a
# sender from filling the screen with one.
_UNBREAKABLE = re.compile(
    rf".*{_NO_BREAK_SPACE}.*"
    r"|\W*[0-9a-f]{16,64}(?:-\d{1,15})?\W*"
    r"|\W*[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\W*"
    r"|\W?https?://[!-~]{1,500}"
)
# Terminals disagree on the width of an emoji with a variation selector.
_VARIATION_SELECTOR = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")
"""A time as the views contain it in JSON and in sentences."""
_COMMAND = re.compile("`st2 [^`]{1,150}`|st2 inquiry respond [0-9a-f]{24}")
_MAX_MARKS = 2  # combining characters on one character: Vietnamese letters have two


def sanitize(value: Any) -> Any:
    """Return the view with all text made safe: it cannot forge a line or break a column.

    Text loses line breaks, control characters and invisible characters, and a character keeps at
    most two accents. Text that is written from right to left cannot reorder the rest of its line.
    """
    if isinstance(value, str):
        return _isolate(_limit_marks(one_line(_VARIATION_SELECTOR.sub("", value))))
    if isinstance(value, dict):
        return {sanitize(key): sanitize(item) for key, item in value.items()}
    if isinstance(value, list):
        return [sanitize(item) for item in value]
    return value


def _limit_marks(text: str) -> str:
    if text.isascii():
        return text
    kept: list[str] = []
    marks = 0
    for character in text:
        marks = marks + 1 if wcwidth(character) == 0 else 0
        if marks <= _MAX_MARKS:
            kept.append(character)
    return "".join(kept)


def _isolate(text: str) -> str:
    """Enclose text with right-to-left letters in marks, so that only the text itself is reordered.

    Without the marks, a terminal that supports these letters would also reorder the numbers and the
    columns that follow them.
    """
    if text.isascii():
        return text
    text = text.strip(LEFT_TO_RIGHT_MARK)
    if not any(unicodedata.bidirectional(character) in ("R", "AL", "AN") for character in text):
        return text
    return f"{LEFT_TO_RIGHT_MARK}{text}{LEFT_TO_RIGHT_MARK}"


def display_width(text: str) -> int:
    """Return how many columns a text takes on a terminal, at most."""
    if text.isascii():
        return len(text)
    return sum(max(0, wcwidth(character)) for character in text)


def pad(text: str, columns: int) -> str:
    """Return the text with spaces added until it takes this many columns."""
    return text + " " * (columns - display_width(text))


def shorten(text: str, columns: int) -> str:
    """Return the text, with its end replaced by "…" if it takes more columns than this."""
    if display_width(text) <= columns:
        return text
    start, _ = _split(text, columns - 1)
    if display_width(start) >= columns:  # not even its first character fits
        start = ""
    return _isolate(start.rstrip() + "…")


def _split(text: str, columns: int) -> tuple[str, str]:
    """Split a text after this many columns, but after its first character at the earliest."""
    width = 0
    for position, character in enumerate(text):
        width += max(0, wcwidth(character))
        if width > columns and position:
            return text[:position], text[position:]
    return text, ""


def unbreakable(text: str) -> str:
    """Return text, such as a command, that `wrap` keeps on one line even if it is too long."""
    return text.replace(" ", _NO_BREAK_SPACE)


def _is_unbreakable(word: str) -> bool:
    return bool(_UNBREAKABLE.fullmatch(word.strip(LEFT_TO_RIGHT_MARK)))


def wrap(text: str, width: int, indent: str = "") -> list[str]:
    """Break a line between words into lines that fit.

    A word that is longer than a line is broken, unless it is an id, a URL or `unbreakable`.

    Args:
        text: The line. Its own indentation and the spaces inside it are kept.
        width: The number of columns.
        indent: The indentation of all lines but the first.
    """
    lines: list[str] = []
    line = ""
    for spaces, word in re.findall(r"( *)([^ ]+)", text):
        rest = spaces + word
        if line.strip() and display_width(line + rest) > width:
            lines.append(line)
            line, rest = indent, word
        while display_width(line + rest) > width and not _is_unbreakable(word):
            start, end = _split(rest, width - display_width(line))
            if not end:
                break
            lines.append(line + start)
            line, rest = indent, end
        line += rest
    return [_isolate(line).replace(_NO_BREAK_SPACE, " ") for line in [*lines, line]]


def wrap_all(lines: Sequence[str], width: int, indent: str = "  ") -> list[str]:
    """Wrap each line. Its continuation is indented by `indent` more than the line itself."""
    wrapped: list[str] = []
    for line in lines:
        own_indent = line[: len(line) - len(line.lstrip(" "))]
        wrapped += wrap(line, width, own_indent + indent)
    return wrapped


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[Any]],
    width: int = DEFAULT_WIDTH,
    fixed: Sequence[str] = (),
) -> list[str]:
    """Return the lines of a table that shows every cell in full.

    If the table is too wide, text is wrapped inside its column, widest column first. If that is not
    enough, each row becomes a block with one line for each cell that is not empty.

    Args:
        headings: The heading of each column.
        rows: The cells of each row; None is an empty cell.
        width: The number of columns of the terminal.
        fixed: The headings of the columns that are never wrapped.
    """
    titles = [heading.upper() for heading in headings]
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    columns = list(zip(titles, *cells))
    widths = [max(map(display_width, column)) for column in columns]
    min_widths = [
        column_width if heading in fixed else min(column_width, _min_text_width(column))
        for heading, column, column_width in zip(headings, columns, widths)
    ]
    available = width - len(_COLUMN_GAP) * (len(widths) - 1)
    if sum(min_widths) > available:
        return _blocks(titles, cells, width)
    while sum(widths) > available:
        shrinkable = [n for n, minimum in enumerate(min_widths) if widths[n] > minimum]
        widths[max(shrinkable, key=lambda n: widths[n])] -= 1
    return [line for row in [titles, *cells] for line in _table_lines(row, widths)]


def _min_text_width(column: Sequence[str]) -> int:
    """Return the narrowest width of a column in which its text can be read."""
    words = [word for cell in column[1:] for word in cell.split(" ") if _is_unbreakable(word)]
    return max([display_width(column[0]), _MIN_TEXT_COLUMN, *map(display_width, words)])


def _table_lines(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    wrapped = [wrap(cell, width) for cell, width in zip(row, widths)]
    lines = []
    for number in range(max(map(len, wrapped))):
        parts = [cell[number] if number < len(cell) else "" for cell in wrapped]
        padded = [pad(part, width) for part, width in zip(parts, widths)]
        lines.append(_COLUMN_GAP.join(padded).rstrip())
    return lines


def _blocks(titles: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return one block for each row, with one line for each cell that is not empty."""
    title_width = max(map(display_width, titles))
    indent = " " * (title_width + len(_COLUMN_GAP)) if width >= DEFAULT_WIDTH else "  "
    lines: list[str] = []
    for row in rows:
        if lines:
            lines.append("")
        for title, cell in zip(titles, row):
            if cell:
                lines += wrap(pad(title, title_width) + _COLUMN_GAP + cell, width, indent)
    return lines


def alert_text(alert: Mapping[str, Any]) -> str:
    """Return the name of an alert and its instance, if it has one."""
    return " ".join(filter(None, (alert["alert_name"] or "(no name)", alert["instance"])))


def label_text(labels: Mapping[str, str]) -> str:
    """Return labels as text: ``cluster=eu-1 team=infra``.

    A value with a space or an equals sign is quoted, so that it cannot imitate a second label.
    """
    return " ".join(f"{name}={_quote(value)}" for name, value in labels.items())


def _quote(value: str) -> str:
    value = value.replace('"', "'")
    return f'"{value}"' if re.search("[ =]", value) or not value else value


def next_lines(*commands: str) -> list[str]:
    """Return the commands that are useful next, one a line."""
    prefixes = ["next: ", *["      "] * len(commands)]
    return [prefix + unbreakable(command) for prefix, command in zip(prefixes, commands)]


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 alert", "2 alerts"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def format_total(view: Mapping[str, Any], key: str, noun: str) -> str:
    """Return how many rows a view has in total: "12 alerts", or "at least 1000 alerts"."""
    return f"{'at least ' if view.get('at_least') else ''}{counted(view[key], noun)}"


def footer_lines(view: Mapping[str, Any]) -> list[str]:
    """Return the hint for the next page and the problem with StackStorm's API, if any."""
    lines = [f"more: before={view['next']}"] if view.get("next") else []
    if view.get("stackstorm"):
        lines.append(f"stackstorm: {view['stackstorm']}")
    return lines


def _parse(moment: str | None) -> datetime | None:
    try:
        return parse_timestamp(moment)
    except ValueError:  # an endpoint of another version may report a time in another format
        return None


def format_time(moment: str | None, now: datetime) -> str:
    """Return a time to the second in UTC, with its date unless it is today."""
    parsed_moment = _parse(moment)
    if parsed_moment is None:
        return moment or ""
    if parsed_moment.date() == now.astimezone(timezone.utc).date():
        return f"{parsed_moment:%H:%M:%SZ}"
    return f"{parsed_moment:%Y-%m-%d %H:%M:%SZ}"


def format_deadline_time(moment: str | None, now: datetime) -> str:
    """Return a deadline like format_time(), but rounded up, as format_deadline() rounds it."""
    parsed_moment = _parse(moment)
    return format_time(format_deadline(parsed_moment) if parsed_moment else moment, now)


def add_remaining(text: str, now: datetime, tolerance: timedelta = timedelta(0)) -> str:
    """Return a text that also says how long it is until each time in the future.

    Args:
        text: The text.
        now: The current time.
        tolerance: The time that may have passed since the text was written. It is added, so that
            an hour is not shown as 59 minutes.
    """

    def with_remaining(match: re.Match[str]) -> str:
        moment = parse_timestamp(match[0])
        if moment is None or moment <= now:
            return match[0]
        remaining = format_elapsed(format_timestamp(now), moment + tolerance)
        return f"{match[0]} (in {unbreakable(remaining)})"

    return TIME.sub(with_remaining, text)


def format_sentence(text: str, now: datetime) -> str:
    """Return a sentence with its times as format_time() shows them, and its commands unbreakable.

    A command stands between backticks, except the one that answers a request for approval.
    """
    text = TIME.sub(lambda match: format_time(match[0], now), text)
    return _COMMAND.sub(lambda match: unbreakable(match[0]), text)


def format_age(moment: str | None, now: datetime) -> str:
    """Return how long ago a time was, for example "12 min ago"."""
    return f"{format_elapsed(moment, now)} ago"


def format_elapsed(moment: str | None, now: datetime) -> str:
    """Return how long it is since a time, for example "12 min"."""
    parsed_moment = _parse(moment)
    seconds = max(0, int((now - parsed_moment).total_seconds())) if parsed_moment else 0
    for unit, size, limit in (("s", 1, 90), ("min", 60, 90 * 60), ("h", 3600, 36 * 3600)):
        if seconds < limit:
            return f"{seconds // size} {unit}"
    return counted(seconds // 86400, "day")


def format_seconds(seconds: float | None, prefix: str = "") -> str:
    """Return a duration as text: "0.4 s", "12 s" or "3 min"; '' if it is not known.

    Args:
        seconds: The duration.
        prefix: What to put before a known duration.
    """
    if seconds is None:
        return ""
    return prefix + unbreakable(format_duration(seconds))


def join_lines(lines: Sequence[str], width: int = DEFAULT_WIDTH) -> str:
    """Return the lines of a view as one text, wrapped where they are too long.

    Do not pass lines that were wrapped before: their commands are no longer `unbreakable`.
    """
    # `st2 run` prints "result: " before the first line, which would shift its columns.
    return "\n" + "\n".join(wrap_all(lines, width))
