"""Draw small charts as SVG: stacked bars for counts, and lines for durations.

A chart needs neither a script nor a style sheet. It is drawn in the colour of the text, and the
style sheet may give each series another colour. The series also differ in their shapes, for people
who do not see the colours. Screen readers read a chart's title and a summary of its values, and
data_table() returns all values as a table.
"""

from __future__ import annotations

from typing import Any, Callable, Iterable, Iterator, NamedTuple, Sequence, Tuple

from markupsafe import Markup

from poundcake.timestamps import format_duration

# In the units of the SVG, which are pixels where the chart is as small as it gets.
_WIDTH, _HEIGHT = 320, 120
_LEFT, _RIGHT, _TOP, _BASE = 42, 314, 12, 102
_MAX_BAR_WIDTH = 24.0
_BAR_SHARE = 0.8  # of the space for a bar
_NARROW_SHARE = 0.5  # of the width of a bar
_GAP = 0.4  # above each part of a bar
_DOT = 1.5  # the radius
_STROKE = 1.4
_STEPS_OF_SECONDS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 18_000, 36_000)
_DAY = 86_400

Point = Tuple[float, float]


class Series(NamedTuple):
    """A series of values.

    Attributes:
        name: Its name.
        kind: The end of its CSS class `series-KIND`, which gives it a colour.
        shape: `solid`, `hollow` or `narrow` bars; a `line` or a `dashed` line.
        values: A value for each label, or None.
    """

    name: str
    kind: str
    shape: str
    values: Sequence[float | None] = ()


# Templates pass the fields of each series.
AnySeries = Iterable[Sequence[Any]]


def bar_chart(title: str, labels: Sequence[str], series: AnySeries) -> Markup:
    """Return a chart of counts, with one bar for each label, in which the series are stacked.

    Args:
        title: What the chart shows.
        labels: The labels, from left to right.
        series: The series, or their fields, from the bottom to the top.
    """
    stack = [Series(*each) for each in series]
    columns = [[each.values[number] or 0 for each in stack] for number in range(len(labels))]
    top = _count_above(max(map(sum, columns), default=0))
    outlines = [""] * len(stack)
    for column, (center, space) in zip(columns, _slots(labels)):
        width = min(_MAX_BAR_WIDTH, space * _BAR_SHARE)
        below: float = 0
        for index, value in enumerate(column):
            if value:
                ends = (_height(below / top), _height((below + value) / top) + _GAP)
                outlines[index] += _bar(center, width, *ends, stack[index].shape)
            below += value
    drawn = [_path(each, outline) for each, outline in zip(stack, outlines) if outline]
    totals = [f"{each.name}: {_count(sum(v or 0 for v in each.values))}" for each in stack]
    return _svg(title, labels, totals, _count(top), drawn)


def line_chart(title: str, labels: Sequence[str], series: AnySeries) -> Markup:
    """Return a chart of durations in seconds, with one line for each series.

    A line has a gap where the value is None.

    Args:
        title: What the chart shows.
        labels: The labels, from left to right.
        series: The series, or their fields.
    """
    lines = [Series(*each) for each in series]
    top = _seconds_above(max((value or 0 for each in lines for value in each.values), default=0))
    drawn = []
    for each in lines:
        points = [
            None if value is None else (center, _height(value / top))
            for value, (center, _) in zip(each.values, _slots(labels))
        ]
        dots = "".join(_dot(*point) for point in points if point)
        if dots:
            drawn += [_path(each, _line(points)), _path(each._replace(shape="solid"), dots)]
    ranges = [f"{each.name}: {_describe_range(each.values)}" for each in lines]
    return _svg(title, labels, ranges, format_duration(top), drawn)


def legend(series: AnySeries) -> Markup:
    """Return a list of the series with a sample of each."""
    items = []
    for each in (Series(*each) for each in series):
        is_line = each.shape in ("line", "dashed")
        sample = "M0,6H14" if is_line else _bar(7, 10, 11, 1, each.shape)
        items.append(
            Markup(
                '<li><svg viewBox="0 0 14 12" width="14" height="12" aria-hidden="true">{}</svg> '
                "{}</li>"
            ).format(_path(each, sample), each.name)
        )
    return Markup('<ul class="legend">{}</ul>').format(Markup().join(items))


