"""Write screenshots of the board to docs/screenshots.

    python -m tests.browser.screenshots [--directory DIRECTORY] [PAGE ...]

The history, the clocks of the endpoint and of the browser, and so the pictures, are always the
same, except where another version of Chromium or other fonts draw them differently.
"""

from __future__ import annotations

import argparse
import io
import pathlib
import sys
import tempfile
from typing import NamedTuple

from tests.browser import boards
from tests.browser.page_list import PAGES

DIRECTORY = pathlib.Path(boards.ROOT) / "docs" / "screenshots"
PHONE = {"width": 390, "height": 844}
SCHEMES = ("light", "dark")
MAX_BYTES = 200_000


class Picture(NamedTuple):
    """A picture of the upper part of a page.

    Attributes:
        page: The name of the page.
        height: The height of the picture at a width of 1440 pixels.
    """

    page: str
    height: int


PICTURES = {
    "now": Picture("now", 1000),
    "episodes": Picture("episodes", 1000),
    "episode": Picture("episode, did not help", 1250),
    "automation": Picture("automation", 1400),
}
"""The pictures, by the first part of the names of their files."""


def main(arguments=None):
    """Write the pictures. Return the exit code."""
    parser = argparse.ArgumentParser("python -m tests.browser.screenshots", description=__doc__)
    parser.add_argument("--directory", type=pathlib.Path, default=DIRECTORY)
    parser.add_argument("pages", nargs="*", metavar="PAGE", help=", ".join(PICTURES))
    options = parser.parse_args(arguments)
    unknown_pages = set(options.pages) - set(PICTURES)
    if unknown_pages:
        parser.error(f"no such page: {', '.join(sorted(unknown_pages))}")
    problem = boards.find_problem()
    if problem:
        print(f"no screenshots: {problem}", file=sys.stderr)
        return 1
    options.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, boards.start_chromium() as browser:
        folder = pathlib.Path(temporary)
        (folder / "history").mkdir()
        recorded_history = boards.record_history(folder / "history")
        with boards.stopped_clock(boards.END), boards.start_board(
            folder, recorded_history
        ) as board:
            for name in options.pages or PICTURES:
                write_pictures(browser, board, name, options.directory)
    return 0


def write_pictures(browser, board, name, directory):
    """Write the pictures of a page."""
    path = PAGES[PICTURES[name].page](board)
    for viewport in ({"width": 1440, "height": PICTURES[name].height}, PHONE):
        for scheme in SCHEMES:
            file = directory / f"{name}-{viewport['width']}-{scheme}.png"
            file.write_bytes(take_picture(browser, board, path, viewport, scheme))
            print(f"{file}: {file.stat().st_size / 1000:.0f} kB", flush=True)


def take_picture(browser, board, path, viewport, scheme):
    """Return a picture of the upper part of a page as PNG."""
    from PIL import Image

    visit = boards.Visit(
        browser,
        board,
        viewport=viewport,
        color_scheme=scheme,
        reduced_motion="reduce",
    )
    visit.page.clock.set_fixed_time(boards.END)
    page = visit.open(path)
    page.get_by_text(" ago)").wait_for()  # the script has shown how old the page is
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    visit.close()
    file = io.BytesIO()
    # The method keeps the colours that only a few pixels have, such as those of a small sign.
    palette = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    palette.save(file, "PNG", optimize=True)
    assert file.tell() < MAX_BYTES, f"{path}: {file.tell()} bytes"
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main())
