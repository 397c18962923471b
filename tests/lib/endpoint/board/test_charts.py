"""The charts show the values that they are given, to people who see them and who do not."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from poundcake.endpoint.board.charts import Series, bar_chart, data_table, legend, line_chart

SVG = "{http://www.w3.org/2000/svg}"
DAYS = ["2026-01-12", "2026-01-13", "2026-01-14"]
CLEARED = Series("Cleared", "cleared", "solid", [1, 0, 4])
FAILED = Series("Failed", "failed", "narrow", [1, 2, 0])
TO_CLEAR = Series("Time to clear", "cleared", "line", [30.0, None, 240.5])
HOSTILE = '</title><script>alert(1)</script>"&'


def parse(markup):
    """Return the root of a chart. XML has no `&nbsp;` or unclosed elements, so it is valid HTML."""
    return ElementTree.fromstring(markup)


def bars(root, kind):
    """Return (left, bottom, top, right) of each bar of a series."""
    (path,) = [p for p in root.iter("path") if p.get("class") == f"series-{kind}"]
    found = re.findall(r"M([\d.]+),([\d.]+)V([\d.]+)H([\d.]+)V[\d.]+Z", path.get("d"))
    return [tuple(map(float, bar)) for bar in found]


def texts(root):
    return [text.text for text in root.iter("text")]


def test_a_chart_is_one_image_with_a_title_and_a_summary():
    root = parse(bar_chart("poundcake.host_down, per day", DAYS, [CLEARED, FAILED]))
    assert root.get("role") == "img"
    assert [child.tag for child in root][:2] == ["title", "desc"]
    assert root[0].text == "poundcake.host_down, per day"
    assert root[1].text == "2026-01-12 to 2026-01-14. Cleared: 5, Failed: 3."
    root = parse(line_chart("x", DAYS, [TO_CLEAR, Series("Duration", "d", "dashed", [None] * 3)]))
    assert root[1].text == "2026-01-12 to 2026-01-14. Time to clear: 30 s to 4 min, Duration: none."


def test_bars_are_stacked_to_scale():
    root = parse(bar_chart("x", DAYS, [CLEARED, FAILED]))
    # The axis ends at 5: the highest bar has 4.
    assert texts(root) == ["5", "0", "2026-01-12", "2026-01-14"]
    first, third = bars(root, "cleared")
    assert first[1] == third[1] == 102  # the axis
    unit = 90 / 5
    assert first[2] == pytest.approx(102 - unit, abs=1)
    assert third[2] == pytest.approx(102 - 4 * unit, abs=1)
    stacked, alone = bars(root, "failed")
    assert stacked[1] == pytest.approx(102 - unit, abs=1)
    assert alone[1] == 102
    # The bars of one day share a center, and a narrow one is narrower.
    assert first[0] + first[3] == pytest.approx(stacked[0] + stacked[3], abs=0.2)
    assert first[3] - first[0] > stacked[3] - stacked[0]
    assert first[3] < alone[0] < alone[3] < third[0]


def test_the_colour_is_that_of_the_text_or_of_the_style_sheet():
    hollow = Series("Refused", "refused", "hollow", [1, 1, 1])
    markup = bar_chart("x", DAYS, [CLEARED, hollow]) + line_chart("y", DAYS, [TO_CLEAR])
    assert set(re.findall(r'(?:fill|stroke)="([^"]*)"', markup)) == {"currentColor", "none"}
    # The Content-Security-Policy allows neither.
    assert "style=" not in markup and "<script" not in markup


def test_a_line_has_a_gap_and_a_dot_where_values_are_missing():
    root = parse(line_chart("x", DAYS, [TO_CLEAR]))
    line, dots = [p.get("d") for p in root.iter("path") if p.get("class") == "series-cleared"]
    assert line.count("M") == 2 and "L" not in line
    assert dots.count("M") == 2
    values = [30.0, 60.0, 240.5]
    root = parse(line_chart("x", DAYS, [TO_CLEAR._replace(values=values, shape="dashed")]))
    line, dots = [p for p in root.iter("path") if p.get("class") == "series-cleared"]
    assert line.get("d").count("L") == 2 and line.get("stroke-dasharray")
    heights = [float(y) for y in re.findall(r"[ML][\d.]+,([\d.]+)", line.get("d"))]
    assert heights == [pytest.approx(102 - 90 * value / 300, abs=0.1) for value in values]
    assert texts(root)[0] == "5 min"


@pytest.mark.parametrize(
    ("highest", "top"), [(0, "1"), (1, "1"), (3, "5"), (6, "10"), (11, "20"), (60, "100")]
)
def test_the_axis_of_counts_ends_at_a_round_number(highest, top):
    root = parse(bar_chart("x", DAYS[:1], [CLEARED._replace(values=[highest])]))
    assert texts(root)[0] == top


@pytest.mark.parametrize(
    ("highest", "top"),
    [(0, "1.0 s"), (0.2, "1.0 s"), (45, "60 s"), (200, "5 min"), (90_000, "2880 min")],
)
def test_the_axis_of_durations_ends_at_a_round_number(highest, top):
    root = parse(line_chart("x", DAYS[:1], [TO_CLEAR._replace(values=[highest])]))
    assert texts(root)[0] == top


def test_charts_without_values_are_drawn():
    assert texts(parse(bar_chart("x", [], [])))[0] == "1"
    root = parse(bar_chart("x", DAYS, [CLEARED._replace(values=[0, None, 0])]))
    assert not [p for p in root.iter("path") if p.get("class")]
    assert parse(line_chart("x", DAYS, [TO_CLEAR._replace(values=[None] * 3)])) is not None


def test_the_table_has_all_values_and_leaves_out_labels_without_any():
    table = parse(
        data_table(
            "host_down", "Day", ["a", "b", "c"], [CLEARED._replace(values=[1, 0, 4])], [TO_CLEAR]
        )
    )
    assert table.find("caption").text == "host_down"
    assert [th.text for th in table.find("thead").iter("th")] == ["Day", "Cleared", "Time to clear"]
    assert all(th.get("scope") == "col" for th in table.find("thead").iter("th"))
    rows = [[cell.text for cell in row] for row in table.find("tbody")]
    assert rows == [["a", "1", "30 s"], ["c", "4", "4 min"]]
    assert {row[0].get("scope") for row in table.find("tbody")} == {"row"}


def test_the_legend_shows_a_sample_of_each_series():
    root = parse(legend([CLEARED, FAILED, TO_CLEAR]))
    items = ["".join(item.itertext()).strip() for item in root]
    assert items == ["Cleared", "Failed", "Time to clear"]
    assert all(svg.get("aria-hidden") == "true" for svg in root.iter("svg"))


def test_text_is_escaped():
    series = Series(HOSTILE, HOSTILE, "solid", [1])
    for markup in (
        bar_chart(HOSTILE, [HOSTILE], [series]),
        line_chart(HOSTILE, [HOSTILE], [series]),
        legend([series]),
        data_table(HOSTILE, HOSTILE, [HOSTILE], [series]),
    ):
        assert "<script>" not in markup
        assert HOSTILE in "".join(parse(markup).itertext())