def data_table(
    caption: str,
    heading: str,
    labels: Sequence[str],
    counts: AnySeries,
    durations: AnySeries = (),
) -> Markup:
    """Return the values of charts as a table, without the labels that have none.

    Args:
        caption: What the table shows.
        heading: The heading of the labels.
        labels: The labels of the charts.
        counts: The series of a chart of counts.
        durations: The series of a chart of durations.
    """
    columns: list[tuple[Series, Callable[[Any], str]]] = [
        *((Series(*each), _count) for each in counts),
        *((Series(*each), _seconds) for each in durations),
    ]
    names = [heading, *(each.name for each, _ in columns)]
    head = Markup().join(Markup('<th scope="col">{}</th>').format(name) for name in names)
    rows = []
    for number, label in enumerate(labels):
        values = [(each.values[number], text) for each, text in columns]
        if any(value for value, _ in values):
            cells = Markup().join(Markup("<td>{}</td>").format(text(v)) for v, text in values)
            rows.append(Markup('<tr><th scope="row">{}</th>{}</tr>').format(label, cells))
    return Markup(
        '<table class="data"><caption>{}</caption><thead><tr>{}</tr></thead>'
        "<tbody>{}</tbody></table>"
    ).format(caption, head, Markup("\n").join(rows))


def _svg(
    title: str,
    labels: Sequence[str],
    values: Sequence[str],
    top: str,
    drawn: Sequence[Markup],
) -> Markup:
    """Return the chart with its frame.

    Args:
        title: The title.
        labels: The labels of the horizontal axis, of which the first and the last are shown.
        values: A summary of each series.
        top: The value at the top of the vertical axis.
        drawn: The series.
    """
    first, last = (labels[0], labels[-1]) if labels else ("", "")
    text = Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format
    return Markup(
        '<svg class="chart" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" font-size="10" fill="currentColor"><title>{title}</title><desc>{desc}</desc>'
        '<path d="M{left},{top_y}H{right}M{left},{base}H{right}" stroke="currentColor" '
        'stroke-width="0.5"/>{texts}{drawn}</svg>'
    ).format(
        width=_WIDTH,
        height=_HEIGHT,
        title=title,
        desc=f"{first} to {last}. {', '.join(values)}.",
        left=_LEFT,
        right=_RIGHT,
        top_y=_TOP,
        base=_BASE,
        texts=Markup().join(
            [
                text(_LEFT - 4, _TOP + 4, "end", top),
                text(_LEFT - 4, _BASE + 3, "end", "0"),
                text(_LEFT, _HEIGHT - 4, "start", first),
                text(_RIGHT, _HEIGHT - 4, "end", last if last != first else ""),
            ]
        ),
        drawn=Markup().join(drawn),
    )


def _path(series: Series, outline: str) -> Markup:
    is_filled = series.shape in ("solid", "narrow")
    stroke = Markup(' fill="none" stroke="currentColor" stroke-width="{}"').format(_STROKE)
    dashes = Markup(' stroke-dasharray="4 3"') if series.shape == "dashed" else Markup()
    style = Markup(' fill="currentColor"') if is_filled else stroke + dashes
    return Markup('<path class="series-{}"{} d="{}"/>').format(series.kind, style, outline)


def _slots(labels: Sequence[str]) -> Iterator[Point]:
    """Yield the center of the space for each label, and its width."""
    width = (_RIGHT - _LEFT) / max(1, len(labels))
    for number in range(len(labels)):
        yield _LEFT + (number + 0.5) * width, width


def _height(share: float) -> float:
    """Return the position on the vertical axis of a share of its highest value."""
    return _BASE - share * (_BASE - _TOP)


def _bar(center: float, width: float, bottom: float, top: float, shape: str) -> str:
    width *= _NARROW_SHARE if shape == "narrow" else 1
    # A line reaches beyond the outline by half its width.
    inset = _STROKE / 2 if shape == "hollow" else 0
    left, right = center - width / 2 + inset, center + width / 2 - inset
    low, high = bottom - inset, min(bottom - inset, top + inset)
    return f"M{left:.1f},{low:.1f}V{high:.1f}H{right:.1f}V{low:.1f}Z"


def _line(points: Sequence[Point | None]) -> str:
    parts = []
    is_drawing = False
    for point in points:
        if point:
            parts.append(f"{'L' if is_drawing else 'M'}{point[0]:.1f},{point[1]:.1f}")
        is_drawing = bool(point)
    return "".join(parts)


def _dot(x: float, y: float) -> str:
    half = f"a{_DOT},{_DOT} 0 1 0"
    return f"M{x - _DOT:.1f},{y:.1f}{half} {2 * _DOT},0{half} {-2 * _DOT},0"


def _count_above(highest: float) -> int:
    """Return a round number that is at least as high as a count, and at least 1."""
    size = 1
    while True:
        for step in (1, 2, 5):
            if step * size >= highest:
                return step * size
        size *= 10


def _seconds_above(highest: float) -> int:
    """Return a round number of seconds that is at least as high, and at least 1."""
    steps = (step for step in _STEPS_OF_SECONDS if step >= highest)
    return next(steps, _DAY * _count_above(highest / _DAY))


def _count(value: float | None) -> str:
    return f"{value or 0:.0f}"


def _seconds(value: float | None) -> str:
    return "" if value is None else format_duration(value)


def _describe_range(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "none"
    return f"{format_duration(min(known))} to {format_duration(max(known))}"
