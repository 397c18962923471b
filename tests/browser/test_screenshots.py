"""The screenshots are small, and the same each time."""

from __future__ import annotations

import pytest

from tests.browser import screenshots
from tests.browser.page_list import PAGES


def test_a_screenshot_is_the_same_each_time(chromium, board):
    picture, again = (
        screenshots.take_picture(chromium, board, PAGES["now"](board), screenshots.PHONE, "dark")
        for _ in range(2)
    )
    assert picture == again
    width, height = (int.from_bytes(picture[start : start + 4], "big") for start in (16, 20))
    assert (width, height) == (390, 844)


@pytest.mark.parametrize("name", screenshots.PICTURES)
def test_the_documents_have_each_screenshot(name):
    files = sorted(screenshots.DIRECTORY.glob(f"{name}-[0-9]*.png"))
    widths_and_schemes = [file.stem.rpartition(f"{name}-")[2] for file in files]
    assert widths_and_schemes == ["1440-dark", "1440-light", "390-dark", "390-light"]
    assert all(file.stat().st_size < screenshots.MAX_BYTES for file in files)
