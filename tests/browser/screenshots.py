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

from tests.browser import boards
from tests.browser.page_list import PAGES

DIRECTORY = pathlib.Path(boards.ROOT) / "docs" / "screenshots"
PICTURES = {
    "now": "now",
    "episodes": "episodes",
    "episode": "episode, did not help",
    "automation": "automation",
}
"""The pages, by the first part of the names of their pictures."""
HEIGHTS = {1440: 1000, 390: 844}
"""The height of the part of a page that is shown, by its width."""
SCHEMES = ("light", "dark")
MAX_BYTES = 200_000


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
    path = PAGES[PICTURES[name]](board)
    for width, height in HEIGHTS.items():
        for scheme in SCHEMES:
            file = directory / f"{name}-{width}-{scheme}.png"
            file.write_bytes(take_picture(browser, board, path, width, height, scheme))
            print(f"{file}: {file.stat().st_size / 1000:.0f} kB", flush=True)


def take_picture(browser, board, path, width, height, scheme):
    """Return a picture of the upper part of a page as PNG."""
    from PIL import Image

    visit = boards.Visit(
        browser,
        board,
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        reduced_motion="reduce",
    )
    visit.page.clock.set_fixed_time(boards.END)
    picture = Image.open(io.BytesIO(visit.open(path).screenshot()))
    visit.close()
    file = io.BytesIO()
    # A page has few colours, so 128 are enough.
    picture.convert("RGB").quantize(128).save(file, "PNG", optimize=True)
    assert file.tell() < MAX_BYTES, f"{path}: {file.tell()} bytes"
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main())
