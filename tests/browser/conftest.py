"""Provide a board with a history, and pages of a Chromium that visits it.

Without Playwright or Chromium, the tests are skipped with the reason. `make browser` installs both.
"""

from __future__ import annotations

import pytest

from tests.browser import boards
from tests.browser.page_list import PAGES


@pytest.fixture(scope="session")
def chromium():
    problem = boards.find_problem()
    if problem:
        pytest.skip(problem)
    with boards.start_chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def recorded_history(chromium, tmp_path_factory):
    """Return the history. The fixture depends on Chromium, so that tests are skipped before it."""
    return boards.record_history(tmp_path_factory.mktemp("history"))


@pytest.fixture(scope="session")
def stopped_time(chromium):
    """Stop the clock of this process at the end of the history."""
    with boards.stopped_clock(boards.END):
        yield


@pytest.fixture(scope="session")
def board(recorded_history, stopped_time, tmp_path_factory):
    """Return an endpoint that shows the history. Tests must not stop it."""
    folder = tmp_path_factory.mktemp("board")
    with boards.start_board(folder, recorded_history) as running_board:
        yield running_board


@pytest.fixture
def own_board(recorded_history, stopped_time, tmp_path):
    """Return an endpoint that a test may stop or change."""
    with boards.start_board(tmp_path, recorded_history) as running_board:
        yield running_board


@pytest.fixture(scope="session")
def paths(board):
    """Return the path of each page, by name."""
    return {name: find_path(board) for name, find_path in PAGES.items()}


@pytest.fixture
def visit(chromium, board):
    """Return a function that opens the board in a new browser context.

    At the end of the test, no page may have logged an error or contacted another machine.
    """
    visits = []

    def start(on=None, **options):
        visits.append(boards.Visit(chromium, on or board, **options))
        return visits[-1]

    yield start
    for one_visit in visits:
        one_visit.close()
    assert not [problem for one_visit in visits for problem in one_visit.problems]
    assert not [url for one_visit in visits for url in one_visit.foreign_urls]
